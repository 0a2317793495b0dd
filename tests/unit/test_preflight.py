"""Before an installation: everything that is wrong with a machine is said at once, and nothing is changed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.bundle.archive import Manifest
from appliance.errors import BadBundle, NotReady
from appliance.installer import preflight
from appliance.installer.as_service import ahead, copy_databases, put_back_databases, ready_databases
from appliance.installer.layout import Layout
from appliance.installer.preflight import X86_64_V2, Machine
from appliance.installer.release import newer

MADE = "2026-06-01T00:00:00+00:00"
NOW = 1_800_000_000.0  # 2027
MACHINE = Machine(
    ("debian", "12"), "x86_64", "3.11", "2.36", X86_64_V2 | {"avx2"}, 8000, 50_000, writable=True, root=True, systemd=True, unix_time=NOW,
)  # fmt: skip
BUNDLE = Manifest("1.2.0", "x86_64", ("3.11", "3.12"), "2.34", "portable", MADE, "", {}, b"")
SIZE = 150_000_000


def said(machine: Machine = MACHINE, bundle: Manifest = BUNDLE, current: str = "", **how: bool) -> list[str]:
    return list(preflight.problems(machine, bundle, SIZE, current, 8443, how.get("allow_older", False)))


def test_a_fit_machine_has_no_problem():
    assert said() == [] == said(current="1.1.9") == said(current="1.2.0") == said(replace(MACHINE, system=("ubuntu", "22.04"), python="3.12"))


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({"root": False}, "needs root"),
        ({"systemd": False}, "systemd does not run"),
        ({"system": ("debian", "11")}, "this is debian 11; it needs debian 12"),
        ({"system": ("ubuntu", "20.04")}, "this is ubuntu 20.04; it needs ubuntu 22.04"),
        ({"system": ("debian", "")}, "needs debian 12"),
        ({"system": ("fedora", "40")}, "this is fedora"),
        ({"system": ("", "")}, "an unknown system"),
        ({"arch": "aarch64"}, "this machine is aarch64; the bundle is for x86_64"),
        ({"flags": frozenset({"pni", "cx16"})}, "the CPU lacks lahf_lm, popcnt, sse4_1, sse4_2, ssse3"),
        ({"python": "3.10"}, "has Python 3.10; the bundle is for 3.11, 3.12"),
        ({"glibc": "2.31"}, "glibc 2.31; the bundle needs 2.34"),
        ({"memory_mb": 900}, "900 MB of memory; it needs 1500 MB"),
        ({"disk_mb": 500}, "500 MB of disk free for /opt; it needs 975 MB"),
        ({"writable": False}, "/opt cannot be written"),
        ({"port_taken_by": "Address already in use"}, "port 8443 is not free"),
        ({"unix_time": 0.0}, "the clock is wrong: it says 1970-01-01, and the bundle was made on 2026-06-01"),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_is_named(machine, words):
    (only,) = said(replace(MACHINE, **machine))
    assert words in only


def test_an_older_bundle_and_one_for_others_are_refused():
    assert "version 1.10.0 is installed, and the bundle has the older 1.2.0" in said(current="1.10.0")[0]
    assert said(current="1.10.0", allow_older=True) == []
    delta = replace(BUNDLE, since="1.1.0")
    assert "changed since version 1.1.0, which is not installed" in said(bundle=delta)[0] and said(bundle=delta, current="1.1.0") == []


def test_everything_is_said_at_once():
    broken = replace(MACHINE, root=False, arch="riscv64", memory_mb=1, disk_mb=1)
    with pytest.raises(NotReady) as refused:
        preflight.check(broken, BUNDLE, SIZE, "", 8443)
    assert len(re.findall("✗", str(refused.value))) == 4 and "nothing was changed" in str(refused.value)


def test_this_machine_can_be_read(tmp_path):
    found = preflight.read_machine(Layout(Path("/")), 0)
    assert found.arch and re.fullmatch(r"3\.\d+", found.python) and found.memory_mb > 100 and found.system[0]


def test_versions_are_compared_as_numbers():
    assert newer("1.10.0", "1.9.9") and not newer("1.0.0", "1.0.0") and newer("2.35", "2.4")
    with pytest.raises(BadBundle):
        newer("1.x", "1.0")


def test_a_database_that_a_later_version_changed_is_found(tmp_path):
    from sqlite_utils import Database

    from appliance.db.migrations import Migration, Schema, migrate

    data, copies, aside = tmp_path / "data", tmp_path / "copies", tmp_path / "aside"
    for folder in (data, copies, aside):
        folder.mkdir()
    steps = (Migration("one", "CREATE TABLE a (x INTEGER);"), Migration("two", "CREATE TABLE b (x INTEGER);"))
    for name in ("state.db", "cache.db", "quiet.db"):
        db = Database(data / name)
        migrate(db, Schema("s", steps[:1]), data / name, precious=True)
        db.close()
    copy_databases(data, copies)
    assert ahead(data, copies) == [] and {path.name for path in copies.glob("*.db")} == {"state.db", "quiet.db"}, "what is filled again is not copied"
    for name in ("state.db", "cache.db"):
        db = Database(data / name)
        migrate(db, Schema("s", steps), data / name, precious=True)
        db.close()
    assert ahead(data, copies) == ["cache.db", "state.db"]
    assert ahead(data, tmp_path / "nowhere") == []
    ready_databases(data, copies, ["state.db"])
    put_back_databases(data, ["cache.db", "state.db"], aside)
    assert ahead(data, copies) == [] and {path.name for path in aside.glob("*.db")} == {"cache.db", "state.db"}
    assert {path.name for path in data.iterdir()} == {"state.db", "quiet.db"}


def test_a_link_changes_at_once(tmp_path):
    layout = Layout(tmp_path)
    layout.opt.mkdir(parents=True)
    for version in ("1.0.0", "2.0.0"):
        layout.point(layout.current, version)
        assert layout.installed(layout.current) == version
    assert [path.name for path in layout.opt.iterdir()] == ["current"]
    layout.write_switching(**{"from": "1.0.0", "to": "2.0.0"})
    assert layout.read_switching() == {"from": "1.0.0", "to": "2.0.0"}
    layout.switching.write_text("[")
    assert layout.read_switching() == {}
