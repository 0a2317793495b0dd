"""Streamed answers, byte by byte."""

import json

import pytest

from appliance import pipeline
from appliance.http import answering, sse

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def stream(client, url, body, read_events):
    response = client.post(url, json={**body, "stream": True})
    assert response.status_code == 200, response.get_data(as_text=True)
    return response, read_events(response.get_data())


def test_a_chat_stream_begins_with_the_role_and_ends_with_done(client, hello, read_events):
    response, events = stream(client, CHAT, hello, read_events)
    assert response.content_type == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["x-request-id"]
    assert events[-1] == "[DONE]"
    chunks = events[:-1]
    assert len({c["id"] for c in chunks}) == 1
    assert all(set(c) == {"id", "object", "created", "model", "choices"} for c in chunks)
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    choices = [c["choices"][0] for c in chunks]
    assert choices[0] == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    assert "".join(c["delta"].get("content", "") for c in choices) == "echo: hello"
    assert choices[-1] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert all(c["finish_reason"] is None for c in choices[:-1])


def test_the_exact_bytes_of_a_text_chunk(client, read_events):
    raw = client.post(TEXT, json={"prompt": "a", "max_tokens": 1, "stream": True}).get_data()
    first = read_events(raw)[0]
    expected = {
        "id": first["id"],
        "object": "text_completion",
        "created": first["created"],
        "model": "fake",
        "choices": [{"index": 0, "text": "b", "logprobs": None, "finish_reason": None}],
    }
    assert raw.startswith(b"data: " + json.dumps(expected, separators=(",", ":")).encode() + b"\n\n")


@pytest.mark.parametrize("url", [CHAT, TEXT])
def test_usage_comes_as_a_chunk_without_choices_only_when_asked_for(client, hello, read_events, url):
    body = hello | {"prompt": "a", "max_tokens": 3}
    _, plain = stream(client, url, body, read_events)
    assert all("usage" not in e for e in plain[:-1])
    _, events = stream(client, url, body | {"stream_options": {"include_usage": True}}, read_events)
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == 3
    assert events[-2]["id"] == events[0]["id"]
    assert all(e["usage"] is None for e in events[:-2])


def test_choices_of_a_stream_are_told_apart_by_their_index(client, hello, read_events):
    _, events = stream(client, CHAT, hello | {"n": 3}, read_events)
    texts, roles, ends = {}, [], []
    for event in events[:-1]:
        choice = event["choices"][0]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["delta"].get("content", "")
        roles += [choice["index"]] * ("role" in choice["delta"])
        ends += [choice["index"]] * (choice["finish_reason"] is not None)
    assert texts == dict.fromkeys(range(3), "echo: hello")
    assert sorted(roles) == sorted(ends) == [0, 1, 2]


def test_a_streamed_completion_echoes_its_prompt_and_counts_offsets(client, read_events):
    body = {"prompt": [97, 98], "echo": True, "logprobs": 1, "max_tokens": 2}
    _, events = stream(client, TEXT, body, read_events)
    choices = [e["choices"][0] for e in events[:-1]]
    assert "".join(c["text"] for c in choices) == "abcd"
    offsets = [o for c in choices if c["logprobs"] for o in c["logprobs"]["text_offset"]]
    assert offsets == [0, 1, 2, 3]


def test_streamed_chat_logprobs(client, hello, read_events):
    _, events = stream(client, CHAT, hello | {"logprobs": True, "top_logprobs": 1, "max_tokens": 2}, read_events)
    entries = [t for e in events[:-1] for t in (e["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert [e["token"] for e in entries] == ["e", "c"]


def test_text_that_json_must_escape_arrives_unharmed(client, hello, read_events):
    said = 'quote " backslash \\ grüße 🙂 \u2028'
    hello["messages"][0]["content"] = said
    _, events = stream(client, CHAT, hello, read_events)
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
    assert text == "echo: " + said


def test_a_stop_string_is_never_sent_in_part(client, hello, read_events):
    _, events = stream(client, CHAT, hello | {"stop": "hello"}, read_events)
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1]) == "echo: "


def test_while_no_token_comes_comments_keep_the_stream_alive(make_service, hello, read_events, monkeypatch):
    monkeypatch.setattr(answering, "COMMIT_S", 0.0)
    monkeypatch.setattr(pipeline, "TICK_S", 0.05)
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.08)
    service = make_service(step_s=0.3)
    _, events = stream(service.client, CHAT, hello | {"max_tokens": 1}, read_events)
    assert events[:2] == [": keep-alive", ": keep-alive"]
    assert events[-1] == "[DONE]"
    assert [e["choices"][0]["delta"].get("content") for e in events if isinstance(e, dict)] == ["", "e", None]


def test_an_engine_lost_in_mid_stream_ends_it_with_an_error_event(make_service, hello, read_events):
    service = make_service(step_s=0.01)
    hello["messages"][0]["content"] = "!long"
    response = service.client.post(CHAT, json=hello | {"stream": True}, buffered=False)
    parts = response.iter_encoded()
    raw = b"".join(next(parts) for _ in range(3))
    service.children[-1].kill()
    raw += b"".join(parts)
    response.close()
    events = read_events(raw)
    assert "[DONE]" not in events
    assert set(events[-1]) == {"error"}
    assert set(events[-1]["error"]) == {"message", "type", "param", "code"}
    assert events[-1]["error"]["code"] == "engine_lost"
    assert events[-1]["error"]["type"] == "unavailable_error"
    assert service.client.post(CHAT, json=hello | {"max_tokens": 4}).status_code == 200


def test_an_unexpected_error_in_mid_stream_tells_no_secrets(service, hello, read_events, monkeypatch, wait_for):
    def broken(self, event):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("appliance.http.openai_chat.ChatShape.delta", broken)
    _, events = stream(service.client, CHAT, hello, read_events)
    assert events[-1]["error"]["code"] == "internal_error"
    assert "secret" not in json.dumps(events)
    wait_for(lambda: service.outstanding() == 0)


def test_an_error_before_the_first_byte_is_a_plain_http_error(client, hello, check_error):
    hello["messages"][0]["content"] = "!template"
    check_error(client.post(CHAT, json=hello | {"stream": True}), 400, "chat_template_error", "messages")
