"""Long prompts computed in a second context with flash attention: nobody can tell from the answers.

Flash attention adds values up in another order, and in f16, so logits differ by rounding. The tiny model's logits spread
over about 10; a mistake in the move (a value in the wrong place) shifts them by several.
"""

from __future__ import annotations

import numpy as np
import pytest
import tiny_model
from real_engine import RealDrive, opened, present

from appliance.engine.backend import Piece
from appliance.engine.llama_lane import transpose_values
from appliance.engine.messages import Cancel

NEAR = 0.3
"""Most that a logit may differ, and a chosen token may lie below the best one."""
LENGTHS = [63, 64, 65, 127, 128, 129, 200, 256, 1000]


@pytest.fixture(scope="module")
def path(model_folder):
    """A random model "trained" for 2,048 tokens."""
    return tiny_model.write_random(model_folder / "long.gguf", context=2048)


def laned(path, **more):
    return opened(path, **dict(batch_tokens=512, prompt_lane="on", context_tokens=1200) | more)


def tokens(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, 250, count).tolist()


def fill(backend, seq: int, prompt: list[int], chunk: int, start: int = 0) -> np.ndarray:
    """Compute a prompt in chunks; the last row of logits."""
    rows = []
    for at in range(start, len(prompt), chunk):
        part = prompt[at : at + chunk]
        rows = backend.decode([Piece(seq, at, part, "last" if at + len(part) == len(prompt) else "none")])
    return rows[-1].copy()


def plain(path, prompt: list[int], following: int) -> list[np.ndarray]:
    """The logits behind a prompt and behind one more token, without a lane."""
    with opened(path, batch_tokens=512, context_tokens=1200, prompt_lane="off") as backend:
        assert backend.prompt_block == 1
        first = fill(backend, 0, prompt, 512)
        return [first, backend.decode([Piece(0, len(prompt), [following], "last")])[0].copy()]


def assert_nearly_best(path, drive: RealDrive, prompts: dict[str, list[int]]) -> None:
    """Each greedy answer, computed again in one go without a lane, has nearly the best token everywhere."""
    with opened(path, sequences=1, batch_tokens=1200, prompt_lane="off") as backend:
        for request_id, prompt in prompts.items():
            answer = [entry[0] for entry in drive.logprobs[request_id]]
            row = fill(backend, 0, prompt, 512)
            for at, token in enumerate(answer):
                assert row.max() - row[token] <= NEAR, f"{request_id}: token {at} is {row.max() - row[token]:.2f} below the best"
                row = backend.decode([Piece(0, len(prompt) + at, [token], "last")])[0].copy()
            backend.trim(0, 0)
            assert answer


@pytest.mark.parametrize("sequences", [1, 4])
@pytest.mark.parametrize("chunk", [128, 200, 512])
@pytest.mark.parametrize("length", LENGTHS)
def test_logits_behind_a_prompt_and_behind_the_move_are_those_of_one_context(path, length, chunk, sequences):
    prompt = tokens(length, length)
    expected = plain(path, prompt, 7)
    with laned(path, sequences=sequences) as backend:
        seq = sequences - 1
        first = fill(backend, seq, prompt, chunk)
        assert np.abs(first - expected[0]).max() < NEAR
        second = backend.decode([Piece(seq, length, [7], "last")])[0]
        assert np.abs(second - expected[1]).max() < NEAR
        assert backend._lane.seq is None


def test_the_lane_is_really_used_for_whole_blocks_and_left_for_the_rest(path):
    with laned(path) as backend:
        assert backend.prompt_block == 64
        prompt = tokens(1, 300)
        inside, computed = backend._lane._lane, []
        compute = inside.decode
        inside.decode = lambda pieces: (computed.append(len(pieces[0].tokens)), compute(pieces))[1]
        for start, end, used, holder in [
            (0, 127, 0, None), (0, 128, 128, 2), (128, 192, 64, 2), (192, 255, 0, None), (255, 300, 0, None), (0, 200, 192, None), (0, 300, 300, 2),
        ]:  # fmt: skip
            if not start:
                backend.trim(2, 0)
            computed.clear()
            backend.decode([Piece(2, start, prompt[start:end], "none")])
            assert (sum(computed), backend._lane.seq) == (used, holder), (start, end)


def test_no_lane_where_it_cannot_be_or_was_not_measured_to_help(path, model):
    for settings in ({"flash_attn": "on"}, {"type_k": "q8_0"}, {"kv_tokens": 2000}, {"prompt_lane": "off"}, {"batch_tokens": 64}):
        with laned(path, **settings) as backend:
            assert backend._lane is None and backend.prompt_block == 1
    with opened(model("tiny-bpe-f32"), flash_attn="auto", batch_tokens=512) as backend:
        assert backend._lane is None, "256 tokens of context are too few"


def test_its_memory_is_told(path):
    with laned(path, prompt_lane="off") as backend:
        without = backend.info.kv_bytes
    with laned(path) as backend:
        assert backend.info.kv_bytes == without + 1200 * tiny_model.LAYERS * 2 * 32 * 2
        assert "context of their own" in backend.info.description


def test_a_snapshot_transposed_twice_is_the_same_and_what_is_none_is_refused(path):
    with laned(path) as backend:
        streams = backend._context.streams
        fill(backend, 0, tokens(1, 100), 100)
        snapshot = bytes(backend.save(0))
    turned = bytes(transpose_values(snapshot, 1))
    assert len(turned) < len(snapshot) and turned[-50:] != snapshot[-62:-12]
    assert bytes(transpose_values(turned, streams)) == snapshot
    for wrong in (b"", snapshot[:50], snapshot[:-1], snapshot + b"\0", b"0000" + snapshot[4:], snapshot[:2000] + snapshot):
        with pytest.raises(ValueError, match="known form"):
            transpose_values(wrong, 1)


def test_a_snapshot_of_a_prompt_in_the_lane_is_good_in_the_main_context_and_leaves_the_lane_alone(path):
    prompt = tokens(5, 300)
    expected = plain(path, prompt, 7)[0]
    with laned(path) as backend:
        backend.decode([Piece(1, 0, prompt[:256], "none")])
        snapshot = backend.save(1)
        assert backend._lane.seq == 1
        backend.load(3, snapshot)
        for seq in (3, 1):
            assert np.abs(backend.decode([Piece(seq, 256, prompt[256:], "last")])[0] - expected).max() < NEAR


def test_a_prompt_cut_or_replaced_in_mid_lane_has_forgotten_the_rest(path):
    prompt, other = tokens(6, 400), tokens(7, 300)
    changed = prompt[:200] + other[:150]
    expected = plain(path, changed, 1)[0], plain(path, other, 1)[0]
    with laned(path) as backend:
        backend.decode([Piece(0, 0, prompt[:384], "none")])
        assert backend.trim(0, 200) == 200
        assert np.abs(fill(backend, 0, changed, 512, start=200) - expected[0]).max() < NEAR
        backend.trim(0, 0)
        backend.decode([Piece(0, 0, prompt[:256], "none")])
        assert backend.trim(0, 0) == 0 and backend._lane.seq is None
        assert np.abs(fill(backend, 0, other, 128) - expected[1]).max() < NEAR


def test_another_long_prompt_takes_the_lane_when_its_holder_pauses_and_the_main_context_when_not(path):
    one, two = tokens(8, 512), tokens(9, 500)
    expected = [plain(path, prompt, 1)[0] for prompt in (one, two)]
    with laned(path) as backend:
        backend.decode([Piece(0, 0, one[:128], "none"), Piece(2, 0, two[:128], "none")])
        assert backend._lane.seq == 0
        backend.decode([Piece(2, 128, two[128:256], "none")])
        assert backend._lane.seq == 2
        rows = backend.decode([Piece(0, 128, one[128:], "last"), Piece(2, 256, two[256:], "last")])
        assert len(rows) == 2
        for row, wanted in zip(rows, expected, strict=True):
            assert np.abs(row - wanted).max() < NEAR


@pytest.mark.parametrize("length", [128, 192, 512])
def test_rows_of_both_contexts_come_in_the_order_of_the_pieces(path, length):
    prompt, short = tokens(10, length), tokens(11, 20)
    expected = plain(path, prompt, 1)[0], plain(path, short, 9)[1], plain(path, short, 9)[0]
    with laned(path) as backend:
        fill(backend, 3, short, 20)
        rows = backend.decode([Piece(1, 0, prompt, "last"), Piece(3, 20, [9], "last"), Piece(0, 0, short, "all")])
        assert len(rows) == 22
        assert np.abs(rows[0] - expected[0]).max() < NEAR
        assert np.abs(rows[1] - expected[1]).max() < NEAR
        assert np.abs(rows[-1] - expected[2]).max() < NEAR


# -- through the loop ----------------------------------------------------------------------------------------------


def drive_of(backend, batch_tokens: int) -> RealDrive:
    """A Drive whose prompts are cut into chunks of `batch_tokens`: the clock stands still, so no pace is ever learned."""
    drive = RealDrive(backend, batch_tokens=batch_tokens, store_bytes=10_000_000)
    drive.loop._pace.prompt_token_s = 1e-6
    return drive


def ask(drive: RealDrive, prompts: dict[str, list[int]], **more) -> None:
    for request_id, prompt in prompts.items():
        drive.generate(prompt, request_id, max_tokens=12, logprobs=0, **more)


def test_long_prompts_beside_streams_are_answered_as_without_a_lane(path):
    prompts = {f"p{n}": tokens(20 + n, count) for n, count in enumerate(LENGTHS)}
    with laned(path) as backend:
        drive = drive_of(backend, 256)
        ask(drive, prompts)
        drive.run()
        assert not drive.failed
        assert {len(p.tokens) for pieces in drive.decoded for p in pieces} & {128, 192, 256}
    assert_nearly_best(path, drive, prompts)


def test_cancelling_in_mid_lane_leaves_a_prefix_that_the_next_one_uses(path):
    shared = tokens(30, 900)
    prompts = {"again": shared + tokens(31, 50), "other": tokens(32, 400)}
    with laned(path) as backend:
        drive = drive_of(backend, 256)
        drive.generate(shared, "gone", max_tokens=12)
        drive.step()
        drive.step()
        assert backend._lane.seq is not None
        drive.send(Cancel("gone"))
        drive.step()
        ask(drive, prompts)
        drive.run()
        assert drive.cached("again") >= 128
        assert not drive.loop.slots.used_tokens
    assert_nearly_best(path, drive, prompts)


def test_a_prefix_that_came_through_the_lane_is_reused_in_its_slot_in_another_and_from_the_store(path):
    shared = tokens(40, 500)
    with laned(path, sequences=2) as backend:
        drive = drive_of(backend, 512)
        prompts = {f"t{n}": shared + tokens(41 + n, 30 + 150 * n) for n in range(4)}
        ask(drive, {"t0": prompts["t0"]})
        drive.run()
        ask(drive, {"t1": prompts["t1"], "t2": prompts["t2"]})
        drive.run()
        ask(drive, {"x": tokens(50, 600), "y": tokens(51, 600)})
        drive.run()
        ask(drive, {"t3": prompts["t3"]})
        drive.run()
        assert [drive.cached(i) >= 500 for i in prompts] == [False, True, True, True]
    assert_nearly_best(path, drive, prompts)


def test_preempting_a_prompt_in_mid_lane_loses_nothing(path):
    prompts = {"a": tokens(60, 300), "b": tokens(61, 900)}
    with laned(path, sequences=2) as backend:
        drive = drive_of(backend, 128)
        ask(drive, prompts)
        for _ in range(6):
            drive.step()
        assert backend._lane.seq == drive.loop._running["b"].slot.seq
        drive.loop._preempt("b")
        assert len(drive.loop.store) == 1
        drive.run()
    assert_nearly_best(path, drive, prompts)


if "tinystories-f32" in present():  # else there is nothing to test, and nothing to be skipped

    def test_a_real_model_tells_the_same_story(model):
        path = model("tinystories-f32")
        with opened(path, batch_tokens=512, prompt_lane="off") as backend:
            prompt = backend.tokenize("Once upon a time there was a little dog. " * 20, add_special=True, parse_special=False)[:250]
            expected = RealDrive(backend).answer(prompt, max_tokens=25)
        with opened(path, batch_tokens=512, prompt_lane="on") as backend:
            assert backend._lane is not None
            drive = drive_of(backend, 512)
            assert drive.answer(prompt, max_tokens=25) == expected
