"""How fast an engine computes a model on this machine: `python -m appliance.engine.trial SETTINGS`, a process of its own.

SETTINGS is WorkerSettings as JSON. Prints one line of JSON: output tokens a second for each number of sequences in LOADS,
each behind a prompt of `prompt_tokens`. A process for each engine, because they disturb each other in one, and because a
model that is too large takes only this process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from appliance.engine.backend import Backend, Piece
from appliance.engine.encoder import Encoder
from appliance.engine.worker import WorkerSettings, build
from appliance.errors import ApplianceError, Draining, ModelFileError, from_wire

LOADS = (1, 4, 8)
STEPS, WARM_UP = 15, 2
LONGEST_PROMPT = 512
CHUNK = 64
LIMIT_S, LOOK_S = 300.0, 0.25


class _Nobody:
    """Where progress is told when nobody listens."""

    def send(self, message: object) -> None:
        """Forget it."""


def measure(backend: Backend, loads: tuple[int, ...]) -> dict[str, float]:
    """Output tokens a second, by the number of sequences; "prompt": prompt tokens a second, alone."""
    info = backend.info
    prompt = max(1, min(LONGEST_PROMPT, info.context_tokens // 2 - STEPS - WARM_UP))
    token = min(info.vocabulary - 1, 100)
    began = time.perf_counter()
    for start in range(0, prompt, CHUNK):
        backend.decode([Piece(0, start, [token] * min(CHUNK, prompt - start), "none")])
    found = {"prompt": prompt / (time.perf_counter() - began)}
    saved = backend.save(0)
    for count in loads:
        for seq in range(count):
            backend.trim(seq, 0)
            backend.load(seq, saved)
        seconds = []
        for step in range(STEPS + WARM_UP):
            began = time.perf_counter()
            rows = backend.decode([Piece(seq, prompt + step, [token], "last") for seq in range(count)])
            seconds.append(time.perf_counter() - began)
            if not all(np.isfinite(row).all() for row in rows):
                raise ModelFileError(f"{info.name} computes values that are no numbers.", remedy="Its file is damaged: convert or download it again.")
        found[str(count)] = count / statistics.median(seconds[WARM_UP:])  # one slow step is somebody else's
    return {name: round(rate, 2) for name, rate in found.items()}


def run(settings: WorkerSettings, environment: Mapping[str, str], stopping: Callable[[], bool] = lambda: False) -> dict[str, float]:
    """Measure in a process of its own, at the loads the settings allow.

    Raises ApplianceError when the engine cannot serve the model, Draining as soon as `stopping()` is true.
    """
    words = [sys.executable, "-m", "appliance.engine.trial", settings.to_json()]
    until = time.monotonic() + LIMIT_S
    with subprocess.Popen(words, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        while True:
            try:
                said, _ = process.communicate(timeout=LOOK_S)
                break
            except subprocess.TimeoutExpired:
                if stopping() or time.monotonic() > until:
                    process.kill()
    if stopping():
        raise Draining("The service stopped while it measured an engine.")
    try:
        found = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        raise ModelFileError(f"{settings.name} could not be measured with {settings.engine}.", remedy="Name the engine (--engine).") from None
    if "error" in found:
        raise from_wire(found["error"])
    return found


def main(argv: list[str]) -> int:
    """Entry point of the process."""
    settings = WorkerSettings.from_json(argv[1])
    if settings.cpus:
        os.sched_setaffinity(0, settings.cpus)
    loads = tuple(load for load in LOADS if load <= settings.sequences) or (1,)
    try:
        backend = build(replace(settings, sequences=max(loads), kv_tokens=0), _Nobody())
        if isinstance(backend, Encoder):
            raise ModelFileError(f"{settings.name} does not generate text: its speed is not measured.")
        print(json.dumps(measure(backend, loads)), flush=True)
    except ApplianceError as error:
        print(json.dumps({"error": error.to_wire()}), flush=True)
    return 0


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stdout.flush()
    os._exit(code)  # see worker
