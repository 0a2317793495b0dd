"""Engines that die, hang or refuse, as the people see it who wait for an answer."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil
from fakes import wait_until


def in_background(work) -> tuple[threading.Thread, list]:
    """Run work on a thread; its result lands in the list."""
    results: list = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def test_kill_9_in_mid_stream_loses_that_stream_and_nothing_else(running_server, tiny):
    server = running_server("--model", str(tiny), "--ctx-size", "60000", "--parallel", "1", "--prefix-cache-mb", "0")
    stream = server.stream("Go on", max_tokens=50_000)
    stream.first_text()
    queued, answers = in_background(lambda: server.chat("Hello", max_tokens=4))
    wait_until(lambda: server.gauge("appliance_requests_waiting") + server.gauge("appliance_sequences_admitted") == 2)
    victim = server.engine_pid()
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    stream.rest()
    queued.join(20)
    following = server.chat("Again", max_tokens=4)
    seconds = time.monotonic() - began
    print(f"kill -9 to the next answer: {seconds:.2f} s")
    assert not stream.done and stream.error["code"] == "engine_lost" and stream.error["type"] == "unavailable_error"
    assert "killed from outside (SIGKILL)" in stream.error["message"] and set(stream.error) == {"message", "type", "param", "code"}
    assert answers and answers[0].status == 200 and answers[0].json["usage"]["completion_tokens"] == 4
    assert following.status == 200
    assert seconds < 5
    assert server.engine_pid() != victim and server.models()["tiny"]["restarts"] == {"stopped": 1}
    assert server.gauge("appliance_engine_restarts_total") == 1
    assert not psutil.pid_exists(victim)


def test_an_engine_that_stands_still_is_found_explained_and_replaced(running_server):
    server = running_server("--engine", "fake", "--model", "x", "--hang-timeout-s", "1", APPLIANCE_FAKE_STEP_S="0.02")
    stream = server.stream("!long", max_tokens=2000)
    stream.first_text()
    victim = server.engine_pid()
    os.kill(victim, signal.SIGSTOP)
    told: list[str] = []

    def restarted() -> bool:
        state = server.models()["x"]
        told.append(state["reason"])
        return state["restarts"] == {"hang": 1} and state["state"] == "ready"

    wait_until(restarted, 15.0, "a new engine")
    stream.rest()
    assert stream.error["code"] == "engine_lost" and "it hung: no step for 1 s" in stream.error["message"]
    assert "hang_timeout_s" in server.log and any("work is waiting" in words or "hung" in words for words in told), told
    assert server.chat("better?").text == "echo: better?" and not psutil.pid_exists(victim)


def test_a_request_that_hangs_the_engine_is_tried_twice_and_then_refused(running_server):
    server = running_server("--engine", "fake", "--model", "x", "--hang-timeout-s", "1")
    lost = server.chat("!hang")
    assert lost.status == 503 and lost.error["code"] == "engine_lost" and "hung" in lost.error["message"]
    refused = server.chat("!hang")
    assert refused.status == 400 and refused.error["code"] == "request_quarantined"
    assert server.chat("hello").text == "echo: hello"
    assert server.models()["x"]["restarts"] == {"hang": 2}


def test_a_request_that_crashes_the_engine_is_tried_twice_and_then_refused(running_server):
    server = running_server("--engine", "fake", "--model", "x")
    lost = server.chat("!crash")
    assert lost.status == 503 and "it crashed (SIGSEGV)" in lost.error["message"] and "retry-after" in lost.headers
    assert server.chat("!crash").error["code"] == "request_quarantined"
    assert server.chat("hello").text == "echo: hello"


def test_a_text_that_crashes_an_encoder_is_tried_twice_and_then_refused(running_server):
    server = running_server("--engine", "fake", "--model", "embed")
    body = {"input": "x !crash", "model": "embed"}
    lost = server.request("POST", "/v1/embeddings", body)
    assert lost.status == 503 and "it crashed (SIGSEGV)" in lost.error["message"] and "retry-after" in lost.headers
    assert server.request("POST", "/v1/embeddings", body).error["code"] == "request_quarantined"
    assert server.request("POST", "/v1/embeddings", {"input": "x", "model": "embed"}).status == 200
    assert server.models()["embed"]["restarts"] == {"crash": 2}


def test_a_model_that_cannot_boot_leaves_the_others_serving(running_server, tiny, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny.read_bytes()[:3000])
    server = running_server("--model", str(broken), "--model", str(tiny))
    wait_until(lambda: server.models()["broken"]["state"] == "failed", 20.0, "the failure of broken")
    wait_until(lambda: server.models()["tiny"]["state"] == "ready", 20.0, "tiny")
    ready = server.get("/readyz")
    assert ready.status == 200 and "broken.gguf cannot be loaded" in ready.json["models"]["broken"]["reason"]
    assert server.get("/health").status == 200
    assert server.chat("Hi", model="tiny", max_tokens=3).status == 200
    refused = server.chat("Hi", model="broken")
    assert refused.status == 503 and refused.error["code"] == "model_failed" and "broken.gguf" in refused.error["message"]
    listed = {model["id"]: model for model in server.get("/v1/models").json["data"]}
    assert set(listed) == {"tiny", "broken", "minilm-l6-int8"}
    assert listed["broken"] != listed["tiny"] and "meta" in listed["tiny"]
    assert server.log.count("cannot be served") == 1, "it is not tried for ever"


def test_kill_9_of_the_web_worker_takes_its_engines_and_a_new_one_serves(running_server, tiny):
    server = running_server("--model", str(tiny), "--ctx-size", "60000", "--prefix-cache-mb", "0")
    stream = server.stream("Go on", max_tokens=50_000)
    stream.first_text()
    worker, engine = server.worker_pid, server.engine_pid()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(engine), 10.0, "the end of the engine")
    server.wait_healthy()
    assert server.worker_pid != worker and server.chat("Hi", max_tokens=3).status == 200
    assert len(server.family()) == 3


def test_kill_9_of_the_arbiter_leaves_no_process_behind(running_server, tiny):
    server = running_server("--model", str(tiny))
    os.kill(server.process.pid, signal.SIGKILL)
    assert server.process.wait(10) == -signal.SIGKILL
    wait_until(lambda: not server.family(), 15.0, "the end of worker and engine")


def test_a_stopped_engine_does_not_keep_the_service_from_ending(running_server):
    server = running_server("--engine", "fake", "--model", "x", "--drain-s", "1", APPLIANCE_FAKE_STEP_S="0.02")
    stream = server.stream("!long", max_tokens=2000)
    stream.first_text()
    os.kill(server.engine_pid(), signal.SIGSTOP)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    stream.rest()
    assert not stream.done and stream.error and stream.error["code"] == "draining"
