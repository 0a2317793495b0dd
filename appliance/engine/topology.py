"""Which CPUs this process may use, and where the threads of a process really are.

Reads /proc and /sys and never fails: a container or an ARM board may show only part of them.

File formats, by their names in the kernel's documentation: admin-guide/cputopology (online, topology/*),
ABI/testing/sysfs-devices-system-cpu (cpu_capacity), ABI/stable/sysfs-devices-node (cpulist), cgroup-v2
(cpu.max), scheduler/sched-bwc (cpu.cfs_quota_us), filesystems/proc (stat, status).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ConfigError

CPU_NUMBER_LIMIT = 8192  # the largest CONFIG_NR_CPUS; it keeps "0-999999999" from filling the memory
# A core below this share of the largest capacity is an efficiency core. Cores of one kind differ a little
# (an RK3588's clusters differ in top frequency), and little cores come close (an Odroid N2's reach 0.61).
EFFICIENCY_CAPACITY_SHARE = 0.75


@dataclass(frozen=True)
class LogicalCpu:
    """One hardware thread, online and allowed. `core` is the lowest CPU number among its SMT siblings (the
    kernel's core_id repeats), `kind` "performance" or "efficiency", `capacity` the kernel's (0-1024)."""

    cpu: int
    core: int
    package: int = 0
    node: int = 0
    kind: str = "performance"
    capacity: int = 1024


@dataclass(frozen=True)
class Topology:
    """What this process may use. `quota_cpus` is CPU time per wall time (1.5 = one and a half CPUs), None if
    unlimited; `online_cpus` counts the whole machine, also the CPUs that a cpuset hides from us."""

    cpus: tuple[LogicalCpu, ...]
    quota_cpus: float | None = None
    model_name: str = ""
    arch: str = ""
    online_cpus: int = 0

    @property
    def cpu_key(self) -> str:
        """What a measured speed is bound to: the processor's name and architecture."""
        return f"{self.arch} {self.model_name}".strip()

    @property
    def allowed(self) -> tuple[int, ...]:
        """CPU numbers this process may use, ascending."""
        return tuple(c.cpu for c in self.cpus)

    @property
    def cores(self) -> tuple[LogicalCpu, ...]:
        """The first allowed hardware thread of each physical core."""
        return first_of_each_core(self.cpus)

    @property
    def nodes(self) -> tuple[int, ...]:
        """NUMA nodes that hold an allowed CPU, ascending."""
        return tuple(sorted({c.node for c in self.cpus}))


@dataclass(frozen=True)
class ThreadPlacement:
    """A thread as the kernel sees it: the CPUs it may use, and the one it ran on last (-1 if unknown)."""

    tid: int
    name: str
    allowed_cpus: tuple[int, ...]
    last_cpu: int


def parse_cpu_list(text: str, *, param: str | None = None) -> tuple[int, ...]:
    """Read "0-3,8" (the kernel's list format, and taskset's) as ascending CPU numbers; "" gives ().

    param: the setting to name in the error. Raises ConfigError for anything that is not such a list."""
    numbers: set[int] = set()
    for part in text.split(",") if text.strip() else ():
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first or last >= CPU_NUMBER_LIMIT:
            raise ConfigError(
                f"CPU list {text[:80]!r}: {part.strip()[:40]!r} is not a CPU number or a rising range "
                f"(0-{CPU_NUMBER_LIMIT - 1}).", param=param, remedy='Write a list like "0-3,8".')
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The shortest text that `parse_cpu_list` reads as the same CPUs: (0, 1, 2, 8) is "0-2,8"."""
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


# Reading. A file that is missing, unreadable or odd reads as "nothing known".
def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0\n ")
    except OSError:  # also EINVAL and ENODEV, with which some /sys files answer a read
        return ""


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _cpus_in(text: str) -> tuple[int, ...]:
    try:
        return parse_cpu_list(text)
    except ConfigError:
        return ()


def _int(text: str, default: int) -> int:
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else default


def _field(text: str, name: str) -> str:
    """The value of the first "Name : value" line, as in /proc/cpuinfo and /proc/PID/status."""
    match = re.search(rf"^{name}[ \t]*:[ \t]*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def cgroup_folders(root: Path, controller: str, pid: int | str = "self") -> Iterator[tuple[Path, bool]]:
    """(A process's cgroup and each one above it that we can see, whether it is of cgroup v1), for a controller such as "cpu".

    Every ancestor's limit holds, so the nearest file is not enough. The usual mount points are tried instead
    of reading mountinfo: in a container /proc/self/cgroup may name the host's path, which does not exist
    below the mount; walking up from it still ends at the mount point, where the container's own limit is.
    """
    for line in _text(root / f"proc/{pid}/cgroup").splitlines():  # HIERARCHY:CONTROLLERS:PATH
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            mounts = ("sys/fs/cgroup", "sys/fs/cgroup/unified")  # the second one beside cgroup v1 ("hybrid")
        elif controller in controllers.split(","):
            turned = ",".join(reversed(controllers.split(",")))  # "cpuacct,cpu" is mounted as "cpu,cpuacct", or the other way round
            mounts = tuple(f"sys/fs/cgroup/{name}" for name in dict.fromkeys((controller, controllers, turned)))
        else:
            continue
        # ".." stands for a cgroup outside of our namespace: nothing of it is visible below the mount.
        parts = [p for p in path.split("/") if p not in ("", ".", "..")]
        for mount in mounts:
            for depth in range(len(parts) + 1):
                yield root.joinpath(mount, *parts[:depth]), controllers != ""


def _quota_cpus(root: Path) -> float | None:
    """The tightest CPU quota between our own cgroup and the top of what we can see, in CPUs."""
    quotas: list[float] = []
    for group, is_v1 in cgroup_folders(root, "cpu"):
        # Microseconds. v2: "QUOTA PERIOD" in one file, "max" is no limit; v1: two files, -1 is none.
        v2 = _text(group / "cpu.max").split()
        v1 = [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")]
        quota_us, period_us = (*(v1 if is_v1 else v2), "", "")[:2]
        if _int(quota_us, 0) > 0 and _int(period_us or "100000", 0) > 0:
            quotas.append(int(quota_us) / int(period_us or "100000"))
    return min(quotas, default=None)


def first_of_each_core(cpus: Iterable[LogicalCpu]) -> tuple[LogicalCpu, ...]:
    """The lowest-numbered of the given hardware threads of each physical core, in order."""
    first: dict[int, LogicalCpu] = {}
    for cpu in cpus:
        first.setdefault(cpu.core, cpu)
    return tuple(first.values())


def read_topology(root: Path = Path("/"), allowed: Iterable[int] | None = None) -> Topology:
    """Read the CPUs, cores, NUMA nodes and CPU quota of this process.

    root: where /proc and /sys are (a folder for a recorded machine). allowed: CPUs to consider; the default
    is the affinity of this (or the recorded) process. Never raises for what it finds: without topology files
    every CPU is its own core on one node. There is always at least one CPU.
    """
    here = root == Path("/")
    system = root / "sys/devices/system"
    cpuinfo = _text(root / "proc/cpuinfo")
    online = _cpus_in(_text(system / "cpu/online")) or tuple(
        int(n) for n in re.findall(r"^processor[ \t]*:[ \t]*([0-9]{1,4})$", cpuinfo, re.MULTILINE))
    if allowed is None:
        recorded = _cpus_in(_field(_text(root / "proc/self/status"), "Cpus_allowed_list"))
        allowed = os.sched_getaffinity(0) if here else recorded
    may_use = set(allowed)
    usable = sorted(set(online) & may_use) or sorted(may_use) or list(online) or [0]

    node_of: dict[int, int] = {}
    for name in _names(system / "node"):
        if (node := _int(name.removeprefix("node"), -1)) >= 0:
            node_of.update(dict.fromkeys(_cpus_in(_text(system / "node" / name / "cpulist")), node))
    # Intel's hybrid chips have one performance counter unit for each kind of core; "low power" E cores sit on
    # a tile of their own and are the slowest of all.
    little = {c for unit in ("cpu_atom", "cpu_lowpower")
              for c in _cpus_in(_text(root / "sys/devices" / unit / "cpus"))}
    capacity = {c: _int(_text(system / f"cpu/cpu{c}/cpu_capacity"), 1024) for c in {*online, *usable}}
    limit = EFFICIENCY_CAPACITY_SHARE * max(capacity.values())

    def logical_cpu(cpu: int) -> LogicalCpu:
        folder = system / f"cpu/cpu{cpu}/topology"
        # core_cpus_list is today's name; kernels before 5.3 have only thread_siblings_list.
        siblings = _cpus_in(_text(folder / "core_cpus_list") or _text(folder / "thread_siblings_list"))
        return LogicalCpu(
            cpu=cpu, core=min(siblings) if cpu in siblings else cpu,
            package=max(0, _int(_text(folder / "physical_package_id"), 0)),  # -1 on boards that do not say
            node=node_of.get(cpu, 0),
            kind="efficiency" if cpu in little or capacity[cpu] < limit else "performance",
            capacity=capacity[cpu])

    return Topology(
        cpus=tuple(logical_cpu(c) for c in usable), quota_cpus=_quota_cpus(root),
        # x86 names the processor, ARM boards name the board.
        model_name=_field(cpuinfo, "model name") or _text(root / "proc/device-tree/model"),
        online_cpus=len(online) or len(usable),
        arch=_text(root / "proc/sys/kernel/arch") or (os.uname().machine if here else ""))


def observed_placement(pid: int, root: Path = Path("/")) -> list[ThreadPlacement]:
    """Where the threads of a process may run and last ran, ascending by thread id.

    Empty if there is no such process; threads that end meanwhile are left out. From /proc/PID/task/TID.
    """
    found, tasks = [], root / f"proc/{pid}/task"
    for tid in _names(tasks):
        # "TID (NAME) STATE ...": a name may hold spaces and parentheses, so cut at the last one. Field 39 of
        # the line is the processor; the state, the first one after the name, is field 3.
        head, _, fields = _text(tasks / tid / "stat").rpartition(")")
        if head:
            last_cpu = _int("".join(fields.split()[36:37]), -1)
            allowed = _cpus_in(_field(_text(tasks / tid / "status"), "Cpus_allowed_list"))
            found.append(ThreadPlacement(int(tid), head.partition("(")[2], allowed, last_cpu))
    return sorted(found, key=lambda thread: thread.tid)
