"""A real service is backed up while people work with it, killed, and restored: what was promised is there."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fakes import wait_until
from served import Server, command

from appliance.backup import contents
from appliance.jobs import OVER

PASSWORD = "correct horse battery"
FAKE = ("--engine", "fake", "--model", "x")


class Admin:
    """Ann, signed in with a browser's headers."""

    def __init__(self, server: Server, first: bool = True) -> None:
        self.server = server
        fields = {"name": "Ann", "password": PASSWORD}
        path = "/admin/sign-in"
        if first:
            path, fields["code"] = "/admin/first", re.search(r"/admin/first\?code=(\S+) in", server.log)[1]
        self.headers = {"Sec-Fetch-Site": "same-origin"}
        entered = server.request("POST", path, urlencode(fields).encode(), **self.headers | {"Content-Type": "application/x-www-form-urlencoded"})
        assert entered.status == 303, entered.body
        self.headers["Cookie"] = entered.headers["set-cookie"].partition(";")[0]

    def post(self, path: str, **body: object) -> dict:
        answer = self.server.request("POST", f"/admin/api/{path}", body, **self.headers)
        assert answer.status == 200, answer.body
        return answer.json

    def get(self, path: str):
        return self.server.get(f"/admin/api/{path}", **self.headers)

    def review(self, number: int) -> None:
        self.post("reviewed", questions=[f"question number {number}"], answer=f"answer {number}", namespace="everybody")

    def job(self, number: int) -> dict:
        wait_until(lambda: self.get(f"jobs/{number}").json["state"] in OVER, 60, "the end of the job")
        return self.get(f"jobs/{number}").json


@pytest.fixture
def start(running_server, tmp_path):
    def begin(folder: Path = tmp_path / "kept", *flags: str) -> Server:
        return running_server(*FAKE, "--data-dir", str(folder), *flags, APPLIANCE_NO_CACHE="0")

    return begin


def answered(server: Server, number: int, **headers: str):
    body = {"messages": [{"role": "user", "content": f"question number {number}"}], "temperature": 0}
    return server.request("POST", "/v1/chat/completions", body, **headers)


def kill(server: Server) -> None:
    """As a power cut: nobody gets to tidy up."""
    for pid in server.family():
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    wait_until(lambda: not server.family(), 10, "the end of all")


def test_a_backup_taken_under_load_restores_to_a_box_that_answers_the_same_and_a_kill_loses_no_promise(start, tmp_path):
    server = start()
    ann = Admin(server)
    keys = [ann.post("keys", name="till")["key"]]
    acknowledged: list[int] = []
    over = threading.Event()

    def work() -> None:
        number = 0
        while not over.is_set():
            ann.review(number)
            acknowledged.append(number)
            number += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(lambda: len(acknowledged) >= 10, 30, "the first answers")
        before = len(acknowledged)
        made = command("backup", "create", "--json", "--data-dir", str(tmp_path / "kept"))
        assert made.returncode == 0, made.stderr
        at_most = len(acknowledged) + 1
    finally:
        over.set()
        thread.join(30)
    backup = Path(json.loads(made.stdout)["path"])
    refused = command("backup", "restore", str(backup), "--data-dir", str(tmp_path / "kept"))
    assert refused.returncode == 75 and "A service works with" in refused.stderr and "Traceback" not in refused.stderr

    keys.append(ann.post("keys", name="desk")["key"])
    ann.review(100_000)
    kill(server)
    done = command("backup", "create", "--json", "--data-dir", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    for number, (path, least, most, known) in enumerate((
        (backup, before, at_most, keys[:1]),
        (Path(json.loads(done.stdout)["path"]), len(acknowledged) + 1, len(acknowledged) + 1, keys),
    )):  # fmt: skip
        folder = tmp_path / f"restored-{number}"
        assert command("backup", "restore", str(path), "--into", str(folder)).returncode == 0
        again = start(folder)
        with_key = {"Authorization": f"Bearer {known[-1]}"}
        assert answered(again, 0).status == 401, "keys are needed there too"
        found = [n for n in [*acknowledged, 100_000] if answered(again, n, **with_key).headers.get("x-cache-tier") == "reviewed"]
        assert least <= len(found) <= most and found[:before] == acknowledged[:before]
        assert all(answered(again, n, **with_key).text == f"answer {n}" for n in found[:3])
        assert [answered(again, 0, Authorization=f"Bearer {key}").status for key in keys] == [200 if key in known else 401 for key in keys]
        Admin(again, first=False)
        again.stop()


def test_a_used_box_keeps_nothing_that_is_neither_backed_up_nor_named_as_derived(start, tmp_path):
    server = start()
    ann = Admin(server)
    ann.review(1)
    ann.post("settings", queue_size=9)
    ann.post("uploads", name="some.gguf", size_bytes=10)
    server.request("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "temperature": 0})
    job = ann.job(ann.post("backups", contents="all")["number"])
    assert job["state"] == "done", ann.get(f"jobs/{job['number']}").json
    ann.post("models/verify", name="starter")
    server.stop()
    kept = {one.name for one in contents.DATABASES} | set(contents.FILES) | {contents.MODELS, *contents.SECRETS}
    there = {re.sub(r"(?<=\.db)-(wal|shm)$", "", path.name) for path in (tmp_path / "kept").iterdir()}
    assert {"access.db", "state.db", "usage.db", "cache.db", "settings.toml", "jobs", "uploads", "backups"} <= there
    assert there <= kept | set(contents.DERIVED), f"add {there - kept - set(contents.DERIVED)} to appliance/backup/contents.py: is it precious or derived?"


def test_backups_are_made_checked_downloaded_and_deleted_from_the_page(start, tmp_path):
    (tmp_path / "stick").mkdir()
    server = start(tmp_path / "kept", "--backup-dir", str(tmp_path / "stick"))
    ann = Admin(server)
    assert ann.get("backups").json["backups"] == []
    assert ann.job(ann.post("backups", contents="usual")["number"])["state"] == "done"
    (one,) = ann.get("backups").json["backups"]
    assert one["checked"] and not one["fault"] and one["age_s"] < 60 and ann.job(ann.post("backups/verify", name=one["name"])["number"])["state"] == "done"
    file = ann.get(f"backups/{one['name']}")
    assert file.body == (tmp_path / "stick" / one["name"]).read_bytes() and file.headers["content-disposition"].startswith("attachment")
    assert 0 <= server.gauge("appliance_backup_age_seconds") < 60
    ann.post("backups/delete", name=one["name"])
    assert ann.get("backups").json["backups"] == [] and ann.get(f"backups/{one['name']}").status == 404
    (tmp_path / "stick" / "checked.json").unlink()
    (tmp_path / "stick").rmdir()
    assert "Plug in the stick" in ann.get("backups").json["problem"]
    refused = server.request("POST", "/admin/api/backups", {}, **ann.headers)
    assert refused.status == 500 and refused.error["code"] == "storage_failed"


def test_a_service_that_starts_while_its_folder_is_restored_says_so(tmp_path):
    from appliance.backup.restore import _alone

    (tmp_path / "kept").mkdir()
    with _alone(tmp_path / "kept"):
        began = time.monotonic()
        refused = command("serve", *FAKE, "--data-dir", str(tmp_path / "kept"), "--port", "0")
    assert refused.returncode == 75 and "being restored" in refused.stderr and "Traceback" not in refused.stderr and time.monotonic() - began < 20
