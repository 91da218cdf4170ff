"""How often a key may ask: a moving window of a minute, counted by every control plane for itself."""

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter


class RequestLimiter:
    """Counts requests by key."""

    def __init__(self, per_minute: int) -> None:
        """`per_minute` 0: no limit."""
        self._window = MovingWindowRateLimiter(MemoryStorage())
        self._limit = RateLimitItemPerMinute(per_minute) if per_minute else None

    def seconds_to_wait(self, key: str) -> int:
        """Counts a request; 0 if it may pass, else after how many seconds another may."""
        if self._limit is None or self._window.hit(self._limit, key):
            return 0
        reset = self._window.get_window_stats(self._limit, key).reset_time
        return max(1, math.ceil(reset - time.time()))
