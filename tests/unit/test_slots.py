"""Slots and the prefix store: whose space is whose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.slots import PrefixStore, Slots, common_prefix, token_array

TOKENS = st.lists(st.integers(0, 2), max_size=12).map(token_array)


@given(TOKENS, TOKENS)
def test_common_prefix_counts_leading_equals(a, b):
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1
    assert common_prefix(a, b) == common_prefix(b, a) == expected


@given(st.integers(0, 3000), st.integers(1, 50))
def test_common_prefix_finds_the_first_difference_of_long_prompts(at, more):
    a = token_array([7] * (at + more))
    b = token_array(a)
    b[at] = 8
    assert common_prefix(a, b) == at


@given(st.lists(st.tuples(TOKENS.filter(len), st.integers(0, 40)), max_size=20), st.integers(0, 100))
def test_the_store_never_exceeds_its_limit_and_never_keeps_what_another_covers(puts, limit):
    store = PrefixStore(limit)
    for tokens, size in puts:
        if not store.covers(tokens):  # as the loop does
            store.put(tokens, b"x", size)
        store.check_integrity()
        kept = [entry.tokens for entry in store._entries.values()]
        for one in kept:
            assert sum(common_prefix(one, other) == len(one) for other in kept) == 1
    assert store.used_bytes <= limit


def test_the_store_forgets_the_least_recently_used():
    store = PrefixStore(20)
    store.put(token_array([1, 1]), "one", 10)
    store.put(token_array([2, 2]), "two", 10)
    assert store.best(token_array([1, 1, 5]))[1].snapshot == "one"
    store.put(token_array([3, 3]), "three", 10)
    assert store.best(token_array([2, 2])) == (0, None)
    assert store.best(token_array([1, 1]))[0] == 2


def test_what_is_too_large_alone_is_not_kept_and_costs_nobody_a_place():
    store = PrefixStore(20)
    store.put(token_array([1]), "one", 10)
    store.put(token_array([2]), "two", 21)
    assert len(store) == 1


def test_a_store_without_space_keeps_nothing():
    store = PrefixStore(0)
    store.put(token_array([1]), "one", 1)
    assert len(store) == 0


def test_a_stored_copy_does_not_change_with_the_slot():
    store, tokens = PrefixStore(10), token_array([1, 2, 3])
    store.put(tokens, "x", 1)
    del tokens[1:]
    assert store.best(token_array([1, 2, 3]))[0] == 3


def slots_with(*held: list[int], total: int = 100) -> Slots:
    slots = Slots(len(held), 50, total)
    for slot, tokens in zip(slots, held, strict=True):
        slot.tokens = token_array(tokens)
    return slots


def test_the_longest_match_wins_and_an_idle_slot_wins_a_tie():
    slots = slots_with([1, 2], [1, 2, 3], [1, 2, 3])
    slots.take(slots.all[1], "busy")
    assert slots.best_match(token_array([1, 2, 3, 4])) == (3, slots.all[2])
    assert slots.best_match(token_array([9])) == (0, None)


def test_a_free_slot_is_chosen_before_a_cached_one_and_then_the_longest_unused():
    slots = slots_with([1], [], [2])
    assert slots.choose_empty(False) is slots.all[1]
    slots.take(slots.all[1], "a")
    slots.take(slots.all[0], "b")
    slots.release(slots.all[0], keep=True)
    assert slots.choose_empty(False) is slots.all[2]
    slots.take(slots.all[2], "c")
    slots.take(slots.all[0], "d")
    assert slots.choose_empty(False) is None


def test_a_neighbour_of_the_active_ones_is_preferred_where_that_matters():
    slots = slots_with([], [1], [])
    slots.take(slots.all[0], "a")
    assert slots.choose_empty(True) is slots.all[1]
    assert slots.choose_empty(False) is slots.all[2]


def test_released_tokens_stay_as_cached_ones_or_go():
    slots = slots_with([1, 2, 3], [4, 5])
    for slot in slots:
        slots.take(slot, f"r{slot.seq}")
    assert (slots.used_tokens, slots.cached_tokens, slots.free_tokens) == (5, 0, 95)
    for slot, keep in zip(slots, (True, False), strict=True):
        slots.release(slot, keep)
    assert (slots.used_tokens, slots.cached_tokens, slots.free_tokens) == (0, 3, 97)
    assert [s.state for s in slots] == ["cached", "free"]
    slots.check_integrity()


def test_the_oldest_cached_slot_is_evicted_first():
    slots = slots_with([1], [2], [3])
    for number in (2, 0, 1):
        slots.take(slots.all[number], str(number))
        slots.release(slots.all[number], keep=True)
    assert slots.oldest_cached() is slots.all[2]
    assert slots.oldest_cached(besides=slots.all[2]) is slots.all[0]
    assert slots_with([], []).oldest_cached() is None


@pytest.mark.parametrize("spoil", ["overdrawn", "too long", "two owners"])
def test_wrong_books_are_noticed(spoil):
    slots = slots_with([], [], total=60)
    if spoil == "overdrawn":
        slots.all[0].tokens = slots.all[1].tokens = token_array([1] * 40)
    elif spoil == "too long":
        slots.all[0].tokens = token_array([1] * 51)
    else:
        slots.take(slots.all[0], "same")
        slots.take(slots.all[1], "same")
    with pytest.raises(AssertionError):
        slots.check_integrity()
