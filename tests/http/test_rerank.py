"""POST /v1/rerank: Jina's and Cohere's shape over the scripted reranker, which counts words in common."""

from __future__ import annotations

import pytest

QUERY = "the grey cat"
DOCUMENTS = ["a dog", "the cat", "a grey cat sat on the mat", "nothing"]


@pytest.fixture
def ask(encoders):
    return lambda **body: encoders.client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, **body})


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_come_back_with_the_best_first(encoders, path):
    body = encoders.client.post(path, json={"query": QUERY, "documents": DOCUMENTS}).get_json()
    assert [row["index"] for row in body["results"]] == [2, 1, 0, 3], "of equal ones the first comes first"
    scores = [row["relevance_score"] for row in body["results"]]
    assert scores == sorted(scores, reverse=True) and 0 < scores[-1] < scores[0] < 1
    assert (body["object"], body["model"]) == ("list", "rerank") and body["id"].startswith("rerank-")
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 0
    assert all(set(row) == {"index", "relevance_score"} for row in body["results"])


def test_only_the_best_and_with_their_texts(ask):
    rows = ask(top_n=2, return_documents=True).get_json()["results"]
    assert [row["document"] for row in rows] == [{"text": DOCUMENTS[2]}, {"text": DOCUMENTS[1]}]
    assert len(ask(top_n=99).get_json()["results"]) == 4


def test_documents_may_be_objects(ask):
    assert ask(documents=[{"text": text, "id": 3} for text in DOCUMENTS]).get_json()["results"] == ask().get_json()["results"]


def test_scores_that_look_alike_are_still_told_apart(ask):
    words = " ".join(f"w{number}" for number in range(24))  # far beyond where the logistic function is 1.0 in a float
    rows = ask(query=words, documents=[words.rpartition(" ")[0], words]).get_json()["results"]
    assert [row["index"] for row in rows] == [1, 0] and rows[0]["relevance_score"] == rows[1]["relevance_score"] == 1.0


def test_long_documents_are_cut_unless_that_is_not_wanted(ask, check_error):
    documents = ["a", "cat " + "word " * 100]
    for more in ({}, {"truncate": True}, {"truncate": "END"}, {"truncate": None}):
        body = ask(documents=documents, **more).get_json()
        assert [row["index"] for row in body["results"]] == [1, 0] and body["usage"]["prompt_tokens"] == 7 + 64
    for more in ({"truncate": False}, {"truncate": "NONE"}, {"truncation": False}):
        error = check_error(ask(documents=documents, **more), 400, "context_length_exceeded", "documents[1]")
        assert "send truncate: true" in error["message"]


def test_a_query_is_never_cut(ask, check_error):
    for more in ({}, {"truncate": True}, {"truncate": False}):
        for count in (62, 100):
            error = check_error(ask(query="word " * count, **more), 400, "context_length_exceeded", "query")
            assert "never cut" in error["message"]


def test_only_the_beginning_of_each_document_counts_where_that_is_wanted(ask, check_error):
    found = ask(documents=["a b c d cat", "cat a b c d"], max_tokens_per_doc=2).get_json()
    assert [row["index"] for row in found["results"]] == [1, 0] and found["usage"]["prompt_tokens"] == 2 * (6 + 2)
    assert ask(max_tokens_per_doc=4096).get_json()["results"] == ask().get_json()["results"]
    check_error(ask(max_tokens_per_doc=2, truncate=False), 400, "invalid_request", "max_tokens_per_doc")


def test_other_names_for_what_is_wanted_are_understood(ask):
    assert ask(top_k=2).get_json()["results"] == ask(top_n=2).get_json()["results"]
    assert ask(rank_fields=["text"], max_chunks_per_doc=1).get_json()["results"] == ask().get_json()["results"]


@pytest.mark.parametrize(
    "body, param, words",
    [
        ({"query": None}, "query", "missing"),
        ({"query": ""}, "query", "empty string"),
        ({"query": ["a"]}, "query", "a text"),
        ({"documents": None}, "documents", "missing"),
        ({"documents": []}, "documents", "empty list"),
        ({"documents": "a"}, "documents", "a list of texts"),
        ({"documents": ["a", ""]}, "documents[1]", "empty string"),
        ({"documents": ["a", 1]}, "documents[1]", "a text, or an object"),
        ({"documents": [{"image": "x"}]}, "documents[0].text", "a text, or an object"),
        ({"documents": ["a"] * 2049}, "documents", "2048"),
        ({"top_n": 0}, "top_n", "below the smallest"),
        ({"top_n": 1.5}, "top_n", "whole number"),
        ({"top_k": 0}, "top_k", "below the smallest"),
        ({"rank_fields": ["title", "text"]}, "rank_fields", "not supported"),
        ({"max_tokens_per_doc": 0}, "max_tokens_per_doc", "below the smallest"),
        ({"max_tokens_per_doc": "9"}, "max_tokens_per_doc", "whole number"),
        ({"max_chunks_per_doc": 10}, "max_chunks_per_doc", "not supported"),
        ({"return_documents": "yes"}, "return_documents", "true or false"),
        ({"model": "embed"}, "model", "The model embed is for embeddings, not for reranking. rerank can do that."),
        ({"model": "fake"}, "model", "text generation, not for reranking"),
    ],
)
def test_mistakes_are_named(ask, check_error, body, param, words):
    assert words in check_error(ask(**body), 400, "invalid_request", param)["message"]


def test_an_embedder_alone_cannot_rerank(make_service, check_error):
    client = make_service(models=("embed",)).client
    body = {"query": "a", "documents": ["b"]}
    error = check_error(client.post("/v1/rerank", json=body), 404, "model_not_found", "model")
    assert error["message"] == "No model for reranking is served here. Served: embed (embeddings)."
    error = check_error(client.post("/v1/rerank", json=body | {"model": "embed"}), 400, "invalid_request", "model")
    assert "embeddings, not for reranking. No model that can do that is served here." in error["message"]


def test_texts_are_counted_without_the_query(make_service):
    client = make_service(models=("rerank",)).client
    client.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS})
    assert 'appliance_encoded_texts_total{model="rerank",task="rerank"} 4' in client.get("/metrics").get_data(as_text=True)
