"""The last hour in numbers."""

from __future__ import annotations

from appliance.history import EVERY_S, KEPT, History
from appliance.metrics import Metrics
from appliance.types import Finished, Usage


def test_a_sample_is_what_happened_since_the_one_before():
    metrics, time = Metrics(), [1000.0]
    history = History(metrics, now=lambda: time[0], cpu=lambda: 50.0)
    history.tick()
    for _ in range(2):
        metrics.first_token("m", 0.5)
        metrics.finished("m", Finished(0, "stop", Usage(5, 30)), 2.0, 1.5)
    metrics.count("appliance_cache_lookups_total", model="m", outcome="hit", tier="exact")
    metrics.count("appliance_cache_lookups_total", model="m", outcome="miss", tier="")
    time[0] += EVERY_S - 1
    history.tick()
    assert history.samples() == []
    time[0] += 1
    history.tick()
    [sample] = history.samples()
    assert (sample.tokens_per_s, sample.answers, sample.hits, sample.misses, sample.first_token_s, sample.cpu) == (6.0, 2, 1, 1, 0.5, 0.5)
    time[0] += EVERY_S
    history.tick()
    assert (history.samples()[-1].tokens_per_s, history.samples()[-1].first_token_s) == (0.0, None)


def test_an_hour_is_kept():
    time = [0.0]
    history = History(Metrics(), now=lambda: time[0], cpu=lambda: 0.0)
    for _ in range(KEPT + 20):
        history.tick()
        time[0] += EVERY_S
    assert len(history.samples()) == KEPT and history.samples()[-1].at - history.samples()[0].at < 3600
