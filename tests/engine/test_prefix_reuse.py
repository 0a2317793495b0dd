"""What was computed once is used again, and nobody can tell from the text."""

from __future__ import annotations

import pytest
from real_engine import RealDrive, alone, opened, words

from appliance.engine.backend import Piece

MODELS = ["tiny-bpe-f32", "tiny-spm-f16"]
SYSTEM = words(100, 30)
LONG = 10_000_000


@pytest.mark.parametrize("name", MODELS)
def test_a_second_turn_begins_where_the_first_ended_in_the_same_slot(model, name):
    path = model(name)
    with opened(path) as backend:
        drive = RealDrive(backend)
        answer = drive.answer(SYSTEM, max_tokens=12)
        turn = SYSTEM + answer + " and the dog"
        second = drive.generate(turn, max_tokens=20)
        before = drive.computed_tokens
        drive.run()
        prompt_tokens = drive.ended[second][1]
        assert drive.cached(second) > prompt_tokens // 2
        assert drive.computed_tokens - before == prompt_tokens - drive.cached(second) + 19
        assert drive.texts[second] == alone(path, turn, 20)


@pytest.mark.parametrize("name", MODELS)
def test_a_prefix_is_copied_from_a_sequence_that_is_still_running(model, name):
    path = model(name)
    with opened(path) as backend:
        drive = RealDrive(backend)
        first = drive.generate(SYSTEM + " the cat", max_tokens=60)
        for _ in range(8):
            drive.step()
        second = drive.generate(SYSTEM + " in hot rain", max_tokens=20)
        drive.step()
        assert first in drive.open and len(drive.loop.slots.active()) == 2
        drive.run()
        assert drive.cached(second) > 25
        assert drive.texts[second] == alone(path, SYSTEM + " in hot rain", 20)
        assert drive.texts[first] == alone(path, SYSTEM + " the cat", 60)


@pytest.mark.parametrize("name", MODELS)
def test_requests_that_arrive_together_compute_their_common_beginning_once(model, name):
    path = model(name)
    prompts = [f"{SYSTEM} {end}" for end in ("the cat", "a dog", "one day", "so hot")]
    with opened(path) as backend:
        drive = RealDrive(backend)
        ids = [drive.generate(prompt, max_tokens=15) for prompt in prompts]
        drive.run()
        total = sum(drive.ended[i][1] for i in ids)
        assert sum(drive.cached(i) for i in ids) > total // 2
        assert [drive.texts[i] for i in ids] == [alone(path, prompt, 15) for prompt in prompts]


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_displaced_prefix_comes_back_from_the_store(model, name, unified):
    path = model(name)
    space = {"sequences": 2, "context_tokens": 200, "kv_tokens": 220} if unified else {"sequences": 1}
    with opened(path, **space) as backend:
        drive = RealDrive(backend, store_bytes=LONG)
        drive.answer(SYSTEM, max_tokens=10)
        for other in range(3):
            drive.answer(words(200 + other, 45), max_tokens=10)
        assert len(drive.loop.store)
        again = drive.generate(SYSTEM + " the dog", max_tokens=20)
        drive.run()
        assert drive.cached(again) > 25, "it was computed again, so this shows nothing"
        assert drive.texts[again] == alone(path, SYSTEM + " the dog", 20)


@pytest.mark.parametrize("name", MODELS)
def test_a_slot_cut_back_to_a_common_beginning_has_forgotten_the_rest(model, name):
    path = model(name)
    with opened(path, sequences=1) as backend:
        drive = RealDrive(backend)
        for seed in range(6):
            prompt = f"{SYSTEM[:60]} {words(seed, 3 + 4 * seed)}"
            request_id = drive.generate(prompt, max_tokens=12)
            drive.run()
            assert (drive.cached(request_id) > 8) == (seed > 0)
            assert drive.texts[request_id] == alone(path, prompt, 12)


def test_the_very_same_prompt_computes_one_token_of_it(model):
    with opened(model("tiny-bpe-f32")) as backend:
        drive = RealDrive(backend)
        first = drive.answer(SYSTEM, max_tokens=9)
        before = drive.computed_tokens
        assert drive.answer(SYSTEM, max_tokens=9) == first
        assert drive.computed_tokens - before == 9


def test_snapshots_restore_a_sequence_exactly_in_another_slot(model):
    with opened(model("tiny-bpe-f32"), batch_tokens=128) as backend:
        tokens = backend.tokenize(SYSTEM, add_special=True, parse_special=False)
        backend.decode([Piece(0, 0, tokens, "last")])
        snapshot = backend.save(0)
        backend.load(3, snapshot)
        assert len(snapshot) > len(tokens) * 2 * 32 * 2
        one = backend.decode([Piece(0, len(tokens), [9], "last")])[0].copy()
        other = backend.decode([Piece(3, len(tokens), [9], "last")])[0]
        assert (one == other).all()
