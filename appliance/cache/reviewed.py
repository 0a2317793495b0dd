"""Rows of state.db: answers that a person wrote or approved, with the phrasings they answer, and what people said of hits.

Precious: a row is on the disk when its call returns. Reviewed answers are of no model, so they survive a change of models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlite_utils import Database

from appliance.cache.budget import Judged
from appliance.db.migrations import Migration, Schema
from appliance.errors import InvalidRequest, NotFound
from appliance.types import ChatPrompt, GenerationRequest

LIVE, REJECTED = "live", "rejected"
CHARS_A_TOKEN = 4
"""About; reviewed answers are of no model, so their tokens cannot be counted."""
RIGHT, WRONG = "right", "wrong"

SCHEMA = Schema(
    "state",
    (
        Migration(
            "reviewed",
            """
            CREATE TABLE reviewed (
                id INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL, context BLOB NOT NULL, answer TEXT NOT NULL, owner TEXT NOT NULL,
                source TEXT NOT NULL DEFAULT '', reviewed REAL NOT NULL, expires REAL, state TEXT NOT NULL DEFAULT 'live',
                hits INTEGER NOT NULL DEFAULT 0, tags TEXT NOT NULL DEFAULT '[]'
            );
            CREATE TABLE phrasings (
                id INTEGER PRIMARY KEY AUTOINCREMENT, reviewed_id INTEGER NOT NULL REFERENCES reviewed (id) ON DELETE CASCADE, question TEXT NOT NULL,
                spot BLOB NOT NULL, vector BLOB
            );
            CREATE INDEX phrasings_spot ON phrasings (spot);
            CREATE INDEX phrasings_reviewed ON phrasings (reviewed_id);
            CREATE TABLE verdicts (
                id INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL, entry INTEGER, asked TEXT NOT NULL, remembered TEXT NOT NULL,
                score REAL NOT NULL, verdict TEXT NOT NULL, judge TEXT NOT NULL, at REAL NOT NULL
            );
            CREATE INDEX verdicts_namespace ON verdicts (namespace, at);
            """,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A reviewed answer. reviewed, expires: Unix seconds."""

    id: int
    namespace: str
    context: bytes
    answer: str
    owner: str
    source: str
    reviewed: float
    expires: float | None
    state: str
    hits: int
    tags: str

    def usable(self, now: float, request: GenerationRequest) -> bool:
        """Whether the request may be given it now: nothing of it would have been cut off."""
        short = request.max_tokens is not None and len(self.answer) > CHARS_A_TOKEN * request.max_tokens
        cut = short or any(stop in self.answer for stop in request.stop)
        return not cut and self.state == LIVE and (self.expires is None or self.expires > now)


@dataclass(frozen=True, slots=True)
class Phrasing:
    """One question a reviewed answer is given to."""

    id: int
    reviewed: int
    question: str
    vector: np.ndarray | None


@dataclass(frozen=True, slots=True)
class NewReviewed:
    """What is written or approved. context: see `context_of`."""

    namespace: str
    questions: Sequence[str]
    answer: str
    owner: str
    source: str = ""
    expires: float | None = None
    context: bytes = b""
    tags: Sequence[str] = ()


NAMES = ("id", "namespace", "context", "answer", "owner", "source", "reviewed", "expires", "state", "hits", "tags")
COLUMNS = ", ".join(f"reviewed.{name}" for name in NAMES)


def context_of(request: GenerationRequest) -> bytes | None:
    """What stands before the question, b'' for nothing; None where there is no question. A reviewed answer holds for requests
    with the same context only: what is right in the middle of a conversation may be wrong at its beginning."""
    prompt = request.prompts[0]
    return context_in(prompt.messages) if request.sequences == 1 and isinstance(prompt, ChatPrompt) else None


def context_in(messages: Sequence[Mapping[str, Any]]) -> bytes | None:
    """The same, of a conversation's messages."""
    *before, last = messages
    if last["role"] != "user":
        return None
    return hashlib.sha256(json.dumps(before, sort_keys=True).encode()).digest() if before else b""


def spot(namespace: str, context: bytes, question: str) -> bytes:
    """Where an equal question is found: blanks and case at the ends of words are no difference."""
    return hashlib.sha256(json.dumps([namespace, context.hex(), " ".join(question.split()).casefold()]).encode()).digest()


def partition(namespace: str, context: bytes) -> bytes:
    """Where questions of the same meaning are searched."""
    return hashlib.sha256(json.dumps(["reviewed", namespace, context.hex()]).encode()).digest()


def put(db: Database, new: NewReviewed, now: float) -> int:
    """Insert, or replace the live answer to the first of these questions; returns its number. Raises InvalidRequest."""
    questions = list(dict.fromkeys(" ".join(question.split()) for question in new.questions))
    if not questions or not all(questions):
        raise InvalidRequest("A reviewed answer needs a question.", param="question")
    if not new.answer.strip():
        raise InvalidRequest(f"The answer to {questions[0]!r} is empty.", param="answer", remedy="Write one, or leave the question out.")
    if not new.owner.strip():
        raise InvalidRequest(f"The answer to {questions[0]!r} has no owner.", param="owner", remedy="Name who answers for it.")
    values = [new.namespace, new.context, new.answer, new.owner, new.source, now, new.expires, LIVE, json.dumps(sorted(set(new.tags)))]
    known = equal(db, [new.namespace], new.context, questions[0])
    if known:
        number = known.id
        db.execute(
            "UPDATE reviewed SET namespace = ?, context = ?, answer = ?, owner = ?, source = ?, reviewed = ?, expires = ?, state = ?, tags = ? WHERE id = ?",
            [*values, number],
        )
    else:
        sql = "INSERT INTO reviewed (namespace, context, answer, owner, source, reviewed, expires, state, tags) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id"
        number = int(db.execute(sql, values).fetchone()[0])
    for question in questions:
        add_phrasing(db, number, question)
    return number


def add_phrasing(db: Database, number: int, question: str) -> None:
    """One more question for an answer; where it was another answer's in the same place, it is no longer. Raises NotFound."""
    row = get(db, number)
    where = spot(row.namespace, row.context, question)
    known = db.execute("SELECT reviewed_id FROM phrasings WHERE spot = ?", [where]).fetchone()
    if known and known[0] == number:
        return
    db.execute("DELETE FROM phrasings WHERE spot = ?", [where])
    db.execute("INSERT INTO phrasings (reviewed_id, question, spot) VALUES (?, ?, ?)", [number, question, where])


def get(db: Database, number: int) -> Reviewed:
    """One answer. Raises NotFound."""
    row = db.execute(f"SELECT {COLUMNS} FROM reviewed WHERE id = ?", [number]).fetchone()
    if not row:
        raise NotFound(f"There is no reviewed answer {number}.", remedy="`appliance cache review list` shows them.")
    return Reviewed(*row)


def equal(db: Database, namespaces: Sequence[str], context: bytes, question: str) -> Reviewed | None:
    """The answer to an equal question, of the first namespace that has one."""
    for namespace in namespaces:
        sql = f"SELECT {COLUMNS} FROM phrasings JOIN reviewed ON reviewed.id = reviewed_id WHERE spot = ?"
        row = db.execute(sql, [spot(namespace, context, question)]).fetchone()
        if row:
            return Reviewed(*row)
    return None


def by_phrasing(db: Database, numbers: Iterable[int]) -> dict[int, tuple[Reviewed, str]]:
    """Phrasing number -> (its answer, its question), of those that are still there."""
    wanted = list(numbers)
    marks = ", ".join("?" * len(wanted))
    sql = f"SELECT phrasings.id, question, {COLUMNS} FROM phrasings JOIN reviewed ON reviewed.id = reviewed_id WHERE phrasings.id IN ({marks})"
    return {row[0]: (Reviewed(*row[2:]), row[1]) for row in db.execute(sql, wanted)}


def without_vector(db: Database, most: int) -> list[tuple[int, str]]:
    """Phrasings that cannot be found by meaning yet."""
    return [tuple(row) for row in db.execute("SELECT id, question FROM phrasings WHERE vector IS NULL LIMIT ?", [most])]


def set_vectors(db: Database, found: Iterable[tuple[int, np.ndarray]]) -> None:
    """Note what the embedder made of phrasings."""
    db.conn.executemany("UPDATE phrasings SET vector = ? WHERE id = ?", [(vector.astype(np.float16).tobytes(), number) for number, vector in found])


def vectors(db: Database) -> list[tuple[int, bytes, np.ndarray]]:
    """(phrasing, partition, vector) of all that can be found by meaning."""
    sql = "SELECT phrasings.id, namespace, context, vector FROM phrasings JOIN reviewed ON reviewed.id = reviewed_id WHERE vector IS NOT NULL AND state = 'live'"
    return [(number, partition(namespace, context), np.frombuffer(blob, np.float16).astype(np.float32)) for number, namespace, context, blob in db.execute(sql)]


def used(db: Database, number: int) -> None:
    """Count a hit."""
    db.execute("UPDATE reviewed SET hits = hits + 1 WHERE id = ?", [number])


def set_state(db: Database, number: int, state: str, owner: str, now: float) -> None:
    """live or rejected, in whose name. Raises NotFound."""
    get(db, number)
    db.execute("UPDATE reviewed SET state = ?, owner = ?, reviewed = ? WHERE id = ?", [state, owner, now, number])
    if state == LIVE:  # else it would be given again by its word only
        db.execute("UPDATE reviewed SET expires = NULL WHERE id = ? AND expires <= ?", [number, now])


def rewrite(db: Database, number: int, answer: str, owner: str, now: float) -> None:
    """Other words, in whose name. Raises NotFound, InvalidRequest."""
    get(db, number)
    if not answer.strip() or not owner.strip():
        raise InvalidRequest("The answer or its owner is empty.", param="answer")
    db.execute("UPDATE reviewed SET answer = ?, owner = ?, reviewed = ? WHERE id = ?", [answer, owner, now, number])


def expire(db: Database, number: int, now: float) -> None:
    """Give it out no more from now on. Raises NotFound."""
    get(db, number)
    db.execute("UPDATE reviewed SET expires = ? WHERE id = ?", [now, number])


def remove(db: Database, number: int) -> None:
    """Forget an answer and its phrasings. Raises NotFound."""
    get(db, number)
    db.execute("DELETE FROM reviewed WHERE id = ?", [number])


def every(db: Database, namespace: str | None = None) -> list[tuple[Reviewed, list[str]]]:
    """All answers with their questions, in order."""
    sql, values = (" WHERE namespace = ?", [namespace]) if namespace is not None else ("", [])
    rows = [Reviewed(*row) for row in db.execute(f"SELECT {COLUMNS} FROM reviewed{sql} ORDER BY id", values)]
    asked = questions(db)
    return [(row, asked.get(row.id, [])) for row in rows]


def questions(db: Database) -> dict[int, list[str]]:
    """The questions of each answer that has any, in order."""
    found: dict[int, list[str]] = {}
    for number, question in db.execute("SELECT reviewed_id, question FROM phrasings ORDER BY id"):
        found.setdefault(number, []).append(question)
    return found


# -- what was said of hits ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """A semantic hit that was judged, by a person or by generating the answer again. entry: the answer's number in cache.db."""

    namespace: str
    entry: int | None
    asked: str
    remembered: str
    score: float
    verdict: str
    judge: str


def say(db: Database, said: Verdict, now: float) -> None:
    """Keep a verdict."""
    values = [said.namespace, said.entry, said.asked, said.remembered, said.score, said.verdict, said.judge, now]
    db.execute("INSERT INTO verdicts (namespace, entry, asked, remembered, score, verdict, judge, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def judged(db: Database, namespace: str | None = None, most: int = 5000) -> list[Judged]:
    """The newest verdicts of a namespace, or of all."""
    where, values = ("WHERE namespace = ?", [namespace]) if namespace is not None else ("", [])
    rows = db.execute(f"SELECT score, verdict FROM verdicts {where} ORDER BY at DESC LIMIT ?", [*values, most])
    return [Judged(score, verdict == WRONG) for score, verdict in rows]


def judged_wrong(db: Database, most: int) -> list[tuple[Verdict, float]]:
    """(verdict, when) of hits that were wrong, the newest first, without those whose words were forgotten."""
    sql = "SELECT namespace, entry, asked, remembered, score, verdict, judge, at FROM verdicts WHERE verdict = ? AND asked != '' ORDER BY at DESC LIMIT ?"
    return [(Verdict(*row[:7]), row[7]) for row in db.execute(sql, [WRONG, most])]


def summary(db: Database) -> dict[str, Any]:
    """Numbers for people."""
    states = dict(db.execute("SELECT state, count(*) FROM reviewed GROUP BY state").fetchall())
    phrasings = db.execute("SELECT count(*) FROM phrasings").fetchone()[0]
    verdicts = dict(db.execute("SELECT verdict, count(*) FROM verdicts GROUP BY verdict").fetchall())
    return {"reviewed": states, "phrasings": phrasings, "verdicts": verdicts}
