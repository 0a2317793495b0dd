"""Questions to one engine. Each has the thread that asked it, which sends it and waits for its answer.

A question about words (tokenize, ...) ends with the child that has it. The work of an encoder is done by the next child
once more. What a child died of is not known: all that it had are suspects. From then on each of them is at the child
alone, the others wait meanwhile, and so the next death names the guilty one.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from appliance.clock import monotonic
from appliance.engine.channel import Channel, ChannelClosed
from appliance.engine.messages import Answer, Ask, Cancel
from appliance.errors import ApplianceError, Cancelled, InvalidRequest, RequestQuarantined, Unavailable, from_wire

QUARANTINE_AFTER = 2
LOOK_S = 0.25
"""How often a thread that waits for an answer looks whether anybody still wants it."""


def digest(parts: Any) -> str:
    """What tells one request from another, for quarantine; of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def quarantined(what: str) -> RequestQuarantined:
    """The error for a request that is not tried again. what: the part of it to change."""
    return RequestQuarantined(
        "This very request has brought the engine down twice and is not tried again.",
        remedy=f"Change the {what}; the engine's log says how it died.",
    )


def send(channel: Channel, message: Any) -> None:
    """Send a message to a child that may just have gone. Raises ValueError for one that is too large."""
    try:
        channel.send(message)
    except ChannelClosed:
        pass  # the supervisor sees the same end of stream and settles everything


@dataclass(slots=True, eq=False)
class _Question:
    """work: the next child may do it. sent: the child has it. again: it has been sent to an earlier child. left: nobody
    waits any more, but the child has not confirmed it yet. news: something happened that its thread must look at."""

    ask: Ask
    work: bool
    news: threading.Event = field(default_factory=threading.Event)
    sent: bool = False
    again: bool = False
    left: bool = False
    answer: Answer | None = None
    error: ApplianceError | None = None
    digest: str = ""

    def fingerprint(self) -> str:
        """Computed when it is needed first, which is seldom: a question can be megabytes."""
        self.digest = self.digest or digest([self.ask.what, self.ask.args])
        return self.digest


class Questions:
    """The questions of one engine. Any thread may ask; the supervisor's thread calls everything else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._questions: dict[str, _Question] = {}
        self._deaths: Counter[str] = Counter()
        self._gone: ApplianceError | None = None
        self._next = 0

    def __len__(self) -> int:
        with self._lock:
            return len(self._questions)

    def ask(self, what: str, args: dict[str, Any], timeout_s: float, gone: Callable[[], bool], *, work: bool) -> Any:
        """The answer of the child, or of the next one while there is none; `work` also when a child is lost with it.

        gone: asked every LOOK_S; when it is true (then Cancelled is raised) or raises itself, and when the time is over, the
        child is told that nobody waits any more. Raises what the child raised, what it was lost of, RequestQuarantined,
        Unavailable.
        """
        with self._lock:
            self._next += 1
            question = _Question(Ask(f"q{self._next}", what, args), work)
            self._questions[question.ask.id] = question
        until = monotonic() + timeout_s
        try:
            while question.answer is None and question.error is None:
                if channel := self._turn(question):
                    self._hand_over(channel, question)
                if question.news.wait(max(0.0, min(LOOK_S, until - monotonic()))):
                    question.news.clear()
                    continue
                if gone():
                    raise Cancelled("The client left.")
                if monotonic() >= until:
                    words = f"The engine did not answer within {timeout_s:g} s." if question.sent else "The engine is not running just now."
                    raise Unavailable(words, retry_after_s=2)
        finally:
            self._leave(question)
        if question.answer is None:
            raise question.error
        if question.answer.error:
            raise from_wire(question.answer.error)
        return question.answer.result

    def _turn(self, question: _Question) -> Channel | None:
        """Where a question is to be sent now, None while it has to wait."""
        with self._lock:
            if self._gone:
                raise self._gone
            if question.sent or self._channel is None:
                return None
            if self._died(question) >= QUARANTINE_AFTER:
                raise quarantined("texts")
            suspect = next((q for q in self._questions.values() if self._died(q)), None)
            if suspect and (question is not suspect or any(q.sent for q in self._questions.values())):
                return None
            question.sent = True
            return self._channel

    def _died(self, question: _Question) -> int:
        """How many children have died with this question."""
        return self._deaths[question.fingerprint()] if question.work and self._deaths else 0

    def _hand_over(self, channel: Channel, question: _Question) -> None:
        try:
            send(channel, question.ask)
        except ValueError as error:
            question.sent = False
            raise InvalidRequest(f"This is too large to be asked: {error}.") from None

    def _leave(self, question: _Question) -> None:
        """Its thread goes. What is at the child stays in the books: it may still kill the child."""
        with self._lock:
            question.left = True
            cancel = question.sent and question.ask.id in self._questions
            if not cancel:
                self._questions.pop(question.ask.id, None)
                self._wake()
            channel = self._channel
        if cancel and channel:
            send(channel, Cancel(question.ask.id))

    def _wake(self) -> None:
        for question in self._questions.values():
            if not question.sent:
                question.news.set()

    # -- for the supervisor's thread ---------------------------------------------------------------------------

    def attach(self, channel: Channel) -> None:
        """A child is ready: what waits is sent to it, by those who wait."""
        with self._lock:
            self._channel, self._gone = channel, None
            self._wake()

    def take(self, answer: Answer) -> None:
        """What the child says to a question."""
        with self._lock:
            question = self._questions.pop(answer.id, None)
            if question is None:
                return
            question.answer = answer
            if self._died(question) and (answer.error or {}).get("code") != Cancelled.code:
                del self._deaths[question.fingerprint()]  # it was only near when the engine died
            question.news.set()
            self._wake()

    def detach(self, why: ApplianceError, blame: bool) -> None:
        """The child is gone: what it had and what is no work, or was lost for the second time, fails with `why`.

        blame: the child died of its own work.
        """
        with self._lock:
            self._channel = None
            there = [question for question in self._questions.values() if question.sent]
            if blame:
                self._deaths.update({question.fingerprint() for question in there if question.work})
            for question in there:
                if question.left or question.again or not question.work:
                    question.error = why
                    del self._questions[question.ask.id]
                question.sent, question.again = False, True
                question.news.set()

    def fail_all(self, why: ApplianceError) -> None:
        """No child will come: every question ends now, and so does what is asked until one is attached."""
        with self._lock:
            self._channel, self._gone = None, why
            for question in self._questions.values():
                question.error = why
                question.news.set()
            self._questions = {}
