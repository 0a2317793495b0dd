"""How good and how fast a text generator is, a GGUF file or an ONNX folder: perplexity, distance from a reference, which
may be of the other kind, size, load time and tokens a second.

Perplexity is computed as llama.cpp's `llama-perplexity` does (tools/perplexity/perplexity.cpp): the text is cut into
windows of `context` tokens, each begins with the beginning-of-text token where the model wants one, and only the
second half of a window counts, so that every token has something before it. KL divergence and top-1 agreement
compare the same positions with the reference, usually the f16 file. llama.cpp and onnxruntime each compute in a thread of
their own (DECISIONS.md, "torch, onnxruntime and llama.cpp in threads of their own").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from appliance.engine.backend import Backend, Piece
from appliance.engine.llama_backend import LlamaBackend
from appliance.engine.llama_model import LlamaModel
from appliance.engine.placement import plan_threads
from appliance.engine.topology import read_topology
from appliance.errors import InvalidRequest

if TYPE_CHECKING:
    from appliance.engine.onnx_decoder import OnnxDecoder

ROWS = 64
SPEED_PROMPT_TOKENS, SPEED_STEPS = 64, 24
Tell = Callable[[str, float], None]
Given, Result = ParamSpec("Given"), TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Score:
    """What was measured of one model. Sizes in bytes, times in seconds; quality is None where nothing was compared."""

    name: str
    size_bytes: int
    load_s: float
    perplexity: float
    perplexity_error: float
    positions: int
    kl: float | None
    top1: float | None
    tokens_per_s_1: float
    tokens_per_s_8: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def load(
    path: Path, context: int, threads: int | None = None, sequences: int = 8, flash_attn: str = "auto"
) -> LlamaBackend | OnnxDecoder:
    """A backend for measuring, for the thread that calls: a GGUF file, or the folder of an ONNX decoder, with eight sequences
    of `context` tokens. Raises ModelFileError."""
    if threads is None:
        threads = plan_threads(read_topology()).children[0].threads
    if path.is_dir():
        from appliance.engine.onnx_decoder import OnnxDecoder

        return OnnxDecoder(path, name=path.name, context_tokens=context, sequences=sequences, kv_tokens=0, threads=threads)
    return LlamaBackend(
        LlamaModel(path), name=path.stem, context_tokens=context, sequences=sequences, kv_tokens=0, threads=threads, batch_tokens=512, flash_attn=flash_attn
    )


class Apart:
    """A model as `load` opens it, in a thread of its own; a context manager that closes it."""

    def __init__(self, path: Path, context: int, **how: Any) -> None:
        """how: what else `load` takes. Raises ModelFileError."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        try:
            self.backend = self.call(load, path, context, **how)
        except BaseException:
            self._thread.shutdown()
            raise

    def call(self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
        """What work(...) returns or raises in the model's thread."""
        return self._thread.submit(work, *given, **named).result()

    def each(self, rows: Iterator[Result]) -> Iterator[Result]:
        """The items, none of them None, of an iterator that computes with the model."""
        while (item := self.call(next, rows, None)) is not None:
            yield item

    def close(self) -> None:
        """Free the model."""
        self.call(self.backend.close)
        self._thread.shutdown()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def windows(backend: LlamaBackend | OnnxDecoder, text: str, context: int) -> np.ndarray:
    """The text as token ids [windows, context]. Raises InvalidRequest when it is too short for two windows."""
    tokens = np.array(backend.tokenize(text, add_special=True, parse_special=False), dtype=np.int64)
    count = len(tokens) // context
    if count < 2:
        raise InvalidRequest(
            f"The text has {len(tokens)} tokens; {2 * context} are needed for two windows.",
            param="text",
            remedy="Give a longer text or a smaller --context.",
        )
    cut = tokens[: count * context].reshape(count, context)
    begin = backend.begin_token
    if begin is not None:
        cut = cut.copy()
        cut[:, 0] = begin
    return cut


def log_probabilities(backend: Backend, window: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(position, natural-log distribution of the next token, float32 [vocabulary]) for the second half of a window."""
    backend.trim(0, 0)
    context = len(window)
    first = context // 2
    for start in range(0, context, ROWS):
        tokens = window[start : start + ROWS].tolist()
        rows = backend.decode([Piece(0, start, tokens, "all" if start + len(tokens) > first else "none")])
        for offset, row in enumerate(rows):
            if first <= start + offset < context - 1:
                top = row.max()
                yield start + offset, row - (top + np.log(np.exp(row - top).sum(dtype=np.float64), dtype=np.float64))


def score(path: Path, text: str, *, context: int = 512, reference: Path | None = None, tell: Tell = lambda w, s: None) -> Score:
    """Measure one model, against `reference` where given. Raises ModelFileError and InvalidRequest."""
    began = time.perf_counter()
    with Apart(path, context) as candidate:
        load_s = time.perf_counter() - began
        size = candidate.backend.info.size_bytes if path.is_dir() else path.stat().st_size
        # Which of llama.cpp's attention kernels is faster is a matter of luck, and they differ as much as engines do.
        kernel = getattr(candidate.backend, "flash_attn", "auto")
        with Apart(reference, context, flash_attn=kernel) if reference is not None else nullcontext() as other:
            if other and other.backend.info.vocabulary != candidate.backend.info.vocabulary:
                raise InvalidRequest(f"{path.name} and {reference} have different vocabularies.", param="reference")
            cut = candidate.call(windows, candidate.backend, text, context)
            losses, divergences, agreed = _walk(candidate, other, cut, tell)
        one, eight = (candidate.call(tokens_per_second, candidate.backend, n) for n in (1, 8))
    mean = float(np.mean(losses))
    return Score(
        name=path.name,
        size_bytes=size,
        load_s=load_s,
        perplexity=float(np.exp(mean)),
        perplexity_error=float(np.exp(mean) * np.std(losses) / np.sqrt(len(losses))),
        positions=len(losses),
        kl=float(np.mean(divergences)) if divergences else None,
        top1=float(np.mean(agreed)) if agreed else None,
        tokens_per_s_1=one,
        tokens_per_s_8=eight,
    )


def _walk(
    candidate: Apart, other: Apart | None, cut: np.ndarray, tell: Tell
) -> tuple[list[float], list[float], list[bool]]:
    losses: list[float] = []
    divergences: list[float] = []
    agreed: list[bool] = []
    for number, window in enumerate(cut):
        theirs = other.each(log_probabilities(other.backend, window)) if other else None
        for position, ours in candidate.each(log_probabilities(candidate.backend, window)):
            losses.append(-float(ours[window[position + 1]]))
            if theirs is not None:
                _, base = next(theirs)
                divergences.append(float(np.sum(np.exp(base, dtype=np.float64) * (base - ours))))
                agreed.append(int(base.argmax()) == int(ours.argmax()))
        tell("windows", (number + 1) / len(cut))
    return losses, divergences, agreed


def tokens_per_second(backend: Backend, streams: int) -> float:
    """Generated tokens a second with `streams` sequences behind a short prompt; the median of the steps."""
    for seq in range(streams):
        backend.trim(seq, 0)
    backend.decode([Piece(seq, 0, [1] * SPEED_PROMPT_TOKENS, "last") for seq in range(streams)])
    seconds = []
    for step in range(SPEED_STEPS):
        began = time.perf_counter()
        backend.decode([Piece(seq, SPEED_PROMPT_TOKENS + step, [1], "last") for seq in range(streams)])
        seconds.append(time.perf_counter() - began)
    for seq in range(streams):
        backend.trim(seq, 0)
    return streams / float(np.median(seconds))


def table(scores: list[Score]) -> str:
    """One Markdown table over all candidates."""
    lines = [
        "| model | size MB | load s | perplexity | KL to reference | top-1 agreement | tokens/s, 1 stream | 8 streams |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for s in scores:
        kl = "-" if s.kl is None else f"{s.kl:.5f}"
        top1 = "-" if s.top1 is None else f"{100 * s.top1:.1f} %"
        lines.append(
            f"| {s.name} | {s.size_bytes / 1e6:.2f} | {s.load_s:.2f} | {s.perplexity:.4f} ± {s.perplexity_error:.4f} "
            f"| {kl} | {top1} | {s.tokens_per_s_1:.1f} | {s.tokens_per_s_8:.1f} |"
        )
    return "\n".join(lines)
