"""SQLite files: all PRAGMAs, readers, and what SQLite's complaints mean in words.

Never open a database file with `open()` while a connection to it exists in this process: closing such a file drops the
locks of all connections to it (https://www.sqlite.org/howtocorrupt.html, 2.2). Only names and `stat` are used here.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlite_utils import Database

from appliance.errors import ApplianceError, Draining, StorageFailed
from appliance.storage import sync_folder

BUSY_TIMEOUT_S = 5.0  # longer than a copy by another program holds its lock, shorter than a person waits for a page
BESIDE = ("", "-wal", "-shm", "-journal")  # a database is a file and what SQLite keeps beside it

_FAULTS = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_BUSY: "locked",  # SQLITE_LOCKED is a conflict inside one connection: a mistake of the work
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_PERM: "read-only",
    sqlite3.SQLITE_CANTOPEN: "unopened",
    sqlite3.SQLITE_IOERR: "broken",
}
_ERRNO_FAULTS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "full") | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), "read-only"
)
_WORDS = {
    "full": ("cannot be written: the disk is full", "Free some space; writing goes on by itself then."),
    "locked": ("is locked by another program", "End that program (`fuser {path}` finds it); writing goes on by itself then."),
    "read-only": (
        "cannot be written: the service may not change it or its folder, or the disk is read-only",
        "Give {folder} and its files to the user of the service, or mount the disk for writing.",
    ),
    "unopened": ("cannot be opened ({error})", "Check that {folder} is there and that the service may read and write it."),
    "broken": ("cannot be read or written ({error})", "Check the disk (dmesg) and the limits on file sizes."),
}

RESTORING = "Stop the service and restore a backup: `appliance backup list` shows them, `appliance backup restore FILE` puts one in place."


class Damaged(sqlite3.DatabaseError):
    """What lies there is no whole SQLite database; raised by looking only, so nothing of it was changed."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def fault_of(error: BaseException) -> str | None:
    """Which trouble of the storage an error means: full, locked, damaged, read-only, unopened, broken. None: another error."""
    if isinstance(error, sqlite3.Error):
        return _FAULTS.get(getattr(error, "sqlite_errorcode", -1) & 0xFF)  # the low byte is the primary code
    if isinstance(error, OSError):
        return _ERRNO_FAULTS.get(error.errno, "broken")
    return None


def in_words(error: BaseException, path: Path, precious: bool) -> StorageFailed:
    """The error for a person. `error` is one that `fault_of` knows."""
    fault = fault_of(error) or "broken"
    if fault != "damaged":
        what, remedy = _WORDS[fault]
        names = {"path": path, "folder": path.parent, "error": error}
        return StorageFailed(f"{path} {what.format(**names)}.", remedy=remedy.format(**names))
    if not precious:
        remedy = "Nothing needs to be done: it is replaced by an empty one at the next write."
        return StorageFailed(f"{path} is damaged ({error}).", remedy=remedy)
    return StorageFailed(f"{path} is damaged ({error}); it was left as it is.", remedy=RESTORING)


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode, or None where there is no file. An inode that is open is not given to another file."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _configure(db: Database, path: Path, *, reads: bool, synchronous: str = "", busy_timeout_s: float) -> None:
    """Every PRAGMA of an opened file."""
    pragma = {}
    pragma["busy_timeout"] = int(busy_timeout_s * 1000)
    pragma["temp_store"] = "MEMORY"  # sorting people's questions leaves nothing in /tmp, and works where that is read-only
    pragma["mmap_size"] = 0  # a mapped file that somebody truncates kills the whole process with SIGBUS
    pragma["cell_size_check"] = "ON"  # a damaged page is noticed when it is read, not when its rubbish is used
    if reads:
        pragma["query_only"] = "ON"  # mode=ro keeps the file, this also keeps temporary tables from being made
        pragma["cache_size"] = -1024  # 1 MiB: there is one connection a thread, and the kernel caches the file for all
    else:
        if not db.execute("PRAGMA page_count").fetchone()[0]:  # it can be chosen for a new file only, and writes to an old one
            pragma["auto_vacuum"] = "INCREMENTAL"  # deleted rows give space back in small steps; a VACUUM needs twice the file
        pragma["journal_mode"] = "WAL"  # readers never wait for the writer, nor it for them
        pragma["synchronous"] = synchronous
        pragma["wal_autocheckpoint"] = 1000  # pages, 4 MB: a commit that has to check point copies no more, about 0.1 s on an SD card
        pragma["journal_size_limit"] = 16 << 20  # bytes: what one large transaction made of the WAL is cut again
        pragma["cache_size"] = -8192  # 8 MiB, of one connection
        pragma["analysis_limit"] = 400  # rows: what the planner wants to know costs milliseconds, not a reading of the file
        pragma["foreign_keys"] = "ON"  # SQLite's default is OFF, for its own history
        pragma["recursive_triggers"] = "ON"  # INSERT OR REPLACE fires delete triggers; sqlite-utils' full text search needs it
    for name, value in pragma.items():
        row = db.execute(f"PRAGMA {name}={value}").fetchone()
        if name == "journal_mode" and row[0] != "wal":
            raise StorageFailed(f"{path} cannot have a write-ahead log: its filesystem has no shared memory for files.",
                                remedy=f"Put {path.parent} on a local disk, not on a network share.")  # fmt: skip


def _connect(path: Path, mode: str, *, any_thread: bool = False, still: bool = False) -> Database:
    uri = f"{path.absolute().as_uri()}?mode={mode}{'&immutable=1' if still else ''}"
    # No isolation level: the driver starts no transactions of its own, each one is written down in our code.
    conn = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=not any_thread)
    return Database(conn, execute_plugins=False, recursive_triggers=False)


def open_for_writing(
    path: Path, precious: bool, *, draft: bool = False, busy_timeout_s: float = BUSY_TIMEOUT_S
) -> Database:
    """Open a database, or make an empty one in an existing folder. Only its owner may read it (mode 0600).

    For the calling thread only. precious: a commit returns when it is on the disk.  draft: nothing is awaited, the caller syncs
    the whole when it is done. Raises StorageFailed, sqlite3.Error, OSError.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # a new file: no connection has a lock to lose
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    # FULL: an fsync at each commit. NORMAL: at checkpoints, so a power cut costs the last commits but never the file.
    synchronous = "OFF" if draft else "FULL" if precious else "NORMAL"
    db = _connect(path, "rw")
    try:
        _configure(db, path, reads=False, synchronous=synchronous, busy_timeout_s=busy_timeout_s)
    except BaseException:
        db.close()
        raise
    return db


def open_for_reading(path: Path, *, any_thread: bool = False, still: bool = False, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Database:
    """Open an existing database so that nothing can be changed through it.

    For the calling thread only; any_thread: for one thread at a time, which the caller sees to. still: nobody writes it, so SQLite
    makes no files beside it and takes no locks; see `is_still`. Raises sqlite3.Error.
    """
    db = _connect(path, "ro", any_thread=any_thread, still=still)
    try:
        _configure(db, path, reads=True, busy_timeout_s=busy_timeout_s)
    except BaseException:
        db.close()
        raise
    return db


def is_still(path: Path) -> bool:
    """Whether nobody has a database open: it has no write-ahead log beside it, not even one that a crash left."""
    return not path.with_name(f"{path.name}-wal").exists()


def inspect(path: Path, *, whole: bool, still: bool = False, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
    """Raise Damaged (or another sqlite3.Error, OSError) unless this is a good database. Changes nothing in it.

    whole: read every page; else only the first one and the list of tables. SQLite has no checksums: bytes that were changed
    inside of a value are not seen. still: see `open_for_reading`.
    """
    if path.stat().st_size == 0:
        raise Damaged("the file is empty")  # SQLite would take it for a new one
    with closing(open_for_reading(path, still=still, busy_timeout_s=busy_timeout_s)) as db:
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if whole and (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise Damaged(" ".join(found.split()))


def inspect_copy(path: Path) -> None:
    """As `inspect`, with all indexes compared, for a file that nobody else has open; leaves nothing beside it. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as conn:
        if (found := conn.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise Damaged(" ".join(found.split()))


def checkpoint(db: Database, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> bool:
    """Move all of the write-ahead log into the file and cut it to nothing. False: a reader was in the way, try later."""
    db.execute("PRAGMA busy_timeout=0")  # else everything that waits to be written would wait for that reader
    try:
        return not db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        db.execute(f"PRAGMA busy_timeout={int(busy_timeout_s * 1000)}")


def vacuum(db: Database, pages: int) -> int:
    """Give up to `pages` unused pages back to the disk; returns how many are left. Refreshes the query planner's numbers.

    May be part of a transaction; the file gets smaller at the next checkpoint.
    """
    db.execute("PRAGMA optimize")
    unused = int(db.execute("PRAGMA freelist_count").fetchone()[0])
    now = min(pages, unused)
    for _ in range(now):  # the driver takes one step of a statement without rows, and that is one page
        db.execute("PRAGMA incremental_vacuum(1)")
    return unused - now


def compact(db: Database, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> bool:
    """Write the whole file anew, so that nothing of what was deleted is left in it: SQLite's own secure_delete leaves copies in the gaps of pages
    that were split before. Takes as much space again, beside the file. False: a reader was in the way, so the log still has the old pages."""
    os.environ["SQLITE_TMPDIR"] = str(path.parent.absolute())  # /tmp may be memory, or not for us to write
    db.execute("PRAGMA temp_store=FILE")  # of a name that is gone as soon as it is open
    try:
        db.execute("VACUUM")
    finally:
        db.execute("PRAGMA temp_store=MEMORY")
    return checkpoint(db, busy_timeout_s=busy_timeout_s)


@contextmanager
def without_foreign_keys(db: Database) -> Iterator[None]:
    """Foreign keys are not enforced meanwhile. To be entered and left outside of a transaction, where SQLite obeys."""
    db.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        db.execute("PRAGMA foreign_keys=ON")


@contextmanager
def no_commits(db: Database) -> Iterator[None]:
    """BEGIN, COMMIT and ROLLBACK are refused meanwhile ("not authorized"); savepoints are not."""
    # Setting an authorizer makes SQLite prepare all statements anew, so a COMMIT that was prepared before is refused as well.
    db.conn.set_authorizer(
        lambda action, *_: sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK
    )
    try:
        yield
    finally:
        db.conn.set_authorizer(None)


def remove(path: Path) -> None:
    """Remove a database that nobody has open, and what lies beside it."""
    for end in BESIDE:
        path.with_name(path.name + end).unlink(missing_ok=True)


@contextmanager
def made_beside(path: Path) -> Iterator[Path]:
    """A new name to make a database under; at the end that takes the name `path`, which must be free.

    So a program that is killed, or a full disk, leaves a whole database under that name or none. Raises OSError.
    """
    new = path.with_name(f"{path.name}.new")
    remove(new)
    try:
        yield new
        with open(new, "rb") as file:
            os.fsync(file.fileno())
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        new.rename(path)
        sync_folder(path.parent)
    finally:
        remove(new)


def copy(db: Database, target: Path) -> None:
    """A copy of all that is committed, as a file of its own (mode 0600). `target` must not exist. Raises OSError, sqlite3.Error."""
    with made_beside(target) as new:
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(sqlite3.connect(new)) as conn:
            db.conn.backup(conn)


@dataclass
class _Slot:
    db: Database
    identity: tuple[int, int] | None
    depth: int = 0
    stale: bool = False


class Readers:
    """One read-only connection for each thread that asks. Any thread.

    damaged: called (in the reading thread, must be quick) when a reader meets damage; `Writer.check` fits.
    """

    def __init__(
        self,
        path: Path,
        *,
        precious: bool = False,
        damaged: Callable[[], object] | None = None,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self.path = path
        self._precious, self._damaged, self._busy_timeout_s = precious, damaged, busy_timeout_s
        self._lock = threading.Lock()
        self._slots: dict[threading.Thread, _Slot] = {}
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """The thread's connection, and one state of the file for everything read within; keep it short.

        A file that was put in the place of the old one is opened anew. Raises StorageFailed, also in place of what SQLite
        raises within when the storage is at fault; Draining after `close`. Cursors and generators end with the block.
        """
        slot = self._enter()
        try:
            if slot.depth == 1:
                slot.db.execute("BEGIN")
            yield slot.db
        except sqlite3.Error as error:
            if fault_of(error) is None:
                raise
            slot.stale = True
            raise self._explained(error) from error
        finally:
            self._leave(slot)

    def close(self) -> None:
        """Close all connections; one that is being used is closed by its thread when that is done. Safe to call again."""
        with self._lock:
            self._closed = True
            for slot in self._slots.values():
                if not slot.depth:  # SQLite must not lose a connection while it works on it
                    slot.db.close()
            self._slots.clear()

    def _enter(self) -> _Slot:
        me = threading.current_thread()
        with self._lock:
            if self._closed:
                raise Draining("The service is stopping.")
            slot = self._slots.get(me)
            if slot and not slot.depth and (slot.stale or slot.identity != identity(self.path)):
                slot.db.close()
                del self._slots[me]
                slot = None
            if slot is None:
                for thread in [thread for thread in self._slots if not thread.is_alive()]:
                    self._slots.pop(thread).db.close()
                slot = self._slots[me] = self._open()
            slot.depth += 1
            return slot

    def _open(self) -> _Slot:
        seen = identity(self.path)  # before it is opened: if it changes meanwhile, it is opened once more
        try:
            return _Slot(open_for_reading(self.path, any_thread=True, busy_timeout_s=self._busy_timeout_s), seen)
        except (sqlite3.Error, OSError) as error:
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.Error | OSError) -> StorageFailed:
        if fault_of(error) == "damaged" and self._damaged:
            with suppress(ApplianceError):  # its queue is full, or it is closed
                self._damaged()
        return in_words(error, self.path, self._precious)

    def _leave(self, slot: _Slot) -> None:
        with self._lock:
            slot.depth -= 1
            if slot.depth:
                return
            if self._closed:
                slot.db.close()
            elif slot.db.conn.in_transaction:
                slot.db.rollback()
