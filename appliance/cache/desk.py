"""The review desk: what a person should look at, and what becomes of it. Any thread; raises what the cache's files raise."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from appliance.cache import answers, exchange, reviewed
from appliance.cache.answers import Selection
from appliance.cache.reviewed import NewReviewed
from appliance.cache.service import Cache
from appliance.errors import InvalidRequest, NotFound

LOOKED_AT = 20
"""Rows are read for each one that is shown: some have been reviewed."""
MEANT = ("id", "namespace", "model_name", "question", "answer", "hits", "created", "state")


@dataclass(frozen=True, slots=True)
class Desk:
    """Over one cache. owner: in whose name an answer is reviewed."""

    cache: Cache
    now: Callable[[], float] = time.time

    def unreviewed(self, most: int = 20, text: str | None = None) -> list[dict[str, Any]]:
        """Generated answers that were given most, without those that a reviewed one stands before."""
        found: list[dict[str, Any]] = []
        with self.cache.reading("answers") as db, self.cache.reading("state") as state:
            for row in answers.search(db, Selection(text=text or None), self.now(), most * LOOKED_AT):
                context = _context(answers.request_of(db, row.id or 0) or {})
                known = None if context is None else reviewed.equal(state, [row.namespace], context, row.question)
                if context is not None and (known is None or known.state != reviewed.LIVE or self._over(known)):
                    found.append({name: getattr(row, name) for name in MEANT})
                if len(found) == most:
                    break
        return found

    def near_misses(self, most: int = 20) -> list[dict[str, Any]]:
        """Questions that nearly had an answer. reviewed: the number of the answer to the remembered one, None where it is no reviewed one."""
        with self.cache.reading("answers") as db:
            misses = [asdict(near) for near in answers.near_misses(db, most)]
        with self.cache.reading("state") as db:
            numbers = {question: number for number, asked in reviewed.questions(db).items() for question in asked}
        return [near | {"reviewed": numbers.get(near["remembered"])} for near in misses]

    def judged_wrong(self, most: int = 20) -> list[dict[str, Any]]:
        """Hits that people, or another try, found wrong."""
        with self.cache.reading("state") as db:
            return [asdict(said) | {"at": at} for said, at in reviewed.judged_wrong(db, most)]

    def reviewed(self, text: str = "", most: int = 200) -> list[dict[str, Any]]:
        """Reviewed answers with their questions; text: a part of either, in any case."""
        with self.cache.reading("state") as db:
            rows = reviewed.every(db)
        wanted = text.casefold()
        fitting = [(row, questions) for row, questions in rows if wanted in "\n".join([row.answer, *questions]).casefold()]
        return [
            {name: getattr(row, name) for name in ("id", "namespace", "answer", "owner", "source", "reviewed", "expires", "hits")}
            | {"questions": questions, "state": "expired" if self._over(row) else row.state}
            for row, questions in fitting[-most:][::-1]
        ]

    def _over(self, row: reviewed.Reviewed) -> bool:
        return row.expires is not None and row.expires <= self.now()

    def approve(self, number: int, owner: str, answer: str | None = None, source: str = "", expires: float | None = None) -> int:
        """A generated answer, or other words for it, becomes a reviewed one; its number. Raises NotFound, InvalidRequest."""
        with self.cache.reading("answers") as db:
            row = answers.by_number(db, [number]).get(number)
            request = answers.request_of(db, number)
        if row is None or request is None:
            raise NotFound(f"There is no remembered answer {number}.", remedy="It may have been forgotten meanwhile.")
        context = _context(request)
        if context is None:
            raise InvalidRequest(f"Answer {number} was not given to a question in a conversation.", remedy="Write a reviewed answer of its own.")
        new = NewReviewed(row.namespace, [row.question], row.answer if answer is None else answer, owner, source, expires, context)
        return self.cache.write("state", lambda db: reviewed.put(db, new, self.now()))

    def write(self, owner: str, questions: Sequence[str], answer: str, namespace: str, source: str = "", expires: float | None = None) -> int:
        """A new reviewed answer; its number. Raises InvalidRequest."""
        new = NewReviewed(namespace, questions, answer, owner, source, expires)
        return self.cache.write("state", lambda db: reviewed.put(db, new, self.now()))

    def edit(self, number: int, owner: str, answer: str | None = None, phrasings: Sequence[str] = ()) -> None:
        """Other words, more phrasings, or both. Raises NotFound, InvalidRequest."""

        def work(db: reviewed.Database) -> None:
            reviewed.get(db, number)
            if answer is not None:
                reviewed.rewrite(db, number, answer, owner, self.now())
            for question in phrasings:
                reviewed.add_phrasing(db, number, question)

        self.cache.write("state", work)

    def set_state(self, number: int, owner: str, state: str) -> None:
        """live, rejected, or expired (from now on). Raises NotFound."""
        if state == "expired":
            self.cache.write("state", lambda db: reviewed.expire(db, number, self.now()))
        else:
            self.cache.write("state", lambda db: reviewed.set_state(db, number, state, owner, self.now()))

    def merge(self, number: int, into: int) -> None:
        """The questions of one reviewed answer become questions of another, and the first is gone. Raises NotFound, InvalidRequest where
        they belong to different namespaces, or the same."""

        def work(db: reviewed.Database) -> None:
            one, other = reviewed.get(db, number), reviewed.get(db, into)
            if number == into or (one.namespace, one.context) != (other.namespace, other.context):
                raise InvalidRequest(f"The answers {number} and {into} cannot be merged.", param="into", remedy="Name another answer of the same namespace.")
            for question in reviewed.questions(db).get(number, []):
                reviewed.add_phrasing(db, into, question)
            reviewed.remove(db, number)

        self.cache.write("state", work)

    def take_over(self, new: Sequence[NewReviewed]) -> list[int]:
        """The numbers of all of them, written together. Raises InvalidRequest."""
        return self.cache.write("state", lambda db: [reviewed.put(db, one, self.now()) for one in new])

    def exported(self, form: str) -> str:
        """The live ones as a file. form: "csv" or "jsonl"."""
        with self.cache.reading("state") as db:
            return exchange.write(reviewed.every(db), form)

    def to_be_purged(self, which: Selection, most: int = 10) -> tuple[int, list[str]]:
        """(how many answers a purge would remove, some of their questions)."""
        sql, values = which.where(self.now())
        with self.cache.reading("answers") as db:
            (count,) = db.execute(f"SELECT count(*) FROM answers WHERE {sql}", values).fetchone()
            return int(count), [row.question for row in answers.search(db, which, self.now(), most)]


def _context(request: dict[str, Any]) -> bytes | None:
    messages = request.get("prompt", {}).get("messages")
    return reviewed.context_in(messages) if messages else None
