"""`appliance cache`: on real files, beside a running cache, and against a running service."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from test_cache_service import QUESTION, SAME, Box

from appliance.cli import main


@pytest.fixture
def box(tmp_path):
    made = Box(tmp_path)
    yield made
    made.cache.close()


@pytest.fixture
def run(tmp_path, capsys):
    def call(*words: str, code: int = 0) -> str:
        assert main(["cache", *words, "--data-dir", str(tmp_path)]) == code
        out, err = capsys.readouterr()
        return out if code == 0 else err

    return call


def test_a_folder_without_a_cache_is_told(run):
    for words in (["stats"], ["search"], ["purge", "--all", "--yes"], ["rebuild"], ["export", "x.csv"], ["review", "list"], ["review", "queue"]):
        assert "Nothing is remembered in" in run(*words, code=64)


def test_what_is_remembered_is_counted_found_and_forgotten_while_it_is_in_use(box, run):
    box.keep(QUESTION, "Behind the door.", tags=["keys"])
    box.keep("what is for lunch", "Soup.")
    box.settle(2)
    assert box.tier(QUESTION) == "exact"
    assert run("stats").startswith("2 answers")
    assert json.loads(run("stats", "--json"))["by_namespace"] == {"of:a": 2}
    assert "Behind the door." in run("search", "DOOR") and "Soup" not in run("search", "--tag", "keys")
    assert run("search", "nowhere") == "No remembered answer fits.\n"
    [row] = json.loads(run("search", "soup", "--json"))
    assert "Nothing was chosen" in run("purge", code=64)
    assert "1 answers would be forgotten" in run("purge", "--text", "soup", code=64)
    assert run("purge", "--number", str(row["id"]), "--yes") == "1 answers are forgotten.\n"
    assert box.tier("what is for lunch") == "miss" and box.tier(QUESTION) == "exact"
    assert "made anew" in run("rebuild")
    box.settle(1)
    assert box.tier(SAME) == "semantic"


def test_answers_are_imported_listed_changed_exported_and_imported_again(box, run, tmp_path):
    file, copy = tmp_path / "in.csv", tmp_path / "out.jsonl"
    file.write_text("question,answer,phrasings\nwhere is the key,On the hook.,key where\n")
    assert "has no owner" in run("import", str(file), code=64) or "owner" in run("import", str(file), code=64)
    assert run("import", str(file), "--owner", "Ann") == "1 reviewed answers to 2 questions were taken over.\n"
    box.cache.tick()
    assert box.tier("Where is the key") == "reviewed" and box.tier("the key is where") == "reviewed"
    [row] = json.loads(run("review", "list", "--json"))
    number = str(row["id"])
    assert row["questions"] == ["where is the key", "key where"] and "On the hook." in run("review", "list")
    run("review", "edit", number, "--owner", "Bob", "--answer", "In the drawer.", "--phrasing", "who has the key")
    assert box.look("who has the key").hit.answer == "In the drawer."
    assert "Nothing is to be changed" in run("review", "edit", number, "--owner", "Bob", code=64)
    run("export", str(copy))
    assert json.loads(copy.read_text())["owner"] == "Bob"
    run("review", "reject", number, "--owner", "Bob")
    assert box.tier("who has the key") == "miss"
    run("review", "remove", number, "--owner", "Bob")
    assert "no reviewed answer" in run("review", "expire", number, "--owner", "Bob", code=64)
    run("import", str(copy))
    box.cache.tick()
    assert box.tier("where is the key") == "reviewed"
    run("review", "expire", str(json.loads(run("review", "list", "--json"))[0]["id"]), "--owner", "Bob")
    box.time += 10**9
    assert box.tier("where is the key") == "miss"


def test_a_generated_answer_becomes_a_reviewed_one(box, run):
    box.keep(QUESTION, "Behind the dor.")
    box.settle(1)
    assert "nearest" not in run("review", "queue")
    box.look("where is the key to the house")
    box.settle(1)
    assert QUESTION in run("review", "queue") and "where is the key to the house" in run("review", "queue")
    [row] = json.loads(run("review", "queue", "--json"))["unreviewed"]
    told = run("review", "approve", str(row["id"]), "--owner", "Ann", "--answer", "Behind the door.", "--expires", "2099-01-01")
    assert QUESTION in told
    hit = box.look(QUESTION).hit
    assert (hit.tier, hit.answer, hit.reviewed_by) == ("reviewed", "Behind the door.", "Ann")
    assert "2027-03-31" in run("review", "approve", str(row["id"]), "--owner", "Ann", "--expires", "soon", code=64)
    assert "no remembered answer 99" in run("review", "approve", "99", "--owner", "Ann", code=64)


@pytest.mark.parametrize("name, words", [("x.txt", "neither"), ("gone.csv", "No such file"), ("bad.csv", "not UTF-8")])
def test_files_that_cannot_be_read_are_told(run, tmp_path, name, words):
    (tmp_path / "bad.csv").write_bytes(b"question,answer\n\xff,a\n")
    assert words in run("import", str(tmp_path / name), code=74 if name == "gone.csv" else 64)


EXPLAINED = {
    "outcome": "miss", "tier": "", "why": "no gate let one pass", "namespace": "of:anonymous", "threshold": 0.97,
    "candidates": [{"source": "answer", "number": 3, "question": "how to open it", "cosine": 0.91, "score": None, "why": "antonyms: open, close",
                    "verdicts": [{"gate": "antonyms", "passed": False, "reason": "open, close"}]}],
}  # fmt: skip


@pytest.fixture
def answering():
    """A server that answers each POST with what `reply` holds, and keeps what it was sent."""
    reply, sent = {"status": 200, "body": EXPLAINED}, []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append((self.path, dict(self.headers), json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(reply["status"])
            self.end_headers()
            self.wfile.write(json.dumps(reply["body"]).encode())

        def log_message(self, *args) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", reply, sent
    server.shutdown()
    thread.join()
    server.server_close()


def test_explain_asks_the_service_and_prints_each_gate(answering, run, tmp_path):
    url, reply, sent = answering
    key = tmp_path / "key"
    key.write_text("# mine\nann:sesame\n")
    told = run("explain", "how to close it", "--url", url, "--system", "Be short.", "--temperature", "0", "--api-key-file", str(key))
    path, headers, body = sent[0]
    assert path == "/v1/cache/explain" and headers["Authorization"] == "Bearer sesame"
    assert body["temperature"] == 0 and [message["role"] for message in body["messages"]] == ["system", "user"]
    for words in ("miss: no gate let one pass", "0.97", "how to open it", "cosine 0.910", "gate antonyms: open, close"):
        assert words in told
    assert json.loads(run("explain", "how to close it", "--url", url, "--json")) == EXPLAINED
    reply.update(status=401, body={"error": {"message": "This service needs a valid API key.", "type": "x", "param": None, "code": "invalid_api_key"}})
    assert "needs a valid API key" in run("explain", "x", "--url", url, code=77)
    reply.update(status=500, body=[])
    assert "no appliance" in run("explain", "x", "--url", url, code=69)


def test_explain_without_a_service_says_so(run):
    assert "No service answers" in run("explain", "x", "--url", "http://127.0.0.1:9", code=69)
