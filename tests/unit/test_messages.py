"""The wire form of messages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.messages import (
    Answer,
    Ask,
    Booting,
    Cancel,
    Frame,
    Generate,
    Ready,
    Refused,
    Stop,
    decode,
    encode,
)

TEXT = st.text(st.characters(), max_size=20)  # lone surrogates included: clients send them
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.one_of(
    st.builds(Generate, TEXT, st.fixed_dictionaries({"text": TEXT}), st.fixed_dictionaries({}), st.none() | st.integers(0, 9),
              st.lists(TEXT, max_size=3), st.none() | st.integers(0, 20), st.booleans()),
    st.builds(Cancel, TEXT),
    st.builds(Ask, TEXT, TEXT, st.dictionaries(TEXT, JSON, max_size=3)),
    st.just(Stop()),
    st.builds(Booting, TEXT, st.floats(0, 1)),
    st.builds(Ready, st.dictionaries(TEXT, JSON, max_size=3)),
    st.builds(Refused, st.dictionaries(TEXT, JSON, max_size=3)),
    st.builds(Answer, TEXT, JSON, st.none() | st.dictionaries(TEXT, JSON, max_size=2)),
    st.builds(Frame, st.integers(0, 1 << 60), st.lists(st.lists(JSON, max_size=3), max_size=3)),
)  # fmt: skip


@given(MESSAGES)
def test_every_message_survives_the_wire(message):
    data = encode(message)
    assert decode(data) == message
    assert data.isascii(), "one encoding, whatever the text"


@given(st.binary(max_size=60))
def test_random_bytes_are_no_message(data):
    with pytest.raises(ValueError, match="not an engine message"):
        decode(data)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "3", '"Stop"', "{}", '{"kind":"Nonsense"}', '{"kind":["Stop"]}', '{"kind":"Stop","extra":1}',
        '{"kind":"Cancel"}', '{"id":"x"}', "[" * 100_000,
    ],
    ids=lambda text: text[:12] or "empty",
)  # fmt: skip
def test_json_that_is_not_ours_is_no_message(text):
    with pytest.raises(ValueError, match="not an engine message"):
        decode(text.encode())


def test_the_kind_is_the_name_of_the_class():
    assert json.loads(encode(Cancel("x"))) == {"id": "x", "kind": "Cancel"}
