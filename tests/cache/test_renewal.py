"""Questions that are put to the model that is served now: which, when, and what becomes of the old answers."""

from __future__ import annotations

import pytest
from fakes import Words

from appliance.cache.lookup import Options
from appliance.cache.service import Cache
from appliance.errors import EngineLost, InvalidRequest
from appliance.metrics import Metrics
from appliance.recall import Recall
from appliance.renewal import Renewal
from appliance.types import CacheWish, ChatPrompt, Delta, Finished, GenerationRequest, Sampling, Usage

OLD, NEW = "digest of the old", "digest of the new"


def asked(question: str, model: str = "m", **more) -> GenerationRequest:
    return GenerationRequest("r", model, (ChatPrompt(({"role": "system", "content": "be brief"}, {"role": "user", "content": question})),), **more)


class Box:
    """A cache whose model was exchanged: `say` is what the model of now answers."""

    def __init__(self, folder) -> None:
        self.cache = Cache(folder, Words(), Options(), Metrics(), lambda level, words: None)
        self.cache.open()
        self.digests = {"m": OLD}
        self.recall = Recall(self.cache, lambda name: self.digests.get(name, ""), Metrics(), shares={})
        self.say, self.busy, self.wanted = "new", 0, []
        self.renewal = Renewal(self.cache, self.recall, self.generate, lambda most: self.busy <= most, lambda name: "m" if self.digests else "")

    def generate(self, request):
        self.wanted.append(request)
        if isinstance(self.say, Exception):
            raise self.say
        yield Delta(0, self.say)
        yield Finished(0, "stop", Usage(5, 2))

    def ask(self, request) -> tuple[str, str]:
        """(outcome, text)"""
        first, *events = self.recall.answer(request, self.generate)
        self.settle()
        return first.outcome, "".join(event.text for event in events if isinstance(event, Delta))

    def settle(self) -> None:
        self.cache._answers.do(lambda db: None, 5)
        self.cache.tick()

    def exchange(self) -> None:
        self.digests = {"m": NEW}
        self.cache.models_are([NEW])
        self.wanted.clear()


@pytest.fixture
def box(tmp_path):
    made = Box(tmp_path)
    made.say = "old"
    yield made
    made.cache.close()


def test_what_was_asked_often_is_asked_anew_and_answered_from_memory(box):
    often = asked("how do I open the gate", principal="ann", sampling=Sampling(temperature=0.0, logit_bias=((7, 1.5),)), stop=("x",), cache=CacheWish(tags=("t",)))
    box.ask(often)
    assert box.ask(often) == ("hit", "old")
    box.ask(asked("asked once"))
    box.exchange()
    box.say = "new"
    for _ in range(5):
        box.renewal.tick()
        box.settle()
    [again] = box.wanted
    assert (again.prompts, again.sampling, again.stop) == (often.prompts, often.sampling, often.stop) and again.priority == "batch"
    assert box.ask(often) == ("hit", "new")
    assert box.ask(asked("how do I open the gate", principal="bob"))[0] == "miss", "it is still ann's alone"


def test_the_old_answers_come_back_with_their_model(box):
    box.ask(asked("how do I open the gate"))
    box.ask(asked("how do I open the gate"))
    box.exchange()
    box.renewal.tick()
    box.digests = {"m": OLD}
    box.cache.models_are([OLD])
    assert box.ask(asked("how do I open the gate")) == ("hit", "old")


def test_somebody_who_asks_goes_first_and_a_lost_engine_is_asked_later(box):
    for _ in range(2):
        box.ask(asked("how do I open the gate"))
    box.exchange()
    box.busy = 1
    box.renewal.tick()
    assert not box.wanted
    box.busy, box.say = 0, EngineLost("gone")
    box.renewal.tick()
    box.say = "new"
    box.renewal.tick()
    assert len(box.wanted) == 2 and box.cache.outdated() is None


@pytest.mark.parametrize("refusal", [InvalidRequest("too long"), None])
def test_what_cannot_be_asked_any_more_is_left_alone(box, refusal):
    for _ in range(2):
        box.ask(asked("how do I open the gate"))
    box.exchange()
    box.say = refusal
    if refusal is None:
        box.digests = {}
    for _ in range(3):
        box.renewal.tick()
    assert len(box.wanted) == (1 if refusal else 0) and box.cache.outdated() is None
