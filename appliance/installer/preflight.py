"""Is this machine fit for it? Looks, changes nothing, and says everything that is wrong at once."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.archive import Manifest
from appliance.errors import NotReady
from appliance.installer.layout import Layout
from appliance.installer.release import newer, python_version

LEAST_MEMORY_MB = 1500
SPARE_DISK_MB = 300
UNPACKED = 4.5
"""An installed version takes so many times the bytes of its bundle: wheels are packed, and lie beside what was installed from them."""
SYSTEMS = {"debian": 12, "ubuntu": 22.04}
X86_64_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})
"""https://gitlab.com/x86-psABIs/x86-64-ABI; `pni` is what Linux calls SSE3."""


@dataclass(frozen=True)
class Machine:
    """What the checks look at. system: (id, version) of /etc/os-release; glibc: such as "2.36"; flags: of the CPU, empty where it
    tells none; port_taken_by: '' where the port is free, or ours."""

    system: tuple[str, str]
    arch: str
    python: str
    glibc: str
    flags: frozenset[str]
    memory_mb: int
    disk_mb: int
    writable: bool
    root: bool
    systemd: bool
    unix_time: float
    port_taken_by: str = ""


def read_machine(layout: Layout, port: int) -> Machine:
    """Reads /etc, /proc and the clock."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', _text(layout.root / "etc/os-release"), re.M))
    flags = re.search(r"^flags\s*: (.*)$", _text(Path("/proc/cpuinfo")), re.M)
    memory = re.search(r"^MemTotal:\s+(\d+)", _text(Path("/proc/meminfo")), re.M)
    folder = layout.opt
    while not folder.is_dir():
        folder = folder.parent
    return Machine(
        (release.get("ID", ""), release.get("VERSION_ID", "")), platform.machine(), python_version(), platform.libc_ver()[1],
        frozenset(flags[1].split()) if flags else frozenset(), int(memory[1]) // 1024 if memory else 0, shutil.disk_usage(folder).free // 1_000_000,
        os.access(folder, os.W_OK), os.geteuid() == 0, Path("/run/systemd/system").is_dir(), time.time(),
        "" if layout.installed(layout.current) else _taken(port),
    )  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _taken(port: int) -> str:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError as error:
            return os.strerror(error.errno or 0)
    return ""


def problems(machine: Machine, manifest: Manifest, size_bytes: int, current: str, port: int, allow_older: bool) -> Iterator[str]:
    """Everything that is in the way, a sentence each. size_bytes: of the bundle; current: the installed version, ''."""
    if not machine.root:
        yield "it needs root: run it with sudo"
    if not machine.systemd:
        yield "systemd does not run here; without it use ./install.sh --user from the unpacked bundle"
    name, version = machine.system
    if name in SYSTEMS and (not re.fullmatch(r"[\d.]+", version) or float(re.match(r"\d+(\.\d+)?", version)[0]) < SYSTEMS[name]):  # type: ignore[index]
        yield f"this is {name} {version}; it needs {name} {SYSTEMS[name]} or newer"
    if name not in SYSTEMS:
        yield f"this is {name or 'an unknown system'}; the service is made for Debian 12 and Ubuntu 22.04 and newer ones"
    if machine.arch != manifest.arch:
        yield f"this machine is {machine.arch}; the bundle is for {manifest.arch}"
    elif machine.arch == "x86_64" and machine.flags and (missing := X86_64_V2 - machine.flags):
        yield f"the CPU lacks {', '.join(sorted(missing))}; it needs x86-64-v2 (2009 and later)"
    if machine.python not in manifest.pythons:
        yield f"this machine has Python {machine.python}; the bundle is for {', '.join(manifest.pythons)} (build it with --python {machine.python})"
    if machine.glibc and newer(manifest.glibc, machine.glibc):
        yield f"the C library is glibc {machine.glibc}; the bundle needs {manifest.glibc} or newer"
    if machine.memory_mb < LEAST_MEMORY_MB:
        yield f"{machine.memory_mb} MB of memory; it needs {LEAST_MEMORY_MB} MB"
    needed = round(size_bytes * UNPACKED / 1e6) + SPARE_DISK_MB
    if machine.disk_mb < needed:
        yield f"{machine.disk_mb} MB of disk free for /opt; it needs {needed} MB"
    if not machine.writable:
        yield "/opt cannot be written"
    if machine.port_taken_by:
        yield f"port {port} is not free ({machine.port_taken_by}); choose another with --port"
    if machine.unix_time < datetime.datetime.fromisoformat(manifest.made).timestamp() - 86400:
        yield f"the clock is wrong: it says {datetime.datetime.fromtimestamp(machine.unix_time):%Y-%m-%d}, and the bundle was made on {manifest.made[:10]}; set it with timedatectl set-time"
    if current and newer(current, manifest.version) and not allow_older:
        yield f"version {current} is installed, and the bundle has the older {manifest.version}; to go back to the version of before: appliance rollback"
    if manifest.since and not current:
        yield f"the bundle holds only what changed since version {manifest.since}, which is not installed; use a full one"


def check(machine: Machine, manifest: Manifest, size_bytes: int, current: str, port: int, allow_older: bool = False) -> None:
    """Raises NotReady with all problems."""
    found = list(problems(machine, manifest, size_bytes, current, port, allow_older))
    if found:
        raise NotReady("This machine is not ready; nothing was changed.\n" + "\n".join(f"  ✗ {line}" for line in found))
