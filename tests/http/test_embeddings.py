"""POST /v1/embeddings: OpenAI's shape over the scripted encoder, whose tokens are words, with one before and one after."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest

MODELS = ("fake", "embed")


@pytest.fixture
def ask(encoders):
    return lambda value, **more: encoders.client.post("/v1/embeddings", json={"input": value, **more})


def vectors(response) -> np.ndarray:
    assert response.status_code == 200, response.get_data(as_text=True)
    body = response.get_json()
    assert [row["index"] for row in body["data"]] == list(range(len(body["data"])))
    return np.array([row["embedding"] for row in body["data"]])


def test_a_text_becomes_a_vector_of_length_one(ask):
    response = ask("the cat sat")
    body = response.get_json()
    assert (body["object"], body["model"]) == ("list", "embed")
    assert body["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    (row,) = body["data"]
    assert (row["object"], row["index"], len(row["embedding"])) == ("embedding", 0, 32)
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5)


def test_many_texts_become_vectors_in_their_order(ask):
    together = vectors(ask(["one", "two words", "one"]))
    assert np.allclose(together[0], together[2]) and not np.allclose(together[0], together[1])
    assert np.allclose(together[1], vectors(ask("two words"))[0], atol=1e-6)


def test_token_ids_are_used_as_they_are(encoders, ask):
    ids = encoders.client.post("/tokenize", json={"model": "embed", "content": "a cat", "add_special": True}).get_json()["tokens"]
    text = vectors(ask("a cat"))
    assert np.allclose(vectors(ask(ids)), text) and np.allclose(vectors(ask([ids, ids])), text)
    assert ask([ids, ids]).get_json()["usage"]["prompt_tokens"] == 2 * len(ids)


def test_base64_holds_the_same_numbers_as_little_endian_float32(ask):
    plain = vectors(ask(["a b", "c"]))
    for name in ("encoding_format", "embedding_type"):
        rows = ask(["a b", "c"], **{name: "base64"}).get_json()["data"]
        packed = [struct.unpack("<32f", base64.b64decode(row["embedding"])) for row in rows]
        assert np.array_equal(np.array(packed, "f4"), plain.astype("f4"))  # both are exact


def test_fewer_dimensions_are_the_first_ones_at_length_one(ask):
    whole, short = vectors(ask("a cat"))[0], vectors(ask("a cat", dimensions=8))[0]
    assert len(short) == 8 and np.allclose(short, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
    assert len(vectors(ask("a cat", dimensions=32))[0]) == 32


def test_other_names_for_what_is_wanted_are_understood(ask):
    plain = vectors(ask("a cat"))
    assert np.array_equal(vectors(ask("a cat", output_dimension=8)), vectors(ask("a cat", dimensions=8)))
    assert len(vectors(ask("a cat", output_dimension=8, dimensions=8))[0]) == 8
    for more in ({"embedding_types": ["float"]}, {"output_dtype": "float"}, {"normalized": True}, {"embd_normalize": 2}, {"truncation": False}):
        assert np.array_equal(vectors(ask("a cat", **more)), plain)
    assert isinstance(ask("a cat", embedding_types=["base64"]).get_json()["data"][0]["embedding"], str)
    for more in ({"normalized": False}, {"normalize": False}, {"embd_normalize": -1}):
        raw = vectors(ask("a cat", **more))
        assert np.linalg.norm(raw) > 2 and np.allclose(raw / np.linalg.norm(raw), plain, atol=1e-6)


def test_texts_may_be_objects(ask):
    assert np.array_equal(vectors(ask([{"text": "a cat"}, "b"])), vectors(ask(["a cat", "b"])))


def test_one_giant_word_is_refused_or_cut_without_being_read(ask, check_error):
    giant = "x" * 900_000
    error = check_error(ask(giant), 400, "context_length_exceeded", "input")
    assert "900000 characters" in error["message"] and "truncate: true" in error["message"]
    assert ask(giant, truncate=True).get_json()["usage"]["prompt_tokens"] == 3


def test_queries_and_documents_may_have_different_prompts(ask):
    plain, query = vectors(ask("a cat")), vectors(ask("query: a cat"))
    for more in ({"input_type": "search_query"}, {"task": "retrieval.query"}, {"input_type": "query", "task": "clustering"}):
        assert np.allclose(vectors(ask("a cat", **more)), query)
    for more in ({"input_type": "document"}, {"task": "text-matching"}, {}):
        assert np.allclose(vectors(ask("a cat", **more)), plain)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
@pytest.mark.parametrize("model", [None, "", "default", "embed"])
def test_without_a_name_the_first_embedder_answers(encoders, path, model):
    response = encoders.client.post(path, json={"input": "x", "model": model, "user": "somebody"})
    assert response.get_json()["model"] == "embed"


def test_a_text_that_is_too_long_is_refused_or_cut(ask, check_error):
    long = "word " * 100
    error = check_error(ask(["short", long]), 400, "context_length_exceeded", "input[1]")
    assert "102 tokens" in error["message"] and "takes 64" in error["message"] and "send truncate: true" in error["message"]
    check_error(ask(long), 400, "context_length_exceeded", "input")
    check_error(ask(long, truncate="NONE"), 400, "context_length_exceeded", "input")
    for more in ({"truncate": True}, {"truncate": "END"}, {"truncation": True}):
        assert ask(["short", long], **more).get_json()["usage"]["prompt_tokens"] == 3 + 64


@pytest.mark.parametrize(
    "body, param, words",
    [
        ({}, "input", "missing"),
        ({"input": ""}, "input", "empty string"),
        ({"input": ["a", ""]}, "input[1]", "empty string"),
        ({"input": []}, "input", "empty list"),
        ({"input": 7}, "input", "a number (7)"),
        ({"input": {"text": "a"}}, "input", "an object"),
        ({"input": [None]}, "input[0]", "null"),
        ({"input": [True]}, "input[0]", "a boolean"),
        ({"input": ["a", 1]}, "input[1]", "a string"),
        ({"input": [1, "a"]}, "input[1]", "a token id"),
        ({"input": [[1], []]}, "input[1]", "empty list"),
        ({"input": [[1], "a"]}, "input[1]", "a list of token ids"),
        ({"input": [-1]}, "input[0]", "a token id"),
        ({"input": [1 << 30]}, "input", "not in the vocabulary"),
        ({"input": "a\0b"}, "input", "NUL"),
        ({"input": ["a"] * 2049}, "input", "2048"),
        ({"input": [[1]] * 2049}, "input", "2048"),
        ({"input": "a", "dimensions": 0}, "dimensions", "below the smallest allowed, 1"),
        ({"input": "a", "dimensions": 33}, "dimensions", "1 to 32"),
        ({"input": "a", "dimensions": "8"}, "dimensions", "whole number"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "float or base64"),
        ({"input": "a", "encoding_format": 1}, "encoding_format", "a string"),
        ({"input": "a", "input_type": "poem"}, "input_type", "search_query"),
        ({"input": "a", "truncate": "START"}, "truncate", "not supported"),
        ({"input": "a", "truncate": "yes"}, "truncate", "END"),
        ({"input": "a", "truncate": 1}, "truncate", "true or false"),
        ({"input": [{"text": 1}]}, "input[0].text", "a number (1)"),
        ({"input": ["a", {"image": "b"}]}, "input[1].text", "null"),
        ({"input": [{"text": ""}]}, "input[0].text", "empty string"),
        ({"input": "a", "output_dimension": 33}, "dimensions", "1 to 32"),
        ({"input": "a", "output_dimension": "8"}, "output_dimension", "whole number"),
        ({"input": "a", "output_dimension": 8, "dimensions": 9}, "output_dimension", "dimensions is 9, output_dimension 8"),
        ({"input": "a", "normalized": "no"}, "normalized", "true or false"),
        ({"input": "a", "embd_normalize": 1}, "embd_normalize", "not supported"),
        ({"input": "a", "embedding_types": ["int8"]}, "embedding_types", "float or base64"),
        ({"input": "a", "embedding_types": ["float", "int8"]}, "embedding_types", "one name"),
        ({"input": "a", "encoding_format": "float", "embedding_types": ["binary"]}, "embedding_types", "float or base64"),
        ({"input": "a", "output_dtype": "int8"}, "output_dtype", "float or base64"),
        ({"input": "a", "prompt_name": "query"}, "prompt_name", "not supported"),
        ({"input": "a", "truncation_direction": "Left"}, "truncation_direction", "not supported"),
        ({"input": "a", "late_chunking": True}, "late_chunking", "not supported"),
        ({"input": "a", "model": "fake"}, "model", "The model fake is for text generation, not for embeddings. embed can do that."),
    ],
)
def test_mistakes_are_named(encoders, check_error, body, param, words):
    error = check_error(encoders.client.post("/v1/embeddings", json=body), 400, "invalid_request", param)
    assert words in error["message"]


def test_as_many_texts_as_openai_takes(ask):
    assert len(vectors(ask(["a"] * 2048))) == 2048


def test_a_model_that_is_not_there_is_not_found(ask, check_error):
    error = check_error(ask("a", model="text-embedding-3-small"), 404, "model_not_found", "model")
    assert "Served: fake, embed, rerank, classify, nli, tokens." in error["message"]


def test_without_any_embedder_it_says_what_is_served(client, check_error):
    error = check_error(client.post("/v1/embeddings", json={"input": "a"}), 404, "model_not_found", "model")
    assert error["message"] == "No model for embeddings is served here. Served: fake (text generation)."


def test_an_embedder_writes_no_text(encoders, make_service, check_error):
    chat = {"model": "embed", "messages": [{"role": "user", "content": "hi"}]}
    error = check_error(encoders.client.post("/v1/chat/completions", json=chat), 400, "invalid_request", "model")
    assert error["message"] == "The model embed is for embeddings, not for text generation. fake can do that."
    alone = make_service(models=("embed",)).client
    check_error(alone.post("/v1/chat/completions", json=chat | {"model": ""}), 404, "model_not_found", "model")
    assert alone.post("/v1/embeddings", json={"input": "x"}).status_code == 200


def test_the_order_of_models_does_not_matter(make_service, hello):
    client = make_service(models=("embed", "fake")).client
    for model in ("", "default"):
        assert client.post("/v1/chat/completions", json=hello | {"model": model}).get_json()["model"] == "fake"
        assert client.post("/v1/embeddings", json={"input": "x", "model": model}).get_json()["model"] == "embed"


def test_models_tell_their_task_and_the_size_of_their_vectors(encoders, make_service):
    one, two = encoders.client.get("/v1/models").get_json()["data"][:2]
    assert (one["task"], two["task"], two["dimensions"], "dimensions" in one) == ("generate", "embed", 32, False)
    unloaded = make_service(models=("embed",), loaded=False).client.get("/v1/models/embed").get_json()
    assert (unloaded["task"], unloaded["dimensions"], unloaded["meta"]) == ("embed", None, None)


def test_texts_and_tokens_are_counted_by_model(make_service):
    client = make_service(models=MODELS).client
    client.post("/v1/embeddings", json={"input": ["one two", "three"]})
    lines = client.get("/metrics").get_data(as_text=True).splitlines()
    assert 'appliance_encoded_texts_total{model="embed",task="embed"} 2' in lines
    assert 'appliance_encoded_tokens_total{model="embed",task="embed"} 7' in lines
    assert 'appliance_request_duration_seconds_count{model="embed"} 1' in lines


def test_one_line_tells_what_was_asked_without_its_words(make_service, caplog):
    client = make_service(models=MODELS).client
    with caplog.at_level("INFO", logger="appliance"):
        client.post("/v1/embeddings", json={"input": ["private words", "too"]})
    (line,) = [r.fields for r in caplog.records if r.getMessage() == "request"]
    assert {k: line[k] for k in ("model", "texts", "prompt_tokens", "status")} == {
        "model": "embed", "texts": 2, "prompt_tokens": 7, "status": 200,
    }  # fmt: skip
    assert "private" not in caplog.text


def test_prompts_are_logged_when_that_is_wanted(make_service, caplog):
    with caplog.at_level("INFO", logger="appliance"):
        make_service(models=MODELS, log_prompts=True).client.post("/v1/embeddings", json={"input": "open words"})
    assert [r.fields["prompts"] for r in caplog.records if r.getMessage() == "prompt"] == [["open words"]]
