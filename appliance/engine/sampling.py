"""Drawing the next token from logits, for every engine alike. numpy only; one `Sampler` a sequence.

The filters and their order are llama.cpp's default chain (penalties, top_k, typical_p, top_p, min_p, temperature):
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-sampler.cpp. Two things differ, both for speed: the
candidates are cut to the top k without sorting the vocabulary, and the draw takes one uniform number from a
generator of its own, so a seed gives the same text whatever else runs beside it.
"""

from __future__ import annotations

import math
from collections import Counter, deque

import numpy as np

from appliance.errors import ApplianceError
from appliance.types import Sampling

_BLOCK = 128


def top_candidates(logits: np.ndarray, k: int) -> np.ndarray:
    """Indices of (at least) the k largest logits, unsorted; ties at the border are all included.

    Works in two vectorised passes: the k-th largest block maximum is a lower bound of the k-th largest logit.
    """
    size = logits.shape[0]
    if k <= 0 or k >= size:
        return np.arange(size)
    if size >= _BLOCK * k:
        whole = size - size % _BLOCK
        # A block is every (size/_BLOCK)-th logit: so the maxima are taken row against row, which numpy vectorises.
        block_max = logits[:whole].reshape(_BLOCK, -1).max(axis=0)
        bound = np.partition(block_max, block_max.size - k)[block_max.size - k]
        found = np.flatnonzero(logits >= bound)
    else:
        found = np.arange(size)
    if found.size > k:
        values = logits[found]
        found = found[values >= np.partition(values, values.size - k)[values.size - k]]
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities in float64; logits that are minus infinity get 0."""
    shifted = np.exp(logits.astype(np.float64) - float(logits.max()))
    return shifted / shifted.sum()


def log_softmax_at(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Natural-log probabilities of `tokens` under the whole distribution."""
    top = float(logits.max())
    total = np.exp(logits - np.float32(top), dtype=np.float32).sum(dtype=np.float64)
    return logits[tokens].astype(np.float64) - top - np.log(total)


class Sampler:
    """Draws tokens for one sequence and remembers what the penalties need. Not shared between threads."""

    def __init__(self, how: Sampling, prompt: list[int] | tuple[int, ...] = ()) -> None:
        self._how = how
        # Any whole number is a seed; the generator only takes what is not negative.
        self._random = np.random.Generator(np.random.PCG64(None if how.seed is None else how.seed % (1 << 64)))
        self._bias_tokens = np.array([t for t, _ in how.logit_bias], dtype=np.int64)
        self._bias_values = np.array([b for _, b in how.logit_bias], dtype=np.float32)
        self._penalised = how.repeat_penalty != 1.0 or how.presence_penalty != 0.0 or how.frequency_penalty != 0.0
        self._window: deque[int] = deque()
        self._counts: Counter[int] = Counter()
        self._window_size = how.penalty_last_n if how.penalty_last_n >= 0 else 1 << 62
        for token in prompt[-self._window_size :] if self._window_size else ():
            self.accept(token)

    def accept(self, token: int) -> None:
        """Count a token of the sequence for the penalties."""
        if not self._penalised or self._window_size == 0:
            return
        self._window.append(token)
        self._counts[token] += 1
        if len(self._window) > self._window_size:
            oldest = self._window.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]

    def draw(self, logits: np.ndarray) -> int:
        """The next token for a row of float32 logits, which is changed in place by biases and penalties.

        Raises ApplianceError when the row has no largest number: the model computed NaN.
        """
        how = self._how
        if self._bias_tokens.size:
            np.add.at(logits, self._bias_tokens, self._bias_values)  # a token may be named twice
        if self._counts:
            self._penalise(logits)
        best = int(logits.argmax())
        if not math.isfinite(logits[best]):  # argmax finds a NaN first
            raise ApplianceError("The model computed numbers that are none (NaN or infinite).", remedy="Its file is damaged.")
        if how.temperature <= 0:
            return best
        return self._draw_filtered(logits)

    def _penalise(self, logits: np.ndarray) -> None:
        how = self._how
        tokens = np.fromiter(self._counts.keys(), dtype=np.int64)
        counts = np.fromiter(self._counts.values(), dtype=np.float32)
        values = logits[tokens]
        if how.repeat_penalty != 1.0:
            values = np.where(values <= 0, values * how.repeat_penalty, values / how.repeat_penalty)
        logits[tokens] = values - counts * how.frequency_penalty - how.presence_penalty

    def _draw_filtered(self, logits: np.ndarray) -> int:
        how = self._how
        tokens = top_candidates(logits, how.top_k)
        values = logits[tokens]
        order = np.argsort(-values, kind="stable")
        tokens, values = tokens[order], values[order]
        if 0 < how.top_k < tokens.size:
            tokens, values = tokens[: how.top_k], values[: how.top_k]
        if how.typical_p < 1.0:
            kept = _typical(softmax(values), how.typical_p)
            tokens, values = tokens[kept], values[kept]
        if how.top_p < 1.0:
            mass = np.cumsum(softmax(values))
            count = int(np.searchsorted(mass, how.top_p)) + 1
            tokens, values = tokens[:count], values[:count]
        if how.min_p > 0.0:
            kept = values >= values.max() + np.log(how.min_p)
            tokens, values = tokens[kept], values[kept]
        mass = np.cumsum(softmax(values / how.temperature))
        return int(tokens[min(int(np.searchsorted(mass, self._random.random() * mass[-1], side="right")), tokens.size - 1)])


def _typical(probabilities: np.ndarray, share: float) -> np.ndarray:
    """Indices kept by locally typical sampling (Meister et al. 2022, arXiv:2202.00666), in descending probability."""
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(probabilities)
        entropy = float(np.nansum(np.where(probabilities > 0, probabilities * surprise, 0.0)))
    order = np.argsort(np.abs(surprise - entropy), kind="stable")
    count = int(np.searchsorted(np.cumsum(probabilities[order]), share, side="right")) + 1
    return np.sort(order[:count])
