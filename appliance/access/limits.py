"""What a key may use, and what it used in the last minute. In memory: after a restart everybody begins anew. Pure.

Counted in a sliding window, not in a token bucket: "60 a minute" then holds for every minute there is, where a bucket lets twice as many
through in some, and one long answer does not put its key into debt for longer than a minute.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field

from appliance.clock import Clock, monotonic
from appliance.errors import KeyRevoked, RateLimited

WINDOW_S = 60
CHANGE = "An administrator can change that at /admin/access."


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a key; 0, None and an empty list are no limit. tokens_per_minute: of prompts and answers. at_once: requests that run. models: served
    names. expires: Unix seconds."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    at_once: int = 0
    models: tuple[str, ...] = ()
    expires: float | None = None


class Window:
    """What was counted in the last minute, by whole seconds: the memory it takes does not grow with the count."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque()  # (second, amount), the oldest first

    def add(self, amount: int, now: float) -> None:
        """Count it."""
        second = math.floor(now)
        if self._counts and self._counts[-1][0] == second:
            amount += self._counts.pop()[1]
        self._counts.append((second, amount))

    def total(self, now: float) -> int:
        """The count of the last minute."""
        while self._counts and self._gone_s(self._counts[0][0], now) <= 0:
            self._counts.popleft()
        return sum(amount for _, amount in self._counts)

    def wait_s(self, limit: int, now: float) -> float:
        """Seconds until the count is below the limit; 0 when it is."""
        left, wait = self.total(now), 0.0
        for second, amount in self._counts:
            if left < limit:
                break
            left, wait = left - amount, self._gone_s(second, now)
        return wait

    @staticmethod
    def _gone_s(second: int, now: float) -> float:
        return second + 1 + WINDOW_S - now  # what came at the end of that second must be a minute old as well


@dataclass(slots=True)
class _Used:
    requests: Window = field(default_factory=Window)
    tokens: Window = field(default_factory=Window)
    running: set[Turn] = field(default_factory=set)
    usual_s: float = 1.0
    """How long its requests take; learned."""


class Turn:
    """One running request of a key. Any thread."""

    def __init__(self, turns: Turns, who: str, began: float) -> None:
        self.who, self.began = who, began
        self._turns = turns
        self.stopped = False

    def check(self) -> None:
        """Raises KeyRevoked when the key was revoked, and what runs with it is to end."""
        if self.stopped:
            raise KeyRevoked(f"The key {self.who} was revoked, and its running answers were ended.", remedy="Your administrator hands keys out.")

    def end(self, tokens: int) -> None:
        """It is over, and took so many tokens. Safe to call again."""
        self._turns._end(self, tokens)


class Turns:
    """The requests of all keys. Thread-safe; nothing here blocks. As many counts are kept as keys were used."""

    def __init__(self, now: Clock = monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._used: dict[str, _Used] = {}

    def begin(self, who: str, limits: Limits) -> Turn:
        """A request of the key of that name begins. Raises RateLimited, which counts nothing."""
        with self._lock:
            now, used = self._now(), self._used.setdefault(who, _Used())
            sent, spent = used.requests.total(now), used.tokens.total(now)
            if limits.requests_per_minute and sent >= limits.requests_per_minute:
                raise _limited(f"The key {who} may send {limits.requests_per_minute} requests a minute, and has sent {sent}.", used.requests.wait_s(limits.requests_per_minute, now))
            if limits.tokens_per_minute and spent >= limits.tokens_per_minute:
                raise _limited(f"The key {who} may use {limits.tokens_per_minute} tokens a minute, and has used {spent}.", used.tokens.wait_s(limits.tokens_per_minute, now))
            if limits.at_once and len(used.running) >= limits.at_once:
                raise _limited(f"The key {who} may have {limits.at_once} requests running at once, and {len(used.running)} run.", used.usual_s / len(used.running))
            used.requests.add(1, now)
            turn = Turn(self, who, now)
            used.running.add(turn)
            return turn

    def headers(self, who: str, limits: Limits) -> dict[str, str]:
        """How much is left, in OpenAI's headers; reset is when all of the limit is free again: https://platform.openai.com/docs/guides/rate-limits."""
        found = {}
        with self._lock:
            now, used = self._now(), self._used.get(who, _Used())
            for what, limit, window in (("requests", limits.requests_per_minute, used.requests), ("tokens", limits.tokens_per_minute, used.tokens)):
                if limit:
                    found[f"x-ratelimit-limit-{what}"] = str(limit)
                    found[f"x-ratelimit-remaining-{what}"] = str(max(0, limit - window.total(now)))
                    found[f"x-ratelimit-reset-{what}"] = f"{math.ceil(window.wait_s(1, now))}s"
        return found

    def stop(self, who: str) -> int:
        """End what runs with the key of that name, as soon as each looks; how many there are."""
        with self._lock:
            running = self._used[who].running if who in self._used else ()
            for turn in running:
                turn.stopped = True
            return len(running)

    def _end(self, turn: Turn, tokens: int) -> None:
        with self._lock:
            now, used = self._now(), self._used[turn.who]
            if turn in used.running:
                used.running.remove(turn)
                used.usual_s += 0.2 * (now - turn.began - used.usual_s)
                if tokens:
                    used.tokens.add(tokens, now)


def _limited(message: str, wait_s: float) -> RateLimited:
    wait_s = max(1, math.ceil(wait_s))
    return RateLimited(message, remedy=f"Try again in {wait_s} s. {CHANGE}", retry_after_s=wait_s)
