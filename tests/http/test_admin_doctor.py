"""The findings on the page and in the API, and the archive for whoever helps: nothing private is in it."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from types import SimpleNamespace

import pytest
from in_process import OURS, PASSWORD, administrator

from appliance.doctor.facts import Facts
from appliance.doctor.service import Doctor
from appliance.logs import LOGGER, RECENT, configure, log


@pytest.fixture(autouse=True)
def own_log(monkeypatch):
    """What a test sets up is as before after it."""
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(LOGGER, name, getattr(LOGGER, name))
    monkeypatch.setattr(LOGGER, "handlers", [])
    RECENT._lines.clear()


def test_findings_are_told_to_programs_and_people(make_service):
    service = make_service(people=True)
    client = administrator(service)
    looks = []
    service.doctor = Doctor(lambda: looks.append(1) or Facts(now=1.0, listener="other", settings={"port": 8080}))
    assert "Nobody has looked yet" in client.get("/admin/system").text and not looks, "no page waits for it"
    found = client.get("/admin/api/doctor").get_json()
    assert found["counts"] == {"problem": 1, "warning": 0, "note": 0} and len(looks) == 1
    assert found["findings"][0]["code"] == "port_taken" and found["findings"][0]["remedy"]
    page = client.get("/admin/system").text
    assert "Problem: Another program listens on port 8080" in page and "ss -ltnp" in page and len(looks) == 1
    client.get("/admin/api/doctor?again=1")
    client.get("/admin/system?again=1")
    assert len(looks) == 3


@pytest.mark.parametrize("path", ["/admin/api/doctor", "/admin/api/doctor/bundle"])
def test_only_an_admin_may_look(make_service, path):
    service = make_service(people=True)
    ann = administrator(service)
    assert service.client.get(path).status_code == 401
    assert ann.post("/admin/api/people", json={"name": "Rev", "role": "reviewer", "password": PASSWORD}, headers=OURS).status_code == 200
    rev = service.client
    rev.post("/admin/sign-in", data={"name": "Rev", "password": PASSWORD}, headers=OURS)
    assert rev.get(path).status_code == 403


def unpacked(archive: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return {member.name.partition("/")[2]: tar.extractfile(member).read().decode() for member in tar.getmembers()}


@pytest.fixture
def used(make_service, tmp_path):
    """A box that people have used in every way there is, and the words that must not leave it."""
    keys = tmp_path / "keys"
    keys.write_text("Kellerkind Quux:file-secret-0815\n# a comment\nnameless-secret-4711\n")
    service = make_service(
        people=True, remember=tmp_path / "data", data_dir=tmp_path / "data", api_key_file=keys, api_key=("flag-secret-1234",), log_prompts=True,
        cache_share=("Kellerkind Quux:Cellar Folk",), cache_exclude=("Nobodys Printer",), cache_epoch="epochal", names=("box.zebra-clinic.example",),
    )  # fmt: skip
    configure("debug", "text")
    service.access._log = log
    ann = administrator(service)
    ann.environ_base = {"REMOTE_ADDR": "10.11.12.13", "HTTP_USER_AGENT": "Telephone of Ann"}

    def post(path, **body):
        answer = ann.post(f"/admin/api/{path}", json=body, headers=OURS)
        assert answer.status_code == 200, answer.text
        return answer.get_json()

    post("people", name="Bartholomew O'Neill", role="reviewer", password="a very long password")
    post("people", name="Clementine Gone", role="user", password="a very long password")
    post("people/3/remove")
    key = post("keys", name="Doctor Weh")["key"]
    service.renew_auth()
    made = service.client
    made.environ_base = {"REMOTE_ADDR": "fd12:3456:789a:1::42"}
    for headers in ({"Authorization": f"Bearer {key}", "X-Request-Id": "Eusebia Idson"}, {"x-api-key": "file-secret-0815"}):
        for _ in range(2):
            answer = made.post("/v1/chat/completions", json={"model": "fake", "messages": [{"role": "user", "content": "Where do zebras sleep?"}]}, headers=headers)
            assert answer.status_code == 200
    made.post("/v1/chat/completions", json={"model": "Zebra Model", "messages": []}, headers={"x-api-key": "wrong-secret-99"})
    made.environ_base = ann.environ_base
    made.post("/admin/sign-in", data={"name": "Fridolin Forgot", "password": "wrong-secret-98"}, headers=OURS)
    post("reviewed", questions=["When does the zebra clinic open?"], answer="At nine zebras o'clock.", source="Zebra Handbook")
    log("error", "Nothing can be kept now: /home/gundula/data is full.", prompts=["Where do zebras sleep?"])
    try:
        raise ValueError("Where do zebras sleep?")
    except ValueError as error:
        LOGGER.error(f"janitor: {error!r}", exc_info=error)
    private = [
        "Bartholomew", "Neill", "Clementine", "Doctor Weh", "Kellerkind", "Quux", "Cellar Folk", "Nobodys", "epochal", "zebra", "Eusebia", "Idson",
        "Fridolin", "gundula", "a very long password", PASSWORD, key, key[3:], "file-secret-0815", "nameless-secret-4711", "flag-secret-1234", "wrong-secret",
        "10.11.12", "fd12:3456", "Telephone", "scrypt:", "pbkdf2:",
    ]  # fmt: skip
    service.cache._answers.do(lambda db: None, 5)
    return SimpleNamespace(service=service, ann=ann, private=private)


def test_nothing_private_is_in_the_archive(used):
    answer = used.ann.get("/admin/api/doctor/bundle")
    assert answer.status_code == 200 and answer.content_type == "application/gzip" and "attachment" in answer.headers["Content-Disposition"]
    whole = gzip.decompress(answer.data).decode("utf-8").lower()
    assert not re.search(r"\bann\b", whole), "her name, but not the beginning of others"
    assert [word for word in used.private if word.lower() in whole] == []
    said = "\n".join(line.text for line in RECENT.lines())
    missing = {word for word in ("Bartholomew", "Clementine", "Doctor Weh", "zebra", "Fridolin", "10.11.12", "Eusebia", "gundula") if word not in said}
    assert not missing, "the log holds what was to be taken out"


def test_what_helps_is_in_the_archive(used):
    members = unpacked(used.ann.get("/admin/api/doctor/bundle").data)
    assert set(members) == {"README.txt", "findings.json", "facts.json", "versions.json", "metrics.txt", "log.txt"}
    facts = json.loads(members["facts.json"])
    rows = {base["name"]: base["rows"] for base in facts["bases"]}
    assert rows["access.db"]["people"] == 2 and rows["access.db"]["keys"] == 1 and rows["state.db"]["reviewed"] == 1
    assert facts["settings"]["api_key"] == ["***"] and facts["settings"]["ctx_size"] == 4096 and facts["topology"]["cpus"] and facts["memory"]["total_bytes"]
    assert json.loads(members["findings.json"])["findings"][0].keys() == {"code", "severity", "what", "why", "remedy"}
    assert json.loads(members["versions.json"])["Flask"]
    assert "appliance_requests_total{" in members["metrics.txt"] and "appliance_findings{" in members["metrics.txt"]
    text = members["log.txt"]
    assert "route=/v1/chat/completions status=200" in text and "completion_tokens=" in text and "Nothing can be kept now" in text
    assert "ValueError\n" in text and "test_admin_doctor.py" in text and "lines left out" in text
    assert "signed in from 127.0.0.1" in text, "an address of this very box is no secret"
    assert "Somebody at 10.11.x.x was not let in" in text
