"""The doctor of a running service: looks now and then, and remembers what it found. Any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from appliance.doctor import rules_machine, rules_service
from appliance.doctor.facts import Facts
from appliance.doctor.findings import Finding, counts, examine
from appliance.metrics import Gauge

RULES = (*rules_service.RULES, *rules_machine.RULES)
EVERY_S = 900.0


class Doctor:
    """`tick` by one thread; the rest by any."""

    def __init__(self, collect: Callable[[], Facts], now: Callable[[], float] = time.time) -> None:
        self._collect, self._now = collect, now
        self._looking = threading.Lock()
        self.at = 0.0
        """When it looked last, Unix seconds; 0 before the first time."""
        self.found: tuple[Finding, ...] = ()

    def tick(self) -> None:
        """Look again when the last time is long ago."""
        if self._now() - self.at >= EVERY_S:
            self.look()

    def look(self) -> Facts:
        """Examine the box now, in the calling thread; takes up to some seconds. One thread at a time."""
        with self._looking:
            facts = self._collect()
            self.found = examine(facts, RULES)
            self.at = self._now()
            return facts

    def gauges(self) -> Iterator[Gauge]:
        """How many findings there are; nothing before the first look."""
        if self.at:
            yield "appliance_findings", "What is wrong with the box, by severity; see `appliance doctor`.", [({"severity": severity}, number) for severity, number in counts(self.found).items()]
