"""Encoders behind the queue: a client that leaves, a deadline, a full line, a lost engine, and one that nobody needed yet."""

from __future__ import annotations

import json
import socket
import threading
import time


def post(address: str, body: dict) -> socket.socket:
    """A request whose answer is not read yet."""
    host, port = address.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)))
    raw = json.dumps(body).encode()
    sock.sendall(f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)
    return sock


def questions(service) -> int:
    return sum(len(child.loop._questions) for child in service.children if child.loop)


def test_the_work_of_a_client_that_left_is_cancelled(make_service, serve, wait_for):
    service = make_service(models=("embed",), step_s=0.05)
    engine = service.pipeline.engines["embed"]
    sock = post(serve(service), {"input": [f"text {n} " + "x " * (n % 50) for n in range(2000)]})
    wait_for(lambda: questions(service) == 1)
    sock.close()
    wait_for(lambda: questions(service) == 0 and engine.admission.running == 0, 2.0)
    wait_for(lambda: 'status="499"' in service.metrics.render())
    wait_for(lambda: service.outstanding() == 0)


def test_a_client_that_leaves_the_line_frees_its_place(make_service, serve, wait_for):
    service = make_service(models=("embed",), sequences=1)
    engine = service.pipeline.engines["embed"]
    held = [engine.admission.enter("other") for _ in range(3)]
    sock = post(serve(service), {"input": "x"})
    wait_for(lambda: engine.admission.waiting == 1)
    sock.close()
    wait_for(lambda: engine.admission.waiting == 0, 2.0)
    for place in held:
        engine.admission.leave(place)


def test_the_deadline_ends_what_takes_too_long(make_service, check_error, wait_for):
    service = make_service(models=("embed",), step_s=0.1, request_timeout_s=0.3)
    response = service.client.post("/v1/embeddings", json={"input": [f"w{n} " + "x " * (n % 50) for n in range(2000)]})
    error = check_error(response, 503, "deadline_exceeded")
    assert "request_timeout_s" in error["message"]
    wait_for(lambda: questions(service) == 0)
    assert 'appliance_sequences_failed_total{code="deadline_exceeded",model="embed"} 1' in service.metrics.render()


def test_a_full_line_is_refused_at_once(make_service, check_error):
    service = make_service(models=("embed",), sequences=1, queue_size=0)
    admission = service.pipeline.engines["embed"].admission
    held = [admission.enter("other") for _ in range(3)]
    response = service.client.post("/v1/embeddings", json={"input": "x"})
    check_error(response, 429, "queue_full")
    assert int(response.headers["Retry-After"]) >= 1
    for place in held:
        admission.leave(place)


def test_batch_work_waits_behind_interactive_work(make_service, check_error):
    client = make_service(models=("embed",)).client
    assert client.post("/v1/embeddings", json={"input": "x"}, headers={"X-Priority": "batch"}).status_code == 200
    check_error(client.post("/v1/embeddings", json={"input": "x"}, headers={"X-Priority": "soon"}), 400, "invalid_request", "X-Priority")


def test_a_request_whose_engine_is_lost_is_answered_by_the_next_one(make_service, wait_for):
    service = make_service(models=("embed",), step_s=0.1)
    answers = []
    body = {"input": ["a " * n + "b" for n in range(1, 50, 4)]}
    thread = threading.Thread(target=lambda: answers.append(service.client.post("/v1/embeddings", json=body)))
    thread.start()
    wait_for(lambda: questions(service) == 1)
    service.children[0].kill()
    thread.join(20)
    assert answers[0].status_code == 200 and len(service.children) == 2
    assert len(answers[0].get_json()["data"]) == 13


def test_a_request_between_two_lives_of_the_engine_waits_for_the_next(make_service, wait_for):
    service = make_service(models=("embed",))
    client = service.pipeline.engines["embed"].client
    detached, attach = threading.Event(), client.attach
    client.detach = lambda *how, detach=client.detach: (detach(*how), detached.set())
    client.attach = lambda channel: (time.sleep(0.5), attach(channel))
    service.pipeline.engines["embed"].supervisor.wait_ready = lambda timeout_s: None  # it asks just before the death is known
    service.children[0].kill()
    assert detached.wait(5)
    assert service.client.post("/v1/embeddings", json={"input": "x"}).status_code == 200


def test_a_draining_service_takes_nothing(make_service, check_error):
    service = make_service(models=("embed",))
    service.pipeline.draining = True
    check_error(service.client.post("/v1/embeddings", json={"input": "x"}), 503, "draining")


def test_an_embedder_beside_is_started_by_the_first_who_needs_it(make_service):
    service = make_service(aside="embed")
    client, engine = service.client, service.pipeline.engines["embed"]
    client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
    state = client.get("/readyz").get_json()["models"]["embed"]
    assert (state["state"], state["task"]) == ("absent", "embed") and "first request" in state["reason"]
    assert [m["id"] for m in client.get("/v1/models").get_json()["data"]] == ["fake", "embed"]
    assert len(service.children) == 1
    together = [threading.Thread(target=lambda: client.post("/v1/embeddings", json={"input": "x"})) for _ in range(4)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join(10)
    assert engine.supervisor.status.state == "ready" and len(service.children) == 2
    assert client.post("/v1/embeddings", json={"input": "x"}).status_code == 200


def test_tokenizing_and_classifying_start_it_as_well(make_service):
    embed = make_service(aside="embed").client
    assert len(embed.post("/tokenize", json={"model": "embed", "content": "a b"}).get_json()["tokens"]) == 2
    classify = make_service(aside="classify").client
    assert classify.post("/v1/classify", json={"input": "good"}).get_json()["data"][0]["label"] == "positive"


def test_what_nobody_asked_for_says_nothing_about_health(make_service, check_error, wait_for):
    service = make_service(aside="embed", refuse="It is damaged.")
    wait_for(lambda: service.pipeline.engines["fake"].supervisor.status.state == "failed")
    check_error(service.client.get("/health"), 503, "model_failed")


def test_one_short_text_waits_for_nobody_when_the_engine_is_idle(make_service):
    client = make_service(models=("embed",)).client
    client.post("/v1/embeddings", json={"input": "warm"})
    began = time.monotonic()
    for _ in range(20):
        assert client.post("/v1/embeddings", json={"input": "a short text"}).status_code == 200
    assert (time.monotonic() - began) / 20 < 0.12  # nothing polls on the way: that would take 0.25 s
