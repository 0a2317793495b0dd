"""Counters and histograms in Prometheus's text format; the names llama-server's dashboards know are served too.

https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4). Thread-safe, a lock around plain dicts.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable

from appliance.types import Finished

Labels = tuple[tuple[str, str], ...]
LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
HELP = {
    "appliance_requests_total": "HTTP requests by route and status.",
    "appliance_sequences_finished_total": "Answers completed, by finish reason.",
    "appliance_sequences_failed_total": "Answers that failed, by error code.",
    "appliance_prompt_tokens_total": "Prompt tokens received.",
    "appliance_cached_prompt_tokens_total": "Prompt tokens that did not have to be computed.",
    "appliance_generated_tokens_total": "Tokens generated.",
    "appliance_encoded_texts_total": "Texts embedded, ranked or classified.",
    "appliance_encoded_tokens_total": "Tokens of the texts embedded, ranked or classified.",
    "appliance_cache_lookups_total": "Requests that a remembered answer could have been given to, by outcome and tier.",
    "appliance_cache_gate_rejections_total": "Remembered questions that a gate told apart from the one asked.",
    "appliance_cache_errors_total": "Faults of the cache; each was a miss.",
    "appliance_queue_wait_seconds": "Time from a request's arrival to its admission.",
    "appliance_time_to_first_token_seconds": "Time from a request's arrival to its first token.",
    "appliance_time_per_output_token_seconds": "Mean time between two tokens of an answer.",
    "appliance_request_duration_seconds": "Time from a request's arrival to the end of an answer.",
}
Gauge = tuple[str, str, Iterable[tuple[dict[str, str], float]]]
"""Name, help, and values with their labels."""


class Metrics:
    """All numbers of the service. `add_source` registers a function that is asked for gauges at each scrape."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._histograms: dict[str, dict[Labels, list[float]]] = defaultdict(dict)
        self._sources: list[Callable[[], Iterable[Gauge]]] = []

    def add_source(self, source: Callable[[], Iterable[Gauge]]) -> None:
        """Ask `source` for gauges whenever the metrics are rendered."""
        self._sources.append(source)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._counters[name][tuple(sorted(labels.items()))] += amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put a value into a histogram: [count per bucket..., above the last, sum]."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            row = self._histograms[name].get(key)
            if row is None:
                row = self._histograms[name][key] = [0.0] * (len(LATENCY_BUCKETS_S) + 2)
            row[bisect_left(LATENCY_BUCKETS_S, value)] += 1
            row[-1] += value

    # What the pipeline reports. Times in seconds.

    def queue_wait(self, model: str, seconds: float) -> None:
        """A request was let in."""
        self.observe("appliance_queue_wait_seconds", seconds, model=model)

    def first_token(self, model: str, seconds: float) -> None:
        """An answer began."""
        self.observe("appliance_time_to_first_token_seconds", seconds, model=model)

    def generated(self, model: str, tokens: int) -> None:
        """So many more tokens of an answer that is being written."""
        self.count("appliance_generated_tokens_total", tokens, model=model)

    def finished(self, model: str, event: Finished, total_s: float, generating_s: float, told: int = 0) -> None:
        """An answer is complete; generating_s is the time since its first token. told: tokens of it that were counted as they came."""
        usage = event.usage
        self.count("appliance_sequences_finished_total", model=model, reason=event.reason)
        self.count("appliance_prompt_tokens_total", usage.prompt_tokens, model=model)
        self.count("appliance_cached_prompt_tokens_total", usage.cached_tokens, model=model)
        self.generated(model, usage.completion_tokens - told)
        self.observe("appliance_request_duration_seconds", total_s, model=model)
        if usage.completion_tokens > 1:
            gap = generating_s / (usage.completion_tokens - 1)
            self.observe("appliance_time_per_output_token_seconds", gap, model=model)

    def encoded(self, model: str, task: str, texts: int, tokens: int, total_s: float) -> None:
        """An encoder has answered a request; task: embed, rerank, classify or tokens."""
        self.count("appliance_encoded_texts_total", texts, model=model, task=task)
        self.count("appliance_encoded_tokens_total", tokens, model=model, task=task)
        self.observe("appliance_request_duration_seconds", total_s, model=model)

    def failed(self, model: str, code: str) -> None:
        """An answer failed."""
        self.count("appliance_sequences_failed_total", model=model, code=code)

    def total(self, name: str) -> float:
        """A counter's sum over all labels."""
        with self._lock:
            return sum(self._counters[name].values()) if name in self._counters else 0.0

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """A counter's sums by the values of one label."""
        found: dict[str, float] = defaultdict(float)
        with self._lock:
            for labels, value in self._counters.get(name, {}).items():
                found[dict(labels).get(label, "")] += value
        return dict(found)

    def observed(self, name: str) -> tuple[float, float]:
        """(how many values a histogram has, their sum)."""
        with self._lock:
            rows = list(self._histograms.get(name, {}).values())
        return sum(sum(row[:-1]) for row in rows), sum(row[-1] for row in rows)

    def render(self) -> str:
        """Everything, as the scrape's body."""
        lines: list[str] = []
        with self._lock:
            counters = {name: dict(rows) for name, rows in self._counters.items()}
            histograms = {n: {k: list(v) for k, v in rows.items()} for n, rows in self._histograms.items()}
        for name, rows in sorted(counters.items()):
            lines += _header(name, "counter", HELP.get(name, name))
            lines += [f"{name}{_labels(key)} {_number(value)}" for key, value in sorted(rows.items())]
        for name, rows in sorted(histograms.items()):
            lines += _header(name, "histogram", HELP.get(name, name))
            for key, row in sorted(rows.items()):
                lines += _histogram(name, key, row)
        for source in self._sources:
            for name, text, values in source():
                lines += _header(name, "gauge", text)
                lines += [f"{name}{_labels(tuple(labels.items()))} {_number(value)}" for labels, value in values]
        return "\n".join(lines) + "\n"


def _header(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _number(value: float) -> str:
    """All digits: a counter that is rounded to six of them stands still after a million."""
    number = float(value)
    return str(int(number)) if number.is_integer() else repr(number)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _labels(pairs: Labels) -> str:
    return "{" + ",".join(f'{k}="{_escape(v)}"' for k, v in pairs) + "}" if pairs else ""


def _histogram(name: str, key: Labels, row: list[float]) -> list[str]:
    lines, running = [], 0.0
    for bound, count in zip((*LATENCY_BUCKETS_S, float("inf")), row, strict=False):
        running += count
        edge = "+Inf" if bound == float("inf") else f"{bound:g}"
        lines.append(f"{name}_bucket{_labels((*key, ('le', edge)))} {_number(running)}")
    return [*lines, f"{name}_sum{_labels(key)} {_number(row[-1])}", f"{name}_count{_labels(key)} {_number(running)}"]
