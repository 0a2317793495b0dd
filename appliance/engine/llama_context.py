"""One llama.cpp context: KV memory for some sequences and the calls that compute on it."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp as lib
import numpy as np

from appliance.engine.backend import Piece
from appliance.engine.llama_log import LlamaLog

KV_TYPES = {"f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0, "q4_0": lib.GGML_TYPE_Q4_0}


class LlamaContext:
    """A context over a loaded model. Used by one thread. The model must outlive it."""

    def __init__(
        self,
        model: Any,
        log: LlamaLog,
        *,
        kv_tokens: int,
        sequences: int,
        batch_tokens: int,
        outputs: int,
        threads: int,
        flash_attn: bool,
        unified: bool,
        type_k: str = "f16",
        type_v: str = "f16",
    ) -> None:
        """Reserve memory. Raises MemoryError with llama.cpp's words when that fails."""
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = kv_tokens, sequences
        params.n_batch = params.n_ubatch = batch_tokens
        params.n_outputs_max = outputs
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = unified
        params.flash_attn_type = int(flash_attn)
        params.type_k, params.type_v = KV_TYPES[type_k], KV_TYPES[type_v]
        params.no_perf = True
        self._log = log
        self._handle = lib.llama_init_from_model(model, params)
        if not self._handle:
            raise MemoryError(log.last())
        self._memory = lib.llama_get_memory(self._handle)
        self._vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        self._batch = _Batch(batch_tokens)
        self.streams = 1 if unified else sequences
        self.kv_tokens = lib.llama_n_ctx(self._handle)
        self.tokens_per_sequence = lib.llama_n_ctx_seq(self._handle)

    def decode(self, pieces: list[Piece]) -> list[np.ndarray]:
        """Compute the pieces in one pass. Returns their rows of logits in order: float32 views, writable, valid until
        the next call. Raises RuntimeError when llama.cpp refuses."""
        # Streams are computed together only in the order of their numbers (llama_batch_allocr::split_equal).
        order = sorted(range(len(pieces)), key=lambda i: pieces[i].seq) if self.streams > 1 else range(len(pieces))
        counts = [0] * len(pieces)
        self._batch.clear()
        for i in order:
            counts[i] = self._batch.add(pieces[i])
        status = lib.llama_decode(self._handle, self._batch.struct)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}: {self._log.last()}")
        rows: list[list[np.ndarray]] = [[] for _ in pieces]
        total = sum(counts)
        if total:
            address = ctypes.cast(lib.llama_get_logits(self._handle), ctypes.c_void_p).value
            flat = (ctypes.c_float * (total * self._vocabulary)).from_address(address)
            logits = np.frombuffer(flat, dtype=np.float32).reshape(total, self._vocabulary)
            at = 0
            for i in order:
                rows[i] = list(logits[at : at + counts[i]])
                at += counts[i]
        return [row for of_piece in rows for row in of_piece]

    def trim(self, seq: int, keep: int) -> int:
        """See Backend.trim."""
        if lib.llama_memory_seq_rm(self._memory, seq, keep, -1):
            return keep
        lib.llama_memory_seq_rm(self._memory, seq, -1, -1)
        return 0

    def save(self, seq: int) -> Any:
        """A snapshot of a sequence: a ctypes array of bytes."""
        size = lib.llama_state_seq_get_size(self._handle, seq)
        snapshot = (ctypes.c_uint8 * size)()
        lib.llama_state_seq_get_data(self._handle, snapshot, size, seq)
        return snapshot

    def load(self, seq: int, snapshot: Any) -> None:
        """Replace a sequence by a snapshot. Raises RuntimeError when it does not fit."""
        if not lib.llama_state_seq_set_data(self._handle, snapshot, len(snapshot), seq):
            raise RuntimeError(f"llama.cpp could not restore a sequence of {len(snapshot)} bytes: {self._log.last()}")

    def close(self) -> None:
        """Free the memory."""
        lib.llama_free(self._handle)


class _Batch:
    """A `llama_batch` over numpy arrays, so that a step fills it by slices instead of token by token."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._sequences = np.zeros(capacity, dtype=np.int32)
        self._one = np.ones(capacity, dtype=np.int32)
        self._outputs = np.zeros(capacity, dtype=np.int8)
        first = self._sequences.ctypes.data
        self._pointers = np.arange(first, first + 4 * capacity, 4, dtype=np.uint64)

        def pointer(values: np.ndarray, kind: Any) -> Any:
            return values.ctypes.data_as(kind)

        int32 = ctypes.POINTER(ctypes.c_int32)
        self.struct = lib.llama_batch(
            n_tokens=0,
            token=pointer(self._tokens, int32),
            pos=pointer(self._positions, int32),
            n_seq_id=pointer(self._one, int32),
            seq_id=pointer(self._pointers, ctypes.POINTER(int32)),
            logits=pointer(self._outputs, ctypes.POINTER(ctypes.c_int8)),
        )

    def clear(self) -> None:
        """Begin a new step."""
        self.struct.n_tokens = 0

    def add(self, piece: Piece) -> int:
        """Append a piece; returns how many rows of logits it will bring."""
        start, count = self.struct.n_tokens, len(piece.tokens)
        end = start + count
        self._tokens[start:end] = piece.tokens
        self._positions[start:end] = np.arange(piece.start, piece.start + count)
        self._sequences[start:end] = piece.seq
        self._outputs[start:end] = piece.outputs == "all"
        if piece.outputs == "last":
            self._outputs[end - 1] = 1
        self.struct.n_tokens = end
        return piece.rows
