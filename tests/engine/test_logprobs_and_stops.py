"""Log probabilities against a teacher-forced reference, and stop strings over token borders."""

from __future__ import annotations

import math

import numpy as np
import pytest
from real_engine import RealDrive, opened, teacher_forced, words

PROMPT = words(11, 20)
TOLERANCE = 0.02
"""f16 KV values and another order of additions move a log probability by less."""


def reference(path, tokens):
    """Log probabilities after each of `tokens` from an engine that does nothing else."""
    with opened(path, sequences=1) as backend:
        return teacher_forced(backend, tokens)


@pytest.mark.parametrize("name", ["tiny-bpe-f32", "tiny-spm-f16", "tiny-letters-f32"])
def test_log_probabilities_are_those_of_the_model(model, name):
    with opened(model(name)) as backend:
        drive = RealDrive(backend)
        request_id = drive.generate(PROMPT, max_tokens=16, logprobs=5)
        beside = drive.generate(words(12, 9), max_tokens=30)
        drive.run()
        start = backend.tokenize(PROMPT, add_special=True, parse_special=False)
        pieces = {t: backend.piece(t) for t in range(backend.info.vocabulary)}
    entries = drive.logprobs[request_id]
    answer = [token for token, *_ in entries]
    assert len(answer) == drive.ended[request_id][2] and beside in drive.ended
    rows = reference(model(name), start + answer)[len(start) - 1 : -1]
    for (token, piece, value, top), row in zip(entries, rows, strict=True):
        assert piece.encode("latin-1") == pieces[token]
        assert value == pytest.approx(row[token], abs=TOLERANCE)
        assert [t for t, _, _ in top][0] == token, "greedy: the chosen token is the best"
        assert [v for _, _, v in top] == sorted((v for _, _, v in top), reverse=True) and len(top) == 5
        assert [v for _, _, v in top] == pytest.approx(sorted(row, reverse=True)[:5], abs=TOLERANCE)
        assert [pieces[t].decode("latin-1") for t, _, _ in top] == [p for _, p, _ in top]


def test_the_probabilities_of_the_whole_vocabulary_add_up_to_one(model):
    with opened(model("tiny-bpe-f32")) as backend:
        drive = RealDrive(backend)
        request_id = drive.generate(PROMPT, max_tokens=4, logprobs=backend.info.vocabulary)
        drive.run()
    for _, _, _, top in drive.logprobs[request_id]:
        assert math.fsum(math.exp(value) for _, _, value in top) == pytest.approx(1.0, abs=1e-5)
        assert len(top) == 283


@pytest.mark.parametrize("name", ["tiny-bpe-f32", "tiny-spm-f16"])
@pytest.mark.parametrize("max_tokens", [0, 6])
def test_an_echoed_prompt_has_the_log_probabilities_of_a_teacher_forced_run(model, name, max_tokens):
    prompt = words(13, 55)  # more rows than one step may have, so it comes in parts
    with opened(model(name)) as backend:
        drive = RealDrive(backend)
        drive.answer(prompt, max_tokens=3)  # so that there would be something to reuse
        request_id = drive.generate(prompt, max_tokens=max_tokens, logprobs=2, echo=True)
        drive.generate(words(14, 30), max_tokens=20)
        drive.run()
        start = backend.tokenize(prompt, add_special=True, parse_special=False)
    entries = drive.logprobs[request_id]
    tokens = [token for token, *_ in entries]
    assert tokens[: len(start)] == start and len(tokens) == len(start) + max_tokens
    assert entries[0][2] is None and entries[0][3] == []
    rows = reference(model(name), tokens)
    expected = rows[np.arange(len(tokens) - 1), tokens[1:]]
    assert [value for _, _, value, _ in entries[1:]] == pytest.approx(list(expected), abs=TOLERANCE)
    assert drive.cached(request_id) == 0 and drive.ended[request_id][0] == "length"


@pytest.mark.parametrize("name", ["tiny-bpe-f32", "tiny-spm-f16"])
def test_a_stop_string_ends_the_text_wherever_the_token_borders_are(model, name):
    with opened(model(name)) as backend:
        drive = RealDrive(backend)
        whole = drive.answer(PROMPT, max_tokens=40)
        pieces_crossed = 0
        for at in range(1, 24, 2):
            stop = whole[at : at + 4]
            request_id = drive.generate(PROMPT, max_tokens=40, stop=["\x00never", stop])
            drive.run()
            reason, _, tokens, _, stopped_by = drive.ended[request_id]
            assert (reason, stopped_by) == ("stop", stop)
            assert drive.texts[request_id] == whole[: whole.index(stop)]
            pieces_crossed += tokens < 40
    assert pieces_crossed == 12


def test_a_stop_string_that_never_comes_keeps_nothing_back(model):
    with opened(model("tiny-bpe-f32")) as backend:
        drive = RealDrive(backend)
        whole = drive.answer(PROMPT, max_tokens=40)
        nearly = [whole[-3:] + "\x00", whole[5:9] + "\x00"]
        assert drive.answer(PROMPT, max_tokens=40, stop=nearly) == whole


def test_a_seed_gives_the_same_text_beside_others_and_another_seed_another(model):
    hot = {"temperature": 1.2, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    with opened(model("tiny-bpe-f32"), sequences=8) as backend:
        drive = RealDrive(backend)
        once = drive.answer(PROMPT, max_tokens=30, sampling=hot | {"seed": 5})
        ids = [drive.generate(PROMPT, max_tokens=30, sampling=hot | {"seed": seed}) for seed in (5, 6, 7, 5)]
        drive.run()
    texts = [drive.texts[i] for i in ids]
    assert texts[0] == texts[3] == once and len(set(texts)) == 3


def test_a_biased_token_is_the_only_one_said(model):
    with opened(model("tiny-bpe-f32")) as backend:
        drive = RealDrive(backend)
        token = backend.tokenize("q", add_special=False, parse_special=False)[0]
        assert drive.answer(PROMPT, max_tokens=5, sampling={"temperature": 0, "logit_bias": [[token, 100]]}) == "qqqqq"
