"""Request ids and the one log line a request leaves."""

import pytest

from appliance.http.request_log import request_id


@pytest.mark.parametrize("sent", ["abc", "a b", "x" * 128, "~!"])
def test_a_sane_request_id_is_taken_over(client, sent):
    assert client.get("/livez", headers={"X-Request-Id": sent}).headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", [None, "", "x" * 129, "a\tb", "grüße", " "])
def test_anything_else_gets_a_new_one(sent):
    made = request_id(sent)
    assert made.startswith("req-") and made != request_id(sent)


def lines(caplog):
    return [r.fields for r in caplog.records if r.getMessage() == "request"]


def test_one_line_tells_the_story_of_a_request_without_its_words(make_service, hello, caplog):
    client = make_service(api_key=("hush-key",)).client
    hello["messages"][0]["content"] = "private words"
    with caplog.at_level("INFO", logger="appliance"):
        headers = {"X-Request-Id": "id-1", "Authorization": "Bearer hush-key"}
        client.post("/v1/chat/completions", json=hello, headers=headers)
    (line,) = lines(caplog)
    assert line.pop("duration_ms") >= 0
    assert line.pop("ttft_ms") >= 0
    assert line == {
        "id": "id-1",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "principal": "key-1",
        "model": "fake",
        "prompt_tokens": len("user: private words\nanswer\x02"),
        "completion_tokens": len("echo: private words"),
        "cached_tokens": 0,
        "finish": "stop",
    }
    assert "private" not in caplog.text and "hush-key" not in caplog.text


def test_a_stream_is_logged_when_it_is_over_and_not_before(service, hello, caplog):
    with caplog.at_level("INFO", logger="appliance"):
        response = service.client.post("/v1/chat/completions", json=hello | {"stream": True}, buffered=False)
        assert lines(caplog) == []
        for _ in response.iter_encoded():
            pass
        response.close()
    (line,) = lines(caplog)
    assert (line["status"], line["finish"], line["completion_tokens"]) == (200, "stop", len("echo: hello"))


def test_a_client_that_left_is_logged_as_499(make_service, hello, caplog):
    service = make_service(step_s=0.01)
    hello["messages"][0]["content"] = "!long"
    with caplog.at_level("INFO", logger="appliance"):
        response = service.client.post("/v1/chat/completions", json=hello | {"stream": True}, buffered=False)
        next(response.iter_encoded())
        response.close()
    (line,) = lines(caplog)
    assert (line["status"], line["error"]) == (499, "cancelled")


def test_a_refusal_is_logged_with_its_code(client, caplog):
    with caplog.at_level("INFO", logger="appliance"):
        client.post("/v1/chat/completions", json={"messages": []})
    (line,) = lines(caplog)
    assert (line["status"], line["error"]) == (400, "invalid_request")


def test_probes_do_not_fill_the_log(client, caplog):
    with caplog.at_level("INFO", logger="appliance"):
        client.get("/health")
        client.get("/readyz")
    assert lines(caplog) == []
