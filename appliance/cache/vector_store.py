"""The vectors of all partitions in one store of rows, ten bits a component, and who has which row.

A row is 8 high and 2 low bits a component, a scale and an id: 492 bytes at 384 components, wrong by 0.0001 in a cosine. The high
bits alone, wrong by 0.0004, are enough to choose the rows that are looked at closely. A slot is the number of a row.
Nothing here is locked: the owner lets one thread in at a time.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np

MIN_ROOM = 1024  # rows
PART = 256  # rows that stay in the processor's cache when they become float32
CLOSELY = 32  # rows more than asked for that are compared with all bits
SHIFTS = np.array([0, 2, 4, 6], np.uint8)  # four components' low bits are one byte
TOP = 511  # ten bits with sign


class Packed(NamedTuple):
    """Vectors: component = (4 * high + low) * scale. scales float32 [n], high int8 [n, width], low uint8 [n, width / 4]."""

    scales: np.ndarray
    high: np.ndarray
    low: np.ndarray


def pack(vectors: np.ndarray) -> Packed:
    """float32 [n, width]; the largest component of each vector becomes TOP."""
    count, width = vectors.shape
    scales = (np.maximum(np.abs(vectors).max(axis=1, initial=0), 1e-9) / TOP).astype(np.float32)
    whole = np.rint(vectors / scales[:, None]).astype(np.int16)
    low = np.zeros((count, -(-width // 4), 4), np.uint8)
    low.reshape(count, 4 * low.shape[1])[:, :width] = whole & 3
    return Packed(scales, (whole >> 2).astype(np.int8), np.bitwise_or.reduce(low << SHIFTS, axis=2))


def unpack(packed: Packed) -> np.ndarray:
    """float32 [n, width]."""
    scales, high, low = packed
    rest = (low[:, :, None] >> SHIFTS & 3).reshape(len(low), 4 * low.shape[1])[:, : high.shape[1]]
    return (high * np.float32(4) + rest) * scales[:, None]


class VectorStore:
    """The rows."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._clear()

    def _clear(self) -> None:
        width = self._width
        self._ids, self._scales = np.zeros(0, np.int64), np.zeros(0, np.float32)
        self._high, self._low = np.zeros((0, width), np.int8), np.zeros((0, -(-width // 4)), np.uint8)
        self._used, self._free = 0, array("i")

    def __len__(self) -> int:
        """Rows in use."""
        return self._used - len(self._free)

    def bytes(self) -> int:
        """Memory in use."""
        return sum(part.nbytes for part in (self._ids, self._scales, self._high, self._low)) + 4 * len(self._free)

    def put(self, ids: np.ndarray, packed: Packed) -> np.ndarray:
        """Store rows; returns their slots, int32 [n]."""
        again = len(self._free) - min(len(self._free), len(ids))
        new = len(ids) - (len(self._free) - again)
        slots = np.concatenate([np.array(self._free[again:], np.int32), np.arange(self._used, self._used + new, dtype=np.int32)])
        del self._free[again:]
        self._used += new
        parts = self._ids, self._scales, self._high, self._low
        if self._used > len(self._ids):
            room = max(MIN_ROOM, self._used + self._used // 16)
            for part in parts:  # realloc: the kernel moves the pages, so 400 MB grow without being copied
                part.resize((room, *part.shape[1:]), refcheck=False)
        for part, values in zip(parts, (ids, *packed), strict=True):
            part[slots] = values
        return slots

    def release(self, slots: np.ndarray) -> None:
        """Forget rows. Their memory is for rows to come, and given back when none is left."""
        self._free.frombytes(slots.astype(np.int32).tobytes())
        if not len(self):
            self._clear()

    def ids(self, slots: np.ndarray) -> np.ndarray:
        """int64 [n]."""
        return self._ids[slots]

    def read(self, slots: np.ndarray) -> Packed:
        """Copies."""
        return Packed(self._scales[slots], self._high[slots], self._low[slots])

    def nearest(self, slots: np.ndarray, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(cosines, ids) of the k nearest of these rows, best first."""
        if len(slots) > k + CLOSELY:
            scores = np.empty(len(slots), np.float32)
            for at in range(0, len(slots), PART):
                part = self._high[slots[at : at + PART]].astype(np.float32)
                scores[at : at + PART] = np.einsum("ij,j->i", part, vector)  # not @: a BLAS brings threads of its own
            scores = (4 * scores + 1.5 * vector.sum()) * self._scales[slots]
            slots = slots[np.argpartition(-scores, k + CLOSELY)[: k + CLOSELY]]
        scores = np.einsum("ij,j->i", unpack(self.read(slots)), vector)
        best = np.argsort(-scores, kind="stable")[:k]
        return scores[best], self._ids[slots[best]]


class SortedIds:
    """id -> slot of a large partition: two sorted arrays, 12 bytes an entry. Ids that grow are added at the end."""

    def __init__(self, ids: np.ndarray, slots: np.ndarray) -> None:
        """Each id once."""
        order = np.argsort(ids)
        self._ids, self._slots, self._used, self._gone = ids[order], slots[order].astype(np.int32), len(ids), 0

    def __len__(self) -> int:
        return self._used - self._gone

    def bytes(self) -> int:
        """Memory in use."""
        return self._ids.nbytes + self._slots.nbytes

    def slots(self) -> np.ndarray:
        """Those of all entries."""
        return self._slots[: self._used][self._slots[: self._used] >= 0]

    def _places(self, ids: np.ndarray) -> np.ndarray:
        """Where they are; an unknown id gives another's place or the last."""
        return np.minimum(np.searchsorted(self._ids[: self._used], ids), max(self._used - 1, 0))

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Slots; -1 where there is no such id."""
        if not self._used:
            return np.full(len(ids), -1, np.int32)
        places = self._places(ids)
        return np.where(self._ids[places] == ids, self._slots[places], np.int32(-1))

    def remove(self, ids: np.ndarray) -> np.ndarray:
        """Forget ids, each given once; returns the slots of those that were known."""
        found = self.find(ids)
        self._slots[self._places(ids[found >= 0])] = -1
        self._gone += int((found >= 0).sum())
        if self._gone > 1024 + self._used // 8:
            kept = self._slots[: self._used] >= 0
            self._ids, self._slots = self._ids[: self._used][kept], self._slots[: self._used][kept]
            self._used, self._gone = len(self._ids), 0
        return found[found >= 0]

    def put(self, ids: np.ndarray, slots: np.ndarray) -> None:
        """Add ids that are not there, each once."""
        order = np.argsort(ids)
        ids, slots = ids[order], slots[order]
        if not self._used or ids[0] > self._ids[self._used - 1]:
            if self._used + len(ids) > len(self._ids):
                room = (self._used + len(ids)) * 17 // 16
                for part in (self._ids, self._slots):
                    part.resize(room, refcheck=False)
            self._ids[self._used : self._used + len(ids)], self._slots[self._used : self._used + len(ids)] = ids, slots
        else:
            places = np.searchsorted(self._ids[: self._used], ids)
            kept = self._ids[: self._used], self._slots[: self._used]
            # an id that was removed may still have its place: the new one comes before it, where searchsorted finds it first
            self._ids, self._slots = (np.insert(part, places, new) for part, new in zip(kept, (ids, slots), strict=True))
        self._used += len(ids)
