"""Starting an engine child as a process of its own, and saying in words why one died."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from appliance.engine.channel import Channel
from appliance.engine.worker import WorkerSettings

Cause = Literal["crash", "hang", "out_of_memory", "refused", "stopped", "fault", "slow_boot"]
CRASH_SIGNALS = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}


@dataclass(frozen=True, slots=True)
class Death:
    """Why a child is gone. blame: it died of its own work rather than by somebody's hand."""

    cause: Cause
    words: str

    @property
    def blame(self) -> bool:
        """Whether the requests it was working on are suspects."""
        return self.cause in ("crash", "hang", "fault")


class Child:
    """One running engine process and the channel to it."""

    def __init__(self, settings: WorkerSettings, environment: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self._oom_kills = _oom_kills()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "appliance.engine.worker", str(theirs.fileno()), settings.to_json()],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(environment),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.channel = Channel(ours)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL; the process may already be gone."""
        self.process.kill()

    def bury(self, timeout_s: float = 5.0) -> int:
        """Wait for the end, killing what does not end by itself; close the channel. Returns the raw return code."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.wait()
        self.channel.close()
        return code

    def explain(self, code: int) -> Death:
        """The words for a return code of this child (negative: a signal)."""
        if code >= 0:
            if code == 0:
                return Death("stopped", "it was told to stop")
            return Death("fault", f"it ended with exit code {code}; its last words are in the log")
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if -code in CRASH_SIGNALS:
            hint = (
                "; this build uses instructions that this CPU does not have: run install.sh again on this machine"
                if -code == signal.SIGILL
                else ""
            )
            return Death("crash", f"it crashed ({name}){hint}")
        if -code == signal.SIGKILL and _oom_kills() > self._oom_kills:
            return Death(
                "out_of_memory",
                "the kernel killed it because memory ran out; lower ctx_size or parallel, or serve a smaller model",
            )
        return Death("stopped", f"it was killed from outside ({name})")


def _environment(more: dict[str, str]) -> dict[str, str]:
    """Ours without our settings, among which may be keys: a child reads foreign files and needs none of them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("APPLIANCE_")}
    source = str(Path(__file__).parents[2])  # where this very package is, installed or not
    path = os.pathsep.join([source, *filter(None, [kept.get("PYTHONPATH")])])
    safe = {
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",  # nothing is imported from the folder the service happens to be started in
        "GGML_NO_BACKTRACE": "1",  # else ggml attaches a debugger to a dying process: seconds in which nobody is served
    }
    return {**kept, **more, **safe}


def _oom_kills(path: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has killed for want of memory since it started (proc(5), vmstat)."""
    try:
        for line in path.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        return 0  # not every container shows it; the death is then told as a plain SIGKILL
    return 0
