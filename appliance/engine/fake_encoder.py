"""A scripted encoder: deterministic, made of nothing but hashes. Used by tests, by `doctor` and to show failures.

What it is follows from its name: one that contains `rerank`, `classify`, `nli` (a classifier that judges any label) or
`tokens` is that, every other one embeds. Tokens are words, with one before and one after the text. Texts that share
words have similar vectors and high scores; words with a capital are names. Words in a text make things happen:

    !crash   the process dies of a signal, as a bug in a kernel would make it
    !hang    the batch never ends
    !die     the process is killed with SIGKILL, as by the kernel's out-of-memory killer
    !fail    the computation of this text fails, and no other
    !nan     the result is no number
"""

from __future__ import annotations

import hashlib
import re
import time

import numpy as np

from appliance.engine.encoder import Encoder, Head, Row
from appliance.engine.entities import Mark
from appliance.engine.fake_backend import _misbehave
from appliance.errors import InvalidRequest
from appliance.types import ModelInfo, Task

FIRST, LAST, PAIR = "[FIRST]", "[LAST]", "[PAIR]"
WORD = re.compile(r"\S+")
LABELS: dict[str, tuple[str, ...]] = {
    "classify": ("negative", "positive"), "nli": ("entailment", "neutral", "contradiction"), "tokens": ("O", "B-NAME", "I-NAME"),
}  # fmt: skip


def is_fake_encoder(name: str) -> bool:
    """Whether the scripted model of this name is an encoder."""
    return any(word in name.lower() for word in ("embed", "rerank", "classify", "nli", "tokens"))


class FakeEncoder(Encoder):
    """See the module. step_s: time a batch takes, to make concurrency visible."""

    def __init__(self, name: str = "embed", *, dimensions: int = 32, context_tokens: int = 64, step_s: float = 0.0) -> None:
        kind = next((word for word in ("rerank", "classify", "nli", "tokens") if word in name.lower()), "embed")
        task: Task = "classify" if kind == "nli" else kind
        self._words: dict[str, int] = {}
        self._texts: list[str] = []
        for word in (FIRST, LAST, PAIR):
            self._id(word)
        self._step_s = step_s
        self.info = ModelInfo(
            name=name,
            path=name,
            task=task,
            dimensions=dimensions if task == "embed" else 0,
            labels=LABELS.get(kind, ()),
            description="scripted encoder",
            vocabulary=1 << 20,
            context_tokens=context_tokens,
            trained_context_tokens=context_tokens,
            backend="fake",
        )
        self.head = Head(context_tokens, prompts={"query": "query: "}, entailment=(0, 2) if kind == "nli" else None)
        self._dimensions = dimensions

    def read(self, text: str, other: str | None, *, truncate: bool, skip: int, param: str, most: int = 0) -> Row:
        """See Encoder.read."""
        text = self.beginning(text, truncate=truncate, param=param)
        found = list(WORD.finditer(text))
        tokens = [FIRST, *(m[0] for m in found), LAST]
        marks = [Mark(0, 0, -1), *(Mark(m.start(), m.end(), at) for at, m in enumerate(found)), Mark(0, 0, -1)]
        types = [0] * len(tokens)
        if other is not None:
            second = [*WORD.findall(self.beginning(other, truncate=truncate, param=param)), LAST]
            tokens += second
            types += [1] * len(second)
        if len(tokens) > self.head.limit_tokens and not truncate:
            raise self.too_long(len(tokens), param)
        limit = most if truncate and most else self.head.limit_tokens
        return Row([self._id(token) for token in tokens[:limit]], types[:limit] if other is not None else [], 0, marks[:limit])

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """One token a word."""
        words = WORD.findall(text)
        return [self._id(word) for word in ([FIRST, *words, LAST] if add_special else words)]

    def piece(self, token: int) -> bytes:
        """The word with a space before it; nothing for the tokens around a text."""
        return b"" if token < 3 or token >= len(self._texts) else b" " + self._texts[token].encode("utf-8", "replace")

    def label(self, token: int) -> str:
        """The word."""
        return self._texts[token] if token < len(self._texts) else ""

    def _id(self, word: str) -> int:
        if word not in self._words:
            if len(self._texts) >= 1 << 20:
                raise InvalidRequest("The scripted encoder has learnt more words than it can hold.")
            self._words[word] = len(self._texts)
            self._texts.append(word)
        return self._words[word]

    def compute(self, rows: list[Row]) -> list[np.ndarray]:
        """Each row by itself. Raises AssertionError for a batch that is too large: the fake checks its caller."""
        if self._step_s:
            time.sleep(self._step_s)
        longest = max(len(row.ids) for row in rows)
        assert len(rows) <= self.max_rows and (len(rows) == 1 or len(rows) * longest <= self.max_tokens)
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> np.ndarray:
        words = [self.label(token) for token in row.ids]
        _misbehave(" ".join(words).encode("utf-8", "replace"))
        if "!fail" in words:
            raise RuntimeError("told to")
        if "!nan" in words:
            return np.full(self._dimensions, np.nan, np.float32)
        if self.info.task == "embed":
            return sum((_vector(word, self._dimensions) for word in words[1:]), _vector(FIRST, self._dimensions))
        if self.info.task == "tokens":
            return np.array([[0, 4 * word[:1].isupper(), 0] for word in words], np.float32) + np.array([2, 0, 0], np.float32)
        first, second = ({w.lower() for w, t in zip(words, row.types or [0] * len(words), strict=True) if t == kind} for kind in (0, 1))
        shared = len(first & second - {LAST.lower()})
        if self.info.task == "rerank":
            return np.array([2.0 * shared - 1], np.float32)
        if self.head.entailment:
            return np.array([3.0 * shared, 1, 1], np.float32)
        return np.array([len({"bad", "poor"} & first), len({"good", "fine"} & first)], np.float32) * 2

    def close(self) -> None:
        """Nothing to free."""


def _vector(word: str, dimensions: int) -> np.ndarray:
    """A direction for each word, the same on every machine."""
    seed = int.from_bytes(hashlib.blake2b(word.lower().encode("utf-8", "replace"), digest_size=8).digest(), "big")
    return np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
