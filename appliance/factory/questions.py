"""Question/answer data for a student: reading, checking, drawing examples, and the noise people make when they type.

A file is JSON Lines, one intent a line: {"id", "topic", "answer", "questions": [...], "patterns": [...], "held_out": [...],
"also": {question: [ids]}}. Questions and patterns (`patterns`) train; held-out phrasings are never trained on, not even where a
pattern makes them. `also` names other intents whose answers answer a held-out phrasing as well: where two overlap, or it is vague.
Pure but for reading the files.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.errors import InvalidRequest
from appliance.factory import patterns

UNKNOWN = "unknown"
"""The intent whose answer is the refusal."""
PATTERN_SHARE = 0.6
"""Share of the examples whose question comes from a pattern where the intent has some; the others are written ones."""


@dataclass(frozen=True, slots=True)
class Intent:
    """One answer and the ways to ask for it."""

    id: str
    topic: str
    answer: str
    questions: tuple[str, ...]
    patterns: tuple[patterns.Parts, ...] = ()
    held_out: tuple[str, ...] = ()
    also: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pair:
    """One question with its answer. others: answers that are right as well."""

    question: str
    answer: str
    intent: str
    others: tuple[str, ...] = ()

    @property
    def right(self) -> tuple[str, ...]:
        """All right answers, the expected one first."""
        return (self.answer, *self.others)


def normalise(text: str) -> str:
    """Lower case, without punctuation and doubled spaces: how two texts are compared."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def read(folder: Path) -> list[Intent]:
    """All intents in folder/*.jsonl, by file name. Raises InvalidRequest that lists every mistake."""
    intents: list[Intent] = []
    mistakes: list[str] = []
    asked: dict[str, str] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            where = f"{path.name} line {number}"
            try:
                row = json.loads(line)
                grammars = tuple(patterns.parse(pattern) for pattern in row.get("patterns", ()))
                asked_of = tuple(row["questions"]), grammars, tuple(row.get("held_out", ())), row.get("also", {})
                intent = Intent(row["id"], row["topic"], row["answer"], *asked_of)
            except (ValueError, KeyError, TypeError) as error:
                mistakes.append(f"{where}: not an intent ({type(error).__name__}: {error})")
                continue
            for question in (*intent.questions, *intent.held_out):
                key = normalise(question)
                if asked.setdefault(key, intent.id) != intent.id:
                    mistakes.append(f"{where}: {question!r} is also asked by {asked[key]}")
            intents.append(intent)
    known = {intent.id for intent in intents}
    for intent in intents:
        for question, others in intent.also.items():
            if question not in intent.held_out or not known.issuperset(others):
                mistakes.append(f"{intent.id}: also: {question!r} is not held out there, or names an intent that is not there")
    if not intents:
        mistakes.append(f"{folder} holds no question.")
    if mistakes:
        raise InvalidRequest("\n".join(mistakes[:20]), param="data")
    return intents


def written(intents: Iterable[Intent]) -> list[Pair]:
    """All written questions to train on."""
    return [Pair(question, intent.answer, intent.id) for intent in intents for question in dict.fromkeys(intent.questions)]


def held_out(intents: Iterable[Intent]) -> list[Pair]:
    """All questions to test with."""
    intents = list(intents)
    answers = {intent.id: intent.answer for intent in intents}
    return [
        Pair(question, intent.answer, intent.id, tuple(answers[other] for other in intent.also.get(question, ())))
        for intent in intents
        for question in intent.held_out
    ]


def shares_right(pairs: Sequence[Pair], right: Sequence[bool]) -> dict[str, float]:
    """Shares of the pairs that are right, in scope and out of it; right: for each pair."""
    counted = {known: [ok for pair, ok in zip(pairs, right, strict=True) if (pair.intent != UNKNOWN) == known] for known in (True, False)}
    return {name: round(sum(counted[known]) / max(1, len(counted[known])), 3) for name, known in (("in_scope", True), ("out_of_scope", False))}


class Examples:
    """Draws training pairs: intents alike often, the refusal with a share of its own."""

    def __init__(self, intents: Iterable[Intent], refusal_share: float) -> None:
        intents = list(intents)
        self._known = [intent for intent in intents if intent.id != UNKNOWN]
        self._unknown = [intent for intent in intents if intent.id == UNKNOWN] or self._known
        self._refusal_share = refusal_share
        self._secret = {normalise(pair.question) for pair in held_out(intents)}

    def draw(self, rng: random.Random) -> Pair:
        """One example, as somebody might type it."""
        intent = rng.choice(self._unknown if rng.random() < self._refusal_share else self._known)
        while True:
            if intent.patterns and rng.random() < PATTERN_SHARE:
                question = patterns.expand(rng.choice(intent.patterns), rng)
            else:
                question = rng.choice(intent.questions)
            if normalise(question) not in self._secret:
                return Pair(disturb(question, rng), intent.answer, intent.id)


OPENINGS = ("please ", "hi, ", "hello, ", "hey ", "quick question: ", "sorry, ", "ok, ", "so ", "can you tell me: ", "um, ")
CLOSINGS = (" please", " thanks", " thank you", "?", "??", " asap", " pls", " ...")


def disturb(question: str, rng: random.Random) -> str:
    """The question as somebody in a hurry types it: politeness, case, punctuation, a typo; about half stay untouched."""
    if rng.random() < 0.5:
        return question
    if rng.random() < 0.25:
        question = rng.choice(OPENINGS) + question[:1].lower() + question[1:]
    if rng.random() < 0.25:
        question = question.rstrip("?.! ") + rng.choice(CLOSINGS)
    if rng.random() < 0.35:
        question = question.lower()
    if rng.random() < 0.25:
        question = question.rstrip("?.!")
    if rng.random() < 0.3 and len(question) > 8:
        at = rng.randrange(1, len(question) - 2)
        swap = question[:at] + question[at + 1] + question[at] + question[at + 2 :]
        question = rng.choice((swap, question[:at] + question[at + 1 :], question[:at] + question[at] + question[at:]))
    return question
