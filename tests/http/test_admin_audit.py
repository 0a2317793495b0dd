"""The audit log through the pages: each action leaves its entry, who may read it, files, and forgetting."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fakes import ROOT
from in_process import OURS, PASSWORD, administrator

from appliance.trail.entries import By, Wish
from appliance.trail.log import Trail

QUESTION, ANSWERED = "may the zebra stay", "the zebra"
NO_ACTIONS = {
    "verify", "explain", "piece",  # of an upload: its beginning is noted, and what becomes of it
}
WAYS = {"noted", "begun", "submit", "note", "changed", "forget"}


@pytest.fixture
def box(make_service, tmp_path):
    service = make_service(people=True, remember=Path(os.environ["APPLIANCE_DATA_DIR"]))
    return service, administrator(service)


def post(client, path, **body):
    return client.post(f"/admin/api/{path}", json=body, headers=OURS)


def entries(client, **query):
    return client.get("/admin/api/audit", query_string=query).get_json()["entries"]


def test_every_view_that_changes_something_writes_an_entry():
    """Read from the source: a new POST of the admin pages notes what it did, or stands in NO_ACTIONS."""
    silent, seen = [], 0
    for path in [*(ROOT / "appliance" / "http").glob("admin_*.py"), ROOT / "appliance" / "http" / "signing.py"]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(re.match(r"routes\.post\(", ast.unparse(mark)) for mark in node.decorator_list):
                calls = {call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "") for call in ast.walk(node) if isinstance(call, ast.Call)}
                seen += 1
                if not calls & WAYS and node.name not in NO_ACTIONS:
                    silent.append(f"{path.name}: {node.name}")
    assert seen > 30 and not silent, silent


def test_signing_in_and_out_and_what_is_refused_are_told(box):
    service, ann = box
    other = service.client
    for name in ("Ann", "my password by mistake"):
        other.post("/admin/sign-in", data={"name": name, "password": "wrong wrong wrong"}, headers=OURS)
    other.post("/admin/sign-in", data={"name": "ann", "password": PASSWORD}, headers=OURS)
    other.post("/admin/sign-out", headers=OURS)
    found = [(entry["by"], entry["action"], entry["object"], entry["address"]) for entry in entries(ann)]
    assert found == [
        ("Ann", "session.end", "", "127.0.0.1"), ("Ann", "session.begin", "", "127.0.0.1"), ("somebody", "session.refuse", "", "127.0.0.1"), ("Ann", "session.refuse", "", "127.0.0.1"),
        ("Ann", "session.begin", "", "127.0.0.1"), ("Ann", "person.add", "Ann", "127.0.0.1"),
    ]  # fmt: skip
    assert "by mistake" not in ann.get("/admin/api/audit").text and "wrong wrong" not in ann.get("/admin/api/audit").text


def test_a_wrong_first_code_is_told_and_waiting_is_not(make_service):
    service = make_service(people=True)
    for _ in range(8):
        service.client.post("/admin/first", data={"code": "nonsense", "name": "Eve", "password": PASSWORD}, headers=OURS)
    found = entries(administrator_later(service))
    assert [entry["object"] for entry in found if entry["action"] == "session.refuse"] == ["first"] * 5


def administrator_later(service):
    service.access._tries._tries.clear()
    return administrator(service)


def test_what_is_done_to_keys_people_settings_answers_and_jobs_is_told(box):
    service, ann = box
    key = post(ann, "keys", name=" till ").get_json()
    post(ann, f"keys/{key['number']}/revoke")
    post(ann, f"keys/{key['number']}/revoke")  # refused: no entry
    post(ann, "keys/none")
    ben = post(ann, "people", name="Ben", role="reviewer", password=PASSWORD).get_json()["person"]
    post(ann, f"people/{ben}", role="user", password="another long one")
    post(ann, f"people/{ben}/remove")
    post(ann, "settings", queue_size=7, cache_exclude=["till"])
    post(ann, "settings", queue_size=7)
    post(ann, "settings/put-back")
    asked = {"messages": [{"role": "user", "content": QUESTION}]}
    service.client.post("/v1/chat/completions", json=asked)
    service.cache._answers.do(lambda db: None, 5)
    number = ann.get("/admin/api/answers").get_json()["unreviewed"][0]["id"]
    made = post(ann, f"answers/{number}/approve", answer=ANSWERED).get_json()["reviewed"]
    post(ann, f"reviewed/{made}", state="rejected")
    post(ann, "answers/purge", text="zebra", preview=True)
    post(ann, "answers/purge", text="zebra")
    ann.get("/admin/api/reviewed/export?form=csv")
    post(ann, "models/add", source="/nowhere/model.gguf")
    post(ann, "jobs/1/cancel")
    found = [(entry["action"], entry["object"], entry["detail"]) for entry in entries(ann)][::-1][2:]
    assert found == [
        ("key.make", "till", {"number": key["number"]}), ("key.revoke", "till", {"number": key["number"]}), ("key.none", "", {"key_required": False}),
        ("person.add", "Ben", {"role": "reviewer"}), ("person.change", "Ben", {"role": "user", "password": True}), ("person.remove", "Ben", {}),
        ("settings.change", "cache_exclude", {"from": None, "to": ["till"]}), ("settings.change", "queue_size", {"from": None, "to": 7}),
        ("settings.put_back", "", {}), ("answer.approve", f"answer {made}", {"of": number}),
        ("answer.change", f"answer {made}", {"words": False, "phrasings": 0, "state": "rejected"}), ("cache.purge", "", {"removed": 1, "words": True}),
        ("answer.export", "csv", {}), ("job.start", "job 1", {"title": "Add /nowhere/model.gguf"}), ("job.cancel", "job 1", {}),
    ]  # fmt: skip
    told = ann.get("/admin/api/audit").text
    assert "zebra" not in told and key["key"] not in told and PASSWORD not in told and "another long" not in told, "no question, no answer, no secret"
    assert post(ann, "audit/verify").get_json() == {"good": True, "entries": 17, "fault": None, "head": f"17:{service.trail.head().hash}"}


def test_the_entry_is_on_the_disk_before_the_answer(box, tmp_path):
    service, ann = box
    post(ann, "keys", name="till")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("audit.db", "audit.db-wal", "audit.head"):
        (copy / name).write_bytes((service.config.data_dir / name).read_bytes())
    trail = Trail(copy, lambda level, words: None)
    trail.open()
    assert trail.search(Wish(), 1)[0].action == "key.make" and trail.verify() == (3, None)
    trail.close()


def test_a_fault_is_shown_with_its_number(box):
    service, ann = box
    post(ann, "keys", name="till")
    service.trail._writer.do(lambda db: [db.execute("DROP TRIGGER entries_stay"), db.execute("UPDATE entries SET at = 0 WHERE number = 2")] and None, 5)
    found = post(ann, "audit/verify").get_json()
    assert not found["good"] and found["fault"] == {"number": 2, "why": "it was changed"}


def test_entries_are_chosen_and_paged(box):
    service, ann = box
    for number in range(105):
        service.trail.note(By("command", "root"), "model.add", f"model {number}")
    first = ann.get("/admin/api/audit?who=command").get_json()
    assert len(first["entries"]) == 100 and first["entries"][0]["by"] == "command (root)"
    rest = ann.get(f"/admin/api/audit?who=command&before={first['older']}").get_json()
    assert [entry["object"] for entry in rest["entries"]] == [f"model {number}" for number in range(4, -1, -1)] and rest["older"] is None
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    assert {entry["action"] for entry in entries(ann, action="session", day=today)} == {"session.begin"} and entries(ann, day="2001-01-01") == []
    assert ann.get("/admin/api/audit?day=soon").status_code == 400
    page = ann.get("/admin/audit?who=command").get_data(True)
    assert "Older entries" in page and "model 104" in page and "model 4<" not in page


def test_files_hold_all_entries_and_no_formula(box):
    _, ann = box
    post(ann, "keys", name="=HYPERLINK(1)")
    text = ann.get("/admin/api/audit/export?form=csv")
    rows = list(csv.DictReader(io.StringIO(text.get_data(True))))
    assert rows[0]["object"] == "'=HYPERLINK(1)" and rows[0]["action"] == "key.make" and rows[0]["number"] == "3" and text.content_type.startswith("text/csv")
    lines = [json.loads(line) for line in ann.get("/admin/api/audit/export?form=jsonl&action=key").get_data(True).splitlines()]
    assert [line["object"] for line in lines] == ["=HYPERLINK(1)"] and len(lines[0]["hash"]) == 64
    assert entries(ann)[0]["action"] == "audit.export" and ann.get("/admin/api/audit/export?form=pdf").status_code == 400


def test_only_administrators_read_it(box):
    service, ann = box
    post(ann, "people", name="Ben", role="reviewer", password=PASSWORD)
    ben = service.client
    ben.post("/admin/sign-in", data={"name": "Ben", "password": PASSWORD}, headers=OURS)
    for answer in (ben.get("/admin/audit"), ben.get("/admin/api/audit"), ben.get("/admin/api/audit/export"), post(ben, "audit/verify"), post(ben, "forget", name="Ann")):
        assert answer.status_code == 403
    assert service.client.get("/admin/api/audit").status_code == 401
    assert ann.post("/admin/api/forget", json={"name": "Ben"}).status_code == 403, "not from a page of ours"


def test_the_first_page_says_when_nothing_is_written(box):
    service, ann = box
    assert "audit log" not in ann.get("/admin").get_data(True)
    service.trail.close()
    assert "The audit log is not written" in ann.get("/admin").get_data(True)
    assert post(ann, "keys", name="till").status_code == 200, "what was asked for is done all the same"
