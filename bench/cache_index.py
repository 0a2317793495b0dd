"""The answer cache's vector index: ours against faiss's other forms, by size.

    python -m bench.cache_index [--entries 1000 100000 1000000] [--compare 100000] [--json OUT.json]

Vectors: real MiniLM embeddings of ../shared/data/cache/question_pairs.jsonl.gz, mixed to as many as wanted: a question plus a
share of two others plus noise, so that near neighbours are as near, and as hard to find by lists, as among the real ones
(with 12,192 of each, the nearest list of 256 holds the nearest entry for 0.88 and 0.89 of the queries, the nearest 4 for 0.98).
Queries: the same mixtures of the paraphrases. Truth: all cosines in float32. Each row runs in a process of its own on one
thread. Ours grows from nothing in calls of 200 while a second thread calls tick and a third searches; the others are
trained and filled at once. "CPU" is the thread's own time and the only figure that other work on the machine leaves alone.
Memory is the process's growth, without the vectors it was given; "peak" that while ours grows. Prints a Markdown table.
"""

import argparse
import ctypes
import gc
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
import psutil

from appliance.cache.index import Index

ROOT = Path(__file__).resolve().parents[1]
WIDTH, QUERIES, PIECE, CALL = 384, 500, 5_000, 200
NOISE, LEAST, MOST = 0.15, 0.15, 0.6
OURS, TINY, EXACT = "ours", "ours, 1-3 each", "exact, float32"
PARTITION = b"p"
COLUMNS = {
    "entries": "{:,}", "form": "{}", "recall_1": "{:.3f}", "recall_5": "{:.3f}", "search_p50_ms": "{:.2f}", "search_p95_ms": "{:.2f}",
    "search_cpu_p95_ms": "{:.2f}", "build_s": "{:.1f}", "build_cpu_s": "{:.1f}", "add_p95_ms": "{:.2f}", "add_cpu_p95_ms": "{:.2f}",
    "remove_p95_ms": "{:.3f}", "remove_cpu_p95_ms": "{:.3f}", "memory_mb": "{:.0f}", "peak_mb": "{:.0f}", "says_mb": "{:.0f}",
    "save_s": "{:.2f}", "load_s": "{:.2f}", "longest_add_ms": "{:.0f}", "longest_search_ms": "{:.0f}",
}  # fmt: skip


# -- vectors -----------------------------------------------------------------------------------------------------


def embed(model: Path, path: Path, count: int) -> dict[str, np.ndarray]:
    """Vectors of the first questions of the pairs, and for each the number of a paraphrase or its own."""
    from appliance.factory.evaluate_onnx import Runner

    numbers: dict[str, int] = {}
    partner: dict[int, int] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            if len(numbers) >= count:
                break
            a, b = (numbers.setdefault(row[side], len(numbers)) for side in "ab")
            if row["same"]:
                partner |= {a: b, b: a}
    texts, runner = list(numbers), Runner(model, 1)
    vectors, order = np.zeros((len(texts), WIDTH), np.float32), sorted(range(len(texts)), key=lambda at: len(texts[at]))
    for at in range(0, len(order), 16):
        vectors[order[at : at + 16]] = runner.embed([texts[number] for number in order[at : at + 16]])
    return {"vectors": vectors, "partner": np.array([partner.get(number, number) for number in range(len(texts))])}


class Data:
    """`entries` mixed vectors, made again the same way whenever they are asked for, and queries with their true answers."""

    def __init__(self, path: Path, entries: int) -> None:
        with np.load(path) as real:
            self._real, self._partner = real["vectors"], real["partner"]
        self.entries = entries
        chance = np.random.default_rng(1)
        self._of = chance.integers(len(self._real), size=(entries, 3))
        second = chance.uniform(LEAST, MOST, (entries, 1))
        self._shares = np.hstack([np.ones((entries, 1)), second, second * chance.random((entries, 1))]).astype(np.float32)
        known = np.flatnonzero(self._partner[self._of[:, 0]] != self._of[:, 0])
        asked = np.random.default_rng(2).choice(known, min(QUERIES, len(known)), replace=False)
        self.queries = self._mix(self._partner[self._of[asked]], self._shares[asked], 3)

    def _mix(self, of: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
        mixed = np.einsum("nkw,nk->nw", self._real[of], shares)
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        mixed += NOISE / np.sqrt(WIDTH) * np.random.default_rng(seed).standard_normal(mixed.shape, dtype=np.float32)
        return np.ascontiguousarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True), np.float32)

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """(id of the first, vectors)."""
        for at in range(0, self.entries, PIECE):
            yield at, self._mix(self._of[at : at + PIECE], self._shares[at : at + PIECE], 1000 + at)

    def all(self) -> np.ndarray:
        """Every vector."""
        return np.concatenate([piece for _, piece in self.pieces()])

    def truth(self, k: int = 5) -> np.ndarray:
        """Ids of the k nearest of each query, by all cosines."""
        best = faiss.ResultHeap(len(self.queries), k, keep_max=True)
        for at, piece in self.pieces():
            scores, ids = faiss.knn(self.queries, piece, k, metric=faiss.METRIC_INNER_PRODUCT)
            best.add_result(scores, ids + at)
        best.finalize()
        return best.I


# -- measuring -----------------------------------------------------------------------------------------------------


def resident() -> float:
    """Memory of this process in MB, after what is free was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss / 1e6


def timed(calls: list[Callable[[], object]]) -> tuple[list, np.ndarray, np.ndarray]:
    """(results, milliseconds, milliseconds of this thread's CPU) of each call."""
    results, wall, cpu = [], [], []
    for call in calls:
        began, busy = time.perf_counter(), time.thread_time()
        results.append(call())
        wall.append(time.perf_counter() - began)
        cpu.append(time.thread_time() - busy)
    return results, 1e3 * np.array(wall), 1e3 * np.array(cpu)


def note(row: dict, name: str, wall: np.ndarray, cpu: np.ndarray) -> None:
    """p50 and p95."""
    row[f"{name}_p50_ms"], row[f"{name}_p95_ms"], row[f"{name}_cpu_p95_ms"] = *np.quantile(wall, [0.5, 0.95]).tolist(), float(np.quantile(cpu, 0.95))


def note_recall(row: dict, found: list[list[int]], truth: np.ndarray) -> None:
    """Of the nearest, and of the five nearest."""
    row["recall_1"] = float(np.mean([ids[:1] == want[:1].tolist() for ids, want in zip(found, truth, strict=True)]))
    row["recall_5"] = float(np.mean([len({*ids[:5]} & {*want.tolist()}) / len(want) for ids, want in zip(found, truth, strict=True)]))


def ours(data: Data, row: dict) -> None:
    """Grown from nothing, as a live cache is, but faster."""
    truth, before = data.truth(min(5, data.entries)), resident()
    made, grown, longest_add, longest_search, peak = Index(WIDTH), threading.Event(), [0.0], [0.0], [0.0]

    def upkeep() -> None:
        while not grown.is_set():
            if not made.tick():
                grown.wait(0.05)

    def look() -> None:
        while not grown.wait(0.02):
            began = time.perf_counter()
            made.search(PARTITION, data.queries[0], 10)
            longest_search.append(time.perf_counter() - began)
            peak.append(psutil.Process().memory_info().rss / 1e6 - before)

    threads = [threading.Thread(target=work) for work in (upkeep, look)]
    for thread in threads:
        thread.start()
    spent = busy = 0.0
    cpu = time.process_time()
    for at, piece in data.pieces():
        for first in range(0, len(piece), CALL):
            part = piece[first : first + CALL]
            began = time.perf_counter()
            made.add(PARTITION, np.arange(at + first, at + first + len(part)), part)
            longest_add.append(time.perf_counter() - began)
            spent += longest_add[-1]
        busy += time.process_time() - cpu
        print(f"bench: {at + len(piece):,} added, {spent:.0f} s, CPU of all threads {busy:.0f} s", file=sys.stderr, flush=True)
        cpu = time.process_time()
    grown.set()
    for thread in threads:
        thread.join()
    while made.tick():
        pass
    row["build_s"], row["build_cpu_s"] = spent, busy
    row["longest_add_ms"], row["longest_search_ms"] = 1e3 * max(longest_add), 1e3 * max(longest_search)
    del piece, part
    row["memory_mb"], row["peak_mb"], row["says_mb"] = resident() - before, max(peak), made.bytes() / 1e6
    found, *times = timed([lambda query=query: made.search(PARTITION, query, 10) for query in data.queries])
    note(row, "search", *times)
    note_recall(row, [[name for name, _ in each] for each in found], truth)
    new = np.ascontiguousarray(data.queries[:, None])
    note(row, "add", *timed([lambda at=at: made.add(PARTITION, [10**9 + at], new[at]) for at in range(len(new))])[1:])
    note(row, "remove", *timed([lambda at=at: made.remove(PARTITION, [10**9 + at]) for at in range(len(new))])[1:])
    save_and_load(made, row)


def save_and_load(made: Index, row: dict) -> None:
    """The last of it: the first index is gone before the second is made."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        made.save(Path(folder), "bench")
        row["save_s"] = time.perf_counter() - began
        other, began = Index(WIDTH), time.perf_counter()
        assert other.load(Path(folder)) == "bench" and len(other) == len(made)
        row["load_s"] = time.perf_counter() - began


def tiny(data: Data, row: dict) -> None:
    """Partitions of one to three entries each."""
    names = [hashlib.sha256(f"{at // 6} {(1, 2, 2, 3, 3, 3)[at % 6]}".encode()).digest() for at in range(data.entries)]
    before, made = resident(), Index(WIDTH)
    wall, cpu = [np.zeros(0)], [np.zeros(0)]
    for at, piece in data.pieces():
        calls = [lambda at=at, first=first, piece=piece: made.add(names[at + first], [at + first], piece[first : first + 1]) for first in range(len(piece))]
        _, *times = timed(calls)
        wall.append(times[0])
        cpu.append(times[1])
        del calls, piece
    row["build_s"], row["build_cpu_s"] = float(np.concatenate(wall).sum() / 1e3), float(np.concatenate(cpu).sum() / 1e3)
    note(row, "add", np.concatenate(wall), np.concatenate(cpu))
    row["partitions"] = len(made.partitions())
    row["memory_mb"], row["says_mb"] = resident() - before, made.bytes() / 1e6
    chosen = np.random.default_rng(0).choice(data.entries, min(QUERIES, data.entries), replace=False).tolist()
    note(row, "search", *timed([lambda at=at: made.search(names[at], data.queries[0], 10) for at in chosen])[1:])
    note(row, "remove", *timed([lambda at=at: made.remove(names[at], [at]) for at in chosen])[1:])
    save_and_load(made, row)


# -- the other forms -------------------------------------------------------------------------------------------------


def set_lists(made: faiss.Index, probes: int = 32, k_factor: int = 4) -> None:
    """How much of it a search looks at, and training that does not warn."""
    if isinstance(made, faiss.IndexRefine):
        made.k_factor, made = k_factor, faiss.downcast_index(made.base_index)
    made.nprobe, made.cp.niter, made.cp.max_points_per_centroid, made.cp.min_points_per_centroid = probes, 10, 32, 1


def hnsw(links: int) -> faiss.Index:
    """Its 8-bit form, with usual settings."""
    made = faiss.IndexHNSWSQ(WIDTH, faiss.ScalarQuantizer.QT_8bit, links, faiss.METRIC_INNER_PRODUCT)
    made.hnsw.efConstruction, made.hnsw.efSearch = 80, 64
    return made


def others(entries: int) -> dict[str, Callable[[], faiss.Index]]:
    """All but ours; lists by the same rule as ours. PQ with 8 bits is not here: like 4 bits, but 30 times as long to train."""
    lists = min(2048, 1 << (int(4 * entries**0.5).bit_length() - 1))

    def factory(text: str) -> Callable[[], faiss.Index]:
        def make() -> faiss.Index:
            made = faiss.index_factory(WIDTH, text, faiss.METRIC_INNER_PRODUCT)
            if text.startswith("IVF"):
                set_lists(made)
            return made

        return make

    names = [f"IVF{lists},{kind}" for kind in ("SQ8", "PQ96x4fs,Refine(SQ8)", "RaBitQ,Refine(SQ8)")]
    return {EXACT: lambda: faiss.IndexFlatIP(WIDTH), "SQ8": factory("SQ8"), **{name: factory(name) for name in names},
            "HNSW16,SQ8": lambda: hnsw(16), "HNSW32,SQ8": lambda: hnsw(32)}  # fmt: skip


def other(make: Callable[[], faiss.Index], data: Data, row: dict) -> None:
    """Trained and filled at once."""
    truth, vectors = data.truth(min(5, data.entries)), data.all()
    before, began, busy, made = resident(), time.perf_counter(), time.thread_time(), make()
    made.train(vectors[: max(65_536, len(vectors) // 10)])
    made.add(vectors)
    row["build_s"], row["build_cpu_s"] = time.perf_counter() - began, time.thread_time() - busy
    row["memory_mb"] = resident() - before
    found, *times = timed([lambda query=query: made.search(query[None], 10)[1][0].tolist() for query in data.queries])
    note(row, "search", *times)
    note_recall(row, found, truth)
    new = np.ascontiguousarray(data.queries[:, None])
    note(row, "add", *timed([lambda at=at: made.add(new[at]) for at in range(len(new))])[1:])
    try:
        note(row, "remove", *timed([lambda at=at: made.remove_ids(np.array([data.entries + at])) for at in reversed(range(len(new)))][:20])[1:])
    except RuntimeError:
        pass  # this form cannot forget
    with tempfile.TemporaryDirectory() as folder:
        faiss.write_index(made, str(Path(folder) / "index"))
        began = time.perf_counter()
        faiss.read_index(str(Path(folder) / "index"))
        row["load_s"] = time.perf_counter() - began


# -- all of it -------------------------------------------------------------------------------------------------------


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--entries", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    add("--tiny", type=int, default=300_000, help="entries in partitions of one to three (default %(default)s, 0 for none)")
    add("--compare", type=int, nargs="*", default=[100_000], help="numbers of --entries with the other forms as well (default 100000)")
    add("--pairs", type=Path, default=ROOT.parent / "shared/data/cache/question_pairs.jsonl.gz")
    add("--model", type=Path, default=ROOT / "models/minilm-l6-int8")
    add("--questions", type=int, default=23_000, help="real questions that are embedded and mixed (default %(default)s)")
    add("--vectors", type=Path, help="file that keeps their embeddings between runs")
    add("--json", type=Path, help="file for all figures")
    add("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not (args.vectors and args.vectors.exists()) and not args.pairs.exists():
        parser.error(f"no such file of question pairs: {args.pairs}")
    return args


def measure(form: str, entries: int, vectors: Path) -> dict:
    """One row, in this process."""
    faiss.omp_set_num_threads(1)
    data, row = Data(vectors, entries), {"entries": entries, "form": form}
    if form in (OURS, TINY):
        (ours if form == OURS else tiny)(data, row)
    else:
        other(others(entries)[form], data, row)
    return row


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(COLUMNS[name].format(row[name]) if name in row else "-" for name in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Run."""
    args = parse_args()
    if args.only:
        args.json.write_text(json.dumps(measure(args.only, args.entries[0], args.vectors)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        vectors = args.vectors or Path(scratch) / "vectors.npz"
        if not vectors.exists():
            with open(vectors, "wb") as file:
                np.savez(file, **embed(args.model, args.pairs, args.questions))
        jobs = [(form, entries) for entries in args.entries
                for form in (OURS, *(others(entries) if entries in args.compare else ()))]  # fmt: skip
        jobs += [(TINY, args.tiny)] if args.tiny else []
        rows = []
        for form, entries in jobs:
            print(f"bench: {entries:,} {form}", file=sys.stderr, flush=True)
            out = Path(scratch) / "row.json"
            command = [sys.executable, "-m", "bench.cache_index", "--only", form, "--entries", str(entries), "--vectors", str(vectors), "--json", str(out)]
            alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **alone})
            rows.append(json.loads(out.read_text()))
            if args.json:
                args.json.write_text(json.dumps({"rows": rows, "faiss": faiss.__version__, "load_average": os.getloadavg()}, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
