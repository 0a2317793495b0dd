"""No entry of the audit log that somebody was told of is lost: not by kill -9, not by a power cut, not in the whole service."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from urllib.parse import urlencode

import pytest
from fakes import ROOT, wait_until
from power_cut import PowerCut, environment_of
from served import command, serving

from appliance.trail.entries import Wish
from appliance.trail.log import Trail

CUTS = 12
WRITER = """
import os, sys
from pathlib import Path
from appliance.trail.log import Trail
from appliance.trail.entries import By

trail = Trail(Path(sys.argv[1]), lambda *line: None)
trail.open()
number = int(sys.argv[2])
while True:
    trail.note(By("person", f"person {number % 7}"), "key.make", f"key {number}", number=number)
    os.write(1, b"%d\\n" % number)
    if number % 16 == 0:
        trail._writer.checkpoint()
    number += 1
"""
CAREFREE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1] + "/rows.db", isolation_level=None)
for statement in ("PRAGMA journal_mode=WAL", "CREATE TABLE rows (x)", "PRAGMA synchronous=NORMAL", "INSERT INTO rows VALUES (1)"):
    db.execute(statement)
print("told", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cut(tmp_path):
    (tmp_path / "data").mkdir()
    return PowerCut(tmp_path / "data", tmp_path / "beside")


def test_a_power_cut_does_lose_what_was_not_synced(cut):
    """So that the tests below mean something."""
    with subprocess.Popen([sys.executable, "-c", CAREFREE, cut.folder], env=environment_of(cut), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout.readline() == b"told\n"
        program.kill()
    cut.cut()
    with closing(sqlite3.connect(cut.folder / "rows.db")) as conn:
        assert conn.execute("SELECT name FROM sqlite_schema").fetchall() in ([], [("rows",)])
        assert not conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] or conn.execute("SELECT count(*) FROM rows").fetchone()[0] == 0


@pytest.mark.parametrize("kind", ["kill -9", "power cut"])
def test_every_acknowledged_entry_is_there_and_the_chain_is_whole(cut, kind):
    chance, told = random.Random(7), []
    for round_ in range(CUTS):
        program = subprocess.Popen([sys.executable, "-c", WRITER, cut.folder, str(round_ * 100_000)], env=environment_of(cut), cwd=ROOT, stdout=subprocess.PIPE)
        first = program.stdout.readline()
        time.sleep(chance.random() * 0.1)
        program.kill()
        told += [int(line) for line in [first, *program.stdout] if line.endswith(b"\n")]
        program.stdout.close()
        program.wait()
        if kind == "power cut":
            cut.cut()
    assert len({number // 100_000 for number in told}) == CUTS, "it was killed while it wrote"
    trail = Trail(cut.folder, lambda *line: None)
    trail.open()
    try:
        kept = [entry.detail["number"] for entry in trail.search(Wish())]
        assert set(told) <= set(kept) and len(set(kept)) == len(kept)
        assert trail.verify() == (len(kept), None), "no cut end is told where there is none"
    finally:
        trail.close()


def start(folder, log, environment):
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "appliance.cli", "serve", "--engine", "fake", "--model", "fake", "--port", "0", "--data-dir", str(folder), "--no-cache"],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment, start_new_session=True,
        )  # fmt: skip


def said(log, pattern: str, process, seconds: float = 40.0) -> str:
    until = time.monotonic() + seconds
    while not (found := re.search(pattern, log.read_text("utf-8", "replace"))):
        assert process.poll() is None and time.monotonic() < until, log.read_text("utf-8", "replace")
        time.sleep(0.05)
    return found[1]


def ask(port: str, path: str, body: bytes, kind: str, cookie: str = "") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": kind, "Sec-Fetch-Site": "same-origin", "Cookie": cookie})
        answer = connection.getresponse()
        answer.words = answer.read()
        return answer
    finally:
        connection.close()


def test_what_the_service_has_answered_is_in_the_log_after_a_power_cut(cut, tmp_path):
    log = tmp_path / "log"
    process = start(cut.folder, log, environment_of(cut))
    try:
        port = said(log, r"Listening on http://127\.0\.0\.1:(\d+)", process)
        code = said(log, r"first\?code=(\S+) in", process)
        form = urlencode({"code": code, "name": "Ann", "password": "correct horse battery"}).encode()
        entered = ask(port, "/admin/first", form, "application/x-www-form-urlencoded")
        assert entered.status == 303, entered.words
        cookie = entered.headers["Set-Cookie"].partition(";")[0]
        made = []
        for number in range(20):
            answer = ask(port, "/admin/api/keys", json.dumps({"name": f"key {number}"}).encode(), "application/json", cookie)
            assert answer.status == 200, answer.words
            made.append(f"key {number}")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    cut.cut()
    (cut.folder / "settings.toml").unlink(missing_ok=True)
    where = ["--data-dir", str(cut.folder)]
    listed = json.loads(command("audit", "list", "--json", "--who", "ann", *where).stdout)
    assert [entry["object"] for entry in listed if entry["action"] == "key.make"] == made
    assert [entry["action"] for entry in listed[:2]] == ["person.add", "session.begin"]
    verified = command("audit", "verify", *where)
    assert verified.returncode == 0 and "All 23 entries are as they were written" in verified.stdout, verified.stderr


def test_the_service_tells_its_starts_stops_and_reloads_and_can_be_verified_meanwhile(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("queue_size = 5\n")
    for version in range(2):
        with serving(tmp_path, "--engine", "fake", "--model", "fake", "--config", str(config)) as server:
            config.write_text(f"queue_size = {6 + version}\n")
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda log=server: "Configuration reloaded" in log.log, 20, "the reload")
            verified = command("audit", "verify")
            assert verified.returncode == 0, verified.stderr
            wait_until(lambda log=server: "The audit log ends with" in log.log, 20, "the head in the log")
    listed = json.loads(command("audit", "list", "--json").stdout)
    found = [(entry["by"], entry["action"], entry["object"], entry["detail"]) for entry in listed]
    first, second = (("service", "settings.change", "queue_size", {"from": old, "to": new}) for old, new in ((5, 6), (6, 7)))
    begin, end = ("service", "service.start", listed[0]["object"], {}), ("service", "service.stop", "", {})
    assert found == [begin, first, end, begin, second, end]
    assert command("audit", "verify").returncode == 0
