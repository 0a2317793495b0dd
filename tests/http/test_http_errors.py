"""Every mistake a caller can make has a status, four fields, and words that help."""

import json

import pytest

from appliance import pipeline as pipeline_module

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
UNPAIRED = "\ud800"


@pytest.mark.parametrize(
    "raw, words",
    [
        (b'{"messages": [', "line 1 column 15"),
        (b'{\n  "a": tru\n}', "line 2 column 8"),
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"[1]", "not a list"),
        (b'"text"', "not a string"),
        (b"null", "not null"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": -Infinity}', "-Infinity"),
        (b'{"a": "\xff"}', "byte 7 is 0xff"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT, "/tokenize", "/detokenize"])
def test_a_body_that_is_no_json_object_is_told_where_it_breaks(shared_client, check_error, path, raw, words):
    error = check_error(shared_client.post(path, data=raw, content_type="application/json"), 400, "invalid_request")
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]


def chat(content="hi", **more):
    return {"messages": [{"role": "user", "content": content}], **more}


CHAT_MISTAKES = [
    ({}, "messages", "missing"),
    ({"messages": "hi"}, "messages", "a list"),
    ({"messages": []}, "messages", "empty"),
    ({"messages": [1]}, "messages[0]", "not a number"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "null"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", '"wizard"'),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "a list"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "not supported"),
    ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages[0]", "not supported"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "null"),
    (chat(7), "messages[0].content", "a number (7)"),
    (chat([]), "messages[0].content", "empty"),
    (chat(["x"]), "messages[0].content[0]", "an object"),
    (chat([{"type": "image_url", "image_url": {}}]), "messages[0].content[0]", "only text"),
    (chat([{"type": ["text"], "text": "x"}]), "messages[0].content[0]", "only text"),
    (chat([{"type": "text"}]), "messages[0].content[0].text", "null"),
    (chat("a\0b"), "messages[0].content", "NUL"),
    (chat(UNPAIRED), "messages[0].content", "surrogate"),
    (chat(model=3), "model", "a string"),
    (chat(model="a\0"), "model", "NUL"),
    (chat(temperature="hot"), "temperature", "a number"),
    (chat(temperature=True), "temperature", "a boolean (true)"),
    (chat(temperature=-0.1), "temperature", "smallest allowed, 0"),
    (chat(temperature=101), "temperature", "largest allowed, 100"),
    (chat(top_p=1.5), "top_p", "largest allowed, 1"),
    (chat(top_k=1.5), "top_k", "whole number"),
    (chat(top_k=-2), "top_k", "smallest allowed, -1"),
    (chat(min_p=2), "min_p", "largest"),
    (chat(typical_p=-1), "typical_p", "smallest"),
    (chat(repeat_penalty=0), "repeat_penalty", "0.1"),
    (chat(presence_penalty=2.1), "presence_penalty", "2"),
    (chat(frequency_penalty=-3), "frequency_penalty", "-2"),
    (chat(repeat_last_n=-2), "repeat_last_n", "-1"),
    (chat(seed=2**63), "seed", "largest"),
    (chat(seed="7"), "seed", "whole number"),
    (chat(max_tokens=0), "max_tokens", "smallest allowed, 1"),
    (chat(max_tokens=True), "max_tokens", "a boolean"),
    (chat(max_completion_tokens="many"), "max_completion_tokens", "whole number"),
    (chat(n=0), "n", "smallest allowed, 1"),
    (chat(n=17), "n", "16 (max_choices)"),
    (chat(logit_bias=3), "logit_bias", "an object"),
    (chat(logit_bias={"hello": 1}), "logit_bias", "token ids"),
    (chat(logit_bias={"257": 1}), "logit_bias", "vocabulary (0 to 256)"),
    (chat(logit_bias={"9" * 5000: 1}), "logit_bias", "token ids"),
    (chat(logit_bias=[[-1, 1]]), "logit_bias", "no token id"),
    (chat(logit_bias={"1": 101}), "logit_bias", "100"),
    (chat(logit_bias={"1": True}), "logit_bias", "a number"),
    (chat(logit_bias=[[1]]), "logit_bias", "pairs"),
    (chat(logit_bias=[[True, 1]]), "logit_bias", "token ids"),
    (chat(stop=1), "stop", "a string"),
    (chat(stop=""), "stop", "empty"),
    (chat(stop=["a", None]), "stop", "a string"),
    (chat(stop=["a"] * 17), "stop", "16"),
    (chat(stop="a" * 1001), "stop", "1000"),
    (chat(stop="\0"), "stop", "NUL"),
    (chat(logprobs=2), "logprobs", "true or false"),
    (chat(top_logprobs=2), "top_logprobs", "needs logprobs"),
    (chat(logprobs=True, top_logprobs=21), "top_logprobs", "largest allowed, 20"),
    (chat(stream="yes"), "stream", "true or false"),
    (chat(stream_options={"include_usage": True}), "stream_options", "needs stream"),
    (chat(stream=True, stream_options=1), "stream_options", "an object"),
    (chat(stream=True, stream_options={"include_usage": 1}), "stream_options.include_usage", "true or false"),
    (chat(response_format="json"), "response_format", "an object"),
    (chat(response_format={"type": "json_object"}), "response_format", "not supported yet"),
    (chat(tools=[{"type": "function"}]), "tools", "not supported yet"),
    (chat(tool_choice="required"), "tool_choice", "not supported yet"),
    (chat(functions=[{}]), "functions", "not supported yet"),
    (chat(audio={"voice": "a"}), "audio", "not supported yet"),
    (chat(modalities=["text", "audio"]), "modalities", "not supported yet"),
    (chat(grammar="root ::= x"), "grammar", "not supported yet"),
    (chat(n_predict="many"), "n_predict", "whole number"),
    (chat(repetition_penalty=0), "repetition_penalty", "0.1"),
]


@pytest.mark.parametrize("body, param, words", CHAT_MISTAKES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_wrong_chat_field_is_named(shared_client, check_error, body, param, words):
    error = check_error(shared_client.post(CHAT, json=body), 400, "invalid_request", param)
    assert words in error["message"]


TEXT_MISTAKES = [
    ({}, "prompt", "missing"),
    ({"prompt": 3}, "prompt", "a string"),
    ({"prompt": []}, "prompt", "empty"),
    ({"prompt": ""}, "prompt", "empty"),
    ({"prompt": ["a", 1]}, "prompt[1]", "a string"),
    ({"prompt": [1, "a"]}, "prompt[1]", "a token id"),
    ({"prompt": [[1], []]}, "prompt[1]", "empty"),
    ({"prompt": [[1], 2]}, "prompt[1]", "token ids"),
    ({"prompt": [-1]}, "prompt[0]", "token id"),
    ({"prompt": [True]}, "prompt[0]", "token id"),
    ({"prompt": [1.5]}, "prompt[0]", "token id"),
    ({"prompt": [1e300]}, "prompt[0]", "token id"),
    ({"prompt": [257]}, "prompt", "vocabulary"),
    ({"prompt": [None]}, "prompt[0]", "null"),
    ({"prompt": "a\0"}, "prompt", "NUL"),
    ({"prompt": "a", "suffix": "z"}, "suffix", "not supported"),
    ({"prompt": "a", "best_of": 3}, "best_of", "not supported"),
    ({"prompt": "a", "echo": 1}, "echo", "true or false"),
    ({"prompt": "a", "logprobs": True}, "logprobs", "whole number"),
    ({"prompt": "a", "logprobs": 21}, "logprobs", "20"),
    ({"prompt": ["a"] * 17}, "prompt", "prompt is a list of 17; the limit is"),
    ({"prompt": ["a"] * 9, "n": 2}, "n", "18 answers"),
    ({"prompt": "a", "max_tokens": -2}, "max_tokens", "smallest"),
]


@pytest.mark.parametrize("body, param, words", TEXT_MISTAKES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_wrong_completion_field_is_named(shared_client, check_error, body, param, words):
    error = check_error(shared_client.post(TEXT, json=body), 400, "invalid_request", param)
    assert words in error["message"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    "field, value",
    [
        ("response_format", {"type": "json_object"}),
        ("json_schema", {"type": "object"}),
        ("guided_regex", "a+"),
        ("tools", [{"type": "function"}]),
        ("ignore_eos", True),
        ("min_tokens", 5),
        ("stop_token_ids", [7]),
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("mirostat", 2),
        ("lora", [{"id": 0, "scale": 1}]),
    ],
)
def test_what_would_change_the_answer_and_cannot_be_obeyed_is_refused(shared_client, check_error, path, field, value):
    response = shared_client.post(path, json=chat(prompt="a", **{field: value}))
    assert "not supported yet" in check_error(response, 400, "invalid_request", field)["message"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_switched_off_fields_and_mere_advice_of_other_servers_are_ignored(shared_client, path):
    off = {
        "ignore_eos": False,
        "min_tokens": 0,
        "mirostat": 0,
        "xtc_probability": 0.0,
        "dry_multiplier": 0,
        "grammar": "",
        "tools": [],
        "tool_choice": "auto",
        "suffix": None,
        "response_format": {"type": "text"},
    }
    advice = {"cache_prompt": False, "id_slot": 0, "user": "me", "store": True, "timings_per_token": True}
    response = shared_client.post(path, json=chat(prompt="a", max_tokens=1, **off, **advice))
    assert response.status_code == 200, response.get_data(as_text=True)


def test_a_number_too_large_for_a_float_is_refused(client, check_error):
    raw = b'{"messages":[{"role":"user","content":"x"}],"temperature":1e999}'
    check_error(client.post(CHAT, data=raw), 400, "invalid_request", "temperature")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path, param", [(CHAT, "messages"), (TEXT, "prompt")])
def test_a_prompt_longer_than_the_context_is_an_error_and_never_cut(client, check_error, path, param, stream):
    long = "x" * 600
    body = {"prompt": long, "messages": [{"role": "user", "content": long}], "stream": stream}
    error = check_error(client.post(path, json=body), 400, "context_length_exceeded", param)
    assert "512" in error["message"] and "ctx_size" in error["message"]


def test_a_template_that_refuses_is_a_mistake_of_the_request(client, check_error):
    check_error(client.post(CHAT, json=chat("!template")), 400, "chat_template_error", "messages")


@pytest.mark.parametrize("path", [CHAT, TEXT, "/tokenize", "/detokenize"])
def test_an_unknown_model_is_not_found_and_a_near_name_is_offered(client, check_error, path):
    body = {"model": "fakee", "prompt": "a", "content": "a", "tokens": [1], **chat()}
    error = check_error(client.post(path, json=body), 404, "model_not_found", "model")
    assert error["type"] == "not_found_error"
    assert "Did you mean 'fake'" in error["message"]


def test_an_unknown_route_is_not_found_and_a_near_one_is_offered(client, check_error):
    error = check_error(client.post("/v1/chat/completion", json={}), 404, "not_found")
    assert error["type"] == "not_found_error"
    assert "/v1/chat/completions" in error["message"]
    check_error(client.get("/nowhere/at/all"), 404, "not_found")
    check_error(client.get("/", environ_overrides={"PATH_INFO": "//v1//models"}), 404, "not_found")


@pytest.mark.parametrize(
    "path, words",
    [
        ("/completion", "/v1/completions"),
        ("/props", "/v1/models"),
        ("/slots", "/metrics"),
        ("/api/chat", "Ollama"),
        ("/api/tags", "Ollama"),
    ],
)
def test_routes_of_other_servers_are_answered_with_where_it_is_here(shared_client, check_error, path, words):
    for method in ("GET", "POST"):
        assert words in check_error(shared_client.open(path, method=method), 404, "not_found")["message"]


@pytest.mark.parametrize(
    "method, path", [("GET", CHAT), ("DELETE", "/v1/models"), ("OPTIONS", CHAT), ("PUT", "/health")]
)
def test_a_wrong_method_is_told_the_right_one(shared_client, check_error, method, path):
    response = shared_client.open(path, method=method)
    check_error(response, 405, "method_not_allowed")
    assert response.headers["Allow"]
    assert "POST" in response.headers["Allow"] or "GET" in response.headers["Allow"]


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "image/png", "application/xml"])
def test_a_body_of_another_kind_is_an_unsupported_media_type(client, check_error, kind):
    error = check_error(client.post(CHAT, data=b"--x", content_type=kind), 415, "unsupported_media_type")
    assert "application/json" in error["message"]


def test_a_packed_body_is_an_unsupported_media_type(client, check_error, hello):
    response = client.post(CHAT, json=hello, headers={"Content-Encoding": "gzip"})
    check_error(response, 415, "unsupported_media_type")


def test_a_large_body_is_refused_with_the_limit_named(make_service, check_error, hello):
    client = make_service(max_body_bytes=1024).client
    hello["messages"][0]["content"] = "x" * 2000
    error = check_error(client.post(CHAT, json=hello), 413, "body_too_large")
    assert "1024 bytes (max_body_bytes)" in error["message"]


def test_an_unknown_priority_is_refused(client, check_error, hello):
    response = client.post(CHAT, json=hello, headers={"X-Priority": "urgent"})
    check_error(response, 400, "invalid_request", "X-Priority")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic c2VjcmV0"}, {"x-api-key": "wrong"}],
)
def test_without_a_good_key_nothing_but_health_answers(make_service, check_error, hello, headers):
    service = make_service(api_key=("secret",))
    client = service.client
    routes = [("POST", CHAT), ("POST", TEXT), ("POST", "/tokenize"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/openapi.json")]
    for number, (method, path) in enumerate(routes):  # each from elsewhere: guessing is slowed down
        where = {"REMOTE_ADDR": f"10.0.0.{number}"}
        response = client.open(path, method=method, json=hello if method == "POST" else None, headers=headers, environ_base=where)
        error = check_error(response, 401, "invalid_api_key")
        assert error["type"] == "authentication_error"
        assert response.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/health", "/livez", "/readyz"):
        assert client.get(path, headers=headers).status_code == 200


def test_a_good_key_is_let_in_by_either_header_and_a_reload_counts_at_once(make_service, hello):
    service = make_service(api_key=("secret",))
    for headers in ({"Authorization": "Bearer secret"}, {"x-api-key": "secret"}):
        assert service.client.post(CHAT, json=hello, headers=headers).status_code == 200
    service.auth = type(service.auth)({"other": "renewed"})
    assert service.client.post(CHAT, json=hello, headers={"x-api-key": "secret"}).status_code == 401
    assert service.client.post(CHAT, json=hello, headers={"x-api-key": "other"}).status_code == 200


def test_a_full_queue_is_refused_at_once_with_retry_after(make_service, check_error):
    service = make_service(sequences=1, queue_size=0, step_s=0.01)
    busy = service.client.post(CHAT, json=chat("!long", stream=True), buffered=False)
    held = [service.pipeline.engines["fake"].admission.enter("other") for _ in range(2)]
    response = service.client.post(CHAT, json=chat())
    error = check_error(response, 429, "queue_full")
    assert error["type"] == "rate_limit_error"
    assert "queue_size" in error["message"]
    assert int(response.headers["Retry-After"]) >= 1
    for place in held:
        service.pipeline.engines["fake"].admission.leave(place)
    busy.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_loading_model_is_unavailable_with_retry_after(make_service, check_error, monkeypatch, stream):
    monkeypatch.setattr(pipeline_module, "LOAD_WAIT_S", 0.05)
    service = make_service(loaded=False)
    response = service.client.post(CHAT, json=chat(stream=stream))
    error = check_error(response, 503, "model_loading")
    assert error["type"] == "unavailable_error"
    assert response.headers["Retry-After"] == "5"
    check_error(service.client.post("/tokenize", json={"content": "a"}), 503, "model_loading")


def test_a_request_waits_for_a_model_that_is_nearly_loaded(make_service):
    service = make_service(loaded=False)
    service.gate.set()
    assert service.client.post(CHAT, json=chat()).status_code == 200


def test_a_model_that_cannot_be_loaded_is_unavailable_and_says_why(make_service, check_error, wait_for):
    service = make_service(refuse="The file is not a GGUF file.")
    wait_for(lambda: service.pipeline.engines["fake"].supervisor.status.state == "failed")
    response = service.client.post(CHAT, json=chat())
    error = check_error(response, 503, "model_failed")
    assert "not a GGUF file" in error["message"]
    assert response.headers["Retry-After"] == "60"


def test_a_stopping_service_takes_no_new_work(service, check_error):
    service.pipeline.draining = True
    response = service.client.post(CHAT, json=chat())
    check_error(response, 503, "draining")
    assert response.headers["Retry-After"] == "10"


def test_a_request_over_its_deadline_is_told_so(make_service, check_error):
    service = make_service(request_timeout_s=0.2)
    places = [service.pipeline.engines["fake"].admission.enter("other") for _ in range(6)]  # so that it has to wait
    response = service.client.post(CHAT, json=chat())
    error = check_error(response, 503, "deadline_exceeded")
    assert "request_timeout_s" in error["message"]
    assert response.headers["Retry-After"] == "30"
    for place in places:
        service.pipeline.engines["fake"].admission.leave(place)


def test_a_request_that_kills_the_engine_twice_is_quarantined(service, check_error):
    engine = service.pipeline.engines["fake"]
    engine.client._deaths = dict.fromkeys([_fingerprint(service, chat("poison"))], 2)  # as two crashes leave it
    check_error(service.client.post(CHAT, json=chat("poison")), 400, "request_quarantined")


def _fingerprint(service, body):
    from appliance.engine.client import fingerprint

    seen = []
    original = service.pipeline.engines["fake"].client.submit
    client = service.pipeline.engines["fake"].client
    client.submit = lambda ask, index, deliver: (seen.append(fingerprint(ask)), original(ask, index, deliver))
    assert service.client.post(CHAT, json=body).status_code == 200
    client.submit = original
    return seen[0]


def test_an_unexpected_error_is_logged_with_its_traceback_and_told_without(service, check_error, monkeypatch, caplog):
    def broken(*args):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(service.pipeline, "answer", broken)
    with caplog.at_level("ERROR", logger="appliance"):
        response = service.client.post(CHAT, json=chat(), headers={"X-Request-Id": "abc"})
    error = check_error(response, 500, "internal_error")
    assert error["type"] == "server_error"
    assert "secret detail" not in response.get_data(as_text=True)
    records = [r for r in caplog.records if r.exc_info]
    assert records and records[0].fields["id"] == "abc"


def test_errors_hold_whatever_text_the_caller_sent(client, check_error):
    raw = json.dumps({"model": "x" + "\U0001f642" * 300, **chat()})
    error = check_error(client.post(CHAT, data=raw), 404, "model_not_found", "model")
    assert len(error["message"]) < 400
