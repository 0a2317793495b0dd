"""Who may start now: a bounded waiting room before each engine, fair between keys, interactive work before batch.

An engine is given a little more than it can run at once, so that it never idles between two requests; everything else
waits here, where it can be ordered, refused and forgotten cheaply. `enter` refuses at once when the room is full, with
a Retry-After computed from how fast sequences have been leaving.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import dataclass, field

from appliance.clock import Clock, monotonic
from appliance.errors import QueueFull
from appliance.types import Priority

RETRY_LIMIT_S = 600.0


@dataclass(slots=True, eq=False)
class Place:
    """One request's place in line. units: sequences it will run. Wait on `granted`."""

    principal: str
    priority: Priority
    units: int
    arrival: int
    granted: threading.Event = field(default_factory=threading.Event)


class Admission:
    """The waiting room of one engine. Thread-safe; nothing here blocks.

    capacity: sequences the engine runs at once. queue_size: requests that may wait.
    """

    def __init__(self, capacity: int, queue_size: int, clock: Clock = monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._limit = capacity + max(2, capacity // 4)
        self.queue_size = queue_size
        self._waiting: list[Place] = []
        self._inside: set[Place] = set()
        self._arrivals = 0
        self._last_leave: float | None = None
        self._held = False
        self._unit_s = 1.0  # seconds between two sequences leaving, while others wait; learned

    @property
    def waiting(self) -> int:
        """Requests in line."""
        with self._lock:
            return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences let in and not yet left."""
        with self._lock:
            return self._running()

    def enter(self, principal: str, priority: Priority = "interactive", units: int = 1) -> Place:
        """Take a place; it may be granted at once. Raises QueueFull when the room is full."""
        with self._lock:
            self._arrivals += 1
            place = Place(principal, priority, units, self._arrivals)
            self._waiting.append(place)
            self._let_in()
            if place in self._waiting and len(self._waiting) > self.queue_size:
                self._waiting.remove(place)
                wait_s = self._expected_wait_s()
                raise QueueFull(
                    f"{len(self._waiting)} requests are waiting already, the limit is {self.queue_size} (queue_size).",
                    remedy=f"Try again in about {wait_s:.0f} s.",
                    retry_after_s=wait_s,
                )
            if len(self._waiting) == 1 and place in self._waiting:
                self._last_leave = self._clock()  # time without a line says nothing about how fast it moves
            return place

    def leave(self, place: Place) -> None:
        """The request is over, or its client left while it waited."""
        with self._lock:
            if place in self._waiting:
                self._waiting.remove(place)
            elif place in self._inside:
                self._inside.remove(place)
                self._learn(place.units)
            self._let_in()

    def hold(self) -> None:
        """Let nobody in until `go_on`: the engine is about to be started anew."""
        with self._lock:
            self._held = True

    def go_on(self) -> None:
        """Let in again who waits."""
        with self._lock:
            self._held = False
            self._let_in()

    def outlook(self, place: Place) -> tuple[int, float]:
        """(how many would be let in before this one, about how many seconds it will wait)."""
        with self._lock:
            before = [p for p in self._waiting if self._rank(p) < self._rank(place)] if place in self._waiting else []
            return len(before), min(RETRY_LIMIT_S, (sum(p.units for p in before) + place.units) * self._unit_s)

    def expected_wait_s(self) -> float:
        """Seconds a request arriving now would wait, from what was seen lately."""
        with self._lock:
            return self._expected_wait_s()

    def _expected_wait_s(self) -> float:
        units = sum(p.units for p in self._waiting) + 1
        return min(RETRY_LIMIT_S, max(1.0, math.ceil(units * self._unit_s)))

    def _learn(self, units: int) -> None:
        now = self._clock()
        if self._waiting and self._last_leave is not None:
            interval = min(RETRY_LIMIT_S, (now - self._last_leave) / units)
            self._unit_s += 0.2 * (interval - self._unit_s)
        self._last_leave = now

    def _running(self) -> int:
        return sum(p.units for p in self._inside)

    def _let_in(self) -> None:
        while self._waiting and self._running() < self._limit and not self._held:
            best = min(self._waiting, key=self._rank)
            # A request with many sequences waits for room unless nothing else runs: it must not push others out.
            if self._inside and self._running() + best.units > self._limit:
                break
            self._waiting.remove(best)
            self._inside.add(best)
            best.granted.set()

    def _rank(self, place: Place) -> tuple:
        """Interactive first; then whoever has least running; then who came first."""
        held = Counter[str]()
        for other in self._inside:
            held[other.principal] += other.units
        return (place.priority != "interactive", held[place.principal], place.arrival)
