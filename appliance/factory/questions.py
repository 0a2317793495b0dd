"""Question/answer data for a student: reading, checking, splitting, and the noise people make when they type.

A file is JSON Lines, one intent a line: {"id", "topic", "answer", "questions": [...]}. The first phrasings train, the last
`HELD_OUT` of each intent are kept to test with. Pure but for reading the files.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import InvalidRequest

HELD_OUT = 2
"""Phrasings of each intent that are never trained on."""
UNKNOWN = "unknown"
"""The intent whose answer is the refusal."""


@dataclass(frozen=True, slots=True)
class Intent:
    """One answer and the ways to ask for it."""

    id: str
    topic: str
    answer: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """One question with its answer."""

    question: str
    answer: str
    intent: str


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
                intent = Intent(row["id"], row["topic"], row["answer"], tuple(row["questions"]))
            except (ValueError, KeyError, TypeError) as error:
                mistakes.append(f"{where}: not an intent ({type(error).__name__}: {error})")
                continue
            for question in intent.questions:
                key = normalise(question)
                if asked.setdefault(key, intent.id) != intent.id:
                    mistakes.append(f"{where}: {question!r} is also asked by {asked[key]}")
            intents.append(intent)
    if not intents:
        mistakes.append(f"{folder} holds no question.")
    if mistakes:
        raise InvalidRequest("\n".join(mistakes[:20]), param="data")
    return intents


def split(intents: Iterable[Intent]) -> tuple[list[Pair], list[Pair]]:
    """(training, held out by phrasing). The refusal's questions keep every tenth one back."""
    train: list[Pair] = []
    test: list[Pair] = []
    for intent in intents:
        pairs = [Pair(q, intent.answer, intent.id) for q in dict.fromkeys(intent.questions)]
        if intent.id == UNKNOWN:
            test += pairs[::10]
            train += [pair for number, pair in enumerate(pairs) if number % 10]
        else:
            cut = max(1, len(pairs) - HELD_OUT)
            train += pairs[:cut]
            test += pairs[cut:]
    return train, test


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
