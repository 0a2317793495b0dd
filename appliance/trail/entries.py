"""Rows of audit.db: entries that are only ever added, each with a hash over itself and the one before it.

What people wrote (names, addresses, objects, details) lies in the table `words`, each with a salt, and an entry's hash covers only the
SHA-256 of salt and word. So a word that was changed is found, and yet a name can be forgotten (its salt with it, or guesses could be
tried) while every hash stays right: what is left is a number, the same wherever the name stood.

An entry's hash is the SHA-256 of this JSON, in ASCII and without blanks:
[1, number, ms since 1970, kind, action, who, address, object, detail, previous], where the last five are hashes in hex.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlite_utils import Database

from appliance.db.migrations import Migration, Schema

VERSION = 1
Kind = Literal["person", "key", "command", "service"]
ACTIONS = frozenset(
    """
    session.begin session.refuse session.end session.revoke person.add person.change person.remove person.forget key.make key.change key.revoke key.none
    settings.change settings.put_back model.add model.serve model.withdraw model.remove model.default model.restart upload.begin upload.drop
    answer.approve answer.write answer.change answer.remove answer.merge answer.import answer.export cache.purge cache.rebuild job.start job.cancel
    backup.make backup.remove backup.restore tls.change service.start service.stop service.update audit.export audit.cut
    """.split()
)
"""All there are. job.start stands for what becomes of a click; what its command then did has an entry of its own. audit.cut: the end of the
log was found missing, see `append`."""
FORGET, CUT = "person.forget", "audit.cut"
MOST_CHARS = 2000
"""Of a word; a longer detail is cut."""
REFUSED = "SELECT RAISE(ABORT, 'the audit log is only ever added to')"

SCHEMA = Schema(
    "audit",
    (
        Migration(
            "entries",
            f"""
            CREATE TABLE words (number INTEGER PRIMARY KEY, word TEXT UNIQUE, salt BLOB, digest BLOB NOT NULL);
            CREATE TABLE entries (
                number INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, action TEXT NOT NULL, who INTEGER NOT NULL REFERENCES words (number),
                address INTEGER NOT NULL REFERENCES words (number), object INTEGER NOT NULL REFERENCES words (number),
                detail INTEGER NOT NULL REFERENCES words (number), previous BLOB NOT NULL, hash BLOB NOT NULL
            );
            CREATE TRIGGER entries_stay BEFORE UPDATE ON entries BEGIN {REFUSED}; END;
            CREATE TRIGGER entries_are_kept BEFORE DELETE ON entries BEGIN {REFUSED}; END;
            CREATE TRIGGER words_are_only_forgotten BEFORE UPDATE ON words
                WHEN NEW.word IS NOT NULL OR NEW.salt IS NOT NULL OR NEW.digest IS NOT OLD.digest OR NEW.number IS NOT OLD.number BEGIN {REFUSED}; END;
            CREATE TRIGGER words_are_kept BEFORE DELETE ON words BEGIN {REFUSED}; END;
            """,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class By:
    """Who acts. name: a person's, a key's, or that of the system's user who gave the command. address: of the browser or program."""

    kind: Kind
    name: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Act:
    """What is to become an entry. at: Unix seconds. detail: small, without secrets and without anybody's questions and answers."""

    at: float
    by: By
    action: str
    object: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry: its number, and its hash in hex."""

    number: int
    hash: str


NOTHING = Head(0, "0" * 64)
"""The head of an empty log, and what the first entry follows."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry for people. who: its name; a forgotten word reads `forgotten NUMBER`. at: Unix seconds."""

    number: int
    at: float
    kind: Kind
    who: str
    address: str
    action: str
    object: str
    detail: dict[str, Any]
    hash: str

    @property
    def by(self) -> str:
        """Who, in words."""
        return {"person": self.who or "somebody", "key": f"key {self.who}", "command": f"command ({self.who})", "service": "service"}[self.kind]


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing wrong. number: of the entry it was found at."""

    number: int
    why: str


def last(db: Database) -> Head:
    """The last entry, NOTHING where there is none."""
    row = db.execute("SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1").fetchone()
    return Head(row[0], row[1].hex()) if row else NOTHING


def holds(db: Database, head: Head) -> bool:
    """Whether the log has that entry."""
    row = db.execute("SELECT hash FROM entries WHERE number = ?", [head.number]).fetchone()
    return row[0].hex() == head.hash if row else head == NOTHING


def append(db: Database, acts: Sequence[Act], head: Head | None) -> tuple[Head, bool]:
    """Add entries; the new head, and whether the end was missing. head: what is known of the log from outside of it; where the log does not have
    that entry, an entry says so first, so that going on hides nothing."""
    at = last(db)
    cut = at != NOTHING and head is None or head is not None and not holds(db, head)
    if cut:
        detail = {"last": at.number, "number": head.number, "hash": head.hash} if head else {"last": at.number}
        acts = [Act(acts[0].at, By("service"), CUT, f"entry {head.number}" if head else "the head", detail), *acts]
    for act in acts:
        words = [_word(db, word) for word in (act.by.name, act.by.address, act.object, _as_text(act.detail))]
        fields = (at.number + 1, int(act.at * 1000), act.by.kind, act.action)
        previous, at = at.hash, Head(fields[0], _hash(*fields, [digest for _, digest in words], at.hash))
        values = [*fields, *(number for number, _ in words), bytes.fromhex(previous), bytes.fromhex(at.hash)]
        db.execute("INSERT INTO entries (number, at, kind, action, who, address, object, detail, previous, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    return at, cut


def _word(db: Database, word: str) -> tuple[int, str]:
    """(its number, the digest in hex)."""
    word = word.encode("utf-8", "replace").decode()[:MOST_CHARS]
    found = db.execute("SELECT number, digest FROM words WHERE word = ?", [word]).fetchone()
    if not found:
        salt = secrets.token_bytes(16)
        sql = "INSERT INTO words (word, salt, digest) VALUES (?, ?, ?) RETURNING number, digest"
        found = db.execute(sql, [word, salt, _digest(salt, word)]).fetchone()
    return found[0], found[1].hex()


def _digest(salt: bytes, word: str) -> bytes:
    return hashlib.sha256(salt + word.encode()).digest()


def _as_text(detail: dict[str, Any]) -> str:
    text = json.dumps(detail, ensure_ascii=False, separators=(",", ":"), default=str)
    return text if len(text) <= MOST_CHARS else json.dumps({"cut": text[: MOST_CHARS // 7]}, ensure_ascii=False)  # an escape has 6 characters


def _hash(number: int, at_ms: int, kind: str, action: str, digests: Sequence[str], previous: str) -> str:
    return hashlib.sha256(json.dumps([VERSION, number, at_ms, kind, action, *digests, previous], separators=(",", ":")).encode()).hexdigest()


# -- reading ---------------------------------------------------------------------------------------------------------------

WORDS = ", ".join(f"coalesce({name}.word, 'forgotten ' || {name}.number)" for name in ("who", "address", "object")) + ", detail.word"
JOINED = "entries AS e " + " ".join(f"JOIN words AS {name} ON {name}.number = e.{name}" for name in ("who", "address", "object", "detail"))


@dataclass(frozen=True, slots=True)
class Wish:
    """Which entries: all conditions together. who: a name, in whatever case, `service`, `command`, or `key NAME`. action: one, or what stands
    before its dot. since, until: Unix seconds. before: a number."""

    who: str = ""
    action: str = ""
    since: float | None = None
    until: float | None = None
    before: int | None = None

    def where(self) -> tuple[str, list[Any]]:
        """SQL and its values."""
        terms: list[tuple[str, list[Any]]] = []
        if self.who:
            kind, _, name = self.who.partition(" ")
            name = name if kind in ("key", "command") else self.who
            pseudonym = "(who.word = ? COLLATE NOCASE OR (who.word IS NULL AND 'forgotten ' || who.number = ?))"
            terms.append((f"(e.kind = ? AND (? = '' OR who.word = ? COLLATE NOCASE) OR {pseudonym})", [kind, name if " " in self.who else "", name, self.who, self.who]))
        if self.action:
            terms.append(("(e.action = ? OR substr(e.action, 1, ?) = ?)", [self.action, len(self.action) + 1, f"{self.action}."]))
        for sql, value in (("e.at >= ?", self.since), ("e.at < ?", self.until)):
            if value is not None:
                terms.append((sql, [int(value * 1000)]))
        if self.before is not None:
            terms.append(("e.number < ?", [self.before]))
        return " AND ".join(sql for sql, _ in terms) or "1", [value for _, values in terms for value in values]


def search(db: Database, wish: Wish, most: int = -1) -> list[Entry]:
    """The newest first; -1: all."""
    where, values = wish.where()
    sql = f"SELECT e.number, e.at, e.kind, e.action, e.hash, {WORDS} FROM {JOINED} WHERE {where} ORDER BY e.number DESC LIMIT ?"
    return [
        Entry(number, at / 1000, kind, who, address, action, what, {"forgotten": True} if detail is None else json.loads(detail), digest.hex())
        for number, at, kind, action, digest, who, address, what, detail in db.execute(sql, [*values, most])
    ]


def verify(db: Database, head: Head | None, first: int = 1) -> tuple[int, Fault | None]:
    """(how many entries were looked at, the first fault). head: what is known of the end from outside. first: the ones before it are not looked
    at, for a log whose fault there is known.

    Finds every entry and word that was changed, removed, inserted or moved, and an end that was cut off, as long as the head is known. Whoever may
    write the database and the file with the head can compute all hashes anew: that is found only by comparing with a head that was noted elsewhere.
    """
    words = {number: (word, salt, digest) for number, word, salt, digest in db.execute("SELECT number, word, salt, digest FROM words")}
    forgotten = _forgotten(db)
    previous, number = NOTHING.hash, first - 1
    sql = "SELECT number, at, kind, action, who, address, object, detail, previous, hash FROM entries WHERE number >= ? ORDER BY number"
    for found, at, kind, action, *of, before, digest in db.execute(sql, [first]):
        number += 1
        if found != number:
            return number - first, Fault(number, "it is missing")
        if first > 1 and number == first:
            previous = before.hex()
        if before.hex() != previous:
            return number - first, Fault(number, "it does not follow the entry before it")
        for name, word in zip(("who", "address", "object", "detail"), of, strict=True):
            if why := _wrong(words.get(word), word in forgotten):
                return number - first, Fault(number, f"its {name} {why}")
        if _hash(found, at, kind, action, [words[word][2].hex() for word in of], previous) != digest.hex():
            return number - first, Fault(number, "it was changed")
        if action == CUT:
            return number - first, Fault(number, "here the service found that the end of the log had been cut off, or the file with its head removed")
        previous = digest.hex()
    count = number - first + 1
    if head is None:
        return count, Fault(number + 1, "the file with the head is missing, so nobody can tell whether the end was cut off") if number else None
    if not holds(db, head):
        return count, Fault(min(head.number, number + 1), f"the log does not have entry {head.number} with the hash {head.hash}: its end was cut off or replaced")
    return count, None


def _wrong(row: tuple[str | None, bytes | None, bytes] | None, forgotten: bool) -> str:
    if row is None:
        return "is missing"
    word, salt, digest = row
    if word is None:
        return "" if forgotten else "was removed, and no entry tells of it"
    return "" if _digest(salt or b"", word) == digest else "was changed"


def _forgotten(db: Database) -> set[int]:
    rows = db.execute(f"SELECT detail.word FROM {JOINED} WHERE e.action = ?", [FORGET]).fetchall()
    return {number for (detail,) in rows if detail for number in json.loads(detail).get("words", [])}


# -- forgetting ------------------------------------------------------------------------------------------------------------


def numbers_of(db: Database, names: Iterable[str]) -> list[int]:
    """The words that are these names, and those that hold one as a word of its own but are nobody else's name, in whatever case; and the addresses
    of those who had the names, where nobody else was seen there."""
    names = list(names)
    pattern, folded = pattern_of(names), {name.casefold() for name in names}
    kept = "SELECT detail FROM entries WHERE action IN (?, ?)"
    details = {number for (number,) in db.execute("SELECT detail FROM entries")}
    named = "SELECT who FROM entries UNION SELECT object FROM entries WHERE action GLOB 'person.*' OR action GLOB 'key.*' OR action GLOB 'session.*'"
    people = {number for (number,) in db.execute(named)}
    found = []
    for number, word in db.execute(f"SELECT number, word FROM words WHERE word IS NOT NULL AND number NOT IN ({kept})", [FORGET, CUT]):
        texts = _texts(json.loads(word)) if number in details else [word]
        if word.casefold() in folded or (number not in people and any(map(pattern.search, texts))):
            found.append(number)
    theirs = "(SELECT value FROM json_each(?))"
    alone = f"SELECT address FROM entries WHERE who IN {theirs} EXCEPT SELECT address FROM entries WHERE who NOT IN {theirs}"
    rows = db.execute(f"SELECT number FROM words WHERE number IN ({alone}) AND word != ''", [json.dumps(found)] * 2).fetchall()
    return sorted({*found, *(number for (number,) in rows)})


def pattern_of(names: Iterable[str]) -> re.Pattern[str]:
    """Where one of the names stands as a word of its own, in whatever case."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", re.IGNORECASE)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    return [value] if isinstance(value, str) else []


def erase(db: Database, numbers: Sequence[int]) -> None:
    """Forget words; an entry with FORGET and {"words": numbers} must follow in the same work."""
    db.conn.executemany("UPDATE words SET word = NULL, salt = NULL WHERE number = ?", [(number,) for number in numbers])
