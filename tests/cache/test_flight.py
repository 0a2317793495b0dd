"""Equal requests share one generation, whoever comes, leaves, or is slow."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import wait_until

from appliance.cache.flight import Flights
from appliance.errors import EngineLost
from appliance.types import Delta, Finished, Usage, Waiting

END = Finished(0, "stop", Usage(1, 3, 0))


class Source:
    """A generation that can be held up, and counts how often it is begun and closed."""

    def __init__(self, *items) -> None:
        self.items, self.begun, self.closed = items or (Delta(0, "a"), Delta(0, "b"), END), 0, 0
        self.go = threading.Event()
        self.go.set()

    def begin(self):
        self.begun += 1
        try:
            for item in self.items:
                self.go.wait(10)
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed += 1


def test_two_share_one_and_both_get_everything():
    flights, source = Flights(), Source()
    first, a = flights.join(b"k", source.begin)
    head = next(a)
    second, b = flights.join(b"k", source.begin)
    assert (first, second) == (False, True)
    assert [head, *a] == list(b) == list(source.items)
    assert source.begun == source.closed == 1 and len(flights) == 0


def test_another_question_has_its_own():
    flights, source = Flights(), Source()
    one, two = flights.join(b"k", source.begin)[1], flights.join(b"l", source.begin)[1]
    assert list(one) == list(two) and source.begun == 2 and len(flights) == 0


def test_whoever_began_may_leave_and_the_others_go_on():
    flights, source = Flights(), Source()
    _, a = flights.join(b"k", source.begin)
    next(a)
    _, b = flights.join(b"k", source.begin)
    a.close()
    assert source.closed == 0 and list(b) == list(source.items)
    assert source.closed == 1 and len(flights) == 0


def test_when_the_last_one_leaves_the_generation_is_closed_and_the_next_one_begins_anew():
    flights, source = Flights(), Source()
    _, a = flights.join(b"k", source.begin)
    next(a)
    a.close()
    a.close()
    assert source.closed == 1 and list(a) == []
    joined, b = flights.join(b"k", source.begin)
    assert not joined and list(b) == list(source.items) and source.begun == 2


def test_a_failure_reaches_all_and_is_not_joined():
    flights, source = Flights(), Source(Delta(0, "a"), EngineLost("gone"))
    _, a = flights.join(b"k", source.begin)
    next(a)
    _, b = flights.join(b"k", source.begin)
    for seat in (a, b):
        with pytest.raises(EngineLost):
            list(seat)
    joined, c = flights.join(b"k", Source().begin)
    assert not joined
    c.close()
    assert len(flights) == 0


def test_one_who_waits_for_anothers_pull_gets_to_look_around():
    flights, source = Flights(), Source()
    source.go.clear()
    _, a = flights.join(b"k", source.begin)
    _, b = flights.join(b"k", source.begin)
    with ThreadPoolExecutor(1) as pool:
        pulled = pool.submit(next, a)
        wait_until(lambda: flights._open[b"k"]._pulling, what="the pull")
        assert isinstance(next(b), Waiting)
        source.go.set()
        assert pulled.result() == Delta(0, "a")
    assert list(a)[-1] == list(b)[-1] == END


def test_twenty_threads_get_the_same_whatever_their_pace():
    flights = Flights()
    source = Source(*[Delta(0, str(n)) for n in range(300)], END)

    def read(number: int) -> list:
        _, seat = flights.join(b"k", source.begin)
        found = []
        for event in seat:
            if not isinstance(event, Waiting):
                found.append(event)
            if number % 5 == 4 and len(found) == number:
                seat.close()
        return found

    _, kept = flights.join(b"k", source.begin)  # so that nobody finds it over
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(read, range(20)))
    assert list(kept) == list(source.items)
    for number, events in enumerate(found):
        assert events == list(source.items)[: number if number % 5 == 4 else None]
    assert source.begun == source.closed == 1 and len(flights) == 0
