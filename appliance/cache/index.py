"""Finds the stored questions that are nearest to a new one, inside one partition. Derived: the SQLite rows are the truth.

A partition holds the requests that may share answers. There are a few large ones and very many with one to three entries. The
vectors of all are rows of one store (vector_store.py). A partition is
- small: a list of rows; a search looks at each of them.
- large (over `flat_up_to` entries): faiss inverted lists besides, with one bit a component (IVF with RaBitQ). A search asks the
  PROBES nearest lists for CANDIDATES and compares these closely. `tick` makes the lists, and makes them anew with more of them
  as the partition grows; the rows stay where they are.
What this was chosen among is measured by bench/cache_index.py.

Threads: any thread may call anything. One lock covers whatever is read and changed, so searches take one core at most; it is
held for some milliseconds, also while `tick` builds, `save` writes, and `add` stores many. What is in work between two such
moments (list numbers, training, files) is done outside of it. faiss runs on one thread: OpenMP keeps that number per calling
thread, so it is set in the calling thread before each use, and every faiss loop, with the BLAS in its wheel, obeys it.
"""

from __future__ import annotations

import json
import math
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from appliance.cache.array_file import read_arrays, write_arrays
from appliance.cache.vector_store import Packed, SortedIds, VectorStore, pack, unpack
from appliance.errors import InvalidRequest

FLAT_UP_TO = 4096  # 0.5 ms for all of them
PROBES = 32
CANDIDATES = 128  # one bit a component puts the nearest among the first 32; twice as many cost 0.05 ms
QUERY_BITS = 8
MOST_LISTS = 2048  # enough for 1,000,000 entries; reached at 262,144
TRAINED_ON = 32  # vectors a list
ROUNDS = 10  # of k-means; tick looks at `stop` between them
STEP = 1024  # rows handled under one hold of the lock
FILE, MAGIC, VERSION = "vectors.index", "appliance cache index", 2
SMALL, LARGE, LISTS = range(3)  # what follows in the file
ENTRY_BYTES = 110  # id, list growth and faiss's table of ids, per entry of a large partition; measured
PARTITION_BYTES = 240  # a key of 32 bytes, its dictionary entry and its array; measured

Stop = Callable[[], bool]


class _Lists:
    """Finds the slots of one large partition. `place` may be called at any time, the others under the lock."""

    def __init__(self, faiss: Any, centroids: np.ndarray) -> None:
        """centroids: [lists, width]."""
        self.count, width = centroids.shape
        self.centroids, self._faiss, self._coarse = centroids, faiss, faiss.IndexFlatIP(width)
        self._coarse.add(centroids)
        self._index = faiss.IndexIVFRaBitQ(self._coarse, width, self.count, faiss.METRIC_INNER_PRODUCT)
        self._index.is_trained = True
        self._index.nprobe, self._index.qb = min(PROBES, self.count), QUERY_BITS
        self._index.set_direct_map_type(faiss.DirectMap.Hashtable)  # removes without looking through the lists

    def bytes(self) -> int:
        """Memory in use."""
        return self._index.ntotal * (self._index.code_size + ENTRY_BYTES) + self.centroids.nbytes * 2

    def place(self, vectors: np.ndarray) -> np.ndarray:
        """The list of each vector."""
        self._faiss.omp_set_num_threads(1)
        return np.ascontiguousarray(self._coarse.search(vectors, 1)[1][:, 0])

    def put(self, slots: np.ndarray, vectors: np.ndarray, places: np.ndarray) -> None:
        """Add slots that are not there."""
        self._faiss.omp_set_num_threads(1)
        held = np.ascontiguousarray(vectors), slots.astype(np.int64), np.ascontiguousarray(places)  # faiss gets bare pointers
        self._index.add_core(len(slots), *map(self._faiss.swig_ptr, held))

    def remove(self, slots: np.ndarray) -> None:
        """Forget slots; unknown ones do not matter."""
        self._faiss.omp_set_num_threads(1)
        self._index.remove_ids(slots.astype(np.int64))

    def search(self, vector: np.ndarray, k: int) -> np.ndarray:
        """Slots of about the k nearest."""
        self._faiss.omp_set_num_threads(1)
        [slots] = self._index.search(vector[None], k)[1]
        return slots[slots >= 0]

    def groups(self) -> Iterator[tuple[int, int]]:
        """(first list, list after the last) of pieces of a few STEPs."""
        step = max(1, 4 * STEP * self.count // max(1, self._index.ntotal))
        return ((at, min(at + step, self.count)) for at in range(0, self.count, step))

    def read(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Copies of (sizes, slots, codes) of some lists."""
        store, width = self._index.invlists, self._index.code_size
        sizes = np.array([store.list_size(number) for number in range(first, end)], np.int32)
        slots, codes, at = np.empty(sizes.sum(), np.int32), np.empty((sizes.sum(), width), np.uint8), 0
        for number, size in zip(range(first, end), sizes.tolist(), strict=True):
            if size:
                slots[at : at + size] = self._faiss.rev_swig_ptr(store.get_ids(number), size)
                codes[at : at + size] = self._faiss.rev_swig_ptr(store.get_codes(number), size * width).reshape(size, width)
            at += size
        return sizes, slots, codes

    def restore(self, first: int, sizes: np.ndarray, slots: np.ndarray, codes: np.ndarray) -> None:
        """Fill lists of a new form with what `read` gave; `restored` comes after the last."""
        pointer, numbers, at = self._faiss.swig_ptr, slots.astype(np.int64), 0
        for number, size in enumerate(sizes.tolist(), first):
            if size:
                self._index.invlists.add_entries(number, size, pointer(numbers[at:]), pointer(codes[at:]))
            at += size
        self._index.ntotal += at

    def restored(self) -> None:
        """Find out where each slot is."""
        for kind in (self._faiss.DirectMap.NoMap, self._faiss.DirectMap.Hashtable):
            self._index.set_direct_map_type(kind)


@dataclass
class _Large:
    lists: _Lists
    ids: SortedIds


@dataclass
class _Build:
    """Lists in the making. Changes of their partition go to them as well; touched: slots that these took or left."""

    partition: bytes
    lists: _Lists | None = None
    touched: set[int] = field(default_factory=set)


class Index:
    """See the module's text. width: of the vectors. flat_up_to: entries of a partition that are searched one by one."""

    def __init__(self, width: int = 384, *, flat_up_to: int = FLAT_UP_TO) -> None:
        import faiss

        if width < 1 or flat_up_to < 1:
            raise InvalidRequest(f"An index of width {width} that is flat up to {flat_up_to} entries cannot be: both are at least 1.")
        self._faiss, self.width, self.flat_up_to = faiss, width, flat_up_to
        self._lock = threading.Lock()
        self._upkeep = threading.Lock()  # one of tick, save and load at a time
        self._store = VectorStore(width)
        self._small: dict[bytes, array] = {}
        self._large: dict[bytes, _Large] = {}
        self._due: set[bytes] = set()
        self._build: _Build | None = None

    # -- what everybody calls ------------------------------------------------------------------------------------

    def add(self, partition: bytes, ids: Sequence[int] | np.ndarray, vectors: np.ndarray) -> None:
        """Add entries to a partition, or replace those whose ids it has. Others may search between two STEPs of many.

        ids: whole numbers from 0 on.  vectors: float32 [ids, width], each of length 1.  Raises InvalidRequest.
        """
        numbers, rows = self._ids(partition, ids), self._vectors(vectors)
        if len(numbers) != len(rows):
            raise InvalidRequest(f"{len(numbers)} ids came with {len(rows)} vectors.", remedy="Give one vector for each id.")
        if len(numbers) > 1:
            _, last = np.unique(numbers[::-1], return_index=True)
            if len(last) < len(numbers):
                keep = len(numbers) - 1 - last
                numbers, rows = numbers[keep], rows[keep]
        for at in range(0, len(numbers), STEP):
            self._add(partition, numbers[at : at + STEP], rows[at : at + STEP])

    def remove(self, partition: bytes, ids: Sequence[int] | np.ndarray) -> int:
        """Forget entries of a partition; returns how many it had. Raises InvalidRequest."""
        numbers = np.unique(self._ids(partition, ids))
        removed = 0
        for at in range(0, len(numbers), STEP):
            with self._lock:
                removed += self._remove(partition, numbers[at : at + STEP])
                self._note(partition)
        return removed

    def drop(self, partition: bytes) -> None:
        """Forget a whole partition."""
        with self._lock:
            self._due.discard(partition)
            if self._building(partition):
                self._build = None
            self._store.release(self._slots(partition))
            self._small.pop(partition, None)
            large = self._large.pop(partition, None)
        del large  # takes a moment to free: not under the lock

    def search(self, partition: bytes, vector: np.ndarray, k: int) -> list[tuple[int, float]]:
        """The k nearest entries of this partition, or all when it has fewer: (id, cosine), best first.

        vector: float32 [width] of length 1.  Raises InvalidRequest.
        """
        _check_name(partition)
        if k < 1:
            raise InvalidRequest(f"The {k} nearest entries cannot be found.", remedy="Ask for at least 1.")
        query = self._vectors(np.asarray(vector)[None])[0]
        with self._lock:
            if large := self._large.get(partition):
                slots = large.lists.search(query, min(max(CANDIDATES, 4 * k), max(1, len(large.ids))))
                slots = slots[large.ids.find(self._store.ids(slots)) == slots]  # whatever faiss says: of this partition only
            else:
                slots = self._slots(partition)
            scores, ids = self._store.nearest(slots, query, k)
        return list(zip(ids.tolist(), np.clip(scores, -1.0, 1.0).tolist(), strict=True))

    def __len__(self) -> int:
        with self._lock:
            return len(self._store)

    def bytes(self) -> int:
        """Memory in use, in bytes, as far as it can be known (bench/cache_index.py compares it with the process's growth)."""
        with self._lock:
            lists = [large.lists for large in self._large.values()] + ([self._build.lists] if self._build and self._build.lists else [])
            ids = sum(large.ids.bytes() for large in self._large.values())
            return self._store.bytes() + PARTITION_BYTES * len(self._small) + ids + sum(each.bytes() for each in lists)

    def partitions(self) -> dict[bytes, int]:
        """Entries of each partition that has any."""
        with self._lock:
            large = {name: len(large.ids) for name, large in self._large.items() if len(large.ids)}
            return {name: len(slots) for name, slots in self._small.items()} | large

    # -- under the lock --------------------------------------------------------------------------------------------

    def _add(self, partition: bytes, ids: np.ndarray, vectors: np.ndarray) -> None:
        packed = pack(vectors)
        while True:
            with self._lock:
                forms = self._lists(partition)
            places = [lists.place(vectors) for lists in forms]
            with self._lock:
                if forms != self._lists(partition):
                    continue  # exchanged meanwhile by tick: at most twice for each build
                self._remove(partition, ids)
                slots = self._store.put(ids, packed)
                for lists, place in zip(forms, places, strict=True):
                    lists.put(slots, vectors, place)
                if large := self._large.get(partition):
                    large.ids.put(ids, slots)
                else:
                    self._small.setdefault(partition, array("i")).frombytes(slots.tobytes())
                if build := self._building(partition):
                    build.touched.update(slots.tolist())
                self._note(partition)
                return

    def _remove(self, partition: bytes, ids: np.ndarray) -> int:
        if large := self._large.get(partition):
            gone = large.ids.remove(ids)
        elif partition in self._small:
            slots = self._slots(partition)
            which = np.isin(self._store.ids(slots), ids)
            gone = slots[which]
            if len(gone) == len(slots):
                del self._small[partition]
            elif len(gone):
                self._small[partition] = array("i", slots[~which].tobytes())
        else:
            return 0
        for lists in self._lists(partition) if len(gone) else ():
            lists.remove(gone)
        if build := self._building(partition):
            build.touched.update(gone.tolist())
        self._store.release(gone)
        return len(gone)

    def _slots(self, partition: bytes) -> np.ndarray:
        if large := self._large.get(partition):
            return large.ids.slots()
        return np.array(self._small.get(partition, ()), np.int32)

    def _building(self, partition: bytes) -> _Build | None:
        return self._build if self._build and self._build.partition == partition else None

    def _lists(self, partition: bytes) -> list[_Lists]:
        large, build = self._large.get(partition), self._building(partition)
        return [*([large.lists] if large else ()), *([build.lists] if build and build.lists else ())]

    def _note(self, partition: bytes) -> None:
        if self._wanted(partition) is not None:
            self._due.add(partition)

    def _wanted(self, partition: bytes) -> int | None:
        """How many lists the partition should be built with now, 0 for the small form, None when it is right as it is."""
        if large := self._large.get(partition):
            count = len(large.ids)
            if count <= self.flat_up_to // 2:
                return 0
            wanted = _lists_for(count)
            return wanted if wanted > large.lists.count or wanted * 8 < large.lists.count else None
        count = len(self._small.get(partition, ()))
        return _lists_for(count) if count > self.flat_up_to else None

    # -- what the background thread calls --------------------------------------------------------------------------

    def tick(self, stop: Stop = lambda: False) -> bool:
        """Bring one partition that has grown or shrunk into its right form; returns whether it did.

        Takes seconds for 100,000 entries and about a minute for 1,000,000, on one core; everybody else goes on meanwhile.
        stop: asked every few seconds at most; when it says yes the work is given up, and a later tick will do it.
        """
        with self._upkeep:
            with self._lock:
                due = ((name, wanted) for name in self._due if (wanted := self._wanted(name)) is not None)
                partition, lists = next(due, (b"", None))
                if lists == 0:
                    self._to_small(partition)
            done = lists == 0 or bool(lists) and self._to_large(partition, lists, stop)
            with self._lock:
                self._due = {name for name in self._due if self._wanted(name) is not None}
            return done

    def _to_small(self, partition: bytes) -> None:
        slots = self._large.pop(partition).ids.slots()
        if len(slots):
            self._small[partition] = array("i", slots.tobytes())

    def _to_large(self, partition: bytes, count: int, stop: Stop) -> bool:
        """False when stopped, or when the partition was dropped meanwhile."""
        build = _Build(partition)
        with self._lock:
            slots, self._build = self._slots(partition), build
        try:
            slots = np.random.default_rng(0).permutation(slots)[: count * TRAINED_ON]
            sample, filled = np.empty((len(slots), self.width), np.float32), 0
            for part, vectors in self._rows(slots, build):
                sample[filled : filled + len(part)] = vectors
                filled += len(part)
            if filled < count or (centroids := self._train(sample[:filled], count, stop)) is None:
                return False
            del sample
            lists = _Lists(self._faiss, centroids)
            with self._lock:
                slots, build.lists = self._slots(partition), lists
                build.touched.clear()
            for part, vectors in self._rows(slots, build):
                places = lists.place(vectors)
                if stop():
                    return False
                with self._lock:
                    still = self._untouched(part, build)
                    lists.put(part[still], vectors[still], places[still])
            with self._lock:
                if self._build is not build:
                    return False
                large, slots = self._large.get(partition), self._slots(partition)
                ids = large.ids if large else SortedIds(self._store.ids(slots), slots)
                self._large[partition] = _Large(lists, ids)
                self._small.pop(partition, None)
                self._build = None  # in the same moment: else what is added now would go into these lists twice
            del large  # the old lists take a moment to free
            return True
        finally:
            with self._lock:
                self._build = None

    def _rows(self, slots: np.ndarray, build: _Build) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(slots, vectors) of those that still are what they were when the build began to look; none after a drop."""
        for at in range(0, len(slots), STEP):
            with self._lock:
                part = slots[at : at + STEP]
                part = part[self._untouched(part, build)]
                packed = self._store.read(part)
            yield part, unpack(packed)

    def _untouched(self, slots: np.ndarray, build: _Build) -> np.ndarray:
        """Which of them, bool [slots]."""
        return np.array([self._build is build and slot not in build.touched for slot in slots.tolist()], bool)

    def _train(self, sample: np.ndarray, count: int, stop: Stop) -> np.ndarray | None:
        """Centroids by spherical k-means, float32 [count, width]; None when stopped."""
        self._faiss.omp_set_num_threads(1)
        means = self._faiss.Clustering(self.width, count)
        means.niter, means.spherical, means.min_points_per_centroid, means.max_points_per_centroid = 1, True, 1, 1 << 24
        for _ in range(ROUNDS):  # each goes on from the centroids of the one before
            if stop():
                return None
            means.train(sample, self._faiss.IndexFlatIP(self.width))
        return self._faiss.vector_to_array(means.centroids).reshape(count, self.width)

    # -- files -------------------------------------------------------------------------------------------------------

    def save(self, folder: Path, stamp: str) -> None:
        """Write `FILE` into a folder, whole or not at all. Raises StorageFailed or PermissionDenied.

        stamp: names the state of the rows in SQLite and is taken before this is called. A change made while this runs may
        be in the file or not, so whoever loads it must repeat what changed after the stamp, or not use it at all.
        """
        with self._upkeep:
            write_arrays(folder / FILE, self._records(stamp))

    def _records(self, stamp: str) -> Iterator[np.ndarray]:
        """What is in the file. Each part is copied under the lock and is right in itself."""
        about = {"format": MAGIC, "version": VERSION, "width": self.width, "stamp": stamp}
        yield np.frombuffer(json.dumps(about).encode(), np.uint8)
        with self._lock:
            names, large = iter(list(self._small)), {name: each.lists for name, each in self._large.items()}
        while True:
            keys, counts, slots = [], [], array("i")
            with self._lock:
                while len(slots) < 4 * STEP and (name := next(names, None)) is not None:
                    if held := self._small.get(name):
                        keys.append(name)
                        counts.append(len(held))
                        slots.extend(held)
                where = np.array(slots, np.int32)
                copies = self._store.ids(where), *self._store.read(where)
            if not keys:
                break
            yield np.array([SMALL])
            yield np.array([[len(key) for key in keys], counts])
            yield np.frombuffer(b"".join(keys), np.uint8)
            yield from copies
        for name, lists in large.items():
            yield np.array([LARGE])
            yield from (np.frombuffer(name, np.uint8), lists.centroids)
            for first, end in lists.groups():
                with self._lock:
                    sizes, where, codes = lists.read(first, end)
                    copies = sizes, codes, self._store.ids(where), *self._store.read(where)
                yield np.array([LISTS, first])
                yield from copies

    def load(self, folder: Path) -> str | None:
        """Replace everything by what `save` wrote; returns its stamp. None, and nothing changed, if that cannot be used:
        there is no file, it is damaged, or it was written for another width or by another version."""
        with self._upkeep:
            try:
                with read_arrays(folder / FILE) as arrays:
                    about = json.loads(next(arrays).tobytes())
                    if (about["format"], about["version"], about["width"]) != (MAGIC, VERSION, self.width):
                        return None
                    store, small, large = self._read(arrays)
            except (OSError, ValueError, LookupError, TypeError, StopIteration, RuntimeError, MemoryError):
                return None
            with self._lock:
                self._store, self._small, self._large = store, small, large
                self._due = {name for name in [*small, *large] if self._wanted(name) is not None}
            return about["stamp"]

    def _read(self, arrays: Iterator[np.ndarray]) -> tuple[VectorStore, dict[bytes, array], dict[bytes, _Large]]:
        store, small, large = VectorStore(self.width), dict[bytes, array](), dict[bytes, _Large]()
        filling: dict[bytes, tuple[_Lists, list[np.ndarray]]] = {}
        for kind, *first in arrays:
            if kind == SMALL:
                (lengths, counts), keys, at, end = next(arrays).tolist(), next(arrays).tobytes(), 0, 0
                slots = array("i", store.put(next(arrays), Packed(*islice(arrays, 3))).tobytes())
                for length, count in zip(lengths, counts, strict=True):
                    small[keys[at : at + length]] = slots[end : end + count]
                    at, end = at + length, end + count
            elif kind == LARGE:
                name = next(arrays).tobytes()
                lists, held = filling[name] = _Lists(self._faiss, next(arrays)), [np.zeros(0, np.int32)]
            else:
                sizes, codes = next(arrays), next(arrays)
                held.append(store.put(next(arrays), Packed(*islice(arrays, 3))))
                lists.restore(int(first[0]), sizes, held[-1], codes)
        for name, (lists, held) in filling.items():
            lists.restored()
            slots = np.concatenate(held)
            _, which, times = np.unique(store.ids(slots), return_inverse=True, return_counts=True)
            twice = times[which] > 1  # went from one list to another while `save` ran: changed after its stamp
            lists.remove(slots[twice])
            large[name] = _Large(lists, SortedIds(store.ids(slots[~twice]), slots[~twice]))
            store.release(slots[twice])
        return store, small, large

    # -- input -------------------------------------------------------------------------------------------------------

    def _ids(self, partition: bytes, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        _check_name(partition)
        numbers = np.asarray(ids)
        if numbers.ndim != 1 or (numbers.size and (numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >> 63)):
            raise InvalidRequest("The ids of entries are a row of whole numbers from 0 on.")
        return numbers.astype(np.int64)

    def _vectors(self, vectors: np.ndarray) -> np.ndarray:
        rows = np.asarray(vectors)
        if rows.ndim != 2 or rows.shape[1] != self.width or rows.dtype.kind != "f":
            raise InvalidRequest(f"Vectors of {rows.dtype} {list(rows.shape)} came; needed are floats, {self.width} for each entry.")
        rows = np.ascontiguousarray(rows, np.float32)
        if not np.all(np.abs(np.einsum("ij,ij->i", rows, rows) - 1) < 0.02):  # not-a-number fails this as well
            raise InvalidRequest("A vector is not of length 1.", remedy="Divide each by its length; one of zeros cannot be stored.")
        return rows


def _check_name(partition: bytes) -> None:
    if not isinstance(partition, bytes):
        raise InvalidRequest(f"A partition is named by bytes, not by {type(partition).__name__}.")


def _lists_for(entries: int) -> int:
    """A power of two near 4 * sqrt(entries), so it doubles whenever the entries are four times as many."""
    return min(MOST_LISTS, entries, 1 << (math.isqrt(16 * entries).bit_length() - 1))
