"""The one thread that writes a database file, and what becomes of a file that is damaged, deleted or replaced."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import GeneratorType
from typing import Any, TypeVar

from sqlite_utils import Database

from appliance.clock import unix_seconds
from appliance.db import connection
from appliance.db.connection import BESIDE, BUSY_TIMEOUT_S, RESTORING, Damaged, fault_of, identity, in_words, inspect
from appliance.db.migrations import Schema, create, migrate
from appliance.errors import ApplianceError, Draining, StorageFailed

T = TypeVar("T")
Log = Callable[[str, str], None]
"""Takes a level and a sentence."""

BATCH_MAX = 256  # works in one transaction: enough to share an fsync, few enough that nobody waits long for the others
INSPECT_BYTES = 64 << 20  # a larger file that may be lost is not read whole at a start; `check` does that in idle time
VACUUM_PAGES = 2000  # in one step: 8 MB, which other works wait for
SLOW = "Try again; if this goes on, see whether the disk is slow or broken (dmesg)."


@dataclass(frozen=True)
class Health:
    """Whether writing works. state: "ok" or "degraded"; reason: what is wrong and what to do, in sentences."""

    state: str
    reason: str = ""


OK = Health("ok")


@dataclass
class _Job:
    work: Callable[[Database], Any]
    future: Future
    alone: bool = False  # outside of a transaction
    end: tuple[Any, BaseException | None] | None = None


class Writer:
    """Owns a database file: opens it, brings it up to date, and runs works on it in a thread of its own.

    A work is a function of the Database. Works that wait together are committed together, each in a savepoint: one that raises
    is undone alone, and its future raises the same. A future ends after the commit; precious: after the commit is on the
    disk. A work may be run again when a commit fails, so all that it does must be in the database. It returns plain
    values and neither begins nor ends a transaction.

    precious: a damaged file is left as it is, and a file that somebody deletes is written again from what is open. Else a
    file that is damaged, truncated or deleted is replaced by an empty one, at the start and at work; a damaged one is kept
    as NAME.corrupt-TIME (only the newest) and `renewed` is called in the writing thread: it may set a flag or `submit`, but
    must not wait for a work.
    log: a sentence for each change of health and each replacement.  now: seconds since 1970, for that TIME.
    queue_max: works that may wait.  busy_timeout_s: how long another program's lock is waited for.

    The constructor opens the file, or makes it, and raises StorageFailed with what, why and what to do.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        *,
        precious: bool,
        log: Log,
        renewed: Callable[[], object] | None = None,
        now: Callable[[], float] = unix_seconds,
        queue_max: int = 1000,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self.path, self.precious = path, precious
        self._log, self._queue_max, self._busy_timeout_s = log, queue_max, busy_timeout_s
        self._file = _File(path, schema, precious, log, renewed, now, busy_timeout_s)  # the writing thread's
        self._changed = threading.Condition()  # guards the next three
        self._waiting: deque[_Job] = deque()
        self._closing = False
        self._check: Future[None] | None = None
        self._health = OK
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name=f"writer-{path.name}", daemon=True)
        self._thread.start()
        try:
            opened.result()
        except BaseException:
            self.close()
            raise

    @property
    def health(self) -> Health:
        """How the last works went. A degraded writer goes on trying and recovers with the first work that succeeds."""
        return self._health

    @property
    def waiting(self) -> int:
        """Works in the queue."""
        return len(self._waiting)

    def submit(self, work: Callable[[Database], T]) -> Future[T]:
        """Queue a work; any thread. Raises StorageFailed at once when the queue is full, Draining after `close`."""
        return self._submit(work)

    def do(self, work: Callable[[Database], T], timeout_s: float) -> T:
        """Run a work and wait for its commit. Raises what it raises, or StorageFailed after `timeout_s`."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a work that waits for a work waits for ever")
        future = self._submit(work)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if future.done():
                raise  # the work's own
            fate = "and will not be" if future.cancel() else "but may still be"
            raise StorageFailed(f"{self.path} was not written within {timeout_s:g} s, {fate}.",
                                remedy=SLOW) from None  # fmt: skip

    def checkpoint(self) -> Future[bool]:
        """For idle time: all of the write-ahead log into the file. False: a reader was in the way."""
        return self._submit(lambda db: connection.checkpoint(db, busy_timeout_s=self._busy_timeout_s), alone=True)

    def vacuum(self, pages: int = VACUUM_PAGES) -> Future[int]:
        """For idle time: give some unused pages back to the disk; returns how many are left. `checkpoint` then cuts the file."""
        return self._submit(lambda db: connection.vacuum(db, pages))

    def compact(self) -> Future[bool]:
        """Write the file anew, so that nothing deleted is left in it; see `connection.compact`. Other works wait, a minute for gigabytes."""
        return self._submit(lambda db: connection.compact(db, self.path, busy_timeout_s=self._busy_timeout_s), alone=True)

    def check(self) -> Future[None]:
        """Read the whole file and, if it is damaged, do as said above. One at a time: a second call joins the first."""
        with self._changed:
            if self._check is None or self._check.done():
                self._check = self._submit(lambda _: self._file.inspect(), alone=True)
            return self._check

    def backup(self, target: Path) -> Future[None]:
        """Copy everything to a new file (mode 0600); `target` must not exist. Other works wait."""
        return self._submit(lambda db: _copy(db, target), alone=True)

    def close(self, timeout_s: float = 10.0) -> None:
        """Finish what waits, then close the file; what could not begin in time gets Draining. Safe to call again."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
        for job in left:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(Draining("The service is stopping."))
        self._log("error", f"{self.path} could not be closed within {timeout_s:g} s: {len(left)} writes were given up.")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, work: Callable[[Database], Any], *, alone: bool = False) -> Future:
        future: Future = Future()
        with self._changed:
            if self._closing:
                raise Draining("The service is stopping.")
            if len(self._waiting) >= self._queue_max:
                raise StorageFailed(f"{len(self._waiting)} writes to {self.path} are waiting, more may not.",
                                    remedy=SLOW, retry_after_s=1.0)  # fmt: skip
            self._waiting.append(_Job(work, future, alone))
            self._changed.notify()
        return future

    # -- the writing thread

    def _run(self, opened: Future[None]) -> None:
        try:
            self._file.ready()
        except BaseException as error:
            opened.set_exception(self._explained(error))
            return
        opened.set_result(None)
        while jobs := self._take():
            self._process(jobs)
            del jobs  # an idle writer keeps no work alive
        self._file.close()

    def _take(self) -> list[_Job]:
        """What is to be done together; nothing after the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            jobs = [self._waiting.popleft()] if self._waiting else []
            while jobs and not jobs[0].alone and self._waiting and not self._waiting[0].alone and len(jobs) < BATCH_MAX:
                jobs.append(self._waiting.popleft())
            return jobs

    def _process(self, jobs: list[_Job]) -> None:
        """Run the jobs, see to the health, then end their futures, whatever happens."""
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        fault: BaseException | None = None
        for last in (False, False, True):  # with the file as it is; opened anew; replaced by a new one
            left = [job for job in jobs if job.end is None]
            try:
                db = self._file.ready()
                fault = self._alone(db, left[0]) if left and left[0].alone else self._together(db, left)
                self._file.complaints = 0
            except BaseException as error:  # also SystemExit from a work: this thread ends with `close` only
                fault = error
                if fault_of(error) == "damaged":
                    self._file.complaints += 1
                    if not self.precious and not last:
                        continue
                for job in left:
                    job.end = job.end or (None, self._explained(error))
            break
        self._file.remember()
        if fault is not None and (fault_of(fault) or isinstance(fault, StorageFailed)):
            self._set_health(Health("degraded", str(self._explained(fault))))
        elif any(job.end and job.end[1] is None for job in jobs):
            self._set_health(OK)
        del fault  # its traceback has this frame in it, and this frame what the works left open
        for job in jobs:
            result, error = job.end or (None, RuntimeError("the work was not run"))
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)

    def _together(self, db: Database, jobs: list[_Job]) -> BaseException | None:
        """Run jobs in one transaction; one after the other if the whole cannot be committed. Returns the storage's last trouble.

        Raises, with jobs open, when no transaction can be had or a file that is not precious is damaged.
        """
        db.execute("BEGIN IMMEDIATE")
        try:
            with connection.no_commits(db):
                ends = [self._savepoint(db, job.work) for job in jobs]
            db.conn.commit()
        except BaseException as error:
            db.rollback()
            if self._must_renew(error):
                raise
            if len(jobs) == 1:
                return self._fail(jobs[0], error)
        else:
            faults = [self._fail(job, end[1]) for job, end in zip(jobs, ends, strict=True) if end[1] is not None]
            for job, end in zip(jobs, ends, strict=True):
                job.end = job.end or end
            return next(filter(None, reversed(faults)), None)
        fault = None
        for job in jobs:
            fault = self._together(db, [job]) or fault
        return fault

    def _savepoint(self, db: Database, work: Callable[[Database], Any]) -> tuple[Any, BaseException | None]:
        """A work's result or error. Raises when its error has ended the transaction, or says that the file must be renewed."""
        db.execute("SAVEPOINT one_work")
        try:
            result = work(db)
            if isinstance(result, (GeneratorType, sqlite3.Cursor)):
                result.close()
                raise TypeError("a work returns plain values: a generator or a cursor ends with its transaction")
            db.execute("RELEASE one_work")
            return result, None
        except BaseException as error:
            if not db.conn.in_transaction or self._must_renew(error):
                raise
            db.execute("ROLLBACK TO one_work")
            db.execute("RELEASE one_work")
            return None, error

    def _alone(self, db: Database, job: _Job) -> BaseException | None:
        try:
            job.end = job.work(db), None
        except BaseException as error:
            if isinstance(error, sqlite3.Error) and fault_of(error) == "damaged":
                raise
            return self._fail(job, error)
        return None

    def _fail(self, job: _Job, error: BaseException) -> BaseException | None:
        """Note a job's error; returns it if the storage is at fault. An OSError of a work is the work's own."""
        if not isinstance(error, sqlite3.Error):
            job.end = None, error
            return None
        refused = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_AUTH
        job.end = None, RuntimeError("a work must not begin or end a transaction") if refused else self._explained(error)
        return error if fault_of(error) else None

    def _must_renew(self, error: BaseException) -> bool:
        return not self.precious and isinstance(error, sqlite3.Error) and fault_of(error) == "damaged"

    def _explained(self, error: BaseException) -> BaseException:
        """The error for whoever waits: trouble of the storage in words, anything else as it is."""
        if fault_of(error) is None:
            return error
        words = in_words(error, self.path, self.precious)
        words.__cause__ = error
        return words

    def _set_health(self, health: Health) -> None:
        before, self._health = self._health, health
        if before != health:
            ok = health == OK
            self._log("info" if ok else "error", f"{self.path} is written again." if ok else f"Nothing can be kept now: {health.reason}")


def _copy(db: Database, target: Path) -> None:
    try:
        connection.copy(db, target)
    except (OSError, sqlite3.Error) as error:  # of the copy: it says nothing of this file
        raise in_words(error, target, True) from error


class _File:
    """The file at a path: opened, made, replaced. For one thread."""

    def __init__(
        self, path: Path, schema: Schema, precious: bool, log: Log, renewed: Callable[[], object] | None,
        now: Callable[[], float], busy_timeout_s: float,
    ) -> None:  # fmt: skip
        self.path, self.schema, self.precious = path, schema, precious
        self._log, self._renewed, self._now, self._busy_timeout_s = log, renewed, now, busy_timeout_s
        self.complaints = 0  # of SQLite that the file is damaged: look before the next work
        self._db: Database | None = None
        self._identity: tuple[int, int] | None = None  # of the open file
        self._wal: tuple[int, int] | None = None  # of its log
        self._stamp: tuple[int, int] | None = None  # size and time after our own last work
        self._owner_must_know = False  # the file was replaced and `renewed` has not been called

    def ready(self) -> Database:
        """The database at the path, after seeing that it is as it was left. Raises sqlite3.Error, OSError, StorageFailed."""
        if self._db is None:
            return self._open()
        there = identity(self.path)
        if there == self._identity:
            if not self.complaints and self._look() == self._stamp:
                return self._db
            return self._open_anew()  # SQLite complained, or somebody else wrote
        if there is None and self.precious:
            return self._put_back(self._db)
        self._let_go()
        if there is None:
            self._note(f"{self.path} was deleted; an empty one is made.")
        else:
            self._note(f"{self.path} was replaced by another file, which is used from now on.")
        return self._open()

    def remember(self) -> None:
        """What the file looks like after our own work, to see later whether somebody else has written."""
        try:
            self._stamp = self._look()
            if identity(self.path) == self._identity:
                self._wal = identity(self._beside("-wal"))
        except OSError:
            self._stamp = None

    def inspect(self) -> None:
        """Read all of the file. Raises as `connection.inspect`."""
        inspect(self.path, whole=True, busy_timeout_s=self._busy_timeout_s)

    def close(self) -> None:
        """At the end; a precious file that was deleted is written again even now."""
        try:
            if self.precious and self._db is not None and identity(self.path) is None:
                self._put_back(self._db)
        except (sqlite3.Error, OSError, ApplianceError) as error:
            self._log("error", f"{self.path} was deleted and could not be written again: {error}")
        self._let_go()

    def _open(self) -> Database:
        """Open the file; make it where there is none, and a new one where it is damaged and not precious."""
        if identity(self.path) is None:
            wal = self._beside("-wal")
            if self.precious and wal.exists():
                raise StorageFailed(f"{self.path} is missing, but {wal.name} is there: somebody deleted or moved it.",
                                    remedy=f"{RESTORING} To begin with nothing instead, delete {wal}.")  # fmt: skip
            self._make()
        try:
            whole = self.precious or self.path.stat().st_size <= INSPECT_BYTES
            inspect(self.path, whole=whole, busy_timeout_s=self._busy_timeout_s)
            db = self._connect()
        except sqlite3.Error as error:
            if self.precious or fault_of(error) != "damaged":
                raise
            self._renew(error)
            db = self._connect()
        if self._owner_must_know and not self.precious and self._renewed:
            try:
                self._renewed()
            except Exception as error:
                self._log("error", f"{self.path} was replaced, but its owner failed: {type(error).__name__}: {error}")
        self._owner_must_know = False
        return db

    def _make(self) -> None:
        connection.remove(self.path)  # a log without its file belongs to a deleted one and would spoil the new one
        create(self.path, self.schema, self.precious)

    def _connect(self) -> Database:
        db = connection.open_for_writing(self.path, self.precious, busy_timeout_s=self._busy_timeout_s)
        try:
            migrate(db, self.schema, self.path, precious=self.precious)
        except BaseException:
            db.close()
            raise
        self._db, self._identity = db, identity(self.path)
        self.remember()
        return db

    def _open_anew(self) -> Database:
        """The file may be damaged: look and, unless it is precious, replace it. What SQLite has in memory is forgotten."""
        try:
            self.inspect()
            if self.complaints > 1 and not self.precious:
                raise Damaged("SQLite said so twice")  # an index that contradicts its table: looking does not see that
        except sqlite3.Error as error:
            if self.precious or fault_of(error) != "damaged":
                raise
            self._let_go()
            self._renew(error)
        else:
            self._let_go()
        return self._open()

    def _renew(self, error: BaseException) -> None:
        start = f"{self.path.name}.corrupt-"
        for old in self.path.parent.iterdir():  # each of them costs as much disk as the cache may have
            if old.name.startswith(start):
                old.unlink()
        aside = self.path.with_name(start + time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now())))
        for end in BESIDE:
            if self._beside(end).exists():
                self._beside(end).rename(aside.with_name(aside.name + end))
        self._note(f"{self.path} was damaged ({error}) and is kept as {aside.name}; an empty one is made.")
        self.complaints = 0
        self._make()

    def _note(self, sentence: str) -> None:
        self._owner_must_know = True
        self._log("warning", sentence)

    def _put_back(self, db: Database) -> Database:
        """A precious file was deleted, but all of it is still open here."""
        connection.copy(db, self.path)
        self._log("warning", f"{self.path} was deleted while it was in use; it was written again, nothing is lost.")
        self._let_go()
        return self._open()

    def _let_go(self) -> None:
        """Close the file. SQLite moves the log into it and removes it, unless the file lies at its path no more."""
        if self._db is None:
            return
        db, self._db = self._db, None
        try:
            if identity(self.path) != self._identity:  # its log would be taken for that of the file there now
                connection.checkpoint(db)
                if self._wal is not None and identity(self._beside("-wal")) == self._wal:
                    for end in BESIDE[1:]:
                        self._beside(end).unlink(missing_ok=True)
        except (sqlite3.Error, OSError) as error:
            self._log("warning", f"The log of the former {self.path} could not be removed: {error}.")
        finally:
            db.close()

    def _beside(self, end: str) -> Path:
        return self.path.with_name(self.path.name + end)

    def _look(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns
