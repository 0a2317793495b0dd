"""POST /v1/completions. The fake continues any text with an endless alphabet."""

import pytest

from appliance.http.logprobs import LogprobWriter
from appliance.types import TokenLogprob

URL = "/v1/completions"


def choices(client, **body):
    response = client.post(URL, json={"max_tokens": 3, **body})
    assert response.status_code == 200, response.get_data(as_text=True)
    return response.get_json()["choices"]


def test_a_text_is_continued(client):
    body = client.post(URL, json={"prompt": "ab", "max_tokens": 4}).get_json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [{"index": 0, "text": "cdef", "logprobs": None, "finish_reason": "length"}]
    assert body["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 4,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_the_path_may_lack_v1(client):
    assert client.post("/completions", json={"prompt": "a", "max_tokens": 1}).get_json()["choices"][0]["text"] == "b"


def test_several_prompts_times_n_are_numbered_prompt_by_prompt(client):
    response = client.post(URL, json={"prompt": ["a", "abc"], "n": 2, "max_tokens": 2})
    body = response.get_json()
    assert [(c["index"], c["text"]) for c in body["choices"]] == [(0, "bc"), (1, "bc"), (2, "de"), (3, "de")]
    assert body["usage"]["prompt_tokens"] == 1 + 3
    assert body["usage"]["completion_tokens"] == 8


def test_token_ids_are_used_as_they_are(client):
    assert [c["text"] for c in choices(client, prompt=[97, 98])] == ["cde"]
    assert [c["text"] for c in choices(client, prompt=[97.0, 98.0])] == ["cde"]
    assert [c["text"] for c in choices(client, prompt=[[97], [97, 98]])] == ["bcd", "cde"]


def test_echo_puts_the_prompt_before_the_answer(client):
    assert choices(client, prompt="ab", echo=True)[0]["text"] == "abcde"
    assert choices(client, prompt=[97, 98], echo=True)[0]["text"] == "abcde"
    assert choices(client, prompt="ab", echo=True, max_tokens=0)[0] == {
        "index": 0,
        "text": "ab",
        "logprobs": None,
        "finish_reason": "length",
    }


def test_logprobs_have_offsets_into_the_text(client):
    logprobs = choices(client, prompt="ab", logprobs=1)[0]["logprobs"]
    assert logprobs["tokens"] == ["c", "d", "e"]
    assert logprobs["text_offset"] == [0, 1, 2]
    assert all(-0.01 < value <= 0 for value in logprobs["token_logprobs"])
    assert [list(top) for top in logprobs["top_logprobs"]] == [["c"], ["d"], ["e"]]


def test_the_drawn_token_is_among_its_rivals_even_when_none_were_asked_for(client):
    logprobs = choices(client, prompt="ab", logprobs=0)[0]["logprobs"]
    assert [list(top) for top in logprobs["top_logprobs"]] == [["c"], ["d"], ["e"]]
    banned = choices(client, prompt="ab", logprobs=1, max_tokens=1, logit_bias={str(ord("c")): -100})[0]["logprobs"]
    assert list(banned["top_logprobs"][0]) == ["c", banned["tokens"][0]]


def test_llama_cpps_name_for_the_length_and_vllms_for_the_penalty_are_taken(client):
    assert choices(client, prompt="ab", max_tokens=None, n_predict=5)[0]["text"] == "cdefg"
    assert choices(client, prompt="ab", max_tokens=2, n_predict=5)[0]["text"] == "cd"
    assert choices(client, prompt="ab", repetition_penalty=1.5)[0]["text"] == "cde"


@pytest.mark.parametrize(
    "prompt, pieces, offsets",
    [
        ("Once upon", [b"", b" Once", b" upon", b","], [0, 0, 4, 9]),  # the tokenizer's own space is not in the text
        (" Once", [b" Once", b" upon"], [0, 5]),
        ("", [b" Once", b" upon"], [0, 5]),
    ],
)
def test_offsets_fit_the_echoed_text(prompt, pieces, offsets):
    entries = [TokenLogprob(number, piece, -1.0) for number, piece in enumerate(pieces)]
    writer = LogprobWriter(prompt)
    written = [writer.write([entry])["text_offset"][0] for entry in entries]
    assert written == offsets


def test_echo_with_logprobs_scores_the_prompt(client):
    choice = choices(client, prompt="ab", echo=True, logprobs=1, max_tokens=1)[0]
    assert choice["text"] == "abc"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["a", "b", "c"]
    assert logprobs["text_offset"] == [0, 1, 2]
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["token_logprobs"][1] == pytest.approx(0, abs=0.01)


def test_echo_of_a_prompt_alone_can_be_scored(client):
    choice = choices(client, prompt="abc", echo=True, logprobs=0, max_tokens=0)[0]
    assert choice["text"] == "abc"
    assert choice["logprobs"]["tokens"] == ["a", "b", "c"]


def test_tokens_that_are_no_character_keep_apart_as_keys(client):
    choice = choices(client, prompt=[195, 164], echo=True, logprobs=0, max_tokens=0)[0]
    assert choice["text"] == "ä"
    assert choice["logprobs"]["tokens"] == ["bytes:\\xc3", "bytes:\\xa4"]
    assert choice["logprobs"]["text_offset"] == [0, 0]


def test_a_stop_string_ends_each_choice(client):
    assert [c["text"] for c in choices(client, prompt=["a", "ab"], stop=["ef"], max_tokens=20)] == ["bcd", "cd"]


def test_best_of_one_and_of_n_are_what_is_done_anyway(client):
    assert len(choices(client, prompt="a", n=2, best_of=2)) == 2
    assert len(choices(client, prompt="a", best_of=1)) == 1


def test_the_answer_may_run_to_the_end_of_the_context(make_service):
    body = make_service(context_tokens=64).client.post(URL, json={"prompt": "a"}).get_json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["total_tokens"] == 64
