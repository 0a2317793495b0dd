"""What a key may use in a minute and at once, by the clock."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access.limits import WINDOW_S, Limits, Turns, Window
from appliance.clock import FakeClock
from appliance.errors import KeyRevoked, RateLimited


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.5)


@pytest.fixture
def turns(clock) -> Turns:
    return Turns(clock)


def refusal(turns: Turns, limits: Limits, who: str = "till") -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        turns.begin(who, limits)
    return caught.value


def test_requests_a_minute_are_counted_and_come_back_when_retry_after_says(turns, clock):
    limits = Limits(requests_per_minute=3)
    for _ in range(3):
        turns.begin("till", limits).end(0)
        clock.advance(10)
    error = refusal(turns, limits)
    assert "till" in str(error) and "3 requests a minute" in str(error) and "administrator" in str(error)
    assert error.retry_after_s == 31, "the first came 30.5 s ago, and seconds are counted whole"
    clock.advance(error.retry_after_s - 1)
    refusal(turns, limits)
    clock.advance(1)
    turns.begin("till", limits)
    refusal(turns, limits)
    turns.begin("another", limits)


def test_tokens_are_counted_afterwards_and_refused_while_the_minute_is_over(turns, clock):
    limits = Limits(tokens_per_minute=100)
    first, second = turns.begin("till", limits), turns.begin("till", limits)
    first.end(99)
    first.end(99)
    turns.begin("till", limits)
    second.end(900)
    assert "has used 999" in str(refusal(turns, limits))
    clock.advance(WINDOW_S + 1)
    turns.begin("till", limits)


def test_so_many_run_at_once_and_a_place_is_free_when_one_ends(turns, clock):
    limits = Limits(at_once=2)
    first, _ = turns.begin("till", limits), turns.begin("till", limits)
    clock.advance(100)
    assert "2 requests running at once" in str(refusal(turns, limits))
    first.end(0)
    turns.begin("till", limits)
    assert refusal(turns, limits).retry_after_s > 1, "they take long, as was seen"


def test_headers_are_openais_and_only_for_limits_there_are(turns, clock):
    limits = Limits(requests_per_minute=5, tokens_per_minute=1000)
    assert turns.headers("till", Limits(at_once=1)) == {}
    assert turns.headers("till", limits)["x-ratelimit-reset-requests"] == "0s"
    turns.begin("till", limits).end(1200)
    assert turns.headers("till", limits) == {
        "x-ratelimit-limit-requests": "5", "x-ratelimit-remaining-requests": "4", "x-ratelimit-reset-requests": "61s",
        "x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "61s",
    }  # fmt: skip


def test_what_runs_with_a_revoked_key_is_told_and_nothing_else(turns):
    mine, other = turns.begin("till", Limits()), turns.begin("another", Limits())
    assert turns.stop("till") == 1 and turns.stop("nobody") == 0
    with pytest.raises(KeyRevoked, match="till was revoked"):
        mine.check()
    other.check()


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 50)), max_size=60), st.integers(1, 200))
def test_no_minute_has_more_than_the_window_says_and_waiting_is_enough(steps, limit):
    window, now, seen = Window(), 0.0, []
    for pause, amount in steps:
        now += pause
        if window.total(now) < limit:
            window.add(amount, now)
            seen.append((now, amount))
        assert window.total(now) >= sum(amount for at, amount in seen if at > now - WINDOW_S)
        later = deepcopy(window)  # what is looked at later forgets what is over by then
        assert later.total(now + window.wait_s(limit, now)) < limit
        assert len(window._counts) <= WINDOW_S + 2
