"""Looks at what may not answer for long: one at a time, so that those who watch the service cannot hold it up."""

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0
"""So long a look may take until what was found before it counts no more."""


class Glance:
    """What is wrong with something, as of the last look; whoever comes during one is told what the one before found."""

    def __init__(self, name: str, look: Callable[[], str | None]) -> None:
        """`look`: what is wrong, in a sentence; None: nothing."""
        self._name, self._look = name, look
        self._looking = threading.Lock()
        self._began_at = 0.0
        self._found: str | None = None

    def __call__(self) -> str | bool:
        """True, or what is wrong."""
        if self._looking.acquire(blocking=False):
            try:
                self._began_at = time.monotonic()
                found = self._look()
                if found is not None and found != self._found:
                    log.warning("%s", found)
                self._found = found
            finally:
                self._looking.release()
        elif (seconds := time.monotonic() - self._began_at) > PATIENCE_SECONDS:
            return f"The {self._name} has not answered for {seconds:.0f} s."
        return self._found or True
