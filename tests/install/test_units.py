"""The units: systemd takes them as they are, and what they allow is little."""

from __future__ import annotations

import re
import subprocess

import pytest
from fakes import ROOT

UNITS = ROOT / "systemd"
MOST_EXPOSED = 2.0


def analyze(*words: str) -> str:
    found = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60)
    return found.stdout + found.stderr


@pytest.mark.parametrize("name", ["appliance.service", "appliance.slice", "appliance-backup.service", "appliance-backup.timer"])
def test_systemd_finds_nothing_to_complain_of(name, tmp_path):
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.slice"), *UNITS.glob("*.timer")]:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/appliance/current/.venv/bin/appliance", "/bin/true"))
    assert analyze("verify", "--man=no", str(tmp_path / name)) == ""


def test_a_mistake_in_a_unit_would_be_found(tmp_path):
    wrong = (UNITS / "appliance.service").read_text().replace("Type=notify", "Type=notifies").replace("/opt/appliance/current/.venv/bin/appliance", "/bin/true")
    (tmp_path / "appliance.service").write_text(wrong)
    assert "notifies" in analyze("verify", "--man=no", str(tmp_path / "appliance.service"))


@pytest.mark.parametrize("name", ["appliance.service", "appliance-backup.service"])
def test_what_a_service_may_do_is_little(name):
    told = analyze("security", "--offline=true", "--no-pager", str(UNITS / name))
    level = float(re.search(rf"Overall exposure level for {re.escape(name)}: ([\d.]+)", told)[1])
    assert level <= MOST_EXPOSED, told


def test_the_nightly_backup_calls_commands_that_exist_and_is_made_up_for():
    from appliance.cli import build_parser

    unit, timer = ((UNITS / f"appliance-backup.{kind}").read_text() for kind in ("service", "timer"))
    commands = re.findall(r"^ExecStart=\S+/appliance (.+)$", unit, re.M)
    assert [build_parser().parse_args(words.split()).action for words in commands] == ["create", "prune"]
    assert "Persistent=true" in timer and re.search(r"^RandomizedDelaySec=\d+min$", timer, re.M)


def test_the_unit_knows_the_programs_exit_codes_and_times():
    from appliance.config import SETTINGS
    from appliance.errors import BY_CODE

    unit = dict(re.findall(r"^(\w+)=(.*)$", (UNITS / "appliance.service").read_text(), re.M))
    assert set(map(int, unit["RestartPreventExitStatus"].split())) <= {kind.exit_code for kind in BY_CODE.values()}
    drain = next(setting.default for setting in SETTINGS if setting.name == "drain_s")
    hang = next(setting.default for setting in SETTINGS if setting.name == "hang_timeout_s")
    assert int(unit["TimeoutStopSec"]) > drain + 10 and int(unit["WatchdogSec"]) > hang


@pytest.mark.parametrize("path", sorted((UNITS / "drop-ins").glob("*.conf")), ids=lambda path: path.name)
def test_the_examples_fit_their_unit(path, tmp_path):
    name = "appliance.slice" if "[Slice]" in path.read_text() else "appliance-backup.service" if path.name.startswith("backup") else "appliance.service"
    (tmp_path / name).write_text((UNITS / name).read_text().replace("/opt/appliance/current/.venv/bin/appliance", "/bin/true"))
    (tmp_path / f"{name}.d").mkdir()
    (tmp_path / f"{name}.d" / path.name).write_text(path.read_text())
    assert analyze("verify", "--man=no", str(tmp_path / name)) == ""
