"""Usage by the hour: counted, written down, read again, forgotten."""

from __future__ import annotations

import pytest

from appliance.usage import HOUR_S, KEPT_H, MOST_ROWS, OTHERS, SHOWN, Amount, Usage

DAY = 86_400.0
NOON = 20_000 * DAY + DAY / 2


class Clock:
    at = NOON

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    made = []

    def usage() -> Usage:
        made.append(Usage(tmp_path, lambda level, words: None, now=clock))
        made[-1].open()
        return made[-1]

    yield usage
    for one in made:
        one.close()


def test_what_was_counted_is_there_at_once_and_after_a_restart(make, clock):
    usage = make()
    usage.note("ann", "m", Amount(1, 0, 1, 10, 20, 0.5, 1, 0.1))
    usage.note("ann", "m", Amount(1, 1, 0, 5))
    usage.note("bob", "n", Amount(1))
    total = Amount(3, 1, 1, 15, 20, 0.5, 1, 0.1)
    assert usage.days()[-2:] == [(19_999, Amount()), (20_000, total)]
    usage.close()
    later = make()
    assert later.days()[-1] == (20_000, total) and len(later.days()) == SHOWN
    later.note("ann", "m", Amount(1))
    assert {who: amount.requests for who, amount in later.by("who").items()} == {"ann": 3, "bob": 1}
    assert list(later.by("model")) == ["m", "n"]


def test_an_hour_is_one_row_however_often_it_is_written(make, clock):
    usage = make()
    for _ in range(3):
        usage.note("ann", "m", Amount(1, completion_tokens=2))
        clock.at += 31
        usage.tick()
    usage.close()
    rows = make()._writer.do(lambda db: db.execute("SELECT hour, requests, completion_tokens FROM usage").fetchall(), 5)
    assert rows == [(int(NOON // HOUR_S), 3, 6)]


def test_days_end_at_midnight_and_old_ones_are_forgotten(make, clock):
    usage = make()
    usage.note("ann", "m", Amount(1))
    clock.at += DAY
    usage.note("ann", "m", Amount(2))
    assert [amount.requests for _, amount in usage.days()[-3:]] == [0, 1, 2]
    usage.tick()
    clock.at += SHOWN * DAY
    assert usage.by("who") == {} and not any(amount.requests for _, amount in usage.days())
    clock.at += KEPT_H * HOUR_S
    usage.note("ann", "m", Amount(4))
    usage.tick()
    assert usage._writer.do(lambda db: db.execute("SELECT requests FROM usage").fetchall(), 5) == [(4,)]
    assert len(usage._known) == 1


def test_a_crowd_of_keys_takes_no_more_memory_than_the_limit(make):
    usage = make()
    for number in range(MOST_ROWS + 50):
        usage.note(f"k{number}", "m", Amount(1))
    assert usage.by("who")[OTHERS].requests == 50
    assert usage.days()[-1][1].requests == MOST_ROWS + 50


def test_without_its_file_only_what_is_counted_now_is_known(tmp_path, clock):
    usage = Usage(tmp_path, lambda level, words: None, now=clock)
    usage.note("ann", "m", Amount(1))
    usage.tick()
    assert usage.days()[-1] == (20_000, Amount(1))
    usage.close()
