"""The waiting room: bounded, fair, interactive first."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.admission import RETRY_LIMIT_S, Admission
from appliance.clock import FakeClock
from appliance.errors import QueueFull


def room(capacity: int = 1, queue_size: int = 10) -> Admission:
    """capacity 1 lets 3 in: one that runs and two so that the engine never idles."""
    return Admission(capacity, queue_size, FakeClock())


def filled(queue_size: int = 10) -> tuple[Admission, list]:
    admission = room(queue_size=queue_size)
    return admission, [admission.enter("first") for _ in range(3)]


def granted(places) -> list[bool]:
    return [place.granted.is_set() for place in places]


def test_an_empty_room_lets_in_at_once():
    admission, inside = filled()
    assert granted(inside) == [True] * 3
    assert (admission.running, admission.waiting) == (3, 0)


def test_a_full_queue_is_refused_at_once_with_the_numbers_and_a_retry_after():
    admission, _ = filled(queue_size=2)
    waiting = [admission.enter("a"), admission.enter("b")]
    with pytest.raises(QueueFull) as caught:
        admission.enter("c")
    error = caught.value
    assert error.status == 429 and "2 requests are waiting" in error.message and "queue_size" in error.message
    assert error.retry_after_s >= 1
    assert granted(waiting) == [False, False] and admission.waiting == 2


def test_without_a_queue_only_what_runs_at_once_is_let_in():
    admission, inside = filled(queue_size=0)
    with pytest.raises(QueueFull):
        admission.enter("a")
    admission.leave(inside[0])
    assert admission.enter("a").granted.is_set()


def test_who_left_makes_room_for_who_came_first():
    admission, inside = filled()
    waiting = [admission.enter("a") for _ in range(3)]
    admission.leave(inside[0])
    assert granted(waiting) == [True, False, False]


def test_interactive_work_goes_before_batch_work():
    admission, inside = filled()
    batch, person = admission.enter("a", "batch"), admission.enter("a")
    assert admission.outlook(person)[0] == 0 and admission.outlook(batch)[0] == 1
    admission.leave(inside[0])
    assert granted([batch, person]) == [False, True]


def test_a_key_with_little_running_goes_before_one_with_much():
    admission, inside = filled()
    greedy = [admission.enter("first") for _ in range(5)]
    modest = admission.enter("second")
    admission.leave(inside[0])
    assert modest.granted.is_set() and not any(granted(greedy))


def test_a_request_of_many_sequences_waits_until_it_fits_and_is_not_overtaken():
    admission, inside = filled()
    wide = admission.enter("a", units=10)
    narrow = admission.enter("a")
    for place in inside[:2]:
        admission.leave(place)
    assert granted([wide, narrow]) == [False, False]
    admission.leave(inside[2])
    assert granted([wide, narrow]) == [True, False], "alone it may be larger than the engine"
    admission.leave(wide)
    assert narrow.granted.is_set()


def test_leaving_the_queue_or_leaving_twice_is_harmless():
    admission, inside = filled()
    waiting = admission.enter("a")
    for _ in range(2):
        admission.leave(waiting)
        admission.leave(inside[0])
    assert (admission.running, admission.waiting) == (2, 0)
    assert admission.outlook(waiting)[0] == 0 and not waiting.granted.is_set()


def test_retry_after_is_learned_from_how_fast_the_line_moves():
    clock = FakeClock()
    admission = Admission(1, 100, clock)
    inside = [admission.enter("a") for _ in range(3)]
    line = [admission.enter("a") for _ in range(30)]
    for place in (inside + line)[:20]:
        clock.advance(4.0)
        admission.leave(place)
    assert admission.expected_wait_s() == pytest.approx(4.0 * (admission.waiting + 1), rel=0.1)


def test_a_quiet_night_does_not_make_retry_after_long():
    clock = FakeClock()
    admission = Admission(1, 100, clock)
    admission.leave(admission.enter("a"))
    clock.advance(8 * 3600)
    places = [admission.enter("a") for _ in range(6)]
    clock.advance(1.0)
    admission.leave(places[0])
    assert admission.expected_wait_s() <= 4


def test_retry_after_has_a_limit():
    clock = FakeClock()
    admission = Admission(1, 1000, clock)
    places = [admission.enter("a") for _ in range(500)]
    for place in places[:50]:
        clock.advance(3600)
        admission.leave(place)
    assert admission.expected_wait_s() == RETRY_LIMIT_S


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 6))
def test_whatever_happens_the_bounds_hold_and_everybody_gets_in(seed, capacity, queue_size):
    rng = random.Random(seed)
    admission = Admission(capacity, queue_size, FakeClock())
    limit = capacity + 2
    known = []
    for _ in range(60):
        if rng.random() < 0.6:
            try:
                known.append(admission.enter(rng.choice("abc"), rng.choice(["interactive", "batch"]), rng.choice([1, 1, 2, 9])))
            except QueueFull:
                assert admission.waiting >= queue_size
        elif known:
            admission.leave(known.pop(rng.randrange(len(known))))
        inside = [place for place in known if place.granted.is_set()]
        assert admission.waiting == len(known) - len(inside) <= queue_size
        assert admission.running == sum(place.units for place in inside)
        assert admission.running <= limit or len(inside) == 1
        assert inside or not known, "somebody waits for nobody"
    while known:
        ready = [place for place in known if place.granted.is_set()]
        assert ready
        admission.leave(ready[0])
        known.remove(ready[0])
    assert (admission.running, admission.waiting) == (0, 0)


def test_it_may_be_used_and_looked_at_by_many_threads():
    admission = room(capacity=4, queue_size=1000)
    problems = []

    def work() -> None:
        try:
            for _ in range(100):
                place = admission.enter(threading.current_thread().name)
                assert place.granted.wait(10)
                admission.running, admission.waiting, admission.outlook(place)[0]
                admission.leave(place)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, name=f"test-user-{n}") for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and (admission.running, admission.waiting) == (0, 0)
