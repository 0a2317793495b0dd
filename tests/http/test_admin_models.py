"""Models by the API: what is served, uploads in pieces, and the commands that jobs are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model
from fakes import wait_until
from in_process import OURS, administrator


@pytest.fixture
def service(make_service):
    return make_service(people=True)


@pytest.fixture
def client(service):
    """Signed in."""
    return administrator(service)


@pytest.fixture
def post(client):
    def send(path: str, data: bytes | None = None, **body):
        more = {"data": data, "content_type": "application/octet-stream"} if data is not None else {"json": body}
        return client.post(f"/admin/api/{path}", headers=OURS, **more)

    return send


def steps(service) -> list[tuple[str, ...]]:
    return list(service.jobs.all()[0].steps)


def test_the_catalog_is_shown_with_what_is_served(client):
    found = client.get("/admin/api/models").get_json()
    rows = {row["name"]: row for row in found["models"]}
    assert rows["starter"]["served"] is None and rows["starter"]["paper"]["quantization"] == "Q4_0" and rows["starter"]["certificate"]["verdicts"]
    (other,) = found["others"]
    assert other["name"] == "fake" and other["engine"]["state"] == "ready" and other["default"] and not found["kept"]


def test_an_upload_in_pieces_becomes_a_model(service, client, post, tmp_path):
    data = tiny_model.write_random(tmp_path / "m.gguf").read_bytes()
    begun = post("uploads", name="m.gguf", size_bytes=len(data)).get_json()
    assert post("uploads/1?offset=0", data[:70_000]).get_json()["received"] == 70_000
    assert post("uploads/1?offset=5", data[:9]).status_code == 400
    assert post("uploads/1/add").get_json()["error"]["message"].startswith("70000 of")
    assert client.get("/admin/api/uploads/1").get_json() == begun | {"received": 70_000}
    post("uploads/1?offset=70000", data[70_000:])
    for wrong in ({"name": 5}, {"sha256": 5}, {"sha256": "abc"}, {"name": "starter"}, {"name": "a\0b"}, {"name": ["x"]}):
        assert post("uploads/1/add", **wrong).status_code == 400, wrong  # and nothing is lost
    (shown,) = client.get("/admin/api/models").get_json()["uploads"]
    assert shown["received"] == len(data) and f"{shown['name']}:" in client.get("/admin/models").get_data(True)
    assert post("uploads/1/add", name="mine").status_code == 200

    def over() -> bool:
        service.jobs.tick()
        return service.jobs.find(1).state != "running"

    service.jobs.tick()
    wait_until(over, 40, "the job")
    assert client.get("/admin/api/jobs/1").get_json()["state"] == "done", service.jobs.log(service.jobs.find(1))
    assert "mine" in [row["name"] for row in client.get("/admin/api/models").get_json()["models"]]
    assert client.get("/admin/api/uploads/1").status_code == 404


def test_each_job_is_a_command_that_takes_names_for_names(service, post):
    """A word that looks like a flag is none, and what is no model of the catalog is refused before."""
    assert post("models/add", source="--offline=false", name="--x").status_code == 200
    assert steps(service) == [("models", "add", "--name=--x", "--", "--offline=false")]
    post("models/quantize", name="starter", type="Q8_0")
    quantize, add = steps(service)
    assert quantize[:5] == ("models", "quantize", "--type=Q8_0", "--", "starter") and quantize[5] == add[-1] and add[2] == "--name=starter-q8_0"
    post("models/certify", name="starter", min_tokens_per_s=5, reference="starter-onnx")
    (words,) = steps(service)
    assert words[3:] == ("--reference=starter-onnx", "--", "starter")
    assert Path(words[2].partition("=")[2]).read_text() == "min_tokens_per_s = 5.0\n"
    post("models/compare", names="starter\nstarter-onnx")
    assert steps(service) == [("models", "eval", "--", "starter", "starter-onnx")]
    post("models/convert", source="/somewhere", to="onnx", name="n")
    assert steps(service)[0][:5] == ("models", "convert", "--to=onnx", "--", "/somewhere")
    post("models/verify", name="starter")
    assert steps(service) == [("models", "verify", "--", "starter")]
    post("models/remove", name="starter-onnx")
    assert steps(service) == [("models", "remove", "--yes", "--", "starter-onnx")]
    assert post("jobs/1/cancel").get_json()["state"] == "cancelled"


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("models/verify", {"name": "nobody"}, 404), ("models/verify", {}, 400), ("models/remove", {"name": 5}, 400), ("models/load", {"name": "fake"}, 400),
        ("models/unload", {"name": "nobody"}, 404), ("models/unload", {"name": "fake"}, 400), ("models/default", {"name": "x"}, 404), ("models/restart", {"name": "x"}, 404),
        ("models/add", {}, 400), ("models/add", {"source": "x", "name": 5}, 400), ("models/convert", {"source": "x", "to": "png"}, 400),
        ("models/convert", {"source": "x", "name": "a/b"}, 400), ("models/compare", {"names": []}, 400), ("models/compare", {"names": "nobody"}, 404),
        ("models/certify", {"name": "starter", "min_cosine": "x"}, 400), ("models/certify", {"name": "starter"}, 400), ("models/add", {"source": "x", "name": "a\0b"}, 400),
        ("models/convert", {"source": "x", "name": "a\0b"}, 400), ("models/convert", {"source": "x", "name": "a\ud800"}, 400), (f"jobs/{10**23}/cancel", {}, 404), ("models/certify", {"name": "starter", "min_cosine": 1, "reference": "nobody"}, 404),
        ("models/quantize", {"name": "starter"}, 400), ("uploads", {"name": "x.exe", "size_bytes": 5}, 400), ("uploads", {"name": "x.gguf", "size_bytes": -1}, 400),
        ("uploads/7/add", {}, 404), ("uploads/7/drop", {}, 404), ("jobs/7/cancel", {}, 404),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words_and_begins_nothing(service, post, path, body, status):
    answer = post(path, **body)
    assert answer.status_code == status
    assert set(answer.get_json()["error"]) == {"message", "type", "param", "code"}
    assert service.jobs.all() == []


def test_what_is_being_removed_is_not_loaded(service, post):
    post("models/remove", name="starter-onnx")
    refused = post("models/load", name="starter-onnx")
    assert refused.status_code == 400 and "being removed" in refused.get_json()["error"]["message"]


def test_looking_again_and_again_does_not_fill_the_log(client, caplog):
    with caplog.at_level("INFO", "appliance"):
        for path in ("jobs", "models", "log", "now"):
            assert client.get(f"/admin/api/{path}").status_code == 200
        assert client.get("/admin/api/jobs/99").status_code == 404
    assert [record.fields["route"] for record in caplog.records] == ["/admin/api/jobs/<int:number>"]


def test_pages_of_jobs_show_what_they_say_as_text(client, post):
    post("models/add", source="<b>x</b>")
    page = client.get("/admin/jobs").get_data(True)
    assert "Add &lt;b&gt;x&lt;/b&gt;" in page and "<b>" not in page
    assert client.get("/admin/jobs/1").status_code == 200 and client.get("/admin/jobs/2").status_code == 404
