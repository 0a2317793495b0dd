"""Many sequences in one batch, on a real model: what each says must not depend on who runs beside it.

Where the kernels allow it, that is: with float weights and without flash attention they only add in another order for
another number of rows, which is far below the distance of a model's two best tokens, so texts are equal (a real tie could
still part them). Quantized weights are multiplied with quantized activations, and flash attention adds up the values as
f16 and cell by cell: there a rounding becomes a step, and a text may part from the one made alone. What holds for all is
tested for all: the same schedule gives the same text, and every token is one that the model wants.
"""

from __future__ import annotations

import pytest
from real_engine import EXACT, QUANTIZED, RealDrive, alone, assert_nearly_best, opened, staggered, words

from appliance.engine.messages import Cancel

PROMPTS = [words(i, 4 + 4 * i) for i in range(8)]
NEARLY_BEST = 0.75
"""Natural-log units by which rounding may move the choice; the logits spread over about 10."""
ROUNDING = [*((name, "off") for name in QUANTIZED), *((name, flash) for name in EXACT + QUANTIZED for flash in ("on", "auto"))]


@pytest.mark.parametrize("name", EXACT)
def test_sequences_that_join_at_random_steps_say_what_each_says_alone(model, name):
    expected = [alone(model(name), prompt, 30) for prompt in PROMPTS]
    for seed in range(3):
        with opened(model(name), sequences=8) as backend:
            assert staggered(RealDrive(backend), PROMPTS, seed, max_tokens=30) == expected


@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_the_same_schedule_gives_the_same_texts(model, name, flash):
    texts = []
    for _ in range(2):
        with opened(model(name), sequences=8, flash_attn=flash) as backend:
            texts.append(staggered(RealDrive(backend), PROMPTS, seed=5, max_tokens=30))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("name", "flash"), ROUNDING)
def test_where_kernels_round_every_token_beside_others_is_a_nearly_best_one(model, name, flash):
    with opened(model(name), sequences=8, flash_attn=flash) as backend:
        drive = RealDrive(backend)
        asked = {}
        for number, prompt in enumerate(PROMPTS):
            asked[drive.generate(prompt, max_tokens=20, logprobs=0)] = prompt
            for _ in range(number % 4):
                drive.step()
        drive.run()
    assert_nearly_best(model(name), drive, asked, NEARLY_BEST)


def test_sequences_that_are_cancelled_leave_the_others_as_they_are(model):
    path = model("tiny-bpe-f32")
    expected = [alone(path, prompt, 40) for prompt in PROMPTS]
    with opened(path, sequences=8) as backend:
        drive = RealDrive(backend)
        ids = [drive.generate(prompt, max_tokens=40) for prompt in PROMPTS]
        for step in range(12):
            drive.step()
            if step % 3 == 0:
                drive.send(Cancel(ids[1 + step // 3 * 2 % 8]))
        drive.run()
        left = [number for number, request_id in enumerate(ids) if request_id in drive.ended]
        assert 0 < len(left) < len(ids)
        assert [drive.texts[ids[n]] for n in left] == [expected[n] for n in left]


def test_a_sequence_moved_beside_the_others_goes_on_as_before(model):
    path = model("tiny-bpe-f32")
    lengths = [60, 6, 6, 60]
    expected = [alone(path, prompt, most) for prompt, most in zip(PROMPTS[:4], lengths, strict=True)]
    with opened(path) as backend:
        assert backend.prefers_neighbours
        drive = RealDrive(backend)
        ids = [drive.generate(p, max_tokens=most) for p, most in zip(PROMPTS[:4], lengths, strict=True)]
        drive.run()
    used = [sorted(piece.seq for piece in pieces) for pieces in drive.decoded]
    assert [0, 1, 2, 3] in used and [0, 1] in used and [0, 3] not in used, "nothing was moved, so this shows nothing"
    assert [drive.texts[i] for i in ids] == expected


@pytest.mark.parametrize("name", ["tiny-bpe-f32", "tiny-spm-f16"])
def test_sequences_preempted_for_want_of_space_go_on_as_before(model, name):
    prompts = PROMPTS[:4]
    expected = [alone(model(name), prompt, 80) for prompt in prompts]
    with opened(model(name), context_tokens=160, sequences=4, kv_tokens=224) as backend:
        assert not backend.prefers_neighbours, "less space than context x parallel: one space for all"
        drive = RealDrive(backend, store_bytes=10_000_000)
        preempted = []
        preempt = drive.loop._preempt
        drive.loop._preempt = lambda request_id: (preempted.append(request_id), preempt(request_id))
        assert staggered(drive, prompts, 1, max_tokens=80) == expected
    assert preempted, "there was room for all, so this shows nothing"


def test_a_request_as_long_as_its_context_is_answered_to_the_end_of_it(model):
    with opened(model("tiny-bpe-f32"), context_tokens=96) as backend:
        drive = RealDrive(backend)
        tokens = backend.tokenize(words(1, 90), add_special=True, parse_special=False)[:90]
        request_id = drive.generate(tokens)
        too_long = drive.generate(backend.tokenize(words(1, 200), add_special=True, parse_special=False)[:96])
        drive.run()
    assert drive.ended[request_id][0] == "length" and sum(drive.ended[request_id][1:3]) == 96
    assert drive.failed[too_long]["code"] == "context_length_exceeded"
