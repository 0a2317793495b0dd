"""POST /v1/classify over the scripted classifiers: one with labels of its own, one that judges any label, one for entities."""

from __future__ import annotations

import pytest


@pytest.fixture
def ask(encoders):
    return lambda value, **body: encoders.client.post("/v1/classify", json={"input": value, **body})


@pytest.mark.parametrize("path", ["/v1/classify", "/classify"])
def test_texts_get_the_label_that_fits_best(encoders, path):
    body = encoders.client.post(path, json={"input": ["a good day", "a bad day"]}).get_json()
    assert (body["object"], body["model"], body["usage"]["total_tokens"]) == ("list", "classify", 10)
    good, bad = body["data"]
    assert (good["index"], good["label"], bad["index"], bad["label"]) == (0, "positive", 1, "negative")
    assert list(good["scores"]) == ["positive", "negative"] and good["score"] == max(good["scores"].values())
    assert sum(good["scores"].values()) == pytest.approx(1)


def test_one_text_needs_no_list(ask):
    assert [row["label"] for row in ask("a fine day").get_json()["data"]] == ["positive"]


def test_texts_may_be_objects(ask):
    assert [row["label"] for row in ask([{"text": "a fine day"}, "a bad day"]).get_json()["data"]] == ["positive", "negative"]


def test_labels_of_ones_own(ask):
    labels = ["cats", "dogs", "rain"]
    (row,) = ask("it is about cats", model="nli", labels=labels, template="about {}").get_json()["data"]
    assert row["label"] == "cats" and set(row["scores"]) == set(labels) and sum(row["scores"].values()) == pytest.approx(1)
    (apart,) = ask("about cats and dogs", model="nli", labels=labels, multi_label=True, template="{}").get_json()["data"]
    assert apart["scores"]["cats"] > 0.5 and apart["scores"]["dogs"] > 0.5 > apart["scores"]["rain"]


def test_entities_are_found(ask):
    body = ask(["in Old York it rains", "nothing"], model="tokens").get_json()
    assert body["data"][1] == {"index": 1, "entities": []}
    (entity,) = body["data"][0]["entities"][:1]
    assert (entity["label"], entity["text"], entity["start"]) == ("NAME", "Old", 3) and 0 < entity["score"] <= 1


def test_models_tell_their_labels(encoders):
    models = {model["id"]: model for model in encoders.client.get("/v1/models").get_json()["data"]}
    assert models["classify"]["labels"] == ["negative", "positive"] and models["tokens"]["task"] == "tokens"


@pytest.mark.parametrize(
    "value, body, param, words",
    [
        (None, {}, "input", "missing"),
        ("", {}, "input", "empty string"),
        ([1], {}, "input[0]", "a string"),
        ("a", {"labels": []}, "labels", "empty list"),
        ("a", {"labels": ["x", "x"]}, "labels", "twice"),
        ("a", {"labels": ["x", ""]}, "labels[1]", "empty string"),
        ("a", {"labels": [str(n) for n in range(101)]}, "labels", "100"),
        (["a"] * 2000, {"labels": ["x"] + [str(n) for n in range(11)]}, "labels", "24000 pairs"),
        ("a", {"labels": ["x"]}, "labels", "knows its own labels only (negative, positive)"),
        ("a", {"labels": ["x"], "model": "tokens"}, "labels", "labels of its own"),
        ("a", {"labels": ["x"], "model": "nli", "template": "about"}, "template", "{}"),
        ("a", {"multi_label": 1}, "multi_label", "true or false"),
        ("a", {"model": "rerank"}, "model", "for reranking, not for classification. classify, nli, tokens can do that."),
    ],
)
def test_mistakes_are_named(ask, check_error, value, body, param, words):
    assert words in check_error(ask(value, **body), 400, "invalid_request", param)["message"]


def test_without_a_classifier_it_is_said(client, check_error):
    check_error(client.post("/v1/classify", json={"input": "a"}), 404, "model_not_found", "model")
