"""Settings changed by the API: what counts at once, what waits for a restart, what is refused, and the way back."""

from __future__ import annotations

import pytest
from in_process import OURS, administrator

from appliance.config import load_config


class Desk:
    def __init__(self, service) -> None:
        self.service, self.client = service, administrator(service)

    def change(self, path: str = "settings", **body):
        return self.client.post(f"/admin/api/{path}", json=body, headers=OURS)

    def row(self, name: str):
        return next(row for row in self.client.get("/admin/api/settings").get_json()["settings"] if row["name"] == name)


@pytest.fixture
def desk(make_service):
    return Desk(make_service(people=True))


def test_a_change_is_saved_shown_and_put_back(desk):
    assert (desk.row("queue_size")["source"], desk.row("queue_size")["changeable"]) == ("default", True)
    before = desk.row("queue_size")["value"]
    assert desk.change(queue_size=7, cache_exclude="a, b").status_code == 200
    assert (desk.row("queue_size")["value"], desk.row("queue_size")["source"]) == (7, "this page")
    waits = desk.row("cache_exclude")
    assert (waits["value"], waits["pending"], waits["needs_restart"]) == ([], ["a", "b"], True)
    assert load_config({}).queue_size == 7 and load_config({}).cache_exclude == ("a", "b")
    assert desk.change(queue_size=9).status_code == 200
    assert desk.change("settings/put-back").status_code == 200
    assert desk.row("queue_size")["value"] == 7
    assert desk.change(queue_size=None).status_code == 200
    assert desk.row("queue_size")["value"] == before and load_config({}).cache_exclude == ("a", "b")


def test_flags_and_the_environment_are_stronger(desk, monkeypatch):
    desk.change(queue_size=7)
    monkeypatch.setenv("APPLIANCE_QUEUE_SIZE", "11")
    assert load_config({}).queue_size == 11 and load_config({"queue_size": 12}).queue_size == 12
    assert desk.row("queue_size")["source"] == "environment"


@pytest.mark.parametrize(
    "body, words",
    [
        ({}, "Nothing"), ({"queue_size": "many"}, "whole number"), ({"queue_size": -1, "stall_ms": "x"}, "stall_ms"), ({"host": "0.0.0.0"}, "cannot be changed here"),
        ({"api_key": "x"}, "cannot be changed here"), ({"nonsense": 1}, "cannot be changed here"), ({"cache_type_v": "q8_0", "flash_attn": "off"}, "flash attention"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_in_words_and_nothing_changes(desk, body, words):
    desk.change(queue_size=7)
    refused = desk.change(**body)
    assert refused.status_code == 400 and words in refused.get_json()["error"]["message"]
    assert load_config({}).queue_size == 7 and load_config({}).flash_attn == "auto"


def test_without_a_change_there_is_nothing_to_put_back(desk):
    assert desk.change("settings/put-back").status_code == 400


def test_no_secret_is_shown(make_service):
    desk = Desk(make_service(people=True, api_key=("sesame",)))
    for answer in (desk.client.get("/admin/api/settings"), desk.client.get("/admin/settings")):
        assert answer.status_code == 200 and "sesame" not in answer.text
