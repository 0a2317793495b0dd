"""Recorded machines (trees/*.txt: "# comment" lines, then "== path" and the file's content) and this one."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.placement import ChildPlacement, child_environment, describe, plan_threads, to_json
from appliance.engine.topology import (
    CPU_NUMBER_LIMIT,
    LogicalCpu,
    Topology,
    format_cpu_list,
    observed_placement,
    parse_cpu_list,
    read_topology,
)
from appliance.errors import ConfigError

TREES = Path(__file__).parent / "trees"
MACHINES = sorted(path.stem for path in TREES.glob("*.txt"))


def unpack(text: str, root: Path) -> Path:
    """Make the files of a recorded tree under `root`."""
    path, lines = None, []
    for line in [*text.splitlines(), "== "]:
        if line.startswith("== "):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("\n".join(lines) + "\n")
            path, lines = root / line[3:], []
        elif path is not None:
            lines.append(line)
    return root


def write_again(path: Path, data: bytes) -> None:
    """Other content for a file. A file that is cut to nothing and filled again is put on the disk at once by ext4."""
    path.unlink()
    path.write_bytes(data)


def unpacked_in(base: Path) -> Callable[[str], Path]:
    """A function that gives the root of a machine's tree under `base`; it is unpacked at the first call."""
    return functools.cache(lambda machine: unpack((TREES / f"{machine}.txt").read_text(), base / machine))


@pytest.fixture
def recorded(tmp_path):
    """recorded("rk3588") -> the root of that machine's tree."""
    return unpacked_in(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """As `recorded`, but one tree for all tests: to read only."""
    return unpacked_in(tmp_path_factory.mktemp("machines"))


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """As `recorded`, but one tree for all tests, each of which writes all its files again."""
    return unpacked_in(tmp_path_factory.mktemp("spoiled"))


@pytest.fixture
def machine(shared):
    """machine("rk3588") -> its Topology."""
    return lambda name: read_topology(shared(name))


def flat(count: int, *, quota: float | None = None, nodes: int = 1) -> Topology:
    """Cores without SMT, spread evenly over sockets of one node each."""
    cpus = tuple(LogicalCpu(c, c, c * nodes // count, c * nodes // count) for c in range(count))
    return Topology(cpus, quota_cpus=quota, online_cpus=count)


def only(placement) -> ChildPlacement:
    [child] = placement.children
    return child


# CPU lists


@given(st.sets(st.integers(0, CPU_NUMBER_LIMIT - 1)))
def test_a_formatted_list_reads_back_as_the_same_cpus(cpus):
    assert parse_cpu_list(format_cpu_list(cpus)) == tuple(sorted(cpus))


@given(st.text(max_size=30))
def test_any_text_is_a_cpu_list_or_a_config_error(text):
    try:
        cpus = parse_cpu_list(text, param="cpus")
    except ConfigError as error:
        assert error.param == "cpus" and error.remedy
    else:
        assert parse_cpu_list(format_cpu_list(cpus)) == cpus


def test_ranges_numbers_repeats_and_spaces_are_read():
    assert parse_cpu_list(" 8, 0-3,2 \n") == (0, 1, 2, 3, 8)
    assert format_cpu_list([8, 2, 0, 1, 3]) == "0-3,8"
    assert parse_cpu_list("") == () and format_cpu_list([]) == ""


@pytest.mark.parametrize(
    "junk", ["a", "1-", "-1", "3-1", "1,,2", "0x3", "1 2", "0-7:2", "٣", "8192", "0-999999999"])
def test_junk_is_refused_with_the_offending_part(junk):
    with pytest.raises(ConfigError) as caught:
        parse_cpu_list(junk)
    assert junk.split(",")[0] in str(caught.value) and '"0-3,8"' in str(caught.value)


# Reading recorded machines


def test_a_big_little_board_has_efficiency_and_performance_cores(machine):
    board = machine("rk3588")
    assert [c.kind for c in board.cpus] == ["efficiency"] * 4 + ["performance"] * 4
    assert [c.capacity for c in board.cpus] == [414] * 4 + [1002] * 2 + [1024] * 2
    assert len(board.cores) == 8 and board.nodes == (0,) and board.quota_cpus is None
    assert (board.model_name, board.arch) == ("Radxa ROCK 5B", "aarch64")


def test_siblings_packages_and_nodes_are_read_on_two_sockets(machine):
    box = machine("xeon_2x8x2")
    assert len(box.cpus) == 32 and len(box.cores) == 16 and box.nodes == (0, 1)
    assert box.cpus[24] == LogicalCpu(24, core=8, package=1, node=1)
    assert "Xeon" in box.model_name and box.arch == "x86_64"


def test_the_hybrid_chip_is_known_by_its_counter_units(machine):
    box = machine("hybrid_8p8e")
    assert [c.cpu for c in box.cpus if c.kind == "efficiency"] == list(range(16, 24))
    assert len(box.cores) == 16


@pytest.mark.parametrize(("name", "quota"), [
    ("container_quota", 1.5), ("nested_quota", 2.5), ("cgroup_v1_quota", 3.0), ("vm_2", None),
    ("rk3588", None)])
def test_the_tightest_quota_of_all_cgroups_counts(machine, name, quota):
    assert machine(name).quota_cpus == quota


def test_a_cpuset_hides_cpus_but_the_machine_is_still_counted(machine):
    box = machine("cpuset_2_3_6")
    assert box.allowed == (2, 3, 6) and box.online_cpus == 8


def test_the_allowed_cpus_can_be_given(shared):
    assert read_topology(shared("vm_2"), allowed={1, 5}).allowed == (1,)


def test_without_topology_files_each_cpu_is_a_core_of_one_node(tmp_path):
    files = {"proc/cpuinfo": "processor\t: 0\n\nprocessor\t: 1\n\nprocessor\t: 2\n",
             "proc/self/status": "Cpus_allowed_list:\t0-1\n"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert read_topology(tmp_path).cpus == (LogicalCpu(0, 0), LogicalCpu(1, 1))


def test_an_empty_tree_is_one_cpu(tmp_path):
    box = read_topology(tmp_path)
    assert box.cpus == (LogicalCpu(0, 0),) and box.quota_cpus is None and box.online_cpus == 1
    assert only(plan_threads(box)).threads == 1


JUNK = [b"", b"\xff\xfe\x00junk\n", b"-1\n", b"9" * 5000, b"3-1,x\n", b"100000 0\n", b"::::\n"]


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("junk", JUNK)
def test_a_tree_full_of_junk_still_gives_a_plan(spoiled, name, junk):
    root = spoiled(name)
    for path in [p for p in root.rglob("*") if p.is_file()]:
        write_again(path, junk)
    box = read_topology(root)
    assert box.cpus and only(plan_threads(box)).threads >= 1


@pytest.mark.parametrize("junk", JUNK)
def test_one_malformed_file_spoils_no_other(recorded, junk):
    root = recorded("nested_quota")
    for path in [p for p in root.rglob("*") if p.is_file()]:
        good = path.read_bytes()
        write_again(path, junk)
        box = read_topology(root)
        assert box.allowed == tuple(range(8)) and len(box.cores) == 8, path
        assert box.quota_cpus == 2.5 or path.name in ("cpu.max", "cgroup"), path
        write_again(path, good)


def test_a_folder_where_a_file_should_be_is_ignored(recorded):
    root = recorded("container_quota")
    (root / "sys/fs/cgroup/cpu.max").unlink()
    (root / "sys/fs/cgroup/cpu.max").mkdir()
    assert read_topology(root).quota_cpus is None


def test_a_cgroup_path_outside_our_namespace_is_walked_from_the_mount(recorded):
    root = recorded("container_quota")
    (root / "proc/self/cgroup").write_text("0::/../../user.slice\n")
    assert read_topology(root).quota_cpus == 1.5


# Planning: one model


@pytest.mark.parametrize(("name", "cpus", "threads"), [
    ("rk3588", "4-7", 4),             # the A76 cores
    ("xeon_2x8x2", "0-7", 8),         # one socket, one thread a core
    ("container_quota", "0-7", 1),    # 1.5 CPUs, free to move
    ("nested_quota", "0-7", 2),
    ("cgroup_v1_quota", "0-7", 3),
    ("hybrid_8p8e", "0,2,4,6,8,10,12,14", 8),
    ("cpuset_2_3_6", "2-3,6", 3),
    ("vm_2", "0-1", 2),
])
def test_each_machine_gets_its_default_placement(machine, name, cpus, threads):
    child = only(plan_threads(machine(name)))
    assert (format_cpu_list(child.cpus), child.threads, child.shared) == (cpus, threads, False)
    assert child.node == 0


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.0, 1), (1.99, 1), (2.0, 2), (7.9, 7), (64.0, 8)])
def test_quota_is_rounded_down(quota, threads):
    placement = plan_threads(flat(8, quota=quota), reserve_cores=0)
    assert only(placement).threads == threads


def test_threads_under_a_quota_may_move_over_all_allowed_cpus():
    child = only(plan_threads(flat(8, quota=1.5)))
    assert child.cpus == tuple(range(8)) and not child.pinned


def test_a_quota_that_covers_every_core_pins():
    assert only(plan_threads(flat(2, quota=2.0))).pinned


def test_a_quota_below_one_cpu_is_explained():
    assert any("less than one" in note for note in plan_threads(flat(2, quota=0.5)).notes)


def test_a_single_performance_core_is_not_used_alone():
    cpus = (LogicalCpu(0, 0), *(LogicalCpu(c, c, kind="efficiency") for c in range(1, 5)))
    assert only(plan_threads(Topology(cpus, online_cpus=5))).threads == 5


def test_efficiency_cores_alone_are_all_used(shared):
    little = read_topology(shared("rk3588"), allowed=range(4))
    assert only(plan_threads(little)).cpus == (0, 1, 2, 3)


def test_one_of_eight_cores_is_left_to_the_web_worker():
    placement = plan_threads(flat(8))
    assert only(placement).cpus == tuple(range(1, 8)) and placement.front_cpus == (0,)
    assert only(plan_threads(flat(8), reserve_cores=0)).threads == 8
    assert only(plan_threads(flat(4))).threads == 4
    assert only(plan_threads(flat(2), reserve_cores=5)).threads == 1


def test_the_web_worker_gets_what_the_engine_leaves(machine):
    assert plan_threads(machine("rk3588")).front_cpus == (0, 1, 2, 3)


def test_the_web_worker_shares_when_nothing_is_left():
    assert plan_threads(flat(2)).front_cpus == (0, 1)


def test_a_virtual_machine_with_a_package_per_cpu_is_one_domain():
    cpus = tuple(LogicalCpu(c, c, package=c) for c in range(4))
    assert only(plan_threads(Topology(cpus, online_cpus=4))).cpus == (0, 1, 2, 3)


def test_a_socket_cut_into_nodes_is_one_domain():
    cpus = tuple(LogicalCpu(c, c, node=c // 2) for c in range(4))
    placement = plan_threads(Topology(cpus, online_cpus=4))
    assert only(placement).cpus == (0, 1, 2, 3) and only(placement).node is None
    assert any("several NUMA nodes" in note for note in placement.notes)
    assert only(plan_threads(Topology(cpus, online_cpus=4), wanted_threads=2)).node == 0


# Planning: explicit wishes


def test_explicit_threads_stay_inside_one_node_if_they_fit(machine):
    child = only(plan_threads(machine("xeon_2x8x2"), wanted_threads=6))
    assert child.cpus == (0, 1, 2, 3, 4, 5) and child.node == 0


def test_more_threads_than_a_node_has_cores_go_to_the_other_node_before_siblings(machine):
    placement = plan_threads(machine("xeon_2x8x2"), wanted_threads=12)
    assert only(placement).node is None and set(only(placement).cpus) <= set(range(16))
    assert any("several NUMA nodes" in note for note in placement.notes)


def test_siblings_are_used_only_when_asked_for(machine):
    placement = plan_threads(machine("hybrid_8p8e"), wanted_threads=17)
    assert only(placement).cpus == (0, 1, *range(2, 16, 2), *range(16, 24))
    assert any("17 used on 16 cores" in note for note in placement.notes)


def test_explicit_cpus_get_one_thread_each(machine):
    assert only(plan_threads(machine("rk3588"), cpus="0-5")) == ChildPlacement((0, 1, 2, 3, 4, 5), 6, 0)
    assert only(plan_threads(machine("xeon_2x8x2"), cpus="6-9")).cpus == (6, 7, 8, 9)


def test_threads_are_placed_on_the_best_of_the_listed_cpus(machine):
    box = machine("xeon_2x8x2")
    assert only(plan_threads(box, wanted_threads=2, cpus="0-1,16-17")).cpus == (0, 1)


def test_listed_cpus_under_a_quota_get_the_quotas_threads():
    child = only(plan_threads(flat(8, quota=1.5), cpus="2-4"))
    assert child == ChildPlacement((2, 3, 4), threads=1, node=0)


@pytest.mark.parametrize(("options", "param", "says"), [
    ({"cpus": "1-3"}, "cpus", "asks for CPU 1; allowed are 2-3,6"),
    ({"cpus": ""}, "cpus", "asks for CPU none"),
    ({"cpus": "two"}, "cpus", "'two' is not a CPU number"),
    ({"wanted_threads": 0}, "threads", "less than 1"),
    ({"wanted_threads": 4}, "threads", "more than the 3 CPUs it may run on (2-3,6)"),
    ({"wanted_threads": 2, "cpus": "6"}, "threads", "more than the 1 CPU it may run on (6)"),
])
def test_an_impossible_wish_names_the_setting_and_the_limit(machine, options, param, says):
    with pytest.raises(ConfigError) as caught:
        plan_threads(machine("cpuset_2_3_6"), **options)
    assert caught.value.param == param and says in str(caught.value) and caught.value.remedy


def test_threads_above_the_quota_are_refused_with_the_quota(machine):
    box = machine("container_quota")
    with pytest.raises(ConfigError, match=r"1\.5 CPUs, rounded down to 1.*CPUQuota="):
        plan_threads(box, wanted_threads=2)
    assert only(plan_threads(box, wanted_threads=1)).threads == 1


# Planning: several models


def test_two_models_on_two_cores_share_them():
    placement = plan_threads(flat(2), children=2)
    assert [(c.cpus, c.threads, c.shared) for c in placement.children] == [((0, 1), 2, True)] * 2
    assert any("2 models share CPUs 0-1" in note for note in placement.notes)


def test_two_models_on_four_cores_are_kept_apart():
    placement = plan_threads(flat(4), children=2)
    assert [c.cpus for c in placement.children] == [(0, 1), (2, 3)]
    assert not any(c.shared for c in placement.children)


def test_uneven_cores_are_all_used():
    assert [c.cpus for c in plan_threads(flat(7), children=3).children] == [(0, 1), (2, 3), (4, 5, 6)]


def test_models_are_spread_over_the_nodes(machine):
    placement = plan_threads(machine("xeon_2x8x2"), children=3)
    assert sorted(c.node for c in placement.children) == [0, 0, 1]
    assert sorted(c.threads for c in placement.children) == [4, 4, 8]
    cpus = [cpu for c in placement.children for cpu in c.cpus]
    assert len(cpus) == len(set(cpus)) == 16


def test_explicit_threads_of_two_models_are_kept_apart_if_they_fit():
    assert [c.cpus for c in plan_threads(flat(4), 1, children=2).children] == [(0,), (2,)]
    shared = plan_threads(flat(4), 3, children=2).children
    assert [c.cpus for c in shared] == [(0, 1, 2)] * 2 and all(c.shared for c in shared)


def test_models_under_a_quota_divide_the_quota_or_share_it():
    apart = plan_threads(flat(16, quota=5.0), children=2).children
    assert [(c.threads, c.shared) for c in apart] == [(2, False)] * 2
    together = plan_threads(flat(16, quota=3.0), children=2).children
    assert [(c.threads, c.shared) for c in together] == [(3, True)] * 2


def test_no_model_is_no_placement_and_fewer_is_a_mistake():
    assert plan_threads(flat(2), children=0).children == ()
    assert plan_threads(flat(8, quota=1.5), 1, children=0).children == ()
    with pytest.raises(ValueError):
        plan_threads(flat(2), children=-1)


# Planning: encoders beside the models that generate


def test_an_encoder_on_a_small_box_shares_the_cores_and_takes_none():
    alone, placement = plan_threads(flat(2)), plan_threads(flat(2), encoders=1)
    assert placement.children == alone.children and placement.front_cpus == alone.front_cpus
    assert placement.encoders == (ChildPlacement((0, 1), 1, 0, shared=True),)
    assert any("Encoders have one thread on CPUs 0-1" in note for note in placement.notes)
    assert child_environment(placement.encoders[0])["OMP_PROC_BIND"] == "false"


@pytest.mark.parametrize(("name", "cpus", "threads", "together"), [
    ("rk3588", "0-3", 4, False),            # the little cores
    ("xeon_2x8x2", "8-15", 8, False),       # the other socket
    ("hybrid_8p8e", "16-23", 8, False),
    ("container_quota", "0-7", 1, True),    # time is what is scarce
    ("cpuset_2_3_6", "2-3,6", 1, True),
    ("vm_2", "0-1", 1, True),
])
def test_encoders_get_the_cores_that_are_left_or_one_thread_among_the_others(machine, name, cpus, threads, together):
    placement = plan_threads(machine(name), encoders=1)
    (child,) = placement.encoders
    assert (format_cpu_list(child.cpus), child.threads, child.shared) == (cpus, threads, together)
    assert placement.children == plan_threads(machine(name)).children


def test_the_core_that_is_left_to_the_web_worker_is_the_encoders_too():
    placement = plan_threads(flat(8), encoders=2)
    assert placement.encoders == (ChildPlacement((0,), 1, 0, shared=True),) * 2


def test_wishes_are_about_the_models_that_generate():
    assert plan_threads(flat(4), 3, encoders=1).encoders == (ChildPlacement((3,), 1, 0),)
    listed = plan_threads(flat(4), cpus="0-1", encoders=1).encoders
    assert listed == (ChildPlacement((0, 1), 1, 0, shared=True),)
    assert plan_threads(flat(2), children=0, encoders=1).encoders[0].cpus == (0, 1)


def test_encoders_are_described_and_told_to_programs():
    box = flat(2)
    placement = plan_threads(box, encoders=1)
    assert "  encoder 1: 1 thread on CPUs 0-1 (free to move, shared)" in describe(box, placement)
    assert to_json(box, placement)["encoders"] == [
        {"cpus": (0, 1), "threads": 1, "node": 0, "shared": True, "pinned": False}]


@given(
    count=st.integers(1, 24), smt=st.booleans(), nodes=st.integers(1, 4), little=st.integers(0, 24),
    quota=st.none() | st.floats(0.1, 40), children=st.integers(0, 6), threads=st.none() | st.integers(1, 48),
    encoders=st.integers(0, 2))
def test_every_plan_stays_inside_the_box(count, smt, nodes, little, quota, children, threads, encoders):
    half = max(1, count // 2) if smt else count
    cpus = tuple(LogicalCpu(c, c % half, c % half * nodes // half, c % half * nodes // half,
                            "efficiency" if c % half < little else "performance") for c in range(count))
    box = Topology(cpus, quota_cpus=quota, online_cpus=count)
    limit = count if quota is None else max(1, int(quota))
    try:
        placement = plan_threads(box, threads, children=children, encoders=encoders)
    except ConfigError:
        assert threads > min(count, limit)
        return
    assert len(placement.children) == children and set(placement.front_cpus) <= set(box.allowed)
    for child in placement.children:
        assert 1 <= child.threads <= min(len(child.cpus), limit)
        assert threads in (None, child.threads)
        assert set(child.cpus) <= set(box.allowed) and len(set(child.cpus)) == len(child.cpus)
        if quota is None:
            assert child.pinned
    apart = [c for c in placement.children if not c.shared]
    assert sum(c.threads for c in apart) <= min(count, limit)
    assert len(placement.encoders) == encoders
    assert placement.children == plan_threads(box, threads, children=children).children
    for child in placement.encoders:
        assert set(child.cpus) <= set(box.allowed) and 1 <= child.threads <= min(len(child.cpus), limit)
        taken = {c for other in placement.children for c in other.cpus}
        assert child.shared or not taken & set(child.cpus)
        assert child.threads == 1 or sum(c.threads for c in apart) + child.threads <= limit
    pinned = [cpu for c in apart if c.pinned and len(apart) == children for cpu in c.cpus]
    if quota is None:
        assert len(pinned) == len(set(pinned))
    assert json.loads(json.dumps(to_json(box, placement)))["children"] is not None
    assert describe(box, placement)


# Telling people


def test_the_notes_say_why(machine):
    assert "The CPU quota (cpu.max) allows 1.5 CPUs; rounded down to 1 thread, not pinned." in plan_threads(
        machine("container_quota")).notes
    assert "SMT: 32 hardware threads, 8 used." in plan_threads(machine("xeon_2x8x2")).notes


def test_the_cpuset_is_named_in_the_notes(machine):
    assert plan_threads(machine("cpuset_2_3_6")).notes == ("The cpuset allows 3 of 8 CPUs (2-3,6).",)


def test_the_description_is_complete(machine):
    box = machine("rk3588")
    assert describe(box, plan_threads(box)) == """\
Radxa ROCK 5B (aarch64)
8 of 8 CPUs allowed (0-7), 8 physical cores, 1 NUMA node, no CPU quota
  node 0: 4 efficiency cores, CPUs 0-3
  node 0: 4 performance cores, CPUs 4-7
  model 1: 4 threads on CPUs 4-7 (one thread to each CPU)
  web worker and cache: CPUs 0-3
- 4 performance cores used, 4 efficiency cores left to the rest: \
the slowest thread sets the pace at each barrier."""


def test_the_json_holds_the_same_facts(machine):
    box = machine("container_quota")
    data = json.loads(json.dumps(to_json(box, plan_threads(box))))
    assert data["quota_cpus"] == 1.5 and data["physical_cores"] == 8 and data["numa_nodes"] == [0]
    assert data["children"] == [
        {"cpus": [0, 1, 2, 3, 4, 5, 6, 7], "threads": 1, "node": 0, "shared": False, "pinned": False}]
    assert data["cpus"][3] == {
        "cpu": 3, "core": 3, "package": 0, "node": 0, "kind": "performance", "capacity": 1024}


# Environment and what the kernel says


def test_a_pinned_child_has_its_cpus_in_the_environment():
    environment = child_environment(ChildPlacement((4, 5, 6), 3, 0))
    assert environment["OMP_NUM_THREADS"] == "3" and environment["OMP_PROC_BIND"] == "true"
    assert environment["GOMP_CPU_AFFINITY"] == "4 5 6" and environment["OMP_PLACES"] == "{4},{5},{6}"
    assert environment["OPENBLAS_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "1"
    assert "GOMP_SPINCOUNT" not in environment


def test_a_child_under_a_quota_is_not_pinned():
    environment = child_environment(only(plan_threads(flat(8, quota=1.5))))
    assert environment["OMP_NUM_THREADS"] == "1" and environment["OMP_PROC_BIND"] == "false"
    assert "GOMP_CPU_AFFINITY" not in environment and "OMP_PLACES" not in environment


def test_children_that_share_cores_do_not_spin_long():
    assert child_environment(ChildPlacement((0, 1), 2, 0, shared=True))["GOMP_SPINCOUNT"] == "1000"


def test_a_thread_name_with_parentheses_does_not_confuse_the_reader(tmp_path):
    task = tmp_path / "proc/7/task/9"
    task.mkdir(parents=True)
    (task / "stat").write_text(f"9 (a) S (b) R {' '.join(str(n) for n in range(4, 53))}\n")
    (task / "status").write_text("Name:\ta) S (b\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n")
    [thread] = observed_placement(7, tmp_path)
    assert (thread.tid, thread.name, thread.allowed_cpus, thread.last_cpu) == (9, "a) S (b", (0, 1), 39)


def test_a_process_that_is_gone_has_no_threads(tmp_path):
    assert observed_placement(7, tmp_path) == []


# As in an engine child: the main thread narrows its own mask first, so that later threads inherit it, then
# each compute thread takes its CPU. Where libgomp is installed, its threads show that it obeys.
CHILD = """
import ctypes, json, os, sys, threading
cpus = json.loads(sys.argv[1])
os.sched_setaffinity(0, cpus)
meet, done = threading.Barrier(len(cpus) + 1), threading.Event()
def compute(cpu):
    os.sched_setaffinity(0, [cpu])
    sum(range(10000))
    meet.wait()
    done.wait()
for cpu in cpus:
    threading.Thread(target=compute, args=(cpu,), daemon=True).start()
meet.wait()
gomp_masks = []
try:
    gomp = ctypes.CDLL("libgomp.so.1")
except OSError:
    pass
else:
    mask = lambda _: gomp_masks.append(sorted(os.sched_getaffinity(0)))
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(mask)
    gomp.GOMP_parallel(body, None, 0, 0)
print(json.dumps({"pid": os.getpid(), "gomp_masks": sorted(gomp_masks)}), flush=True)
sys.stdin.read()
"""


@pytest.mark.process
def test_the_threads_of_a_real_child_run_where_they_were_planned():
    child = only(plan_threads(read_topology()))
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(child.cpus)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **child_environment(child)})
    try:
        said = json.loads(process.stdout.readline())
        threads = [t for t in observed_placement(process.pid) if t.tid != process.pid]
    finally:
        process.communicate(timeout=30)
    assert all(set(t.allowed_cpus) <= set(child.cpus) for t in threads)
    pinned = sorted(t.allowed_cpus[0] for t in threads if len(t.allowed_cpus) == 1)
    assert set(pinned) == set(child.cpus), "each planned CPU holds a thread"
    assert all(t.last_cpu in t.allowed_cpus for t in threads)
    if said["gomp_masks"]:  # OpenMP itself obeyed the environment
        assert len(said["gomp_masks"]) == child.threads
        expected = [[cpu] for cpu in child.cpus] if child.pinned else [list(child.cpus)] * child.threads
        assert said["gomp_masks"] == expected
    assert process.returncode == 0


def test_this_machine_is_read_as_the_kernel_reports_it():
    box = read_topology()
    assert set(box.allowed) == os.sched_getaffinity(0)
    assert box.arch == os.uname().machine and box.online_cpus >= len(box.cpus) >= len(box.cores) >= 1
