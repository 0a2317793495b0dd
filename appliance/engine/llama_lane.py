"""A second context with flash attention in which long prompts are computed, and the way of their cells into the main one.

On CPUs with AMX flash attention makes prompts faster and single tokens slower. So a long prompt is computed here, in
blocks of 64 tokens, and moves into the main context as soon as anything else is wanted of it. The two differ in how values
lie in memory: a row for each cell here, a row for each component there. llama.cpp refuses to load the one as the other, so
the snapshot is rewritten. Its format is llama.cpp's own (`llama_kv_cache::state_write` as of llama-cpp-python 0.3.36) and
may change with any release, so `PromptLane.works` tries it whenever a model is loaded.
"""

from __future__ import annotations

import ctypes
from itertools import islice
from typing import Any

import llama_cpp as lib
import numpy as np

from appliance.engine.backend import Piece
from appliance.engine.llama_context import LlamaContext

BLOCK_TOKENS = 64
"""Rows that llama.cpp's flash attention computes at once (`GGML_FA_TILE_Q`); fewer go another, slower way."""
ENTER_TOKENS = 128
"""A shorter piece is not worth moving a sequence in and out."""
WHOLE_TOKENS = 256
"""In a longer piece the rest behind the last whole block costs less here than in a pass of its own."""
MAGIC = 0xAF143CD8
F16_BYTES = 2


def transpose_values(snapshot: Any, streams: int) -> Any:
    """Rewrite a snapshot of one sequence for a context with the other layout of values.

    snapshot: bytes-like. Values that lie as [cell][component] become [component][cell], and the other way round. streams:
    KV streams of the context that will load it. Returns a ctypes array of bytes. Raises ValueError for whatever is not
    one plain cache of f16 keys and values, such as sliding windows, recurrent memory or two-dimensional positions.
    """
    source = _Reader(snapshot)
    head = source.take(8)  # magic u32, sequence i32: ignored on loading
    _require(head[:4].view(np.uint32)[0] == MAGIC, "magic")
    # Cells are in one stream; the others say that they have none.
    before = source.number()
    cells = 0
    while before and not cells:
        cells, before = source.number(), before - 1
    _require(cells > 0, "no cells")
    positions = source.take(cells * 12)  # position i32, count of sequences u32 (one), sequence i32
    _require((positions.view(np.int32).reshape(cells, 3)[:, 1] == 1).all(), "cells")
    transposed, layers = source.number(), source.number()
    _require(transposed in (0, 1) and 0 < layers < 10_000, "layers")
    parts = [head, _u32(streams, cells), positions, _u32(1 - transposed, layers)]
    for _ in range(layers):
        about = source.take(12)  # type i32, row size u64
        _require(about[:4].view(np.int32)[0] == lib.GGML_TYPE_F16, "type of keys")
        parts += [about, source.take(int(about[4:].view(np.uint64)[0]) * cells)]
    for _ in range(layers):
        _require(source.number() == lib.GGML_TYPE_F16, "type of values")
        if transposed:
            _require(source.number() == F16_BYTES, "size of an element")
            width = source.number()
            about = [_u32(lib.GGML_TYPE_F16), np.array([width * F16_BYTES], np.uint64)]
        else:
            width = int(source.take(8).view(np.uint64)[0]) // F16_BYTES
            about = [_u32(lib.GGML_TYPE_F16, F16_BYTES, width)]
        values = source.take(cells * width * F16_BYTES).view(np.uint16)
        values = values.reshape((width, cells) if transposed else (cells, width))
        parts += [*about, np.ascontiguousarray(values.T).reshape(-1)]
    _require(not source.take(4 * before).any() and source.ended, "more than one cache")
    parts.append(np.zeros(streams - 1, np.uint32))
    joined = np.concatenate([part.view(np.uint8) for part in parts])
    return (ctypes.c_uint8 * len(joined)).from_buffer(joined)


class _Reader:
    """Takes bytes from the front of a snapshot."""

    def __init__(self, snapshot: Any) -> None:
        self._rest = np.frombuffer(snapshot, np.uint8)

    def take(self, count: int) -> np.ndarray:
        """The next bytes, aligned as numpy wants them. Raises ValueError when there are not so many."""
        _require(count <= len(self._rest), "length")
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def number(self) -> int:
        """The next u32."""
        return int(self.take(4).view(np.uint32)[0])

    @property
    def ended(self) -> bool:
        """Whether everything was taken."""
        return not len(self._rest)


def _u32(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def _require(condition: Any, what: str) -> None:
    if not condition:
        raise ValueError(f"This snapshot of a sequence is not of the known form: {what}.")


class PromptLane:
    """Computes pieces in two contexts of one model. The lane holds one sequence at a time, under the number 0; what the
    main context holds of that sequence meanwhile is stale. Owns the lane's context, not the main one."""

    def __init__(self, lane: LlamaContext, main: LlamaContext) -> None:
        self._lane, self._main = lane, main
        self.seq: int | None = None
        """The sequence whose cells are in the lane."""

    def works(self) -> bool:
        """Whether cells survive the way into the main context and back. To be asked while both are empty."""
        self._lane.decode([Piece(0, 0, [0, 1, 2], "none")])
        try:
            first = bytes(self._lane.save(0))
            self._main.load(0, transpose_values(first, self._main.streams))
            return bytes(transpose_values(self._main.save(0), 1)) == first
        except (RuntimeError, ValueError):
            return False
        finally:
            self._lane.trim(0, 0)
            self._main.trim(0, 0)

    def decode(self, pieces: list[Piece]) -> list[np.ndarray]:
        """See Backend.decode."""
        busy = {piece.seq for piece in pieces}
        done: list[tuple[int, list[np.ndarray]]] = []  # how many rows the main context owes, or rows of the lane
        rest: list[Piece] = []
        for piece in pieces:
            count = self._share(piece, busy)
            if count:
                self._enter(piece)
                whole = count == len(piece.tokens)
                part = Piece(0, piece.start, piece.tokens[:count], piece.outputs if whole else "none")
                rows = self._lane.decode([part])
                if whole:
                    done.append((0, rows))
                    continue
                piece = Piece(piece.seq, piece.start + count, piece.tokens[count:], piece.outputs)
            if piece.seq == self.seq:
                self.leave()
            rest.append(piece)
            done.append((piece.rows, []))
        others = iter(self._main.decode(rest) if rest else ())
        return [row for owed, rows in done for row in (rows or islice(others, owed))]

    def _share(self, piece: Piece, busy: set[int]) -> int:
        """How many of a piece's tokens are computed in the lane."""
        inside = piece.seq == self.seq
        if piece.outputs == "all" or not inside and self.seq in busy:
            return 0
        count = len(piece.tokens)
        if count < WHOLE_TOKENS:
            count -= count % BLOCK_TOKENS
        return count if count >= (BLOCK_TOKENS if inside else ENTER_TOKENS) else 0

    def _enter(self, piece: Piece) -> None:
        if piece.seq == self.seq:
            return
        self.leave()
        if piece.start:
            self._lane.load(0, transpose_values(self._main.save(piece.seq), 1))
        self.seq = piece.seq

    def _moved(self) -> Any:
        """What the lane holds, for the main context."""
        return transpose_values(self._lane.save(0), self._main.streams)

    def leave(self) -> None:
        """Move the lane's sequence into the main context."""
        if self.seq is not None:
            self._main.load(self.seq, self._moved())
            self._drop()

    def _drop(self) -> None:
        self._lane.trim(0, 0)
        self.seq = None

    def trim(self, seq: int, keep: int) -> int:
        """See Backend.trim."""
        if seq == self.seq:
            if keep:
                self.leave()
            else:
                self._drop()
        return self._main.trim(seq, keep)

    def save(self, seq: int) -> Any:
        """See Backend.save. What the lane holds is saved as the main context would."""
        return self._moved() if seq == self.seq else self._main.save(seq)

    def load(self, seq: int, snapshot: Any) -> None:
        """See Backend.load."""
        if seq == self.seq:
            self._drop()
        self._main.load(seq, snapshot)

    def close(self) -> None:
        """Free the lane's context."""
        self._lane.close()
