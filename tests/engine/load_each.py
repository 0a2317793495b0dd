"""Loads each model file named on stdin in a process of its own and prints one JSON line about it. Not a test.

What the engine child does, without starting an interpreter for each of some hundred damaged files: this process imports
everything once and then forks, before llama.cpp has done anything.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback

from appliance.engine import llama_backend  # noqa: F401 - imported before the forks
from appliance.engine.backend import Piece
from appliance.engine.worker import WorkerSettings, build
from appliance.errors import ApplianceError


class NoChannel:
    """Nobody listens to the progress."""

    def send(self, message: object) -> None:
        """Forget it."""


def load(path: str) -> dict[str, object]:
    """What came of loading a file and computing one token with it."""
    settings = WorkerSettings(engine="llama", name="m", path=path, context_tokens=64, sequences=1, kv_tokens=0, threads=1,
                              cpus=(), batch_tokens=64, stall_s=0.2, store_bytes=0, flash_attn="off")  # fmt: skip
    try:
        backend = build(settings, NoChannel())
        backend.decode([Piece(0, 0, [0], "last")])
        backend.tokenize("a", add_special=True, parse_special=True)
    except ApplianceError as error:
        return {"refused": type(error).__name__, "words": str(error)}
    except BaseException:
        return {"fault": traceback.format_exc()}
    return {"loaded": True}


def main() -> None:
    """One child at a time, each with 20 s."""
    for line in sys.stdin:
        path = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            os.write(writing, json.dumps(load(path)).encode())
            os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            told = pipe.read()
        _, status = os.waitpid(pid, 0)
        outcome = json.loads(told) if told else {"died": os.waitstatus_to_exitcode(status)}
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
