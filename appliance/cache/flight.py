"""Equal requests in flight share one generation.

Nobody leads: whoever wants an event that is not there yet pulls the next one from the generation, for all of them, and one
who leaves takes nothing along. The generation is closed when the last one has left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from appliance.types import Event, Waiting

Generation = Iterator[Event | Waiting]
WAIT_S = 0.25
"""One who waits for another's pull looks around this often, so that a client that left is noticed."""


class Flights:
    """Generations by what was asked. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[bytes, _Flight] = {}

    def join(self, key: bytes, begin: Callable[[], Generation]) -> tuple[bool, Seat]:
        """(Whether it was begun for somebody else, its events from the first one on)."""
        with self._lock:
            flight = self._open.get(key)
            joined = flight is not None and flight.board()
            if not joined:
                flight = self._open[key] = _Flight(begin())
                flight.board()
        assert flight is not None
        return joined, Seat(flight, lambda: self._left(key, flight))

    def _left(self, key: bytes, flight: _Flight) -> None:
        with self._lock:
            last = flight.leave()
            if last and self._open.get(key) is flight:
                del self._open[key]
        if last:
            flight.close()

    def __len__(self) -> int:
        return len(self._open)


class Seat:
    """One participant's iterator over a generation; to be closed, or read to its end."""

    def __init__(self, flight: _Flight, left: Callable[[], None]) -> None:
        self._flight, self._left = flight, left
        self._number = 0
        self._closed = False

    def __iter__(self) -> Seat:
        return self

    def __next__(self) -> Event | Waiting:
        if self._closed:
            raise StopIteration
        try:
            event = self._flight.event(self._number)
        except BaseException:
            self.close()
            raise
        if event is None:
            self.close()
            raise StopIteration
        if not isinstance(event, Waiting):
            self._number += 1
        return event

    def close(self) -> None:
        """Leave."""
        if not self._closed:
            self._closed = True
            self._left()


class _Flight:
    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._changed = threading.Condition()
        self._pulling = False
        self._events: list[Event] = []
        self._over = False
        self._error: BaseException | None = None
        self._seats = 0

    def board(self) -> bool:
        """One more wants it; False when it has failed, or everybody has left."""
        with self._changed:
            if self._error or (self._over and not self._seats):
                return False
            self._seats += 1
            return True

    def leave(self) -> bool:
        """One less; True when it was the last one, who must close it."""
        with self._changed:
            self._seats -= 1
            self._over = self._over or not self._seats
            return not self._seats

    def close(self) -> None:
        """End the generation. For the last one only: nobody pulls any more."""
        close = getattr(self._generation, "close", None)
        if close:
            close()

    def event(self, number: int) -> Event | Waiting | None:
        """The event of that number, pulled if need be; Waiting where it takes longer, None after the last one. Raises what the
        generation raised."""
        with self._changed:
            if self._pulling and number >= len(self._events):
                self._changed.wait(WAIT_S)
            if number < len(self._events):
                return self._events[number]
            if self._error:
                raise self._error
            if self._over:
                return None
            if self._pulling:
                return Waiting()
            self._pulling = True
        return self._pull()

    def _pull(self) -> Event | Waiting | None:
        event, error = None, None
        try:
            event = next(self._generation, None)
        except BaseException as raised:
            error = raised
        with self._changed:
            self._pulling = False
            self._error = error
            if event is None:
                self._over = True
            elif not isinstance(event, Waiting):
                self._events.append(event)
            self._changed.notify_all()
        if error:
            raise error
        return event
