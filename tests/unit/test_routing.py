"""Which of the served models a request means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import InvalidRequest, ModelNotFound
from appliance.routing import choose, choose_for

NAMES = ["qwen-0.5b", "tinyllama"]


@pytest.mark.parametrize(("wanted", "served"), [("tinyllama", "tinyllama"), ("", "qwen-0.5b"), ("default", "qwen-0.5b")])
def test_a_name_or_none_finds_its_model(wanted, served):
    assert choose(wanted, NAMES) == served


def test_a_model_that_is_called_default_is_found_by_its_name():
    assert choose("default", ["other", "default"]) == "default"


def test_an_unknown_model_is_answered_with_did_you_mean_and_what_there_is():
    with pytest.raises(ModelNotFound) as caught:
        choose("tinylama", NAMES)
    assert caught.value.status == 404 and caught.value.param == "model"
    for text in ("'tinylama'", "Did you mean 'tinyllama'?", "qwen-0.5b, tinyllama"):
        assert text in str(caught.value)
    with pytest.raises(ModelNotFound) as caught:
        choose("gpt-4", NAMES)
    assert "mean" not in str(caught.value)


def test_without_any_model_nothing_is_found():
    with pytest.raises(ModelNotFound):
        choose("", [])


@given(st.text(max_size=500))
def test_any_name_is_served_or_refused_in_a_short_sentence(wanted):
    try:
        assert choose(wanted, NAMES) in NAMES
    except ModelNotFound as error:
        assert len(str(error)) < 1200


TASKS_BY_NAME = {"chat": "generate", "vec": "embed", "other": "generate", "ner": "tokens"}


@pytest.mark.parametrize(
    ("wanted", "tasks", "served"),
    [
        ("", ["generate"], "chat"),
        ("default", ["embed"], "vec"),
        ("", ["classify", "tokens"], "ner"),
        ("other", ["generate"], "other"),
    ],
)
def test_no_name_means_the_first_model_for_the_task(wanted, tasks, served):
    assert choose_for(wanted, TASKS_BY_NAME, tasks) == served


def test_a_model_for_something_else_is_refused_with_what_would_do():
    with pytest.raises(InvalidRequest) as caught:
        choose_for("vec", TASKS_BY_NAME, ["generate"])
    assert caught.value.status == 400 and caught.value.param == "model"
    assert str(caught.value) == "The model vec is for embeddings, not for text generation. chat, other can do that."
    with pytest.raises(InvalidRequest, match="No model that can do that is served here"):
        choose_for("vec", TASKS_BY_NAME, ["rerank"])
    with pytest.raises(ModelNotFound, match="Did you mean 'chat'"):
        choose_for("caht", TASKS_BY_NAME, ["generate"])


def test_where_no_model_fits_it_says_what_there_is():
    with pytest.raises(ModelNotFound) as caught:
        choose_for("", {"chat": "generate"}, ["embed"])
    assert str(caught.value) == "No model for embeddings is served here. Served: chat (text generation)."
    with pytest.raises(ModelNotFound):
        choose_for("", {}, ["embed"])


def test_a_model_called_default_is_taken_by_its_name_and_checked():
    with pytest.raises(InvalidRequest):
        choose_for("default", {"a": "embed", "default": "generate"}, ["embed"])
