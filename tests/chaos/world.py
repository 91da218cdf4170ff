"""A service with its database, its storage and its Ray, brought up when it is needed and torn down without a trace."""

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import places
from tests.chaos.cluster import RayCluster, clustered
from tests.chaos.places import Storage
from tests.chaos.service import Service, processes_in, serving

SETTINGS = {
    "poll_seconds": "0.2",
    "lease_seconds": "3",
    "backoff_seconds": "1",
    "requests_per_minute": "0",
    "stall_seconds": "30",
    "warm_seconds": "10",
    "num_cpus": "2",
}
"""Short times, so that what takes minutes in earnest takes seconds here (but nothing that only starts slowly on a busy
machine counts as hung); two CPUs, for ranks."""


@dataclass
class World:
    """One kind of installation."""

    database: str
    """`sqlite` or `postgresql`."""
    storage: str
    """`folder` or `s3`."""
    is_cluster: bool = False
    """Whether Ray is a cluster of several nodes that is not the service's own."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What is set otherwise than in the other worlds."""
    service: Service = field(init=False)
    files: Storage = field(init=False)
    cluster: RayCluster | None = None
    _open: ExitStack | None = None
    _home: Path | None = None

    @property
    def home(self) -> Path | None:
        """The service's folder."""
        return self._home

    def __str__(self) -> str:
        return f"{self.database}, {self.storage}, {'a cluster' if self.is_cluster else 'a Ray of its own'}"

    @property
    def is_open(self) -> bool:
        return self._open is not None

    def open(self) -> None:
        """Brings it up, unless it is up."""
        if self._open is not None:
            return
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="cohort-chaos-"))
            self._home = home = folder / "home"
            rows = stack.enter_context(places.database(self.database, home))
            self.files = stack.enter_context(places.storage(self.storage, home))
            settings = SETTINGS | rows | self.files.settings | dict(self.settings)
            if self.is_cluster:
                self.cluster = stack.enter_context(clustered(home))
                settings |= self.cluster.settings
            self.service = stack.enter_context(serving(home, settings))
            self._open = stack.pop_all()

    def close(self, *, keep: bool = False) -> list[str]:
        """Tears it down; what is left of it, in words.  Its folder stays where something is left, or is to be kept."""
        if self._open is None:
            return []
        assert self._home is not None
        self._open.close()
        self._open = None
        left = [f"left over: process {line}" for line in processes_in(self._home)]
        if not left and not keep:
            shutil.rmtree(self._home.parent)
        return left
