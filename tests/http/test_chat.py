"""POST /v1/chat/completions, whole answers."""

import pytest

URL = "/v1/chat/completions"


def test_a_chat_is_answered_with_usage(client, hello):
    response = client.post(URL, json=hello)
    body = response.get_json()
    assert response.status_code == 200
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "fake"
    assert isinstance(body["created"], int)
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "echo: hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    prompt = len("user: hello\nanswer\x02")
    assert body["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": len("echo: hello"),
        "total_tokens": prompt + len("echo: hello"),
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_the_second_time_the_prompt_comes_from_the_cache(client, hello):
    hello["messages"][0]["content"] = "a long enough question to be worth remembering, with many words in it"
    client.post(URL, json=hello)
    usage = client.post(URL, json=hello).get_json()["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/chat/completions/"])
def test_the_path_may_lack_v1_or_have_a_slash_at_its_end(client, hello, path):
    assert client.post(path, json=hello).get_json()["choices"][0]["message"]["content"] == "echo: hello"


@pytest.mark.parametrize("model", [None, "", "default"])
def test_no_model_means_the_first_one_and_the_answer_names_it(make_service, hello, model):
    client = make_service(models=("one", "two")).client
    hello["model"] = model
    assert client.post(URL, json=hello).get_json()["model"] == "one"


def test_a_body_without_a_content_type_is_taken_as_json(client):
    raw = '{"messages":[{"role":"user","content":"hi"}]}'
    for kind in (None, "application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8"):
        response = client.post(URL, data=raw, content_type=kind)
        assert response.get_json()["choices"][0]["message"]["content"] == "echo: hi", kind


def test_a_byte_order_mark_does_no_harm(client):
    raw = b"\xef\xbb\xbf" + b'{"messages":[{"role":"user","content":"hi"}]}'
    assert client.post(URL, data=raw, content_type="application/json").status_code == 200


def test_null_means_the_default_for_every_optional_parameter(client, hello):
    names = """max_tokens max_completion_tokens temperature top_p top_k min_p typical_p repeat_penalty presence_penalty
    frequency_penalty repeat_last_n seed logit_bias stop n logprobs top_logprobs stream stream_options user metadata
    response_format tools tool_choice functions function_call audio modalities store service_tier""".split()
    response = client.post(URL, json=hello | dict.fromkeys(names))
    assert response.get_json()["choices"][0]["message"]["content"] == "echo: hello"


def test_advice_and_unknown_fields_are_ignored(client, hello):
    extra = {
        "user": "u",
        "metadata": {"a": 1},
        "store": True,
        "service_tier": "auto",
        "parallel_tool_calls": False,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "auto",
        "modalities": ["text"],
        "never_heard_of": {"x": [1]},
    }
    assert client.post(URL, json=hello | extra).status_code == 200


def test_text_parts_are_joined_by_line_breaks(client, hello):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    hello["messages"] = [{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}]
    # The fake's template turns line breaks into spaces.
    assert client.post(URL, json=hello).get_json()["choices"][0]["message"]["content"] == "echo: one two"


def test_a_developer_message_is_a_system_message_for_the_template(client, hello):
    def prompt_tokens(role):
        messages = [{"role": role, "content": "be kind"}, *hello["messages"]]
        return client.post(URL, json=hello | {"messages": messages}).get_json()["usage"]["prompt_tokens"]

    assert prompt_tokens("developer") == prompt_tokens("system")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_answer_ends_after_max_tokens(client, hello, name):
    body = client.post(URL, json=hello | {name: 4}).get_json()
    assert body["choices"][0]["message"]["content"] == "echo"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 4


def test_minus_one_tokens_means_no_limit(client, hello):
    body = client.post(URL, json=hello | {"max_tokens": -1}).get_json()
    assert body["choices"][0]["message"]["content"] == "echo: hello"


def test_the_setting_max_tokens_is_the_default_length(make_service, hello):
    body = make_service(max_tokens=2).client.post(URL, json=hello).get_json()
    assert body["choices"][0]["message"]["content"] == "ec"


def test_a_stop_string_over_token_borders_ends_the_answer_before_it(client, hello):
    for stop in ("hel", ["never", "hel"]):
        body = client.post(URL, json=hello | {"stop": stop}).get_json()
        assert body["choices"][0]["message"]["content"] == "echo: "
        assert body["choices"][0]["finish_reason"] == "stop"


def test_n_choices_are_numbered_and_the_prompt_is_counted_once(client, hello):
    one = client.post(URL, json=hello).get_json()["usage"]
    body = client.post(URL, json=hello | {"n": 2}).get_json()
    assert [c["index"] for c in body["choices"]] == [0, 1]
    assert {c["message"]["content"] for c in body["choices"]} == {"echo: hello"}
    assert body["usage"]["prompt_tokens"] == one["prompt_tokens"]
    assert body["usage"]["completion_tokens"] == 2 * one["completion_tokens"]


def test_a_seed_repeats_the_draw_and_choices_differ(client, hello):
    body = hello | {"temperature": 100, "top_k": 0, "top_p": 1, "min_p": 0, "max_tokens": 12, "n": 2, "seed": 7}

    def texts(**more):
        return [c["message"]["content"] for c in client.post(URL, json=body | more).get_json()["choices"]]

    first = texts()
    assert texts() == first
    assert first[0] != first[1]
    assert texts(seed=-7) == texts(seed=-7) != first
    assert texts(seed=2**63 - 1) == texts(seed=2**63 - 1)


def test_minus_one_is_no_seed(client, hello):
    body = hello | {"temperature": 100, "top_k": -1, "top_p": 1, "min_p": 0, "max_tokens": 24, "seed": -1}
    texts = {client.post(URL, json=body).get_json()["choices"][0]["message"]["content"] for _ in range(3)}
    assert len(texts) > 1


def test_logit_bias_moves_and_bans_tokens(client, hello):
    x, e = ord("x"), ord("e")
    body = hello | {"max_tokens": 1, "temperature": 0}

    def text(bias):
        return client.post(URL, json=body | {"logit_bias": bias}).get_json()["choices"][0]["message"]["content"]

    assert text({str(x): 100}) == "x"
    assert text([[x, 100]]) == "x"
    assert text([[e, False]]) != "e"
    assert text({}) == "e"


def test_logprobs_name_each_token_and_its_rivals(client, hello):
    body = client.post(URL, json=hello | {"logprobs": True, "top_logprobs": 2, "max_tokens": 3}).get_json()
    entries = body["choices"][0]["logprobs"]["content"]
    assert [e["token"] for e in entries] == ["e", "c", "h"]
    assert [e["bytes"] for e in entries] == [[101], [99], [104]]
    for entry in entries:
        assert -0.01 < entry["logprob"] <= 0
        assert len(entry["top_logprobs"]) == 2
        assert entry["top_logprobs"][0]["token"] == entry["token"]
        assert entry["top_logprobs"][1]["logprob"] < -30


def test_logprobs_without_rivals(client, hello):
    body = client.post(URL, json=hello | {"logprobs": True, "max_tokens": 3}).get_json()
    assert [e["top_logprobs"] for e in body["choices"][0]["logprobs"]["content"]] == [[], [], []]


def test_bytes_that_are_no_utf8_show_as_replacement_characters(client, hello):
    hello["messages"][0]["content"] = "!badutf"
    body = client.post(URL, json=hello | {"logprobs": True, "max_tokens": 3}).get_json()
    assert body["choices"][0]["message"]["content"] == "\ufffd\ufffde"
    assert body["choices"][0]["logprobs"]["content"][0]["bytes"] == [255]


def test_characters_of_several_tokens_come_out_whole(client, hello):
    hello["messages"][0]["content"] = "grüße 🙂"
    assert client.post(URL, json=hello).get_json()["choices"][0]["message"]["content"] == "echo: grüße 🙂"


def test_the_batch_lane_is_chosen_by_a_header(client, hello):
    response = client.post(URL, json=hello, headers={"X-Priority": "Batch"})
    assert response.get_json()["choices"][0]["message"]["content"] == "echo: hello"
