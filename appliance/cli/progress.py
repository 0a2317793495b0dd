"""One line on stderr that says how far something is; on anything but a terminal it says nothing.

For a job of the service it is written to a file instead, which the admin pages show (see appliance.jobs).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TextIO

from appliance.clock import Clock, monotonic
from appliance.intake.add import in_units
from appliance.jobs import PROGRESS
from appliance.storage import write_atomically

EVERY_S = 0.1
WIDTH = 24


class Bar:
    """Call it with the bytes done since the last call. Use it in a `with`, so that its line ends."""

    def __init__(self, label: str, total_bytes: int, *, file: TextIO | None = None, clock: Clock = monotonic) -> None:
        self.label, self.total, self.done = label, total_bytes, 0
        self._file = file or sys.stderr
        self._clock, self._began, self._shown = clock, clock(), float("-inf")
        self._live = self._file.isatty()
        self._for_a_job = os.environ.get(PROGRESS)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._shown > float("-inf"):
            self._show()
            self._file.write("\n")

    def __call__(self, count: int) -> None:
        """`count` bytes more (or fewer, when some have to be done again)."""
        self.done += count
        if (self._live or self._for_a_job) and self._clock() - self._shown >= EVERY_S:
            self._shown = self._clock()
            if self._live:
                self._show()
            if self._for_a_job:
                self._tell(Path(self._for_a_job))

    @property
    def share(self) -> float:
        """Of the work, how much is done: 0 to 1."""
        return max(0.0, min(1.0, self.done / self.total)) if self.total else 0.0

    def _show(self) -> None:
        speed = self.done / max(1e-6, self._clock() - self._began)
        self._file.write(f"\r{self._line()} of {in_units(self.total)}, {in_units(int(speed))}/s\x1b[K")
        self._file.flush()

    def _line(self) -> str:
        bar = ("#" * int(self.share * WIDTH)).ljust(WIDTH, ".")
        return f"{self.label} [{bar}] {self.share:4.0%}"

    def _tell(self, path: Path) -> None:
        try:
            write_atomically(path, json.dumps({"share": self.share, "label": self.label}).encode(), durable=False)
        except OSError:
            pass  # the work itself matters more
