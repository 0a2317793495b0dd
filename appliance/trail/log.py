"""The audit log as the service and the commands have it. Any thread, and several processes.

It has a file of its own, audit.db: it must be there when the cache is off, and a backup of access.db or state.db that is put back must not
take back what the log says. Precious: an entry is on the disk when its call returns.

The head, which is the number and the hash of the last entry, is kept beside it in audit.head and is told in the service's log once a day, so
that an end that is cut off is missed. Whoever is root may rewrite all of that, and what is left of the log of the service; only a head that
was noted elsewhere (a journal that is sent on, a sheet of paper) shows it: `appliance audit verify --head NUMBER:HASH`.

An action whose entry cannot be written is done all the same, and the log of the service has it as an error: what frees a full disk are actions
too, and this box has nobody who could log in from outside. Until the service ends it goes on trying to write it; on a disk that hung it may then stand there twice. Between an action and its entry
the power may fail; nobody was told then that it was done.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from appliance.clock import utc_date
from appliance.db.connection import Readers, open_for_reading
from appliance.db.writer import Writer
from appliance.errors import ApplianceError, StorageFailed
from appliance.storage import write_atomically
from appliance.trail import entries
from appliance.trail.entries import Act, By, Entry, Fault, Head, Wish

FILE, HEAD_FILE = "audit.db", "audit.head"
WRITE_WAIT_S = 10.0
MOST_PENDING = 1000
WORDS_AN_ENTRY = 200
SERVICE = By("service")


class Trail:
    """See the module. `open` before use; the constructor starts nothing."""

    def __init__(self, folder: Path, log: Callable[[str, str], None], *, now: Callable[[], float] = time.time) -> None:
        self._folder, self._log, self._now = folder, log, now
        self._pending: deque[Act] = deque()
        self._writing = threading.Lock()
        self._opened = False
        self._told = ""

    def open(self) -> None:
        """Open the file, or make it, and begin to write. Raises StorageFailed, OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = Writer(self._folder / FILE, entries.SCHEMA, precious=True, log=self._log, now=self._now)
        self._readers = Readers(self._folder / FILE, precious=True, damaged=self._writer.check)
        self._opened = True
        if read_head(self._folder) is None and self._writer.do(entries.last, WRITE_WAIT_S) == entries.NOTHING:
            self._keep(entries.NOTHING)  # from the beginning, so that a missing one means something

    def close(self) -> None:
        """End the writing thread. Safe to call again, and before `open`."""
        if self._opened:
            self._opened = False
            self._readers.close()
            self._writer.close()

    @property
    def is_open(self) -> bool:
        """Whether entries can be written."""
        return self._opened

    # -- writing -------------------------------------------------------------------------------------------------------

    def note(self, by: By, action: str, object: str = "", **detail: Any) -> None:
        """Write down that somebody did something; it is on the disk when this returns. Never raises for the storage, see the module."""
        self.note_all([Act(self._now(), by, action, object, detail)])

    def note_all(self, acts: Sequence[Act]) -> None:
        """The same for several things, all or none."""
        if unknown := {act.action for act in acts} - entries.ACTIONS:
            raise ValueError(f"{unknown} is no action of the audit log: see entries.ACTIONS")
        self._pending.extend(acts)
        try:
            self._write()
        except (ApplianceError, OSError) as error:
            with self._writing:
                while len(self._pending) > MOST_PENDING:
                    self._pending.popleft()
            for act in acts:
                told = f"{act.action} {act.object!r} by {act.by.kind} {act.by.name!r} {json.dumps(act.detail, default=str)}"
                self._log("error", f"The audit log could not be written ({error}); what it lacks: {told}")

    def changed(self, by: By, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Write down which settings have another value; None: none of their own. before, after: without secrets, or masked as Config.shown has them."""
        names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
        acts = [Act(self._now(), by, "settings.change", name, {"from": before.get(name), "to": after.get(name)}) for name in names]
        if acts:
            self.note_all(acts)

    def started(self, version: str) -> None:
        """The service was started, and where that is so, as another version than the last time. Raises StorageFailed."""
        former = self.search(Wish(action="service.start"), 1)
        self.note(SERVICE, "service.start", version)
        if former and former[0].object != version:
            self.note(SERVICE, "service.update", version, before=former[0].object)

    def forget(self, by: By, names: Sequence[str], **detail: Any) -> int:
        """Take these names, and what holds one of them, out of all entries; the numbers that stand for them are told by an entry. How many words
        it were. detail: more for that entry. Raises StorageFailed. The bytes are gone after Writer.compact."""
        self._write()  # what waits may have the name as well
        head = read_head(self._folder)

        def work(db: Database) -> tuple[int, Head, bool]:
            numbers = entries.numbers_of(db, names)
            entries.erase(db, numbers)
            parts = [numbers[at:at + WORDS_AN_ENTRY] for at in range(0, len(numbers), WORDS_AN_ENTRY)] or [[]]
            who = replace(by, name="") if by.name.casefold() in map(str.casefold, names) else by  # who forgets may be the one who is forgotten
            acts = [Act(self._now(), who, entries.FORGET, f"forgotten {part[0]}" if part else "", {"words": part, **detail}) for part in parts]
            return len(numbers), *entries.append(db, acts, head)

        count, fresh, cut = self._writer.do(work, WRITE_WAIT_S)
        self._follow(fresh, cut)
        return count

    def compact(self) -> bool:
        """See Writer.compact."""
        return self._writer.compact().result()

    def tick(self) -> None:
        """Try again to write what could not be written; tell the head once a day. Never raises."""
        if not self._opened:
            return
        try:
            if self._pending:
                self._write()
            if self._told != utc_date(self._now()):
                self._told = utc_date(self._now())
                head = self.head()
                self._log("info", f"The audit log ends with {head.number}:{head.hash}")
        except (ApplianceError, OSError):
            return  # the writer has told it

    def _write(self) -> None:
        if not self._opened:
            raise StorageFailed("The audit log is not open.", remedy="The log of the service says why.")
        with self._writing:
            acts = list(self._pending)
            if not acts:
                return
            head = read_head(self._folder)
            fresh, cut = self._writer.do(lambda db: entries.append(db, acts, head), WRITE_WAIT_S)
            for _ in acts:
                self._pending.popleft()
        self._follow(fresh, cut)

    def _follow(self, fresh: Head, cut: bool) -> None:
        """The file with the head; it may be behind, as another process may have been faster, but never before the log."""
        if cut:
            self._log("error", "The end of the audit log was missing, or the file with its head: somebody removed it, or put back an old backup. `appliance audit verify` says more.")
        known = read_head(self._folder)
        if cut or known is None or known.number < fresh.number:
            self._keep(fresh)

    def _keep(self, head: Head) -> None:
        try:
            write_atomically(self._folder / HEAD_FILE, f"{head.number}:{head.hash}\n".encode())
        except OSError as error:
            self._log("error", f"{self._folder / HEAD_FILE} could not be written: {error}")

    # -- reading -------------------------------------------------------------------------------------------------------

    def search(self, wish: Wish, most: int = -1) -> list[Entry]:
        """The newest first. Raises StorageFailed."""
        with self._readers.reading() as db:
            return entries.search(db, wish, most)

    def head(self) -> Head:
        """The last entry. Raises StorageFailed."""
        with self._readers.reading() as db:
            return entries.last(db)

    def verify(self) -> tuple[int, Fault | None]:
        """See entries.verify. Raises StorageFailed."""
        head = read_head(self._folder)  # before the log is looked at: what comes meanwhile is no fault
        with self._readers.reading() as db:
            return entries.verify(db, head)

    @property
    def reason(self) -> str:
        """Why nothing can be written, '' while it can."""
        if not self._opened:
            return "The audit log is not open; the log of the service says why."
        return self._writer.health.reason


def write_head(folder: Path) -> None:
    """The file with the head as the log in the folder ends: for one that was put back on another box. Raises OSError, sqlite3.Error."""
    with closing(open_for_reading(folder / FILE)) as db:
        head = entries.last(db)
    write_atomically(folder / HEAD_FILE, f"{head.number}:{head.hash}\n".encode())


def read_head(folder: Path) -> Head | None:
    """What audit.head says; None where it is missing or says nothing."""
    try:
        return parse_head((folder / HEAD_FILE).read_text("ascii"))
    except (OSError, ValueError):
        return None


def parse_head(text: str) -> Head:
    """Of NUMBER:HASH. Raises ValueError."""
    number, _, digest = text.strip().partition(":")
    if len(bytes.fromhex(digest)) != 32:
        raise ValueError("a hash has 64 hexadecimal digits")
    return Head(int(number), digest.lower())
