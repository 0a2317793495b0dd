"""The last hour in numbers, a sample every ten seconds: what the admin page draws. Kept in memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from appliance.metrics import Metrics

EVERY_S = 10.0
KEPT = 360


@dataclass(frozen=True, slots=True)
class Sample:
    """What happened in the seconds before `at` (Unix). cpu: share of all cores, 0 to 1. first_token_s: mean, None where no answer began."""

    at: float
    tokens_per_s: float
    answers: int
    hits: int
    misses: int
    first_token_s: float | None
    cpu: float


class History:
    """`tick` by one thread, `samples` by any."""

    def __init__(self, metrics: Metrics, *, now: Callable[[], float] = time.time, cpu: Callable[[], float] = psutil.cpu_percent) -> None:
        """cpu: percent of all cores since it was last called."""
        self._metrics, self._now, self._cpu = metrics, now, cpu
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self._before: tuple[float, tuple[float, ...]] | None = None

    def tick(self) -> None:
        """Take a sample when it is time for one."""
        now = self._now()
        if self._before and now - self._before[0] < EVERY_S:
            return
        seen = self._seen()
        cpu = self._cpu() / 100
        if self._before:
            then, before = self._before
            tokens, answers, hits, misses, firsts, first_s = (a - b for a, b in zip(seen, before, strict=True))
            mean = first_s / firsts if firsts else None
            with self._lock:
                self._samples.append(Sample(now, tokens / (now - then), int(answers), int(hits), int(misses), mean, cpu))
        self._before = now, seen

    def samples(self) -> list[Sample]:
        """The last hour, oldest first."""
        with self._lock:
            return list(self._samples)

    def _seen(self) -> tuple[float, ...]:
        metrics = self._metrics
        lookups = metrics.by_label("appliance_cache_lookups_total", "outcome")
        firsts, first_s = metrics.observed("appliance_time_to_first_token_seconds")
        answers = metrics.total("appliance_sequences_finished_total")
        return metrics.total("appliance_generated_tokens_total"), answers, lookups.get("hit", 0.0), lookups.get("miss", 0.0), firsts, first_s
