"""The system page's figures, the log with its filter, sessions and what each key used."""

from __future__ import annotations

import hashlib
import ssl

import pytest
from in_process import OURS, PASSWORD, administrator

from appliance.logs import LOGGER, RECENT, configure, log


@pytest.fixture(autouse=True)
def own_log(monkeypatch):
    """What a test sets up is as before after it."""
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(LOGGER, name, getattr(LOGGER, name))
    monkeypatch.setattr(LOGGER, "handlers", [])


@pytest.fixture
def ann(make_service):
    service = make_service(people=True)
    client = administrator(service)
    client.service = service
    return client


def test_the_log_is_followed_and_filtered(ann):
    configure("debug", "text")
    log("info", "The first thing.", id="a b")
    log("warning", "The second thing.")
    first = ann.get("/admin/api/log?q=FIRST").get_json()["lines"]
    assert [line["text"] for line in first if "thing" in line["text"]] == ['The first thing. id="a b"']
    newer = ann.get(f"/admin/api/log?after={first[-1]['number']}&level=warning").get_json()["lines"]
    assert newer[0]["text"] == "The second thing." and newer[0]["number"] > first[-1]["number"]
    assert "The second thing." in ann.get("/admin/system").get_data(True)
    page = ann.get("/admin/system?level=error&q=thing").get_data(True)
    assert "The second thing." not in page and 'value="thing"' in page
    refused = ann.get("/admin/api/log?level=loud")
    assert refused.status_code == 400 and "warning" in refused.get_json()["error"]["message"]


def test_only_the_last_lines_are_kept():
    configure("info", "text")
    for number in range(RECENT._lines.maxlen + 5):
        log("info", f"line {number}")
    lines = RECENT.lines()
    assert len(lines) == RECENT._lines.maxlen and lines[0].text == "line 5" and lines[-1].number - lines[0].number == len(lines) - 1


def test_versions_and_places_are_told_and_no_secret(ann):
    found = ann.get("/admin/api/system").get_json()
    assert found["version"] and found["packages"]["flask"][0].isdigit() and found["memory_bytes"] > 10**8
    assert found["data_dir"] == str(ann.service.config.data_dir) and found["files"]["access.db"] > 0
    assert set(found) == {"version", "started", "system", "memory_bytes", "data_dir", "files", "packages", "cores"}


def test_the_certificate_is_told_and_anybody_gets_the_authoritys(make_service):
    client = administrator(make_service(people=True, tls="own"))
    told = client.get("/admin/api/tls").get_json()
    assert told["mode"] == "own" and "localhost" in told["names"] and told["trouble"] == [] and told["ends_in_days"] > 390
    page = client.get("/admin/system").get_data(True)
    assert told["sha256"] in page and told["ca"]["sha256"] in page and 'href="/ca.crt"' in page
    client.delete_cookie("appliance_session", path="/admin")
    fetched = client.get("/ca.crt")
    assert fetched.mimetype == "application/x-x509-ca-cert"
    assert hashlib.sha256(ssl.PEM_cert_to_DER_cert(fetched.get_data(True))).hexdigest().upper() == told["ca"]["sha256"].replace(":", "")
    assert b"PRIVATE" not in fetched.data
    help_page = client.get("/help").get_data(True)
    assert 'href="/ca.crt"' in help_page and "--cacert" in help_page
    assert client.get("/admin/api/tls").status_code == 401


def test_without_tls_there_is_no_authority_to_fetch(ann, check_error):
    error = check_error(ann.get("/ca.crt"), 404, "not_found")
    assert "tls = own" in error["message"]
    assert ann.get("/admin/api/tls").get_json() == {"mode": "off", "trouble": []} and "HTTPS</dt><dd>is off" in ann.get("/admin/system").get_data(True)
    assert "ca.crt" not in ann.get("/help").get_data(True)


def test_what_a_key_used_is_counted(ann):
    assert "First steps" in ann.get("/admin").get_data(True)
    body = {"messages": [{"role": "user", "content": "hi"}]}
    for _ in range(2):
        assert ann.service.client.post("/v1/chat/completions", json=body).status_code == 200
    body["messages"][0]["content"] = "too long " * 500
    assert ann.service.client.post("/v1/chat/completions", json=body).status_code == 400
    used = ann.get("/admin/api/access").get_json()["used"]["anonymous"]
    assert (used["requests"], used["failed"], used["begun"]) == (3, 1, 2) and used["completion_tokens"] > 0 and used["prompt_tokens"] > 0
    usage = ann.get("/admin/api/usage").get_json()
    assert len(usage["days"]) == 30 and usage["days"][-1]["requests"] == used["requests"] == usage["by_model"]["fake"]["requests"]
    page = ann.get("/admin").get_data(True)
    assert "The last 30 days" in page and "First steps" not in page and page.count("<rect") >= 2


def test_a_session_is_ended_from_elsewhere(ann):
    other = ann.service.client
    other.post("/admin/sign-in", data={"name": "Ann", "password": PASSWORD}, headers=OURS | {"User-Agent": "Phone <1>"})
    assert other.get("/admin").status_code == 200
    visits = ann.get("/admin/api/access").get_json()["sessions"]
    (phone,) = [visit for visit in visits if visit["agent"] == "Phone <1>"]
    assert phone["name"] == "Ann" and len(visits) == 2 and "Phone &lt;1&gt;" in ann.get("/admin/access").get_data(True)
    assert ann.post(f"/admin/api/sessions/{phone['number']}/end", headers=OURS).status_code == 200
    assert other.get("/admin/api/now").status_code == 401 and ann.get("/admin").status_code == 200
    assert ann.post(f"/admin/api/sessions/{phone['number']}/end", headers=OURS).status_code == 404
