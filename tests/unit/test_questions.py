"""Question/answer data: mistakes are told, held-out phrasings are never trained on, noise keeps a question readable."""

from __future__ import annotations

import json
import random

import pytest

from appliance.errors import InvalidRequest
from appliance.factory import questions

ROWS = [
    {"id": "stop", "topic": "service", "answer": "Press Ctrl-C.", "questions": [f"how to stop {n}" for n in range(6)]},
    {"id": "unknown", "topic": "unknown", "answer": "No.", "questions": [f"riddle {n}" for n in range(30)]},
]


def folder(tmp_path, rows):
    (tmp_path / "a.jsonl").write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return tmp_path


def test_held_out_phrasings_are_not_among_the_trained_ones(tmp_path):
    train, test = questions.split(questions.read(folder(tmp_path, ROWS)))
    assert {p.question for p in train}.isdisjoint(p.question for p in test)
    assert len([p for p in test if p.intent == "stop"]) == questions.HELD_OUT
    assert len([p for p in test if p.intent == "unknown"]) == 3
    assert len(train) + len(test) == 36


def test_mistakes_are_told_with_their_lines(tmp_path):
    twice = {**ROWS[0], "id": "halt", "questions": ["How to stop 1?!"]}
    with pytest.raises(InvalidRequest) as raised:
        questions.read(folder(tmp_path, [ROWS[0], "{broken", {"id": "x"}, twice]))
    words = str(raised.value)
    assert "a.jsonl line 2: not an intent" in words and "line 3" in words
    assert "'How to stop 1?!' is also asked by stop" in words


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InvalidRequest):
        questions.read(tmp_path)


def test_noise_is_the_same_for_the_same_seed_and_leaves_most_of_a_question():
    question = "How do I add a model from a stick?"
    noisy = [questions.disturb(question, random.Random(n)) for n in range(300)]
    assert noisy == [questions.disturb(question, random.Random(n)) for n in range(300)]
    assert 100 < sum(text == question for text in noisy) < 250
    letters = set(questions.normalise(question))
    assert all(len(letters & set(questions.normalise(text))) >= len(letters) - 1 for text in noisy)
