"""Question/answer data: mistakes are told, held-out phrasings are never trained on, noise keeps a question readable."""

from __future__ import annotations

import json
import random

import pytest

from appliance.errors import InvalidRequest
from appliance.factory import questions

ROWS = [
    {"id": "stop", "topic": "service", "answer": "Press Ctrl-C.", "questions": [f"how to stop {n}" for n in range(6)],
     "patterns": ["(halt|end) it [now]"], "held_out": ["end it!", "make it end"]},
    {"id": "unknown", "topic": "unknown", "answer": "No.", "questions": [f"riddle {n}" for n in range(27)],
     "held_out": ["riddle me", "riddle us", "riddle them"]},
]  # fmt: skip


def folder(tmp_path, rows):
    (tmp_path / "a.jsonl").write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return tmp_path


def test_held_out_phrasings_are_never_drawn_not_even_from_a_pattern(tmp_path):
    intents = questions.read(folder(tmp_path, ROWS))
    assert [pair.question for pair in questions.held_out(intents) if pair.intent == "stop"] == ["end it!", "make it end"]
    examples, rng = questions.Examples(intents, 0.2), random.Random(1)
    drawn = [examples.draw(rng) for _ in range(3000)]
    secret = {questions.normalise(pair.question) for pair in questions.held_out(intents)}
    assert secret.isdisjoint(questions.normalise(pair.question) for pair in drawn)
    assert any(pair.question == "halt it now" for pair in drawn)
    assert 0.15 < sum(pair.answer == "No." for pair in drawn) / len(drawn) < 0.25
    assert len(questions.written(intents)) == 33


def test_mistakes_are_told_with_their_lines(tmp_path):
    twice = {**ROWS[0], "id": "halt", "questions": ["How to stop 1?!"], "held_out": []}
    open_ = {**ROWS[1], "id": "open", "patterns": ["(a|b"]}
    with pytest.raises(InvalidRequest) as raised:
        questions.read(folder(tmp_path, [ROWS[0], "{broken", {"id": "x"}, twice, open_]))
    words = str(raised.value)
    assert "a.jsonl line 2: not an intent" in words and "line 3" in words and "line 5: not an intent" in words
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
