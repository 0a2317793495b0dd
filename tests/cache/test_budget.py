"""From judged hits to the threshold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cache.budget import Judged, interval, stand

PRIOR = {0.9: 0.004, 0.97: 0.002, 0.99: 0.0005, 0.999: 0.0001}


def test_wilsons_interval_is_that_of_the_books():
    low, high = interval(10, 100, z=1.96)  # Wilson 1927, as statsmodels' proportion_confint(10, 100, method="wilson") gives it
    assert low == pytest.approx(0.0552, abs=1e-4) and high == pytest.approx(0.1744, abs=1e-4)
    assert interval(0, 0) == (0.0, 1.0)


def test_without_any_hit_the_verifiers_own_figures_decide():
    found = stand([], PRIOR, 0.01)
    assert found.threshold == 0.97 and found.upper <= 0.01 and found.judged == 0
    assert stand([], PRIOR, 0.02).threshold == 0.9
    assert stand([], PRIOR, 0.001).threshold is None
    assert stand([], PRIOR, 0.0).threshold is None and stand([], {}, 0.5).threshold is None


def test_few_wrong_hits_at_tens_a_day_make_it_stricter():
    right = [Judged(0.98, False)] * 60
    assert stand(right, PRIOR, 0.01).threshold == 0.97
    assert stand([*right, *[Judged(0.975, True)] * 3], PRIOR, 0.01).threshold == 0.99
    assert stand([*right, *[Judged(0.9995, True)] * 5], PRIOR, 0.01).threshold is None


def test_many_right_ones_make_it_more_generous():
    assert stand([Judged(0.95, False)] * 2000, PRIOR, 0.01).threshold == 0.9


SCORES = st.sampled_from([0.5, 0.9, 0.95, 0.98, 0.995, 1.0])


@given(st.lists(st.builds(Judged, SCORES, st.booleans()), max_size=200), st.sampled_from([0.0, 0.005, 0.01, 0.05]))
def test_what_is_in_force_is_always_inside_the_budget_and_one_more_wrong_hit_never_loosens_it(hits, budget):
    found = stand(hits, PRIOR, budget)
    assert found.threshold is None or found.upper <= budget
    worse = stand([*hits, Judged(1.0, True)], PRIOR, budget)
    assert worse.threshold is None or (found.threshold is not None and worse.threshold >= found.threshold)
