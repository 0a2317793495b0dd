"""Rows of cache.db: answers that were generated, found by the digest of the whole request or by their number.

The file may be lost at any time; nothing in it is precious. Vectors are kept with 16 bits a number: what was searched with
fewer is scored again with these.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlite_utils import Database

from appliance.cache.identity import Identity
from appliance.db.migrations import Migration, Schema

LIVE, QUARANTINED, SUSPECT = "live", "quarantined", "suspect"
"""States. quarantined: made by a model that is no longer served. suspect: a hit on it was judged wrong, so it answers equal requests only."""

SCHEMA = Schema(
    "cache",
    (
        Migration(
            "answers",
            """
            CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
            INSERT INTO meta VALUES ('file', lower(hex(randomblob(16)))), ('place', '0');
            CREATE TABLE answers (
                id INTEGER PRIMARY KEY AUTOINCREMENT, exact BLOB NOT NULL UNIQUE, partition BLOB NOT NULL, namespace TEXT NOT NULL, model TEXT NOT NULL,
                model_name TEXT NOT NULL, question TEXT NOT NULL, vector BLOB, place INTEGER, request TEXT NOT NULL, answer TEXT NOT NULL,
                prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost_s REAL NOT NULL, created REAL NOT NULL,
                used REAL NOT NULL, expires REAL, hits INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL, tags TEXT NOT NULL DEFAULT '[]',
                state TEXT NOT NULL DEFAULT 'live'
            );
            CREATE TABLE near (
                id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, asked TEXT NOT NULL, remembered TEXT NOT NULL, cosine REAL NOT NULL,
                score REAL, why TEXT NOT NULL, at REAL NOT NULL
            );
            CREATE INDEX answers_place ON answers (place) WHERE place IS NOT NULL;
            CREATE INDEX answers_namespace ON answers (namespace);
            CREATE INDEX answers_expires ON answers (expires) WHERE expires IS NOT NULL;
            """,
        ),
        Migration(
            "what was useful of models that are gone",
            "CREATE INDEX answers_outdated ON answers (hits * cost_s) WHERE state = 'quarantined' AND hits > 0;",
        ),
        Migration("most used", "CREATE INDEX answers_hits ON answers (hits DESC, id DESC);"),
    ),
)
COLUMNS = "id, partition, namespace, model, model_name, question, answer, prompt_tokens, completion_tokens, cost_s, created, expires, hits, tags, state"
MOST_NEAR = 2000
WORTH = "cost_s * (hits + 0.5) / (60.0 + ? - used)"
OVERHEAD_BYTES = 200
"""Of a row beside its texts and its vector: the digests, the numbers and the indexes."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A remembered answer. Times are Unix seconds; cost_s: what generating it took. id: None while it is not written."""

    id: int | None
    partition: bytes
    namespace: str
    model: str
    model_name: str
    question: str
    answer: str
    prompt_tokens: int
    completion_tokens: int
    cost_s: float
    created: float
    expires: float | None
    hits: int
    tags: str
    state: str

    def usable(self, now: float, fresh_s: float | None) -> bool:
        """Whether it may answer an equal request now."""
        if self.state == QUARANTINED or (self.expires is not None and self.expires <= now):
            return False
        return fresh_s is None or now - self.created <= fresh_s


@dataclass(frozen=True, slots=True)
class Near:
    """A question that nearly had a hit. remembered: the nearest question; cosine, score, why: what was thought of it. at: Unix seconds."""

    namespace: str
    asked: str
    remembered: str
    cosine: float
    score: float | None
    why: str
    at: float


@dataclass(frozen=True, slots=True)
class NewAnswer:
    """What is put in. request: what it takes to ask again, as JSON."""

    identity: Identity
    model_name: str
    request: str
    answer: str
    prompt_tokens: int
    completion_tokens: int
    cost_s: float
    ttl_s: float | None
    tags: Sequence[str] = ()

    def expires(self, now: float) -> float | None:
        """When it is forgotten, in Unix seconds."""
        return None if self.ttl_s is None else now + self.ttl_s

    def as_row(self, now: float) -> Remembered:
        """What will be found once it is written; without a number."""
        who = self.identity
        return Remembered(
            None, who.partition, who.namespace, who.model, self.model_name, who.question, self.answer, self.prompt_tokens,
            self.completion_tokens, self.cost_s, now, self.expires(now), 0, json.dumps(sorted(set(self.tags))), LIVE,
        )  # fmt: skip


def put(db: Database, new: NewAnswer, now: float, vector: np.ndarray | None = None) -> int:
    """Insert or replace; returns the row's number. A replaced row keeps its number."""
    who = new.identity
    blob = None if vector is None else vector.astype(np.float16).tobytes()
    size = OVERHEAD_BYTES + len(blob or b"") + sum(len(text.encode()) for text in (who.question, new.request, new.answer))
    row = {
        "exact": who.exact, "partition": who.partition, "namespace": who.namespace, "model": who.model, "model_name": new.model_name,
        "question": who.question, "vector": blob, "place": None if blob is None else _next_place(db), "request": new.request, "answer": new.answer, "prompt_tokens": new.prompt_tokens,
        "completion_tokens": new.completion_tokens, "cost_s": new.cost_s, "created": now, "used": now,
        "expires": new.expires(now), "bytes": size, "tags": json.dumps(sorted(set(new.tags))), "state": LIVE,
    }  # fmt: skip
    names = ", ".join(row)
    changes = ", ".join(f"{name} = excluded.{name}" for name in row if name != "exact")
    sql = f"INSERT INTO answers ({names}) VALUES ({', '.join('?' * len(row))}) ON CONFLICT (exact) DO UPDATE SET {changes} RETURNING id"
    return int(db.execute(sql, list(row.values())).fetchone()[0])


def _next_place(db: Database) -> int:
    """A row's place in the order in which rows became searchable: an index that has all rows up to a place needs those behind it."""
    return int(db.execute("UPDATE meta SET value = value + 1 WHERE name = 'place' RETURNING value").fetchone()[0])


def set_vector(db: Database, number: int, vector: np.ndarray) -> None:
    """Make a row searchable after it was put in."""
    db.execute("UPDATE answers SET vector = ?, place = ? WHERE id = ?", [vector.astype(np.float16).tobytes(), _next_place(db), number])


def file_id(db: Database) -> str:
    """What tells this file from the one that was here before it."""
    return str(db.execute("SELECT value FROM meta WHERE name = 'file'").fetchone()[0])


def rename(db: Database) -> None:
    """Make every index of this file stale."""
    db.execute("UPDATE meta SET value = lower(hex(randomblob(16))) WHERE name = 'file'")


def by_digest(db: Database, exact: bytes) -> Remembered | None:
    """The answer to an equal request."""
    row = db.execute(f"SELECT {COLUMNS} FROM answers WHERE exact = ?", [exact]).fetchone()
    return Remembered(*row) if row else None


def by_number(db: Database, numbers: Iterable[int]) -> dict[int, Remembered]:
    """Those that are still there."""
    wanted = list(numbers)
    marks = ", ".join("?" * len(wanted))
    return {row[0]: Remembered(*row) for row in db.execute(f"SELECT {COLUMNS} FROM answers WHERE id IN ({marks})", wanted)}


def vectors(db: Database, after: int, most: int) -> list[tuple[int, int, bytes, np.ndarray]]:
    """(place, number, partition, vector) of searchable rows behind a place, in order."""
    sql = "SELECT place, id, partition, vector FROM answers WHERE place > ? ORDER BY place LIMIT ?"
    return [(place, number, partition, np.frombuffer(blob, np.float16).astype(np.float32)) for place, number, partition, blob in db.execute(sql, [after, most])]


def used(db: Database, number: int, now: float) -> None:
    """Count a hit."""
    db.execute("UPDATE answers SET hits = hits + 1, used = ? WHERE id = ?", [now, number])


def set_state(db: Database, numbers: Iterable[int], state: str) -> None:
    """live, quarantined or suspect."""
    db.conn.executemany("UPDATE answers SET state = ? WHERE id = ?", [(state, number) for number in numbers])


def outdated(db: Database) -> Remembered | None:
    """The answer of a model that is not served any more that saved the most."""
    sql = f"SELECT {COLUMNS} FROM answers WHERE state = '{QUARANTINED}' AND hits > 0 ORDER BY hits * cost_s DESC LIMIT 1"
    row = db.execute(sql).fetchone()
    return Remembered(*row) if row else None


def was_renewed(db: Database, number: int) -> None:
    """Its question is not asked again; from now on nobody has used it."""
    db.execute("UPDATE answers SET hits = 0 WHERE id = ?", [number])


def quarantine_others(db: Database, models: Sequence[str]) -> int:
    """Answers of models that are not among these digests are quarantined, those of these come back; how many were quarantined."""
    marks = ", ".join("?" * len(models)) or "''"
    back = f"UPDATE answers SET state = '{LIVE}' WHERE state = '{QUARANTINED}' AND model IN ({marks})"
    away = f"UPDATE answers SET state = '{QUARANTINED}' WHERE state = '{LIVE}' AND model NOT IN ({marks})"
    db.execute(back, list(models))
    return db.execute(away, list(models)).rowcount


@dataclass(frozen=True, slots=True)
class Selection:
    """Which answers: all conditions together; none at all means every answer."""

    namespace: str | None = None
    model: str | None = None
    tag: str | None = None
    older_than_s: float | None = None
    text: str | None = None
    numbers: tuple[int, ...] = ()

    def where(self, now: float) -> tuple[str, list[Any]]:
        """SQL and its values. model: the served name or the digest. text: part of a question or an answer, in any case."""
        terms: list[tuple[str, list[Any]]] = []
        if self.namespace is not None:
            terms.append(("(namespace = ? OR substr(namespace, 1, ?) = ?)", [self.namespace, len(self.namespace) + 1, f"{self.namespace}/"]))
        if self.model is not None:
            terms.append(("(model_name = ? OR model = ?)", [self.model, self.model]))
        if self.tag is not None:
            terms.append(("EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)", [self.tag]))
        if self.older_than_s is not None:
            terms.append(("created < ?", [now - self.older_than_s]))
        if self.text is not None:
            terms.append(("(instr(lower(question), lower(?)) OR instr(lower(answer), lower(?)))", [self.text, self.text]))
        if self.numbers:
            terms.append((f"id IN ({', '.join('?' * len(self.numbers))})", list(self.numbers)))
        return " AND ".join(sql for sql, _ in terms) or "1", [value for _, values in terms for value in values]


def purge(db: Database, which: Selection, now: float) -> list[tuple[int, bytes]]:
    """Remove; returns (number, partition) of what was removed."""
    sql, values = which.where(now)
    return [tuple(row) for row in db.execute(f"DELETE FROM answers WHERE {sql} RETURNING id, partition", values)]


def expire(db: Database, now: float) -> list[tuple[int, bytes]]:
    """Remove what is past its time."""
    return [tuple(row) for row in db.execute("DELETE FROM answers WHERE expires <= ? RETURNING id, partition", [now])]


def evict(db: Database, entries: int, size: int, now: float) -> list[tuple[int, bytes]]:
    """Remove the least valuable until there are at most `entries` answers of `size` bytes; returns what was removed.

    An answer is worth the time it saves: what it cost, as often as it is used in the time since it was made. One that was
    never used fades as it gets older.
    """
    gone: list[tuple[int, bytes]] = []
    while True:
        count, total = db.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM answers").fetchone()
        if count <= entries and total <= size:
            return gone
        some = max(count - entries, math.ceil((total - size) * count / total)) + count // 100  # room for a while
        worst = f"SELECT id FROM answers ORDER BY {WORTH} LIMIT ?"
        gone += db.execute(f"DELETE FROM answers WHERE id IN ({worst}) RETURNING id, partition", [now, some]).fetchall()


def note_near(db: Database, near: Near) -> None:
    """Keep a near miss; of many only the last MOST_NEAR."""
    values = [near.namespace, near.asked, near.remembered, near.cosine, near.score, near.why, near.at]
    db.execute("INSERT INTO near (namespace, asked, remembered, cosine, score, why, at) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    db.execute("DELETE FROM near WHERE id <= (SELECT max(id) FROM near) - ?", [MOST_NEAR])


def near_misses(db: Database, most: int = 100) -> list[Near]:
    """The newest first."""
    return [Near(*row) for row in db.execute("SELECT namespace, asked, remembered, cosine, score, why, at FROM near ORDER BY id DESC LIMIT ?", [most])]


def search(db: Database, which: Selection, now: float, most: int) -> list[Remembered]:
    """Those that fit, the most used first."""
    sql, values = which.where(now)
    return [Remembered(*row) for row in db.execute(f"SELECT {COLUMNS} FROM answers WHERE {sql} ORDER BY hits DESC, id DESC LIMIT ?", [*values, most])]


def request_of(db: Database, number: int) -> dict[str, Any] | None:
    """What the answer was given to: `prompt`, `sampling`, `stop`."""
    row = db.execute("SELECT request FROM answers WHERE id = ?", [number]).fetchone()
    return json.loads(row[0]) if row else None


def totals(db: Database) -> dict[str, Any]:
    """Numbers for people: answers, bytes, hits, seconds saved, and answers by namespace, model and state."""
    count, size, hits, saved = db.execute(
        "SELECT count(*), coalesce(sum(bytes), 0), coalesce(sum(hits), 0), coalesce(sum(hits * cost_s), 0.0) FROM answers"
    ).fetchone()
    found: dict[str, Any] = {"answers": count, "bytes": size, "hits": hits, "saved_s": round(saved, 3)}
    for name in ("namespace", "model_name", "state"):
        found[f"by_{name}"] = dict(db.execute(f"SELECT {name}, count(*) FROM answers GROUP BY {name} ORDER BY 2 DESC LIMIT 50").fetchall())
    return found
