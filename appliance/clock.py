"""The one place that reads time. Code that needs time takes a `Clock`, tests hand it a `FakeClock`."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds that only grow; good for durations, not for dates."""

monotonic: Clock = time.monotonic


def unix_seconds() -> int:
    """Whole seconds since 1970, for the `created` fields of the API."""
    return int(time.time())


def utc_date(unix: float) -> str:
    """The day of a time in Unix seconds, such as 2026-03-01."""
    return time.strftime("%Y-%m-%d", time.gmtime(unix))


class FakeClock:
    """A clock that stands still until it is told to move. Seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds`."""
        self.now += seconds
