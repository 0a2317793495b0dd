"""Rows of access.db: people with roles, their sessions, and keys. Precious: a row is on the disk when its call returns."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from typing import Literal

from sqlite_utils import Database

from appliance.access.limits import Limits
from appliance.db.migrations import Migration, Schema
from appliance.errors import InvalidRequest, NotFound

Role = Literal["admin", "reviewer", "user", "metrics"]
ROLES: tuple[Role, ...] = ("admin", "reviewer", "user")
"""Of people: admin may do everything; reviewer reads and reviews answers; user asks."""
KEY_ROLES: tuple[Role, ...] = ("user", "metrics", "admin")
"""Of keys: user asks; metrics reads /metrics and nothing else; admin asks, and may do by the admin API what an admin may."""
LONGEST_NAME = 64

SCHEMA = Schema(
    "access",
    (
        Migration(
            "people",
            """
            CREATE TABLE people (
                id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE COLLATE NOCASE, role TEXT NOT NULL, password TEXT NOT NULL,
                created REAL NOT NULL, changed REAL NOT NULL
            );
            CREATE TABLE sessions (
                digest BLOB PRIMARY KEY, before BLOB, person_id INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE, began REAL NOT NULL,
                renewed REAL NOT NULL, used REAL NOT NULL, address TEXT NOT NULL, agent TEXT NOT NULL
            );
            CREATE INDEX sessions_before ON sessions (before) WHERE before IS NOT NULL;
            CREATE INDEX sessions_person ON sessions (person_id);
            """,
        ),
        Migration(
            "keys",
            """
            CREATE TABLE keys (
                id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL COLLATE NOCASE, digest BLOB NOT NULL UNIQUE, hint TEXT NOT NULL,
                made_by TEXT NOT NULL, created REAL NOT NULL, revoked REAL
            );
            CREATE UNIQUE INDEX keys_name ON keys (name) WHERE revoked IS NULL;
            """,
        ),
        Migration(
            "limits of keys",
            """
            ALTER TABLE keys ADD COLUMN role TEXT NOT NULL DEFAULT 'user';
            ALTER TABLE keys ADD COLUMN requests_per_minute INTEGER NOT NULL DEFAULT 0;
            ALTER TABLE keys ADD COLUMN tokens_per_minute INTEGER NOT NULL DEFAULT 0;
            ALTER TABLE keys ADD COLUMN at_once INTEGER NOT NULL DEFAULT 0;
            ALTER TABLE keys ADD COLUMN models TEXT NOT NULL DEFAULT '[]';
            ALTER TABLE keys ADD COLUMN expires REAL;
            UPDATE people SET role = 'user' WHERE role = 'metrics';
            """,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may sign in. Times are Unix seconds."""

    id: int
    name: str
    role: Role
    password: str
    created: float
    changed: float


@dataclass(frozen=True, slots=True)
class Session:
    """From a sign-in to a sign-out. digest: of its token. began, renewed (when it got that token), used: Unix seconds. address, agent: what
    the browser was seen as."""

    digest: bytes
    person: Person
    began: float
    renewed: float
    used: float
    address: str
    agent: str


@dataclass(frozen=True, slots=True)
class Key:
    """An API key. name: what logs and limits go by. hint: its first letters. made_by: an admin. revoked: Unix seconds, None while it is good."""

    id: int
    name: str
    hint: str
    made_by: str
    created: float
    revoked: float | None
    role: Role
    limits: Limits


def digest_of(token: str) -> bytes:
    """What is stored in a token's place: tokens are long and random, so a plain hash cannot be guessed back."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def checked_name(name: str) -> str:
    """The name without blanks around it. Raises InvalidRequest."""
    found = name.strip()
    if not found or len(found) > LONGEST_NAME or not found.isprintable():
        raise InvalidRequest(f"A name has 1 to {LONGEST_NAME} printable characters.", param="name")
    return found


def count(db: Database) -> int:
    """How many people there are."""
    return int(db.execute("SELECT count(*) FROM people").fetchone()[0])


def add(db: Database, name: str, role: Role, password_hash: str, now: float) -> int:
    """Insert; the new number. Raises InvalidRequest when there is a person of that name, in whatever case."""
    if find(db, name):
        raise InvalidRequest(f"There is a person named {name!r} already.", param="name", remedy="Choose another name.")
    sql = "INSERT INTO people (name, role, password, created, changed) VALUES (?, ?, ?, ?, ?) RETURNING id"
    return int(db.execute(sql, [name, role, password_hash, now, now]).fetchone()[0])


def find(db: Database, name: str) -> Person | None:
    """By name, in whatever case."""
    row = db.execute("SELECT id, name, role, password, created, changed FROM people WHERE name = ?", [name]).fetchone()
    return Person(*row) if row else None


def everybody(db: Database) -> list[Person]:
    """All people by name."""
    return [Person(*row) for row in db.execute("SELECT id, name, role, password, created, changed FROM people ORDER BY name")]


def set_password(db: Database, number: int, password_hash: str, now: float) -> None:
    """Another password; all sessions of the person end. Raises NotFound."""
    if not db.execute("UPDATE people SET password = ?, changed = ? WHERE id = ?", [password_hash, now, number]).rowcount:
        raise NotFound(f"There is no person {number}.")
    db.execute("DELETE FROM sessions WHERE person_id = ?", [number])


def set_role(db: Database, number: int, role: Role, now: float) -> None:
    """Another role; it counts at the next request. Raises NotFound, InvalidRequest for the last admin."""
    _not_the_last_admin(db, number, staying=role == "admin")
    db.execute("UPDATE people SET role = ?, changed = ? WHERE id = ?", [role, now, number])


def remove(db: Database, number: int) -> None:
    """Forget a person; the sessions end. Raises NotFound, InvalidRequest for the last admin."""
    _not_the_last_admin(db, number, staying=False)
    db.execute("DELETE FROM people WHERE id = ?", [number])


def _not_the_last_admin(db: Database, number: int, staying: bool) -> None:
    admins = {row[0] for row in db.execute("SELECT id FROM people WHERE role = 'admin'")}
    if not db.execute("SELECT 1 FROM people WHERE id = ?", [number]).fetchone():
        raise NotFound(f"There is no person {number}.")
    if admins == {number} and not staying:
        raise InvalidRequest("The last administrator stays one.", remedy="Make another one first.")


KEY = "id, name, hint, made_by, created, revoked, role, requests_per_minute, tokens_per_minute, at_once, models, expires"


def _key(row: tuple) -> Key:
    *rates, models, expires = row[7:]
    return Key(*row[:7], Limits(*rates, tuple(json.loads(models)), expires))


def add_key(db: Database, name: str, digest: bytes, hint: str, made_by: str, now: float) -> int:
    """Insert; the new number. Raises InvalidRequest for the name of another key, good or revoked: what that one was answered belongs to its name."""
    if db.execute("SELECT 1 FROM keys WHERE name = ?", [name]).fetchone():
        raise InvalidRequest(f"There is or was a key named {name!r}.", param="name", remedy="Choose another name.")
    sql = "INSERT INTO keys (name, digest, hint, made_by, created) VALUES (?, ?, ?, ?, ?) RETURNING id"
    return int(db.execute(sql, [name, digest, hint, made_by, now]).fetchone()[0])


def good_key(db: Database, number: int) -> Key:
    """By its number. Raises NotFound, also for one that was revoked."""
    row = db.execute(f"SELECT {KEY} FROM keys WHERE id = ? AND revoked IS NULL", [number]).fetchone()
    if row is None:
        raise NotFound(f"There is no key {number} that is good.")
    return _key(row)


def set_limits(db: Database, number: int, role: Role, limits: Limits) -> None:
    """Another role, other limits. Raises NotFound."""
    good_key(db, number)
    *rates, models, expires = astuple(limits)
    sql = "UPDATE keys SET role = ?, requests_per_minute = ?, tokens_per_minute = ?, at_once = ?, models = ?, expires = ? WHERE id = ?"
    db.execute(sql, [role, *rates, json.dumps(models), expires, number])


def keys_ever(db: Database) -> bool:
    """Whether there are keys, good or revoked."""
    return db.execute("SELECT 1 FROM keys LIMIT 1").fetchone() is not None


def forget_revoked_keys(db: Database) -> None:
    """From now on it is as if they had never been."""
    db.execute("DELETE FROM keys WHERE revoked IS NOT NULL")


def keys(db: Database) -> list[Key]:
    """All keys, those that are good first."""
    return [_key(row) for row in db.execute(f"SELECT {KEY} FROM keys ORDER BY revoked IS NOT NULL, name")]


def key_digests(db: Database) -> dict[bytes, Key]:
    """The keys that are good, by digest; those that have expired too: who comes with one is told so."""
    return {row[-1]: _key(row[:-1]) for row in db.execute(f"SELECT {KEY}, digest FROM keys WHERE revoked IS NULL")}


def revoke_key(db: Database, number: int, now: float) -> Key:
    """It is good no more. Raises NotFound."""
    key = good_key(db, number)
    db.execute("UPDATE keys SET revoked = ? WHERE id = ?", [now, number])
    return key


def begin(db: Database, session: Session) -> bool:
    """Insert a session; whether the person still has the password it was opened with."""
    person = session.person
    values = [session.digest, session.began, session.renewed, session.used, session.address[:64], session.agent[:200], person.id, person.password]
    sql = (
        "INSERT INTO sessions (digest, began, renewed, used, address, agent, person_id)"
        " SELECT ?, ?, ?, ?, ?, ?, id FROM people WHERE id = ? AND password = ?"
    )
    return bool(db.execute(sql, values).rowcount)


def session(db: Database, digest: bytes) -> Session | None:
    """A session with its person, by the digest of its token or of the one before."""
    sql = (
        "SELECT s.digest, s.began, s.renewed, s.used, s.address, s.agent, p.id, p.name, p.role, p.password, p.created, p.changed"
        " FROM sessions s JOIN people p ON p.id = s.person_id WHERE s.digest = ? OR s.before = ?"
    )
    row = db.execute(sql, [digest, digest]).fetchone()
    return Session(row[0], Person(*row[6:]), *row[1:6]) if row else None


def touch(db: Database, digest: bytes, now: float) -> None:
    """The session was used."""
    db.execute("UPDATE sessions SET used = ? WHERE digest = ?", [now, digest])


def renew(db: Database, old: bytes, new: bytes, now: float) -> bool:
    """The session goes on under another token; whether it was still there."""
    return bool(db.execute("UPDATE sessions SET digest = ?, before = ?, renewed = ?, used = ? WHERE digest = ?", [new, old, now, now, old]).rowcount)


@dataclass(frozen=True, slots=True)
class Visit:
    """A session as others see it, without what opens it. number: for `end_visit`. Times are Unix seconds."""

    number: int
    name: str
    began: float
    used: float
    address: str
    agent: str


def visits(db: Database) -> list[Visit]:
    """All sessions, the one used last first."""
    sql = "SELECT s.rowid, p.name, s.began, s.used, s.address, s.agent FROM sessions s JOIN people p ON p.id = s.person_id ORDER BY s.used DESC"
    return [Visit(*row) for row in db.execute(sql)]


def end_visit(db: Database, number: int) -> None:
    """End somebody's session. Raises NotFound."""
    if not db.execute("DELETE FROM sessions WHERE rowid = ?", [number]).rowcount:
        raise NotFound(f"There is no session {number}.", remedy="It may have ended by itself.")


def end(db: Database, digest: bytes) -> None:
    """Sign out, by the digest of a session's token or of the one before."""
    db.execute("DELETE FROM sessions WHERE digest = ? OR before = ?", [digest, digest])


def forget_sessions(db: Database, unused_since: float, begun_before: float) -> int:
    """Remove what nobody can use any more; how many."""
    return db.execute("DELETE FROM sessions WHERE used < ? OR began < ?", [unused_since, begun_before]).rowcount
