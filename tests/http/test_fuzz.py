"""Whatever is posted, the answer is a good one or a 4xx with all four fields: never a 5xx, never a dead engine."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ENCODERS = ["/v1/embeddings", "/v1/rerank", "/v1/classify"]
ROUTES = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", *ENCODERS]
NAMES = """model messages prompt max_tokens max_completion_tokens temperature top_p top_k min_p typical_p repeat_penalty
presence_penalty frequency_penalty repeat_last_n seed logit_bias stop n logprobs top_logprobs stream stream_options
response_format tools tool_choice echo suffix best_of content text tokens with_pieces add_special role type
input encoding_format dimensions input_type truncate query documents top_n return_documents labels multi_label template
output_dimension normalized embd_normalize embedding_types truncation max_tokens_per_doc rank_fields""".split()
# What the scripted engine obeys would end the test process.
TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=8).map(lambda s: s.replace("!", "?"))
NUMBERS = st.one_of(st.integers(-3, 300), st.integers(), st.floats())
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT, st.sampled_from(["user", "text", "fake", "", "none"]))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | TEXT, inner, max_size=4),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "assistant"]), "content": TEXT}),
    min_size=1,
    max_size=3,
)
GOOD = {
    "messages": MESSAGES,
    "prompt": TEXT | st.lists(st.integers(0, 256), min_size=1, max_size=5),
    "temperature": st.floats(0, 100),
    "top_p": st.floats(0, 1),
    "min_p": st.floats(0, 1),
    "typical_p": st.floats(0, 1),
    "top_k": st.integers(-1, 300),
    "repeat_penalty": st.floats(0.1, 10),
    "frequency_penalty": st.floats(-2, 2),
    "repeat_last_n": st.integers(-1, 70),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "logit_bias": st.dictionaries(st.integers(0, 256).map(str), st.floats(-100, 100), max_size=4),
    "stop": st.lists(TEXT, max_size=3),
    "n": st.integers(1, 3),
    "stream": st.booleans(),
    "content": TEXT,
    "tokens": st.lists(st.integers(0, 300), max_size=5),
    "input": TEXT | st.lists(TEXT, max_size=4) | st.lists(st.integers(0, 300), max_size=5),
    "dimensions": st.integers(1, 40),
    "query": TEXT,
    "documents": st.lists(TEXT, max_size=4),
    "top_n": st.integers(1, 5),
    "truncate": st.booleans(),
}
BODIES = st.one_of(
    VALUES,
    st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, VALUES)),
    st.fixed_dictionaries(
        {"max_tokens": st.integers(1, 5)}, optional={k: v for k, v in GOOD.items() if k != "max_tokens"}
    ),
    st.tuples(st.fixed_dictionaries(GOOD), st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2)).map(
        lambda pair: pair[0] | pair[1] | {"max_tokens": 3}
    ),
)


@pytest.mark.parametrize("route", ROUTES)
def test_no_body_makes_a_server_error(make_service, wait_for, route):
    models = ("fake", "embed", "rerank", "nli") if route in ENCODERS else ("fake",)
    service = make_service(models=models, context_tokens=64)
    client = service.client

    @settings(suppress_health_check=list(HealthCheck))
    @given(body=BODIES)
    def posted(body):
        response = client.post(route, data=json.dumps(body), content_type="application/json")
        raw = response.get_data()
        assert response.status_code < 500, raw
        if response.status_code >= 400:
            assert set(json.loads(raw)["error"]) == {"message", "type", "param", "code"}
        else:
            assert b'"error"' not in raw
        wait_for(lambda: service.outstanding() == 0)

    posted()
    assert len(service.children) == len(models), "the engine died"


@pytest.mark.parametrize("route", ROUTES)
def test_no_bytes_make_a_server_error(client, route):
    @given(raw=st.binary(max_size=60))
    def posted(raw):
        response = client.post(route, data=raw)
        assert 400 <= response.status_code < 500
        assert set(response.get_json()["error"]) == {"message", "type", "param", "code"}

    posted()


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/completions", {"prompt": ["a"] * 200_000}, "the limit is"),
        ("/v1/completions", {"prompt": [1] * 1_100_000}, "no context holds more than"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 30_000}, "the limit is 20000"),
    ],
)
def test_absurd_counts_are_refused_before_each_item_is_looked_at(client, path, body, words):
    answer = client.post(path, json=body)
    assert answer.status_code == 400 and words in answer.json["error"]["message"]
