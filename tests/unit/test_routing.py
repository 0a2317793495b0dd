"""Which of the served models a request means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ModelNotFound
from appliance.routing import choose

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
