"""Whatever people type can be tokenized, and what comes out are whole characters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from real_engine import RealDrive, opened, present

from appliance.engine.channel import ChannelClosed
from appliance.engine.child import Child
from appliance.engine.loop import TELL_S
from appliance.engine.messages import Answer, Ask, Generate, Ready
from appliance.engine.worker import WorkerSettings

NAMES = ["tiny-bpe-f32", "tiny-spm-f16", "tiny-letters-f32", *(n for n in ("stories", "tinystories-q4_0") if n in present())]
ANY_TEXT = st.text(st.one_of(st.characters(), st.sampled_from("\x00\n\t <>|▁Ġ\ufeff\u200d\ud800\udfffé🙂中"))) | st.sampled_from(
    ["<s>", "</s>", "<unk>", "<0x00>", "<|im_start|>", "<|endoftext|>", "<|im_end|>user\n", "▁" * 40, " " * 300, "\x00" * 9]
)


class Asker:
    """A real engine child that is asked questions; its death is a failure in words instead of ours."""

    def __init__(self, path: Path) -> None:
        self.child = Child(
            WorkerSettings(engine="llama", name="m", path=str(path), context_tokens=0, sequences=2, kv_tokens=0, threads=1,
                           cpus=(), batch_tokens=64, stall_s=0.2, store_bytes=0), {},
        )  # fmt: skip
        self.last: Any = "nothing"
        self._asked = 0
        while not isinstance(message := self.receive(), Ready):
            assert message is not None, "the child did not load the model"
        self.vocabulary = message.info["vocabulary"]

    def receive(self) -> Any:
        """The next message. Fails with the cause of death and the last question when the child is gone."""
        try:
            return self.child.channel.receive(30.0)
        except ChannelClosed:
            death = self.child.explain(self.child.bury())
            pytest.fail(f"the engine child is dead, {death.words}, after {self.last!r}")

    def ask(self, what: str, **args: Any) -> Any:
        """The answer to one question."""
        self._asked += 1
        self.last = args
        self.child.channel.send(Ask(str(self._asked), what, args))
        while not isinstance(answer := self.receive(), Answer):
            assert answer is not None, f"no answer to {args!r}"
        assert answer.error is None, answer.error
        return answer.result

    def tokenize(self, text: str, **more: Any) -> list[int]:
        """Token ids."""
        return self.ask("tokenize", text=text, **more)["tokens"]


@contextmanager
def asking(path: Path) -> Iterator[Asker]:
    """An Asker, buried at the end."""
    asker = Asker(path)
    try:
        yield asker
    finally:
        asker.child.kill()
        asker.child.bury()


@pytest.mark.parametrize("name", NAMES)
def test_every_text_can_be_tokenized(model, name):
    with asking(model(name)) as asker:

        @given(ANY_TEXT, st.booleans(), st.booleans())
        @settings(max_examples=150)
        def check(text: str, special: bool, parse: bool) -> None:
            tokens = asker.tokenize(text, add_special=special, parse_special=parse)
            assert all(0 <= token < asker.vocabulary for token in tokens)
            assert tokens or special or not text.strip()
            asker.ask("detokenize", tokens=tokens)

        check()
        for start in range(0, 0x110000, 0x2000):
            tokens = asker.tokenize("".join(map(chr, range(start, start + 0x2000))))
            assert len(tokens) >= 1 and max(tokens) < asker.vocabulary
        asker.child.channel.send(Generate("g", {"text": "\x00🙂\ud800"}, {"temperature": 0}, max_tokens=2))
        while not (frame := asker.receive()).ended:
            assert not frame.failed


@pytest.mark.parametrize("name", NAMES)
def test_every_token_can_be_shown_and_put_back_into_text(model, name):
    with asking(model(name)) as asker:
        texts = [asker.ask("detokenize", tokens=[token])["text"] for token in range(asker.vocabulary)]
        assert sum(bool(text) for text in texts) > asker.vocabulary * 0.9
        assert asker.ask("detokenize", tokens=list(range(asker.vocabulary)))["text"]
        assert asker.ask("tokenize", text="the cat", pieces=True)["pieces"]


def spellable(name: str) -> Any:
    """Texts that a vocabulary can spell. SentencePiece writes a space as ▁, so a ▁ comes back as a space."""
    if "letters" in name:
        return st.text(tiny_model.LETTERS + ".,!?' \n")
    characters = st.characters(codec="utf-8", exclude_characters="▁" if "bpe" not in name else "")
    return st.text(characters)


@pytest.mark.parametrize("name", ["tiny-bpe-f32", "tiny-spm-f16", "tiny-letters-f32"])
def test_text_survives_the_way_to_tokens_and_back(model, name):
    with opened(model(name)) as backend:

        @given(spellable(name))
        def check(text: str) -> None:
            tokens = backend.tokenize(text, add_special=False, parse_special=False)
            back = b"".join(backend.piece(token) for token in tokens)
            # SentencePiece puts a space before the first word.
            assert back == text.encode() or ("bpe" not in name and back == b" " + text.encode())

        check()


def test_control_tokens_count_as_such_only_where_they_are_asked_for(model):
    with opened(model("tiny-bpe-f32")) as backend:
        parsed = backend.tokenize("<|im_end|>", add_special=False, parse_special=True)
        plain = backend.tokenize("<|im_end|>", add_special=False, parse_special=False)
        assert parsed == [2] and 2 not in plain and len(plain) > 3
        assert backend.piece(2) == b"" and backend.label(2) == "<|im_end|>" and backend.is_end(2)
        drive = RealDrive(backend)
        # What a person types must not end their own message, but a chat template must be able to.
        drive.answer("<|im_end|>", max_tokens=1)
        drive.answer([{"role": "user", "content": "hi"}], max_tokens=1)
    typed, templated = [entry for pieces in drive.decoded for entry in pieces if entry.start == 0]
    assert 2 not in typed.tokens and templated.tokens[0] == 1 and 2 in templated.tokens


def test_characters_without_a_token_become_spaces(model):
    with opened(model("tiny-letters-f32")) as backend:
        tokens = backend.tokenize("a🙂b5\x00é", add_special=False, parse_special=False)
        assert b"".join(map(backend.piece, tokens)).decode().split() == ["a", "b", "é"]


@pytest.mark.parametrize("said", ["é🙂中 z.", "中文", "🙂", "aé"])
def test_characters_of_several_tokens_stream_whole(tmp_path, said):
    path = tiny_model.write_parrot(tmp_path / "parrot.gguf", said)
    with opened(path) as backend:
        drive = RealDrive(backend)
        request_id = drive.generate("\n", max_tokens=50)
        while drive.open:
            drive.step()
            drive.clock.advance(2 * TELL_S)
        deltas = [text for frame in drive.frames for _, text, _, _ in frame.deltas]
        assert drive.ended[request_id][0] == "stop" and drive.ended[request_id][2] == len(said.encode())
        assert deltas == list(said)
        assert drive.answer("\n", max_tokens=50, stop=[said[-1]]) == said[:-1]


def test_an_answer_cut_within_a_character_ends_with_a_replacement_character(tmp_path):
    with opened(tiny_model.write_parrot(tmp_path / "parrot.gguf", "a🙂")) as backend:
        assert RealDrive(backend).answer("\n", max_tokens=3) == "a\ufffd"


def test_a_parrot_answers_through_its_chat_template(tmp_path):
    with opened(tiny_model.write_parrot(tmp_path / "parrot.gguf", "Ye, ")) as backend:
        assert RealDrive(backend).answer([{"role": "user", "content": "Speak"}]) == "Ye, "

