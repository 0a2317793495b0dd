"""Signing in and out. Any thread.

A session is a random token in a cookie. It ends after some time without use, and in any case after some hours; while it is used its
token is exchanged now and then, so that one that was copied does not last.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from werkzeug.security import check_password_hash, generate_password_hash

from appliance.access import people
from appliance.access.people import Key, Person, Role, Session, checked_name
from appliance.access.throttle import Throttle
from appliance.db.connection import Readers
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
CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


@dataclass(frozen=True, slots=True)
class Signed:
    """A session as its request sees it. token: what the cookie is to hold from now on, None where it stays as it is."""

    session: Session
    token: str | None = None


class Access:
    """See the module. `open` before use; the constructor starts nothing."""

    def __init__(self, folder: Path, log: Callable[[str, str], None], *, now: Callable[[], float] = time.time) -> None:
        self._folder, self._log, self._now = folder, log, now
        self._throttle = Throttle(now)
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
        self._pause(f"address {address}")
        if not secrets.compare_digest(code.strip().upper().encode(), self.code.encode()):
            self._throttle.failed(f"address {address}")
            raise PermissionDenied("That is not the code.", remedy="It stands in the log of the service, where it says how to open the admin page.")
        self.add(name, "admin", password, first=True)
        self.code = ""
        return self.sign_in(name, password, address, agent)

    def add(self, name: str, role: Role, password: str, first: bool = False) -> int:
        """A new person; the number. first: only where there is none. Raises InvalidRequest, StorageFailed."""
        name, hashed = checked_name(name), generate_password_hash(_checked_password(password))

        def work(db: people.Database) -> int:
            if first and people.count(db):
                raise PermissionDenied("The first person is there already.", remedy="Sign in.")
            return people.add(db, name, role, hashed, self._now())

        return self._writer.do(work, WRITE_WAIT_S)

    def change_password(self, person: Person, old: str, new: str) -> None:
        """All sessions of the person end. Raises AuthenticationFailed for a wrong old one, InvalidRequest for a bad new one."""
        self._pause(f"name {person.name.casefold()}")
        if not check_password_hash(person.password, old[:LONGEST_PASSWORD]):
            self._throttle.failed(f"name {person.name.casefold()}")
            raise AuthenticationFailed("The present password is another one.", param="old")
        hashed = generate_password_hash(_checked_password(new))
        self._writer.do(lambda db: people.set_password(db, person.id, hashed, self._now()), WRITE_WAIT_S)

    def everybody(self) -> list[Person]:
        """All people by name. Raises Unavailable, StorageFailed."""
        self._ready()
        with self._readers.reading() as db:
            return people.everybody(db)

    def set_role(self, number: int, role: Role) -> None:
        """Raises NotFound, InvalidRequest for the last admin, StorageFailed."""
        self._writer.do(lambda db: people.set_role(db, number, role, self._now()), WRITE_WAIT_S)

    def set_password(self, number: int, password: str) -> None:
        """By an admin, who need not know the old one; all sessions of the person end. Raises NotFound, InvalidRequest."""
        hashed = generate_password_hash(_checked_password(password))
        self._writer.do(lambda db: people.set_password(db, number, hashed, self._now()), WRITE_WAIT_S)

    def remove(self, number: int) -> None:
        """Raises NotFound, InvalidRequest for the last admin, StorageFailed."""
        self._writer.do(lambda db: people.remove(db, number), WRITE_WAIT_S)

    # -- keys ----------------------------------------------------------------------------------------------------------

    def make_key(self, name: str, made_by: str) -> tuple[int, str]:
        """(number, the key): only its digest is kept, so nobody can look at it again. Raises InvalidRequest, StorageFailed."""
        self._ready()
        name, key = checked_name(name), "ak-" + secrets.token_urlsafe(30)
        digest = people.digest_of(key)
        return self._writer.do(lambda db: people.add_key(db, name, digest, key[:7], made_by, self._now()), WRITE_WAIT_S), key

    def keys(self) -> list[Key]:
        """All, with those that were revoked. Raises Unavailable, StorageFailed."""
        self._ready()
        with self._readers.reading() as db:
            return people.keys(db)

    def key_digests(self) -> dict[bytes, str]:
        """The names of the keys that are good, by the SHA-256 of the key; none where the file is not open."""
        if not self._opened:
            return {}
        with self._readers.reading() as db:
            return people.key_digests(db)

    def revoke_key(self, number: int) -> None:
        """Raises NotFound, StorageFailed."""
        self._writer.do(lambda db: people.revoke_key(db, number, self._now()), WRITE_WAIT_S)

    # -- sessions ------------------------------------------------------------------------------------------------------

    def sign_in(self, name: str, password: str, address: str, agent: str) -> tuple[str, Session]:
        """(token for the cookie, session). Raises AuthenticationFailed, which does not tell whether there is such a person, TooManyTries."""
        self._ready()
        who = (f"name {name.strip().casefold()[:people.LONGEST_NAME]}", f"address {address}")
        self._pause(*who)
        with self._readers.reading() as db:
            person = people.find(db, name.strip())
        known = person.password if person else _nobodys_password()
        if not check_password_hash(known, password[:LONGEST_PASSWORD]) or person is None:
            self._throttle.failed(*who)
            raise AuthenticationFailed("Name and password do not belong together.", remedy="Try again; an administrator can set another password.")
        self._throttle.succeeded(who[0])
        token, now = secrets.token_urlsafe(32), self._now()
        session = Session(people.digest_of(token), person, now, now, now, address, agent)
        self._writer.do(lambda db: people.begin(db, session), WRITE_WAIT_S)
        return token, session

    def signed_in(self, token: str) -> Signed | None:
        """The session of a token, None when it is over or was never one. Counts as a use. Raises Unavailable, StorageFailed."""
        self._ready()
        with self._readers.reading() as db:
            session = people.session(db, people.digest_of(token), self._now() - GRACE_S)
        now = self._now()
        if session is None:
            return None
        if now - session.used > IDLE_S or now - session.began > LONGEST_S:
            self._writer.do(lambda db: people.end(db, session.digest), WRITE_WAIT_S)
            return None
        if now - session.renewed > RENEW_S:
            fresh = secrets.token_urlsafe(32)
            digest = people.digest_of(fresh)
            if self._writer.do(lambda db: people.renew(db, session.digest, digest, now), WRITE_WAIT_S):
                return Signed(replace(session, digest=digest, renewed=now, used=now), fresh)
        elif now - session.used > TOUCH_S:
            self._writer.do(lambda db: people.touch(db, session.digest, now), WRITE_WAIT_S)
        return Signed(session)

    def sign_out(self, token: str) -> None:
        """End the session of a token, if there is one."""
        with self._readers.reading() as db:
            session = people.session(db, people.digest_of(token), self._now() - GRACE_S)
        if session:
            self._writer.do(lambda db: people.end(db, session.digest), WRITE_WAIT_S)

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

    def _pause(self, *names: str) -> None:
        pause = self._throttle.pause_s(*names)
        if pause > 0:
            raise TooManyTries("Too many wrong tries.", remedy=f"Try again in {max(1, round(pause))} s.", retry_after_s=pause)


def _checked_password(password: str) -> str:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise InvalidRequest(
            f"A password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters; this one has {len(password)}.", param="password", remedy="Several words are easy to keep in mind."
        )
    return password


def _nobodys_password() -> str:
    """So that a name that does not exist takes as long as one that does."""
    global _nobody
    _nobody = _nobody or generate_password_hash(secrets.token_urlsafe(16))
    return _nobody


_nobody = ""
