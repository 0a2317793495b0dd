"""Pairs of questions: reading, parting without a leak, and what a score is worth."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import InvalidRequest
from appliance.factory.question_pairs import Group, Labelled, part, read_groups, read_pairs, recall_at


def test_pairs_are_read_packed_or_not(tmp_path):
    line = json.dumps({"a": "x", "b": "y", "same": 1}) + "\n\n"
    (tmp_path / "p.jsonl").write_text(line)
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    assert read_pairs(tmp_path / "p.jsonl") == read_pairs(tmp_path / "p.jsonl.gz") == [Labelled("x", "y", True)]


@pytest.mark.parametrize("line, words", [("{", "line 1 is not JSON"), ('{"a": "x", "same": 1}', "'b' is missing")])
def test_a_line_that_is_no_pair_is_named(tmp_path, line, words):
    (tmp_path / "p.jsonl").write_text(line)
    with pytest.raises(InvalidRequest, match=words):
        read_pairs(tmp_path / "p.jsonl")


def test_a_group_says_what_it_knows_and_no_more(tmp_path):
    (tmp_path / "written-x.jsonl").write_text('{"same": ["a", "b"], "other": ["c", "d"]}\n')
    [group] = read_groups(tmp_path)
    assert group == Group(("a", "b"), ("c", "d"))
    assert [(pair.a, pair.b, pair.same) for pair in group.pairs()] == [
        ("a", "b", True), ("a", "c", False), ("a", "d", False), ("b", "c", False), ("b", "d", False),
    ]  # fmt: skip
    (tmp_path / "written-y.jsonl").write_text('{"same": ["a"], "other": []}\n')
    with pytest.raises(InvalidRequest, match="must hold questions"):
        read_groups(tmp_path)


PAIRS = st.lists(st.builds(Labelled, st.sampled_from("abcdefghijklmnop"), st.sampled_from("abcdefghijklmnop"), st.booleans()), max_size=40)


@given(PAIRS, st.sampled_from([0.1, 0.3, 0.5]), st.integers(0, 3))
def test_no_question_is_on_both_sides_and_no_pair_is_lost(pairs, share, seed):
    learn, held = part(pairs, share, seed)
    ours, theirs = ({question for pair in side for question in (pair.a, pair.b)} for side in (learn, held))
    assert not ours & theirs and len(learn) + len(held) == len(pairs)
    assert part(pairs, share, seed) == (learn, held)


def test_recall_is_the_largest_at_which_the_precision_holds():
    scores, same = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([1, 1, 0, 1, 1, 0], bool)
    assert recall_at(scores, same, 1.0) == (0.5, 0.8)
    assert recall_at(scores, same, 0.8) == (1.0, 0.5)
    assert recall_at(scores, same, 0.0)[0] == 1.0
    assert recall_at(scores, ~same, 0.9) == (0.0, 1.0)


def test_pairs_of_one_score_are_accepted_together():
    same = np.array([1, 0, 1, 0], bool)
    assert recall_at(np.full(4, 0.5), same, 0.6) == (0.0, 1.0) and recall_at(np.full(4, 0.5), same, 0.5) == (1.0, 0.5)
