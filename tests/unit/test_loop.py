"""The loop over the scripted engine, which checks its caller: positions, KV space, rows."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import GREEDY, Drive, TimedFake, answer_alone
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.clock import FakeClock
from appliance.engine.fake_backend import END, FakeBackend
from appliance.engine.loop import WORTH_SAVING_TOKENS
from appliance.engine.messages import Ask, Cancel, Stop
from appliance.errors import InvalidRequest

SYSTEM = "system: " + "be brief and kind to people. " * 4 + "\n"


def say(words: str, before: str = "") -> str:
    """A prompt that makes the fake answer `echo: WORDS` and end."""
    return f"{before}user: {words}\nanswer\x02"


# -- one request ---------------------------------------------------------------------------------------------------


def test_an_answer_is_streamed_and_ends_with_its_usage():
    drive = Drive()
    drive.generate(say("hello"), "a")
    drive.run()
    assert drive.texts["a"] == "echo: hello"
    assert drive.ended["a"] == ["stop", len(say("hello")), len("echo: hello"), 0, None]
    assert drive.started == ["a"]


def test_the_first_token_is_told_at_once_and_later_ones_every_25_ms():
    drive = Drive(TimedFake(FakeClock(), base_s=0.01, token_s=0.0))
    drive.generate("abc", "a", max_tokens=10)
    told, began = [], drive.clock()
    while drive.open:
        seen = len(drive.frames)
        drive.step()
        told += [(round(drive.clock() - began, 2), tokens) for frame in drive.frames[seen:] for _, _, tokens, _ in frame.deltas]
    assert told == [(0.01, 1), (0.04, 3), (0.07, 3), (0.1, 3)]


def test_no_token_waits_through_the_long_step_of_a_newcomer():
    drive = Drive(TimedFake(FakeClock(), base_s=0.01, token_s=0.001))
    drive.generate("abc", "a", max_tokens=60)
    for _ in range(3):
        drive.step()
    drive.generate("y" * 400, "b", max_tokens=1)
    long_steps = 0
    while "b" in drive.open:
        made = len(drive.backend.steps)  # each step so far brought a token of the first answer
        drive.step()
        if max(len(piece.tokens) for piece in drive.backend.steps[-1]) > 1:
            long_steps += 1
            assert len(drive.texts["a"]) >= made
    assert long_steps > 2


def test_messages_go_through_the_template():
    drive = Drive()
    drive.generate([{"role": "user", "content": "h\N{EURO SIGN}i"}], "a")
    drive.run()
    assert drive.texts["a"] == "echo: h\N{EURO SIGN}i"


def test_a_template_that_fails_fails_its_request_alone():
    drive = Drive()
    drive.generate([{"role": "user", "content": "!template"}], "bad")
    drive.generate(say("fine"), "good")
    drive.run()
    assert drive.failed["bad"]["code"] == "chat_template_error"
    assert drive.texts["good"] == "echo: fine"


@pytest.mark.parametrize("most", [0, 1, 2, 7])
def test_max_tokens_is_kept_exactly(most):
    drive = Drive()
    drive.generate("abc", "a", max_tokens=most)
    drive.run()
    assert drive.ended["a"][:3] == ["length", 3, most]
    assert drive.texts["a"] == answer_alone("abc", most, 512)[0]


def test_without_max_tokens_an_answer_runs_to_the_end_of_the_context():
    drive = Drive(context_tokens=40)
    drive.generate("abcde", "a")
    drive.run()
    assert drive.ended["a"][:3] == ["length", 5, 35]


def test_a_prompt_of_the_context_less_one_gets_one_token():
    drive = Drive(context_tokens=40)
    drive.generate("x" * 39, "a", max_tokens=10)
    drive.run()
    assert drive.ended["a"][:3] == ["length", 39, 1]


@pytest.mark.parametrize("length", [40, 41, 700, 100_000])
def test_a_prompt_longer_than_the_context_fails_and_nothing_else_suffers(length):
    drive = Drive(context_tokens=40)
    drive.generate(say("ok"), "before")
    drive.step()
    drive.generate("y" * length, "long")
    drive.generate(say("ok"), "after")
    drive.run()
    assert drive.failed["long"]["code"] == "context_length_exceeded"
    assert "40" in drive.failed["long"]["message"] and drive.failed["long"]["param"] == "prompt"
    assert drive.texts["before"] == drive.texts["after"] == "echo: ok"


def test_a_very_long_text_is_refused_without_being_tokenized_whole():
    backend = FakeBackend(context_tokens=40)
    sizes = []
    whole = backend.tokenize

    def tokenize(text, **how):
        sizes.append(len(text))
        return whole(text, **how)

    backend.tokenize = tokenize
    drive = Drive(backend)
    drive.generate("y" * 1_000_000, "a")
    drive.run()
    assert "about 1000000 tokens" in drive.failed["a"]["message"]
    assert max(sizes) == 320


def test_far_too_many_messages_or_tokens_are_refused_without_being_looked_at():
    backend = FakeBackend(context_tokens=40)
    drive = Drive(backend)
    drive.generate([-1] * 1000, "tokens")
    backend.render = None  # would fail otherwise
    drive.generate([{"role": "user", "content": ""}] * 1000, "messages")
    drive.run()
    assert "1000 tokens" in drive.failed["tokens"]["message"] and drive.failed["tokens"]["param"] == "prompt"
    assert "at least 1000 tokens" in drive.failed["messages"]["message"] and drive.failed["messages"]["param"] == "messages"


def test_a_request_as_long_as_a_small_kv_pool_still_runs_alone():
    drive = Drive(FakeBackend(sequences=2, context_tokens=100, kv_tokens=60))
    drive.generate("x" * 50, "fits")
    drive.generate("x" * 60, "too long")
    drive.run()
    assert drive.ended["fits"][:3] == ["length", 50, 10]
    assert drive.failed["too long"]["code"] == "context_length_exceeded"


def test_a_stop_string_ends_the_answer_and_is_named():
    drive = Drive()
    drive.generate("x", "a", stop=["fgh"], max_tokens=50)
    drive.run()
    assert drive.texts["a"] == "bcde"
    assert drive.ended["a"] == ["stop", 1, 7, 0, "fgh"]


def test_bytes_that_are_no_text_become_replacement_characters():
    drive = Drive()
    drive.generate(say("!badutf"), "a")
    drive.run()
    assert drive.texts["a"] == "\ufffd\ufffdecho: !badutf"


@pytest.mark.parametrize(
    ("prompt", "more", "word"),
    [
        ([0, 5, 257], {}, "vocabulary"),
        ([-1], {}, "vocabulary"),
        ("", {}, "empty"),
        ([], {}, "empty"),
        ("x", {"sampling": {"logit_bias": [[257, 1.0]]}}, "vocabulary"),
        ("x", {"sampling": {"logit_bias": [[-1, 1.0]]}}, "vocabulary"),
        ("x", {"sampling": {"heat": 1}}, "heat"),
        ("x", {"sampling": {"logit_bias": [["a", "b"]]}}, "cannot read"),
        (["a"], {}, "cannot read"),
    ],
)
def test_what_cannot_be_read_fails_alone_and_the_engine_lives(prompt, more, word):
    drive = Drive()
    if prompt == ["a"]:
        prompt, drive.link.outbox = [0], drive.link.outbox
        drive.generate(prompt, "bad")
        drive.link.inbox[-1].prompt = {"tokens": ["a"]}
    elif prompt == []:
        drive.generate([0], "bad")
        drive.link.inbox[-1].prompt = {"tokens": []}
    else:
        drive.generate(prompt, "bad", **more)
    drive.generate(say("ok"), "good")
    drive.run()
    assert word in drive.failed["bad"]["message"]
    assert drive.failed["bad"]["code"] == InvalidRequest.code
    assert drive.texts["good"] == "echo: ok"


def test_a_row_of_nan_fails_its_sequence_alone():
    class Broken(FakeBackend):
        def _row(self, memory):
            row = super()._row(memory)
            return np.full_like(row, np.nan) if memory.startswith(b"N") else row

    drive = Drive(Broken())
    drive.generate("Nan", "bad")
    drive.generate(say("ok"), "good")
    drive.run()
    assert "NaN" in drive.failed["bad"]["message"]
    assert drive.texts["good"] == "echo: ok"


# -- log probabilities ---------------------------------------------------------------------------------------------


def test_log_probabilities_name_each_token_and_its_rivals():
    drive = Drive()
    drive.generate("x", "a", max_tokens=3, logprobs=2)
    drive.run()
    rows = drive.logprobs["a"]
    assert [row[1] for row in rows] == ["b", "c", "d"]
    assert all(row[2] == pytest.approx(0.0, abs=1e-6) and len(row[3]) == 2 and row[3][0][0] == row[0] for row in rows)


def test_zero_log_probabilities_still_report_the_token():
    drive = Drive()
    drive.generate("x", "a", max_tokens=2, logprobs=0)
    drive.run()
    assert [row[3] for row in drive.logprobs["a"]] == [[], []]


@pytest.mark.parametrize("most", [0, 1, 3])
def test_echo_reports_each_prompt_token_once(most):
    prompt = "a long prompt that needs several chunks of rows, " * 4
    drive = Drive()
    for name in "ab":
        drive.generate(prompt, name, max_tokens=most, logprobs=1, echo=True)
    drive.generate(say("beside"), "stream")
    drive.run()
    for name in "ab":
        said = "".join(row[1] for row in drive.logprobs[name])
        assert said == prompt + answer_alone(prompt, most, 512)[0]
        assert drive.logprobs[name][0][2] is None
        assert all(row[2] is not None for row in drive.logprobs[name][1:])
        assert drive.ended[name][3] == 0, "an echoed prompt is computed whole"


def test_echo_reports_each_prompt_token_once_even_after_a_preemption():
    drive = Drive(FakeBackend(sequences=3, context_tokens=100, kv_tokens=110))
    drive.generate("x" * 20, "old", max_tokens=70)
    drive.step()
    prompt = "echo this text please"
    drive.generate(prompt, "echoed", max_tokens=60, logprobs=0, echo=True)
    drive.run()
    said = "".join(row[1] for row in drive.logprobs["echoed"])
    assert said == prompt + answer_alone(prompt, 60, 100)[0]
    assert drive.backend.computed_tokens > 20 + 70 + len(prompt) + 60, "this test wants a preemption"


# -- shared beginnings ---------------------------------------------------------------------------------------------


def computed(drive: Drive) -> int:
    """Tokens computed since the last call."""
    before, drive.counted = getattr(drive, "counted", 0), drive.backend.computed_tokens
    return drive.counted - before


def test_the_same_prompt_again_computes_one_token_of_it():
    drive = Drive()
    prompt = say("the same", SYSTEM)
    drive.generate(prompt, "a")
    drive.run()
    computed(drive)
    drive.generate(prompt, "b")
    drive.run()
    answer = len("echo: the same")
    assert computed(drive) == 1 + answer
    assert drive.ended["b"][3] == len(prompt) - 1
    assert drive.texts["a"] == drive.texts["b"]


def test_a_system_prompt_is_computed_once_whichever_slot_it_lands_in():
    drive = Drive(sequences=4)
    drive.generate(say("first one", SYSTEM), "a", max_tokens=2000)
    drive.generate(say("!long", SYSTEM), "busy", max_tokens=100)
    while "a" not in drive.ended:
        drive.step()
    assert drive.open == {"busy"}
    computed(drive)
    drive.generate(say("another", SYSTEM), "b")
    drive.generate(say("a third", SYSTEM), "c")
    steps = 0
    while not {"b", "c"} <= set(drive.ended):
        drive.step()
        steps += 1
    assert drive.ended["b"][3] >= len(SYSTEM) and drive.ended["c"][3] >= len(SYSTEM)
    new = len(say("another")) + len(say("a third")) + len("echo: another") + len("echo: a third")
    assert computed(drive) <= new + steps  # and the busy one's tokens
    drive.run()


def test_a_conversation_goes_on_without_computing_its_earlier_turns():
    drive = Drive()
    first = say("hello", SYSTEM)
    drive.generate(first, "a")
    drive.run()
    computed(drive)
    second = first + drive.texts["a"] + "\n" + say("and more")
    drive.generate(second, "b")
    drive.run()
    kept = len(first) + len("echo: hello")
    assert drive.ended["b"][3] >= kept
    assert computed(drive) == len(second) - kept + drive.ended["b"][2]


@pytest.mark.parametrize("store_bytes", [0, 100_000])
def test_equal_beginnings_that_arrive_together_are_computed_about_once(store_bytes):
    drive = Drive(store_bytes=store_bytes, sequences=4)
    for n in range(4):
        drive.generate(say(f"question {n}", SYSTEM), f"q{n}")
    drive.run()
    own = sum(len(say(f"question {n}")) + len(f"echo: question {n}") for n in range(4))
    assert computed(drive) <= len(SYSTEM) + own
    assert [drive.texts[f"q{n}"] for n in range(4)] == [f"echo: question {n}" for n in range(4)]
    assert sum(drive.ended[f"q{n}"][3] >= len(SYSTEM) for n in range(4)) == 3


def test_n_identical_requests_compute_their_prompt_once():
    drive = Drive(sequences=4)
    prompt = say("all alike", SYSTEM)
    for n in range(4):
        drive.generate(prompt, f"q{n}")
    drive.run()
    answer = len("echo: all alike")
    assert computed(drive) <= len(prompt) + 3 * WORTH_SAVING_TOKENS + 4 * answer
    assert all(drive.ended[f"q{n}"][3] >= len(prompt) - WORTH_SAVING_TOKENS for n in range(1, 4))
    assert set(drive.texts.values()) == {"echo: all alike"}


def test_when_the_one_who_computes_leaves_those_who_waited_for_it_go_on():
    drive = Drive(batch_tokens=16)
    drive.generate(say("one", SYSTEM), "a")
    drive.step()
    drive.generate(say("two", SYSTEM), "b")
    drive.step()
    assert "b" not in drive.started
    drive.send(Cancel("a"))
    drive.run()
    assert drive.failed["a"]["code"] == "cancelled"
    assert drive.texts["b"] == "echo: two"


def test_a_displaced_beginning_comes_back_from_the_store():
    drive = Drive(sequences=1, store_bytes=100_000)
    drive.generate(say("one", SYSTEM), "a")
    drive.run()
    drive.generate(say("something quite different " * 3), "b")
    drive.run()
    computed(drive)
    drive.generate(say("two", SYSTEM), "c")
    drive.run()
    assert drive.ended["c"][3] >= len(SYSTEM)
    assert computed(drive) <= len(say("two")) + len("echo: two") + 1


def test_without_a_store_a_displaced_beginning_is_computed_again():
    drive = Drive(sequences=1, store_bytes=0)
    for name, prompt in [("a", say("one", SYSTEM)), ("b", "z" + say("other")), ("c", say("two", SYSTEM))]:
        drive.generate(prompt, name)
        drive.run()
    assert drive.ended["c"][3] == 0
    assert drive.texts["c"] == "echo: two"


@pytest.mark.parametrize("sequences", [1, 2])
def test_memory_that_cannot_be_cut_is_computed_again(sequences):
    class Recurrent(FakeBackend):
        def trim(self, seq, keep):
            if keep >= len(self._memory[seq]):
                return keep
            super().trim(seq, 0)
            return 0

    drive = Drive(Recurrent(sequences=sequences), store_bytes=10_000)
    turns = ["one " * 20, "two " * 20, "three " * 15, "one " * 20]
    for n, turn in enumerate(turns):
        drive.generate(say(turn, SYSTEM), f"q{n}")
        drive.run()
        drive.generate(f"{n} has nothing in common with the others, " * 2, f"other{n}", max_tokens=3)
        drive.run()
    assert [drive.texts[f"q{n}"] for n in range(4)] == [f"echo: {turn}" for turn in turns]


# -- many at once --------------------------------------------------------------------------------------------------


def test_a_long_prompt_never_keeps_a_stream_from_its_token():
    clock = FakeClock()
    backend = TimedFake(clock, sequences=6, context_tokens=2048)
    drive = Drive(backend, batch_tokens=512)
    for n in range(4):
        drive.generate(f"stream {n} says", f"s{n}", max_tokens=150)
    while len(drive.started) < 4 or any(not drive.texts[f"s{n}"] for n in range(4)):
        drive.step()
    drive.generate("w" * 1400, "long", max_tokens=5)
    longest, steps = 0.0, 0
    while not drive.texts["long"]:
        before, texts = clock(), dict(drive.texts)
        drive.step()
        assert all(len(drive.texts[f"s{n}"]) == len(texts[f"s{n}"]) + 1 for n in range(4)), "a stream got no token"
        longest, steps = max(longest, clock() - before), steps + 1
    assert longest <= 0.25, "a step may last 0.2 s while anything streams"
    assert 7 <= steps <= 12, "the prompt should take all the time the streams leave"
    drive.run()


def test_the_engine_moves_streams_together_where_only_neighbours_are_fast():
    backend = TimedFake(FakeClock(), sequences=4)
    drive = Drive(backend)
    for n in range(4):
        drive.generate(f"{n} stream", f"s{n}", max_tokens=80)
    for _ in range(10):
        drive.step()
    for name in ("s1", "s2"):
        drive.send(Cancel(name))
    for _ in range(4):
        drive.step()
    running = sorted(piece.seq for piece in backend.steps[-1])
    assert running[1] - running[0] == 1
    drive.run()
    assert drive.texts["s3"] == answer_alone("3 stream", 80, 512)[0]


def test_a_large_request_is_not_overtaken_for_ever_by_small_ones():
    drive = Drive(FakeBackend(sequences=4, context_tokens=100, kv_tokens=120))
    for n in range(3):
        drive.generate(f"{n} small", f"s{n}", max_tokens=8 + n)
    drive.step()
    drive.generate("L" * 90, "large", max_tokens=5)
    for n in range(3, 400):
        drive.generate(f"{n} small", f"s{n}", max_tokens=9)
        drive.step()
        if "large" in drive.ended:
            break
    assert "large" in drive.ended and n < 60
    drive.run()


def test_nobody_is_let_in_whose_prompt_would_only_be_preempted():
    drive = Drive(FakeBackend(sequences=4, context_tokens=100, kv_tokens=100), batch_tokens=16)
    for n in range(4):
        drive.generate(f"{n}" * 60, f"q{n}", max_tokens=4)
    drive.run()
    assert drive.backend.computed_tokens == 4 * (60 + 3)


def test_the_youngest_is_preempted_and_still_gives_its_whole_answer():
    drive = Drive(FakeBackend(sequences=2, context_tokens=80, kv_tokens=100))
    drive.generate("a" * 10, "old", max_tokens=60)
    drive.generate("b" * 10, "young", max_tokens=60)
    drive.run()
    for name, prompt in (("old", "a" * 10), ("young", "b" * 10)):
        assert drive.texts[name] == answer_alone(prompt, 60, 80)[0]
        assert drive.ended[name][3] == 0, "what was computed again is not called cached"
    assert list(drive.ended) == ["old", "young"]
    assert drive.backend.computed_tokens > 2 * 69


# -- leaving -------------------------------------------------------------------------------------------------------


def test_cancel_works_while_waiting_in_prefill_and_in_decode():
    drive = Drive(sequences=2, context_tokens=1000, batch_tokens=16)
    drive.generate("decode", "decode", max_tokens=500)
    drive.step()
    drive.generate("p" * 500, "prefill")
    drive.step()
    drive.generate("waiting", "waiting")
    drive.step()
    assert drive.texts["decode"] and drive.started == ["decode", "prefill"] and not drive.texts["prefill"]
    for name in ("waiting", "prefill", "decode"):
        drive.send(Cancel(name))
    drive.step()
    assert {name: error["code"] for name, error in drive.failed.items()} == dict.fromkeys(drive.texts, "cancelled")
    assert not drive.step(), "nothing is left to compute"
    drive.send(Cancel("decode"))
    drive.send(Cancel("never heard of"))
    drive.run()


def test_stop_fails_everybody_with_draining():
    drive = Drive(sequences=1)
    for n in range(3):
        drive.generate(f"{n}", f"q{n}", max_tokens=400)
    drive.step()
    drive.send(Stop())
    drive.generate("late", "late")
    drive.step()
    assert drive.loop.stopping
    assert {drive.failed[f"q{n}"]["code"] for n in range(3)} == {"draining"}


def test_those_whose_computation_begins_are_announced_before_it_can_kill_the_engine():
    class Deadly(FakeBackend):
        def decode(self, pieces):
            raise SystemExit

    drive = Drive(Deadly())
    drive.generate("x", "suspect")
    with pytest.raises(SystemExit):
        drive.step()
    assert [frame.started for frame in drive.link.outbox] == [["suspect"]]


# -- questions -----------------------------------------------------------------------------------------------------


def test_questions_are_answered_beside_running_work():
    drive = Drive()
    drive.generate("x", "busy", max_tokens=30)
    drive.step()
    drive.send(Ask("t", "tokenize", {"text": "h\N{EURO SIGN}", "pieces": True}))
    drive.send(Ask("d", "detokenize", {"tokens": [104, 105, END]}))
    drive.send(Ask("p", "template", {"messages": [{"role": "user", "content": "hi"}]}))
    drive.step()
    assert drive.answers["t"].result["tokens"] == list("h\N{EURO SIGN}".encode())
    assert drive.answers["t"].result["pieces"][0] == "h"
    assert drive.answers["d"].result == {"text": "hi"}
    assert "user: hi" in drive.answers["p"].result["prompt"]
    drive.run()


@pytest.mark.parametrize(
    ("what", "args", "words"),
    [
        ("detokenize", {"tokens": [300]}, "vocabulary"),
        ("template", {"messages": [{"role": "user", "content": "!template"}]}, "told to"),
        ("sing", {}, "sing"),
        ("tokenize", {}, "text"),
        ("detokenize", {"tokens": ["x"]}, "cannot answer"),
    ],
)
def test_a_bad_question_gets_an_error_and_the_engine_lives(what, args, words):
    drive = Drive()
    drive.send(Ask("q", what, args))
    drive.step()
    assert words in drive.answers["q"].error["message"]


def test_an_answer_too_large_for_the_channel_is_an_error():
    drive = Drive()
    send = drive.link.send

    def picky(message):
        if getattr(message, "result", None):
            raise ValueError("message of 99 bytes is over the limit of 64")
        send(message)

    drive.link.send = picky
    drive.send(Ask("q", "tokenize", {"text": "x" * 99}))
    drive.step()
    assert "over the limit" in drive.answers["q"].error["message"]


def test_the_load_is_told_when_work_ends():
    drive = Drive()
    drive.generate(say("x"), "a")
    drive.run()
    load = drive.frames[-1].load
    assert load["running"] == load["waiting"] == load["kv_used_tokens"] == 0
    assert load["kv_cached_tokens"] > 0 and load["kv_total_tokens"] == 4 * 512


# -- anything at all -----------------------------------------------------------------------------------------------

PREFIXES = ["", SYSTEM[:40], SYSTEM[:40] + "more of it here. ", "other start, other words: "]
REQUESTS = st.tuples(
    st.just("generate"),
    st.sampled_from(PREFIXES),
    st.text(alphabet="abc ", max_size=20),
    st.sampled_from([None, 0, 1, 3, 10, 40]),
    st.sampled_from([(), ("ho: ",), ("f", "jkl"), ("xyz",)]),
    st.sampled_from(["say", "say", "tell", "echo"]),
)
EVENTS = st.one_of(
    REQUESTS, REQUESTS, st.tuples(st.just("cancel"), st.integers(0, 30)), st.tuples(st.just("steps"), st.integers(1, 12))
)


@settings(max_examples=120)
@given(
    st.lists(EVENTS, max_size=25),
    st.fixed_dictionaries(
        {
            "sequences": st.integers(1, 4),
            "kv_share": st.sampled_from([0.0, 0.2, 0.5, 1.0]),
            "store_bytes": st.sampled_from([0, 100, 10_000]),
            "batch_tokens": st.sampled_from([8, 16, 64]),
            "context_tokens": st.sampled_from([70, 100, 128]),
        }
    ),
)
def test_whatever_comes_every_request_ends_once_with_the_answer_it_would_get_alone(events, shape):
    context, sequences = shape["context_tokens"], shape["sequences"]
    kv_tokens = context + int(context * (sequences - 1) * shape["kv_share"])
    drive = Drive(
        FakeBackend(sequences=sequences, context_tokens=context, kv_tokens=kv_tokens),
        store_bytes=shape["store_bytes"],
        batch_tokens=shape["batch_tokens"],
    )
    asked = {}
    for kind, *rest in events:
        if kind == "generate":
            prefix, words, most, stops, form = rest
            prompt = say(words, prefix) if form == "say" else f"{prefix}tell {words}"
            name = f"r{len(asked)}"
            echo = {"echo": True, "logprobs": 1} if form == "echo" else {}
            drive.generate(prompt, name, max_tokens=most, stop=list(stops), **echo)
            asked[name] = (prompt, context if most is None else most, stops, bool(echo))
        elif kind == "cancel":
            drive.send(Cancel(f"r{rest[0]}"))
        else:
            for _ in range(rest[0]):
                drive.step()
    drive.run()
    assert not drive.open
    for name, (prompt, most, stops, echo) in asked.items():
        text, reason = answer_alone(prompt, most, context, stops)
        if name in drive.failed:
            code = drive.failed[name]["code"]
            assert code == "cancelled" or (code == "context_length_exceeded" and len(prompt) >= context)
            assert text.startswith(drive.texts[name]) or code == "context_length_exceeded"
            continue
        assert (drive.texts[name], drive.ended[name][0]) == (text, reason)
        assert drive.ended[name][1] == len(prompt) and drive.ended[name][3] < len(prompt)
        if echo:
            said = "".join(row[1] for row in drive.logprobs[name])
            assert said.startswith(prompt + text)
    assert drive.loop.slots.used_tokens == 0


def test_a_long_random_life_leaves_the_books_right():
    """More requests than hypothesis likes, with the default sampling and seeds."""
    rng = random.Random(5)
    drive = Drive(FakeBackend(sequences=4, context_tokens=160, kv_tokens=300), store_bytes=2000, batch_tokens=32)
    asked = SimpleNamespace(prompts={})
    for n in range(200):
        prompt = say(f"number {rng.randrange(20)}", rng.choice(PREFIXES))
        asked.prompts[f"r{n}"] = prompt
        drive.generate(prompt, f"r{n}", sampling=rng.choice([GREEDY, {"seed": 3}, {}]))
        if rng.random() < 0.2:
            drive.send(Cancel(f"r{rng.randrange(n + 1)}"))
        for _ in range(rng.randrange(12)):
            drive.step()
    drive.run()
    assert len(drive.ended) > 120
    for name in drive.ended:
        assert drive.texts[name] == answer_alone(asked.prompts[name], 160, 160)[0]
