"""`appliance audit` on a stopped service's folder; what commands themselves leave in the log."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.cli.audit import acting
from appliance.trail.entries import By
from appliance.trail.log import FILE, HEAD_FILE, Trail


@pytest.fixture
def folder():
    path = Path(os.environ["APPLIANCE_DATA_DIR"])
    trail = Trail(path, lambda level, words: None, now=lambda: 1.7e9)
    trail.open()
    trail.note(By("service"), "service.start", "0.1.0")
    trail.note(By("person", "Ann", "192.0.2.7"), "key.make", "till\x1b[2J", number=1)
    trail.note(By("key", "till"), "cache.purge")
    trail.close()
    return path


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = main(["audit", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_whole_log_is_verified_with_its_head(folder, capsys):
    head = (folder / HEAD_FILE).read_text().strip()
    code, out, _ = run(capsys, "verify")
    assert code == 0 and out == f"All 3 entries are as they were written. The log ends with {head}\n"
    assert run(capsys, "verify", "--head", head)[0] == 0
    assert json.loads(run(capsys, "verify", "--json")[1]) == {"good": True, "entries": 3, "fault": None, "head": head}


def test_the_first_bad_entry_is_named_and_the_exit_code_is_65(folder, capsys):
    with closing(sqlite3.connect(folder / FILE)) as conn, conn:
        conn.execute("DROP TRIGGER entries_stay")
        conn.execute("UPDATE entries SET at = at + 1 WHERE number >= 2")
    code, out, err = run(capsys, "verify")
    assert code == 65 and not out and "Entry 2 of" in err and "it was changed" in err and "Traceback" not in err
    code, out, _ = run(capsys, "verify", "--json")
    assert code == 65 and json.loads(out)["fault"] == {"number": 2, "why": "it was changed"}
    code, _, err = run(capsys, "verify", "--from", "3")
    assert code == 65 and "Entry 3" in err


def test_a_log_written_anew_is_found_with_a_head_that_was_noted(folder, capsys):
    head = (folder / HEAD_FILE).read_text().strip()
    for path in folder.glob("audit.*"):
        path.unlink()
    assert run(capsys, "verify")[0] == 64
    trail = Trail(folder, lambda level, words: None, now=lambda: 1.7e9)
    trail.open()
    for _ in range(3):
        trail.note(By("service"), "service.start", "0.1.0")
    trail.close()
    assert run(capsys, "verify")[0] == 0, "nothing on the box shows it"
    code, _, err = run(capsys, "verify", "--head", head)
    assert code == 65 and "Entry 3" in err and "noted" in err


def test_a_log_that_is_gone_is_told(folder, capsys):
    for path in folder.glob("audit.db*"):
        path.unlink()
    code, _, err = run(capsys, "verify")
    assert code == 65 and "is gone; its last entry was 3:" in err


def test_entries_are_listed_newest_last_and_obey_no_terminal(folder, capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0 and [line.split("  ")[0] for line in out.splitlines()] == ["1", "2", "3"]
    assert "2023-11-14 22:13:20  Ann at 192.0.2.7  key.make  till\ufffd[2J  {\"number\": 1}" in out and "\x1b" not in out
    assert [line.split("  ")[2] for line in run(capsys, "list", "--who", "key till")[1].splitlines()] == ["key till"]
    assert len(run(capsys, "list", "--action", "service")[1].splitlines()) == 1 and len(run(capsys, "list", "--most", "2")[1].splitlines()) == 2
    assert json.loads(run(capsys, "list", "--json", "--since", "2023-11-14")[1])[1]["object"] == "till\x1b[2J"
    assert run(capsys, "list", "--since", "2023-11-15")[1] == "No entry fits.\n"


@pytest.mark.parametrize("words", [("list", "--since", "soon"), ("verify", "--head", "3:xyz"), ("verify", "--head", "x"), ()])
def test_bad_input_is_refused_in_words(folder, capsys, words):
    assert run(capsys, *words)[0] == 64


def test_commands_leave_entries_in_the_name_of_the_systems_user(folder, capsys, tmp_path):
    assert main(["cache", "import", str(_file(tmp_path)), "--owner", "Ann"]) == 0
    assert main(["cache", "export", str(tmp_path / "out.csv")]) == 0
    assert main(["cache", "review", "edit", "1", "--owner", "Ann", "--answer", "It may."]) == 0
    assert main(["cache", "review", "remove", "1", "--owner", "Ann"]) == 0
    capsys.readouterr()
    found = json.loads(run(capsys, "list", "--json", "--who", "command")[1])
    assert [(entry["action"], entry["object"]) for entry in found] == [("answer.import", ""), ("answer.export", "csv"), ("answer.change", "answer 1"), ("answer.remove", "answer 1")]
    assert {entry["by"] for entry in found} == {f"command ({acting().name})"} and acting().name
    assert "zebra" not in json.dumps(found) and run(capsys, "verify")[0] == 0


def _file(folder: Path) -> Path:
    path = folder / "in.csv"
    path.write_text("question,answer\nmay the zebra stay,no\n", "utf-8")
    return path


def test_who_is_behind_sudo_is_named(monkeypatch):
    monkeypatch.setenv("SUDO_USER", "ben")
    assert acting() == By("command", "ben")
