"""What the doctor reads: recorded boxes (boxes/*.txt), commands with recorded answers, and data folders good and bad."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from test_topology import unpack

from appliance import catalog
from appliance.access import people
from appliance.access.service import Access
from appliance.config import Config, load_config
from appliance.db.migrations import Migration, Schema, create
from appliance.doctor import data, facts, machine
from appliance.doctor.findings import examine
from appliance.doctor.reading import collect, journal
from appliance.doctor.running import Running, ask
from appliance.doctor.service import RULES

BOXES = Path(__file__).parent / "boxes"
ENGINE = facts.Engine("chat", "ready", pid=812, threads=4)
RUNNING = Running("us", (ENGINE,), pid=812)


def commands(**answers: str):
    """A system whose commands print these, by their first word; the others are not there."""
    return lambda words: answers.get(words[0])


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "data"


def settings(folder: Path, **more) -> Config:
    return load_config({"data_dir": str(folder), **more}, {})


@pytest.fixture
def read(tmp_path, folder):
    """The facts of a recorded box, as the service of engine 812 reads them."""

    def collected(name: str, **answers: str) -> facts.Facts:
        root = unpack((BOXES / f"{name}.txt").read_text(), tmp_path / name)
        return collect(settings(folder), RUNNING, root=root, commands=commands(**answers), now=1_900_000_000.0)

    return collected


# Hardware and kernel


def test_a_box_where_much_is_wrong_is_read_and_told(read):
    found = read("worn_pi")
    assert found.processor == facts.Processor(36000, 0, (facts.Zone("cpu-thermal", 84.7, 80.0),), "cpufreq-dt", "powersave", 0x50005)
    assert found.memory == facts.Memory(3_977_678_848, 209_711_104, 1_048_576, 100, "never")
    assert found.cgroup == facts.Cgroup(5000, 2000, 3_000_000_000, 2), "the lowest limit of all groups, the kills of the engine's own"
    assert (found.engines[0].resident_bytes, found.engines[0].swapped_bytes) == (524_288_000, 209_715_200)
    assert found.flash == (facts.Flash("mmcblk0", 9, 2),) and found.disk_errors == {"mmcblk0p2": 7} and found.open_ports_from == 80
    codes = {one.code for one in examine(found, RULES)}
    assert {
        "too_hot", "low_voltage", "throttled_for_heat", "slow_governor", "no_hugepages", "cpu_quota_throttles", "out_of_memory_kills", "memory_swapped",
        "disk_worn", "disk_errors",
    } <= codes and "check_failed" not in codes  # fmt: skip


def test_a_box_where_nothing_is_wrong_has_no_findings_of_the_machine(read):
    found = read("calm_server", timedatectl="yes\n", getent="127.0.0.1 localhost\n", systemctl="")
    assert found.memory.by_node == {0: 33_690_746_880, 1: 33_690_746_880} and found.memory.hugepages == "always"
    assert found.cgroup == facts.Cgroup(0, 0, None, 0) and found.processor.throttles == 3 and found.processor.zones == (facts.Zone("x86_pkg_temp", 51.0),)
    assert found.clock.synchronised and found.hostname_found and found.failed_units == () and not found.faults
    assert not examine(found, RULES)


def test_of_a_machine_that_shows_nothing_nothing_is_known(tmp_path, folder):
    found = collect(settings(folder), Running(), root=tmp_path / "empty", commands=commands(), now=1_900_000_000.0)
    assert not found.faults and not examine(found, RULES)
    assert (found.processor, found.memory, found.cgroup) == (facts.Processor(), facts.Memory(), facts.Cgroup())


@pytest.mark.parametrize("content", [b"", b"\xff\x00\n", b"9" * 40, b"-1", b"0x", b"max max"])
def test_odd_files_spoil_no_other_part(tmp_path, folder, content):
    root = unpack((BOXES / "worn_pi.txt").read_text(), tmp_path / "box")
    for path in root.rglob("*"):
        if path.is_file():
            path.write_bytes(content)
    found = collect(settings(folder), RUNNING, root=root, commands=commands(systemctl="\0 =\n=", timedatectl="?", getent="", journalctl="x"), now=1.9e9)
    assert not [fault for fault in found.faults if "part" in fault] and json.dumps(found.settings)
    examine(found, RULES)


def test_this_machine_is_read_without_a_fault(folder):
    found = collect(settings(folder), Running(pid=os.getpid()))
    assert not found.faults and found.memory.total_bytes > 1e8 and found.processor.uptime_s > 0 and found.disks[0].total_bytes > 0
    assert found.clock.newest_at <= found.now and found.hostname


def test_systemd_tells_of_units_and_the_clock():
    listed = "appliance-backup.service loaded failed failed Backup\ncups.service loaded failed failed CUPS\n"
    assert machine.read_failed_units(commands(systemctl=listed)) == ("appliance-backup.service", "cups.service")
    shown = "LoadState=loaded\nActiveState=active\nNRestarts=2\n"
    assert machine.read_unit(commands(systemctl=shown)) == {"ActiveState": "active", "NRestarts": "2"}
    assert machine.read_unit(commands(systemctl="LoadState=not-found\nActiveState=inactive\n")) == {} == machine.read_unit(commands())
    assert [machine.read_synchronised(commands(timedatectl=said)) for said in ("yes\n", "no\n", "\n")] == [True, False, None]


def test_a_name_that_leads_nowhere_is_told_only_where_names_are_looked_up():
    def names(known: str):
        return lambda words: "127.0.0.1 x\n" if words[-1] in known.split() else None

    assert machine.read_hostname_found(names("--help box"), "box") is True
    assert machine.read_hostname_found(names("--help"), "box") is False
    assert machine.read_hostname_found(names(""), "box") is None


def test_errors_are_found_in_the_journal_in_both_forms(folder):
    lines = "2026-01-01T10:00:00 error   Nothing can be kept.\n2026-01-01T10:00:00 info    No error   here.\n" + '{"time": 1, "level": "error", "message": "x"}\n'
    found = collect(settings(folder), Running("us"), commands=commands(journalctl=lines))
    assert len(found.log_errors) == 2 and "kept" in found.log_errors[0] and len(journal(commands(journalctl=lines))) == 3


def test_a_command_that_is_not_there_or_fails_says_nothing():
    assert machine.run_command(["/nowhere/command"]) is None and machine.run_command(["false"]) is None
    assert machine.run_command(["echo", "yes"]) == "yes\n"


# Disks


def test_folders_on_one_disk_are_told_of_once(tmp_path):
    (found,) = machine.read_disks({"data folder": tmp_path, "backups": tmp_path / "not" / "yet"})
    assert found.purpose == "data folder, backups" and found.folder == str(tmp_path) and not found.read_only


def test_a_full_and_a_read_only_disk_are_seen(tmp_path):
    full = os.statvfs_result((4096, 4096, 1000, 10, 10, 100, 0, 0, os.ST_RDONLY, 255))
    (found,) = machine.read_disks({"data folder": tmp_path}, lambda folder: full)
    assert found == facts.Disk("data folder", str(tmp_path), 4_096_000, 40_960, 100, 0, True)


# Databases


@pytest.fixture
def base(folder) -> Path:
    """An access.db with a person and a key, closed."""
    access = Access(folder, lambda level, words: None)
    access.open()
    access._writer.do(lambda db: people.add(db, "Ann", "admin", "hash", 0.0), 5)
    access._writer.do(lambda db: people.add_key(db, "printer", b"digest", "ab", "Ann", 0.0), 5)
    access.close()
    return folder / "access.db"


def test_a_good_database_is_counted_and_nothing_is_made_beside_it(base):
    before = {path: path.read_bytes() for path in base.parent.iterdir()}
    (found,) = data.read_bases(base.parent, 1 << 62)
    assert (found.name, found.fault, found.precious) == ("access.db", "", True)
    assert found.rows == {"people": 1, "sessions": 0, "keys": 1} and found.steps[:2] == ("people", "keys")
    assert data.read_good_keys(base.parent) == 1 and {"Ann", "printer"} <= data.read_names(base.parent)
    assert {path: path.read_bytes() for path in base.parent.iterdir()} == before


def test_a_database_in_use_is_read_as_well(folder):
    access = Access(folder, lambda level, words: None)
    access.open()
    try:
        access._writer.do(lambda db: people.add(db, "Ann", "admin", "hash", 0.0), 5)
        (found,) = data.read_bases(folder, 1 << 62)
        assert found.rows["people"] == 1 and not found.fault and found.wal_bytes > 0
    finally:
        access.close()


def damage(base: Path, how: str) -> None:
    whole = base.read_bytes()
    if how == "a folder":
        base.unlink()
        base.mkdir()
    elif how == "newer":
        with closing(sqlite3.connect(base)) as conn, conn:
            conn.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('access', 'of tomorrow', '')")
    else:
        pages = {"empty": b"", "text": b"Dear data,\n" * 99, "cut": whole[: len(whole) // 2], "overwritten": whole[:8192] + b"\xff" * 4096 + whole[12288:]}
        base.write_bytes(pages[how])


@pytest.mark.parametrize("how", ["empty", "text", "cut", "overwritten", "newer"])
def test_a_damaged_database_is_told_with_its_remedy_and_left_as_it_is(base, how):
    damage(base, how)
    before = base.read_bytes()
    found = collect(settings(base.parent), Running(), commands=commands())
    (told,) = [one for one in examine(found, RULES) if one.code == "database_damaged"]
    assert told.severity == "problem" and "access.db" in told.what and "backup" in told.remedy and base.read_bytes() == before
    assert not found.faults and data.read_names(base.parent) <= {"Ann", "printer"}


def test_a_folder_in_a_databases_place_and_no_data_folder_are_no_end(base):
    damage(base, "a folder")
    assert not collect(settings(base.parent), Running(), commands=commands()).faults
    shutil.rmtree(base.parent)
    found = collect(settings(base.parent), Running(), commands=commands())
    assert found.bases == () and not found.faults and found.has_keys is False


def test_a_file_of_this_version_is_not_called_newer(folder):
    create(folder / "other.db", Schema("other", [Migration("one", "CREATE TABLE one (id INTEGER)")]), precious=False)
    (found,) = data.read_bases(folder, 1 << 62)
    assert not found.fault and found.rows == {"one": 0} and found.precious, "what is not known may be dear to somebody"


# Models, secrets, certificate, backups


def test_a_model_whose_file_changed_since_its_hash_was_taken_is_told(tmp_path, folder, monkeypatch):
    copy = tmp_path / "shipped" / "starter"
    shutil.copytree(catalog.shipped_folder() / "starter", copy)
    monkeypatch.setattr(catalog, "shipped_folder", lambda: copy.parent)
    config = settings(folder)
    paper = catalog.read_catalog(config).find("starter").readable()
    weights = copy / paper.main.path
    catalog.hash_cache(config).remember(weights, paper.main.sha256)

    def seen() -> facts.Model:
        return next(model for model in data.read_models(config, []) if model.name == "starter")

    assert seen() == facts.Model("starter", sum(file.size_bytes for file in paper.files), shipped=True, served=True)
    weights.write_bytes(weights.read_bytes())
    assert seen().changed == (paper.main.path,)
    weights.unlink()
    assert "cannot be read" in seen().fault
    (copy / "manifest.toml").write_text("name = 3")
    assert seen().fault


def test_a_model_named_by_its_path_is_looked_for(tmp_path, folder):
    found = data.read_models(settings(folder, model=[str(tmp_path / "gone.gguf")], embedder="none"), [])
    (gone,) = [model for model in found if model.fault]
    assert gone.name == "gone" and gone.served and "gone.gguf" in gone.fault


def test_an_unknown_model_is_a_finding_and_no_end(folder):
    found = collect(settings(folder, model=["no-such-model", "no-such-model"]), Running(), commands=commands())
    assert any("the models could not be read" in fault for fault in found.faults)
    assert any(one.code == "check_failed" for one in examine(found, RULES))


def test_files_with_secrets_are_told_apart(base, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    keys.chmod(0o644)
    (base.parent / "settings.toml").write_text("")
    (base.parent / "lost+found").mkdir()
    found = {kept.path: kept for kept in data.read_kept(base.parent, settings(base.parent, api_key_file=str(keys)))}
    assert found[str(keys)].secret and found[str(base)].secret and not found[str(base.parent / "settings.toml")].secret
    assert not any("lost+found" in path for path in found)
    assert found[str(base.parent)].uid == os.getuid()
    assert "readable_by_everybody" in {one.code for one in examine(collect(settings(base.parent, api_key_file=str(keys)), Running(), commands=commands()), RULES)}


def with_certificate(cert: Path, key: Path) -> Config:
    return load_config({"tls_cert": str(cert), "tls_key": str(key)}, {})


@pytest.mark.parametrize("days", [30, 12_000])  # the second is after 2049, where certificates write the year in another way
def test_the_end_of_a_certificate_is_read(tmp_path, days):
    key, path = tmp_path / "key.pem", tmp_path / "box.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=box", "-days", str(days), "-keyout", key, "-out", path],
        check=True, capture_output=True,
    )  # fmt: skip
    said = subprocess.run(["openssl", "x509", "-enddate", "-noout", "-dateopt", "iso_8601", "-in", path], check=True, capture_output=True, text=True).stdout
    assert data.read_certificate(with_certificate(path, key)).ends_at == datetime.fromisoformat(said.strip().removeprefix("notAfter=").replace("Z", "+00:00")).timestamp()


@pytest.mark.parametrize("content", ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_said_to_be_none(tmp_path, content):
    (tmp_path / "box.pem").write_text(content)
    path = tmp_path / "box.pem"
    assert data.read_certificate(with_certificate(path, path)).fault
    config = with_certificate(path, path)
    path.unlink()
    assert data.read_certificate(config).fault


def test_the_newest_backup_counts(tmp_path):
    assert data.newest_backup(tmp_path / "none") is None is data.newest_backup(tmp_path)
    for name, at in (("one.tar", 100), ("two.tar", 300), (".half.tar", 900)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (at, at))
    assert data.newest_backup(tmp_path) == 300.0


def test_a_port_without_anybody_is_free(folder):
    assert ask(settings(folder, port="1")).listener == "nobody"
    assert ask(settings(folder, port="0")).listener == ""
