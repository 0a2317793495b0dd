"""The encoders' loop: receive, read texts into tokens, choose a batch, compute, answer. One thread; `step` does one round.

A question that comes while nothing runs is computed at once; what comes while a batch runs is computed together after it
(`encoder_plan` says what with what). There is no waiting for company.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from appliance.clock import Clock
from appliance.engine.encoder import NOUNS, Encoder, Row
from appliance.engine.encoder_plan import compete, rows_that_fit, take
from appliance.engine.loop import LOAD_REPORT_S, Link
from appliance.engine.messages import Answer, Ask, Cancel, Frame, Generate, Message, Stop
from appliance.errors import ApplianceError, Cancelled, Draining, InvalidRequest

BATCH_S = 0.05
"""How long a batch should take: what a single text waits for when it comes while a large question is computed."""
LEAST_TOKENS = 64
"""The smallest token budget of a batch, however slow the model is. all-MiniLM-L6-v2 in int8 on two cores, thousand tokens/s
of batches of 8/64/256/512/4096 tokens: 6.8/10.7/12/12/12 in short texts, texts of 256 tokens 9.4 alone and 8.7 in 16."""
READ_S = 0.02
READ_ROWS = 8
"""Texts are made tokens in turns of so many for each question, for so long between two batches."""
LEARN = 0.2


@dataclass(slots=True, eq=False)
class _Question:
    """One Ask. source: the rows that are still to be read, None when all are. pending: indices of the rows that are not
    computed yet, by length, the longest last. tokens: of those rows."""

    ask: Ask
    arrival: int
    source: Iterator[Row] | None
    rows: list[Row] = field(default_factory=list)
    results: list[np.ndarray | None] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    tokens: int = 0

    def finish_reading(self) -> None:
        """All rows are there."""
        self.source = None
        self.results = [None] * len(self.rows)
        self.pending = sorted(range(len(self.rows)), key=lambda i: len(self.rows[i].ids))
        self.tokens = sum(len(row.ids) for row in self.rows)


Batch = list[tuple[_Question, int]]
"""Rows to compute together: (question, index of its row)."""


class EncoderLoop:
    """Dynamic batching over one encoder. Everything here happens on the thread that calls `step`."""

    def __init__(self, encoder: Encoder, link: Link, clock: Clock) -> None:
        self._encoder = encoder
        self._link = link
        self._clock = clock
        self._questions: dict[str, _Question] = {}
        self._arrivals = self._passes = self._steps = 0
        self._tokens_per_s = 0.0
        self._last_step_s = 0.0
        self._failed: list[list[Any]] = []
        self._told_at = -1e9
        self._untold = False
        self.stopping = False

    # -- one round ---------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One round. Returns False when there was nothing to do. Raises ChannelClosed when the front is gone."""
        self._receive()
        if self.stopping:
            return False
        worked = self._read()
        if batch := self._next_batch():
            self._compute(batch)
            worked = True
        self._report()
        return worked

    def _receive(self) -> None:
        message = self._link.receive(self._patience())
        while message is not None:
            self._handle(message)
            if self.stopping:
                return
            message = self._link.receive(0.0)

    def _patience(self) -> float | None:
        """How long to wait for a message: not at all with work to do, and else until somebody should be told of the load."""
        if self._questions:
            return 0.0
        return max(0.0, self._told_at + LOAD_REPORT_S - self._clock()) if self._untold else None

    def _handle(self, message: Message) -> None:
        if isinstance(message, Ask):
            self._enter(message)
        elif isinstance(message, Cancel):
            if message.id in self._questions:
                self._fail(message.id, Cancelled("The client left."))
        elif isinstance(message, Generate):
            info = self._encoder.info
            words = f"{info.name} is {NOUNS[info.task]}: it writes no text."
            error = InvalidRequest(words, param="model", remedy="Name a text generation model.")
            self._failed.append([message.id, error.to_wire()])
        elif isinstance(message, Stop):
            for key in list(self._questions):
                self._fail(key, Draining("The service stopped before this answer was complete."))
            self._report()
            self.stopping = True

    # -- questions in and out ----------------------------------------------------------------------------------

    def _enter(self, ask: Ask) -> None:
        try:
            if ask.what in ("tokenize", "detokenize", "template"):
                self._send(Answer(ask.id, self._about_words(ask.what, ask.args)))
                return
            self._arrivals += 1
            self._questions[ask.id] = _Question(ask, self._arrivals, self._encoder.prepare(ask.what, ask.args))
        except Exception as error:
            self._fail(ask.id, _told(error))

    def _about_words(self, what: str, args: dict[str, Any]) -> dict[str, Any]:
        encoder = self._encoder
        if what == "tokenize":
            tokens = encoder.tokenize(
                args["text"], add_special=args.get("add_special", False), parse_special=args.get("parse_special", True)
            )
            return {"tokens": tokens, "pieces": [encoder.label(t) for t in tokens] if args.get("pieces") else None}
        if what == "detokenize":
            end = encoder.info.vocabulary
            wrong = next((t for t in args["tokens"] if not 0 <= t < end), None)
            if wrong is not None:
                raise InvalidRequest(f"Token {wrong} is not in the vocabulary (0 to {end - 1}).", param="tokens")
            return {"text": b"".join(encoder.piece(t) for t in args["tokens"]).decode("utf-8", "replace")}
        raise InvalidRequest(f"{encoder.info.name} is {NOUNS[encoder.info.task]}: it has no chat template.", param="model")

    def _fail(self, key: str, error: ApplianceError) -> None:
        self._questions.pop(key, None)
        self._send(Answer(key, error=error.to_wire()))

    def _finish(self, question: _Question) -> None:
        ask = question.ask
        del self._questions[ask.id]
        try:
            self._send(Answer(ask.id, self._encoder.answer(ask.what, ask.args, question.rows, question.results)))
        except (ApplianceError, ValueError, TypeError, KeyError) as error:  # ValueError: too large for a frame
            self._fail(ask.id, _told(error))

    def _read(self) -> bool:
        """Turn waiting texts into tokens for a short while, a few for each question in turn."""
        reading = [q for q in self._questions.values() if q.source is not None]
        until = self._clock() + READ_S
        worked = bool(reading)
        while reading:
            question = min(reading, key=lambda q: len(q.rows))
            if not self._read_some(question):
                reading.remove(question)
            if self._clock() > until:
                break
        return worked

    def _read_some(self, question: _Question) -> bool:
        """Read a few of a question's texts. Returns False when nothing is left to read, well or not."""
        try:
            some = list(islice(question.source, READ_ROWS))
        except Exception as error:  # it fails alone
            self._fail(question.ask.id, _told(error))
            return False
        question.rows += some
        if len(some) == READ_ROWS:
            return True
        question.finish_reading()
        if not question.rows:
            self._finish(question)
        return False

    # -- computing ---------------------------------------------------------------------------------------------

    def _budget(self) -> int:
        return int(max(LEAST_TOKENS, min(self._encoder.max_tokens, self._tokens_per_s * BATCH_S)))

    def _next_batch(self) -> Batch:
        ready = [q for q in self._questions.values() if q.source is None]
        if not ready:
            return []
        budget = self._budget()
        chosen = [ready[i] for i in compete([(q.tokens, q.arrival) for q in ready], budget, self._passes)]
        longest = max(len(q.rows[q.pending[-1]].ids) for q in chosen)
        room = rows_that_fit(longest, budget, self._encoder.max_rows)
        candidates = [(len(q.rows[at].ids), q, at) for q in chosen for at in reversed(q.pending[-room:])]
        candidates.sort(key=lambda c: c[0], reverse=True)  # keeps each question's own order
        candidates = candidates[:room]
        batch = [(q, at) for _, q, at in candidates[: take([length for length, _, _ in candidates])]]
        oldest = min(ready, key=lambda q: q.arrival)
        self._passes = 0 if any(q is oldest for q, _ in batch) else self._passes + 1
        for question, at in batch:
            question.pending.pop()
            question.tokens -= len(question.rows[at].ids)
        return batch

    def _compute(self, batch: Batch) -> None:
        rows = [question.rows[at] for question, at in batch]
        began = self._clock()
        try:
            results = self._encoder.compute(rows)
        except Exception as error:
            self._after_failure(batch, error)
            return
        self._last_step_s = self._clock() - began
        self._steps += 1
        self._learn(sum(len(row.ids) for row in rows))
        for (question, at), result in zip(batch, results, strict=True):
            question.results[at] = result
        for question in dict.fromkeys(question for question, _ in batch):
            broken = next((at for q, at in batch if q is question and not np.isfinite(q.results[at]).all()), None)
            if broken is not None:
                words = f"The model's result for text {broken} is no number."
                self._fail(question.ask.id, ApplianceError(words, remedy="If it is so for other texts too, the model is damaged."))
            elif not question.pending:
                self._finish(question)

    def _after_failure(self, batch: Batch, error: Exception) -> None:
        """Whose text was it? A batch that failed is computed again row by row, and only the guilty fail."""
        self._steps += 1
        if len(batch) == 1:
            question, at = batch[0]
            known = isinstance(error, ApplianceError)
            self._fail(question.ask.id, error if known else ApplianceError(f"The engine could not compute text {at}: {error}"))
            return
        for question, at in batch:
            if question.ask.id in self._questions:
                self._compute([(question, at)])

    def _learn(self, tokens: int) -> None:
        if self._last_step_s > 0:
            seen = tokens / self._last_step_s
            self._tokens_per_s += (seen - self._tokens_per_s) * (LEARN if self._tokens_per_s else 1)

    # -- telling -----------------------------------------------------------------------------------------------

    def load(self) -> dict[str, Any]:
        """Gauges for /metrics: questions not answered, texts not computed, seconds of the last batch, tokens per second."""
        return {
            "running": len(self._questions),
            "waiting": sum(len(q.pending) for q in self._questions.values()),
            "step_s": self._last_step_s,
            "tokens_per_s": round(self._tokens_per_s),
        }

    def _send(self, message: Answer) -> None:
        self._link.send(message)
        self._untold = True  # after this the load is another

    def _report(self) -> None:
        """Send a frame when the last one is a while ago, or something failed: it wakes the web worker, which on a small box
        takes the time from the very threads that compute. A batch that takes longer is followed by one in any case."""
        now = self._clock()
        due = now - self._told_at >= LOAD_REPORT_S and (self._untold or self._questions)
        if not due and not self._failed:
            return
        self._link.send(Frame(self._steps, failed=self._failed, load=self.load()))
        self._failed, self._told_at, self._untold = [], now, bool(self._questions)


def _told(error: Exception) -> ApplianceError:
    """An error as the client gets it."""
    if isinstance(error, ApplianceError):
        return error
    return InvalidRequest(f"The engine cannot answer this: {type(error).__name__}: {error}")
