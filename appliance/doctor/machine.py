"""Reads what the rules want to know of the hardware and the kernel. Changes nothing and never fails: what is not there is not known.

File formats, by their names in the kernel's documentation: filesystems/proc (meminfo, status, uptime), ABI/testing/sysfs-devices-system-cpu
(thermal_throttle, cpufreq), ABI/testing/sysfs-class-thermal, cgroup-v2 (cpu.stat, memory.max, memory.events) and v1 (memory.limit_in_bytes),
driver-api/mmc (life_time, pre_eol_info), ABI/testing/sysfs-fs-ext4 (errors_count), ABI/testing/sysfs-devices-edac.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from appliance.doctor.facts import Cgroup, Disk, Flash, Memory, Processor, Zone
from appliance.engine.topology import cgroup_folders

COMMAND_S = 5.0
NO_LIMIT = 1 << 60
"""cgroup v1 says "no limit" with a number of this size."""
SLOWING = ("passive", "hot", "critical")
Commands = Callable[[list[str]], str | None]
"""Runs a command: what it printed, None where it is not there or failed."""


def run_command(words: list[str]) -> str | None:
    """What a command prints, None where it is not there, fails or takes too long."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=COMMAND_S, check=False, stdin=subprocess.DEVNULL, env=os.environ | {"LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def text(path: Path) -> str:
    """A small file without blanks around it; "" where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0\n ")
    except OSError:  # also EINVAL and ENODEV, with which some /sys files answer a read
        return ""


def number(words: str, default: int = 0) -> int:
    """The first whole number in a text."""
    found = re.search(r"-?\d{1,19}", words)
    return int(found[0]) if found else default


def field(words: str, name: str) -> int:
    """The number behind a name at the beginning of a line, as in /proc/meminfo and cpu.stat."""
    found = re.search(rf"^{re.escape(name)}\W+(\d{{1,19}})", words, re.MULTILINE)
    return int(found[1]) if found else 0


def read_processor(root: Path) -> Processor:
    """Heat, speed and power."""
    cpus = root / "sys/devices/system/cpu"
    throttles = [number(text(path)) for path in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    zones = [_zone(path) for path in sorted((root / "sys/class/thermal").glob("thermal_zone*"))]
    return Processor(
        uptime_s=float(number(text(root / "proc/uptime"))),
        throttles=max(throttles, default=0),
        zones=tuple(zone for zone in zones if zone),
        driver=text(cpus / "cpu0/cpufreq/scaling_driver"),
        governor=text(cpus / "cpu0/cpufreq/scaling_governor"),
        pi_flags=_hexadecimal(text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")),
    )


def _zone(folder: Path) -> Zone | None:
    measured = text(folder / "temp")
    if not measured:
        return None  # switched off, or a sensor that does not answer
    points = [path.with_name(path.name.replace("_type", "_temp")) for path in folder.glob("trip_point_*_type") if text(path) in SLOWING]
    limits = [degrees for point in points if (degrees := number(text(point)) / 1000) > 0]
    return Zone(text(folder / "type") or folder.name, number(measured) / 1000, min(limits, default=None))


def _hexadecimal(words: str) -> int:
    return int(words, 16) if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", words) else 0


def read_memory(root: Path) -> Memory:
    """How much, where, and what is wrong with it."""
    meminfo = text(root / "proc/meminfo")
    chosen = re.search(r"\[(\w+)\]", text(root / "sys/kernel/mm/transparent_hugepage/enabled"))
    controllers = list((root / "sys/devices/system/edac/mc").glob("mc[0-9]*"))
    nodes = {number(path.name): field(text(path / "meminfo").replace(f"Node {number(path.name)} ", ""), "MemTotal") << 10 for path in (root / "sys/devices/system/node").glob("node[0-9]*")}
    return Memory(
        total_bytes=field(meminfo, "MemTotal") << 10,
        swap_total_bytes=field(meminfo, "SwapTotal") << 10,
        swap_free_bytes=field(meminfo, "SwapFree") << 10,
        swappiness=number(text(root / "proc/sys/vm/swappiness")),
        hugepages=chosen[1] if chosen else "",
        corrected=sum(number(text(path / "ce_count")) for path in controllers),
        uncorrected=sum(number(text(path / "ue_count")) for path in controllers),
        by_node={node: size for node, size in nodes.items() if size},
    )


def read_cgroup(root: Path, pid: int | None) -> Cgroup:
    """The limits on a process, its group's and those above it; of no process nothing is known."""
    if pid is None:
        return Cgroup()
    stats = [text(group / "cpu.stat") for group, _ in cgroup_folders(root, "cpu", pid)]
    worst = max(stats, key=lambda stat: field(stat, "nr_throttled"), default="")
    groups = list(cgroup_folders(root, "memory", pid))
    limits = [number(text(group / name), NO_LIMIT) for group, _ in groups for name in ("memory.max", "memory.limit_in_bytes")]
    kills = [events for group, _ in groups if (events := text(group / "memory.events") or text(group / "memory.oom_control"))]
    limit = min(limits, default=NO_LIMIT)
    return Cgroup(field(worst, "nr_periods"), field(worst, "nr_throttled"), limit if limit < NO_LIMIT else None, field(kills[-1], "oom_kill") if kills else 0)


def read_process(root: Path, pid: int | None) -> tuple[int, int]:
    """(Bytes in memory, bytes in swap) of a process."""
    status = text(root / f"proc/{pid}/status") if pid else ""
    return field(status, "VmRSS") << 10, field(status, "VmSwap") << 10


def read_flash(root: Path) -> tuple[Flash, ...]:
    """Each eMMC chip; cards and other disks do not say how worn they are."""
    found = []
    for path in sorted((root / "sys/block").glob("mmcblk*/device/life_time")):
        used = max((_hexadecimal(word) for word in text(path).split()), default=0)
        # 1 stands for 0-10 % used, 10 for 90-100 %, 11 for more (JEDEC 84-B51, DEVICE_LIFE_TIME_EST).
        found.append(Flash(path.parts[-3], used, _hexadecimal(text(path.with_name("pre_eol_info")))))
    return tuple(found)


def read_disk_errors(root: Path) -> dict[str, int]:
    """The filesystems that have noted errors, by device."""
    counted = {path.parent.name: number(text(path)) for path in sorted((root / "sys/fs/ext4").glob("*/errors_count"))}
    return {device: errors for device, errors in counted.items() if errors}


def read_disks(folders: Mapping[str, Path], look: Callable[[str], os.statvfs_result] = os.statvfs) -> tuple[Disk, ...]:
    """The disks under some folders of ours, by purpose, each once. A folder that is not there yet counts as the one above it."""
    found: dict[int, Disk] = {}
    for purpose, wanted in folders.items():
        folder = next((one for one in (wanted, *wanted.parents) if os.path.isdir(one)), wanted)
        try:
            seen, device = look(str(folder)), os.stat(folder).st_dev
        except OSError:
            continue
        name = f"{found[device].purpose}, {purpose}" if device in found else purpose
        found[device] = Disk(
            name, found[device].folder if device in found else str(folder), seen.f_frsize * seen.f_blocks, seen.f_frsize * seen.f_bavail,
            seen.f_files, seen.f_favail, bool(seen.f_flag & os.ST_RDONLY),
        )  # fmt: skip
    return tuple(found.values())


def read_failed_units(commands: Commands) -> tuple[str, ...]:
    """The units that systemd has given up; none where there is no systemd."""
    lines = (commands(["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager"]) or "").splitlines()
    return tuple(line.split()[0] for line in lines if line.strip())


def read_unit(commands: Commands, names: Iterable[str] = ("ActiveState", "SubState", "Result", "NRestarts", "ExecMainStatus", "MemoryCurrent", "MemoryPeak", "CPUQuotaPerSecUSec", "MemoryMax")) -> dict[str, str]:
    """The state of the service's own unit; {} where there is none."""
    said = commands(["systemctl", "show", "appliance.service", "-p", ",".join(("LoadState", *names))]) or ""
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return found if found.pop("LoadState", "not-found") != "not-found" else {}


def read_synchronised(commands: Commands) -> bool | None:
    """Whether somebody sets the clock."""
    said = (commands(["timedatectl", "show", "-p", "NTPSynchronized", "--value"]) or "").strip()
    return {"yes": True, "no": False}.get(said)


def read_hostname_found(commands: Commands, name: str) -> bool | None:
    """Whether the box's own name leads to an address here; no name server is asked. None where there is no `getent`."""
    if commands(["getent", "--help"]) is None:
        return None
    return any(commands(["getent", "--service", source, "hosts", name]) is not None for source in ("files", "myhostname"))
