"""A real service remembers: over HTTP, over restarts, with damaged files, and with whoever asks on the command line."""

from __future__ import annotations

import json
import os
import signal

import pytest
from fakes import wait_until
from served import command

ASK = {"messages": [{"role": "user", "content": "Tell me of the dog"}], "temperature": 0, "max_tokens": 60}


@pytest.fixture
def remembering(running_server, tiny, tmp_path):
    def start(*flags: str, **more):
        folder = str(tmp_path / "kept")
        return running_server("--model", str(tiny), "--alias", "small", "--ctx-size", "1024", "--data-dir", folder, *flags, APPLIANCE_NO_CACHE="0", **more)

    return start


def post(server, body: dict):
    return server.request("POST", "/v1/chat/completions", body)


def tier(answer) -> str:
    return answer.headers.get("x-cache-tier") or answer.headers["x-cache"]


def ends(server) -> dict:
    """A request whose answer ends by itself: at the second word, by a stop word from it."""
    text = post(server, {**ASK, "max_tokens": 30, "cache": False}).json["choices"][0]["message"]["content"]
    return {**ASK, "stop": text.split()[1]}


def test_an_answer_is_remembered_over_a_restart_and_the_command_line_sees_it(remembering, tmp_path):
    server = remembering()
    ask = ends(server)
    first, again = (post(server, ask) for _ in range(2))
    assert (tier(first), tier(again)) == ("miss", "exact") and first.json["choices"] == again.json["choices"]
    server.stop()
    server = remembering()
    wait_until(lambda: tier(post(server, ask)) == "exact", what="the digest of the model")
    told = command("cache", "stats", "--json", "--data-dir", str(tmp_path / "kept"))
    assert json.loads(told.stdout)["by_model_name"] == {"small": 1}
    told = command("cache", "explain", ask["messages"][0]["content"], "--temperature", "0", "--url", server.url)
    assert told.returncode == 0 and told.stdout.startswith("miss"), "another stop word is another request"
    gone = command("cache", "purge", "--all", "--yes", "--data-dir", str(tmp_path / "kept"))
    assert gone.stdout == "1 answers are forgotten.\n"
    assert tier(post(server, ask)) == "miss"


def test_a_killed_worker_and_a_killed_engine_lose_no_answer(remembering):
    server = remembering()
    ask = ends(server)
    post(server, ask)
    wait_until(lambda: server.get("/v1/cache/stats").json["answers"] == 1, what="the row")
    os.kill(server.engine_pid(), signal.SIGKILL)
    assert tier(post(server, ask)) == "exact", "it needs no engine"
    os.kill(server.worker_pid, signal.SIGKILL)

    def remembered() -> bool:
        try:
            return tier(post(server, ask)) == "exact"
        except (OSError, KeyError):
            return False

    wait_until(remembered, what="the next worker")


def test_a_damaged_or_deleted_cache_is_told_and_the_service_goes_on(remembering, tmp_path):
    server = remembering()
    ask, kept = ends(server), tmp_path / "kept" / "cache.db"
    post(server, ask)
    wait_until(lambda: server.get("/v1/cache/stats").json["answers"] == 1, what="the row")
    kept.unlink()
    assert post(server, ask).status == 200
    wait_until(lambda: "was deleted; an empty one is made" in server.log and tier(post(server, ask)) == "exact", what="the new file")
    server.stop()
    kept.write_bytes(b"rubbish" * 999)
    server = remembering()
    assert tier(post(server, ask)) == "miss"
    assert tier(post(server, ask)) == "exact" and "was damaged" in server.log


def test_without_a_place_to_keep_it_the_service_runs_and_says_so(remembering, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "state.db").write_bytes(b"precious, but no database" * 99)
    server = remembering()
    assert "No answer is remembered" in server.log and "state.db" in server.log
    answer = post(server, ASK)
    assert answer.status == 200 and tier(answer) == "bypass"
