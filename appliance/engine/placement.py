"""Which CPUs each engine child gets: the thread budget of the whole box. Pure: no file is read.

A Topology and the user's wishes go in, a Placement comes out, so that llama.cpp, ONNX Runtime, FAISS and BLAS never
add up to more than the cores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from appliance.engine.topology import LogicalCpu, Topology, first_of_each_core, format_cpu_list, parse_cpu_list
from appliance.errors import ConfigError

RESERVE_FROM_CORES = 8  # from here on one core is left to the web worker, if nothing else would be free


@dataclass(frozen=True)
class ChildPlacement:
    """Where one engine child runs: its CPUs, its number of compute threads, its NUMA node (None if it spans
    several). `shared` means that another child was given some of its CPUs (or of the quota) too."""

    cpus: tuple[int, ...]
    threads: int
    node: int | None = None
    shared: bool = False

    @property
    def pinned(self) -> bool:
        """One thread to each CPU. With more CPUs than threads the kernel moves the threads among them."""
        return self.threads == len(self.cpus)


@dataclass(frozen=True)
class Placement:
    """The thread budget of the box: one entry a child; `front_cpus`, left to all else (web worker, cache), or
    all allowed CPUs when the children took them all; and `notes`, sentences that explain it to people.
    `encoders`: children that embed, rerank or classify beside those that generate, on what these leave."""

    children: tuple[ChildPlacement, ...]
    front_cpus: tuple[int, ...]
    notes: tuple[str, ...] = ()
    encoders: tuple[ChildPlacement, ...] = ()


def plan_threads(topology: Topology, wanted_threads: int | None = None, cpus: str | None = None,
                 children: int = 1, *, encoders: int = 0, reserve_cores: int | None = None) -> Placement:
    """Give each of `children` engine children its CPUs and its number of threads, as if no encoder were there.

    encoders: further children that embed, rerank or classify. They get the cores where no other child runs, else one
    thread on the CPUs of the others; they share these among themselves, and --threads is not about them.

    wanted_threads: --threads, for each child, as in llama.cpp. cpus: --cpus, where they may run; alone it
    means one thread on each listed CPU (fewer under a quota). Both win over the defaults (one thread a
    physical core, performance cores only, one memory domain a child), but not over the cpuset and the quota.
    reserve_cores: cores that the defaults keep free of engine threads; None lets the number of cores decide.
    Raises ConfigError (param "threads" or "cpus") for a wish that cannot be met, ValueError for children < 0.
    """
    if children < 0:
        raise ValueError(f"children is {children}")
    usable = topology.cpus if cpus is None else _listed_cpus(topology, cpus)
    # Rounded down: a thread too many spends the period's quota early, and then the kernel stops all of them.
    quota = topology.quota_cpus
    budget = len(topology.cpus) if quota is None else max(1, int(quota))
    notes: list[str] = []
    if len(topology.cpus) < topology.online_cpus:
        numbers = format_cpu_list(topology.allowed)
        notes.append(f"The cpuset allows {len(topology.cpus)} of {topology.online_cpus} CPUs ({numbers}).")
    if wanted_threads is not None:
        _check_threads(topology, wanted_threads, usable, budget)
        pool = _smallest_tier(usable, wanted_threads, children)
    else:
        pool = usable if cpus is not None else _default_cores(topology, budget, reserve_cores, notes)
    domains = _memory_domains(pool)
    if wanted_threads is not None:
        domains = [d for d in domains if len(d) >= wanted_threads] or [list(pool)]
    elif cpus is not None and children < len(domains):
        domains = [list(pool)]  # the whole list was asked for
    elif 0 < children < len(domains):
        notes.append(f"{len(domains)} sockets: a model stays in one, near its weights; see --threads.")
    limited = budget < len(pool)
    if limited:
        notes.append(f"The CPU quota (cpu.max) allows {quota:g} CPUs" + (
            f"; rounded down to {_count(budget, 'thread')}, not pinned." if budget <= quota else
            ": less than one, so even one thread is stopped for a part of each period."))
    placed = _place(domains, children, wanted_threads, budget, roam=usable if limited else ())
    notes += _notes_on_use(topology, placed)
    taken = {c for child in placed if child.pinned for c in child.cpus}
    front_cpus = tuple(c for c in topology.allowed if c not in taken) or topology.allowed
    beside = _place_encoders(usable, placed, encoders, 0 if limited else budget - sum(c.threads for c in placed), notes)
    return Placement(tuple(placed), front_cpus, tuple(notes), beside)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listed_cpus(topology: Topology, cpus: str) -> tuple[LogicalCpu, ...]:
    numbers = parse_cpu_list(cpus, param="cpus")
    if not numbers or not set(numbers) <= set(topology.allowed):
        refused = format_cpu_list(set(numbers) - set(topology.allowed)) or "none"
        raise ConfigError(
            f"--cpus {cpus!r} asks for CPU {refused}; allowed are {format_cpu_list(topology.allowed)}.",
            param="cpus", remedy="Choose among these, or allow more (systemd AllowedCPUs=).")
    return tuple(c for c in topology.cpus if c.cpu in numbers)


def _check_threads(topology: Topology, wanted: int, usable: tuple[LogicalCpu, ...], budget: int) -> None:
    if wanted < 1:
        why, remedy = "less than 1", "Leave it out to get one thread per physical core."
    elif wanted > len(usable):
        where = format_cpu_list(c.cpu for c in usable)
        why = f"more than the {_count(len(usable), 'CPU')} it may run on ({where})"
        remedy = f"Use at most {len(usable)}, or allow more CPUs (--cpus, systemd AllowedCPUs=)."
    elif wanted > budget:
        why = f"more than the CPU quota allows: {topology.quota_cpus:g} CPUs, rounded down to {budget}"
        remedy = f"Use at most {budget}, or raise the quota (systemd CPUQuota=, docker --cpus)."
    else:
        return
    raise ConfigError(f"--threads {wanted} is {why}.", param="threads", remedy=remedy)


def _smallest_tier(usable: tuple[LogicalCpu, ...], threads: int, children: int) -> tuple[LogicalCpu, ...]:
    """The best CPUs that hold an explicit --threads: performance cores if all children fit there, else any
    core; SMT siblings only for one child's own wish, because they share a core's arithmetic units."""
    cores = first_of_each_core(usable)
    fast = tuple(c for c in cores if c.kind == "performance")
    tiers = (fast if len(fast) >= threads * children else (), cores, usable)
    return next(tier for tier in tiers if len(tier) >= threads)


def _default_cores(topology: Topology, budget: int, reserve: int | None,
                   notes: list[str]) -> tuple[LogicalCpu, ...]:
    """One CPU per physical core, performance cores only if there are at least two of them, less the reserve.

    Decoding splits every matrix evenly and meets at a barrier several hundred times a token, so the slowest
    thread sets the pace: one efficiency core of half the speed makes four performance cores wait for it.
    """
    cores = topology.cores
    fast = tuple(c for c in cores if c.kind == "performance")
    if 2 <= len(fast) < len(cores):
        slow = _count(len(cores) - len(fast), "efficiency core")
        notes.append(f"{_count(len(fast), 'performance core')} used, {slow} left to the rest: the slowest "
                     "thread sets the pace at each barrier.")
        cores = fast
    if reserve is None:
        # Memory bandwidth limits decoding, so one core of eight is hardly missed. On a small box it would be,
        # and there the scheduler shares. Where siblings or efficiency cores are, something is free anyway.
        reserve = 1 if len(cores) >= RESERVE_FROM_CORES and len(cores) == len(topology.cpus) else 0
    # None under a quota, where time is scarce, not cores.
    reserve = 0 if budget < len(cores) else max(0, min(reserve, len(cores) - 1))
    if reserve:  # the lowest, because interrupts and the kernel's housekeeping land on CPU 0 first
        kept = format_cpu_list(c.cpu for c in cores[:reserve])
        notes.append(f"{_count(reserve, 'core')} (CPU {kept}) left to the web worker and the cache.")
    return cores[reserve:]


def _memory_domains(pool: Iterable[LogicalCpu]) -> list[list[LogicalCpu]]:
    """CPUs near to each other (same NUMA node or package), largest group first, in each the best CPUs first.

    Neither alone will do: one socket may be cut into several nodes (sub-NUMA clusters, an L3 slice as a
    node), and many virtual machines give every virtual CPU a package of its own.
    """
    pool = tuple(pool)
    first = set(first_of_each_core(pool))
    domains: list[list[LogicalCpu]] = []
    # Second hardware threads last, slow cores after fast ones, and the cores of one node together.
    for cpu in sorted(pool, key=lambda c: (c not in first, c.kind != "performance", c.node, c.cpu)):
        near = [d for d in domains if any(c.node == cpu.node or c.package == cpu.package for c in d)]
        domains = [d for d in domains if d not in near] + [[c for d in near for c in d] + [cpu]]
    return sorted(domains, key=lambda d: (-len(d), d[0].cpu))


def _place(domains: list[list[LogicalCpu]], children: int, wanted: int | None, budget: int,
           roam: tuple[LogicalCpu, ...]) -> list[ChildPlacement]:
    """One thread to each CPU; children of a domain apart if each gets 2 cores (or its wish), else sharing.

    Two, because a model alone on one core is slow even when the rest of the box is idle, while models that
    share are slow only when they work at the same moment.
    roam: under a quota smaller than the cores, the CPUs over which `budget` threads may move instead. A quota
    usually means that the host sells the same CPUs to others: a thread pinned to one of them waits whenever a
    neighbour runs there, a free one moves to an idle CPU (the scheduler avoids one with a busy sibling).
    """
    count = [0] * len(domains)
    chosen: list[tuple[int, int]] = []
    for _ in range(children):  # to where a child gets the most cores, so that sockets fill evenly
        best = max(range(len(domains)), key=lambda d: len(domains[d]) / (count[d] + 1))
        chosen.append((best, count[best]))
        count[best] += 1
    placed = []
    for number, index in chosen:
        domain, here, size = domains[number], count[number], len(domains[number])
        if roam:
            threads = min(wanted or (budget // children if budget >= 2 * children else budget), size)
            apart = threads * children <= budget
            cpus = [c for c in roam if c.core in {d.core for d in domain}]
        else:
            apart = here == 1 or size >= (wanted or 2) * here
            start, stop = (index, index + 1) if apart else (0, here)
            cpus = domain[start * size // here:stop * size // here][:wanted]
            threads = len(cpus)
        node = cpus[0].node if len({c.node for c in cpus}) == 1 else None
        placed.append(ChildPlacement(tuple(sorted(c.cpu for c in cpus)), threads, node, shared=not apart))
    return placed


def _place_encoders(usable: Iterable[LogicalCpu], placed: list[ChildPlacement], encoders: int, spare: int,
                    notes: list[str]) -> tuple[ChildPlacement, ...]:
    """Where encoders run: they work in bursts of milliseconds, and decoding should not give up a core for them.

    A decoder's threads meet at barriers, so it loses as much as the slowest of its cores: one thread that the kernel
    moves to wherever there is a gap costs less than a thread on each core, all of them late at the same barrier.
    spare: threads that the quota leaves.
    """
    if not encoders:
        return ()
    usable = tuple(usable)
    busy = {c for child in placed for c in child.cpus}
    cores = {c.core for c in usable if c.cpu in busy}
    free = tuple(c for c in first_of_each_core(usable) if c.core not in cores)
    if free and spare > 0:
        free = max(([c for c in free if c.node == node] for node in sorted({c.node for c in free})), key=len)[:spare]
        where = tuple(sorted(c.cpu for c in free))
        place = ChildPlacement(where, len(where), free[0].node, shared=encoders > 1)
        notes.append(f"Encoders run on CPU {format_cpu_list(where)}, where no model generates.")
    else:
        where = tuple(sorted(busy)) or tuple(c.cpu for c in usable)
        nodes = {c.node for c in usable if c.cpu in where}
        place = ChildPlacement(where, 1, nodes.pop() if len(nodes) == 1 else None, shared=True)
        notes.append(f"Encoders have one thread on CPUs {format_cpu_list(where)}, where models generate too: "
                     "a core of their own would cost every answer more than it gives them.")
    return (place,) * encoders


def _notes_on_use(topology: Topology, placed: list[ChildPlacement]) -> list[str]:
    notes = []
    used = [c for c in topology.cpus if any(c.cpu in child.cpus and child.pinned for child in placed)]
    if used and len(topology.cores) < len(topology.cpus):
        cores = len(first_of_each_core(used))
        how = "" if cores == len(used) else f" on {_count(cores, 'core')}, where two slow each other down"
        notes.append(f"SMT: {len(topology.cpus)} hardware threads, {len(used)} used{how}.")
    if shared := [child for child in placed if child.shared]:
        where = format_cpu_list(c for child in shared for c in child.cpus)
        notes.append(f"{len(shared)} models share CPUs {where}: not enough to divide, so they slow "
                     "each other down when they answer at the same moment.")
    if any(child.node is None for child in placed):
        notes.append("A model spans several NUMA nodes: some of its threads read weights from far memory.")
    return notes


def child_environment(placement: ChildPlacement) -> dict[str, str]:
    """Variables to set before the engine child starts; the runtimes read them once, when they are loaded.

    The child also calls os.sched_setaffinity(0, placement.cpus) before it imports anything native. Defaults
    are set too, so that nothing inherited from the administrator's shell has a say.
    Careful in a pinned child: libgomp binds the thread that loads it to the first CPU, and threads started
    later inherit that; one that is not OpenMP's must call os.sched_setaffinity(0, placement.cpus) itself.
    """
    environment = {
        "OMP_NUM_THREADS": str(placement.threads),  # libgomp counts CPUs and knows no quota
        "OMP_DYNAMIC": "false",  # or the runtime may start fewer threads when the load is high
        # We compute with none of these, but numpy and tokenizers bring them, each with a pool of all CPUs.
        "OPENBLAS_NUM_THREADS": "1",  # numpy's wheels
        "MKL_NUM_THREADS": "1",  # numpy on conda
        "BLIS_NUM_THREADS": "1",  # numpy in some distributions
        "RAYON_NUM_THREADS": "1",  # Hugging Face tokenizers
        "TOKENIZERS_PARALLELISM": "false",  # the same, and it warns when undecided
    }
    if placement.pinned:
        environment["OMP_PROC_BIND"] = "true"  # a thread that moves leaves its cache behind
        environment["GOMP_CPU_AFFINITY"] = " ".join(map(str, placement.cpus))  # thread i on the i-th CPU
        # The same in the standard's words: an inherited OMP_PLACES would win over GOMP_CPU_AFFINITY.
        environment["OMP_PLACES"] = ",".join(f"{{{c}}}" for c in placement.cpus)
    else:
        # Why: see _place. It also switches an inherited GOMP_CPU_AFFINITY or OMP_PLACES off.
        environment["OMP_PROC_BIND"] = "false"
    if placement.shared:
        # A waiting thread spins 300,000 times before it sleeps: milliseconds that another child could use.
        # libgomp spins less with more threads than CPUs but cannot see other processes; 1000 bridge a wait.
        environment["GOMP_SPINCOUNT"] = "1000"
    return environment


def describe(topology: Topology, placement: Placement) -> str:
    """Text for `appliance topology`: the machine, its cores, each child, then the notes; no final newline."""
    cores, nodes = _count(len(topology.cores), "physical core"), _count(len(topology.nodes), "NUMA node")
    quota = "no CPU quota" if topology.quota_cpus is None else f"CPU quota {topology.quota_cpus:g}"
    where = format_cpu_list(topology.allowed)
    lines = [
        (topology.model_name or "Unknown processor") + (f" ({topology.arch})" if topology.arch else ""),
        f"{len(topology.cpus)} of {topology.online_cpus} CPUs allowed ({where}), {cores}, {nodes}, {quota}",
    ]
    for node, kind in sorted({(c.node, c.kind) for c in topology.cpus}):
        group = [c for c in topology.cpus if (c.node, c.kind) == (node, kind)]
        lines.append(f"  node {node}: {_count(len(first_of_each_core(group)), kind + ' core')}, CPUs "
                     + format_cpu_list(c.cpu for c in group))
    for kind, children in (("model", placement.children), ("encoder", placement.encoders)):
        for number, child in enumerate(children, 1):
            how = ("one thread to each CPU" if child.pinned else "free to move") + ", shared" * child.shared
            cpus = format_cpu_list(child.cpus)
            lines.append(f"  {kind} {number}: {_count(child.threads, 'thread')} on CPUs {cpus} ({how})")
    lines.append(f"  web worker and cache: CPUs {format_cpu_list(placement.front_cpus)}")
    return "\n".join(lines + [f"- {note}" for note in placement.notes])


def to_json(topology: Topology, placement: Placement) -> dict:
    """The facts of `describe` as plain values, for --json and the admin API; keys as in the dataclasses."""
    return {
        **asdict(topology), "physical_cores": len(topology.cores), "numa_nodes": topology.nodes,
        **asdict(placement),
        **{
            kind: [{**asdict(c), "pinned": c.pinned} for c in getattr(placement, kind)]
            for kind in ("children", "encoders")
        },
    }
