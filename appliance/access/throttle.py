"""How often passwords and keys may be tried: after some wrong ones of a name or from an address, the next is not looked at for a while. Pure."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

FREE = 5
"""Wrong ones in a row before the first pause."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 900.0
FORGET_S = 3600.0
MOST_KEPT = 10_000


class Throttle:
    """Counts wrong tries by any name. Thread-safe; bounded."""

    def __init__(self, now: Callable[[], float], longest_s: float = LONGEST_PAUSE_S) -> None:
        self._now, self._longest_s = now, longest_s
        self._lock = threading.Lock()
        self._tries: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def pause_s(self, *names: str) -> float:
        """Seconds until one of these may try again; 0 when all may."""
        with self._lock:
            return max(self._pause_of(name) for name in names)

    def failed(self, *names: str) -> None:
        """One more wrong try of each."""
        with self._lock:
            for name in names:
                count, at = self._tries.pop(name, (0, 0.0))
                self._tries[name] = (1 if self._now() - at > FORGET_S else count + 1, self._now())
            while len(self._tries) > MOST_KEPT:
                self._tries.popitem(last=False)

    def succeeded(self, *names: str) -> None:
        """It was the right one: the wrong ones before it are forgotten."""
        with self._lock:
            for name in names:
                self._tries.pop(name, None)

    def _pause_of(self, name: str) -> float:
        count, at = self._tries.get(name, (0, 0.0))
        if count < FREE:
            return 0.0
        pause = min(self._longest_s, FIRST_PAUSE_S * 2.0 ** min(count - FREE, 20))
        return max(0.0, at + pause - self._now())
