"""Patterns: every wording they stand for comes up, nothing else, and a mistake is told with its place."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.factory import patterns

PARTS = st.recursive(
    st.sampled_from(["stop", "the box", "it"]).map(lambda word: (word, [word])),
    lambda inner: st.tuples(st.sampled_from("([~"), st.lists(inner, min_size=1, max_size=3)).map(lambda drawn: _build(*drawn)),
    max_leaves=6,
)


def _build(kind: str, inner: list[tuple[str, list[str]]]) -> tuple[str, list[str]]:
    """A pattern and all it stands for, of smaller ones: alternatives, something optional, or a row of them."""
    if kind == "(":
        return f"({'|'.join(text for text, _ in inner)})", [found for _, all_ in inner for found in all_]
    if kind == "[":
        return f"[{inner[0][0]}]", [*inner[0][1], ""]
    found = [""]
    for _, all_ in inner:
        found = [f"{before} {after}" for before in found for after in all_]
    return " ".join(text for text, _ in inner), found


@given(PARTS, st.integers(0, 1 << 30))
def test_a_pattern_stands_for_what_it_says(drawn, seed):
    text, wordings = drawn
    parts = patterns.parse(text)
    assert patterns.count(parts) == len(wordings)
    assert patterns.expand(parts, random.Random(seed)) in {" ".join(wording.split()) for wording in wordings}


def test_every_wording_comes_up():
    parts = patterns.parse("(how do I|how to) (stop|end [all of]) it[ now]")
    rng = random.Random(1)
    assert len({patterns.expand(parts, rng) for _ in range(500)}) == patterns.count(parts) == 12


@pytest.mark.parametrize("text", ["a (b", "a [b|c", "(a|b", "a | b", "a) b", "a ] b"])
def test_a_wrong_bracket_is_told_with_its_place(text):
    with pytest.raises(ValueError, match=r" at \d+ in "):
        patterns.parse(text)
