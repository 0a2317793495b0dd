"""Signing in to the admin pages by forms: who gets in, who does not, and what the cookie is like."""

from __future__ import annotations

import time

import pytest
from in_process import OURS, PASSWORD, administrator


@pytest.fixture
def box(make_service):
    """A service with its first admin, Ann, who is not signed in here."""
    service = make_service(people=True)
    client = administrator(service)
    client.post("/admin/sign-out", headers=OURS)
    return service


def sign_in(client, name: str = "Ann", password: str = PASSWORD, **more):
    return client.post("/admin/sign-in", data={"name": name, "password": password, **more}, headers=OURS)


def test_the_first_visit_makes_the_administrator(make_service):
    service = make_service(people=True)
    client = service.client
    assert client.get("/admin").headers["Location"].startswith("/admin/sign-in")
    assert client.get("/admin/sign-in").headers["Location"] == "/admin/first"
    refused = client.post("/admin/first", data={"code": "x", "name": "Ann", "password": PASSWORD}, headers=OURS)
    assert refused.status_code == 403 and "not the code" in refused.text and PASSWORD not in refused.text
    assert client.post("/admin/first", data={"code": service.access.code, "name": "Ann", "password": "short"}, headers=OURS).status_code == 400
    made = client.post("/admin/first", data={"code": service.access.code, "name": "Ann", "password": PASSWORD}, headers=OURS)
    assert (made.status_code, made.headers["Location"]) == (303, "/admin")
    assert client.get("/admin").status_code == 200
    assert client.get("/admin/first").headers["Location"] == "/admin/sign-in"


def test_signing_in_leads_to_the_page_that_was_wanted_and_out_again(box):
    client = box.client
    wanted = client.get("/admin")
    assert wanted.status_code == 302 and "to=%2Fadmin" in wanted.headers["Location"]
    found = sign_in(client, to="/admin?x")
    assert (found.status_code, found.headers["Location"]) == (303, "/admin?x")
    cookie = found.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/admin" in cookie and "Secure" not in cookie
    assert client.get("/admin/api/now").status_code == 200
    assert client.post("/admin/sign-out", headers=OURS).status_code == 303
    assert client.get("/admin/api/now").status_code == 401


@pytest.mark.parametrize("to", ["https://evil.example/admin", "//evil.example/admin", "/other", "/admin\\@evil.example", "", "admin"])
def test_nobody_is_sent_to_another_site_after_signing_in(box, to):
    assert sign_in(box.client, to=to).headers["Location"] == "/admin"


def test_a_wrong_password_and_a_wrong_name_look_alike_and_guessing_is_slowed_down(box, check_error):
    client = box.client
    one, other = sign_in(client, password="guess guess guess"), sign_in(client, name="Bob")
    assert one.status_code == other.status_code == 401
    assert one.text.replace("Ann", "Bob") == other.text and "Set-Cookie" not in one.headers
    for _ in range(3):
        sign_in(client, password="guess guess guess")
    assert sign_in(client).status_code == 429
    check_error(client.get("/admin/api/now"), 401, "not_signed_in")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://["}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
     {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}],
)  # fmt: skip
def test_a_form_of_another_site_changes_nothing(box, headers):
    client = box.client
    sign_in(client)
    assert client.post("/admin/sign-out", headers=headers).status_code == 403
    assert client.get("/admin/api/now").status_code == 200
    assert box.client.post("/admin/sign-in", data={"name": "Ann", "password": PASSWORD}, headers=headers).status_code == 403


def test_a_browser_without_fetch_metadata_names_its_origin(box):
    client = box.client
    assert client.post("/admin/sign-in", data={"name": "Ann", "password": PASSWORD}, headers={"Origin": "http://localhost"}).status_code == 303


@pytest.mark.parametrize("role", ["admin", "reviewer", "user"])
def test_everybody_can_sign_out(box, role):
    box.access.add("Bob", role, PASSWORD)
    client = box.client
    sign_in(client, name="Bob")
    assert client.post("/admin/sign-out", headers=OURS).status_code == 303
    assert client.get("/admin/api/now").status_code == 401


def test_a_domain_of_a_stranger_opens_no_admin_page_and_a_domain_of_ours_does(box, make_service):
    client = box.client
    evil = {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}
    assert client.get("/admin/sign-in", headers=evil).status_code == 403
    assert client.post("/admin/sign-in", data={"name": "Ann", "password": PASSWORD}, headers=evil).status_code == 403
    sign_in(client)
    assert client.get("/admin/api/now", headers=evil).status_code == 403
    for name in ("192.168.1.5:8080", "box", "box.local", "[fd00::1]:8080"):
        assert box.client.get("/admin/sign-in", headers={"Host": name}).status_code == 200
    named = make_service(people=True, names=("box.example.org",)).client
    assert named.get("/admin/sign-in", headers={"Host": "box.example.org"}).status_code == 200


def test_a_token_is_not_lost_with_a_page_that_is_refused(box, monkeypatch):
    box.access.add("Bob", "reviewer", PASSWORD)
    client = box.client
    sign_in(client, name="Bob")
    monkeypatch.setattr(box.access, "_now", lambda: time.time() + 1000)
    refused = client.get("/admin")
    assert refused.status_code == 403 and "appliance_session=" in refused.headers["Set-Cookie"]


def test_every_admin_route_needs_a_role_and_no_key_opens_it(make_service):
    service = make_service(people=True, api_key=("sesame",))
    open_to_all = {"/admin/sign-in", "/admin/first"}
    for rule in service.app.url_map.iter_rules():
        if rule.rule.startswith("/admin") and rule.rule not in open_to_all:
            assert getattr(service.app.view_functions[rule.endpoint], "role", None), rule.rule
    answer = service.client.get("/admin/api/now", headers={"Authorization": "Bearer sesame"})
    assert answer.status_code == 403, "a key of the configuration is no administrator's"


def test_only_parts_of_pages_are_served(box):
    assert box.client.get("/static/base.css").status_code == 200
    for name in ("README.md", "../templates/base.html", "%2e%2e/README.md"):
        assert box.client.get(f"/static/{name}").status_code == 404


def test_pages_carry_their_headers_and_no_secret(box):
    client = box.client
    for answer in (client.get("/admin/sign-in"), sign_in(client), client.get("/admin")):
        assert answer.headers["Referrer-Policy"] == "same-origin", "else a form over http names no origin"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"] and answer.headers["X-Frame-Options"] == "DENY"
        assert "scrypt" not in answer.text and PASSWORD not in answer.text
    cookie = client.get_cookie("appliance_session", path="/admin").value
    assert cookie not in client.get("/admin").text


def test_without_its_file_nobody_signs_in_and_answers_are_given(make_service, hello, check_error):
    client = make_service().client
    check_error(client.get("/admin/api/now"), 503, "unavailable")
    assert client.post("/v1/chat/completions", json=hello).status_code == 200


def test_now_tells_what_the_page_shows(box):
    client = box.client
    sign_in(client)
    now = client.get("/admin/api/now").get_json()
    assert now["models"]["fake"]["state"] == "ready" and now["machine"]["memory"]["total"] > 0 and now["history"] == []
    assert any("no_cache" in sentence for sentence in now["attention"])
