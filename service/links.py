"""Links to a single file of a job, good without a key until they end.

A link says which file, until when, and which key made it, under a signature that only this service can make; nothing of
it is kept.  It dies early with the job, and with the key that made it.
"""

import hashlib
from dataclasses import dataclass

from itsdangerous import BadData, URLSafeSerializer

from service.errors import JobNotFound
from service.private_files import private_secret
from service.settings import Settings
from service.store import Store


@dataclass(frozen=True)
class Grant:
    """What a good link lets its bearer fetch."""

    job_id: str
    path: str
    key: str | None
    """Prefix of the key that made it; None on a service without keys."""


class Links:
    """Makes links and reads them."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def sign(self, grant: Grant, *, until: float) -> str:
        """A token for a link, good until a time in Unix seconds."""
        return self._signer().dumps([grant.job_id, grant.path, grant.key, until])

    def read(self, token: str) -> Grant | None:
        """What a token grants; None if it was not made here, has ended, or its job or key has."""
        try:
            job_id, path, key, until = self._signer().loads(token)
        except BadData:
            return None
        if self._store.now() >= until or (key is not None and not self._store.key_works(key)):
            return None
        try:
            deleted = self._store.get_job(job_id).deleted_at is not None
        except JobNotFound:
            return None
        return None if deleted else Grant(job_id, path, key)

    def _signer(self) -> URLSafeSerializer:
        return signer(self._settings, "cohort link")


def signer(settings: Settings, salt: str) -> URLSafeSerializer:
    """Signs what this service hands out and wants to know again; what has another `salt` is not mistaken for it."""
    given = settings.link_secret
    secret = private_secret(settings.home / "link_secret") if given is None else given.get_secret_value()
    kwargs = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
    return URLSafeSerializer(secret, salt=salt, signer_kwargs=kwargs)
