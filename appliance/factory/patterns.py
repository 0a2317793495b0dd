"""Small grammars that stand for many wordings of one question. Pure.

`(a|b)` is one of several, `[a]` may be left out, and both may be nested:
"(how do I|how to) (make|create) a [full] (backup|copy of everything)" stands for 16 questions.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CLOSES = {"(": ")", "[": "]"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several runs of parts."""

    options: tuple[tuple[str | Choice, ...], ...]


Parts = tuple[str | Choice, ...]


def parse(text: str) -> Parts:
    """The parts of a pattern. Raises ValueError that says where a bracket is wrong."""
    parts, at = _parts(text, 0, "")
    if at != len(text):
        raise ValueError(f"{text[at]!r} at {at} in {text!r} has no beginning")
    return parts


def _parts(text: str, at: int, stops: str) -> tuple[Parts, int]:
    parts: list[str | Choice] = []
    begun = at
    while at < len(text) and text[at] not in (stops or "|)]"):
        if text[at] not in CLOSES:
            at += 1
            continue
        parts.append(text[begun:at])
        close, options = CLOSES[text[at]], []
        opened = at
        while at == opened or text[at] == "|":
            option, at = _parts(text, at + 1, f"|{close}")
            options.append(option)
            if at == len(text):
                raise ValueError(f"{text[opened]!r} at {opened} in {text!r} is not closed")
        parts.append(Choice((*options, ()) if close == "]" else tuple(options)))
        at += 1
        begun = at
    parts.append(text[begun:at])
    return tuple(part for part in parts if part), at


def count(parts: Parts) -> int:
    """How many questions a pattern stands for."""
    total = 1
    for part in parts:
        if isinstance(part, Choice):
            total *= sum(count(option) for option in part.options)
    return total


def expand(parts: Parts, rng: random.Random) -> str:
    """One of them, with single spaces."""
    return " ".join(_text(parts, rng).split())


def _text(parts: Parts, rng: random.Random) -> str:
    return "".join(part if isinstance(part, str) else _text(rng.choice(part.options), rng) for part in parts)
