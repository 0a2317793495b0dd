"""Finds the stored questions that are nearest to a new one, inside one partition. Derived: the SQLite rows are the truth.

A partition holds the requests that may share answers. There are a few large ones and very many with one to three entries:
- small: rows of one shared store, 8 bits a component with a scale per row; a search looks at every row of the partition.
- large (over `flat_up_to` entries): faiss inverted lists of its own (IVF with an 8-bit scalar quantizer); a search looks at
  the PROBES nearest lists. `tick` builds this form, and builds it anew with more lists as the partition grows.
Measured beside HNSW, product quantization and RaBitQ by bench/cache_index.py.

Threads: any thread may call anything. One lock covers whatever is read and changed, so searches take one core at most; it is
held for some milliseconds, also while `tick` builds, `save` writes, and `add` stores many. What is in work between two such
moments (list numbers, training, files) is done outside of it. faiss runs on one thread: OpenMP keeps that number per calling
thread, so it is set in the calling thread before each use, and every faiss loop, with the BLAS in its wheel, obeys it.
Scores are cosines of vectors rounded to 8 bits: within 0.003 of the exact ones.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from appliance.cache.array_file import read_arrays, write_arrays
from appliance.cache.small_partitions import SmallPartitions, pack, unpack
from appliance.errors import InvalidRequest

FLAT_UP_TO = 4096  # 0.5 ms for all of them
PROBES = 32
MOST_LISTS = 2048  # enough for 1,000,000 entries; reached at 262,144, so that two forms at once never exceed one full one
TRAINED_ON = 32  # vectors a list
ROUNDS = 10  # of k-means; tick looks at `stop` between them
CUT_OFF = 1e-4  # of the components of a sample at the borders of what 8 bits can tell
STEP = 1024  # rows handled under one hold of the lock
HOLD = 4 * STEP  # rows copied under one hold of the lock
FILE, MAGIC, VERSION = "vectors.index", "appliance cache index", 1
SMALL, LARGE, LISTS = range(3)  # what follows in the file
ENTRY_BYTES = 80  # id, list growth and faiss's table of ids, per entry of a large partition; measured

Stop = Callable[[], bool]


class _Lists:
    """The large form of one partition. `place` and `decode` may be called at any time, the others under the lock."""

    def __init__(self, faiss: Any, centroids: np.ndarray, ranges: np.ndarray) -> None:
        """centroids: [lists, width]. ranges: lower bounds, then spans of the components (faiss's ScalarQuantizer.trained)."""
        count, width = centroids.shape
        self._faiss, self.centroids, self.ranges, self.lists = faiss, centroids, ranges, count
        coarse = faiss.IndexFlatIP(width)
        coarse.add(centroids)
        kind = faiss.ScalarQuantizer.QT_8bit
        self._index = faiss.IndexIVFScalarQuantizer(coarse, width, count, kind, faiss.METRIC_INNER_PRODUCT, False)
        faiss.copy_array_to_vector(ranges, self._index.sq.trained)
        self._index.is_trained = True
        self._index.nprobe = min(PROBES, count)
        self._index.set_direct_map_type(faiss.DirectMap.Hashtable)  # removes without looking through the lists
        self._coarse = coarse

    @property
    def entries(self) -> int:
        return self._index.ntotal

    def nbytes(self) -> int:
        return self.entries * (self._index.code_size + ENTRY_BYTES) + self.centroids.nbytes * 2

    def place(self, vectors: np.ndarray) -> np.ndarray:
        """The list of each vector."""
        self._faiss.omp_set_num_threads(1)
        return np.ascontiguousarray(self._coarse.search(vectors, 1)[1][:, 0])

    def put(self, ids: np.ndarray, vectors: np.ndarray, places: np.ndarray) -> None:
        """Add, or replace."""
        self.remove(ids)
        held = [np.ascontiguousarray(part) for part in (vectors, ids, places)]  # faiss gets bare pointers
        self._index.add_core(len(ids), *map(self._faiss.swig_ptr, held))

    def remove(self, ids: np.ndarray) -> int:
        self._faiss.omp_set_num_threads(1)
        return self._index.remove_ids(ids)

    def search(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(cosines, ids), best first."""
        self._faiss.omp_set_num_threads(1)
        scores, ids = self._index.search(vector[None], k)
        return scores[0][ids[0] >= 0], ids[0][ids[0] >= 0]

    def groups(self) -> Iterator[tuple[int, int]]:
        """(first list, list after the last) of pieces of about HOLD rows."""
        step = max(1, HOLD * self.lists // max(1, self.entries))
        return ((at, min(at + step, self.lists)) for at in range(0, self.lists, step))

    def read(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Copies of (sizes, ids, codes) of some lists."""
        store, width = self._index.invlists, self._index.code_size
        sizes = np.array([store.list_size(number) for number in range(first, end)], np.int32)
        ids, codes = np.empty(sizes.sum(), np.int64), np.empty((sizes.sum(), width), np.uint8)
        at = 0
        for number, size in zip(range(first, end), sizes.tolist(), strict=True):
            if size:
                ids[at : at + size] = self._faiss.rev_swig_ptr(store.get_ids(number), size)
                codes[at : at + size] = self._faiss.rev_swig_ptr(store.get_codes(number), size * width).reshape(size, width)
            at += size
        return sizes, ids, codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Vectors of codes that `read` gave."""
        self._faiss.omp_set_num_threads(1)
        return self._index.sq.decode(codes)

    def restore(self, first: int, sizes: np.ndarray, ids: np.ndarray, codes: np.ndarray) -> None:
        """Fill lists of a new form with what `read` gave; `restored` comes after the last."""
        pointer, at = self._faiss.swig_ptr, 0
        for number, size in enumerate(sizes.tolist(), first):
            if size:
                self._index.invlists.add_entries(number, size, pointer(ids[at:]), pointer(codes[at:]))
            at += size

    def restored(self) -> None:
        """Count, and find out where each id is."""
        index, store, view = self._index, self._index.invlists, self._faiss.rev_swig_ptr
        held = [view(store.get_ids(number), size) for number in range(self.lists) if (size := store.list_size(number))]
        ids, times = np.unique(np.concatenate([np.zeros(0, np.int64), *held]), return_counts=True)
        index.set_direct_map_type(self._faiss.DirectMap.NoMap)
        index.ntotal = int(times.sum())
        if len(twice := ids[times > 1]):  # went from one list to another while `save` ran: changed after its stamp
            index.remove_ids(self._faiss.IDSelectorBatch(twice))
        index.set_direct_map_type(self._faiss.DirectMap.Hashtable)


@dataclass
class _Build:
    """A large form in the making. Changes of its partition go to it as well, and it is told which ids they touched."""

    partition: bytes
    form: _Lists
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
        self._small = SmallPartitions(width)
        self._large: dict[bytes, _Lists] = {}
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
            part = numbers[at : at + STEP]
            with self._lock:
                form = self._large.get(partition)
                removed += self._small.remove(partition, part) if form is None else form.remove(part)
                if build := self._building(partition):
                    build.form.remove(part)
                    build.touched.update(part.tolist())
                self._note(partition)
        return removed

    def drop(self, partition: bytes) -> None:
        """Forget a whole partition."""
        with self._lock:
            self._due.discard(partition)
            form = self._large.pop(partition, None)
            self._small.drop(partition)
            if self._building(partition):
                self._build = None
        del form  # large ones take a moment to free: not under the lock

    def search(self, partition: bytes, vector: np.ndarray, k: int) -> list[tuple[int, float]]:
        """The k nearest entries of this partition, or all when it has fewer: (id, cosine), best first.

        vector: float32 [width] of length 1.  Raises InvalidRequest.
        """
        _check_name(partition)
        if k < 1:
            raise InvalidRequest(f"The {k} nearest entries cannot be found.", remedy="Ask for at least 1.")
        query = self._vectors(np.asarray(vector)[None])[0]
        with self._lock:
            if (form := self._large.get(partition)) is not None:
                scores, ids = form.search(query, max(1, min(k, form.entries)))
            else:
                scores, ids = self._small.search(partition, query, k)
        return list(zip(ids.tolist(), np.clip(scores, -1.0, 1.0).tolist(), strict=True))

    def __len__(self) -> int:
        with self._lock:
            return len(self._small) + sum(form.entries for form in self._large.values())

    def bytes(self) -> int:
        """Memory in use, in bytes, as far as it can be known (bench/cache_index.py compares it with the process's growth)."""
        with self._lock:
            forms = [*self._large.values(), *([self._build.form] if self._build else [])]
            return self._small.bytes() + sum(form.nbytes() for form in forms)

    def partitions(self) -> dict[bytes, int]:
        """Entries of each partition that has any."""
        with self._lock:
            counts = {name: self._small.count(name) for name in self._small.names()}
            return counts | {name: form.entries for name, form in self._large.items() if form.entries}

    # -- under the lock --------------------------------------------------------------------------------------------

    def _add(self, partition: bytes, ids: np.ndarray, vectors: np.ndarray) -> None:
        while True:
            with self._lock:
                forms, large = self._forms(partition), partition in self._large
            places = [form.place(vectors) for form in forms]
            packed = None if large else pack(ids, vectors)
            with self._lock:
                if forms != self._forms(partition):
                    continue  # exchanged meanwhile by tick: at most twice for each build
                for form, place in zip(forms, places, strict=True):
                    form.put(ids, vectors, place)
                if build := self._building(partition):
                    build.touched.update(ids.tolist())
                if packed and partition not in self._large:
                    self._small.put(partition, packed)
                self._note(partition)
                return

    def _building(self, partition: bytes) -> _Build | None:
        return self._build if self._build and self._build.partition == partition else None

    def _forms(self, partition: bytes) -> list[_Lists]:
        build = self._building(partition)
        return [form for form in (self._large.get(partition), build and build.form) if form is not None]

    def _note(self, partition: bytes) -> None:
        if self._wanted(partition) is not None:
            self._due.add(partition)

    def _wanted(self, partition: bytes) -> int | None:
        """How many lists the partition should be built with now, 0 for the small form, None when it is right as it is."""
        if (form := self._large.get(partition)) is not None:
            if form.entries <= self.flat_up_to // 2:
                return 0
            wanted = _lists_for(form.entries)
            return wanted if wanted > form.lists or wanted * 8 < form.lists else None
        count = self._small.count(partition)
        return _lists_for(count) if count > self.flat_up_to else None

    # -- what the background thread calls --------------------------------------------------------------------------

    def tick(self, stop: Stop = lambda: False) -> bool:
        """Bring one partition that has grown or shrunk into its right form; returns whether it did.

        Takes seconds for 100,000 entries and about a minute for 1,000,000, on one core; everybody else goes on meanwhile.
        stop: asked every few seconds at most; when it says yes the work is given up, and a later tick will do it.
        """
        with self._upkeep:
            with self._lock:
                partition, lists = next(((name, found) for name in self._due if (found := self._wanted(name)) is not None), (b"", None))
                if lists == 0:
                    self._to_small(partition)
            done = lists == 0 or bool(lists) and self._to_large(partition, lists, stop)
            with self._lock:
                self._due = {name for name in self._due if self._wanted(name) is not None}
            return done

    def _to_small(self, partition: bytes) -> None:
        form = self._large.pop(partition)
        if form.entries:
            _, ids, codes = form.read(0, form.lists)
            self._small.put(partition, pack(ids, form.decode(codes)))

    def _to_large(self, partition: bytes, lists: int, stop: Stop) -> bool:
        """False when stopped, or when the partition was dropped meanwhile."""
        sample = np.concatenate([np.zeros((0, self.width), np.float32), *self._sample(partition, lists * TRAINED_ON)])
        if len(sample) < lists or (centroids := self._train(sample, lists, stop)) is None:
            return False
        ranges = _ranges(sample, self._large.get(partition))
        del sample
        build = _Build(partition, _Lists(self._faiss, centroids, ranges))
        with self._lock:
            self._build = build
        try:
            for ids, vectors in self._copies(partition, build.touched):
                places = build.form.place(vectors)
                if stop():
                    return False
                with self._lock:
                    if self._build is not build:
                        return False
                    fresh = np.array([number not in build.touched for number in ids.tolist()], bool)
                    build.form.put(ids[fresh], vectors[fresh], places[fresh])
            with self._lock:
                if self._build is not build:
                    return False
                old = self._large.get(partition)
                self._large[partition] = build.form
                self._small.drop(partition)
            del old
            return True
        finally:
            with self._lock:
                self._build = None

    def _copies(self, partition: bytes, touched: set[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All (ids, vectors) of a partition. touched is emptied whenever a part is read: what it tells is what became of it."""
        with self._lock:
            form, packed = self._large.get(partition), self._small.read(partition)
            touched.clear()
        for at in range(0, len(packed[0]), STEP):
            part = tuple(each[at : at + STEP] for each in packed)
            yield part[0], unpack(part)
        for first, end in form.groups() if form else ():
            with self._lock:
                _, ids, packed = form.read(first, end)
                touched.clear()
            for at in range(0, len(ids), STEP):
                yield ids[at : at + STEP], form.decode(packed[at : at + STEP])

    def _sample(self, partition: bytes, count: int) -> Iterator[np.ndarray]:
        """About `count` vectors of a partition, chosen by chance."""
        chance = np.random.default_rng(0)
        with self._lock:
            form = self._large.get(partition)
            share = count / max(1, form.entries if form else self._small.count(partition))
        for ids, vectors in self._copies(partition, set()):
            yield vectors if share >= 1 else vectors[chance.random(len(ids)) < share]

    def _train(self, sample: np.ndarray, lists: int, stop: Stop) -> np.ndarray | None:
        """Centroids by spherical k-means, float32 [lists, width]; None when stopped."""
        self._faiss.omp_set_num_threads(1)
        means = self._faiss.Clustering(self.width, lists)
        means.niter, means.spherical, means.min_points_per_centroid, means.max_points_per_centroid = 1, True, 1, 1 << 24
        for _ in range(ROUNDS):  # each goes on from the centroids of the one before
            if stop():
                return None
            means.train(sample, self._faiss.IndexFlatIP(self.width))
        return self._faiss.vector_to_array(means.centroids).reshape(lists, self.width)

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
        yield _text({"format": MAGIC, "version": VERSION, "width": self.width, "stamp": stamp})
        with self._lock:
            names, large = self._small.names(), dict(self._large)
        rest = iter(names)
        while True:
            with self._lock:
                keys, counts, packed = self._small.read_some(rest, HOLD)
            if not keys:
                break
            yield np.array([SMALL])
            yield np.array([[len(key) for key in keys], counts])
            yield np.frombuffer(b"".join(keys), np.uint8)
            yield from packed
        for name, form in large.items():
            yield np.array([LARGE])
            yield from (np.frombuffer(name, np.uint8), form.centroids, form.ranges)
            for first, end in form.groups():
                with self._lock:
                    copies = form.read(first, end)
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
                    small, large = self._read(arrays)
            except (OSError, ValueError, LookupError, TypeError, StopIteration, RuntimeError, MemoryError):
                return None
            with self._lock:
                self._small, self._large = small, large
                self._due = {name for name in [*small.names(), *large] if self._wanted(name) is not None}
            return about["stamp"]

    def _read(self, arrays: Iterator[np.ndarray]) -> tuple[SmallPartitions, dict[bytes, _Lists]]:
        small, large = SmallPartitions(self.width), dict[bytes, _Lists]()
        for kind, *first in arrays:
            if kind == SMALL:
                (lengths, counts), keys = next(arrays).tolist(), next(arrays).tobytes()
                ends = np.cumsum(lengths).tolist()
                names = [keys[end - length : end] for end, length in zip(ends, lengths, strict=True)]
                small.put_many(names, counts, (next(arrays), next(arrays), next(arrays)))
            elif kind == LARGE:
                name, form = next(arrays).tobytes(), _Lists(self._faiss, next(arrays), next(arrays))
                large[name] = form
            else:
                form.restore(int(first[0]), next(arrays), next(arrays), next(arrays))
        for form in large.values():
            form.restored()
        return small, large

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


def _ranges(sample: np.ndarray, old: _Lists | None) -> np.ndarray:
    """Lower bounds and spans of the components. The old ones, so that nothing is rounded twice, unless too much was cut off."""
    if old:
        low, span = old.ranges.reshape(2, -1)
        if np.mean((sample < low + span / 255) | (sample > low + span - span / 255)) < CUT_OFF:
            return old.ranges
    low, high = sample.min(axis=0), sample.max(axis=0)
    margin = (high - low) / 10  # later ones may lie outside of what the sample shows
    return np.concatenate([low - margin, high - low + 2 * margin])


def _lists_for(entries: int) -> int:
    """A power of two near 4 * sqrt(entries), so it doubles whenever the entries are four times as many."""
    return min(MOST_LISTS, entries, 1 << (math.isqrt(16 * entries).bit_length() - 1))


def _text(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)

