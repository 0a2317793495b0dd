"""Sampling against a slow and obvious reference written from llama.cpp's definitions (src/llama-sampler.cpp)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.sampling import Sampler, log_softmax_at, softmax, top_candidates
from appliance.errors import ApplianceError
from appliance.types import Sampling

OFF = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0)


def how(**changes) -> Sampling:
    from dataclasses import replace

    return replace(OFF, **changes)


def reference(logits: list[float], how: Sampling, history: list[int]) -> dict[int, float]:
    """Probability of each token that may be drawn, by llama.cpp's chain, one plain step after the other."""
    values = {token: float(np.float32(x)) for token, x in enumerate(logits)}
    for token, bias in how.logit_bias:
        values[token] += bias
    window = history if how.penalty_last_n < 0 else history[len(history) - min(len(history), how.penalty_last_n) :]
    for token in set(window):
        count = window.count(token)
        if values[token] <= 0:
            values[token] *= how.repeat_penalty
        else:
            values[token] /= how.repeat_penalty
        values[token] -= count * how.frequency_penalty + how.presence_penalty
    ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    if how.temperature <= 0:
        return {ranked[0][0]: 1.0}
    if how.top_k > 0:
        ranked = ranked[: how.top_k]
    if how.typical_p < 1:
        ranked = typical(ranked, how.typical_p)
    if how.top_p < 1:
        total, kept = 0.0, []
        for item, p in zip(ranked, shares(ranked), strict=True):
            kept.append(item)
            total += p
            if total >= how.top_p:
                break
        ranked = kept
    if how.min_p > 0:
        ranked = [item for item in ranked if item[1] >= ranked[0][1] + math.log(how.min_p)]
    final = shares([(token, value / how.temperature) for token, value in ranked])
    return {token: p for (token, _), p in zip(ranked, final, strict=True)}


def shares(ranked: list[tuple[int, float]]) -> list[float]:
    top = max(value for _, value in ranked)
    weights = [math.exp(value - top) for _, value in ranked]
    return [w / sum(weights) for w in weights]


def typical(ranked: list[tuple[int, float]], share: float) -> list[tuple[int, float]]:
    probabilities = shares(ranked)
    entropy = sum(-p * math.log(p) for p in probabilities if p > 0)
    distance = [abs((-math.log(p) if p > 0 else math.inf) - entropy) for p in probabilities]
    order = sorted(range(len(ranked)), key=lambda i: (distance[i], i))
    total, kept = 0.0, []
    for i in order:
        kept.append(i)
        total += probabilities[i]
        if total > share:
            break
    return [ranked[i] for i in sorted(kept)]


def drawn(logits: list[float], how: Sampling, history: list[int], draws: int) -> dict[int, int]:
    sampler = Sampler(how)
    for token in history:
        sampler.accept(token)
    found: dict[int, int] = {}
    for _ in range(draws):
        token = sampler.draw(np.array(logits, dtype=np.float32))
        found[token] = found.get(token, 0) + 1
    return found


def spread(size: int, seed: int = 0) -> list[float]:
    return [float(x) for x in np.random.default_rng(seed).normal(0, 2, size).astype(np.float32)]


def chi_square(found: dict[int, int], expected: dict[int, float], draws: int) -> float:
    return sum((found.get(t, 0) - p * draws) ** 2 / (p * draws) for t, p in expected.items())


CHAINS = [
    how(seed=1),
    how(seed=2, temperature=0.5),
    how(seed=3, temperature=1.7, top_k=5),
    how(seed=4, top_p=0.8),
    how(seed=5, min_p=0.1),
    how(seed=6, typical_p=0.6),
    how(seed=7, repeat_penalty=1.4, penalty_last_n=-1),
    how(seed=8, presence_penalty=0.8, frequency_penalty=0.4, penalty_last_n=6),
    how(seed=9, logit_bias=((3, 4.0), (0, -100.0), (3, -1.0))),
    how(seed=10, repeat_penalty=0.8, penalty_last_n=3, top_k=8, typical_p=0.9, top_p=0.9, min_p=0.02, temperature=0.9),
    Sampling(seed=11),
]
HISTORY = [1, 2, 2, 5, 7, 7, 7, 1, 0, 2, 9, 4]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda c: f"seed{c.seed}")
def test_draws_follow_the_reference_distribution(chain):
    logits, draws = spread(12, seed=chain.seed), 4000
    expected = reference(logits, chain, HISTORY)
    found = drawn(logits, chain, HISTORY, draws)
    assert set(found) <= set(expected), "a token that the filters exclude was drawn"
    likely = {t: p for t, p in expected.items() if p * draws >= 5}
    degrees = max(1, len(likely) - 1)
    assert chi_square(found, likely, draws) < degrees + 5 * math.sqrt(2 * degrees) + 5


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=30),
    st.builds(
        how,
        temperature=st.sampled_from([0.0, 0.3, 1.0, 1.5]),
        top_k=st.integers(0, 35),
        top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
        min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
        typical_p=st.sampled_from([0.2, 0.7, 1.0]),
        repeat_penalty=st.sampled_from([1.0, 1.3]),
        presence_penalty=st.sampled_from([0.0, -0.5, 1.0]),
        frequency_penalty=st.sampled_from([0.0, 0.5]),
        penalty_last_n=st.sampled_from([-1, 0, 1, 4, 64]),
        seed=st.integers(0, 5),
    ),
    st.lists(st.integers(0, 1), max_size=6),
)
def test_only_tokens_that_the_reference_allows_are_drawn(logits, chain, history):
    near = reference(logits, chain, history)
    # Rounding may move a token over a filter's edge: those within a hair of it are allowed too.
    loose = {}
    if chain.temperature > 0:
        for factor in (0.999, 1.001):
            from dataclasses import replace

            moved = replace(chain, top_p=chain.top_p and min(1.0, chain.top_p * factor), min_p=min(1.0, chain.min_p * factor),
                            typical_p=min(1.0, chain.typical_p * factor))  # fmt: skip
            loose |= reference(logits, moved, history)
    values = sorted(logits, reverse=True)
    ties = {t for t, x in enumerate(logits) if any(abs(x - y) < 1e-4 for y in values if y != x) or logits.count(x) > 1}
    assert set(drawn(logits, chain, history, 5)) <= set(near) | set(loose) | ties


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=50))
def test_temperature_zero_takes_the_largest_and_the_first_of_equals(logits):
    assert Sampler(how(temperature=0)).draw(np.array(logits, dtype=np.float32)) == int(np.argmax(np.float32(logits)))


def test_a_seed_gives_the_same_tokens_whatever_else_is_drawn_between():
    logits = spread(50)
    alone = Sampler(how(seed=42))
    first = [alone.draw(np.float32(logits)) for _ in range(30)]
    again, other = Sampler(how(seed=42)), Sampler(how(seed=7))
    second = []
    for _ in range(30):
        second.append(again.draw(np.float32(logits)))
        other.draw(np.float32(logits))
    assert first == second
    assert first != [other.draw(np.float32(logits)) for _ in range(30)]


@pytest.mark.parametrize("seed", [-1, -(1 << 70), 1 << 64, 1 << 200])
def test_any_whole_number_is_a_seed(seed):
    logits = spread(20)
    assert drawn(logits, how(seed=seed), [], 20) == drawn(logits, how(seed=seed), [], 20)


def test_without_a_seed_two_samplers_differ():
    logits = np.zeros(1000, dtype=np.float32)
    draws = [[Sampler(OFF).draw(logits.copy()) for _ in range(4)] for _ in range(2)]
    assert draws[0] != draws[1]


def test_penalties_forget_what_left_the_window():
    sampler = Sampler(how(temperature=0, presence_penalty=10.0, penalty_last_n=2))
    logits = [5.0, 4.0, 3.0]
    taken = []
    for _ in range(6):
        taken.append(sampler.draw(np.array(logits, dtype=np.float32)))
        sampler.accept(taken[-1])
    assert taken == [0, 1, 2, 0, 1, 2]


def test_the_prompt_counts_for_the_penalties():
    assert Sampler(how(temperature=0, repeat_penalty=2.0), [0, 0]).draw(np.array([3.0, 2.0], dtype=np.float32)) == 1


@pytest.mark.parametrize("row", [[math.nan, 1.0], [1.0, math.nan], [-math.inf] * 2, [1.0, math.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_a_largest_number_is_an_error_in_words(row, temperature):
    with pytest.raises(ApplianceError, match="NaN"):
        Sampler(how(temperature=temperature)).draw(np.array(row, dtype=np.float32))


def test_a_token_at_minus_infinity_is_never_drawn():
    logits = [0.0, -math.inf, 0.0, -math.inf]
    for chain in (OFF, how(typical_p=0.9), how(top_p=0.99), Sampling(seed=1)):
        assert set(drawn(logits, chain, [], 50)) == {0, 2}


# -- top_candidates ------------------------------------------------------------------------------------------------


def check_top(logits: np.ndarray, k: int) -> None:
    found = top_candidates(logits, k)
    size = logits.size
    if k <= 0 or k >= size:
        assert sorted(found) == list(range(size))
        return
    border = np.sort(logits)[::-1][k - 1]
    assert sorted(found) == sorted(np.flatnonzero(logits >= border)), "not exactly those at or above the k-th largest"
    assert len(set(found.tolist())) == found.size >= k


@given(
    st.integers(1, 1200),
    st.integers(0, 1300),
    st.sampled_from(["normal", "few values", "sorted", "equal", "infinite"]),
    st.integers(0, 3),
)
def test_top_candidates_are_exactly_numpys(size, k, kind, seed):
    random = np.random.default_rng(seed)
    logits = random.normal(size=size).astype(np.float32)
    if kind == "few values":
        logits = np.round(logits)
    elif kind == "sorted":
        logits = np.sort(logits)
    elif kind == "equal":
        logits[:] = 1.5
    elif kind == "infinite":
        logits[random.random(size) < 0.9] = -np.inf
    check_top(logits, k)


@pytest.mark.parametrize("k", [1, 2, 40, 100])
def test_top_candidates_are_exact_over_a_real_vocabulary(k):
    random = np.random.default_rng(k)
    logits = random.normal(size=32_003).astype(np.float32)
    logits[-1] = 99.0  # in the last, incomplete block
    check_top(logits, k)
    check_top(np.round(logits), k)


# -- probabilities -------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=300))
def test_log_probabilities_sum_to_one(logits):
    row = np.array(logits, dtype=np.float32)
    values = log_softmax_at(row, np.arange(row.size))
    assert math.fsum(np.exp(values)) == pytest.approx(1.0, abs=1e-4)
    assert softmax(row).sum() == pytest.approx(1.0)
    assert np.allclose(np.exp(values), softmax(row), atol=1e-5)


def test_large_logits_do_not_overflow():
    row = np.array([1e4, 1e4, -1e4], dtype=np.float32)
    assert log_softmax_at(row, np.array([0, 2])) == pytest.approx([-math.log(2), -2e4 - math.log(2)])
