"""Where the service of a home folder answers, and the key to it: what `cohort up` leaves for the other commands.

The file is readable by its owner alone.  It stays when the service stops, so that the key lives on.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel

from service.private_files import write_private

_FILE = "connection.json"


class Connection(BaseModel):
    """One service."""

    url: str
    key: str | None = None
    """Its API key; None where it asks for none."""
    dashboard: str | None = None
    """Ray's dashboard."""
    pid: int = 0
    """The process that serves."""

    def write(self, home: Path) -> Path:
        write_private(home / _FILE, self.model_dump_json(indent=1))
        return home / _FILE

    @classmethod
    def read(cls, home: Path) -> Self | None:
        """None where no service has been started in this home."""
        path = home / _FILE
        return cls.model_validate_json(path.read_text()) if path.is_file() else None

    @classmethod
    def find(cls, home: Path, url: str | None, key: str | None) -> Self:
        """The service to talk to: what was given, else the one of the home folder.  ValueError if there is neither."""
        known = cls.read(home)
        if url is not None:
            # the key of the home's service is nobody else's: it goes nowhere but there
            same = known is not None and known.url.rstrip("/") == url.rstrip("/")
            return cls(url=url, key=key or (known.key if same and known else None))
        if known is None:
            raise ValueError(
                f"No service was started in {home}. Run `cohort up` there, or name one with --url (or COHORT_URL)."
            )
        return known if key is None else known.model_copy(update={"key": key})
