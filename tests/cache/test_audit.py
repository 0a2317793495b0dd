"""Hits that are looked at again: when, how two answers are compared, and what comes of it."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from fakes import Words

from appliance.audit import ALWAYS, Audit
from appliance.cache.identity import Identity
from appliance.cache.lookup import Hit
from appliance.errors import EngineLost
from appliance.recall import Given
from appliance.types import ChatPrompt, Delta, Finished, GenerationRequest, Usage, Waiting

ASKED = GenerationRequest("r", "m", (ChatPrompt(({"role": "user", "content": "q"},)),))
WHO = Identity("of:a", "w", b"p", b"e", "asked")


class Desk:
    """An audit whose engine says `answer`, with a clock and what it judged."""

    def __init__(self, answer: str = "the key is in the desk", share: float = 1.0) -> None:
        self.answer, self.time, self.busy, self.verdicts, self.asked, self.closed = answer, 0.0, 0, [], [], 0
        self.pauses = 0
        cache = SimpleNamespace(judge=self.verdicts.append)
        self.audit = Audit(cache, Words(), self.generate, lambda most: self.busy <= most, lambda: self.time, share, random.Random(1))

    def generate(self, request):
        self.asked.append(request)
        self.busy += 1
        try:
            for _ in range(self.pauses):
                yield Waiting()
            if isinstance(self.answer, Exception):
                raise self.answer
            yield Delta(0, self.answer)
            yield Finished(0, "stop", Usage())
        finally:
            self.busy -= 1
            self.closed += 1

    def note(self, remembered: str = "the key is in the desk") -> None:
        self.audit.note(ASKED, Given("ann", WHO, Hit("semantic", remembered, "remembered", 0.98, 1.0, entry=7)))


@pytest.mark.parametrize(
    "again, verdict",
    [
        ("The key is  in the desk.", "right"), ("in the desk the key is", "right"), ("nobody may smoke here at night", "wrong"),
        ("the key is not in the desk", None), ("the key is in the desk 5", None), ("the key is in a box", None),
    ],
)  # fmt: skip
def test_two_answers_are_alike_apart_or_neither(again, verdict):
    desk = Desk(again)
    desk.note()
    desk.audit.tick()
    assert [said.verdict for said in desk.verdicts] == ([verdict] if verdict else [])
    if verdict:
        said = desk.verdicts[0]
        assert (said.namespace, said.entry, said.asked, said.remembered, said.score) == ("of:a", 7, "asked", "remembered", 0.98)
    [asked] = desk.asked
    assert (asked.priority, asked.cache.look, asked.cache.store) == ("batch", False, False) and desk.closed == 1


def test_nothing_is_computed_while_somebody_wants_an_answer():
    desk = Desk()
    desk.note()
    desk.busy = 1
    desk.audit.tick()
    assert desk.asked == []
    desk.busy = 0
    desk.audit.tick()
    assert len(desk.verdicts) == 1
    desk.audit.tick()
    assert len(desk.asked) == 1, "each hit is looked at once"


def test_an_answer_that_streams_without_a_pause_gives_way_too():
    desk = Desk()
    desk.note()
    generate = desk.generate

    def interrupted(request):
        events = generate(request)
        yield next(events)
        desk.busy += 1  # somebody asks between two tokens
        yield from events

    desk.audit._generate = interrupted
    desk.audit.tick()
    assert desk.verdicts == [] and len(desk.audit._waiting) == 1


def test_whoever_comes_meanwhile_goes_first_and_the_sample_is_kept():
    desk = Desk()
    desk.pauses = 1
    desk.note()
    generate = desk.generate

    def interrupted(request):
        desk.busy += 1
        return generate(request)

    desk.audit._generate = interrupted
    desk.audit.tick()
    assert desk.verdicts == [] and desk.closed == 1
    desk.busy, desk.audit._generate = 0, generate
    desk.audit.tick()
    assert len(desk.verdicts) == 1


def test_an_engine_that_fails_and_an_embedder_that_is_not_ready_make_no_verdict():
    desk = Desk(EngineLost("gone"))
    desk.note()
    desk.audit.tick()
    desk.answer = "something else"
    desk.audit._meaning.ready = False
    desk.note()
    desk.audit.tick()
    assert desk.verdicts == [] and len(desk.asked) == 2


def test_the_first_of_a_day_are_all_looked_at_and_then_a_share():
    desk = Desk(share=0.1)
    for _ in range(1020):
        desk.note()
    sampled = len(desk.audit._waiting)
    assert ALWAYS + 60 < sampled < ALWAYS + 140
    desk.time += 86400.0
    desk.note()
    assert len(desk.audit._waiting) == sampled + 1
    none = Desk(share=0.0)
    none.note()
    assert not none.audit._waiting


def test_the_end_of_the_service_ends_it():
    desk = Desk()
    desk.note()
    desk.audit.stop()
    desk.audit.tick()
    assert desk.verdicts == [] and desk.closed == 1
