"""Leases: of several control planes on one database, one acts, and one that lost its turn can change nothing any more.

A lease is renewed by its holder and taken over by another once it has run out, by the database's clock.  Every
takeover raises its token, and whoever writes under the lease brings its token along: a holder that slept through its
time (a stopped process, a long pause) finds its writes refused (a fencing token: Kleppmann 2016, "How to do distributed
locking").
"""

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from service.database import Database
from service.errors import StaleLease
from service.tables import leases

COORDINATOR = "coordinator"


class LeaseRows(Database):
    """The store's part about leases (abstract: `Store` is what is used)."""

    def hold_lease(
        self, holder: str, seconds: float, token: int | None = None, *, name: str = COORDINATOR
    ) -> int | None:
        """Takes or renews a lease for so many seconds; its token, or None while somebody else holds it.

        Args:
            holder: who asks; a process that was started again in the place of its own predecessor asks by the same
                name, and need not wait.
            token: of the lease as this process held it last; None before the first time.
        """
        try:
            return self._hold(name, holder, seconds, token)
        except IntegrityError:  # another one was the first to ask, just now
            return self._hold(name, holder, seconds, token)

    def release_lease(self, token: int, *, name: str = COORDINATOR) -> None:
        """Lets the next one have it at once; nothing happens if somebody else holds it by now."""
        with self.write() as connection:
            held = (leases.c.name == name) & (leases.c.token == token)
            connection.execute(update(leases).where(held).values(expires_at=0.0))

    def _hold(self, name: str, holder: str, seconds: float, token: int | None) -> int | None:
        row_of = leases.c.name == name
        with self.write("hold_lease") as connection:
            now = self.clock(connection)
            row = connection.execute(select(leases).where(row_of).with_for_update()).mappings().first()
            if row is None:
                values = {"name": name, "holder": holder, "token": 1, "expires_at": now + seconds}
                connection.execute(insert(leases).values(values))
                return 1
            if row["holder"] != holder and row["expires_at"] > now:
                return None
            renewed = row["holder"] == holder and row["token"] == token
            values = {"holder": holder, "token": row["token"] + (not renewed), "expires_at": now + seconds}
            connection.execute(update(leases).where(row_of).values(values))
            return values["token"]

    def _check_fence(self, connection: Connection, fence: int | None, name: str = COORDINATOR) -> None:
        """StaleLease if the lease has another token; it cannot get one until the transaction ends."""
        if fence is None:
            return
        query = select(leases.c.token).where(leases.c.name == name).with_for_update(read=True)
        if connection.execute(query).scalar() != fence:
            raise StaleLease(f"Another process holds the lease {name!r} by now; nothing was written.")
