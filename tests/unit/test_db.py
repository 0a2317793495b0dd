"""Database files that are written by one thread, read by many, and meet everything that happens to files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import pytest
from fakes import python, wait_until

from appliance.db.connection import Readers, open_for_reading, open_for_writing
from appliance.db.migrations import Migration, Schema, migrate
from appliance.db.writer import BATCH_MAX, Health, Writer
from appliance.errors import Draining, StorageFailed

FIRST = Migration("001 notes", "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);")
SECOND = Migration("002 stars", lambda db: db["notes"].add_column("stars", int, not_null_default=0))
THIRD = Migration(
    "003 tags",
    "CREATE TABLE tags (note INTEGER NOT NULL REFERENCES notes(id) ON DELETE CASCADE, tag TEXT);"
    "CREATE INDEX tags_note ON tags(note)",
)
NOTES = Schema("notes", [FIRST, SECOND, THIRD])
OK = Health("ok")
WAIT_S = 20.0
NOON = 1767268800  # 2026-01-01T12:00:00Z


def add(text: str):
    """A work that inserts a row."""
    return lambda db: db["notes"].insert({"text": text}).last_pk


def texts(db) -> list[str]:
    """All rows."""
    return [row[0] for row in db.execute("SELECT text FROM notes ORDER BY id")]


def look(path: Path) -> list[str]:
    """All rows, as another program sees them, and that the file is whole."""
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return texts(conn)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


class Kept:
    """A writer and what it has said and done."""

    def __init__(self, path: Path, **how) -> None:
        self.lines: list[tuple[str, str]] = []
        self.renewals: list[str] = []
        self.how = dict(precious=False, busy_timeout_s=WAIT_S, now=lambda: NOON) | how
        schema = self.how.pop("schema", NOTES)
        self.writer = Writer(
            path, schema, log=lambda *line: self.lines.append(line),
            renewed=lambda: self.renewals.append(threading.current_thread().name), **self.how,
        )  # fmt: skip

    def add(self, *words: str) -> None:
        for word in words:
            self.writer.do(add(word), WAIT_S)

    @property
    def texts(self) -> list[str]:
        return self.writer.do(texts, WAIT_S)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "db" / "notes.db"


@pytest.fixture
def keep(path):
    """Opens writers, which are closed after the test."""
    opened: list[Kept] = []

    def start(where: Path = path, **how) -> Kept:
        opened.append(Kept(where, **how))
        return opened[-1]

    yield start
    for kept in opened:
        kept.writer.close()


@pytest.fixture(autouse=True)
def no_file_stays_open(tmp_path):
    yield
    held = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            continue  # the descriptor of this very listing
    assert not [name for name in held if name.startswith(str(tmp_path))]


def held_up(writer: Writer) -> threading.Event:
    """Keep the writing thread busy until the event is set, so that works gather."""
    begun, go = threading.Event(), threading.Event()
    writer.submit(lambda db: (begun.set(), go.wait(WAIT_S))[1])
    assert begun.wait(WAIT_S)
    return go


# -- connections


def test_a_new_file_is_its_owners_alone_and_set_up_as_promised(tmp_path):
    for precious, synchronous in ((True, 2), (False, 1)):
        path = tmp_path / f"{precious}?#%.db"
        with closing(open_for_writing(path, precious)) as db:
            db["t"].insert({"x": 1})
            pragma = {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode", "foreign_keys", "auto_vacuum", "temp_store")}
            assert pragma == {"synchronous": synchronous, "journal_mode": "wal", "foreign_keys": 1, "auto_vacuum": 2, "temp_store": 2}
            assert {mode(file) for file in tmp_path.iterdir()} == {0o600}
        path.chmod(0o644)
        open_for_writing(path, precious).close()
        assert mode(path) == 0o600


def test_a_reader_can_change_nothing(path, keep):
    keep().add("one")
    with closing(open_for_reading(path)) as db:
        for sql in ("INSERT INTO notes (text) VALUES ('x')", "CREATE TEMP TABLE t (x)", "PRAGMA user_version=3"):
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                db.execute(sql)
        assert texts(db) == ["one"]


def test_each_thread_has_a_reader_of_its_own_and_all_are_closed(path, keep):
    keep().add("one")
    readers = Readers(path)
    together, seen = threading.Barrier(5), []

    def read():
        with readers.reading() as db, readers.reading() as again:
            assert again is db
            seen.append((id(db), texts(db)))
            together.wait(WAIT_S)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    with readers.reading() as db:
        together.wait(WAIT_S)
        for thread in threads:
            thread.join()
        assert len({number for number, _ in seen} | {id(db)}) == 5 and all(rows == ["one"] for _, rows in seen)
        readers.close()
        assert texts(db) == ["one"], "a connection in use is left to its thread"
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        texts(db)
    with pytest.raises(Draining), readers.reading():
        pass


def test_readers_of_threads_that_ended_are_closed(path, keep):
    keep().add("one")
    readers = Readers(path)

    def read():
        with readers.reading() as db:
            assert texts(db) == ["one"]

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert len(os.listdir("/proc/self/fd")) <= before + 6
    readers.close()


def test_what_is_read_within_a_block_is_one_state(path, keep):
    kept = keep()
    kept.add("one")
    readers = Readers(path)
    with readers.reading() as db:
        assert texts(db) == ["one"]
        kept.add("two")
        assert texts(db) == ["one"]
    with readers.reading() as db:
        assert texts(db) == ["one", "two"]
    readers.close()


def test_readers_notice_that_the_file_was_replaced(path, keep):
    kept = keep()
    kept.add("old")
    readers = Readers(path)
    with readers.reading() as db:
        assert texts(db) == ["old"]
    path.unlink()
    with pytest.raises(StorageFailed, match="cannot be opened"), readers.reading():
        pass
    kept.add("new")
    with readers.reading() as db:
        assert texts(db) == ["new"]
    readers.close()


def test_a_reader_that_meets_damage_says_so_and_the_writer_replaces_the_file(path, keep):
    kept = keep()
    kept.writer.do(lambda db: db["notes"].insert_all({"text": f"{i} " + "x" * 2000} for i in range(100)) and None, WAIT_S)
    kept.writer.checkpoint().result(WAIT_S)
    readers = Readers(path, damaged=kept.writer.check)
    stamp = path.stat()
    scribble(path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # else the writer sees by itself that somebody wrote
    with pytest.raises(StorageFailed, match="damaged") as caught, readers.reading() as db:
        texts(db)
    assert "replaced by an empty one" in caught.value.remedy
    wait_until(lambda: kept.renewals)
    with readers.reading() as db:
        assert texts(db) == []
    with pytest.raises(sqlite3.OperationalError, match="no such table"), readers.reading() as db:
        db.execute("SELECT * FROM absent")
    readers.close()


def test_readers_are_served_while_the_writer_writes(path, keep):
    kept = keep()
    readers, stop, counts, wrong = Readers(path), threading.Event(), [], []

    def read():
        last = 0
        try:
            while not stop.is_set():
                with readers.reading() as db:
                    count, top = db.execute("SELECT count(*), coalesce(max(id), 0) FROM notes").fetchone()
                if count != top or count < last:
                    wrong.append((count, top, last))
                last = count
            counts.append(last)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for future in [kept.writer.submit(add(str(i))) for i in range(400)]:
        future.result(WAIT_S)
    stop.set()
    for thread in threads:
        thread.join()
    readers.close()
    assert not wrong and len(counts) == 4


# -- schemas


def test_a_file_of_the_oldest_schema_is_brought_up_to_date(path, keep):
    keep(schema=Schema("notes", [FIRST])).add("old")
    for _ in range(2):
        kept = keep()
        assert kept.writer.do(lambda db: db.execute("SELECT text, stars FROM notes").fetchall(), WAIT_S) == [("old", 0)]
        assert kept.writer.do(lambda db: db["tags"].exists(), WAIT_S)


def test_steps_are_made_once_and_named(tmp_path):
    with closing(open_for_writing(tmp_path / "a.db", True)) as db:
        assert migrate(db, NOTES, tmp_path / "a.db", precious=True) == ["001 notes", "002 stars", "003 tags"]
        assert migrate(db, NOTES, tmp_path / "a.db", precious=True) == []


@pytest.mark.parametrize("precious", [True, False])
def test_a_file_of_a_newer_version_is_refused_and_left_alone(path, keep, precious):
    kept = keep(precious=precious)
    kept.add("kept")
    kept.writer.close()
    before = path.read_bytes()
    with pytest.raises(StorageFailed, match="newer version of this program: it has had the step 003 tags") as caught:
        keep(precious=precious, schema=Schema("notes", [FIRST, SECOND]))
    assert "Install that version again" in caught.value.remedy
    assert path.read_bytes() == before and not kept.renewals


def test_files_of_others_are_refused(path, keep):
    keep().writer.close()
    with pytest.raises(StorageFailed, match="another line of versions"):
        keep(schema=Schema("notes", [FIRST, THIRD, SECOND]))
    with pytest.raises(StorageFailed, match="belongs to something else: it has a table"):
        keep(schema=Schema("other", [FIRST]))


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE half (x); INSERT INTO absent VALUES (1);",
        "CREATE TABLE half (x); COMMIT; CREATE TABLE more (x);",
        lambda db: (db["half"].insert({"x": 1}), db.conn.commit()),
        lambda db: (db["half"].insert({"x": 1}), 1 / 0),
        lambda db: (db["half"].insert({"x": 1}), db.execute("DELETE FROM notes")),  # leaves a tag without its note
    ],
)
def test_a_step_that_fails_leaves_nothing(path, keep, change):
    kept = keep(precious=True)
    kept.add("one")
    kept.writer.do(lambda db: db["tags"].insert({"note": 1, "tag": "t"}) and None, WAIT_S)
    kept.writer.close()
    with pytest.raises(StorageFailed, match="step 005 bad failed") as caught:
        keep(precious=True, schema=Schema("notes", [*NOTES.migrations, Migration("004 good", "CREATE TABLE good (x)"), Migration("005 bad", change)]))
    assert "as it was before" in str(caught.value)
    with closing(sqlite3.connect(path)) as conn:
        tables = {row[0] for row in conn.execute("SELECT name FROM sqlite_schema WHERE type='table'")}
    assert tables >= {"notes", "tags", "good"} and not tables & {"half", "more"}
    assert look(path) == ["one"]


def test_changing_a_table_keeps_the_rows_that_point_to_it(path, keep):
    kept = keep(precious=True)
    kept.add("one")
    kept.writer.do(lambda db: db["tags"].insert({"note": 1, "tag": "t"}) and None, WAIT_S)
    kept.writer.close()
    kept = keep(precious=True, schema=Schema("notes", [*NOTES.migrations, Migration("004 rename", lambda db: db["notes"].transform(rename={"stars": "likes"}))]))
    assert kept.writer.do(lambda db: db.execute("SELECT tag, likes FROM tags JOIN notes ON note = id").fetchall(), WAIT_S) == [("t", 0)]
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        kept.writer.do(lambda db: db["tags"].insert({"note": 99, "tag": "t"}), WAIT_S)


# -- works


@pytest.mark.parametrize("precious", [True, False])
def test_twenty_threads_write_at_once(path, keep, precious):
    kept = keep(precious=precious, queue_max=100_000)
    ids: list[int] = []

    def write(name: int):
        futures = [kept.writer.submit(add(f"{name}:{i}")) for i in range(50)]
        ids.extend(future.result(WAIT_S) for future in futures)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids) == list(range(1, 1001))
    found = look(path)
    assert len(found) == 1000 and all([t for t in found if t.startswith(f"{n}:")] == [f"{n}:{i}" for i in range(50)] for n in range(20))
    assert kept.writer.health == OK and not kept.lines


def test_works_that_wait_are_committed_together_and_nothing_is_answered_before(path, keep):
    kept = keep()
    go = held_up(kept.writer)
    commits: list[str] = []
    kept.writer.submit(lambda db: db.conn.set_trace_callback(commits.append))
    futures = [kept.writer.submit(add(str(i))) for i in range(BATCH_MAX + 5)]
    seen: list[bool] = []
    kept.writer.submit(lambda db: seen.append(any(future.done() for future in futures[BATCH_MAX:])))
    assert not any(future.done() for future in futures)
    go.set()
    for future in futures:
        future.result(WAIT_S)
    kept.writer.do(lambda db: db.conn.set_trace_callback(None), WAIT_S)
    assert sum(sql.startswith("BEGIN") for sql in commits) <= 3
    assert seen == [False]


def test_a_work_that_fails_fails_alone(path, keep):
    kept = keep()
    kept.add("taken")
    go = held_up(kept.writer)

    def half(db):
        db["notes"].insert({"text": "half"})
        raise ValueError("mine")

    def leave(db):
        db["notes"].insert({"text": "left"})
        sys.exit(3)

    def swallow(db):
        for sql in ("INSERT INTO absent VALUES (1)", "COMMIT", "ROLLBACK"):
            with pytest.raises(sqlite3.Error):
                db.execute(sql)
        return add("swallowed")(db)

    works = {
        "good": (add("good"), None), "value": (half, ValueError), "taken": (add("taken"), sqlite3.IntegrityError),
        "sql": (lambda db: db.execute("SELEC 1"), sqlite3.OperationalError), "exit": (leave, SystemExit),
        "commit": (lambda db: (add("committed")(db), db.commit()), RuntimeError),
        "begin": (lambda db: db.execute("BEGIN"), RuntimeError),
        "rollback": (lambda db: (add("rolled")(db), db.conn.rollback()), RuntimeError),
        "script": (lambda db: db.conn.executescript("SELECT 1"), RuntimeError),
        "rows": (lambda db: db["notes"].rows, TypeError), "cursor": (lambda db: db.execute("SELECT 1"), TypeError),
        "os": (lambda db: os.stat("/nowhere"), FileNotFoundError), "swallow": (swallow, None), "last": (add("last"), None),
    }  # fmt: skip
    futures = {name: kept.writer.submit(work) for name, (work, _) in works.items()}
    go.set()
    for name, (_, kind) in works.items():
        error = futures[name].exception(WAIT_S)
        assert type(error) is (kind or type(None)), (name, error)
    assert kept.texts == ["taken", "good", "swallowed", "last"]
    assert kept.writer.health == OK and not kept.lines


def test_a_work_that_ends_the_transaction_takes_no_other_with_it(path, keep):
    kept = keep()
    kept.add("taken")
    go = held_up(kept.writer)
    first = kept.writer.submit(add("first"))
    bad = kept.writer.submit(lambda db: db.execute("INSERT OR ROLLBACK INTO notes (text) VALUES ('taken')").rowcount)
    late = kept.writer.submit(lambda db: (db.execute("PRAGMA defer_foreign_keys=ON"), db["tags"].insert({"note": 99}))[0].rowcount)
    last = kept.writer.submit(add("last"))
    go.set()
    assert isinstance(bad.exception(WAIT_S), sqlite3.IntegrityError)
    assert isinstance(late.exception(WAIT_S), sqlite3.IntegrityError), "it failed at the commit"
    assert first.result(WAIT_S) and last.result(WAIT_S)
    assert kept.texts == ["taken", "first", "last"]


def test_a_full_queue_is_refused_at_once(keep):
    kept = keep(queue_max=3)
    go = held_up(kept.writer)
    futures = [kept.writer.submit(add(str(i))) for i in range(3)]
    with pytest.raises(StorageFailed, match="3 writes to .* are waiting") as caught:
        kept.writer.submit(add("one too many"))
    assert caught.value.retry_after_s and kept.writer.waiting == 3
    go.set()
    assert [future.result(WAIT_S) for future in futures] == [1, 2, 3]
    kept.add("again")


def test_who_waits_too_long_is_told_whether_it_may_still_be_written(keep):
    kept = keep()
    go = held_up(kept.writer)
    with pytest.raises(StorageFailed, match="not written within 0.05 s, and will not be"):
        kept.writer.do(add("late"), 0.05)
    go.set()
    assert kept.texts == []
    blocked = threading.Event()
    with pytest.raises(StorageFailed, match="may still be"):
        kept.writer.do(lambda db: (add("slow")(db), blocked.wait(WAIT_S))[0], 0.05)
    blocked.set()
    assert kept.texts == ["slow"]
    assert isinstance(kept.writer.submit(lambda db: kept.writer.do(texts, 1)).exception(WAIT_S), RuntimeError)


def test_closing_finishes_what_waits(path, keep):
    kept = keep()
    go = held_up(kept.writer)
    futures = [kept.writer.submit(add(str(i))) for i in range(600)]
    closer = threading.Thread(target=kept.writer.close)
    closer.start()
    wait_until(lambda: kept.writer._closing)
    with pytest.raises(Draining):
        kept.writer.submit(add("late"))
    go.set()
    closer.join()
    assert all(future.result(0) for future in futures) and len(look(path)) == 600
    assert [file.name for file in path.parent.iterdir()] == [path.name], "the log is in the file"
    kept.writer.close()


def test_closing_gives_up_after_its_limit(keep):
    kept = keep()
    go = held_up(kept.writer)
    future: Future = kept.writer.submit(add("late"))
    kept.writer.close(0.05)
    assert isinstance(future.exception(0), Draining)
    assert kept.lines[-1][0] == "error" and "1 writes were given up" in kept.lines[-1][1]
    go.set()


def test_idle_works_among_others_do_not_share_their_transaction(path, keep):
    kept = keep()
    kept.writer.do(lambda db: db.execute("CREATE TEMP TABLE mine (x)").rowcount, WAIT_S)
    go = held_up(kept.writer)
    futures = [kept.writer.submit(add("one")), kept.writer.checkpoint(), kept.writer.submit(add("two")), kept.writer.check()]
    assert kept.writer.check() is futures[-1]
    go.set()
    assert [future.result(WAIT_S) for future in futures] == [1, True, 2, None]
    kept.writer.do(lambda db: db.execute("INSERT INTO mine VALUES (1)").rowcount, WAIT_S)  # still the same connection
    assert kept.writer.health == OK and not kept.lines


def test_idle_time_gives_space_back(path, keep, tmp_path):
    kept = keep()
    kept.writer.do(lambda db: db["notes"].insert_all({"text": f"{i} " + "x" * 2000} for i in range(500)) and None, WAIT_S)
    readers = Readers(path)
    with readers.reading() as db:
        assert len(texts(db)) == 500
        kept.writer.do(lambda db: db.execute("DELETE FROM notes WHERE id > 10").rowcount, WAIT_S)
        assert kept.writer.checkpoint().result(WAIT_S) is False, "a reader is in the way, and nobody waits for it"
    assert kept.writer.checkpoint().result(WAIT_S) is True
    large = path.stat().st_size
    left = [kept.writer.vacuum(50).result(WAIT_S)]
    while left[-1]:
        left.append(kept.writer.vacuum(50).result(WAIT_S))
    assert len(left) > 3 and left[0] - left[1] == 50, "so many pages at a time"
    assert kept.writer.checkpoint().result(WAIT_S)
    assert path.stat().st_size < large / 5 and path.with_name("notes.db-wal").stat().st_size == 0
    kept.writer.check().result(WAIT_S)
    kept.writer.backup(tmp_path / "copy.db").result(WAIT_S)
    assert look(tmp_path / "copy.db") == kept.texts and mode(tmp_path / "copy.db") == 0o600
    with pytest.raises(StorageFailed, match="File exists"):
        kept.writer.backup(tmp_path / "copy.db").result(WAIT_S)
    assert kept.writer.health == OK and not kept.lines
    readers.close()


# -- trouble that passes


def test_a_full_disk_fails_what_does_not_fit_and_heals_by_itself(path, keep):
    kept = keep(precious=True)
    pages = kept.writer.do(lambda db: db.execute("PRAGMA page_count").fetchone()[0], WAIT_S)
    kept.writer.do(lambda db: db.execute(f"PRAGMA max_page_count={pages + 2}").fetchone(), WAIT_S)
    go = held_up(kept.writer)
    small, large = kept.writer.submit(add("small")), kept.writer.submit(add("x" * 100_000))
    go.set()
    assert small.result(WAIT_S) == 1
    with pytest.raises(StorageFailed, match="the disk is full") as caught:
        large.result(WAIT_S)
    assert "goes on by itself" in caught.value.remedy
    with pytest.raises(StorageFailed):
        kept.add("y" * 100_000)
    assert kept.writer.health.state == "degraded" and "the disk is full" in kept.writer.health.reason
    kept.writer.do(lambda db: db.execute("PRAGMA max_page_count=100000").fetchone(), WAIT_S)
    kept.add("z" * 100_000)
    assert look(path) == ["small", "z" * 100_000] and kept.writer.health == OK
    assert [level for level, _ in kept.lines] == ["error", "info"], "one line when it begins, one when it ends"


def test_the_limit_of_a_files_size_is_met_in_words():
    """The kernel refuses the writes, in a process of its own."""
    code = """
import resource, sys, tempfile
from pathlib import Path
from appliance.db.migrations import Migration, Schema
from appliance.db.writer import Writer
from appliance.errors import StorageFailed
schema = Schema("s", [Migration("1", "CREATE TABLE t (x)")])
with tempfile.TemporaryDirectory() as folder:
    path, lines = Path(folder) / "a.db", []
    with Writer(path, schema, precious=True, log=lambda *line: lines.append(line)) as writer:
        add = lambda size: writer.submit(lambda db: db["t"].insert({"x": "x" * size}).last_pk)
        assert add(10).result(20) == 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        futures = [add(100) for _ in range(20)] + [add(400_000)] + [add(100) for _ in range(20)]
        failed = [future.exception(20) for future in futures]
        assert isinstance(failed[20], StorageFailed) and "cannot be" in str(failed[20]), failed[20]
        kept = 1 + sum(error is None for error in failed)
        assert kept == 41, failed
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert add(400_000).result(20)
        assert writer.health.state == "ok"
        assert writer.do(lambda db: db.execute("SELECT count(*) FROM t").fetchone()[0], 20) == kept + 1
        assert writer.do(lambda db: db.execute("PRAGMA integrity_check").fetchone()[0], 20) == "ok"
print("done")
"""
    assert python(code).strip() == "done"


def test_a_lock_of_another_program_fails_in_words_and_heals_by_itself(path, keep):
    kept = keep(busy_timeout_s=0.1)
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN EXCLUSIVE'); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        go_on = [kept.writer.submit(add(str(i))) for i in range(50)]
        for future in go_on:
            with pytest.raises(StorageFailed, match="locked by another program"):
                future.result(WAIT_S)
        assert "locked" in kept.writer.health.reason
        with pytest.raises(StorageFailed, match="locked by another program"):
            keep(schema=Schema("notes", [*NOTES.migrations, Migration("004", "CREATE TABLE more (x)")]), busy_timeout_s=0.1)
        other.communicate("\n")
    kept.add("after")
    assert kept.texts == ["after"] and kept.writer.health == OK and not kept.renewals


def test_a_folder_that_may_not_be_written_is_told_in_words():
    """As a user whom it does not belong to, because root may write everywhere."""
    code = """
import os, shutil, sys, tempfile
from pathlib import Path
from appliance.db.migrations import Migration, Schema
from appliance.db.writer import Writer
from appliance.errors import StorageFailed
schema = Schema("s", [Migration("1", "CREATE TABLE t (x)")])
folder = Path(tempfile.mkdtemp())
try:
    Writer(folder / "old.db", schema, precious=True, log=print).close()
    os.chmod(folder / "old.db", 0o644)
    os.chmod(folder, 0o555)
    if os.getuid() == 0:
        os.seteuid(65534)
    for name in ("new.db", "old.db", "sub/new.db"):
        for precious in (True, False):
            try:
                Writer(folder / name, schema, precious=precious, log=print)
            except StorageFailed as error:
                assert "may not change it" in error.message or "cannot be opened" in error.message, error
                assert str(folder) in error.remedy
            else:
                raise AssertionError(name)
    os.seteuid(0) if os.getuid() == 0 else None
    home = folder / "home"
    os.chmod(folder, 0o755)
    home.mkdir()
    if os.getuid() == 0:
        os.chown(home, 65534, 65534)
        os.seteuid(65534)
    with Writer(home / "cache.db", schema, precious=False, log=print) as writer:
        add = lambda: writer.submit(lambda db: db["t"].insert({"x": 1}).last_pk)
        os.chmod(home, 0o555)
        assert add().result(20) == 1
        os.chmod(home, 0o755)
        (home / "cache.db").unlink()
        os.chmod(home, 0o555)
        assert isinstance(add().exception(20), StorageFailed) and "may not change it" in writer.health.reason
        os.chmod(home, 0o755)
        assert add().result(20) == 1 and writer.health.state == "ok"
    sys.stdout.flush()
finally:
    if os.getuid() == 0:
        os.seteuid(0)
    os.chmod(folder, 0o700)
    shutil.rmtree(folder)
print("done")
"""
    assert python(code).splitlines()[-1] == "done"


# -- files that are damaged or gone


def scribble(path: Path) -> None:
    """Overwrite the middle: all pages but the first two and the last one."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (size - 3 * 4096))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def garble(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(os.urandom(100))


def prose(path: Path) -> None:
    path.write_text("This is a letter to the admin.\n" * 500)


DAMAGE = [scribble, cut, empty, garble, prose]


def filled(keep, **how) -> Kept:
    """A writer whose file is 40 pages large, all in the main file."""
    kept = keep(**how)
    kept.writer.do(lambda db: db["notes"].insert_all({"text": f"{i} " + "x" * 1500} for i in range(80)) and None, WAIT_S)
    assert kept.writer.checkpoint().result(WAIT_S)
    return kept


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_moved_aside_at_the_start(path, keep, damage):
    filled(keep).writer.close()
    damage(path)
    bad = path.read_bytes()
    kept = keep()
    kept.add("new")
    assert look(path) == ["new"] and mode(path) == 0o600
    aside = path.with_name("notes.db.corrupt-20260101T120000Z")
    assert aside.read_bytes() == bad
    assert kept.renewals == ["writer-notes.db"] and kept.writer.health == OK
    assert len(kept.lines) == 1 and kept.lines[0][0] == "warning" and aside.name in kept.lines[0][1]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_cache_that_is_damaged_while_it_is_used_is_moved_aside(path, keep, damage):
    kept = filled(keep)
    damage(path)
    go = held_up(kept.writer)
    futures = [kept.writer.submit(add(f"new {i}")) for i in range(5)]
    go.set()
    assert [future.result(WAIT_S) for future in futures] == [1, 2, 3, 4, 5]
    kept.writer.close()
    assert look(path) == [f"new {i}" for i in range(5)]
    assert len(kept.renewals) == 1 and len(kept.lines) == 1
    assert path.with_name("notes.db.corrupt-20260101T120000Z").exists()


def test_only_the_newest_damaged_file_is_kept_with_its_log(path, keep):
    times = iter((NOON, NOON + 60, NOON + 60))
    kept = keep(now=lambda: next(times))
    for word in ("one", "two", "three"):
        kept.add(word)
        scribbled = open(path, "r+b")
        with scribbled:
            scribbled.write(b"no database")
    assert kept.texts == [] and len(kept.renewals) == 3
    left = {file.name for file in path.parent.iterdir() if "corrupt" in file.name}
    assert "notes.db.corrupt-20260101T120100Z" in left and all("120100Z" in name for name in left)


def test_damage_that_only_sqlite_sees_is_found_while_works_run(path, keep):
    """An index that lacks what its table has passes a look, but not a delete."""
    keep().writer.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        row = conn.execute("SELECT * FROM sqlite_schema WHERE name='tags_note'").fetchone()
        conn.execute("PRAGMA writable_schema=ON")
        conn.execute("DELETE FROM sqlite_schema WHERE name='tags_note'")
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.executescript("INSERT INTO notes (text) VALUES ('old'); INSERT INTO tags VALUES (1, 'old'); PRAGMA writable_schema=ON")
        conn.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row)
    kept = keep()
    assert kept.texts == ["old"] and not kept.renewals
    go = held_up(kept.writer)
    before = kept.writer.submit(add("before"))
    gone = kept.writer.submit(lambda db: db.execute("DELETE FROM tags WHERE rowid > 0").rowcount)
    go.set()
    assert (before.result(WAIT_S), gone.result(WAIT_S)) == (1, 0)
    assert kept.texts == ["before"] and len(kept.renewals) == 1 and kept.writer.health == OK
    assert "SQLite said so twice" in kept.lines[0][1]


def test_a_cache_that_cannot_be_made_anew_yet_is_made_as_soon_as_it_can(path, keep):
    kept = keep()
    kept.add("old")
    shutil.rmtree(path.parent)
    path.parent.write_text("in the way")
    with pytest.raises(StorageFailed):
        kept.add("lost")
    assert kept.writer.health.state == "degraded"
    assert not kept.renewals
    path.parent.unlink()
    kept.add("new")
    assert kept.texts == ["new"] and kept.writer.health == OK and len(kept.renewals) == 1


def test_an_owner_that_fails_is_logged_and_the_writer_goes_on(path, keep):
    lines = []
    with Writer(path, NOTES, precious=False, log=lambda *line: lines.append(line), renewed=lambda: 1 / 0) as writer:
        path.unlink()
        assert writer.do(add("new"), WAIT_S) == 1
    assert "its owner failed: ZeroDivisionError" in lines[-1][1]


@pytest.mark.parametrize("beside", [True, False], ids=["with its log", "alone"])
def test_a_cache_that_is_deleted_is_made_anew(path, keep, beside):
    kept = keep()
    kept.add("old")
    for file in list(path.parent.iterdir()):
        if beside or file == path:
            file.unlink()
    kept.add("new")
    assert kept.texts == ["new"] and kept.renewals == ["writer-notes.db"]
    assert "was deleted" in kept.lines[0][1] and kept.writer.health == OK
    kept.writer.close()
    assert look(path) == ["new"] and [file.name for file in path.parent.iterdir()] == [path.name]
    stale = path.with_name("notes.db-wal")
    path.unlink()
    stale.write_bytes(b"what a killed process left")
    kept = keep()
    assert kept.texts == [] and not kept.renewals


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_precious_file_is_refused_and_never_touched(path, keep, damage):
    filled(keep, precious=True).writer.close()
    good = path.read_bytes()
    damage(path)
    bad = path.read_bytes()
    for _ in range(2):
        with pytest.raises(StorageFailed, match="is damaged") as caught:
            keep(precious=True)
        assert "appliance backup restore" in caught.value.remedy and "Stop the service" in caught.value.remedy
        assert path.read_bytes() == bad and not list(path.parent.glob("*corrupt*"))
    for file in path.parent.iterdir():
        file.unlink()
    path.write_bytes(good)
    assert len(keep(precious=True).texts) == 80


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_precious_file_that_is_damaged_while_it_is_used_is_not_written_to(path, keep, damage):
    kept = filled(keep, precious=True)
    damage(path)
    bad = path.read_bytes()
    for _ in range(3):
        with pytest.raises(StorageFailed, match="is damaged"):
            kept.add("lost")
    assert kept.writer.health.state == "degraded"
    assert "appliance backup restore" in kept.writer.health.reason and len(kept.lines) == 1
    assert path.read_bytes() == bad and not kept.renewals
    kept.writer.close()
    assert path.read_bytes() == bad, "closing has nothing to write either"


def test_a_precious_file_that_is_deleted_is_written_again(path, keep):
    kept = keep(precious=True)
    kept.add("one", "two")
    path.unlink()
    kept.add("three")
    assert look(path) == ["one", "two", "three"] and mode(path) == 0o600
    for file in list(path.parent.iterdir()):
        file.unlink()
    kept.writer.close()
    assert look(path) == ["one", "two", "three"]
    assert not kept.renewals and [level for level, _ in kept.lines] == ["warning", "warning"]


def test_a_backup_in_the_place_of_a_precious_file_is_used(path, keep, tmp_path):
    kept = keep(precious=True)
    kept.add("one")
    kept.writer.backup(tmp_path / "backup.db").result(WAIT_S)
    kept.writer.do(lambda db: db["notes"].insert_all({"text": f"{i} " + "x" * 3000} for i in range(50)) and None, WAIT_S)
    readers = Readers(path)
    with readers.reading() as db:
        assert len(texts(db)) == 51
        os.replace(tmp_path / "backup.db", path)  # the old log, which is full, still lies beside it
        kept.add("two")
    assert kept.texts == ["one", "two"]
    with readers.reading() as db:
        assert texts(db) == ["one", "two"]
    readers.close()
    kept.writer.close()
    assert look(path) == ["one", "two"] and "replaced by another file" in kept.lines[0][1]


def test_a_precious_file_that_is_missing_beside_its_log_is_refused(path, keep):
    keep(precious=True).add("one")
    folder = path.parent.with_name("killed")
    shutil.copytree(path.parent, folder)  # as a killed process leaves it
    assert (folder / "notes.db-wal").stat().st_size
    (folder / path.name).unlink()
    with pytest.raises(StorageFailed, match="is missing, but notes.db-wal is there") as caught:
        keep(folder / path.name, precious=True)
    assert "To begin with nothing instead, delete" in caught.value.remedy
    (folder / "notes.db-wal").unlink()
    assert keep(folder / path.name, precious=True).texts == []


def test_a_file_is_whole_or_not_there(path, keep):
    """What a process that was killed while it made the file leaves behind is not in the way."""
    path.parent.mkdir()
    path.with_name("notes.db.new").write_bytes(b"half")
    with pytest.raises(StorageFailed, match="step 001 notes failed"):
        keep(schema=Schema("notes", [Migration("001 notes", "CREATE TABLE (")]))
    assert list(path.parent.iterdir()) == []
    assert keep().texts == []


def test_another_program_that_only_writes_harmlessly_changes_nothing(path, keep):
    kept = filled(keep)
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("INSERT INTO notes (text) VALUES ('from outside')")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    kept.add("inside")
    assert kept.texts[-2:] == ["from outside", "inside"] and not kept.renewals and not kept.lines
