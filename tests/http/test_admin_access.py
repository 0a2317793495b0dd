"""People and keys by the API: what a key opens, when it stops, and who can never lock everybody out."""

from __future__ import annotations

import pytest
from in_process import OURS, PASSWORD, administrator


@pytest.fixture
def box(make_service):
    service = make_service(people=True)
    client = administrator(service)
    return service, client


def post(client, path, **body):
    return client.post(f"/admin/api/{path}", json=body, headers=OURS)


def test_a_key_is_shown_once_opens_the_api_and_stops_when_it_is_revoked(box, hello):
    service, client = box
    programs = service.client
    assert programs.post("/v1/chat/completions", json=hello).status_code == 200, "without keys everybody may ask"
    made = post(client, "keys", name="till").get_json()
    assert made["key"].startswith("ak-") and len(made["key"]) > 40
    bearer = {"Authorization": f"Bearer {made['key']}"}
    assert programs.post("/v1/chat/completions", json=hello).status_code == 401
    assert programs.post("/v1/chat/completions", json=hello, headers=bearer).status_code == 200
    found = client.get("/admin/api/access")
    assert made["key"] not in found.text and found.get_json()["keys"][0]["name"] == "till" and found.get_json()["key_required"]
    assert post(client, f"keys/{made['number']}/revoke").status_code == 200
    for headers in (bearer, {}):
        assert programs.post("/v1/chat/completions", json=hello, headers=headers).status_code == 401, "the box does not open by itself"
    assert post(client, f"keys/{made['number']}/revoke").status_code == 404
    assert post(client, "keys", name="TILL").status_code == 400, "what it was answered belongs to its name"
    assert post(client, "keys/none").get_json() == {"key_required": False}
    assert programs.post("/v1/chat/completions", json=hello).status_code == 200


def test_keys_of_the_configuration_stay_and_keep_their_names(make_service, hello):
    service = make_service(people=True, api_key=("sesame",))
    client = administrator(service)
    assert post(client, "keys", name="key-1").status_code == 400
    number = post(client, "keys", name="till").get_json()["number"]
    post(client, f"keys/{number}/revoke")
    assert service.client.post("/v1/chat/completions", json=hello, headers={"Authorization": "Bearer sesame"}).status_code == 200


def test_the_last_administrator_stays(box):
    service, client = box
    [ann] = client.get("/admin/api/access").get_json()["people"]
    assert "password" not in ann
    assert post(client, f"people/{ann['id']}", role="user").status_code == 400
    assert post(client, f"people/{ann['id']}/remove").status_code == 400
    bob = post(client, "people", name="Bob", role="admin", password=PASSWORD).get_json()["person"]
    assert post(client, f"people/{ann['id']}", role="reviewer").status_code == 200
    assert client.get("/admin/api/access").status_code == 403, "a role counts at once"
    assert service.access.sign_in("Bob", PASSWORD, "a", "")[1].person.id == bob


def test_a_new_password_and_a_removal_end_the_sessions(box):
    service, client = box
    bob = post(client, "people", name="Bob", role="reviewer", password=PASSWORD).get_json()["person"]
    token, _ = service.access.sign_in("Bob", PASSWORD, "a", "")
    assert post(client, f"people/{bob}", password="another long one").status_code == 200
    assert service.access.signed_in(token) is None
    token, _ = service.access.sign_in("Bob", "another long one", "a", "")
    assert post(client, f"people/{bob}/remove").status_code == 200
    assert service.access.signed_in(token) is None


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("keys", {}, 400), ("keys", {"name": " "}, 400), ("keys", {"name": "a\u202e\n"}, 400), ("people", {"name": "B", "role": "king", "password": PASSWORD}, 400),
        ("people", {"name": "B", "role": "user", "password": "short"}, 400), ("people/99", {"role": "user"}, 404), ("people/99/remove", {}, 404),
        ("people/99", {"password": PASSWORD}, 404), ("people/1", {"role": "user", "password": "short"}, 400),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_words(box, path, body, status):
    answer = post(box[1], path, **body)
    assert answer.status_code == status and answer.get_json()["error"]["message"]
