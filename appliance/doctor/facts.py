"""What the rules look at, read once. Every default means "nothing known", and about what is not known no rule says anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from appliance.engine.placement import ChildPlacement
from appliance.engine.topology import Topology


@dataclass(frozen=True, slots=True)
class Zone:
    """A thermal zone. limit_c: from where on the kernel slows the processor down, None if it does not say."""

    name: str
    celsius: float
    limit_c: float | None = None


@dataclass(frozen=True, slots=True)
class Processor:
    """throttles: how often a core was slowed down for heat since the start, the most of any core. driver, governor: of cpufreq.
    pi_flags: what a Raspberry Pi's firmware says of power and heat."""

    uptime_s: float = 0.0
    throttles: int = 0
    zones: tuple[Zone, ...] = ()
    driver: str = ""
    governor: str = ""
    pi_flags: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """hugepages: the kernel's choice for transparent ones (always, madvise, never). corrected, uncorrected: errors that the memory controller
    counted. by_node: bytes of each NUMA node."""

    total_bytes: int = 0
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0
    swappiness: int = 0
    hugepages: str = ""
    corrected: int = 0
    uncorrected: int = 0
    by_node: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Limits on the service, of its group and all above it, and what they did. periods: those in which it ran, throttled: those in which
    it was stopped because its CPU time was used up."""

    periods: int = 0
    throttled: int = 0
    memory_limit_bytes: int | None = None
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    """The filesystem that a folder is on. purpose: what of ours lies there. inodes: 0 where it counts none."""

    purpose: str
    folder: str
    total_bytes: int
    free_bytes: int
    inodes: int = 0
    free_inodes: int = 0
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Flash:
    """An eMMC chip's own word on its wear. used_tenths: of the life it was made for, 11 where that is over. end: 1 normal, 2 warning, 3 urgent."""

    device: str
    used_tenths: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Clock:
    """synchronised: None where nobody can say. newest_at: the newest time that was written here, Unix seconds; newest: where."""

    synchronised: bool | None = None
    newest_at: float = 0.0
    newest: str = ""


@dataclass(frozen=True, slots=True)
class Engine:
    """A served model as the running service tells of it. restarts: by cause, since its start. swapped_bytes: of its memory."""

    name: str
    state: str
    reason: str = ""
    task: str = "generate"
    pid: int | None = None
    threads: int = 0
    cpus: tuple[int, ...] = ()
    restarts: Mapping[str, int] = field(default_factory=dict)
    resident_bytes: int = 0
    swapped_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Base:
    """A database file. fault, remedy: what is wrong with it and what to do, in words. steps: what of its schema it has had. rows: by table."""

    name: str
    size_bytes: int
    wal_bytes: int = 0
    written_at: float = 0.0
    precious: bool = False
    fault: str = ""
    remedy: str = ""
    steps: tuple[str, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the catalog. fault: why it cannot be used. changed: files that are not as they were when their hash was taken."""

    name: str
    size_bytes: int
    shipped: bool = False
    served: bool = False
    fault: str = ""
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """A file or folder of ours. secret: only its owner (and group) should read it. uid: its owner's number."""

    path: str
    mode: int
    uid: int
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Certificate:
    """The file named in the settings. ends_at: Unix seconds, None where `fault` says why it cannot be read."""

    path: str
    ends_at: float | None = None
    fault: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything at one time. now: Unix seconds. faults: parts that could not be read, in words. settings: as shown, secrets masked.
    place: threads and CPUs of the models that generate, as planned. listener: who has the port: "us", "other" or "nobody". log_errors: lines of
    the last day. uid: whom the data folder belongs to. writable: whether we, if we are not root, may write there. backup_at: of the newest backup."""

    now: float
    version: str = ""
    kernel: str = ""
    faults: tuple[str, ...] = ()
    config_error: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    data_dir: str = ""
    topology: Topology | None = None
    place: tuple[ChildPlacement, ...] = ()
    processor: Processor = Processor()
    memory: Memory = Memory()
    cgroup: Cgroup = Cgroup()
    disks: tuple[Disk, ...] = ()
    flash: tuple[Flash, ...] = ()
    disk_errors: Mapping[str, int] = field(default_factory=dict)
    clock: Clock = Clock()
    hostname: str = ""
    hostname_found: bool | None = None
    failed_units: tuple[str, ...] = ()
    unit: Mapping[str, str] = field(default_factory=dict)
    listener: str = ""
    open_ports_from: int = 0
    uid: int = 0
    writable: bool | None = None
    engines: tuple[Engine, ...] = ()
    started_at: float | None = None
    has_keys: bool | None = None
    bases: tuple[Base, ...] = ()
    models: tuple[Model, ...] = ()
    kept: tuple[Kept, ...] = ()
    certificate: Certificate | None = None
    backup_at: float | None = None
    log_errors: tuple[str, ...] = ()
