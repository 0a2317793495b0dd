"""How an ONNX decoder remembers: two kinds of graph, behind one small interface.

`SharedPast` is for graphs with GroupQueryAttention: past and present are the same buffers, new keys are written behind the
old ones, and sequences with neighbouring numbers are one batch: a slice of the buffers, each row as long as it says itself
(`seqlens_k`, or the sums of the attention mask). `GrowingPast` is for plain exports that take a past and return a longer
one: every sequence alone, everything copied at every step. Both are used by one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from appliance.engine.backend import Piece
from appliance.engine.onnx_kv import KvBuffers, Snapshot

DEVICE = ("cpu", 0)
DTYPES = {"tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16)}


class Past(Protocol):
    """What an OnnxDecoder needs of either kind."""

    def batches(self, pieces: list[Piece]) -> Iterator[list[Piece]]:
        """The pieces in groups that are computed in one run."""

    def run(self, batch: list[Piece], logits: np.ndarray) -> None:
        """Compute one group and write the rows asked for, in its order, into logits, float32 [rows, vocabulary]."""

    def trim(self, seq: int, keep: int) -> int:
        """See Backend.trim."""

    def save(self, seq: int) -> Snapshot:
        """See Backend.save."""

    def load(self, seq: int, snapshot: Snapshot) -> None:
        """See Backend.load."""

    def close(self) -> None:
        """Give the memory back."""


def caches_of(session: ort.InferenceSession) -> list[Any]:
    """The inputs that hold keys and values."""
    return [value for value in session.get_inputs() if value.name.startswith("past_key_values.")]


def _present(name: str) -> str:
    return name.replace("past_key_values", "present")


def _rows(batch: list[Piece], length: int) -> list[int]:
    """Which of the positions of a batch, counted through, give logits."""
    return [at * length + column for at, piece in enumerate(batch) for column in range(length - piece.rows, length)]


class SharedPast:
    """Keys and values in place."""

    def __init__(self, session: ort.InferenceSession, sequences: int, context_tokens: int) -> None:
        """Raises MemoryError."""
        caches = caches_of(session)
        _, kv_heads, _, head = caches[0].shape
        self._session = session
        self._names = [cache.name for cache in caches]
        self._inputs = {value.name for value in session.get_inputs()}
        self._dtype = DTYPES[caches[0].type]
        self._kv = KvBuffers(len(caches), sequences, kv_heads, context_tokens, head, self._dtype)
        self._shape = (kv_heads, self._kv.capacity, head)
        self._lengths = [0] * sequences
        self._bindings: dict[tuple[int, int], ort.IOBinding] = {}

    def batches(self, pieces: list[Piece]) -> Iterator[list[Piece]]:
        """Single tokens of neighbouring sequences together, a piece of a prompt alone."""
        singles = sorted((piece for piece in pieces if len(piece.tokens) == 1), key=lambda piece: piece.seq)
        for _, neighbours in groupby(enumerate(singles), key=lambda numbered: numbered[1].seq - numbered[0]):
            yield [piece for _, piece in neighbours]
        yield from ([piece] for piece in pieces if len(piece.tokens) > 1)

    def run(self, batch: list[Piece], logits: np.ndarray) -> None:
        """See Past.run."""
        length = len(batch[0].tokens)
        totals = np.array([piece.start + length for piece in batch], np.int32)
        which = np.array(_rows(batch, length), np.int64)
        binding = self._binding(batch[0].seq, len(batch))
        binding.bind_cpu_input("input_ids", np.array([piece.tokens for piece in batch], np.int64))
        if "seqlens_k" in self._inputs:
            binding.bind_cpu_input("seqlens_k", totals - 1)
            binding.bind_cpu_input("total_sequence_length", np.array(totals.max()))
        if "attention_mask" in self._inputs:
            binding.bind_cpu_input("attention_mask", (np.arange(totals.max()) < totals[:, None]).astype(np.int64))
        if "position_ids" in self._inputs:
            binding.bind_cpu_input("position_ids", totals[:, None].astype(np.int64) - length + np.arange(length))
        chosen = "output_rows" in self._inputs
        if chosen:
            binding.bind_cpu_input("output_rows", which)
            binding.bind_output("logits", *DEVICE, np.float32, logits.shape, logits.ctypes.data)
        else:
            binding.bind_output("logits", "cpu")
        self._session.run_with_iobinding(binding)
        if not chosen and len(which):
            found = binding.get_outputs()[0].numpy()
            logits[:] = found.reshape(-1, found.shape[-1])[which]
        for piece in batch:
            self._lengths[piece.seq] = piece.start + length

    def _binding(self, first: int, count: int) -> ort.IOBinding:
        """A binding whose keys and values are those of `count` sequences from `first` on. Only this much of a binding stays
        the same from step to step, and it is the larger part: four entries a layer."""
        found = self._bindings.get((first, count))
        if found is None:
            found = self._bindings[first, count] = self._session.io_binding()
            found.bind_output("logits", "cpu")  # outputs are numbered in the order in which they are first bound
            for number, name in enumerate(self._names):
                place = (*DEVICE, self._dtype, (count, *self._shape), self._kv.address(number, first))
                found.bind_input(name, *place)
                found.bind_output(_present(name), *place)
        return found

    def trim(self, seq: int, keep: int) -> int:
        """See Backend.trim."""
        if keep == 0 and self._lengths[seq]:
            self._kv.forget(seq)
        self._lengths[seq] = min(keep, self._lengths[seq])
        return self._lengths[seq]

    def save(self, seq: int) -> Snapshot:
        """See Backend.save."""
        return self._kv.save(seq, self._lengths[seq])

    def load(self, seq: int, snapshot: Snapshot) -> None:
        """See Backend.load."""
        self._kv.load(seq, snapshot)
        self._lengths[seq] = snapshot.tokens

    def close(self) -> None:
        """See Past.close."""
        self._bindings.clear()
        self._kv.close()


class GrowingPast:
    """Keys and values as the graph returned them."""

    def __init__(self, session: ort.InferenceSession, sequences: int) -> None:
        self._session = session
        self._caches = caches_of(session)
        self._inputs = {value.name for value in session.get_inputs()}
        self._outputs = ["logits", *(_present(cache.name) for cache in self._caches)]
        self._past = [self._nothing() for _ in range(sequences)]

    def _nothing(self) -> list[np.ndarray]:
        return [np.zeros((1, cache.shape[1], 0, cache.shape[3]), DTYPES[cache.type]) for cache in self._caches]

    def batches(self, pieces: list[Piece]) -> Iterator[list[Piece]]:
        """Every piece alone."""
        yield from ([piece] for piece in pieces)

    def run(self, batch: list[Piece], logits: np.ndarray) -> None:
        """See Past.run."""
        (piece,) = batch
        length = len(piece.tokens)
        feeds = {
            "input_ids": np.array([piece.tokens], np.int64),
            "attention_mask": np.ones((1, piece.start + length), np.int64),
            "position_ids": np.arange(piece.start, piece.start + length, dtype=np.int64)[None],
        }
        feeds = {name: values for name, values in feeds.items() if name in self._inputs}
        feeds |= {cache.name: values for cache, values in zip(self._caches, self._past[piece.seq], strict=True)}
        found, *self._past[piece.seq] = self._session.run(self._outputs, feeds)
        if piece.rows:
            logits[:] = found[0, _rows(batch, length)]

    def trim(self, seq: int, keep: int) -> int:
        """See Backend.trim."""
        self._past[seq] = [np.ascontiguousarray(values[:, :, :keep]) for values in self._past[seq]] if keep else self._nothing()
        return self._past[seq][0].shape[2]

    def save(self, seq: int) -> Snapshot:
        """See Backend.save."""
        return Snapshot(np.concatenate(self._past[seq]))

    def load(self, seq: int, snapshot: Snapshot) -> None:
        """See Backend.load."""
        self._past[seq] = [values[None].copy() for values in snapshot.values]

    def close(self) -> None:
        """See Past.close."""
        self._past.clear()
