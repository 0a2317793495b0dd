"""What a lookup needs and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from appliance.cache import gates


class Meaning(Protocol):
    """The two models that judge meaning. Both return None when they cannot answer now."""

    def embed(self, texts: list[str]) -> np.ndarray | None:
        """Unit vectors, float32 [texts, width]."""

    def same(self, asked: str, others: list[str]) -> list[float] | None:
        """Calibrated probabilities that each means the same."""

    @property
    def prior(self) -> Mapping[float, float]:
        """Share of wrong hits by threshold, measured when the verifier was made; empty without one."""


@dataclass(frozen=True, slots=True)
class Options:
    """What an administrator chooses. budget: share of semantic hits that may be wrong."""

    entries: int = 1_000_000
    size_bytes: int = 4_000_000_000
    ttl_s: float | None = None
    budget: float = 0.01


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer from memory. remembered: the question it was given to. similar: which is not the one asked. entry: its row's number."""

    tier: str
    answer: str
    remembered: str
    score: float
    age_s: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    entry: int | None = None
    similar: bool = False
    reviewed_by: str = ""
    reviewed: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A remembered question and why it is or is not the same one. score: None where the verifier was not asked."""

    source: str
    number: int
    question: str
    cosine: float
    verdicts: tuple[gates.Verdict, ...] = ()
    score: float | None = None
    why: str = ""


@dataclass(slots=True)
class Look:
    """What a lookup found. vector: of the question, for `keep`."""

    hit: Hit | None = None
    why: str = ""
    vector: np.ndarray | None = None
    candidates: list[Candidate] = field(default_factory=list)
