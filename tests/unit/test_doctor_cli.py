"""`appliance doctor` as a person or a program calls it."""

from __future__ import annotations

import json
import socket

import pytest

from appliance.access.service import Access
from appliance.cli import main


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A data folder that was in use, and a port where nobody listens."""
    monkeypatch.setenv("APPLIANCE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("APPLIANCE_PORT", str(free_port()))
    access = Access(tmp_path, lambda level, words: None)
    access.open()
    access.close()
    return tmp_path


def codes(capsys) -> dict[str, dict]:
    return {one["code"]: one for one in json.loads(capsys.readouterr().out)["findings"]}


def test_without_a_problem_it_ends_with_0_and_says_what_it_looked_at(box, capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"data in {box}; the service does not run." in said and "To do: " in said and said.endswith(" notes.\n")
    assert main(["doctor", "--json"]) == 0
    assert {"code", "severity", "what", "why", "remedy"} == codes(capsys)["backup_old"].keys()


def test_a_problem_ends_with_69(box, capsys):
    (box / "access.db").write_bytes(b"Dear data,\n" * 99)
    assert main(["doctor", "--json"]) == 69
    assert codes(capsys)["database_damaged"]["severity"] == "problem"


@pytest.mark.parametrize("where", ["environment", "config", "saved"])
def test_a_configuration_that_is_not_valid_is_a_finding(box, capsys, monkeypatch, where):
    flags = []
    if where == "environment":
        monkeypatch.setenv("APPLIANCE_PORT", "many")
    elif where == "config":
        flags = ["--config", str(box / "gone.toml")]
    else:
        (box / "settings.toml").write_text("= 3")
    assert main(["doctor", "--json", *flags]) == 69
    found = codes(capsys)
    assert found["configuration_invalid"]["severity"] == "problem" and "check_failed" not in found
    assert "access.db" in found["backup_old"]["what"], "the data folder is looked at all the same"


def test_another_program_on_the_port_is_a_problem(box, capsys, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("APPLIANCE_PORT", str(taken.getsockname()[1]))
        monkeypatch.setattr("appliance.doctor.running.ASK_S", 0.2)
        assert main(["doctor", "--json"]) == 69
    assert "port_taken" in codes(capsys)
