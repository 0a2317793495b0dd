"""Who used which model how much, by the hour: what the charts of the last days and the figures of each key are made of.

Kept in usage.db, which may be deleted at any time. Numbers only, never text.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from sqlite_utils import Database

from appliance.db.migrations import Migration, Schema
from appliance.db.writer import Writer
from appliance.errors import ApplianceError

FILE = "usage.db"
FLUSH_S = 30.0
KEPT_H = 400 * 24
HOUR_S, DAY_H = 3600, 24
SHOWN = 30
"""Days."""
OPEN_S = 60.0
MOST_ROWS = 20_000
"""In memory: what more keys and models use is counted together."""
OTHERS = "others"
SCHEMA = Schema(
    "usage",
    (
        Migration(
            "usage",
            """
            CREATE TABLE usage (
                hour INTEGER NOT NULL, who TEXT NOT NULL, model TEXT NOT NULL, requests INTEGER NOT NULL, failed INTEGER NOT NULL, hits INTEGER NOT NULL,
                prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL, begun INTEGER NOT NULL, first_token_s REAL NOT NULL,
                PRIMARY KEY (hour, who, model)
            ) WITHOUT ROWID;
            """,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Amount:
    """requests: answered or failed. hits: answered from memory. seconds: of all requests. begun: answers that had a first token, after
    first_token_s seconds in all."""

    requests: int = 0
    failed: int = 0
    hits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    begun: int = 0
    first_token_s: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


COLUMNS = tuple(field.name for field in fields(Amount))
SUMS = ", ".join(f"sum({name})" for name in COLUMNS)


class Usage:
    """`tick` by one thread, the rest by any. `open` before use. The last SHOWN days are in memory, so that no page waits for the file."""

    def __init__(self, folder: Path, log: Callable[[str, str], None], *, now: Callable[[], float] = time.time) -> None:
        self._path, self._log, self._now = folder / FILE, log, now
        self._lock = threading.Lock()
        self._pending: dict[tuple[int, str, str], Amount] = {}  # by hour, who, model
        self._known: dict[tuple[int, str, str], Amount] = {}  # by day, who, model
        self._writer: Writer | None = None
        self._flushed = self._forgot = 0.0

    def open(self) -> None:
        """Open the file, read the last days and begin to write. Raises StorageFailed, OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = Writer(self._path, SCHEMA, precious=False, log=self._log)
        sql = f"SELECT hour / {DAY_H}, who, model, {SUMS} FROM usage WHERE hour >= ? GROUP BY 1, 2, 3"
        rows = self._writer.do(lambda db: db.execute(sql, [self._first_day() * DAY_H]).fetchall(), OPEN_S)
        with self._lock:
            for day, who, model, *values in rows:
                self._known[day, who, model] = Amount(*values)

    def note(self, who: str, model: str, amount: Amount) -> None:
        """Count a request."""
        with self._lock:
            hour = int(self._now() // HOUR_S)
            _add(self._pending, hour, who, model, amount)
            _add(self._known, hour // DAY_H, who, model, amount)

    def tick(self) -> None:
        """Write down what was counted, now and then; forget what is older than a year."""
        if self._now() - self._flushed >= FLUSH_S:
            self._flushed = self._now()
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            return
        with self._lock:
            pending, self._pending = self._pending, {}
            self._known = {key: amount for key, amount in self._known.items() if key[0] >= self._first_day()}
        before = int(self._now() // HOUR_S) - KEPT_H if self._now() - self._forgot > DAY_H * HOUR_S else None
        if not pending and before is None:
            return
        try:
            self._writer.submit(lambda db: _write(db, pending, before))
            self._forgot = self._now() if before else self._forgot
        except ApplianceError as error:
            self._log("warning", f"The usage of the last minutes is lost: {error}")

    def days(self) -> list[tuple[int, Amount]]:
        """(day since 1970 in UTC, the amount) of the last SHOWN days, the oldest first; today is the last."""
        first = self._first_day()
        found = {day: Amount() for day in range(first, first + SHOWN)}
        for (day, _, _), amount in self._all():
            if day in found:
                found[day] += amount
        return sorted(found.items())

    def by(self, column: Literal["who", "model"]) -> dict[str, Amount]:
        """The amounts of the last SHOWN days, the most requests first."""
        found: dict[str, Amount] = {}
        for (day, who, model), amount in self._all():
            name = who if column == "who" else model
            if day >= self._first_day():
                found[name] = found.get(name, Amount()) + amount
        return dict(sorted(found.items(), key=lambda item: -item[1].requests))

    def forget(self, who: str) -> None:
        """Take a name out of what is in memory and not yet written; the rows are `trail.forget`'s."""
        with self._lock:
            for known in (self._pending, self._known):
                for key in [key for key in known if key[1].casefold() == who.casefold()]:
                    del known[key]

    def close(self) -> None:
        """Write down the rest and end. Safe to call again, and before `open`."""
        if self._writer:
            self._flush()
            self._writer.close()
            self._writer = None

    def _first_day(self) -> int:
        return int(self._now() // (DAY_H * HOUR_S)) - SHOWN + 1

    def _all(self) -> list[tuple[tuple[int, str, str], Amount]]:
        with self._lock:
            return list(self._known.items())


def _add(found: dict[tuple[int, str, str], Amount], at: int, who: str, model: str, amount: Amount) -> None:
    key = (at, who, model) if (at, who, model) in found or len(found) < MOST_ROWS else (at, OTHERS, OTHERS)
    found[key] = found.get(key, Amount()) + amount


def _write(db: Database, pending: Mapping[tuple[int, str, str], Amount], forget_before: int | None) -> None:
    changes = ", ".join(f"{name} = {name} + excluded.{name}" for name in COLUMNS)
    places = ", ".join("?" * (3 + len(COLUMNS)))
    sql = f"INSERT INTO usage (hour, who, model, {', '.join(COLUMNS)}) VALUES ({places}) ON CONFLICT DO UPDATE SET {changes}"
    for key, amount in pending.items():
        db.execute(sql, [*key, *astuple(amount)])
    if forget_before is not None:
        db.execute("DELETE FROM usage WHERE hour < ?", [forget_before])
