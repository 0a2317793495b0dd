"""A student trained in seconds: it learns, goes on after a kill as if nothing had been, and answers alike in llama.cpp."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from appliance.engine.backend import Piece
from appliance.engine.llama_backend import LlamaBackend
from appliance.engine.llama_model import LlamaModel
from appliance.errors import InvalidRequest
from appliance.factory import export_gguf, words
from appliance.factory.student import Recipe, Shape, Student, train

pytestmark = pytest.mark.engine
COLOURS = {"alpha": "red", "beta": "green", "gamma": "blue", "delta": "white"}
PAIRS = [(f"What is item {name}?", f"Item {name} is {colour}.") for name, colour in COLOURS.items()]
RECIPE = Recipe(steps=80, batch=16, learning_rate=1e-2, warmup=10, dropout=0.0, save_every=20)


@pytest.fixture(scope="module")
def tokenizer():
    """A vocabulary of the test's own words."""
    return words.learn([q + a for q, a in PAIRS] * 3, 340)


@pytest.fixture(scope="module")
def draw(tokenizer):
    """Examples as token ids."""

    def one(rng: random.Random) -> tuple[list[int], list[int]]:
        question, answer = rng.choice(PAIRS)
        return tokenizer.encode(words.prompt_text(question)).ids, tokenizer.encode(answer + words.END).ids

    return one


def fresh(tokenizer) -> Student:
    torch.manual_seed(3)
    return Student(Shape(vocabulary=340, hidden=64, layers=2, heads=2, kv_heads=1, ffn=128, context=64))


def test_it_learns_and_llama_cpp_gives_its_very_answers(tokenizer, draw, tmp_path):
    student = fresh(tokenizer)
    train(student, draw, replace(RECIPE, steps=250, learning_rate=5e-3), tmp_path / "run")
    end = tokenizer.token_to_id(words.END)
    prompts = [tokenizer.encode(words.prompt_text(q)).ids for q, _ in PAIRS]
    answers = student.answer(prompts, end, 30)
    assert [tokenizer.decode(ids) for ids in answers] == [a for _, a in PAIRS]
    export_gguf.export(student, tokenizer, tmp_path / "s.gguf", "student", "MIT")
    backend = LlamaBackend(
        LlamaModel(tmp_path / "s.gguf"), name="s", context_tokens=64, sequences=1, kv_tokens=0, threads=1, batch_tokens=64
    )
    for (question, _), prompt, answer in zip(PAIRS, prompts, answers, strict=True):
        text = backend.render([{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}])
        assert backend.tokenize(text, add_special=False, parse_special=True) == prompt
        assert generated(backend, prompt) == answer
    backend.close()


def generated(backend: LlamaBackend, prompt: list[int]) -> list[int]:
    """Greedy tokens up to the end token."""
    backend.trim(0, 0)
    tokens, at, found = prompt, 0, []
    while True:
        [row] = backend.decode([Piece(0, at, tokens, "last")])
        at += len(tokens)
        token = int(row.argmax())
        if backend.is_end(token):
            return found
        found.append(token)
        tokens = [token]


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tokenizer, draw, tmp_path):
    class Killed(Exception):
        pass

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 50:
            raise Killed

    whole, cut = fresh(tokenizer), fresh(tokenizer)
    train(whole, draw, RECIPE, tmp_path / "whole")
    with pytest.raises(Killed):
        train(cut, draw, RECIPE, tmp_path / "cut", kill)
    resumed = fresh(tokenizer)
    train(resumed, draw, RECIPE, tmp_path / "cut")
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(tokenizer, draw, tmp_path):
    student = fresh(tokenizer)
    with torch.no_grad():
        student.norm.weight.fill_(float("nan"))
    with pytest.raises(InvalidRequest) as raised:
        train(student, draw, RECIPE, tmp_path)
    assert "smaller --learning-rate" in str(raised.value)


def test_a_vocabulary_that_cannot_spell_is_refused():
    with pytest.raises(InvalidRequest) as raised:
        words.learn(["text"], 100)
    assert "at least 259" in str(raised.value)
