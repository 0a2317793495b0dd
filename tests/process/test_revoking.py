"""Keys of access.db and the real service: it starts with them where others reach it, and they stop when they are revoked."""

from __future__ import annotations

import json
import time

import pytest
from fakes import wait_until
from served import command

from appliance.access.service import Access

FAKE = ("--engine", "fake", "--model", "x")
NOT_CALLED_LOOPBACK = "127.1"
"""The kernel takes it for 127.0.0.1, and the configuration for somebody's address: nothing here listens to other machines."""


@pytest.fixture
def key_of_an_admin(tmp_path) -> dict[str, str]:
    """Made while no service runs."""
    access = Access(tmp_path / "data", lambda level, words: None)
    access.open()
    try:
        return {"Authorization": f"Bearer {access.make_key('robot', 'Ann', 'admin')[1]}"}
    finally:
        access.close()


def test_without_any_key_it_does_not_start_for_others_and_says_where_keys_are_made(tmp_path):
    refused = command("serve", *FAKE, "--host", NOT_CALLED_LOOPBACK, "--port", "0", "--data-dir", str(tmp_path))
    assert refused.returncode == 78 and "/admin/access" in refused.stderr and "Traceback" not in refused.stderr


def test_with_a_key_of_the_admin_page_it_starts_and_a_revoked_key_stops_within_two_seconds(running_server, tmp_path, key_of_an_admin):
    server = running_server(*FAKE, "--host", NOT_CALLED_LOOPBACK, "--data-dir", str(tmp_path / "data"), APPLIANCE_FAKE_STEP_S="0.02")
    assert server.get("/v1/models").status == 401 and server.get("/v1/models", **key_of_an_admin).status == 200
    made = server.request("POST", "/admin/api/keys", {"name": "till"}, **key_of_an_admin).json
    key = {"Authorization": f"Bearer {made['key']}"}
    stream = server.stream("!long", max_tokens=3000, headers=key)
    stream.first_text()
    began = time.monotonic()
    assert server.request("POST", f"/admin/api/keys/{made['number']}/revoke?streams=end", {}, **key_of_an_admin).json["ended"] == 1
    assert server.get("/v1/models", **key).status == 401
    stream.rest()
    assert time.monotonic() - began < 2.0
    assert not stream.done and stream.error["code"] == "key_revoked"


def test_a_running_service_notices_keys_that_a_command_makes_and_revokes(running_server, tmp_path, key_of_an_admin):
    data = ("--data-dir", str(tmp_path / "data"))
    server = running_server(*FAKE, *data)
    key = {"Authorization": f"Bearer {command('keys', 'make', 'till', *data).stdout.strip()}"}
    wait_until(lambda: server.get("/v1/models", **key).status == 200, 3, "the new key")
    number = next(row["id"] for row in json.loads(command("keys", "list", "--json", *data).stdout) if row["name"] == "till")
    command("keys", "revoke", str(number), *data)
    wait_until(lambda: server.get("/v1/models", **key).status == 401, 2, "its end")
    assert server.get("/v1/models", **key_of_an_admin).status == 200
