"""One answer in the making, driven token by token over the fake engine."""

from __future__ import annotations

import pytest

from appliance.engine.backend import Piece
from appliance.engine.fake_backend import FakeBackend
from appliance.engine.messages import Generate
from appliance.engine.sequence import Sequence


@pytest.mark.parametrize(("stop", "said"), [("cd", "echo: ab"), ("zz", "echo: abcdef"), ("o: a", "ech"), ("efg", "echo: abcdef")])
def test_text_and_log_probabilities_tell_the_same_story(stop, said):
    """What a stop string cut off was not said, so its tokens are not told about; what was only held back is."""
    backend = FakeBackend()
    messages = [{"role": "user", "content": "abcdef"}]
    ask = Generate("a", {"messages": messages}, {"temperature": 0}, stop=[stop], logprobs=0)
    sequence = Sequence(ask, list(backend.render(messages).encode()), 512, 1)
    text, told = "", []
    while sequence.reason is None:
        backend.trim(0, 0)
        [row] = backend.decode([Piece(0, 0, sequence.tokens.tolist(), "last")])
        sequence.advance(row, backend)
        if delta := sequence.take_delta():
            text += delta[1]
            told += [entry[1] for entry in delta[3] or []]
            assert "".join(told) == text[: len(told)], "a token is never told about before its text"
    assert text == said and "".join(told) == said
