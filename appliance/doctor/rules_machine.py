"""Rules about the hardware, the kernel and the limits on the service. Pure: facts go in, findings come out."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.doctor.facts import Facts
from appliance.doctor.findings import Finding
from appliance.engine.topology import format_cpu_list

THROTTLED_SHARE, THROTTLED_PERIODS = 0.05, 100
SWAPPED_BYTES = 16 << 20
"""Less than this is what no engine has used since it was loaded."""
THROTTLES_PER_HOUR = 1.0
HOT_C = 85.0
"""Where a thermal zone does not say from when on it slows down."""
BALANCE = 0.5
FREE_SHARE, FREE_BYTES = 0.10, 5_000_000_000
EMPTY_SHARE, EMPTY_BYTES = 0.02, 500_000_000
"""Of a disk: a warning, or a problem, where less is free than both the share and the bytes."""
FREE_INODES = 0.05
WORN_TENTHS, WORN_OUT_TENTHS = 8, 10
MODEL_SHARE = 1.1
"""What a model needs at least, by the size of its weights; the same as `fleet` asks for."""
PI_LOW_POWER, PI_TOO_HOT = 0x10001, 0xE000E
"""Raspberry Pi's get_throttled: bits 0 and 16 for too little voltage now and since the start; 1-3 and 17-19 for slowing down.
https://www.raspberrypi.com/documentation/computers/os.html#get_throttled"""


def gigabytes(number: float) -> str:
    """A size as people say it."""
    return f"{number / 1e9:.1f} GB"


def threads_oversubscribed(facts: Facts) -> Iterator[Finding]:
    """More threads than cores: encoders are not counted, they work in bursts among the others' cores by design."""
    if facts.topology is None:
        return
    quota = facts.topology.quota_cpus
    cores = len(facts.topology.cores)
    limit = cores if quota is None else min(cores, max(1, int(quota)))
    threads = sum(place.threads for place in facts.place)
    if threads > limit:
        fair = max(1, limit // len(facts.place))
        yield Finding(
            "threads_oversubscribed", "warning",
            f"{len(facts.place)} models have {threads} compute threads in all; this service may use {limit} cores.",
            "Threads of a model wait for each other many times a token, so one that has to wait for its core holds all the others up.",
            f"Set `threads` to {fair}, or serve at most {max(1, limit // 2)} models at the same time.",
        )  # fmt: skip


def cpu_quota_throttles(facts: Facts) -> Iterator[Finding]:
    """The cgroup's CPU time is used up in many of its periods."""
    group = facts.cgroup
    if group.periods >= THROTTLED_PERIODS and group.throttled > THROTTLED_SHARE * group.periods:
        yield Finding(
            "cpu_quota_throttles", "warning",
            f"The CPU quota stopped the service in {group.throttled} of {group.periods} periods "
            f"({group.throttled / group.periods:.0%}; up to {THROTTLED_SHARE:.0%} is usual).",
            "All engine threads stand still until the next period, up to a tenth of a second each time: answers come in jerks.",
            "Raise the quota to a whole number of CPUs (systemd CPUQuota=, docker --cpus), or lower `threads`.",
        )  # fmt: skip


def memory_too_small(facts: Facts) -> Iterator[Finding]:
    """The served models do not fit what the service may use."""
    served = [model for model in facts.models if model.served]
    needed = int(MODEL_SHARE * sum(model.size_bytes for model in served))
    limit = facts.memory.total_bytes
    where, how = "the machine has", "Serve a smaller model, or one quantized further: `appliance models quantize`."
    if facts.cgroup.memory_limit_bytes is not None and facts.cgroup.memory_limit_bytes < limit:
        limit, where = facts.cgroup.memory_limit_bytes, "the service may use"
        how = "Raise the limit (systemd MemoryMax=, docker --memory), or serve a smaller model."
    if 0 < limit < needed:
        yield Finding(
            "memory_too_small", "problem",
            f"The served models need {gigabytes(needed)} of memory at least; {where} {gigabytes(limit)}.",
            "Weights are read from the disk again and again, or the kernel ends the engine.", how,
        )  # fmt: skip


def out_of_memory_kills(facts: Facts) -> Iterator[Finding]:
    """The kernel ended a process of the service for memory."""
    if facts.cgroup.oom_kills:
        limit = facts.cgroup.memory_limit_bytes
        bound = f" (limit {gigabytes(limit)})" if limit else ""
        yield Finding(
            "out_of_memory_kills", "problem", f"The kernel has ended {facts.cgroup.oom_kills} processes of the service for memory{bound}; 0 is right.",
            "Every answer that the engine was writing is lost, and it has to be loaded again.",
            "Lower `ctx_size` or `parallel`, serve a smaller model, or raise MemoryMax= of the unit.",
        )  # fmt: skip


def memory_swapped(facts: Facts) -> Iterator[Finding]:
    """Engines' memory lies on the disk."""
    engines = [engine for engine in facts.engines if engine.swapped_bytes > SWAPPED_BYTES]
    if engines:
        parts = ", ".join(f"{engine.name} {gigabytes(engine.swapped_bytes)}" for engine in engines)
        yield Finding(
            "memory_swapped", "warning", f"Memory of engines lies in swap: {parts} (up to {SWAPPED_BYTES >> 20} MB is usual); vm.swappiness is {facts.memory.swappiness}.",
            "Each token needs all of a model's memory, and a disk is a thousand times slower.",
            "Free memory (a smaller model, a lower `ctx_size` or `cache_mb`), then `sysctl vm.swappiness=1` and restart the service; "
            "`mlock` keeps the weights in memory.",
        )  # fmt: skip


def too_hot(facts: Facts) -> Iterator[Finding]:
    """The processor is, or was, slowed down for heat."""
    cpu = facts.processor
    hours = cpu.uptime_s / 3600
    remedy = "Clean the fan and the vents, give the box air, or set `threads` lower; `sensors` shows temperatures."
    why = "A processor that is too hot runs at a part of its speed, and every answer takes longer."
    for zone in cpu.zones:
        limit = zone.limit_c if zone.limit_c else HOT_C
        if zone.celsius >= limit:
            yield Finding("too_hot", "warning", f"The thermal zone {zone.name} is at {zone.celsius:.0f} °C; from {limit:.0f} °C on it is slowed down.", why, remedy)
    if cpu.throttles and cpu.throttles > THROTTLES_PER_HOUR * hours:
        yield Finding(
            "throttled_for_heat", "warning",
            f"A core was slowed down for heat {cpu.throttles} times in {hours:.0f} hours (more than {THROTTLES_PER_HOUR:g} an hour).", why, remedy,
        )  # fmt: skip
    if cpu.pi_flags & PI_TOO_HOT:
        yield Finding("throttled_for_heat", "warning", f"The board says that it was slowed down (get_throttled {cpu.pi_flags:#x}; 0x0 is right).", why, remedy)


def low_voltage(facts: Facts) -> Iterator[Finding]:
    """A Raspberry Pi on a weak power supply."""
    flags = facts.processor.pi_flags
    if flags & PI_LOW_POWER:
        yield Finding(
            "low_voltage", "problem", f"The board had too little voltage (get_throttled {flags:#x}; 0x0 is right).",
            "It slows down, and writes to the disk may be lost or wrong.", "Use the power supply made for this board, and a short cable.",
        )  # fmt: skip


def slow_governor(facts: Facts) -> Iterator[Finding]:
    """The lowest frequency all the time. With the drivers that end in "pstate" and "-epp" powersave is another thing, and right."""
    cpu = facts.processor
    if cpu.governor == "powersave" and "pstate" not in cpu.driver:
        yield Finding(
            "slow_governor", "warning", f"The CPU governor is powersave (driver {cpu.driver or 'unknown'}); schedutil, ondemand or performance is right.",
            "The cores stay at their lowest frequency whatever there is to do.",
            "`cpupower frequency-set -g schedutil`, and the same in the settings of your system, so that it holds after a restart.",
        )  # fmt: skip


def no_hugepages(facts: Facts) -> Iterator[Finding]:
    """Transparent huge pages are off."""
    if facts.memory.hugepages == "never":
        yield Finding(
            "no_hugepages", "note", "Transparent huge pages are switched off (never; `always` is meant).",
            "Large buffers of a model are kept in pages of 4 kB, and finding the pages costs a few per cent of the speed on most processors.",
            "`echo always > /sys/kernel/mm/transparent_hugepage/enabled` as root, and transparent_hugepage=always on the kernel's command line.",
        )  # fmt: skip


def memory_errors(facts: Facts) -> Iterator[Finding]:
    """The memory controller counted errors."""
    memory = facts.memory
    if memory.corrected or memory.uncorrected:
        yield Finding(
            "memory_errors", "problem" if memory.uncorrected else "warning",
            f"The memory has had {memory.corrected} errors that were corrected and {memory.uncorrected} that were not since the start; 0 is right.",
            "Weights and databases that lie in bad memory become wrong without notice.",
            "Look with `ras-mc-ctl --errors` (package rasdaemon) which module it is, and replace it.",
        )  # fmt: skip


def unbalanced_nodes(facts: Facts) -> Iterator[Finding]:
    """NUMA nodes with very different memory, and a model that spans nodes because somebody wants it so."""
    nodes = facts.memory.by_node
    if len(nodes) > 1 and min(nodes.values()) < BALANCE * max(nodes.values()):
        sizes = ", ".join(f"node {node} {gigabytes(size)}" for node, size in sorted(nodes.items()))
        large = max(nodes, key=lambda node: nodes[node])
        where = format_cpu_list(cpu.cpu for cpu in (facts.topology.cpus if facts.topology else ()) if cpu.node == large)
        yield Finding(
            "unbalanced_nodes", "note", f"The memory is not spread evenly: {sizes}.",
            "Threads on the node with little memory read weights through the other one, at a part of the speed.",
            "Put the same modules into the slots of each processor" + (f", or set `cpus` to {where}." if where else "."),
        )  # fmt: skip
    chosen = facts.settings.get("threads") or facts.settings.get("cpus")
    for place in facts.place:
        if place.node is None and len(nodes) > 1 and chosen:
            yield Finding(
                "model_spans_nodes", "note", f"A model runs on CPUs {format_cpu_list(place.cpus)}, which belong to several NUMA nodes; one is best.",
                "Some of its threads read weights from far memory.", "Leave `threads` and `cpus` at their defaults, or set `cpus` to the CPUs of one node.",
            )  # fmt: skip


def disk_full(facts: Facts) -> Iterator[Finding]:
    """Little space, or few inodes, where something of ours lies."""
    for disk in facts.disks:
        little = disk.free_bytes < min(FREE_SHARE * disk.total_bytes, FREE_BYTES)
        none = disk.free_bytes < min(EMPTY_SHARE * disk.total_bytes, EMPTY_BYTES)
        remedy, why = f"Remove what other programs left in {disk.folder}.", "Large requests are kept there for a moment, and fail where there is no room."
        if "data folder" in disk.purpose:
            remedy = "Remove a model (`appliance models remove NAME`), lower `cache_mb`, or make room with other files."
            why = "When nothing can be written any more, answers are not remembered, keys cannot be made and models not be added."
        if little:
            limit = min(FREE_SHARE * disk.total_bytes, FREE_BYTES)
            yield Finding(
                "disk_full", "problem" if none else "warning",
                f"Of the disk with the {disk.purpose} ({disk.folder}) {gigabytes(disk.free_bytes)} of {gigabytes(disk.total_bytes)} are free; "
                f"{gigabytes(limit)} should be.", why, remedy,
            )  # fmt: skip
        if disk.inodes and disk.free_inodes < FREE_INODES * disk.inodes:
            yield Finding(
                "inodes_used_up", "warning",
                f"The disk with the {disk.purpose} ({disk.folder}) has room for {disk.free_inodes} more files, of {disk.inodes}; 5 % should be free.",
                why, f"Find the folder with the many small files: `du --inodes -x {disk.folder} | sort -n | tail`.",
            )  # fmt: skip


def disk_read_only(facts: Facts) -> Iterator[Finding]:
    """A filesystem that cannot be written."""
    for disk in facts.disks:
        if disk.read_only:
            yield Finding(
                "disk_read_only", "problem", f"The disk with the {disk.purpose} ({disk.folder}) is mounted read-only; it must be writable.",
                "Nothing can be kept. Linux also does this to a disk that has had errors.",
                f"Look at `dmesg` for errors of the disk; without any, `mount -o remount,rw $(findmnt -no TARGET -T {disk.folder})`.",
            )  # fmt: skip


def disk_worn(facts: Facts) -> Iterator[Finding]:
    """An eMMC chip near the end of its life."""
    for chip in facts.flash:
        if chip.used_tenths >= WORN_TENTHS or chip.end > 1:
            worn = chip.used_tenths > WORN_OUT_TENTHS or chip.end > 2
            yield Finding(
                "disk_worn", "problem" if worn else "warning",
                f"The chip {chip.device} has used {min(chip.used_tenths, 10) * 10} % of the life it was made for "
                f"(from {WORN_TENTHS * 10} % on it should be replaced) and says {('nothing', 'normal', 'warning', 'urgent')[min(chip.end, 3)]} of its spare blocks.",
                "A worn chip becomes read-only, or loses data, without another warning.",
                "Copy the data folder to another disk now, and move the system to a new one soon.",
            )  # fmt: skip


def disk_errors(facts: Facts) -> Iterator[Finding]:
    """Errors that ext4 has written down."""
    for device, number in facts.disk_errors.items():
        yield Finding(
            "disk_errors", "problem", f"The filesystem on {device} has noted {number} errors; 0 is right.",
            "Files may be damaged, databases among them, and the kernel may make it read-only.",
            f"Copy the data folder elsewhere, then check the disk: `tune2fs -l /dev/{device}`, and restart once with fsck.mode=force on the kernel's command line.",
        )  # fmt: skip


def clock_wrong(facts: Facts) -> Iterator[Finding]:
    """A clock that runs by itself, or that is behind what was written already."""
    clock = facts.clock
    set_it = "Name a time server of your network in /etc/systemd/timesyncd.conf and `timedatectl set-ntp true`; without one: `timedatectl set-time`."
    behind = clock.newest_at - facts.now
    if behind > 60:
        yield Finding(
            "clock_in_the_past", "problem", f"The clock is {behind / 3600:.1f} hours behind {clock.newest}, which was written here already.",
            "Sessions, keys and remembered answers end at wrong times, and certificates seem not to be valid yet.", set_it,
        )  # fmt: skip
    elif clock.synchronised is False:
        yield Finding(
            "clock_not_synchronised", "note", "Nobody sets the clock of this box; a quartz is off by some seconds a day.",
            "Sooner or later the times in logs are wrong, and answers and certificates end at wrong times.", set_it,
        )  # fmt: skip


RULES = (
    threads_oversubscribed, cpu_quota_throttles, memory_too_small, out_of_memory_kills, memory_swapped, too_hot, low_voltage, slow_governor,
    no_hugepages, memory_errors, unbalanced_nodes, disk_full, disk_read_only, disk_worn, disk_errors, clock_wrong,
)  # fmt: skip
