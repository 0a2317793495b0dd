"""The audit log: whatever is changed in it is found, names can be forgotten, and what cannot be written is told."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.clock import FakeClock
from appliance.trail.entries import ACTIONS, CUT, Act, By, Wish
from appliance.trail.log import FILE, HEAD_FILE, Trail, read_head

ANN, BEN, SERVICE = By("person", "Ann", "192.0.2.7"), By("person", "Ben", "192.0.2.8"), By("service")
DOINGS = [
    (SERVICE, "service.start", "0.1.0", {}), (ANN, "session.begin", "", {}), (ANN, "key.make", "till", {}), (BEN, "settings.change", "queue_size", {"from": 1, "to": 2}),
    (By("key", "till"), "session.refuse", "", {}), (By("command", "root"), "model.add", "tiny", {"licence": "MIT"}), (ANN, "person.add", "Ben", {"role": "reviewer"}),
]  # fmt: skip


def opened(folder, now=None):
    told: list[str] = []
    trail = Trail(folder, lambda level, words: told.append(f"{level}: {words}"), now=now or FakeClock(1.7e9))
    trail.open()
    trail.told = told
    return trail


@pytest.fixture
def trail(tmp_path):
    made = opened(tmp_path)
    yield made
    made.close()


def fill(trail):
    for by, action, what, detail in DOINGS:
        trail.note(by, action, what, **detail)


def tamper(folder, *statements: str) -> None:
    """As somebody who may write the file, past our code and its triggers."""
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as conn:
        for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            conn.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            conn.execute(statement)


def test_what_was_done_is_kept_and_verified(trail, tmp_path):
    fill(trail)
    assert trail.verify() == (len(DOINGS), None)
    found = trail.search(Wish())
    assert [(entry.action, entry.object) for entry in reversed(found)] == [(action, what) for _, action, what, _ in DOINGS]
    assert [entry.by for entry in found[:3]] == ["Ann", "command (root)", "key till"]
    assert found[3].detail == {"from": 1, "to": 2} and found[3].address == "192.0.2.8" and found[3].at == 1.7e9
    assert read_head(tmp_path) == trail.head() and trail.head().number == len(DOINGS)


def test_the_hash_is_what_the_docstring_says(trail, tmp_path):
    import hashlib

    trail.note(ANN, "key.make", "till", hint="ak")
    with closing(sqlite3.connect(tmp_path / FILE)) as conn:
        words = [conn.execute("SELECT word, salt, digest FROM words WHERE word = ?", [word]).fetchone() for word in ("Ann", "192.0.2.7", "till", '{"hint":"ak"}')]
        digest = conn.execute("SELECT hash FROM entries").fetchone()[0]
    hashes = [hashlib.sha256(salt + word.encode()).hexdigest() for word, salt, _ in words]
    assert hashes == [kept.hex() for _, _, kept in words]
    text = f'[1,1,1700000000000,"person","key.make","{hashes[0]}","{hashes[1]}","{hashes[2]}","{hashes[3]}","{"0" * 64}"]'
    assert hashlib.sha256(text.encode("ascii")).digest() == digest


@pytest.mark.parametrize(
    "wish, numbers",
    [
        (Wish(who="ann"), [7, 3, 2]), (Wish(who="service"), [1]), (Wish(who="command"), [6]), (Wish(who="command root"), [6]), (Wish(who="key till"), [5]), (Wish(who="key"), [5]),
        (Wish(action="session"), [5, 2]), (Wish(action="session.begin"), [2]), (Wish(action="sess"), []), (Wish(since=1.7e9 + 3), [7, 6, 5, 4]),
        (Wish(until=1.7e9 + 2), [2, 1]), (Wish(before=3), [2, 1]), (Wish(who="Ann", action="key", since=1.7e9), [3]), (Wish(who="nobody"), []), (Wish(who="%"), []),
    ],
)  # fmt: skip
def test_entries_are_found_by_who_what_and_when(tmp_path, wish, numbers):
    clock = FakeClock(1.7e9)
    trail = opened(tmp_path, clock)
    try:
        for by, action, what, detail in DOINGS:
            trail.note(by, action, what, **detail)
            clock.advance(1)
        assert [entry.number for entry in trail.search(wish)] == numbers
        assert [entry.number for entry in trail.search(wish, 1)] == numbers[:1]
    finally:
        trail.close()


SWAP = ("UPDATE entries SET number = -1 WHERE number = 3", "UPDATE entries SET number = 3 WHERE number = 4", "UPDATE entries SET number = 4 WHERE number = -1")
COPY = "INSERT INTO entries SELECT {}, at, kind, action, who, address, object, detail, previous, hash FROM entries WHERE number = {}"


@pytest.mark.parametrize(
    "statements, number, why",
    [
        (("DELETE FROM entries WHERE number = 4",), 4, "missing"), (("DELETE FROM entries WHERE number = 1",), 1, "missing"), (SWAP, 3, "follow"),
        (("UPDATE entries SET at = at + 1 WHERE number = 4",), 4, "changed"), (("UPDATE entries SET action = 'key.make' WHERE number = 4",), 4, "changed"),
        (("UPDATE entries SET kind = 'service' WHERE number = 4",), 4, "changed"), (("UPDATE entries SET who = object WHERE number = 3",), 3, "changed"),
        (("UPDATE entries SET previous = zeroblob(32) WHERE number = 5",), 5, "follow"), (("UPDATE entries SET hash = zeroblob(32) WHERE number = 5",), 5, "changed"),
        (("UPDATE words SET word = 'Eve' WHERE word = 'Ann'",), 2, "who was changed"), (("UPDATE words SET word = NULL, salt = NULL WHERE word = 'Ann'",), 2, "no entry tells"),
        (("PRAGMA foreign_keys = OFF", "DELETE FROM words WHERE word = '192.0.2.8'"), 4, "address is missing"),
        (("UPDATE words SET word = replace(word, '2', '3') WHERE word LIKE '{\"from%'",), 4, "detail was changed"),
        (("UPDATE entries SET number = number + 100 WHERE number > 3", COPY.format(4, 3), "UPDATE entries SET number = number - 99 WHERE number > 100"), 4, "follow"),
        ((COPY.format(8, 7),), 8, "follow"), (("DELETE FROM entries WHERE number > 5",), 6, "end was cut off"), (("DELETE FROM entries",), 1, "end was cut off"),
    ],
)  # fmt: skip
def test_whatever_is_changed_past_the_program_is_found_with_its_number(tmp_path, statements, number, why):
    trail = opened(tmp_path)
    fill(trail)
    trail.close()
    tamper(tmp_path, *statements)
    trail = opened(tmp_path)
    try:
        _, fault = trail.verify()
        assert fault and fault.number == number and why in fault.why, fault
    finally:
        trail.close()


def test_an_end_that_was_cut_off_stays_found_when_the_log_goes_on(tmp_path):
    trail = opened(tmp_path)
    fill(trail)
    head = trail.head()
    trail.close()
    tamper(tmp_path, "DELETE FROM entries WHERE number > 5")
    trail = opened(tmp_path)
    try:
        trail.note(SERVICE, "service.start", "0.1.0")
        assert any("end of the audit log was missing" in words for words in trail.told)
        count, fault = trail.verify()
        assert fault and fault.number == 6 and "cut off" in fault.why and count == 5 + 0
        told = trail.search(Wish(action=CUT))[0]
        assert told.detail == {"last": 5, "number": head.number, "hash": head.hash}
        with trail._readers.reading() as db:
            from appliance.trail import entries

            assert entries.verify(db, read_head(tmp_path), first=7) == (1, None), "what came after it can be verified by itself"
    finally:
        trail.close()


def test_a_head_that_was_removed_is_told_and_stays_told(tmp_path):
    trail = opened(tmp_path)
    fill(trail)
    (tmp_path / HEAD_FILE).unlink()
    assert "file with the head is missing" in trail.verify()[1].why
    trail.close()
    trail = opened(tmp_path)
    try:
        trail.note(SERVICE, "service.start", "0.1.0")
        assert trail.verify()[1].number == len(DOINGS) + 1
    finally:
        trail.close()


def test_a_log_that_was_replaced_by_an_empty_one_is_found(tmp_path):
    trail = opened(tmp_path)
    fill(trail)
    trail.close()
    for path in tmp_path.glob(f"{FILE}*"):
        path.unlink()
    trail = opened(tmp_path)
    try:
        assert "cut off or replaced" in trail.verify()[1].why
    finally:
        trail.close()


@pytest.mark.parametrize("statement", ["UPDATE entries SET at = 0", "DELETE FROM entries", "DELETE FROM words", "UPDATE words SET word = 'Eve' WHERE word = 'Ann'", "UPDATE words SET digest = zeroblob(32), word = NULL, salt = NULL"])
def test_our_own_code_cannot_change_what_is_written(trail, statement):
    fill(trail)
    with pytest.raises(sqlite3.IntegrityError, match="only ever added to"):
        trail._writer.do(lambda db: db.execute(statement).rowcount, 5)
    assert trail.verify() == (len(DOINGS), None)


def test_two_processes_write_one_chain(trail, tmp_path):
    other = opened(tmp_path)
    try:
        for _ in range(5):
            trail.note(ANN, "cache.purge")
            other.note(By("command", "root"), "cache.rebuild")
        assert trail.verify() == other.verify() == (10, None)
        assert [entry.action for entry in trail.search(Wish())] == ["cache.rebuild", "cache.purge"] * 5
    finally:
        other.close()


def test_an_entry_that_cannot_be_written_is_told_in_the_log_and_written_later(tmp_path):
    trail = opened(tmp_path)
    try:
        trail._writer.do(lambda db: db.execute(f"PRAGMA max_page_count={db.execute('PRAGMA page_count').fetchone()[0]}").fetchone(), 5)
        trail.note(ANN, "key.revoke", "till", long="x" * 1900)
        trail.note(ANN, "key.revoke", "till 2", long="y" * 1900)
        assert any("error: The audit log could not be written" in words and "disk is full" in words and "key.revoke 'till 2' by person 'Ann'" in words for words in trail.told)
        assert trail.reason and trail.verify()[1] is None
        trail._writer.do(lambda db: db.execute("PRAGMA max_page_count=1000000").fetchone(), 5)
        trail.note(BEN, "session.end")
        assert [(entry.by, entry.action) for entry in trail.search(Wish())] == [("Ben", "session.end"), ("Ann", "key.revoke"), ("Ann", "key.revoke")]
        assert trail.verify() == (3, None) and not trail.reason
    finally:
        trail.close()


def test_the_head_is_told_once_a_day(tmp_path):
    clock = FakeClock(1.7e9)
    trail = opened(tmp_path, clock)
    try:
        trail.note(ANN, "session.begin")
        for _ in range(3):
            trail.tick()
        clock.advance(86_400)
        trail.tick()
        assert [words for words in trail.told if "ends with" in words] == [f"info: The audit log ends with 1:{trail.head().hash}"] * 2
    finally:
        trail.close()


def test_a_start_as_another_version_is_told(tmp_path):
    trail = opened(tmp_path)
    try:
        for version in ("0.1.0", "0.1.0", "0.2.0"):
            trail.started(version)
        assert [(entry.action, entry.object) for entry in reversed(trail.search(Wish()))] == [*[("service.start", "0.1.0")] * 2, ("service.start", "0.2.0"), ("service.update", "0.2.0")]
    finally:
        trail.close()


def test_an_action_that_is_none_is_refused(trail):
    with pytest.raises(ValueError, match="no action"):
        trail.note(ANN, "key.lend")
    assert ACTIONS and trail.head().number == 0


def test_a_forgotten_name_is_gone_and_the_log_still_verifies(trail, tmp_path):
    fill(trail)
    trail.note(BEN, "settings.change", "cache_exclude", to=["Ann", "till"])
    trail.note(ANN, "session.end")
    assert trail.forget(BEN, ["ann"]) == 3  # the name, her address, the detail
    assert trail.compact()
    assert trail.verify() == (len(DOINGS) + 3, None)
    shown = trail.search(Wish())
    hers = {entry.who for entry in shown if entry.action in ("session.begin", "key.make", "session.end", "person.add")}
    assert len(hers) == 1 and hers.pop().startswith("forgotten "), "her entries are still one person's"
    assert shown[0].action == "person.forget" and shown[0].by == "Ben" and shown[0].address == "192.0.2.8"
    assert trail.search(Wish(who="Ann")) == [] and len(trail.search(Wish(who=next(entry.who for entry in shown if entry.action == "key.make")))) == 4
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert b"Ann" not in data and b"192.0.2.7" not in data, path.name
        assert path.name != FILE or b"Ben" in data
    trail.note(ANN, "session.begin")
    assert trail.verify()[1] is None and trail.search(Wish(who="Ann"))[0].action == "session.begin", "a new Ann is another one"


def test_others_whose_name_has_the_forgotten_one_in_it_keep_theirs(trail):
    lee = By("person", "Ann Lee", "192.0.2.7")
    fill(trail)
    trail.note(lee, "session.begin")
    trail.note(BEN, "person.add", "Mary Ann")
    trail.note(BEN, "job.start", "job 1", title="Ann's model")
    trail.forget(BEN, ["Ann"])
    shown = trail.search(Wish())
    assert shown[1].detail == {"forgotten": True} and shown[2].object == "Mary Ann"
    assert (shown[3].who, shown[3].address) == ("Ann Lee", "192.0.2.7"), "she was seen there as well"
    assert trail.search(Wish(who="Ann")) == [] and trail.verify()[1] is None


def test_who_forgets_oneself_leaves_no_name(trail):
    fill(trail)
    trail.forget(ANN, ["Ann"])
    assert trail.search(Wish(), 1)[0].by == "somebody" and trail.verify()[1] is None


def test_many_words_are_forgotten_in_several_entries(trail):
    trail.note_all([Act(0.0, ANN, "job.start", f"job {number}", {"title": f"for Ann {number}"}) for number in range(450)])
    assert trail.forget(BEN, ["Ann"]) == 452
    assert trail.verify() == (453, None)


TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)


@settings(max_examples=12)
@given(names=st.lists(TEXT, min_size=1, max_size=4), detail=st.dictionaries(TEXT, TEXT | st.integers() | st.lists(TEXT, max_size=3), max_size=4), long=st.integers(0, 3000))
def test_any_words_can_be_noted_and_verified(tmp_path_factory, names, detail, long):
    trail = opened(tmp_path_factory.mktemp("trail"))
    try:
        for name in names:
            trail.note(By("person", name, name), "key.make", name, **{"more": detail, "long": "\x01" * long})
        assert trail.verify() == (len(names), None) and len(trail.search(Wish())) == len(names)
        json.dumps([entry.detail for entry in trail.search(Wish())])
        trail.forget(SERVICE, [name for name in names if name.strip()] or ["x"])
        assert trail.verify()[1] is None
    finally:
        trail.close()
