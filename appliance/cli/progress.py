"""One line on stderr that says how far something is; on anything but a terminal it says nothing."""

from __future__ import annotations

import sys
from typing import TextIO

from appliance.clock import Clock, monotonic
from appliance.intake.add import in_units

EVERY_S = 0.1
WIDTH = 24


class Bar:
    """Call it with the bytes done since the last call. Use it in a `with`, so that its line ends."""

    def __init__(self, label: str, total_bytes: int, *, file: TextIO | None = None, clock: Clock = monotonic) -> None:
        self.label, self.total, self.done = label, total_bytes, 0
        self._file = file or sys.stderr
        self._clock, self._began, self._shown = clock, clock(), float("-inf")
        self._live = self._file.isatty()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._shown > float("-inf"):
            self._show()
            self._file.write("\n")

    def __call__(self, count: int) -> None:
        """`count` bytes more (or fewer, when some have to be done again)."""
        self.done += count
        if self._live and self._clock() - self._shown >= EVERY_S:
            self._show()

    def _show(self) -> None:
        self._shown = self._clock()
        share = min(1.0, self.done / self.total) if self.total else 1.0
        speed = self.done / max(1e-6, self._shown - self._began)
        bar = ("#" * int(share * WIDTH)).ljust(WIDTH, ".")
        self._file.write(f"\r{self.label} [{bar}] {share:4.0%} of {in_units(self.total)}, {in_units(int(speed))}/s\x1b[K")
        self._file.flush()
