"""The vector index: nothing is found in another partition, nothing is lost while it is rebuilt, no bad file is loaded."""

from __future__ import annotations

import hashlib
import threading
import time
import tracemalloc
from array import array

import numpy as np
import pytest
from fakes import python
from hypothesis import given
from hypothesis import strategies as st

from appliance.cache import array_file, index
from appliance.cache.index import FILE, Index
from appliance.cache.vector_store import pack
from appliance.errors import InvalidRequest, StorageFailed

WIDTH = 24
FLAT = 40
ROUNDED = 0.002  # what ten bits may change a cosine by at this width


def unit(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(count: int, *, ticks: bool = True, partition: bytes = b"p", **how) -> tuple[Index, np.ndarray]:
    """An index with vectors 0, 1, 2 ... under the ids 0, 10, 20 ..."""
    made, vectors = Index(WIDTH, flat_up_to=how.pop("flat_up_to", FLAT)), unit(count)
    made.add(partition, 10 * np.arange(count), vectors)
    while ticks and made.tick():
        pass
    return made, vectors


def nearest(vectors: np.ndarray, query: np.ndarray, k: int) -> list[tuple[int, float]]:
    scores = vectors @ query
    return [(int(10 * at), float(scores[at])) for at in np.argsort(-scores)[:k]]


def same(found: list[tuple[int, float]], exact: list[tuple[int, float]]) -> None:
    """Equal but for what rounding does: the scores, and the order of those that are as near."""
    assert [score for _, score in found] == pytest.approx([score for _, score in exact], abs=ROUNDED)
    firmly = {name for name, score in exact if score > exact[-1][1] + 2 * ROUNDED}
    assert firmly <= {name for name, _ in found}
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def is_large(made: Index, partition: bytes = b"p") -> bool:
    return partition in made._large


def look_at_every_list(made: Index) -> None:
    made._large[b"p"].lists._index.nprobe = made._large[b"p"].lists.count


@pytest.mark.parametrize("count", [1, 7, FLAT, 200])
def test_the_nearest_are_those_that_brute_force_finds(count):
    made, vectors = filled(count)
    assert is_large(made) == (count > FLAT)
    for query in unit(20, seed=1):
        same(made.search(b"p", query, 5), nearest(vectors, query, 5))


@pytest.mark.parametrize("count", [10, 100])
def test_a_stored_question_finds_itself(count):
    made, vectors = filled(count)
    for at, vector in enumerate(vectors):
        [(name, score)] = made.search(b"p", vector, 1)
        assert (name, score) == (10 * at, pytest.approx(1, abs=ROUNDED)) and score <= 1


@pytest.mark.parametrize("count", [10, 100])
def test_more_than_there_are_gives_all(count):
    made, vectors = filled(count)
    assert {name for name, _ in made.search(b"p", vectors[0], 10**9)} == set(range(0, 10 * count, 10))


def test_an_empty_index_and_an_unknown_partition_find_nothing():
    made, vectors = filled(3)
    assert made.search(b"other", vectors[0], 5) == [] and Index(WIDTH).search(b"", vectors[0], 5) == []
    assert len(Index(WIDTH)) == 0 and Index(WIDTH).partitions() == {} and not Index(WIDTH).tick()
    made.add(b"none", [], np.zeros((0, WIDTH), np.float32))
    assert made.remove(b"other", [1]) == 0 and made.remove(b"p", []) == 0
    assert made.partitions() == {b"p": 3}


@pytest.mark.parametrize("count", [10, 100])
def test_a_known_id_is_replaced(count):
    made, vectors = filled(count)
    [new] = unit(1, seed=9)
    made.add(b"p", [30], new[None])
    assert len(made) == count
    assert made.search(b"p", new, 1)[0] == (30, pytest.approx(1, abs=ROUNDED))
    assert made.search(b"p", vectors[3], 1)[0][1] < 0.99
    assert sorted(name for name, _ in made.search(b"p", new, count)) == list(range(0, 10 * count, 10))


@pytest.mark.parametrize("count", [10, 100])
def test_of_an_id_that_comes_twice_in_one_call_the_last_stays(count):
    made, _ = filled(count)
    first, second = unit(2, seed=9)
    made.add(b"p", [7, 7], np.stack([first, second]))
    assert len(made) == count + 1 and made.search(b"p", second, 1)[0] == (7, pytest.approx(1, abs=ROUNDED))


@pytest.mark.parametrize("count", [10, 100])
def test_what_is_removed_is_not_found(count):
    made, vectors = filled(count)
    assert made.remove(b"p", [0, 10, 10, 5, 90]) == 3 and made.remove(b"p", [0]) == 0
    assert len(made) == count - 3 and made.partitions() == {b"p": count - 3}
    assert not {0, 10, 90} & {name for name, _ in made.search(b"p", vectors[0], count)}
    made.drop(b"p")
    made.drop(b"p")
    assert (len(made), made.partitions(), made.search(b"p", vectors[0], 1)) == (0, {}, [])


def test_a_partition_that_shrinks_becomes_small_again_and_gives_its_memory_back():
    made, vectors = filled(500)
    large = made.bytes()
    made.remove(b"p", range(100, 5000, 10))
    assert made.tick() and not made.tick() and not is_large(made)
    same(made.search(b"p", vectors[4], 3), nearest(vectors[:10], vectors[4], 3))
    made.remove(b"p", range(0, 100, 10))
    assert len(made) == 0 and made.bytes() < large / 10 and made.partitions() == {}


def test_a_large_partition_that_loses_all_its_entries_can_be_used_on():
    made, vectors = filled(100)
    assert made.remove(b"p", range(0, 1000, 10)) == 100 and made.search(b"p", vectors[0], 3) == []
    made.add(b"p", [1], vectors[:1])
    assert made.tick() and made.search(b"p", vectors[0], 3) == [(1, pytest.approx(1, abs=ROUNDED))]


def test_as_a_partition_grows_its_lists_become_more():
    made, vectors = filled(FLAT + 1)
    before = made._large[b"p"].lists.count
    made.add(b"p", 10 * np.arange(2000), all_ := unit(2000, seed=3))
    assert made.tick() and not made.tick() and made._large[b"p"].lists.count > before
    assert len(made) == 2000
    hits = [made.search(b"p", vector, 1)[0][0] == 10 * at for at, vector in enumerate(all_)]
    assert np.mean(hits) > 0.98


actions = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "remove", "drop", "tick"]),
        st.sampled_from([b"", b"a", b"b"]),
        st.lists(st.integers(0, 30), max_size=25),
    ),
    max_size=25,
)


@given(actions)
def test_after_any_history_each_partition_holds_its_own_entries_and_no_others(history):
    made, model, seed = Index(WIDTH, flat_up_to=16), {}, 0
    for action, partition, ids in history:
        held = model.setdefault(partition, {})
        if action == "add":
            seed += 1
            vectors = unit(len(ids), seed)
            made.add(partition, ids, vectors)
            held.update(zip(ids, vectors, strict=True))
        elif action == "remove":
            assert made.remove(partition, ids) == len(set(ids) & held.keys())
            model[partition] = {name: vector for name, vector in held.items() if name not in ids}
        elif action == "drop":
            made.drop(partition)
            model[partition] = {}
        else:
            made.tick()
    assert {name: count for name, count in made.partitions().items() if count} == {n: len(h) for n, h in model.items() if h}
    assert len(made) == sum(map(len, model.values()))
    [query] = unit(1, seed=999)
    for partition, held in model.items():
        found = dict(made.search(partition, query, 1000))
        assert found.keys() == held.keys()
        for name, vector in held.items():
            assert found[name] == pytest.approx(float(vector @ query), abs=ROUNDED)


# -- while tick builds -------------------------------------------------------------------------------------------------


def test_tick_loses_nothing_that_is_added_replaced_removed_or_searched_meanwhile():
    made, vectors = filled(3000, ticks=False)
    done, failures, model = threading.Event(), [], {10 * at: vector for at, vector in enumerate(vectors)}

    def build() -> None:
        for start in range(3000, 24_000, 7000):
            made.tick()
            made.add(b"p", 10 * np.arange(start, start + 7000), unit(7000, seed=start))
        while made.tick():
            pass
        done.set()

    def look() -> None:
        while not done.is_set():
            [(name, score)] = made.search(b"p", vectors[2999], 1)
            if name != 29_990 or score < 0.99:
                failures.append((name, score))

    for start in range(3000, 24_000, 7000):
        model.update(zip((10 * np.arange(start, start + 7000)).tolist(), unit(7000, seed=start), strict=True))
    threads = [threading.Thread(target=work) for work in (build, look)]
    for thread in threads:
        thread.start()
    chance = np.random.default_rng(5)
    for turn in range(400):  # ids under 29,000 belong to this thread
        name = int(chance.integers(2900)) * 10
        if turn % 3:
            [model[name]] = vector = unit(1, seed=10_000 + turn)
            made.add(b"p", [name], vector)
            assert made.search(b"p", vector[0], 1)[0] == (name, pytest.approx(1, abs=ROUNDED))
        else:
            assert made.remove(b"p", [name]) == (model.pop(name, None) is not None)
    for thread in threads:
        thread.join()
    assert not failures and is_large(made) and len(made) == len(model)
    look_at_every_list(made)
    [query] = unit(1, seed=77)
    found = dict(made.search(b"p", query, len(model)))
    assert found.keys() == model.keys()
    for name, vector in model.items():
        assert found[name] == pytest.approx(float(vector @ query), abs=ROUNDED)


@pytest.mark.parametrize("again", [False, True])
def test_a_partition_dropped_while_it_is_built_stays_dropped(again):
    made, vectors = filled(500, ticks=False)
    asked = []

    def stop() -> bool:
        if made._build and not asked:
            asked.append(True)
            made.drop(b"p")
            if again:
                made.add(b"p", [7], vectors[:1])
        return False

    assert not made.tick(stop)
    assert asked and made.partitions() == ({b"p": 1} if again else {})
    assert made.search(b"p", vectors[0], 5) == ([(7, pytest.approx(1, abs=ROUNDED))] if again else [])


@pytest.mark.parametrize("after", [0, 3, 11])
def test_a_tick_that_is_stopped_is_done_by_a_later_one(after):
    made, vectors = filled(3000, ticks=False)
    asked = iter(range(100))
    assert not made.tick(lambda: next(asked) >= after) and not is_large(made) and made._build is None
    assert made.search(b"p", vectors[5], 1)[0][0] == 50
    assert made.tick() and is_large(made) and made.search(b"p", vectors[5], 1)[0][0] == 50


ONE_THREAD = """
import threading, numpy as np, psutil
from appliance.cache.index import Index
rows = np.random.default_rng(0).standard_normal((6000, 64)).astype(np.float32)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
before, after = psutil.Process().num_threads(), []
def work():
    made = Index(64, flat_up_to=500)
    for start in range(0, 6000, 2000):
        made.add(b"p", range(start, start + 2000), rows[start:start + 2000])
        made.tick()
    made.search(b"p", rows[0], 10)
    after.append(psutil.Process().num_threads() - 1)
for _ in range(2):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(before, *after)
"""


def test_faiss_stays_on_the_thread_that_calls_it():
    before, *after = map(int, python(ONE_THREAD, OMP_NUM_THREADS="4", OPENBLAS_NUM_THREADS="1").split())
    assert after == [before, before]


# -- memory ------------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_partitions_with_one_entry_are_small():
    count, made, [vector] = 100_000, Index(WIDTH), unit(1)
    tracemalloc.start()
    try:
        names = [hashlib.sha256(b"%d" % at).digest() for at in range(count)]
        for at, slot in enumerate(made._store.put(np.arange(count), pack(np.repeat(vector[None], count, axis=0))).tolist()):
            made._small[names[at]] = array("i", [slot])
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(made) == len(made.partitions()) == count
    assert used < count * (1.25 * WIDTH + 320) and made.bytes() == pytest.approx(used, rel=0.3)
    began = time.thread_time()
    for at in range(0, count, 200):
        made.add(names[at], [at + count], vector[None])
        assert made.search(names[at], vector, 10) == [(at, pytest.approx(1, abs=ROUNDED)), (at + count, pytest.approx(1, abs=ROUNDED))]
        assert made.remove(names[at], [at]) == 1
    assert time.thread_time() - began < 2
    assert len(made) == count and made.bytes() < count * (1.25 * WIDTH + 320)


# -- files -------------------------------------------------------------------------------------------------------------


def stocked() -> tuple[Index, np.ndarray]:
    """With large and small partitions, one of them with an empty name."""
    made, vectors = filled(300)
    for at in range(20):
        made.add(b"k%d" % at if at else b"", range(at + 1), vectors[: at + 1])
    return made, vectors


def test_what_was_saved_is_loaded(tmp_path):
    made, vectors = stocked()
    made.save(tmp_path, "first")
    made.add(b"p", [5], unit(1, seed=6))
    made.save(tmp_path, "stamp \u00fc")
    other = Index(WIDTH, flat_up_to=FLAT)
    other.add(b"gone", [1], vectors[:1])
    assert other.load(tmp_path) == "stamp \u00fc"
    assert other.partitions() == made.partitions() and len(other) == len(made) and is_large(other)
    for partition in (b"p", b"", b"k7", b"gone"):
        for query in vectors[:5]:
            assert other.search(partition, query, 7) == made.search(partition, query, 7)
    assert [path.name for path in tmp_path.iterdir()] == [FILE] and (tmp_path / FILE).stat().st_mode & 0o077 == 0
    assert other.remove(b"p", [0, 10, 99]) == 2
    other.add(b"p", [20], unit(1, seed=8))
    assert other.search(b"p", unit(1, seed=8)[0], 1)[0][0] == 20 and other.partitions()[b"p"] == 299


def test_a_loaded_index_builds_what_is_due(tmp_path):
    filled(300, ticks=False)[0].save(tmp_path, "s")
    other = Index(WIDTH, flat_up_to=FLAT)
    assert other.load(tmp_path) == "s" and not is_large(other) and other.tick() and is_large(other)


def test_an_empty_index_is_saved_too(tmp_path):
    Index(WIDTH).save(tmp_path, "nothing")
    made, _ = stocked()
    assert made.load(tmp_path) == "nothing" and len(made) == 0


def test_a_file_that_is_damaged_anywhere_is_not_loaded_and_changes_nothing(tmp_path):
    made, vectors = stocked()
    made.save(tmp_path, "s")
    whole = (tmp_path / FILE).read_bytes()
    chance = np.random.default_rng(0)
    other = Index(WIDTH, flat_up_to=FLAT)
    other.add(b"mine", [4], vectors[:1])
    for at in [0, 6, 60, 130, len(whole) - 1, len(whole) - 33, *chance.integers(len(whole), size=40).tolist()]:
        (tmp_path / FILE).write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert other.load(tmp_path) is None
    for length in [0, 1, 31, 32, 33, 200, len(whole) // 2, len(whole) - 1]:
        (tmp_path / FILE).write_bytes(whole[:length])
        assert other.load(tmp_path) is None
    (tmp_path / FILE).write_bytes(whole + b"x")
    assert other.load(tmp_path) is None and other.load(tmp_path / "missing") is None
    (tmp_path / FILE).unlink()
    assert other.load(tmp_path) is None
    (tmp_path / FILE).mkdir()
    assert other.load(tmp_path) is None
    assert other.partitions() == {b"mine": 1} and other.search(b"mine", vectors[0], 2)[0][0] == 4


def test_a_file_of_another_version_or_width_or_content_is_not_loaded(tmp_path, monkeypatch):
    made, _ = stocked()
    made.save(tmp_path, "s")
    assert Index(WIDTH + 1).load(tmp_path) is None
    with monkeypatch.context() as patch:
        patch.setattr(index, "VERSION", index.VERSION + 1)
        assert made.load(tmp_path) is None
    assert made.load(tmp_path) == "s"
    for arrays in ([], [np.zeros(3)], [np.frombuffer(b"[1]", np.uint8)], [np.frombuffer(b"{}", np.uint8)]):
        array_file.write_arrays(tmp_path / FILE, arrays)
        assert made.load(tmp_path) is None
    with array_file.read_arrays(tmp_path / FILE) as arrays:
        assert [each.tobytes() for each in arrays] == [b"{}"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    made, vectors = stocked()
    made.save(tmp_path, "old")
    count, write = iter(range(100)), np.lib.format.write_array

    def full(*args, **kwargs) -> None:
        if next(count) > 5:
            raise OSError(28, "No space left on device")
        write(*args, **kwargs)

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(StorageFailed, match="the disk is full"):
        made.save(tmp_path, "new")
    with pytest.raises(StorageFailed, match="No such file"):
        made.save(tmp_path / "nowhere", "new")
    assert [path.name for path in tmp_path.iterdir()] == [FILE] and made.load(tmp_path) == "old"
    assert made.search(b"p", vectors[0], 1)[0][0] == 0


def test_others_go_on_while_it_is_saved_and_each_unchanged_entry_is_in_the_file_once(tmp_path):
    made, vectors = stocked()
    records = made._records("s")

    def changing():
        for turn, each in enumerate(records):
            made.add(b"p", [10 * (turn % 50)], unit(1, seed=turn))  # goes to another list than it was in
            made.remove(b"k9", [turn % 3])
            made.add(b"new%d" % turn, [turn], vectors[:1])
            yield each

    made._records = lambda stamp: changing()
    made.save(tmp_path, "s")
    other = Index(WIDTH, flat_up_to=FLAT)
    assert other.load(tmp_path) == "s"
    look_at_every_list(other)
    names = [name for name, _ in other.search(b"p", vectors[0], 1000)]
    assert len(set(names)) == len(names) and set(range(500, 3000, 10)) <= set(names) <= set(range(0, 3000, 10))
    assert {3, 4, 5, 6, 7, 8, 9} <= {name for name, _ in other.search(b"k9", vectors[0], 50)}
    assert other.partitions()[b"k19"] == 20


# -- input -------------------------------------------------------------------------------------------------------------

GOOD = unit(2)


@pytest.mark.parametrize(
    ("ids", "vectors", "words"),
    [
        ([1], GOOD, "1 ids came with 2 vectors"),
        ([1, 2], GOOD[:, :-1], r"\[2, 23\] came; needed are floats, 24"),
        ([1, 2], GOOD[0], r"\[24\] came"),
        ([1, 2], GOOD.astype(np.int32), "int32"),
        ([1, 2], GOOD * 1.1, "length 1"),
        ([1, 2], GOOD * 0, "length 1"),
        ([1, 2], np.where(GOOD == GOOD[1, 3], np.nan, GOOD), "length 1"),
        ([1, 2], np.where(GOOD == GOOD[1, 3], np.inf, GOOD), "length 1"),
        ([1, -2], GOOD, "whole numbers from 0 on"),
        ([1.5, 2], GOOD, "whole numbers"),
        ([[1, 2]], GOOD, "whole numbers"),
        (["a", "b"], GOOD, "whole numbers"),
        ([1, 2**70], GOOD, "whole numbers"),
        ([1, 2**63], GOOD, "whole numbers"),
    ],
)
def test_what_cannot_be_stored_is_refused_in_words_and_changes_nothing(ids, vectors, words):
    made, _ = filled(3)
    with pytest.raises(InvalidRequest, match=words):
        made.add(b"p", ids, vectors)
    assert len(made) == 3


def test_what_cannot_be_searched_or_removed_is_refused_in_words():
    made, vectors = filled(3)
    with pytest.raises(InvalidRequest, match="0 nearest"):
        made.search(b"p", vectors[0], 0)
    with pytest.raises(InvalidRequest, match="23"):
        made.search(b"p", vectors[0][:-1], 1)
    with pytest.raises(InvalidRequest, match="named by bytes, not by str"):
        made.search("p", vectors[0], 1)
    with pytest.raises(InvalidRequest, match="whole numbers"):
        made.remove(b"p", [-1])
    with pytest.raises(InvalidRequest, match="both are at least 1"):
        Index(0)
    with pytest.raises(InvalidRequest, match="both are at least 1"):
        Index(flat_up_to=0)


class Watching:
    """The index's lock, which looks at the partition whenever it is let go: what somebody adds then goes to each of its forms."""

    def __init__(self, index: Index) -> None:
        self._index, self._lock, self.most, self.twice = index, index._lock, 0, False

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        forms = self._index._lists(b"p")
        self.most = max(self.most, len(forms))
        self.twice |= len({id(form) for form in forms}) < len(forms)
        self._lock.release()


def test_nothing_is_ever_put_twice_into_the_same_lists():
    made, _ = filled(3000)
    made._lock = watching = Watching(made)
    made.add(b"p", 10 * np.arange(3000, 20_000), unit(17_000, seed=3))
    while made.tick():
        pass
    assert watching.most == 2 and not watching.twice
