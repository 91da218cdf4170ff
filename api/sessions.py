"""Who looks at the pages: an API key that was given once, in a form, and is remembered by a signed cookie.

The cookie names the key and holds none: it is HttpOnly, SameSite=Strict, ends after `session_hours`, and dies with the
key.  Wherever something is changed, the form brings a token that only our own pages could show to this session, and the
browser says that it comes from here.
"""

import secrets
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import Request, Response
from itsdangerous import BadData, URLSafeSerializer

from api.problems import ForeignOrigin
from service.errors import DatabaseUnavailable, KeyNotFound
from service.links import signer
from service.records import KeyInfo
from service.roles import Principal
from service.settings import Settings
from service.store import Store

COOKIE = "cohort_session"


@dataclass(frozen=True)
class Session:
    """A key, as a browser is known by it."""

    id: str
    """Random: it tells two sessions of one key apart."""
    principal: Principal


class Sessions:
    """Begins sessions and knows them again."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def begin(self, key: str, request: Request, response: Response) -> Principal | None:
        """Sets the cookie for a good key, and says whose it is; None for any other."""
        info = self._store.check_key(key)
        if info is None:
            return None
        with suppress(DatabaseUnavailable):  # a database whose disk is full can still be read
            self._store.note_use(info)
        seconds = self._settings.session_hours * 3600
        value = self._signer("cohort session").dumps([secrets.token_hex(16), info.prefix, self._store.now() + seconds])
        assert isinstance(value, str)
        is_secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, value, int(seconds), httponly=True, samesite="strict", secure=is_secure)
        return _principal(info)

    def end(self, response: Response) -> None:
        """Takes the cookie back."""
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")

    def read(self, request: Request) -> Session | None:
        """The session of a request; None without one, once it has ended, and once its key has."""
        try:
            id, prefix, until = self._signer("cohort session").loads(request.cookies.get(COOKIE, ""))
        except BadData:
            return None
        if self._store.now() >= until or not self._store.key_works(prefix):
            return None
        try:
            info = self._store.get_key(prefix)
        except KeyNotFound:
            return None
        return Session(id, _principal(info))

    def token(self, session_id: str) -> str:
        """What a form of this session must bring; the empty id stands for a service without keys."""
        token = self._signer("cohort form").dumps(session_id)
        assert isinstance(token, str)
        return token

    def check_form(self, request: Request, session_id: str, token: str) -> None:
        """ForeignOrigin unless the form was on a page of ours, shown to this session."""
        check_same_site(request)
        if not secrets.compare_digest(token.encode(), self.token(session_id).encode()):
            raise ForeignOrigin("This form belongs to another session. Go back, load the page again, and send it anew.")

    def _signer(self, salt: str) -> URLSafeSerializer:
        return signer(self._settings, salt)


def _principal(info: KeyInfo) -> Principal:
    return Principal(info.tenant, info.role, info.name, info.prefix)


def check_same_site(request: Request) -> None:
    """ForeignOrigin for a request that a page of another site made."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if site != "same-origin" if site is not None else foreign:
        raise ForeignOrigin(
            f"The form was sent by a page of {origin or 'another site'!r:.100}. Send it from a page of this service; a "
            "proxy before it has to pass the Host header on."
        )
