"""From a label for each token to the entities of a text. Pure.

Labels are written B-PER (begins), I-PER (goes on), O (none), also with the letters of BIOES and BILOU, or without any. A
word has the label of its first token, which is what such models are trained for.
https://en.wikipedia.org/wiki/Inside-outside-beginning_(tagging)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

BEGINNING, GOING_ON = frozenset("BSU"), frozenset("IEL")


class Mark(NamedTuple):
    """Where a token comes from: characters start to end of the text, and the number of its word; -1 for a control token."""

    start: int
    end: int
    word: int


def entities(text: str, marks: Sequence[Mark], scores: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The entities of a text, in order: label, score (mean over its words), start and end (characters), text.

    scores: probabilities [tokens, labels]; marks: one for each token.
    """
    found: list[dict[str, Any]] = []
    last_word, last_kind = -1, ""
    for mark, row in zip(marks, scores, strict=True):
        if mark.word < 0:
            continue
        if mark.word == last_word:
            if last_kind:
                found[-1]["end"] = max(found[-1]["end"], mark.end)
            continue
        last_word = mark.word
        best = int(row.argmax())
        begins, kind = _read(labels[best])
        if kind and (begins or kind != last_kind):
            found.append({"label": kind, "start": mark.start, "end": mark.end, "scores": []})
        if kind:
            found[-1]["end"] = mark.end
            found[-1]["scores"].append(float(row[best]))
        last_kind = kind
    return [_finished(text, entity) for entity in found]


def _read(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and its kind; "" for none."""
    if label == "O":
        return False, ""
    letter, dash, kind = label[:1], label[1:2], label[2:]
    if dash in ("-", "_") and kind and letter in BEGINNING | GOING_ON:
        return letter in BEGINNING, kind
    return False, label


def _finished(text: str, entity: dict[str, Any]) -> dict[str, Any]:
    scores, start, end = entity["scores"], entity["start"], entity["end"]
    while start < end and text[start].isspace():  # some tokenizers count the space before a word as its own
        start += 1
    return {"label": entity["label"], "score": sum(scores) / len(scores), "start": start, "end": end, "text": text[start:end]}
