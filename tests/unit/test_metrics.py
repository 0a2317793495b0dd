"""Prometheus's text format, read back."""

from __future__ import annotations

import math
import re
import threading

import pytest

from appliance.metrics import HELP, LATENCY_BUCKETS_S, Metrics
from appliance.types import Finished, Usage

SAMPLE = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{((?:\w+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)$')


def parse(text: str) -> dict[tuple[str, str], float]:
    """Samples by name and labels; fails on what the format does not allow."""
    assert text.endswith("\n")
    found, typed = {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name = line.split()[2]
            assert name not in typed, f"{name} is announced twice"
            typed.add(name)
        elif not line.startswith("# HELP "):
            match = SAMPLE.match(line)
            assert match, f"no sample: {line}"
            key = (match[1], match[2] or "")
            assert key not in found
            found[key] = float(match[3])
    return found


def test_counters_add_up_by_label():
    metrics = Metrics()
    metrics.count("a_total", route="/x", status="200")
    metrics.count("a_total", 2, status="200", route="/x")
    metrics.count("a_total", route="/y", status="200")
    assert parse(metrics.render()) == {("a_total", 'route="/x",status="200"'): 3, ("a_total", 'route="/y",status="200"'): 1}
    assert metrics.total("a_total") == 4 and metrics.total("never") == 0


def test_large_counters_keep_every_digit():
    metrics = Metrics()
    metrics.count("tokens_total", 123_456_789)
    metrics.count("tokens_total", 1)
    metrics.observe("t_seconds", 1234567.25)
    text = metrics.render()
    assert "tokens_total 123456790\n" in text
    assert "t_seconds_sum 1234567.25\n" in text


@pytest.mark.parametrize("value", [0.0, 0.005, 0.00501, 1.0, 299.9, 300.0, 301.0, 1e9])
def test_a_value_is_counted_in_each_bucket_it_fits(value):
    metrics = Metrics()
    metrics.observe("t_seconds", value, model="m")
    samples = parse(metrics.render())
    for bound in (*LATENCY_BUCKETS_S, math.inf):
        edge = "+Inf" if bound == math.inf else f"{bound:g}"
        assert samples[("t_seconds_bucket", f'model="m",le="{edge}"')] == (1 if value <= bound else 0)
    assert samples[("t_seconds_count", 'model="m"')] == 1
    assert samples[("t_seconds_sum", 'model="m"')] == pytest.approx(value)


def test_buckets_never_shrink_and_end_in_the_count():
    metrics = Metrics()
    for value in (0.001, 0.2, 0.2, 7, 1000):
        metrics.observe("t_seconds", value)
    counts = [v for (name, _), v in parse(metrics.render()).items() if name == "t_seconds_bucket"]
    assert counts == sorted(counts) and counts[-1] == 5 and len(counts) == len(LATENCY_BUCKETS_S) + 1


def test_labels_with_quotes_backslashes_and_newlines_are_escaped():
    metrics = Metrics()
    metrics.count("a_total", model='a"b\\c\nd')
    assert parse(metrics.render()) == {("a_total", 'model="a\\"b\\\\c\\nd"'): 1}


def test_gauges_are_asked_for_at_each_scrape():
    metrics, level = Metrics(), [1.5]
    metrics.add_source(lambda: [("level", "How high.", [({"model": "m"}, level[0]), ({"model": "n"}, True)])])
    assert parse(metrics.render()) == {("level", 'model="m"'): 1.5, ("level", 'model="n"'): 1}
    level[0] = 2
    assert parse(metrics.render())[("level", 'model="m"')] == 2


def test_a_finished_answer_is_told_in_tokens_and_times():
    metrics = Metrics()
    metrics.queue_wait("m", 0.1)
    metrics.first_token("m", 0.2)
    metrics.finished("m", Finished(0, "stop", Usage(10, 5, 4)), 1.0, 0.8)
    metrics.finished("m", Finished(0, "length", Usage(10, 1, 0)), 1.0, 0.8)
    metrics.failed("m", "engine_lost")
    samples = parse(metrics.render())
    model = 'model="m"'
    assert samples[("appliance_prompt_tokens_total", model)] == 20
    assert samples[("appliance_cached_prompt_tokens_total", model)] == 4
    assert samples[("appliance_generated_tokens_total", model)] == 6
    assert samples[("appliance_time_per_output_token_seconds_sum", model)] == pytest.approx(0.2)
    assert samples[("appliance_time_per_output_token_seconds_count", model)] == 1, "one token has no gap"
    assert samples[("appliance_sequences_failed_total", 'code="engine_lost",model="m"')] == 1
    assert {name for name, _ in samples} >= {"appliance_queue_wait_seconds_sum", "appliance_time_to_first_token_seconds_sum"}


def test_every_name_with_a_help_text_is_a_legal_name():
    for name, text in HELP.items():
        assert re.fullmatch(r"appliance_[a-z_]+(_total|_seconds)", name) and text.endswith(".")


def test_nothing_is_lost_between_threads():
    metrics = Metrics()

    def work() -> None:
        for _ in range(500):
            metrics.count("a_total")
            metrics.observe("t_seconds", 0.1)

    threads = [threading.Thread(target=work, name=f"test-count-{n}") for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        parse(metrics.render())
    for thread in threads:
        thread.join()
    samples = parse(metrics.render())
    assert samples[("a_total", "")] == samples[("t_seconds_count", "")] == 2000
