"""ONNX decoders under the same loop as GGUF models: whatever joins, leaves, moves or comes back, each says what it says alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_engine import RealDrive, words

from appliance.engine.backend import Piece
from appliance.engine.messages import Cancel
from appliance.engine.onnx_decoder import OnnxDecoder
from appliance.factory import convert_decoder

pytestmark = [pytest.mark.engine, pytest.mark.apart]
PROMPTS = [words(i, 4 + 4 * i) for i in range(8)]
SCHEDULES = 200


@pytest.fixture(scope="session")
def folder(model: Callable[[str], Path], model_folder: Path) -> Callable[[str], Path]:
    """The ONNX folder of a tiny GGUF model by its name."""

    def made(name: str) -> Path:
        target = model_folder / f"{name}-onnx"
        if not target.exists():
            convert_decoder.convert(model(name), target)
        return target

    return made


@contextmanager
def opened(path: Path, **more: Any) -> Iterator[OnnxDecoder]:
    """A decoder on one thread, closed at the end."""
    backend = OnnxDecoder(path, **dict(name="m", context_tokens=0, sequences=4, kv_tokens=0, threads=1) | more)
    try:
        yield backend
    finally:
        backend.close()


def alone(path: Path, prompt: Any, max_tokens: int) -> str:
    with opened(path, sequences=1) as backend:
        return RealDrive(backend).answer(prompt, max_tokens=max_tokens)


@pytest.mark.parametrize("name", ["tiny-bpe-f32", "tiny-spm-f16", "tiny-bpe-q8_0", "tiny-spm-q4_0"])
def test_sequences_that_join_and_leave_at_random_steps_say_what_each_says_alone(folder, name):
    path = folder(name)
    expected = [alone(path, prompt, 24) for prompt in PROMPTS]
    left = ended = 0
    with opened(path, sequences=5, kv_tokens=420) as backend:  # not room for all: some are preempted and come back
        for schedule in range(SCHEDULES // 4):
            rng = np.random.default_rng([schedule, len(name)])
            drive = RealDrive(backend, store_bytes=200_000)
            ids: dict[str, int] = {}
            for _ in range(7):
                number = int(rng.integers(len(PROMPTS)))
                ids[drive.generate(PROMPTS[number], max_tokens=24)] = number
                for _ in range(int(rng.integers(0, 9))):
                    drive.step()
                if rng.random() < 0.25:
                    drive.send(Cancel(str(rng.choice(list(ids)))))
            drive.run()
            drive.check()
            for request_id, number in ids.items():
                if request_id in drive.ended:
                    assert drive.texts[request_id] == expected[number], f"schedule {schedule}"
                    ended += 1
                else:
                    assert drive.failed[request_id]["code"] == "cancelled"
                    left += 1
            for slot in drive.loop.slots:
                backend.trim(slot.seq, 0)
    assert left > SCHEDULES // 20 and ended > SCHEDULES // 2


def test_neighbours_are_computed_in_one_run_and_a_piece_of_a_prompt_alone(folder):
    with opened(folder("tiny-bpe-f32")) as backend:
        singles = [Piece(seq, 3, [7], "last") for seq in (3, 0, 1)]
        prompt = Piece(2, 0, [1, 2, 3], "none")
        batches = list(backend._past.batches([*singles, prompt]))
    assert [[piece.seq for piece in batch] for batch in batches] == [[0, 1], [3], [2]]


def test_a_prompt_in_pieces_gives_the_logits_of_the_whole(folder):
    tokens = list(range(40, 90))
    with opened(folder("tiny-bpe-f32"), sequences=2) as backend:
        whole = np.array(backend.decode([Piece(0, 0, tokens, "all")]))
        rows = [np.array(backend.decode([Piece(1, at, tokens[at : at + 7], "all")])) for at in range(0, len(tokens), 7)]
    np.testing.assert_allclose(np.concatenate(rows), whole, atol=1e-4)


def test_a_snapshot_goes_on_in_another_sequence(folder):
    tokens = list(range(40, 70))
    with opened(folder("tiny-bpe-q4_0")) as backend:
        backend.decode([Piece(0, 0, tokens, "none")])
        saved = backend.save(0)
        expected = np.array(backend.decode([Piece(0, 30, [5], "last")])[0])
        backend.trim(0, 0)
        backend.load(3, saved)
        assert len(saved) == backend.info.kv_bytes // backend.info.kv_tokens * 30
        np.testing.assert_array_equal(backend.decode([Piece(3, 30, [5], "last")])[0], expected)


def test_memory_is_taken_as_tokens_are_written_and_given_back(folder):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with opened(folder("tiny-bpe-f32"), sequences=64) as backend:
        assert backend.info.kv_bytes == 64 * 256 * 2 * 2 * 32 * 4
        before = resident()
        for seq in range(64):
            backend.decode([Piece(seq, 0, [7] * 250, "none")])
        full = resident()
        for seq in range(64):
            backend.trim(seq, 0)
        assert full - before > backend.info.kv_bytes * 0.8, "nothing was taken, so this shows nothing"
        assert resident() < full - backend.info.kv_bytes * 0.8
