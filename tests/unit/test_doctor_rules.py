"""Each rule of the doctor on facts where it has something to say, and all of them on a box where nothing is wrong."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from appliance.cli import build_parser
from appliance.cli.docs import commands
from appliance.config import BY_NAME
from appliance.doctor import facts as f
from appliance.doctor.findings import SEVERITIES, counts, examine
from appliance.doctor.service import EVERY_S, RULES, Doctor
from appliance.engine.placement import ChildPlacement, plan_threads
from appliance.engine.topology import LogicalCpu, Topology
from appliance.metrics import Metrics

GB, NOW, DAY = 1_000_000_000, 1_800_000_000.0, 86_400.0
BOX = Topology(tuple(LogicalCpu(n, n, node=n // 4) for n in range(8)), online_cpus=8)
HEALTHY = f.Facts(
    now=NOW, version="1.0", settings={"host": "192.168.1.5", "port": 8080}, data_dir="/var/lib/appliance", topology=BOX,
    place=plan_threads(BOX, children=2).children, listener="us", open_ports_from=1024, uid=990, writable=True, has_keys=True, hostname="box",
    hostname_found=True, started_at=NOW - 10 * DAY, backup_at=NOW - DAY,
    processor=f.Processor(36_000, 2, (f.Zone("cpu", 60.0, 95.0), f.Zone("board", 84.9)), "intel_pstate", "powersave"),
    memory=f.Memory(16 * GB, 2 * GB, GB, 60, "madvise", by_node={0: 8 * GB, 1: 7 * GB}),
    cgroup=f.Cgroup(1000, 50, 12 * GB),
    disks=(f.Disk("data folder, backups", "/var/lib", 100 * GB, 20 * GB, 1000, 500), f.Disk("temporary files", "/tmp", 4 * GB, 3 * GB)),
    flash=(f.Flash("mmcblk0", 3, 1),),
    clock=f.Clock(True, NOW - 5, "state.db"),
    unit={"ActiveState": "active"},
    engines=(f.Engine("chat", "ready", pid=7, threads=4, restarts={"crash": 1}, resident_bytes=4 * GB, swapped_bytes=1 << 20),),
    bases=(f.Base("access.db", 9000, precious=True), f.Base("cache.db", GB, 16 << 20)),
    models=(f.Model("chat", 4 * GB, served=True), f.Model("starter", 10 * GB, shipped=True), f.Model("chat-onnx", 9 * GB), f.Model("small", 1000)),
    kept=(f.Kept("/var/lib/appliance", 0o40755, 990), f.Kept("/var/lib/appliance/access.db", 0o100600, 990, True), f.Kept("/etc/appliance/keys", 0o100640, 0, True)),
    certificate=f.Certificate("/etc/appliance/box.pem", NOW + 90 * DAY),
)  # fmt: skip


def processor(**changes) -> dict:
    return {"processor": replace(HEALTHY.processor, **changes)}


def memory(**changes) -> dict:
    return {"memory": replace(HEALTHY.memory, **changes)}


def engine(**changes) -> dict:
    return {"engines": (replace(HEALTHY.engines[0], **changes),)}


def disk(**changes) -> dict:
    return {"disks": (replace(HEALTHY.disks[0], **changes),)}


FIRING = [  # what is other than on the healthy box; the code, its severity, and numbers and names that must be told
    ({"place": (ChildPlacement((0, 1, 2, 3), 4, 0),) * 3}, "threads_oversubscribed warning", "12 compute threads, 8 cores"),
    ({"topology": replace(BOX, quota_cpus=2.5), "place": (ChildPlacement((0, 1, 2, 3), 4, 0),)}, "threads_oversubscribed warning", "4 compute, 2 cores"),
    ({"cgroup": f.Cgroup(1000, 80)}, "cpu_quota_throttles warning", "80 of 1000, 8%, 5%"),
    ({"cgroup": f.Cgroup(memory_limit_bytes=4 * GB)}, "memory_too_small problem", "4.4 GB, 4.0 GB, MemoryMax"),
    (memory(total_bytes=2 * GB), "memory_too_small problem", "4.4 GB, the machine has 2.0 GB"),
    ({"cgroup": f.Cgroup(oom_kills=3, memory_limit_bytes=5 * GB)}, "out_of_memory_kills problem", "3, 5.0 GB"),
    (engine(swapped_bytes=GB), "memory_swapped warning", "chat 1.0 GB, 16 MB, swappiness is 60"),
    (processor(zones=(f.Zone("cpu", 96.2, 95.0),)), "too_hot warning", "cpu, 96, 95"),
    (processor(zones=(f.Zone("board", 85.0),)), "too_hot warning", "board, 85"),
    (processor(throttles=11), "throttled_for_heat warning", "11 times in 10 hours"),
    (processor(pi_flags=0x80000), "throttled_for_heat warning", "0x80000"),
    (processor(pi_flags=0x10000), "low_voltage problem", "0x10000"),
    (processor(driver="acpi-cpufreq"), "slow_governor warning", "powersave, acpi-cpufreq"),
    (memory(hugepages="never"), "no_hugepages note", "never"),
    (memory(corrected=5), "memory_errors warning", "5"),
    (memory(corrected=5, uncorrected=1), "memory_errors problem", "5, 1"),
    (memory(by_node={0: 8 * GB, 1: 2 * GB}), "unbalanced_nodes note", "node 0 8.0 GB, node 1 2.0 GB, 0-3"),
    ({"settings": {"threads": 8}, "place": (ChildPlacement(tuple(range(8)), 8, None),)}, "model_spans_nodes note", "0-7"),
    (disk(free_bytes=4 * GB), "disk_full warning", "4.0 GB, 100.0 GB, 5.0 GB, /var/lib"),
    (disk(free_bytes=GB // 10), "disk_full problem", "0.1 GB"),
    ({"disks": (replace(HEALTHY.disks[1], free_bytes=GB // 10),)}, "disk_full warning", "0.1 GB, 0.4 GB, Remove what other programs left in /tmp"),
    (disk(free_inodes=10), "inodes_used_up warning", "10, 1000, 5 %"),
    (disk(read_only=True), "disk_read_only problem", "/var/lib"),
    ({"flash": (f.Flash("mmcblk0", 9, 1),)}, "disk_worn warning", "mmcblk0, 90 %, 80 %, normal"),
    ({"flash": (f.Flash("mmcblk0", 11, 2),)}, "disk_worn problem", "100 %"),
    ({"flash": (f.Flash("mmcblk0", 0, 3),)}, "disk_worn problem", "urgent"),
    ({"disk_errors": {"sda1": 4}}, "disk_errors problem", "sda1, 4"),
    ({"clock": f.Clock(True, NOW + 7200, "state.db")}, "clock_in_the_past problem", "2.0 hours, state.db"),
    ({"clock": f.Clock(False, NOW, "state.db")}, "clock_not_synchronised note", "clock"),
    ({"config_error": "prot is no setting."}, "configuration_invalid problem", "prot is no setting."),
    ({"has_keys": False}, "open_to_everybody warning", "192.168.1.5"),
    ({"listener": "other"}, "port_taken problem", "8080"),
    ({"listener": "nobody", "settings": {"host": "::1", "port": 443}}, "port_needs_privileges problem", "443, 1024"),
    ({"hostname_found": False}, "hostname_unknown warning", "box"),
    ({"failed_units": ("appliance-backup.service",)}, "unit_failed problem", "appliance-backup.service"),
    ({"failed_units": ("cups.service",)}, "unit_failed note", "cups.service"),
    (engine(state="failed", reason="there is no file."), "engine_failed problem", "chat, there is no file."),
    (engine(restarts={"hang": 15, "crash": 7}), "engine_restarts warning", "22, 10.0 days, hang 15, hang_timeout_s"),
    ({"bases": (f.Base("state.db", 1, precious=True, fault="state.db is damaged.", remedy="Put a backup there."),)}, "database_damaged problem", "state.db"),
    ({"bases": (f.Base("cache.db", 1, fault="cache.db is damaged.", remedy="Nothing to do."),)}, "database_damaged warning", "cache.db"),
    ({"bases": (f.Base("cache.db", 1, 400 << 20),)}, "database_log_grows warning", "cache.db, 400 MB, 256 MB"),
    ({"backup_at": None}, "backup_old warning", "access.db, 7 days"),
    ({"backup_at": NOW - 9 * DAY}, "backup_old warning", "9 days old"),
    ({"models": (f.Model("chat", GB, served=True, fault="no manifest."),)}, "model_unusable problem", "chat, no manifest."),
    ({"models": (f.Model("old", GB, fault="no manifest."),)}, "model_unusable warning", "old"),
    ({"models": (f.Model("chat", GB, served=True, changed=("model.gguf",)),)}, "model_changed warning", "model.gguf"),
    ({"models": (f.Model("large", 3 * GB),)}, "model_unserved note", "large, 3.0 GB"),
    ({"writable": False}, "folder_not_writable problem", "/var/lib/appliance, 990"),
    ({"kept": (f.Kept("/var/lib/appliance/state.db-shm", 0o100600, 0, True),)}, "files_of_others problem", "state.db-shm, 990"),
    ({"kept": (f.Kept("/etc/appliance/keys", 0o100644, 0, True),)}, "readable_by_everybody problem", "/etc/appliance/keys, 644"),
    ({"certificate": f.Certificate("/etc/box.pem", NOW + 5 * DAY)}, "certificate_ends warning", "5 days, 21 days"),
    ({"certificate": f.Certificate("/etc/box.pem", NOW - 5 * DAY)}, "certificate_ends problem", "5 days ago"),
    ({"certificate": f.Certificate("/etc/box.pem", None, "no such file")}, "certificate_unreadable problem", "no such file"),
    ({"log_errors": ("One.", "Nothing can be kept now.")}, "errors_logged warning", "2 errors, Nothing can be kept now."),
]


def test_a_healthy_box_has_no_findings():
    assert examine(HEALTHY, RULES) == ()


def test_what_is_not_known_is_no_finding():
    assert examine(f.Facts(now=NOW), RULES) == ()


@pytest.mark.parametrize(("changes", "expected", "told"), FIRING, ids=[f"{row[1]} {row[2]}" for row in FIRING])
def test_a_rule_says_what_it_measured_why_it_matters_and_what_to_do(changes, expected, told):
    (found,) = examine(replace(HEALTHY, **changes), RULES)
    assert f"{found.code} {found.severity}" == expected
    for part in told.split(", "):
        assert part in f"{found.what} {found.remedy}", found
    for words in (found.what, found.why, found.remedy):
        assert len(words.split()) > 1, found


def test_every_rule_has_a_case_here():
    fired = {rule for changes, _, _ in FIRING for rule in RULES if list(rule(replace(HEALTHY, **changes)))}
    assert fired == set(RULES)


def test_remedies_name_commands_and_settings_that_exist():
    known = commands(build_parser())
    for changes, _, _ in FIRING:
        for found in examine(replace(HEALTHY, **changes), RULES):
            for code in re.findall(r"`([^`]+)`", found.remedy):
                words = code.split()
                if words[0] == "appliance" and len(words) > 1:
                    assert " ".join(words[1:3]) in known or words[1] in known, code
                elif re.fullmatch(r"[a-z]+_[a-z_]+", code):
                    assert code in BY_NAME, code


def test_restarts_are_judged_by_the_day():
    many = f.Engine("chat", "ready", restarts={"crash": 18})
    assert not examine(replace(HEALTHY, engines=(many,)), RULES), "18 in 10 days"
    (found,) = examine(replace(HEALTHY, engines=(many,), started_at=NOW - DAY), RULES)
    assert found.code == "engine_restarts" and "18 times in 1.0 days" in found.what


def test_an_encoder_is_no_thread_too_many():
    two = Topology(BOX.cpus[:2], online_cpus=2)
    plan = plan_threads(two, encoders=2)
    assert sum(place.threads for place in (*plan.children, *plan.encoders)) > 2
    assert not examine(replace(HEALTHY, topology=two, place=plan.children), RULES)


def test_a_rule_that_crashes_is_a_finding_and_hides_no_other():
    def broken(facts):
        raise KeyError("x")

    found = examine(replace(HEALTHY, has_keys=False, faults=("the disks could not be read",)), (broken, *RULES))
    assert {one.code for one in found} == {"check_failed", "open_to_everybody"} and len(found) == 3
    assert any("broken failed: KeyError" in one.what and "--bundle" in one.remedy for one in found)
    assert any("the disks could not be read" in one.what for one in found)


def test_the_worst_comes_first_and_all_are_counted():
    facts = replace(HEALTHY, failed_units=("cups.service", "appliance.service"), has_keys=False)
    found = examine(facts, RULES)
    assert [one.severity for one in found] == list(SEVERITIES)
    assert counts(found) == {"problem": 1, "warning": 1, "note": 1}


def test_a_running_service_looks_now_and_then_and_tells_the_metrics():
    looks, clock = [], [NOW]
    doctor = Doctor(lambda: looks.append(1) or replace(HEALTHY, has_keys=False), now=lambda: clock[0])
    metrics = Metrics()
    metrics.add_source(doctor.gauges)
    assert "appliance_findings" not in metrics.render() and doctor.at == 0
    doctor.tick()
    clock[0] += EVERY_S - 1
    doctor.tick()
    assert len(looks) == 1 and doctor.at == NOW
    assert 'appliance_findings{severity="warning"} 1' in metrics.render() and 'appliance_findings{severity="problem"} 0' in metrics.render()
    clock[0] += 1
    doctor.tick()
    assert len(looks) == 2
