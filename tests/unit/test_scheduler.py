"""The scheduler: streams first, prompts in chunks, the youngest gives way, and everybody ends."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.scheduler import ALONE_FACTOR, MIN_CHUNK_TOKENS, Pace, Plan, Work, plan_step

WORK = st.lists(
    st.builds(
        lambda todo, held, every: (todo, held, every),
        st.sampled_from([0, 0, 1, 5, 40, 300]),
        st.integers(0, 60),
        st.booleans(),
    ),
    max_size=8,
)


def works(rows: list[tuple[int, int, bool]], seed: int) -> list[Work]:
    arrivals = random.Random(seed).sample(range(100), len(rows))
    return [Work(f"s{n}", a, todo, held, every) for n, (a, (todo, held, every)) in enumerate(zip(arrivals, rows, strict=True))]


@given(WORK, st.integers(0, 99), st.integers(0, 60), st.integers(0, 60), st.integers(1, 64), st.integers(8, 40))
def test_a_plan_never_exceeds_budget_space_or_rows(rows, seed, free, cached, budget, max_rows):
    work = works(rows, seed)
    by_id = {w.id: w for w in work}
    plan = plan_step(work, free_tokens=free, cached_tokens=cached, budget_tokens=budget, max_rows=max_rows)
    chunks = dict(plan.chunks)
    space = free + cached + sum(by_id[i].held for i in plan.preempt)
    needed = len(plan.decode) + sum(chunks.values())
    assert needed <= space
    assert sum(chunks.values()) <= budget
    assert all(0 < size <= by_id[i].todo for i, size in chunks.items())
    assert len(plan.decode) + sum(size if by_id[i].every_row else 1 for i, size in chunks.items()) <= max_rows
    assert plan.evict_tokens == max(0, needed - free)
    assert len(set(plan.decode) | set(chunks) | set(plan.preempt)) == len(plan.decode) + len(chunks) + len(plan.preempt)


@given(WORK, st.integers(0, 99), st.integers(0, 60), st.integers(1, 64))
def test_every_stream_decodes_unless_it_is_preempted_and_the_oldest_always_moves(rows, seed, free, budget):
    work = works(rows, seed)
    plan = plan_step(work, free_tokens=free, cached_tokens=0, budget_tokens=budget)
    streams = [w.id for w in work if not w.todo and w.id not in plan.preempt]
    if len(work) - len(plan.preempt) > 1 or free:
        assert sorted(plan.decode) == sorted(streams)
        if work:
            oldest = min(work, key=lambda w: w.arrival)
            assert oldest.id in plan.decode or oldest.id in dict(plan.chunks)


@given(WORK, st.integers(0, 99), st.integers(0, 30))
def test_preemption_takes_the_youngest_and_no_more_than_needed(rows, seed, free):
    work = sorted(works(rows, seed), key=lambda w: w.arrival)
    plan = plan_step(work, free_tokens=free, cached_tokens=0, budget_tokens=64)
    count = len(plan.preempt)
    assert list(plan.preempt) == [w.id for w in reversed(work[len(work) - count :])]
    if count:
        left = work[: len(work) - count + 1]  # with the last victim still there
        space = free + sum(w.held for w in work[len(left) :])
        least = sum(1 for w in left if not w.todo) + any(w.todo for w in left)
        assert least > space, "the last victim was not needed"


def test_the_oldest_prompt_is_served_first_and_the_rest_share_what_is_left():
    work = [Work("new", 3, 100), Work("old", 1, 30), Work("stream", 2, 0)]
    plan = plan_step(work, free_tokens=1000, cached_tokens=0, budget_tokens=50)
    assert plan == Plan(("stream",), (("old", 30), ("new", 20)))


def test_cached_space_is_used_before_anybody_is_preempted():
    plan = plan_step([Work("a", 1, 0, 9), Work("b", 2, 0, 9)], free_tokens=0, cached_tokens=2, budget_tokens=16)
    assert plan == Plan(("a", "b"), evict_tokens=2)


def test_nothing_to_do_is_an_empty_plan():
    assert plan_step([], free_tokens=10, cached_tokens=0, budget_tokens=16).empty


def test_two_echoed_prompts_share_the_rows_of_one_step():
    work = [Work("a", 1, 100, every_row=True), Work("b", 2, 100, every_row=True), Work("c", 3, 0)]
    plan = plan_step(work, free_tokens=1000, cached_tokens=0, budget_tokens=512, max_rows=64)
    assert plan.decode == ("c",)
    assert sum(size for _, size in plan.chunks) == 63
    assert min(size for _, size in plan.chunks) >= 1


@given(WORK, st.integers(0, 99), st.integers(0, 300), st.integers(1, 200), st.sampled_from([1, 16, 64]))
def test_chunks_that_do_not_finish_their_prompt_are_whole_blocks_where_one_fits(rows, seed, free, budget, block):
    work = works(rows, seed)
    by_id = {w.id: w for w in work}
    plan = plan_step(work, free_tokens=free, cached_tokens=0, budget_tokens=budget, prompt_block=block)
    assert sum(size for _, size in plan.chunks) <= budget
    for request_id, size in plan.chunks:
        item = by_id[request_id]
        assert 0 < size <= item.todo
        assert item.every_row or size == item.todo or size < block or size % block == 0


@pytest.mark.parametrize(
    ("todo", "budget", "block", "sizes"),
    [
        (1500, 512, 64, [512, 512, 476]),
        (1500, 512, 1, [500, 500, 500]),
        (1000, 600, 64, [512, 488]),
        (300, 190, 64, [128, 172]),
        (130, 64, 64, [64, 64, 2]),
        (100, 40, 64, [34, 33, 33]),
        (64, 64, 64, [64]),
    ],
)
def test_a_prompt_is_cut_into_equal_chunks_of_whole_blocks(todo, budget, block, sizes):
    cut = []
    while todo:
        plan = plan_step([Work("a", 1, todo)], free_tokens=9999, cached_tokens=0, budget_tokens=budget, prompt_block=block)
        cut.append(dict(plan.chunks)["a"])
        todo -= cut[-1]
    assert cut == sizes


# -- pace ----------------------------------------------------------------------------------------------------------


@given(
    st.integers(8, 600),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 512), st.floats(0, 30)), max_size=20),
    st.integers(0, 8),
)
def test_a_budget_is_never_zero_and_never_over_the_batch(batch, steps, streaming):
    pace = Pace(0.2, batch)
    for decoded, prompt, seconds in steps:
        pace.learn(decoded, prompt, seconds)
    assert min(batch, MIN_CHUNK_TOKENS) <= pace.budget(streaming) <= batch


def test_a_step_beside_streams_lasts_about_the_stall_limit():
    pace = Pace(0.2, 4096)
    for _ in range(20):
        pace.learn(4, 0, 0.04)
        pace.learn(4, 128, 0.04 + 128 * 0.001)
    assert pace.budget(4) == pytest.approx(160, rel=0.05)
    assert pace.budget(0) == pytest.approx(200 * ALONE_FACTOR, rel=0.05)


def test_a_slower_engine_is_believed_faster_than_a_faster_one():
    slower, faster = Pace(0.2, 4096, 0.01, 0.001), Pace(0.2, 4096, 0.01, 0.001)
    slower.learn(0, 100, 0.2)
    faster.learn(0, 100, 0.05)
    assert slower.prompt_token_s == pytest.approx(0.0017)
    assert faster.prompt_token_s == pytest.approx(0.00085)


# -- a small world -------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(40, 120))
def test_with_an_overbooked_pool_and_random_arrivals_everybody_ends(seed, total):
    """A toy of the loop: no prefix is kept, a preempted sequence starts again from nothing."""
    rng = random.Random(seed)
    tokens: dict[str, int] = {}  # written
    goal: dict[str, int] = {}
    held: dict[str, int] = {}
    arrival: dict[str, int] = {}
    line: list[str] = []
    steps, born, done = 0, 0, 0
    while done < 25:
        steps += 1
        assert steps < 20_000, "nobody gets on"
        if born < 25 and rng.random() < 0.3:
            name, born = f"s{born}", born + 1
            tokens[name] = rng.randint(1, total // 2)
            goal[name] = min(total, tokens[name] + rng.randint(1, total // 2))
            arrival[name] = born
            line.append(name)
        used = sum(held.values())
        while line and len(held) < 6 and (not held or total - used > tokens[line[0]]):
            held[line.pop(0)] = 0
        work = [Work(n, arrival[n], (m := tokens[n] - h) * (m > 1), h) for n, h in held.items()]
        plan = plan_step(work, free_tokens=total - used, cached_tokens=0, budget_tokens=rng.choice([1, 16, 64]))
        assert held.keys() <= set() or not plan.empty, "work, but no plan"
        for name in plan.preempt:
            del held[name]
            line.insert(0, name)
        for name, size in [*((n, 1) for n in plan.decode), *plan.chunks]:
            held[name] += size
            if held[name] == tokens[name]:
                tokens[name] += 1
            if tokens[name] >= goal[name]:
                del held[name]
                done += 1
        assert sum(held.values()) <= total
