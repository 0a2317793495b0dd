"""The encoders' loop over the scripted encoder, which checks its caller; and what is computed with what, by itself."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from fakes import Drive as DecoderDrive
from fakes import MemoryLink
from hypothesis import given
from hypothesis import strategies as st

from appliance.clock import FakeClock
from appliance.engine.encoder import Row
from appliance.engine.encoder_loop import BATCH_S, LEAST_TOKENS, EncoderLoop
from appliance.engine.encoder_plan import MOST_PASSES, RUN_TOKENS, compete, padded, rows_that_fit, take
from appliance.engine.entities import Mark, entities
from appliance.engine.fake_encoder import FakeEncoder
from appliance.engine.messages import Answer, Ask, Cancel, Frame, Generate, Message, Stop


class TimedEncoder(FakeEncoder):
    """A scripted encoder whose batches take time on a FakeClock, and while whose batches others may ask."""

    def __init__(self, name: str = "embed", *, token_s: float = 0.0001, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.clock, self.token_s = FakeClock(), token_s
        self.meanwhile: list[Any] = []
        self.batches: list[list[Row]] = []

    def compute(self, rows: list[Row]) -> list[np.ndarray]:
        """As the fake, and the clock moves."""
        self.batches.append(rows)
        self.clock.advance(self.token_s * sum(len(row.ids) for row in rows))
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return super().compute(rows)


class Drive:
    """Runs an EncoderLoop step by step over a link in memory and keeps what it sends."""

    def __init__(self, encoder: FakeEncoder | None = None) -> None:
        self.encoder = encoder or TimedEncoder()
        self.link = MemoryLink()
        self.waits: list[float | None] = []
        receive = self.link.receive
        self.link.receive = lambda timeout_s: (self.waits.append(timeout_s), receive(timeout_s))[1]
        self.clock = getattr(self.encoder, "clock", FakeClock())
        self.loop = EncoderLoop(self.encoder, self.link, self.clock)
        self.answers: dict[str, Answer] = {}
        self.order: list[str] = []
        self.frames: list[Frame] = []

    def ask(self, key: str, what: str = "embed", **args: Any) -> None:
        self.link.inbox.append(Ask(key, what, args))

    def send(self, message: Message) -> None:
        self.link.inbox.append(message)

    def step(self) -> bool:
        worked = self.loop.step()
        while self.link.outbox:
            message = self.link.outbox.popleft()
            if isinstance(message, Answer):
                assert message.id not in self.answers, f"{message.id} was answered twice"
                self.answers[message.id] = message
                self.order.append(message.id)
            else:
                self.frames.append(message)
        return worked

    def run(self, most_steps: int = 5000) -> Drive:
        for _ in range(most_steps):
            if not self.step() and not self.link.inbox:
                return self
        raise AssertionError("it does not come to an end")

    def vectors(self, key: str) -> np.ndarray:
        answer = self.answers[key]
        assert answer.error is None, answer.error
        return np.frombuffer(base64.b64decode(answer.result["vectors"]), "<f4").reshape(-1, answer.result["dim"])


def embed(*texts: str) -> np.ndarray:
    """What the scripted encoder says to texts that are asked alone."""
    rows = []
    for text in texts:
        drive = Drive(FakeEncoder())
        drive.ask("a", inputs=[text])
        rows.append(drive.run().vectors("a"))
    return np.concatenate(rows)


# -- what is computed with what ------------------------------------------------------------------------------------


def test_texts_of_one_length_go_together_and_a_much_shorter_one_does_not():
    assert take([20] * 30) == 30
    assert take([20, 20, 19, 19, 5]) == 4
    assert take([20, 20 - RUN_TOKENS]) == 2 and take([20, 20 - RUN_TOKENS - 1]) == 1
    many = RUN_TOKENS // 2 + 1
    assert take([20] + [18] * many) == 1, "padding many costs more than another run"
    assert take([7]) == 1


def test_a_batch_has_room_for_the_budget_and_always_for_one():
    assert rows_that_fit(10, 512, 64) == 51
    assert rows_that_fit(4, 512, 64) == 64
    assert rows_that_fit(600, 512, 64) == 1 and rows_that_fit(0, 512, 64) == 64
    assert rows_that_fit(10, 512, 1) == 1


@given(st.integers(1, 300), st.integers(1, 64), st.sampled_from([1, 2, 4, 8]), st.integers(1, 512))
def test_padding_reaches_the_multiple_with_the_fewest_tokens(longest, rows, multiple, most):
    length = padded(longest, rows, multiple, max(longest, most))
    assert longest <= length < longest + multiple
    if length > longest or longest + multiple <= most:
        assert rows * length % multiple == 0
    assert all(rows * shorter % multiple for shorter in range(longest, length))


def test_small_questions_go_first_as_many_as_fit():
    assert compete([(20_000, 1), (10, 3), (12, 2)], 512, 0) == [1, 2]
    assert compete([(400, 1), (200, 2), (100, 3)], 512, 0) == [2, 1]
    assert compete([(20_000, 1), (30_000, 2)], 512, 0) == [0]
    assert compete([(30_000, 1), (20_000, 2)], 512, 0) == [1]
    assert compete([(10, 2), (10, 1)], 10, 0) == [1], "of equals the older one"


def test_the_oldest_is_passed_over_only_so_often():
    assert compete([(30_000, 1), (10, 2)], 512, MOST_PASSES - 1) == [1]
    assert compete([(30_000, 1), (10, 2)], 512, MOST_PASSES) == [0]


# -- answers -------------------------------------------------------------------------------------------------------


def test_a_question_is_answered_in_the_step_it_comes_in():
    drive = Drive()
    drive.ask("a", inputs=["how are you"])
    drive.step()
    assert drive.waits[0] is None, "an idle loop waits for a message, and for nothing else"
    assert drive.answers["a"].result["tokens"] == [5]
    assert np.allclose(np.linalg.norm(drive.vectors("a"), axis=1), 1)


def test_many_texts_come_back_in_their_order_whatever_they_were_computed_with():
    texts = [" ".join(f"w{n}{i}" for i in range(1 + n * 7 % 23)) for n in range(60)]
    drive = Drive()
    drive.ask("a", inputs=texts)
    drive.ask("b", inputs=texts[::-1])
    drive.run()
    assert np.array_equal(drive.vectors("a"), embed(*texts))
    assert np.array_equal(drive.vectors("a"), drive.vectors("b")[::-1])
    assert drive.answers["a"].result["tokens"] == [len(t.split()) + 2 for t in texts]
    assert max(len(batch) for batch in drive.encoder.batches) > 3


@given(st.lists(st.lists(st.integers(1, 40), max_size=12), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_whatever_is_asked_is_answered_once_and_right(asked, draw):
    drive = Drive()
    left = {f"q{n}": [" ".join(f"w{draw.randrange(50)}" for _ in range(size)) for size in sizes] for n, sizes in enumerate(asked)}
    texts = dict(left)
    while left or drive.step() or drive.link.inbox:
        if left and draw.random() < 0.5:
            key = next(iter(left))
            drive.ask(key, inputs=left.pop(key))
        drive.step()
    assert set(drive.answers) == set(texts)
    words = FakeEncoder()
    for key, some in texts.items():
        rows = [words.compute([words.read(t, None, truncate=False, skip=0, param="")])[0] for t in some]
        right = np.array(rows, np.float32).reshape(len(some), 32)
        right = right / np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-12)
        assert np.allclose(drive.vectors(key), right, atol=1e-6)
    assert drive.loop.load()["running"] == 0 and not drive.loop.load()["waiting"]


def test_prompts_dimensions_and_token_ids():
    drive = Drive()
    drive.ask("plain", inputs=["query: word"])
    drive.ask("query", inputs=["word"], kind="query")
    drive.ask("short", inputs=["query: word"], dimensions=5)
    drive.ask("ids", inputs=[drive.encoder.tokenize("query: word", add_special=True, parse_special=False)])
    drive.run()
    whole = drive.vectors("plain")
    assert np.array_equal(whole, drive.vectors("query")) and np.array_equal(whole, drive.vectors("ids"))
    drive.ask("raw", inputs=["query: word"], normalize=False)
    drive.ask("unit", inputs=["query: word"], normalize=True)
    drive.run()
    raw = drive.vectors("raw")
    assert np.linalg.norm(raw) > 2 and np.allclose(raw / np.linalg.norm(raw), whole, atol=1e-6)
    assert np.array_equal(drive.vectors("unit"), whole)
    cut = whole[:, :5] / np.linalg.norm(whole[:, :5])
    assert drive.vectors("short").shape == (1, 5) and np.allclose(drive.vectors("short"), cut, atol=1e-6)


def test_no_texts_are_no_vectors():
    drive = Drive()
    drive.ask("a", inputs=[])
    drive.run()
    assert drive.answers["a"].result == {"vectors": "", "dim": 32, "tokens": []}


def test_documents_are_scored_by_what_they_share_with_the_query():
    drive = Drive(TimedEncoder("reranker"))
    drive.ask("a", "rerank", query="disk is full", documents=["add a disk", "the disk is full", "good morning"])
    drive.run()
    result = drive.answers["a"].result
    assert np.argsort(result["scores"]).tolist() == [2, 0, 1] and all(0 < s < 1 for s in result["scores"])
    assert np.allclose(result["scores"], 1 / (1 + np.exp(-np.array(result["logits"])))) and result["tokens"] == 9 + 10 + 8


def test_of_a_pair_the_document_is_cut_and_never_the_query():
    drive = Drive(TimedEncoder("reranker", context_tokens=12))
    documents = ["w " * 20 + "disk", "disk " + "w " * 20, "disk"]
    drive.ask("cut", "rerank", query="a full disk", documents=documents, truncate=True)
    drive.ask("short", "rerank", query="a full disk", documents=documents, truncate=True, document_tokens=3)
    drive.ask("whole", "rerank", query="a full disk", documents=documents)
    drive.ask("room", "rerank", query="q " * 9, documents=["disk"], truncate=True)
    drive.ask("long", "rerank", query="q " * 500, documents=["disk"], truncate=True)
    drive.ask("huge", "rerank", query="q" * 5000, documents=["disk"], truncate=True)
    drive.run()
    assert drive.answers["cut"].result["tokens"] == 12 + 12 + 7 and drive.answers["cut"].result["logits"] == [-1, 1, 1]
    assert drive.answers["short"].result["tokens"] == 9 + 9 + 7
    whole = drive.answers["whole"].error
    assert whole["param"] == "documents[0]" and "send truncate: true" in whole["remedy"]
    for key, words in (("room", "query has 12 tokens, which leaves no room"), ("long", "query has"), ("huge", "query has 5000 characters")):
        error = drive.answers[key].error
        assert words in error["message"] and error["param"] == "query" and "never cut" in error["remedy"]
        assert error["code"] == "context_length_exceeded"


def test_texts_get_labels_of_the_model_or_any_that_are_given():
    drive = Drive(TimedEncoder("classify"))
    drive.ask("a", "classify", inputs=["all good", "bad and poor"])
    drive.run()
    result = drive.answers["a"].result
    assert result["labels"] == ["negative", "positive"] and np.argmax(result["scores"], axis=1).tolist() == [1, 0]
    assert np.allclose(np.sum(result["scores"], axis=1), 1) and result["tokens"] == [4, 5]

    drive = Drive(TimedEncoder("nli"))
    labels = ["disk", "money"]
    for key, many in (("one", False), ("many", True)):
        drive.ask(key, "classify", inputs=["my disk is full", "money and disk"], labels=labels, template="about {}", multi_label=many)
    drive.run()
    one, many = (np.array(drive.answers[key].result["scores"]) for key in ("one", "many"))
    assert drive.answers["one"].result["labels"] == labels and np.allclose(one.sum(axis=1), 1) and np.allclose(one[1], 0.5)
    assert one[0, 0] > 0.9 and np.allclose(many[1], np.exp(3) / (np.exp(3) + np.exp(1))) and many[0, 1] < 0.5


def test_names_are_found_where_they_stand():
    drive = Drive(TimedEncoder("tokens"))
    text = "yesterday Mary Jones met  Bob"
    drive.ask("a", "tokens", inputs=[text, ""])
    drive.run()
    first, second = drive.answers["a"].result["entities"]
    assert [(e["label"], e["text"]) for e in first] == [("NAME", "Mary"), ("NAME", "Jones"), ("NAME", "Bob")] and not second
    assert all(text[e["start"] : e["end"]] == e["text"] and 0.5 < e["score"] <= 1 for e in first)


def test_the_words_of_an_entity_and_the_pieces_of_a_word_are_joined():
    text = "Anna Lee of New York, U.K."
    labels = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
    told = [(0, 0, -1, 0), (0, 2, 0, 1), (2, 4, 0, 4), (4, 8, 1, 2), (9, 11, 2, 0), (12, 15, 3, 3), (16, 20, 4, 4), (20, 21, 5, 0), (22, 24, 6, 5), (24, 26, 7, 5)]
    scores = np.full((len(told), len(labels)), 0.02)
    for at, (*_, label) in enumerate(told):
        scores[at, label] = 0.9 - at / 100
    found = entities(text, [Mark(*mark[:3]) for mark in told], scores, labels)
    assert [(e["label"], e["start"], e["end"], e["text"]) for e in found] == [
        ("PER", 0, 8, "Anna Lee"), ("LOC", 12, 20, "New York"), ("MISC", 22, 26, "U.K."),
    ]  # fmt: skip
    assert found[0]["score"] == pytest.approx((0.89 + 0.87) / 2)
    two = entities("a b", [Mark(0, 1, 0), Mark(2, 3, 1)], np.array([[0.1, 0.9], [0.2, 0.8]]), ("O", "B-X"))
    assert [e["text"] for e in two] == ["a", "b"]


def test_tokenize_and_detokenize_are_answered_at_once():
    drive = Drive()
    drive.ask("t", "tokenize", text="two words", add_special=True, pieces=True)
    drive.step()
    result = drive.answers["t"].result
    assert result["pieces"] == ["[FIRST]", "two", "words", "[LAST]"]
    drive.ask("d", "detokenize", tokens=result["tokens"])
    drive.ask("bad", "detokenize", tokens=[1 << 30])
    drive.ask("template", "template", messages=[])
    drive.step()
    assert drive.answers["d"].result == {"text": " two words"}
    assert "vocabulary" in drive.answers["bad"].error["message"] and "no chat template" in drive.answers["template"].error["message"]


# -- fairness ------------------------------------------------------------------------------------------------------


def test_a_huge_question_delays_a_single_text_by_one_batch():
    drive = Drive()
    drive.ask("huge", inputs=[f"word {n} " * (1 + n % 12) for n in range(2000)])
    while not drive.encoder.batches:
        drive.step()
    for n in range(30):
        came = drive.clock()
        drive.encoder.meanwhile.append(lambda n=n: drive.ask(f"s{n}", inputs=["a single text"]))
        drive.step()
        drive.step()
        assert f"s{n}" in drive.answers
        assert drive.clock() - came <= 1.3 * BATCH_S
    assert "huge" not in drive.answers
    assert len(drive.run().vectors("huge")) == 2000


def test_single_texts_without_end_do_not_starve_a_huge_question():
    drive = Drive()
    drive.ask("huge", inputs=["some words of a text"] * 400)
    for n in range(2000):
        if "huge" in drive.answers:
            break
        drive.ask(f"s{n}", inputs=["a single text"])
        drive.step()
    assert "huge" in drive.answers and len(drive.answers) <= 4 * 400 * 6 / LEAST_TOKENS


def test_what_comes_while_a_batch_runs_is_computed_together():
    drive = Drive()
    drive.encoder.meanwhile.append(lambda: [drive.ask(f"s{n}", inputs=[f"text number {n}"]) for n in range(10)])
    drive.ask("first", inputs=["one text alone"])
    drive.step()
    drive.step()
    assert [len(batch) for batch in drive.encoder.batches] == [1, 10] and len(drive.answers) == 11


def test_a_slow_model_gets_smaller_batches_and_a_fast_one_larger():
    sizes = {}
    for token_s in (0.001, 0.00001):
        drive = Drive(TimedEncoder(token_s=token_s))
        drive.ask("a", inputs=["some words of a text"] * 500)
        drive.run()
        sizes[token_s] = max(7 * len(batch) for batch in drive.encoder.batches[3:])
    assert sizes[0.001] <= LEAST_TOKENS < sizes[0.00001] <= 512


def test_reading_a_huge_question_does_not_hold_up_a_small_one():
    drive = Drive()
    read = drive.encoder.read
    drive.encoder.read = lambda *args, **how: (drive.clock.advance(0.001), read(*args, **how))[1]
    drive.ask("huge", inputs=["word"] * 500)
    drive.step()
    assert not drive.encoder.batches
    drive.ask("small", inputs=["word"])
    drive.step()
    assert "small" in drive.answers and len(drive.run().vectors("huge")) == 500


# -- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "args", "words", "param"),
    [
        ("embed", {"inputs": ["ok", "word " * 100]}, "input[1] has 102 tokens; embed takes 64", "input[1]"),
        ("embed", {"inputs": ["ok", "word " * 100_000]}, "input[1] has 500000 characters; embed takes 64 tokens, and at most 4096", "input[1]"),
        ("embed", {"inputs": [[1] * 65]}, "65 tokens", "input[0]"),
        ("embed", {"inputs": [[1, -1]]}, "token -1", "input[0]"),
        ("embed", {"inputs": [["a"]]}, "token 'a'", "input[0]"),
        ("embed", {"inputs": [[]]}, "is empty", "input[0]"),
        ("embed", {"inputs": ["a"], "dimensions": 33}, "1 to 32", "dimensions"),
        ("embed", {"inputs": ["a"], "dimensions": 0}, "1 to 32", "dimensions"),
        ("embed", {"inputs": [None]}, "cannot answer", None),
        ("embed", {}, "inputs", None),
        ("rerank", {"query": "a", "documents": ["b"]}, "an embedding model: it cannot rerank documents", "model"),
        ("poetry", {}, "cannot answer 'poetry'", "model"),
    ],
)
def test_what_cannot_be_answered_fails_alone_and_in_words(what, args, words, param):
    drive = Drive()
    drive.ask("before", inputs=["fine"])
    drive.ask("bad", what, **args)
    drive.ask("after", inputs=["fine"])
    drive.run()
    error = drive.answers["bad"].error
    assert words in error["message"] and error["param"] == param, error
    assert len(drive.vectors("before")) == len(drive.vectors("after")) == 1


def test_classifying_with_labels_or_a_template_that_make_no_sense():
    drive = Drive(TimedEncoder("classify"))
    drive.ask("own", "classify", inputs=["a"], labels=["x"])
    assert "knows its own labels only (negative, positive)" in drive.run().answers["own"].error["message"]
    drive = Drive(TimedEncoder("nli"))
    drive.ask("template", "classify", inputs=["a"], labels=["x"], template="about")
    drive.ask("none", "classify", inputs=["a"], labels=[])
    drive.run()
    assert drive.answers["template"].error["param"] == "template" and drive.answers["none"].error["param"] == "labels"


def test_a_long_text_is_cut_when_it_may_be():
    drive = Drive()
    drive.ask("a", inputs=["word " * 100_000, [1] * 100], truncate=True)
    drive.run()
    assert drive.answers["a"].result["tokens"] == [64, 64]


@pytest.mark.parametrize("truncate", [True, False])
def test_one_word_of_millions_of_characters_is_not_read_to_its_end(truncate):
    drive = Drive()
    drive.ask("a", inputs=["x" * 2_000_000], truncate=truncate)
    drive.run()
    assert max(map(len, drive.encoder._texts)) <= 64 * 64
    if truncate:
        assert drive.answers["a"].result["tokens"] == [3]
    else:
        error = drive.answers["a"].error
        assert "2000000 characters" in error["message"] and error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(("word", "said"), [("!fail", "could not compute text 1: told to"), ("!nan", "text 1 is no number")])
def test_a_text_that_cannot_be_computed_fails_its_question_and_no_other(word, said):
    drive = Drive()
    drive.encoder.meanwhile.append(lambda: [drive.ask("x", inputs=["a b c"]), drive.ask("bad", inputs=["a b c", f"a {word} c"]), drive.ask("y", inputs=["a b c"])])
    drive.ask("first", inputs=["a"])
    drive.run()
    assert said in drive.answers["bad"].error["message"] and drive.answers["bad"].error["code"] == "internal_error"
    assert np.array_equal(drive.vectors("x"), drive.vectors("y")) and len(drive.answers) == 4


def test_text_generation_is_refused_in_a_frame():
    drive = Drive()
    drive.send(Generate("g", {"text": "a"}, {}))
    drive.step()
    [[key, error]] = drive.frames[-1].failed
    assert key == "g" and "embed is an embedding model: it writes no text" in error["message"]


def test_a_text_generation_model_refuses_what_encoders_do_and_goes_on():
    drive = DecoderDrive()
    drive.send(Ask("q", "embed", {"inputs": ["a"]}))
    drive.generate("user: hello\nanswer\x02", "g")
    drive.run()
    assert "fake is a text generation model: it cannot answer 'embed'" in drive.answers["q"].error["message"]
    assert drive.texts["g"] == "echo: hello"


def test_cancel_drops_what_is_left():
    drive = Drive()
    drive.ask("huge", inputs=["some words of a text"] * 500)
    for _ in range(3):
        drive.step()
    computed = sum(map(len, drive.encoder.batches))
    drive.send(Cancel("huge"))
    drive.send(Cancel("nobody"))
    drive.run()
    assert drive.answers["huge"].error["code"] == "cancelled"
    assert 0 < computed == sum(map(len, drive.encoder.batches)) < 500 and drive.loop.load()["running"] == 0


def test_stop_fails_what_waits():
    drive = Drive()
    drive.ask("huge", inputs=["some words"] * 500)
    drive.step()
    drive.ask("late", inputs=["a"])
    drive.send(Stop())
    assert not drive.step() and drive.loop.stopping
    assert {drive.answers[key].error["code"] for key in ("huge", "late")} == {"draining"}


def test_an_answer_too_large_for_the_channel_becomes_an_error():
    drive = Drive()
    send = drive.link.send

    def small(message: Any) -> None:
        if isinstance(message, Answer) and message.result:
            raise ValueError("message of 70000000 bytes is over the limit of 67108864")
        send(message)

    drive.link.send = small
    drive.ask("a", inputs=["x"])
    drive.run()
    assert "over the limit" in drive.answers["a"].error["message"]


# -- the heartbeat -------------------------------------------------------------------------------------------------


def test_each_long_batch_is_followed_by_a_frame_and_short_ones_share_one():
    drive = Drive(TimedEncoder(token_s=0.05))
    drive.ask("a", inputs=["some words of a text"] * 60)
    drive.run()
    beats = [frame.step for frame in drive.frames if frame.load["running"]]
    assert beats == list(range(1, len(drive.encoder.batches))) and drive.frames[0].load["waiting"] > 0
    drive = Drive(TimedEncoder(token_s=0.00001))
    for n in range(100):
        drive.ask(f"q{n}", inputs=["a"])
        drive.step()
    assert len(drive.answers) == 100 and len(drive.frames) <= 2


def test_when_all_is_done_the_front_is_told_soon_and_then_left_alone():
    drive = Drive()
    drive.ask("a", inputs=["a"])
    drive.step()
    drive.ask("b", inputs=["a"])
    drive.step()
    drive.waits.clear()
    drive.clock.advance(0.1)
    drive.step()
    assert 0 < drive.waits[0] < 0.2, "it wakes up to say that it is idle"
    drive.clock.advance(0.2)
    drive.step()
    assert drive.frames[-1].step == 2 and drive.frames[-1].load["running"] == 0
    drive.waits.clear()
    drive.step()
    assert drive.waits[0] is None


def test_the_scripted_encoder_is_the_same_everywhere_and_knows_what_is_alike():
    assert embed("hello")[0, :2].tolist() == pytest.approx([-0.09874, 0.06265], abs=1e-5)
    assert np.array_equal(embed("hello"), embed("Hello"))
    like, other, strange = (embed(text) @ embed("restart the server").T for text in ("restart the server", "restart the box", "good morning"))
    assert like > other > strange
