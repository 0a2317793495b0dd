"""Vectors of very many small partitions in one store, searched one by one.

A partition costs its key, one dictionary entry and an array of 4 bytes for each of its vectors; a vector costs a byte a
component, its scale and its id. Nothing here is locked: the owner lets one thread in at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

PARTITION_BYTES = 240  # a key of 32 bytes, its dictionary entry and its array; measured
MIN_ROOM = 1024  # rows
PART = 256  # rows that stay in the processor's cache when they become float32

Packed = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Some vectors: (ids int64 [n], scales float32 [n], codes int8 [n, width]); a vector is its codes times its scale."""


def pack(ids: np.ndarray, vectors: np.ndarray) -> Packed:
    """float32 [n, width] to 8 bits a component: the largest of each vector becomes 127."""
    scales = np.maximum(np.abs(vectors).max(axis=1, initial=0), 1e-9) / 127
    return ids, scales, np.rint(vectors / scales[:, None]).astype(np.int8)


def unpack(packed: Packed) -> np.ndarray:
    """float32 [n, width]."""
    _, scales, codes = packed
    return codes * scales[:, None]


class SmallPartitions:
    """partition -> its vectors. A slot is the number of a row of the store."""

    def __init__(self, width: int) -> None:
        self._width, self._slots = width, dict[bytes, array]()
        self._clear()

    def _clear(self) -> None:
        self._ids, self._scales = np.zeros(0, np.int64), np.zeros(0, np.float32)
        self._codes = np.zeros((0, self._width), np.int8)
        self._used, self._free = 0, array("i")

    def __len__(self) -> int:
        """Vectors."""
        return self._used - len(self._free)

    def bytes(self) -> int:
        """Memory in use."""
        rows = sum(part.nbytes for part in (self._ids, self._scales, self._codes))
        return rows + PARTITION_BYTES * len(self._slots) + 4 * self._used

    def names(self) -> list[bytes]:
        """All partitions."""
        return list(self._slots)

    def count(self, partition: bytes) -> int:
        """Vectors of a partition."""
        return len(self._slots.get(partition, ()))

    def put(self, partition: bytes, packed: Packed) -> None:
        """Add vectors, each id at most once, and replace those that the partition has."""
        if partition in self._slots:
            self.remove(partition, packed[0])
        if len(packed[0]):
            self._slots.setdefault(partition, array("i")).extend(self._store(packed))

    def put_many(self, names: list[bytes], counts: list[int], packed: Packed) -> None:
        """Fill new partitions: the first has the first counts[0] vectors, and so on."""
        slots, at = self._store(packed), 0
        for name, count in zip(names, counts, strict=True):
            self._slots[name] = slots[at : at + count]
            at += count

    def _store(self, packed: Packed) -> array:
        count = len(packed[0])
        again = len(self._free) - min(len(self._free), count)
        slots = self._free[again:]
        del self._free[again:]
        new = count - len(slots)
        slots.extend(range(self._used, self._used + new))
        self._used += new
        parts = self._ids, self._scales, self._codes
        if self._used > len(self._ids):
            room = max(MIN_ROOM, self._used + self._used // 8)
            for part in parts:  # realloc: the kernel moves the pages, so 400 MB grow without being copied
                part.resize((room, *part.shape[1:]), refcheck=False)
        where = np.array(slots, np.int32)
        for part, values in zip(parts, packed, strict=True):
            part[where] = values
        return slots

    def remove(self, partition: bytes, ids: np.ndarray) -> int:
        """Forget vectors of a partition; returns how many it had."""
        where = self._where(partition)
        gone = np.isin(self._ids[where], ids)
        if kept := where[~gone].tobytes():
            self._slots[partition] = array("i", kept)
        else:
            self._slots.pop(partition, None)
        self._release(array("i", where[gone].tobytes()))
        return int(gone.sum())

    def drop(self, partition: bytes) -> None:
        """Forget a partition."""
        self._release(self._slots.pop(partition, array("i")))

    def _release(self, slots: array) -> None:
        self._free.extend(slots)
        if not len(self):
            self._clear()  # gives the memory back

    def _where(self, partition: bytes) -> np.ndarray:
        return np.array(self._slots.get(partition, ()), np.int32)

    def search(self, partition: bytes, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(cosines, ids) of the k nearest, best first."""
        where = self._where(partition)
        scores = np.empty(len(where), np.float32)
        for at in range(0, len(where), PART):
            part = self._codes[where[at : at + PART]].astype(np.float32)
            scores[at : at + PART] = np.einsum("ij,j->i", part, vector)  # not @: a BLAS brings threads of its own
        scores *= self._scales[where]
        best = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
        best = best[np.argsort(-scores[best], kind="stable")]
        return scores[best], self._ids[where[best]]

    def read(self, partition: bytes) -> Packed:
        """A copy of all vectors of a partition."""
        where = self._where(partition)
        return self._ids[where], self._scales[where], self._codes[where]

    def read_some(self, names: Iterator[bytes], enough: int) -> tuple[list[bytes], list[int], Packed]:
        """Copies for `put_many`: of the next partitions that are there, until they have `enough` vectors."""
        found, counts, slots = [], [], array("i")
        for name in names:
            if held := self._slots.get(name):
                found.append(name)
                counts.append(len(held))
                slots.extend(held)
            if len(slots) >= enough:
                break
        where = np.array(slots, np.int32)
        return found, counts, (self._ids[where], self._scales[where], self._codes[where])
