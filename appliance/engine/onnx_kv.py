"""Keys and values of an ONNX decoder: one buffer a layer and part, a row of it for each sequence.

The buffers are as long as the context allows and are taken from the kernel page by page as tokens are written: what is
not used costs nothing, nothing is ever copied to grow, and a sequence that is forgotten gives its pages back.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import numpy as np

PAGE_TOKENS = 64
"""Capacities are multiples of it: then a sequence's part of a buffer is whole pages, for any model."""

NORESERVE = 0x4000
"""MAP_NORESERVE on x86 and ARM; Python's mmap has a name for it from 3.13 on."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A sequence's keys and values, [layers * 2, kv heads, tokens, head]."""

    values: np.ndarray

    def __len__(self) -> int:
        return self.values.nbytes

    @property
    def tokens(self) -> int:
        """How many tokens' worth."""
        return self.values.shape[2]


class KvBuffers:
    """Memory of all sequences. sequence `s` of buffer `b` is `array(b)[s]`, [kv heads, capacity, head]."""

    def __init__(self, buffers: int, sequences: int, kv_heads: int, capacity: int, head: int, dtype: np.dtype) -> None:
        """Reserve address space. Raises MemoryError when the kernel refuses even that."""
        self.capacity = -(-capacity // PAGE_TOKENS) * PAGE_TOKENS
        shape = (sequences, kv_heads, self.capacity, head)
        self._sequence_bytes = kv_heads * self.capacity * head * dtype.itemsize
        size = sequences * self._sequence_bytes
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
        try:
            self._maps = [mmap.mmap(-1, size, flags=flags) for _ in range(buffers)]
        except OSError as error:
            raise MemoryError(f"{buffers * size / 1e9:.1f} GB of address space: {error.strerror}") from None
        self._arrays = [np.frombuffer(space, dtype).reshape(shape) for space in self._maps]

    def address(self, buffer: int, sequence: int) -> int:
        """Where a sequence's part of a buffer begins."""
        return self._arrays[buffer].ctypes.data + sequence * self._sequence_bytes

    def save(self, sequence: int, tokens: int) -> Snapshot:
        """A copy of the first `tokens` of a sequence."""
        return Snapshot(np.stack([array[sequence, :, :tokens] for array in self._arrays]))

    def load(self, sequence: int, snapshot: Snapshot) -> None:
        """Put a copy back at the beginning of a sequence."""
        for array, values in zip(self._arrays, snapshot.values, strict=True):
            array[sequence, :, : snapshot.tokens] = values

    def forget(self, sequence: int) -> None:
        """Give the pages of a sequence back."""
        for space in self._maps:
            space.madvise(mmap.MADV_DONTNEED, sequence * self._sequence_bytes, self._sequence_bytes)

    def close(self) -> None:
        """Give everything back."""
        self._arrays.clear()
        for space in self._maps:
            space.close()
