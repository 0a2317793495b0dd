"""The loop over llama.cpp in this process, driven step by step, and what the tests of this folder share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tiny_model
from fakes import ROOT, Drive

from appliance.clock import FakeClock
from appliance.engine.backend import Piece
from appliance.engine.llama_backend import LlamaBackend
from appliance.engine.llama_model import LlamaModel

SHARED = ROOT.parent / "shared" / "data" / "models"
_number = itertools.count()


def present() -> dict[str, Path]:
    """Real tiny models on this machine, by a short name; the suite must also pass where there are none."""
    found = {"stories": SHARED / "stories260K.gguf"}
    found |= {f"tinystories-{k}": SHARED / f"TinyStories-656K/TinyStories-656K-{k}.gguf" for k in tiny_model.TYPES}
    return {name: path for name, path in found.items() if path.is_file()}


EXACT = ["tiny-bpe-f32", "tiny-spm-f16", *(n for n in present() if n in ("stories", "tinystories-f32", "tinystories-f16"))]
"""Models whose weights are floats."""
QUANTIZED = ["tiny-bpe-q8_0", "tiny-spm-q4_0", *(n for n in present() if n.endswith(("q8_0", "q4_0")))]
"""Models whose weights are whole numbers with scales."""


def model_file(name: str, folder: Path) -> Path:
    """The file of a model by its name; tiny ones are written on first use."""
    if name in (real := present()):
        return real[name]
    path = folder / f"{name}.gguf"
    if not path.exists():
        _, vocabulary, kind = name.split("-")
        tiny_model.write_random(path, kind=kind, vocabulary=vocabulary)
    return path


@contextmanager
def opened(path: Path, **more: Any) -> Iterator[LlamaBackend]:
    """A backend on one thread, closed at the end. Without flash attention: see test_batching_real."""
    values = dict(name="m", context_tokens=0, sequences=4, kv_tokens=0, threads=1, batch_tokens=64, flash_attn="off")
    backend = LlamaBackend(LlamaModel(path), **values | more)
    try:
        yield backend
    finally:
        backend.close()


class RealDrive(Drive):
    """A Drive whose engine is real. `decoded` holds the pieces of each step."""

    def __init__(self, backend: LlamaBackend, **more: Any) -> None:
        super().__init__(backend, **more)
        self.clock: FakeClock
        self.decoded: list[list[Piece]] = []
        compute = backend.decode

        def decode(pieces: list[Piece]) -> np.ndarray:
            self.decoded.append(pieces)
            return compute(pieces)

        backend.decode = decode

    def check(self) -> None:
        """The books are right."""
        self.loop.slots.check_integrity()
        self.loop.store.check_integrity()

    @property
    def computed_tokens(self) -> int:
        """Tokens that went through the model so far."""
        return sum(len(piece.tokens) for pieces in self.decoded for piece in pieces)

    def answer(self, prompt: Any, **more: Any) -> str:
        """Generate and run to the end; the text."""
        request_id = self.generate(prompt, f"a{next(_number)}", **more)
        self.run()
        assert request_id in self.ended, self.failed.get(request_id)
        return self.texts[request_id]

    def cached(self, request_id: str) -> int:
        """Prompt tokens that were not computed again."""
        return self.ended[request_id][3]


def alone(path: Path, prompt: Any, max_tokens: int | None, **settings: Any) -> str:
    """What a fresh engine answers when it has nothing else to do and nothing to reuse."""
    with opened(path, sequences=1, **settings) as backend:
        return RealDrive(backend).answer(prompt, max_tokens=max_tokens)


def teacher_forced(backend: LlamaBackend, tokens: list[int], seq: int = 0) -> np.ndarray:
    """Log probabilities after each token, computed one token at a time: the plainest way there is."""
    rows = [backend.decode([Piece(seq, at, [token], "last")])[0].astype(np.float64) for at, token in enumerate(tokens)]
    backend.trim(seq, 0)
    logits = np.array(rows)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def assert_nearly_best(path: Path, drive: RealDrive, asked: dict[str, str | list[int]], within: float) -> None:
    """Every token of the answers (made greedily, with log probabilities) is, by a plain computation, the best one or at
    most `within` natural-log units below it."""
    with opened(path, sequences=1) as backend:
        for request_id, prompt in asked.items():
            answer = [entry[0] for entry in drive.logprobs[request_id]]
            start = prompt if isinstance(prompt, list) else backend.tokenize(prompt, add_special=True, parse_special=False)
            rows = teacher_forced(backend, start + answer)[len(start) - 1 : -1]
            behind = rows.max(axis=1) - rows[np.arange(len(answer)), answer]
            assert len(answer) and behind.max() <= within, f"{prompt!r}: {behind.max():.2f} below the best"


def words(seed: int, count: int) -> str:
    """A prompt: lower-case words, so that every vocabulary can spell it."""
    rng = np.random.default_rng(seed)
    known = "the cat sat on a mat and one day it saw the dog that was in hot rain so they ran home to eat".split()
    return " ".join(rng.choice(known, count))


def staggered(drive: RealDrive, prompts: Iterable[Any], seed: int, **more: Any) -> list[str]:
    """Ask for all prompts, each joining a random number of steps after the one before. Their texts."""
    rng = np.random.default_rng(seed)
    ids = []
    for prompt in prompts:
        ids.append(drive.generate(prompt, f"s{next(_number)}", **more))
        for _ in range(int(rng.integers(0, 6))):
            drive.step()
    drive.run()
    assert not drive.failed, drive.failed
    return [drive.texts[request_id] for request_id in ids]
