"""Models, /tokenize and /detokenize."""

import pytest


def test_models_are_listed_with_what_is_known_of_them(make_service):
    client = make_service(models=("one", "org/two")).client
    body = client.get("/v1/models").get_json()
    assert body["object"] == "list"
    assert [m["id"] for m in body["data"]] == ["one", "org/two"]
    assert body["data"][0] == {
        "id": "one",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "appliance",
        "task": "generate",
        "meta": {"n_ctx": 512, "n_ctx_train": 512, "n_params": 257, "n_vocab": 257, "size": 0, "backend": "fake"},
    }
    assert client.get("/models").get_json() == body
    assert client.get("/v1/models/org/two").get_json() == body["data"][1]


def test_a_model_that_is_still_loading_is_listed_without_meta(make_service):
    body = make_service(loaded=False).client.get("/v1/models").get_json()
    assert body["data"][0]["meta"] is None


@pytest.mark.parametrize("name", ["nothing", "default"])
def test_a_model_that_is_not_served_is_not_found(client, check_error, name):
    check_error(client.get(f"/v1/models/{name}"), 404, "model_not_found", "model")


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
@pytest.mark.parametrize("name", ["content", "text"])
def test_text_is_tokenized(client, path, name):
    assert client.post(path, json={name: "aä", "add_special": True}).get_json() == {"tokens": [97, 195, 164]}


def test_tokens_come_with_their_pieces_when_asked_for(client):
    body = client.post("/tokenize", json={"content": "ab", "with_pieces": True, "model": "fake"}).get_json()
    assert body == {"tokens": [{"id": 97, "piece": "a"}, {"id": 98, "piece": "b"}]}


def test_an_empty_text_has_no_tokens(client):
    assert client.post("/tokenize", json={"content": ""}).get_json() == {"tokens": []}


@pytest.mark.parametrize("path", ["/detokenize", "/v1/detokenize"])
def test_tokens_become_text(client, path):
    assert client.post(path, json={"tokens": [97, 195, 164]}).get_json() == {"content": "aä"}
    assert client.post(path, json={"tokens": []}).get_json() == {"content": ""}


@pytest.mark.parametrize("path", ["/apply-template", "/v1/apply-template"])
def test_messages_become_the_prompt_that_the_model_would_read(client, path):
    body = {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"}]}
    prompt = client.post(path, json=body).get_json()["prompt"]
    count = client.post("/v1/chat/completions", json=body).get_json()["usage"]["prompt_tokens"]
    assert "Be brief." in prompt and "hi" in prompt
    assert len(client.post("/tokenize", json={"content": prompt}).get_json()["tokens"]) == count


def test_a_template_that_refuses_is_told_to_whoever_applies_it(client, check_error):
    body = {"messages": [{"role": "user", "content": "!template"}]}
    check_error(client.post("/apply-template", json=body), 400, "chat_template_error", "messages")


@pytest.mark.parametrize(
    "path, body, param, words",
    [
        ("/apply-template", {}, "messages", "missing"),
        ("/apply-template", {"messages": [{"role": "user"}]}, "messages[0].content", "null"),
        ("/tokenize", {}, "content", "missing"),
        ("/tokenize", {"content": 1}, "content", "a string"),
        ("/tokenize", {"text": "\0"}, "text", "NUL"),
        ("/tokenize", {"content": "a", "with_pieces": "yes"}, "with_pieces", "true or false"),
        ("/tokenize", {"content": "a", "add_special": 1}, "add_special", "true or false"),
        ("/tokenize", {"content": "a" * 300_000}, "content", "262144"),
        ("/tokenize", {"content": "a", "model": []}, "model", "a string"),
        ("/detokenize", {}, "tokens", "missing"),
        ("/detokenize", {"tokens": "ab"}, "tokens", "a list"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]", "a token id"),
        ("/detokenize", {"tokens": [999]}, "tokens", "vocabulary"),
        ("/detokenize", {"tokens": [1] * 300_000}, "tokens", "262144"),
    ],
)
def test_mistakes_are_named(shared_client, check_error, path, body, param, words):
    error = check_error(shared_client.post(path, json=body), 400, "invalid_request", param)
    assert words in error["message"]
