"""Puts the facts together: every part is read for itself, so that one that cannot be read takes no other with it."""

from __future__ import annotations

import os
import platform
import re
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from appliance.auth import Auth
from appliance.config import Config, data_dir
from appliance.doctor import data, machine
from appliance.doctor.facts import Cgroup, Clock, Facts, Memory, Processor
from appliance.doctor.machine import Commands, run_command
from appliance.doctor.running import Running
from appliance.engine.placement import ChildPlacement, plan_threads
from appliance.engine.topology import Topology, read_topology

Part = TypeVar("Part")
WHOLE = 1 << 62
WHOLE_WHILE_SERVING = 50_000_000
"""Bytes: a database up to this size is read whole in half a second from an SD card, and the answers that stream do not notice."""

ERROR = re.compile(r'[\d:T-]+ error  |\{"time": [\d.]+, "level": "error"')
"""A line of our log, as text or JSON."""


class _Reader:
    """Reads part after part; what fails is noted and the default stands in its place."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def __call__(self, what: str, default: Part, read: Callable[..., Part], *given: Any) -> Part:
        try:
            return read(*given)
        except Exception as error:  # a box that is ill shows things that nobody has thought of
            self.faults.append(f"{what} could not be read ({type(error).__name__}: {error})".rstrip("."))
            return default


def collect(
    config: Config,
    running: Running,
    *,
    root: Path = Path("/"),
    commands: Commands = run_command,
    now: float | None = None,
    whole_up_to: int = WHOLE,
    config_error: str = "",
) -> Facts:
    """Read everything once; takes up to some seconds where systemd or a name server does not answer.

    root: where /proc and /sys are. commands: runs those of the system. whole_up_to: see `data.read_bases`. Never raises for what it finds.
    """
    read, folder = _Reader(), data_dir(config)
    now = time.time() if now is None else now
    topology = read("the CPUs", None, read_topology, root)
    engines = tuple(
        replace(engine, resident_bytes=memory, swapped_bytes=swapped)
        for engine in running.engines
        for memory, swapped in [read("an engine's memory", (0, 0), machine.read_process, root, engine.pid)]
    )
    bases = read("the databases", (), data.read_bases, folder, whole_up_to)
    name = socket.gethostname()
    owner = os.stat(folder).st_uid if folder.is_dir() else os.geteuid()
    return Facts(
        now=now,
        version=read("the version", "", metadata.version, "appliance"),
        kernel=f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}",
        config_error=config_error,
        settings=config.shown(),
        data_dir=str(folder),
        topology=topology,
        place=read("where threads go", (), _plan, config, topology, engines),
        processor=read("the processor", Processor(), machine.read_processor, root),
        memory=read("the memory", Memory(), machine.read_memory, root),
        cgroup=read("the cgroup", Cgroup(), machine.read_cgroup, root, running.pid),
        disks=read("the disks", (), machine.read_disks, {"data folder": folder, "backups": _backups(config), "temporary files": Path(tempfile.gettempdir())}),
        flash=read("the wear of the disk", (), machine.read_flash, root),
        disk_errors=read("the errors of the disk", {}, machine.read_disk_errors, root),
        clock=read("the clock", Clock(), _clock, commands, bases),
        hostname=name,
        hostname_found=read("the hostname", None, machine.read_hostname_found, commands, name),
        failed_units=read("the failed units", (), machine.read_failed_units, commands),
        unit=read("the unit", {}, machine.read_unit, commands),
        listener=running.listener,
        open_ports_from=machine.number(machine.text(root / "proc/sys/net/ipv4/ip_unprivileged_port_start"), 1024),
        uid=owner,
        writable=os.access(folder, os.W_OK) if folder.is_dir() and os.geteuid() else None,
        engines=engines,
        started_at=running.started_at,
        has_keys=read("the API keys", None, lambda: Auth.from_config(config).required or data.read_good_keys(folder) > 0),
        bases=bases,
        models=read("the models", (), data.read_models, config, [engine.name for engine in engines]),
        kept=read("the files", (), data.read_kept, folder, config),
        certificate=data.read_certificate(config),
        backup_at=data.newest_backup(_backups(config)),
        log_errors=running.log_errors or read("the journal", (), _journal_errors, commands, running),
        faults=tuple(read.faults),
    )


def _backups(config: Config) -> Path:
    return Path(config.values.get("backup_dir") or data_dir(config) / "backups")


def _plan(config: Config, topology: Topology | None, engines: tuple[Any, ...]) -> tuple[ChildPlacement, ...]:
    """For the models that generate and run, or for the one or more that would be started."""
    running = [engine for engine in engines if engine.task == "generate"]
    wanted = len(running) or len(config.model) or 1
    return plan_threads(topology, config.threads or None, config.cpus or None, children=wanted).children if topology else ()


def _clock(commands: Commands, bases: tuple[Any, ...]) -> Clock:
    times = {base.name: base.written_at for base in bases} | {"this program": Path(__file__).stat().st_mtime}
    newest = max(times, key=lambda name: times[name])
    return Clock(machine.read_synchronised(commands), times[newest], newest)


def journal(commands: Commands, *words: str) -> list[str]:
    """Lines of the service in the journal, as the service wrote them; [] where there is none, or it is not ours to read."""
    return (commands(["journalctl", "-u", "appliance", "-o", "cat", "--no-pager", *words]) or "").splitlines()


def _journal_errors(commands: Commands, running: Running) -> tuple[str, ...]:
    """Only for who is not the service itself: that has its log in memory."""
    if running.pid == os.getpid():
        return ()
    return tuple(line for line in journal(commands, "--since=-1day") if ERROR.match(line))
