"""Who may do what: roles in the order of what they may, and the holder of an API key."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Each may all that the ones before it may."""

    VIEWER = "viewer"
    """Looks at the jobs of its tenant."""
    SUBMITTER = "submitter"
    """Submits jobs for its tenant, and steers them."""
    OPERATOR = "operator"
    """Sees and steers the jobs of every tenant."""
    ADMIN = "admin"
    """Makes and revokes keys, and reads the audit log."""


_RANK = {role: rank for rank, role in enumerate(Role)}
DEFAULT_TENANT = "default"


@dataclass(frozen=True)
class Principal:
    """Whoever sends a request."""

    tenant: str
    role: Role
    name: str
    """Of the key, for people."""
    key: str | None
    """Prefix of the key; None on a service without keys."""

    def may(self, role: Role) -> bool:
        """Whether it may do what this role may."""
        return _RANK[self.role] >= _RANK[role]

    def sees(self, tenant: str) -> bool:
        """Whether jobs of this tenant are there for it."""
        return self.tenant == tenant or self.may(Role.OPERATOR)
