"""API keys, and what was done with them: 256 random bits, of which the database holds only the hash.

A fast hash is enough: a random key of this length cannot be guessed, unlike a password.
"""

import hashlib
import re
import secrets
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, or_, select, update

from service.database import Database
from service.errors import CohortError, KeyNotFound
from service.records import AuditRow, KeyInfo
from service.roles import DEFAULT_TENANT, Role
from service.tables import api_keys, audit

_USE_IS_WRITTEN_EVERY = 60.0  # seconds: a key that is used all day does not cost a write per request
_BY_HASH = select(api_keys).where(api_keys.c.sha256 == bindparam("hash"))  # put together once: every request asks it
_ENDS = ("expires_at", "revoked_at")
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class KeyRows(Database):
    """The store's part about API keys and the audit log (abstract: `Store` is what is used)."""

    def create_key(
        self,
        name: str,
        *,
        tenant: str = DEFAULT_TENANT,
        role: Role = Role.SUBMITTER,
        expires_in: float | None = None,
    ) -> str:
        """A new key in clear text, shown this once: `cohort_<prefix>_<secret>`.  `expires_in` seconds; None: never."""
        if not name.strip() or len(name) > 255 or not name.isprintable():
            raise CohortError(
                f"Key name {name!r:.60}: expected 1 to 255 printable characters. Say who or what will use the key."
            )
        if not _TENANT.fullmatch(tenant):
            raise CohortError(
                f"Tenant {tenant!r:.80}: expected 1 to 63 small letters, digits and dashes, as in `vision-team`."
            )
        if expires_in is not None and not 0 < expires_in < 10e9:
            raise CohortError(f"Key {name!r:.60}: expires in {expires_in:g} s; expected a positive number of seconds.")
        now = self.now()
        with self.write() as connection:
            ends = None if expires_in is None else now + expires_in
            return _insert_key(connection, now, name=name, tenant=tenant, role=Role(role), expires_at=ends)

    def check_key(self, plaintext: str) -> KeyInfo | None:
        """Whose key it is; None if it is unknown, expired or revoked."""
        now = self.now()
        with self.read() as connection:
            row = connection.execute(_BY_HASH, {"hash": _hash(plaintext)}).mappings().first()
        if row is None or any(row[end] is not None and row[end] <= now for end in _ENDS):
            return None
        return KeyInfo.of(row)

    def use_is_to_be_noted(self, key: KeyInfo) -> bool:
        """Whether the key's last use that is written down is long ago."""
        used = key.last_used_at
        return used is None or self.now() - used.timestamp() >= _USE_IS_WRITTEN_EVERY

    def note_use(self, key: KeyInfo) -> None:
        """Writes down that the key is in use."""
        with self.write() as connection:
            of_key = api_keys.c.prefix == key.prefix
            connection.execute(update(api_keys).where(of_key).values(last_used_at=self.now()))

    def key_works(self, prefix: str) -> bool:
        """Whether the key of this prefix is there, and neither expired nor revoked."""
        now, ends = self.now(), (api_keys.c.expires_at, api_keys.c.revoked_at)
        alive = [or_(end.is_(None), end > now) for end in ends]
        with self.read() as connection:
            found = connection.execute(select(api_keys.c.prefix).where(api_keys.c.prefix == prefix, *alive)).first()
        return found is not None

    def list_keys(self) -> list[KeyInfo]:
        """All keys, revoked ones too, oldest first."""
        with self.read() as connection:
            rows = (
                connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.prefix)).mappings().all()
            )
        return [KeyInfo.of(row) for row in rows]

    def get_key(self, prefix: str) -> KeyInfo:
        """KeyNotFound if there is none of this prefix."""
        with self.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.prefix == prefix)).mappings().first()
        if row is None:
            raise KeyNotFound(f"No API key has the prefix {prefix!r:.40}. List the keys to see which there are.")
        return KeyInfo.of(row)

    def revoke_key(self, prefix: str, *, after: float = 0.0) -> KeyInfo:
        """The key stops working at once, or after so many seconds.  Repeatable, never puts an end off; KeyNotFound."""
        with self.write() as connection:
            _end_key(connection, prefix, self.now() + after)
        return self.get_key(prefix)

    def rotate_key(self, prefix: str, *, overlap: float = 0.0) -> str:
        """A new key for the same holder, in clear text; the old one works `overlap` seconds longer.

        KeyNotFound; CohortError for a key that does not work any more.
        """
        self.get_key(prefix)
        with self.write() as connection:
            now, of_key = self.now(), api_keys.c.prefix == prefix
            old = connection.execute(select(api_keys).where(of_key).with_for_update()).mappings().one()
            if any(old[end] is not None and old[end] <= now for end in _ENDS):
                raise CohortError(
                    f"The API key {prefix} does not work any more and cannot be rotated. Create a new one."
                )
            _end_key(connection, prefix, now + overlap)
            return _insert_key(
                connection, now, **{name: old[name] for name in ("name", "tenant", "role", "expires_at")}
            )

    def add_audit(self, **values: Any) -> None:
        """Writes down what was done: the fields of `AuditRow`, without its number and time."""
        with self.write() as connection:
            connection.execute(insert(audit).values(values | {"at": self.now()}))

    def forget_audit(self, before: float) -> None:
        """Removes what was written down before then."""
        with self.write() as connection:
            connection.execute(delete(audit).where(audit.c.at < before))

    def audit_log(self, *, tenant: str | None = None, before: int | None = None, limit: int = 100) -> list[AuditRow]:
        """What was done, the newest first; `before` a number of the page before."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        query = query if tenant is None else query.where(audit.c.tenant == tenant)
        query = query if before is None else query.where(audit.c.id < before)
        with self.read() as connection:
            return [AuditRow.of(row) for row in connection.execute(query).mappings()]


def _insert_key(connection: Connection, now: float, **holder: Any) -> str:
    """A new key of this holder (columns), in clear text."""
    prefix = secrets.token_hex(5)
    key = f"cohort_{prefix}_{secrets.token_hex(32)}"
    made = {"prefix": prefix, "sha256": _hash(key), "created_at": now}
    connection.execute(insert(api_keys).values(made | holder))
    return key


def _end_key(connection: Connection, prefix: str, ends: float) -> None:
    """The key works until then, or until the end that it has already."""
    alive = (api_keys.c.prefix == prefix) & or_(api_keys.c.revoked_at.is_(None), api_keys.c.revoked_at > ends)
    connection.execute(update(api_keys).where(alive).values(revoked_at=ends))


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
