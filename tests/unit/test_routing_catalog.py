"""Which models are served, and which of them a request means."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.catalog import ModelEntry, entries
from appliance.config import load_config
from appliance.errors import ConfigError, ModelNotFound
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


def catalog(**flags):
    return entries(load_config(flags, {}))


def test_models_are_named_after_their_files_or_aliases_in_order():
    assert catalog(model=["/m/a-Q4_0.gguf", "b.gguf", "sub/c.bin"], alias=["first"]) == (
        ModelEntry("first", Path("/m/a-Q4_0.gguf")),
        ModelEntry("b", Path("b.gguf")),
        ModelEntry("c.bin", Path("sub/c.bin")),
    )
    assert catalog() == ()


def test_a_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert catalog(model=["~/x.gguf"])[0].path == Path("/home/somebody/x.gguf")


@pytest.mark.parametrize("flags", [{"model": ["/a/x.gguf", "/b/x.gguf"]}, {"model": ["x.gguf", "y.gguf"], "alias": ["y"]}])
def test_two_models_of_one_name_are_refused(flags):
    with pytest.raises(ConfigError, match="--alias"):
        catalog(**flags)
