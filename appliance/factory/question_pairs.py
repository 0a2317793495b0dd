"""Labelled pairs of questions: reading them, parting them so that no question is on both sides, and what a score of them is worth."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from appliance.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Labelled:
    """Two questions; same: whether an answer to one is one to the other. kind: what the difference is made of, '' where nobody says."""

    a: str
    b: str
    same: bool
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Phrasings of one question, and questions that look like it and need another answer."""

    same: tuple[str, ...]
    other: tuple[str, ...]

    def pairs(self) -> Iterator[Labelled]:
        """Every pair that the group says something about."""
        for place, first in enumerate(self.same):
            yield from (Labelled(first, second, True) for second in self.same[place + 1 :])
            yield from (Labelled(first, second, False) for second in self.other)


def read_pairs(path: Path) -> list[Labelled]:
    """Lines of {"a", "b", "same"} or {"kind", "a", "b"} with a label in `same`; may be packed (.gz). Raises InvalidRequest."""
    found = []
    for number, row in _rows(path):
        try:
            found.append(Labelled(str(row["a"]), str(row["b"]), bool(row["same"]), str(row.get("kind", ""))))
        except KeyError as error:
            raise InvalidRequest(f"{path}, line {number}: {error} is missing.", param="pairs", remedy='A line is {"a": ..., "b": ..., "same": 0 or 1}.') from None
    return found


def read_groups(folder: Path) -> list[Group]:
    """The groups in folder/written*.jsonl. Raises InvalidRequest."""
    found = []
    for path in sorted(folder.glob("written*.jsonl")):
        for number, row in _rows(path):
            if not row.get("same") or not row.get("other"):
                raise InvalidRequest(f"{path}, line {number}: `same` and `other` must hold questions.", param="data")
            found.append(Group(tuple(row["same"]), tuple(row["other"])))
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict]]:
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    raise InvalidRequest(f"{path}, line {number} is not JSON: {error}.", param="pairs") from None


def part(pairs: Sequence[Labelled], share: float, seed: int = 1) -> tuple[list[Labelled], list[Labelled]]:
    """(to learn, held out). Questions that any chain of pairs connects are on one side, so no pair is torn and none is lost."""
    parent: dict[str, str] = {}

    def root(question: str) -> str:
        while parent.setdefault(question, question) != question:
            parent[question] = parent[parent[question]]
            question = parent[question]
        return question

    for pair in pairs:
        parent[root(pair.a)] = root(pair.b)
    clusters = sorted({root(pair.a) for pair in pairs})
    kept = set(random.Random(seed).sample(clusters, round(len(clusters) * share)))
    sides: tuple[list[Labelled], list[Labelled]] = ([], [])
    for pair in pairs:
        sides[root(pair.a) in kept].append(pair)
    return sides


def recall_at(scores: np.ndarray, same: np.ndarray, precision: float) -> tuple[float, float]:
    """(the largest recall at which the share of right ones among the accepted is at least `precision`, the threshold that gives it)."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(same[order])
    accepted = np.arange(1, len(order) + 1)
    last = np.append(scores[order][1:] != scores[order][:-1], True)  # equal scores are accepted together
    good = np.flatnonzero((right / accepted >= precision) & last)
    if not len(good):
        return 0.0, 1.0
    return float(right[good[-1]] / max(1, same.sum())), float(scores[order][good[-1]])
