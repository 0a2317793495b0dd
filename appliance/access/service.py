"""Signing in and out. Any thread.

A session is a random token in a cookie. It ends after some time without use, and in any case after some hours; while it is used its
token is exchanged now and then, so that one that was copied does not last.
"""

from __future__ import annotations

import ipaddress
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from werkzeug.security import check_password_hash, generate_password_hash

from appliance.access import people
from appliance.access.limits import Limits, Turns
from appliance.access.people import Key, Person, Role, Session, Visit, checked_name
from appliance.access.throttle import Throttle
from appliance.db.connection import Readers, open_for_reading
from appliance.db.writer import Writer
from appliance.errors import (
    ApplianceError,
    AuthenticationFailed,
    InvalidRequest,
    PermissionDenied,
    TooManyTries,
    Unavailable,
)

FILE = "access.db"
IDLE_S, LONGEST_S, RENEW_S = 1800.0, 12 * 3600.0, 900.0
GRACE_S = 60.0
"""So long the token before is good as well."""
TICK_S = 300.0
TOUCH_S = 60.0
"""A use is written down when the last one is so long ago."""
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 1000
"""NIST SP 800-63B: length counts, rules about characters do not."""
WRITE_WAIT_S = 10.0
LONGEST_BY_NAME_S = 5.0
HASHES, HASH_WAIT_S = 2, 5.0
RESERVED = frozenset({"anonymous", "audit", "renewal", "everybody", "cache"})
NO_LIMITS = Limits()
CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


@dataclass(frozen=True, slots=True)
class Signed:
    """A session as its request sees it. token: what the cookie is to hold from now on, None where it stays as it is."""

    session: Session
    token: str | None = None


def has_keys(folder: Path) -> bool:
    """Whether keys were ever made in this data folder, so that the service will serve nobody without one. For before it is open; a file that
    cannot be read counts, because the service does not open by itself then either. Changes nothing."""
    path = folder / FILE
    if not path.is_file():
        return False
    try:
        with closing(open_for_reading(path)) as db:
            return "keys" in db.table_names() and people.keys_ever(db)
    except sqlite3.Error:
        return True


class Access:
    """See the module. `open` before use; the constructor starts nothing."""

    def __init__(self, folder: Path, log: Callable[[str, str], None], *, now: Callable[[], float] = time.time, ticks: Callable[[], float] | None = None) -> None:
        """ticks: a clock that nobody sets, for pauses; `now` where none is given."""
        ticks = ticks or now
        self._folder, self._log, self._now = folder, log, now
        self._tries, self._names, self._wrong_keys = Throttle(ticks), Throttle(ticks, LONGEST_BY_NAME_S), Throttle(ticks)
        self._hashes = threading.BoundedSemaphore(HASHES)
        self.turns = Turns()
        self._opened = False
        self._ticked = 0.0
        self.code = ""
        """With it the first person is made; '' once there is one."""

    def open(self) -> None:
        """Open the file and begin to write. Raises StorageFailed, OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = Writer(self._folder / FILE, people.SCHEMA, precious=True, log=self._log)
        self._readers = Readers(self._folder / FILE, precious=True, damaged=self._writer.check)
        self._opened = True
        with self._readers.reading() as db:
            if not people.count(db):
                self.code = "-".join("".join(secrets.choice(CODE_LETTERS) for _ in range(4)) for _ in range(3))

    def _ready(self) -> None:
        if not self._opened:
            raise Unavailable("Nobody can sign in now.", remedy="The log of the service says why its access.db could not be opened.")

    def close(self) -> None:
        """End the writing thread. Safe to call again, and before `open`."""
        if self._opened:
            self._opened = False
            self._readers.close()
            self._writer.close()

    # -- people --------------------------------------------------------------------------------------------------------

    def make_first(self, code: str, name: str, password: str, address: str, agent: str) -> tuple[str, Session]:
        """The first person, an admin, signed in; see `sign_in`. Raises PermissionDenied for another code, or when there is somebody."""
        if not self.code:
            raise PermissionDenied("The first person is there already.", remedy="Sign in.")
        where = f"address {_network(address)}"
        _pause(self._tries.pause_s(where))
        if not secrets.compare_digest(code.strip().upper().encode(), self.code.encode()):
            self._tries.failed(where)
            raise PermissionDenied("That is not the code.", remedy="It stands in the log of the service, where it says how to open the admin page.")
        self.add(name, "admin", password, "the code of the log", first=True)
        self.code = ""
        return self.sign_in(name, password, address, agent)

    def add(self, name: str, role: Role, password: str, by: str = "", first: bool = False) -> int:
        """A new person; the number. by: who does it. first: only where there is none. Raises InvalidRequest, StorageFailed."""
        self._ready()
        name, hashed = checked_name(name), self._hashed(password)

        def work(db: people.Database) -> int:
            if first and people.count(db):
                raise PermissionDenied("The first person is there already.", remedy="Sign in.")
            return people.add(db, name, role, hashed, self._now())

        number = self._writer.do(work, WRITE_WAIT_S)
        self._log("info", f"{name!r} may sign in as {role}, by {by!r}.")
        return number

    def everybody(self) -> list[Person]:
        """All people by name. Raises Unavailable, StorageFailed."""
        self._ready()
        with self._readers.reading() as db:
            return people.everybody(db)

    def change(self, number: int, role: Role | None, password: str | None, by: str) -> None:
        """Another role, another password (all sessions of the person end then), or both. Raises NotFound, InvalidRequest for a bad password
        and for the last admin; then nothing is changed."""
        self._ready()
        hashed = self._hashed(password) if password else None

        def work(db: people.Database) -> None:
            if role:
                people.set_role(db, number, role, self._now())
            if hashed:
                people.set_password(db, number, hashed, self._now())

        self._writer.do(work, WRITE_WAIT_S)
        self._log("info", f"Person {number} was given {' and '.join(filter(None, (role and f'the role {role}', hashed and 'another password')))}, by {by!r}.")

    def remove(self, number: int, by: str) -> None:
        """Raises NotFound, InvalidRequest for the last admin, StorageFailed."""
        self._ready()
        self._writer.do(lambda db: people.remove(db, number), WRITE_WAIT_S)
        self._log("info", f"Person {number} was removed, by {by!r}.")

    # -- keys ----------------------------------------------------------------------------------------------------------

    def make_key(self, name: str, by: str, role: Role = "user", limits: Limits = NO_LIMITS) -> tuple[int, str]:
        """(number, the key): only its digest is kept, so nobody can look at it again. Raises InvalidRequest, StorageFailed."""
        self._ready()
        name, key = checked_name(name), "ak-" + secrets.token_urlsafe(30)
        if "/" in name or name.casefold() in RESERVED:  # names are namespaces of the cache
            raise InvalidRequest(f"A key cannot be named {name!r}.", param="name", remedy="Choose a name without / that is not taken by the service itself.")
        digest = people.digest_of(key)

        def work(db: people.Database) -> int:
            number = people.add_key(db, name, digest, key[:7], by, self._now())
            people.set_limits(db, number, role, limits)
            return number

        number = self._writer.do(work, WRITE_WAIT_S)
        self._log("info", f"Key {number} {name!r} was made, by {by!r}.")
        return number, key

    def change_key(self, number: int, role: Role | None, changes: Mapping[str, Any], by: str) -> None:
        """Another role, other limits (by their names in `Limits`); what is not given stays. Raises NotFound, StorageFailed."""
        self._ready()

        def work(db: people.Database) -> None:
            key = people.good_key(db, number)
            people.set_limits(db, number, role or key.role, replace(key.limits, **changes))

        self._writer.do(work, WRITE_WAIT_S)
        self._log("info", f"Role and limits of key {number} were changed, by {by!r}.")

    def keys(self) -> list[Key]:
        """All, with those that were revoked. Raises Unavailable, StorageFailed."""
        self._ready()
        with self._readers.reading() as db:
            return people.keys(db)

    def key_digests(self) -> tuple[dict[bytes, Key], bool]:
        """(the keys that are good, by the SHA-256 of the key; whether a key is needed even if there is none). A box that had keys,
        or may have had, does not open by itself."""
        if not self._opened:
            return {}, (self._folder / FILE).exists()
        with self._readers.reading() as db:
            return people.key_digests(db), people.keys_ever(db)

    def wrong_key(self, address: str) -> None:
        """An unknown key came from there. Raises TooManyTries after some. A right one is never asked about: behind one address there may be a
        whole clinic. So this does not make guessing hopeless, 240 random bits do; it tells who has the wrong key, here and in the log."""
        where = f"address {_network(address)}"
        _pause(self._wrong_keys.pause_s(where), "Too many wrong keys came from this address; a right one is still taken.")
        self._wrong_keys.failed(where)
        if pause_s := self._wrong_keys.pause_s(where):
            self._log("warning", f"Unknown keys come from {address}; the next ones are refused with 429 for {pause_s:.0f} s.")

    def has_expired(self, limits: Limits) -> bool:
        """Whether a key with these limits is good no more."""
        return limits.expires is not None and limits.expires <= self._now()

    def revoke_key(self, number: int, by: str) -> str:
        """Its name, which no key will have again. What runs with it may end. Raises NotFound, StorageFailed."""
        self._ready()
        key = self._writer.do(lambda db: people.revoke_key(db, number, self._now()), WRITE_WAIT_S)
        self._log("info", f"Key {number} was revoked, by {by!r}.")
        return key.name

    def open_to_all(self, by: str) -> None:
        """Forget the revoked keys: where no key is good, none is needed any more. Raises StorageFailed."""
        self._ready()
        self._writer.do(people.forget_revoked_keys, WRITE_WAIT_S)
        self._log("warning", f"Revoked keys were forgotten, by {by!r}.")

    def stamp(self) -> int:
        """Another number when something was changed, by this process or another; to be asked by one thread. Raises Unavailable, StorageFailed."""
        self._ready()
        with self._readers.reading() as db:
            return db.execute("PRAGMA data_version").fetchone()[0]

    def visits(self) -> list[Visit]:
        """Who is signed in where, the one seen last first. Raises Unavailable, StorageFailed."""
        self._ready()
        with self._readers.reading() as db:
            now = self._now()
            return [visit for visit in people.visits(db) if now - visit.used <= IDLE_S and now - visit.began <= LONGEST_S]

    def end_visit(self, number: int, by: str) -> None:
        """Sign somebody out. Raises NotFound, Unavailable, StorageFailed."""
        self._ready()
        self._writer.do(lambda db: people.end_visit(db, number), WRITE_WAIT_S)
        self._log("info", f"Session {number} was ended, by {by!r}.")

    # -- sessions ------------------------------------------------------------------------------------------------------

    def sign_in(self, name: str, password: str, address: str, agent: str) -> tuple[str, Session]:
        """(token for the cookie, session). Raises AuthenticationFailed, which does not tell whether there is such a person, TooManyTries.

        A try counts from its beginning, so that many at once gain nothing. One address waits longer and longer; a name by itself costs
        a few seconds only, or anybody could keep its owner out.
        """
        self._ready()
        name, where = name.strip(), f"address {_network(address)}"
        who = name.casefold()[: people.LONGEST_NAME]
        _pause(max(self._tries.pause_s(where), self._names.pause_s(who)))
        self._tries.failed(where)
        self._names.failed(who)
        with self._readers.reading() as db:
            person = people.find(db, name)
        if not self._right(person.password if person else _nobodys_password(), password) or person is None:
            self._log("warning", f"Somebody at {address} was not let in as {name[: people.LONGEST_NAME]!r}.")
            raise AuthenticationFailed("Name and password do not belong together.", remedy="Try again; an administrator can set another password.")
        token, now = secrets.token_urlsafe(32), self._now()
        session = Session(people.digest_of(token), person, now, now, now, address, agent)
        if not self._writer.do(lambda db: people.begin(db, session), WRITE_WAIT_S):
            raise AuthenticationFailed("The password was changed a moment ago.", remedy="Sign in with the new one.")
        self._tries.succeeded(where)
        self._names.succeeded(who)
        self._log("info", f"{person.name!r} signed in from {address}.")
        return token, session

    def signed_in(self, token: str) -> Signed | None:
        """The session of a token, None when it is over or was never one. Counts as a use. Raises Unavailable, StorageFailed."""
        self._ready()
        digest, now = people.digest_of(token), self._now()
        with self._readers.reading() as db:
            session = people.session(db, digest)
        if session is None:
            return None
        late = digest != session.digest and now - session.renewed > GRACE_S  # somebody goes on with a copy
        if late or now - session.used > IDLE_S or now - session.began > LONGEST_S:
            self._writer.do(lambda db: people.end(db, session.digest), WRITE_WAIT_S)
            if late:
                self._log("warning", f"A session of {session.person.name!r} was ended: a token came that was exchanged long ago.")
            return None
        if now - session.renewed > RENEW_S:
            fresh = secrets.token_urlsafe(32)
            renewed = people.digest_of(fresh)
            if self._writer.do(lambda db: people.renew(db, session.digest, renewed, now), WRITE_WAIT_S):
                return Signed(replace(session, digest=renewed, renewed=now, used=now), fresh)
        elif now - session.used > TOUCH_S:
            self._writer.do(lambda db: people.touch(db, session.digest, now), WRITE_WAIT_S)
        return Signed(session)

    def sign_out(self, token: str) -> None:
        """End the session of a token, if there is one."""
        self._writer.do(lambda db: people.end(db, people.digest_of(token)), WRITE_WAIT_S)

    def tick(self) -> None:
        """Forget sessions that are over. Never raises."""
        now = self._now()
        if not self._opened or now < self._ticked + TICK_S:
            return
        self._ticked = now
        try:
            self._writer.submit(lambda db: people.forget_sessions(db, now - IDLE_S, now - LONGEST_S))
        except ApplianceError:
            return  # the writer has told it

    def _hashed(self, password: str) -> str:
        _check(password)
        with self._hashing():
            return generate_password_hash(password)

    def _right(self, known: str, password: str) -> bool:
        with self._hashing():
            return check_password_hash(known, password[:LONGEST_PASSWORD])

    @contextmanager
    def _hashing(self) -> Iterator[None]:
        """A hash takes 32 MB and a tenth of a second: a crowd of them would take the engines' memory and cores."""
        if not self._hashes.acquire(timeout=HASH_WAIT_S):
            raise TooManyTries("Too many people sign in at once.", remedy="Try again in a moment.", retry_after_s=HASH_WAIT_S)
        try:
            yield
        finally:
            self._hashes.release()


def _pause(seconds: float, message: str = "Too many wrong tries.") -> None:
    if seconds > 0:
        raise TooManyTries(message, remedy=f"Try again in {max(1, round(seconds))} s.", retry_after_s=seconds)


def _network(address: str) -> str:
    """What one person has: an IPv4 address, or a /64 of IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    found = getattr(found, "ipv4_mapped", None) or found  # an IPv4 client of a socket that takes both
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


def _check(password: str) -> None:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise InvalidRequest(
            f"A password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters; this one has {len(password)}.", param="password", remedy="Several words are easy to keep in mind."
        )


def _nobodys_password() -> str:
    """So that a name that does not exist takes as long as one that does."""
    global _nobody
    _nobody = _nobody or generate_password_hash(secrets.token_urlsafe(16))
    return _nobody


_nobody = ""
