"""Forgetting a person or a key: whatever the files of the data folder keep under that name. Works beside a running service.

Found by the name alone: what a person asked with a key that others use as well, or in a namespace that keys share, is nobody's in particular.
Whoever adds a table with names, or with what people wrote, adds it here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from appliance import usage
from appliance.access import people
from appliance.access import service as access
from appliance.auth import Auth
from appliance.cache import answers, reviewed
from appliance.cache.policy import OWN, read_shares
from appliance.cache.service import ANSWERS_FILE, INDEX_FOLDER, STATE_FILE
from appliance.config import SAVED_FILE, Config, data_dir
from appliance.db.migrations import Schema
from appliance.db.writer import Writer
from appliance.errors import InvalidRequest
from appliance.jobs import Jobs
from appliance.saved_settings import BEFORE
from appliance.trail.entries import By, pattern_of
from appliance.trail.log import Trail

WAIT_S, COMPACT_S = 60.0, 1800.0
TRIES = 5
"""A reader of the running service may be in the way for a moment."""
FILES: dict[str, tuple[Schema, bool]] = {
    access.FILE: (people.SCHEMA, True), ANSWERS_FILE: (answers.SCHEMA, False), STATE_FILE: (reviewed.SCHEMA, True), usage.FILE: (usage.SCHEMA, False),
}  # fmt: skip
Log = Callable[[str, str], None]


@dataclass
class Forgotten:
    """removed: what, and how many. stays: sentences about what still has the name, and why."""

    removed: dict[str, int] = field(default_factory=dict)
    stays: list[str] = field(default_factory=list)


def forget(config: Config, name: str, trail: Trail, by: By, log: Log, *, account: bool) -> Forgotten:
    """Forget a name. account: the person's account as well, and the key, which is good no more; without that, those who have one keep it, and
    the audit log keeps their name. Takes a minute for gigabytes of answers. Raises InvalidRequest for the last administrator; then nothing is
    changed. Raises StorageFailed; then it can be called again.
    """
    folder = data_dir(config)
    name = people.checked_name(name)
    if name.casefold() in access.RESERVED:
        raise InvalidRequest(f"{name!r} is a name of the service itself.", param="name", remedy="Purge its answers instead: appliance cache purge --namespace of:NAME")
    found = Forgotten()
    with ExitStack() as stack:
        files = {
            file: stack.enter_context(Writer(folder / file, schema, precious=precious, log=log))
            for file, (schema, precious) in FILES.items() if (folder / file).exists()
        }  # fmt: skip
        names, kept = [name], False

        def work(file: str, change: Callable[[Database], Any]) -> Any:
            return files[file].do(change, WAIT_S) if file in files else {}

        def count(file: str, change: Callable[[Database, Sequence[str]], dict[str, int]]) -> None:
            found.removed.update(work(file, lambda db: change(db, names)))

        if access.FILE in files:
            names = work(access.FILE, lambda db: _spellings(db, name))
            found.removed |= work(access.FILE, lambda db: _access(db, names, account, time.time()))
            kept = not account and work(access.FILE, lambda db: _has_account(db, names))
        count(ANSWERS_FILE, _answers)
        count(STATE_FILE, lambda db, names: _state(db, names, kept))
        count(usage.FILE, _usage)
        found.removed["jobs"] = _jobs(folder, names, log)
        for path in [*folder.glob(f"{INDEX_FOLDER}/*"), *folder.glob("*.corrupt-*")]:  # made anew from the rows; copies of what was damaged
            path.unlink(missing_ok=True)
        for file, writer in files.items():
            _compact(writer, found, file)
    if kept:
        found.stays.append(f"The account or key {name!r} stays, and so does its name in the audit log.")
    told = {what: number for what, number in found.removed.items() if number}
    words = 0 if kept else trail.forget(by, names, removed=told)
    if kept:
        trail.note(by, "person.forget", name, removed=told)
    found.removed["names in the audit log"] = words
    if not kept and not trail.compact():
        found.stays.append("The audit log's write-ahead log still has old pages: forget the name once more in a while.")
    _look_at_settings(config, names, found)
    found.stays += ["Backups have the name until they expire, and the journal of the system as long as it keeps lines.", "A running service may have it in memory until it is started again."]
    return found


def _compact(writer: Writer, found: Forgotten, file: str) -> None:
    done = writer.compact().result(COMPACT_S)
    for _ in range(TRIES):
        if done:
            return
        time.sleep(0.2)
        done = writer.checkpoint().result(WAIT_S)
    found.stays.append(f"The write-ahead log of {file} still has old pages, because somebody reads it all the time: forget the name once more in a while.")


def _spellings(db: Database, name: str) -> list[str]:
    """As it was given, and as accounts and keys have it: they are found in whatever case."""
    rows = db.execute("SELECT name FROM people WHERE name = ? UNION SELECT name FROM keys WHERE name = ?", [name, name]).fetchall()
    return sorted({name, *(row[0] for row in rows)})


def _has_account(db: Database, names: Sequence[str]) -> bool:
    marks = _marks(names)
    return db.execute(f"SELECT 1 FROM people WHERE name IN ({marks}) UNION SELECT 1 FROM keys WHERE name IN ({marks})", [*names, *names]).fetchone() is not None


def _access(db: Database, names: Sequence[str], account: bool, now: float) -> dict[str, int]:
    """A key's row stays without its name: a box that had a key must not open to everybody because it forgot one."""
    marks = _marks(names)
    person = f"SELECT id FROM people WHERE name IN ({marks})"
    removed = {"sessions": db.execute(f"DELETE FROM sessions WHERE person_id IN ({person})", names).rowcount}
    if account:
        found = [number for (number,) in db.execute(person, names)]
        for number in found:
            people.remove(db, number)
        sql = f"UPDATE keys SET name = 'forgotten ' || id, hint = '', digest = randomblob(32), revoked = coalesce(revoked, ?) WHERE name IN ({marks})"
        removed |= {"accounts": len(found), "keys": db.execute(sql, [now, *names]).rowcount}
        db.execute(f"UPDATE keys SET made_by = '' WHERE made_by IN ({marks})", names)
    return removed


def _answers(db: Database, names: Sequence[str]) -> dict[str, int]:
    removed = {"remembered answers": 0, "near misses": 0}
    for name in names:
        where, values = answers.Selection(namespace=OWN + name).where(0.0)
        removed["remembered answers"] += db.execute(f"DELETE FROM answers WHERE {where}", values).rowcount
        removed["near misses"] += db.execute(f"DELETE FROM near WHERE {where}", values).rowcount
    if removed["remembered answers"]:
        answers.rename(db)  # so that a running service makes its index anew
    return removed


def _state(db: Database, names: Sequence[str], kept: bool) -> dict[str, int]:
    """Verdicts stay as numbers, because how sure the cache has to be follows from them; reviewed answers that hold for others stay as well."""
    removed = {"reviewed answers": 0, "verdicts": 0}
    for name in names:
        where, values = answers.Selection(namespace=OWN + name).where(0.0)
        removed["reviewed answers"] += db.execute(f"DELETE FROM reviewed WHERE {where}", values).rowcount
        sql = f"UPDATE verdicts SET namespace = 'forgotten', asked = '', remembered = '', judge = '' WHERE {where} OR judge = ?"
        removed["verdicts"] += db.execute(sql, [*values, name]).rowcount
        if not kept:
            db.execute("UPDATE reviewed SET owner = 'somebody' WHERE owner = ?", [name])
    return removed


def _usage(db: Database, names: Sequence[str]) -> dict[str, int]:
    return {"hours of usage": db.execute(f"DELETE FROM usage WHERE who IN ({_marks(names)})", names).rowcount}


def _jobs(folder: Path, names: Sequence[str], log: Log) -> int:
    jobs = Jobs(folder / "jobs", {}, log)
    jobs.open()
    return jobs.forget(names, pattern_of(names))


def _look_at_settings(config: Config, names: Sequence[str], found: Forgotten) -> None:
    folder, auth, shares = data_dir(config), Auth.from_config(config), read_shares(config.cache_share)
    for name in names:
        if auth.configured(name):
            found.stays.append(f"The configuration has a key named {name!r}, which is good as before.")
        if name in shares:
            found.stays.append(f"Answers in the namespace {shares[name]!r} stay: nobody can tell whose they are (cache_share).")
    for file in (SAVED_FILE, BEFORE):
        try:
            if pattern_of(names).search((folder / file).read_text("utf-8")):
                found.stays.append(f"{file} names it: change that setting in the page Settings.")
        except (OSError, UnicodeDecodeError):
            continue


def _marks(names: Sequence[str]) -> str:
    return ", ".join("?" * len(names))
