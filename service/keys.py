"""API keys: 256 random bits, of which the database holds only the hash.

A fast hash is enough: a random key of this length cannot be guessed, unlike a password.
"""

import hashlib
import secrets

from sqlalchemy import insert, select, update

from service.database import Database
from service.errors import CohortError, KeyNotFound
from service.records import KeyInfo
from service.tables import api_keys

_USE_IS_WRITTEN_EVERY = 60.0  # seconds: a key that is used all day does not cost a write per request


class KeyRows(Database):
    """The store's part about API keys (abstract: `Store` is what is used)."""

    def create_key(self, name: str) -> str:
        """A new key in clear text, shown this once: `cohort_<prefix>_<secret>`."""
        if not name.strip() or len(name) > 255:
            raise CohortError(f"Key name {name!r:.60}: expected 1 to 255 characters. Say who or what will use the key.")
        prefix = secrets.token_hex(5)
        key = f"cohort_{prefix}_{secrets.token_hex(32)}"
        with self.write() as connection:
            connection.execute(
                insert(api_keys).values(prefix=prefix, sha256=_hash(key), name=name, created_at=self.now())
            )
        return key

    def check_key(self, plaintext: str) -> KeyInfo | None:
        """Whose key it is; None if it is unknown or revoked."""
        with self.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.sha256 == _hash(plaintext))).mappings().first()
        if row is None or row["revoked_at"] is not None:
            return None
        if row["last_used_at"] is None or self.now() - row["last_used_at"] >= _USE_IS_WRITTEN_EVERY:
            with self.write() as connection:
                connection.execute(
                    update(api_keys).where(api_keys.c.prefix == row["prefix"]).values(last_used_at=self.now())
                )
        return KeyInfo.of(row)

    def list_keys(self) -> list[KeyInfo]:
        """All keys, revoked ones too, oldest first."""
        with self.read() as connection:
            rows = (
                connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.prefix)).mappings().all()
            )
        return [KeyInfo.of(row) for row in rows]

    def revoke_key(self, prefix: str) -> KeyInfo:
        """The key stops working at once.  Repeatable; KeyNotFound if there is none of this prefix."""
        with self.write() as connection:
            alive = (api_keys.c.prefix == prefix) & api_keys.c.revoked_at.is_(None)
            connection.execute(update(api_keys).where(alive).values(revoked_at=self.now()))
            row = connection.execute(select(api_keys).where(api_keys.c.prefix == prefix)).mappings().first()
        if row is None:
            raise KeyNotFound(f"No API key has the prefix {prefix!r:.40}. List the keys to see which there are.")
        return KeyInfo.of(row)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
