"""What the numbers were measured on, and whether the machine was ours alone meanwhile."""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from bench.peer import cpu_model

IDLE_CORES = 0.1  # less than this is the kernel's own ticking
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def describe() -> dict:
    """CPU, usable cores, kernel, memory (GiB) and the one-minute load at the start."""
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "arch": platform.machine(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "load_at_start": round(os.getloadavg()[0], 2),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def line(info: dict) -> str:
    """The description as one line of text."""
    return (f"{info['cpu']} ({info['arch']}), {info['cores']} cores, Linux {info['kernel']}, "
            f"{info['memory_gib']} GiB, load at start {info['load_at_start']}, {info['time']}")


def _machine_busy_s() -> tuple[float, float]:
    """(CPU seconds used by all processes, CPU seconds stolen by the hypervisor) since boot."""
    ticks = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    return (user + nice + system + irq + softirq) / _TICKS_PER_S, steal / _TICKS_PER_S


def wait_until_idle(limit_s: float) -> bool:
    """Waits for a second in which all processes together used under IDLE_CORES; False after limit_s."""
    limit = time.monotonic() + limit_s
    while time.monotonic() < limit:
        before = sum(_machine_busy_s())
        time.sleep(1.0)
        if sum(_machine_busy_s()) - before < IDLE_CORES:
            return True
    return False


def group_cpu_s(group_id: int) -> float:
    """CPU seconds of the living processes of one process group (our server starts children)."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold spaces; the numbers after it do not.
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group_id:
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


@dataclass
class CpuShare:
    """Use as `with CpuShare(server_group) as share:`; afterwards shares of one core, 1.0 = one busy core."""

    group_id: int
    server: float = 0.0
    client: float = 0.0
    others: float = 0.0
    steal: float = 0.0

    def _read(self) -> tuple[float, float, float, float, float]:
        busy, steal = _machine_busy_s()
        return time.perf_counter(), group_cpu_s(self.group_id), time.process_time(), busy, steal

    def __enter__(self):
        self._before = self._read()
        return self

    def __exit__(self, *_exc):
        wall, server, client, busy, steal = (b - a for a, b in zip(self._before, self._read(), strict=True))
        self.server, self.client = server / wall, client / wall
        self.others, self.steal = max(0.0, (busy - server - client) / wall), steal / wall

    def as_dict(self) -> dict:
        """Rounded, for JSON."""
        names = ("server", "client", "others", "steal")
        return {f"cpu_{name}": round(getattr(self, name), 3) for name in names}
