"""`Idempotency-Key`: the first answer again, and never two computations for one request."""

from __future__ import annotations

import threading

import pytest

from appliance.clock import FakeClock
from appliance.errors import IdempotencyKeyInUse, IdempotencyKeyReused
from appliance.http import idempotency
from appliance.http.idempotency import KEPT_S, Answer, Claim, Replays

KEY = {"Idempotency-Key": "order 17"}
BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "temperature": 1.5, "max_tokens": 30},
    "/v1/completions": {"prompt": "hello"}, "/v1/embeddings": {"input": "x"}, "/v1/rerank": {"query": "x", "documents": ["y"]}, "/v1/classify": {"input": "x"},
}  # fmt: skip


def generated(service) -> float:
    return service.metrics.total("appliance_generated_tokens_total") + service.metrics.total("appliance_encoded_texts_total")


@pytest.mark.parametrize("path", BODIES)
def test_the_same_key_and_body_give_the_first_answer_without_computing(encoders, path):
    key = {"Idempotency-Key": f"again {path}"}
    first = encoders.client.post(path, json=BODIES[path], headers=key)
    assert first.status_code == 200 and "idempotency-replayed" not in first.headers
    before = generated(encoders)
    again = encoders.client.post(path, json=BODIES[path], headers=key)
    assert (again.data, again.mimetype, again.headers["idempotency-replayed"]) == (first.data, first.mimetype, "true")
    assert generated(encoders) == before > 0
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    other = encoders.client.post(path, json=BODIES[path], headers={"Idempotency-Key": f"another {path}"})
    assert "idempotency-replayed" not in other.headers and generated(encoders) > before


def test_a_stream_is_given_again_as_a_stream(client, hello, read_events):
    body = hello | {"stream": True, "stream_options": {"include_usage": True}}
    first = client.post("/v1/chat/completions", json=body, headers=KEY)
    again = client.post("/v1/chat/completions", json=body, headers=KEY)
    assert again.mimetype == "text/event-stream" and again.headers["Cache-Control"] == "no-cache" and again.headers["idempotency-replayed"] == "true"
    assert read_events(again.data) == [event for event in read_events(first.data) if not str(event).startswith(":")]
    assert read_events(again.data)[-1] == "[DONE]"


def test_another_body_with_the_same_key_is_refused(client, hello, check_error):
    client.post("/v1/chat/completions", json=hello, headers=KEY)
    words = check_error(client.post("/v1/chat/completions", json=hello | {"n": 2}, headers=KEY), 422, "idempotency_key_reused", "Idempotency-Key")
    assert "order 17" in words["message"]
    check_error(client.post("/v1/completions", json={"prompt": "x"}, headers=KEY), 422, "idempotency_key_reused", "Idempotency-Key")


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_none_is_refused(client, hello, check_error, key):
    check_error(client.post("/v1/chat/completions", json=hello, headers={"Idempotency-Key": key}), 400, "invalid_request", "Idempotency-Key")


def test_while_the_first_is_answered_the_second_is_told_to_come_back(make_service, wait_for, check_error, hello):
    service = make_service(step_s=0.01)
    found: list = []
    thread = threading.Thread(target=lambda: found.append(service.client.post("/v1/chat/completions", json=hello, headers=KEY)))
    thread.start()
    wait_for(lambda: service.outstanding() == 1)
    refused = service.client.post("/v1/chat/completions", json=hello, headers=KEY)
    check_error(refused, 409, "idempotency_key_in_use", "Idempotency-Key")
    assert refused.headers["Retry-After"] == "1"
    thread.join()
    assert service.client.post("/v1/chat/completions", json=hello, headers=KEY).data == found[0].data


def test_what_failed_or_was_left_is_computed_anew(client, hello):
    refused = hello | {"temperature": -1}
    assert client.post("/v1/chat/completions", json=refused, headers=KEY).status_code == 400
    stream = client.post("/v1/chat/completions", json=hello | {"stream": True}, headers=KEY, buffered=False)
    next(iter(stream.response))
    stream.close()
    answer = client.post("/v1/chat/completions", json=hello, headers=KEY)
    assert answer.status_code == 200 and "idempotency-replayed" not in answer.headers


def test_a_stream_that_ended_with_an_error_is_not_kept(make_service, hello, read_events):
    service = make_service(step_s=0.01, request_timeout_s=0.3)
    body = {"messages": [{"role": "user", "content": "!long"}], "max_tokens": 400, "stream": True}
    for _ in range(2):
        answer = service.client.post("/v1/chat/completions", json=body, headers=KEY)
        assert read_events(answer.data)[-1]["error"]["code"] == "deadline_exceeded" and "idempotency-replayed" not in answer.headers


def test_keys_of_one_program_are_nothing_to_another(make_service, hello):
    client = make_service(api_key=("ann", "bob")).client
    for key in ("ann", "bob"):
        answer = client.post("/v1/chat/completions", json=hello, headers=KEY | {"x-api-key": key})
        assert answer.status_code == 200 and "idempotency-replayed" not in answer.headers
    open_client = make_service().client
    for address in ("10.0.0.1", "10.0.0.2"):
        answer = open_client.post("/v1/chat/completions", json=hello, headers=KEY, environ_base={"REMOTE_ADDR": address})
        assert "idempotency-replayed" not in answer.headers


def kept(replays: Replays, key: str, size: int = 1) -> None:
    claim = replays.claim("till", key, b"body")
    assert isinstance(claim, Claim)
    claim.keep(Answer(b"x" * size, {}))


def test_answers_are_kept_for_a_day_and_no_more_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(idempotency, "MOST_ANSWERS", 3)
    monkeypatch.setattr(idempotency, "MOST_BYTES", 100)
    monkeypatch.setattr(idempotency, "LARGEST_BYTES", 60)
    clock = FakeClock()
    replays = Replays(clock)
    running = replays.claim("till", "running", b"body")
    for number in range(4):
        kept(replays, f"{number}")
    assert isinstance(replays.claim("till", "3", b"body"), Answer)
    with pytest.raises(IdempotencyKeyReused):
        replays.claim("till", "3", b"another")
    with pytest.raises(IdempotencyKeyInUse):
        replays.claim("till", "running", b"body")
    kept(replays, "0"), kept(replays, "1")  # the oldest were forgotten
    kept(replays, "large", 60), kept(replays, "large too", 60)
    assert replays._bytes <= 100 and len(replays._entries) <= 4
    kept(replays, "too large", 61)
    kept(replays, "too large", 61)
    running.drop()
    kept(replays, "running")
    clock.advance(KEPT_S + 1)
    kept(replays, "running")
    assert replays._bytes == 1
