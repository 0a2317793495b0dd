"""The pipeline over a scripted engine client: places, deadlines, and clients that dawdle."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from appliance import pipeline as pipeline_module
from appliance.admission import Admission
from appliance.errors import Cancelled, DeadlineExceeded, Draining, EngineLost, ModelLoading, QueueFull
from appliance.metrics import Metrics
from appliance.pipeline import LAG_LIMIT_S, Engine, Pipeline
from appliance.types import Delta, Finished, GenerationRequest, Sampling, TextPrompt, Usage, Waiting


class Client:
    """Answers at once, with as many deltas as asked for."""

    def __init__(self, deltas: int = 3, ends: bool = True) -> None:
        self.deltas, self.ends, self.cancelled = deltas, ends, []
        self.answers = [None]

    def submit(self, ask, index, deliver):
        for _ in range(self.deltas):
            deliver(Delta(index, "x", 1, ()))
        if self.ends:
            deliver(Finished(index, "stop", Usage(1, self.deltas, 0), None))

    def cancel(self, request_id):
        self.cancelled.append(request_id)

    def ask(self, what, args, timeout_s):
        return what

    def compute(self, what, args, gone):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer()
            gone()
        return {"tokens": [3] * len(args["inputs"])}


def never_ready(timeout_s):
    raise ModelLoading("still loading")


def make(client: Client, *, timeout_s: float = 0.0, wait_ready=lambda timeout_s: None, queue_size: int = 2):
    now = SimpleNamespace(s=0.0)
    engine = Engine(SimpleNamespace(wait_ready=wait_ready), client, Admission(1, queue_size))
    return Pipeline({"m": engine}, Metrics(), timeout_s=timeout_s, clock=lambda: now.s), engine, now


def request(choices: int = 1) -> GenerationRequest:
    return GenerationRequest(
        id="r", model="m", prompts=(TextPrompt("hi"),), sampling=Sampling(), max_tokens=None, stop=(), choices=choices,
        logprobs=None, echo=False, priority="interactive", principal="p",
    )  # fmt: skip


@pytest.mark.parametrize("choices", [1, 3])
def test_a_client_that_reads_slowly_gives_its_place_back_when_the_engine_is_done(choices):
    pipeline, engine, _ = make(Client())
    events = pipeline.generate(request(choices))
    next(events)
    assert engine.admission.running == 0
    assert len(list(events)) == 4 * choices - 1 and engine.admission.running == 0


def test_a_place_is_kept_while_the_engine_works():
    pipeline, engine, _ = make(Client(ends=False))
    events = pipeline.generate(request())
    next(events)
    assert engine.admission.running == 1
    events.close()
    assert engine.admission.running == 0 and engine.client.cancelled == ["r/0"]


def test_the_deadline_also_ends_an_answer_that_never_pauses():
    pipeline, engine, now = make(Client(deltas=100, ends=False), timeout_s=10)
    events = pipeline.generate(request())
    next(events)
    now.s = 11
    with pytest.raises(DeadlineExceeded, match="request_timeout_s"):
        next(events)
    assert engine.client.cancelled == ["r/0"] and engine.admission.running == 0


def test_a_client_far_behind_its_answer_is_left():
    pipeline, _, now = make(Client())
    events = pipeline.generate(request())
    next(events)
    now.s = LAG_LIMIT_S + 1
    with pytest.raises(DeadlineExceeded, match="behind"):
        next(events)


def test_only_as_many_as_the_line_holds_wait_for_a_model_that_is_loading():
    pipeline, engine, _ = make(Client(), wait_ready=never_ready)
    waiting = [pipeline.generate(request()) for _ in range(5)]  # three are let in, two may wait
    assert all(isinstance(next(events), Waiting) for events in waiting)
    with pytest.raises(QueueFull):
        next(pipeline.generate(request()))
    for events in waiting:
        events.close()
    assert engine.admission.running == engine.admission.waiting == 0


def test_too_many_questions_at_once_are_refused(monkeypatch):
    monkeypatch.setattr(pipeline_module, "MAX_ASKS", 1)
    monkeypatch.setattr(pipeline_module, "TICK_S", 0.0)
    refused = []

    def ask_meanwhile(timeout_s):
        with pytest.raises(QueueFull) as caught:
            pipeline.ask("m", "tokenize", {})
        refused.append(caught.value)

    pipeline, _, _ = make(Client(), wait_ready=ask_meanwhile)
    assert pipeline.ask("m", "tokenize", {}) == "tokenize" and len(refused) == 1
    assert pipeline.ask("m", "tokenize", {}) == "tokenize" and len(refused) == 2


# -- work for encoders ---------------------------------------------------------------------------------------------


TEXTS = {"inputs": ["a", "b"]}


def test_work_for_an_encoder_takes_a_place_and_is_counted():
    pipeline, engine, _ = make(Client())
    seen = []
    engine.client.answers = [lambda: seen.append(engine.admission.running)]
    assert pipeline.compute("m", "embed", TEXTS) == {"tokens": [3, 3]}
    assert seen == [1] and engine.admission.running == 0
    text = pipeline._metrics.render()
    assert 'appliance_encoded_texts_total{model="m",task="embed"} 2' in text
    assert 'appliance_encoded_tokens_total{model="m",task="embed"} 6' in text


def test_a_client_that_leaves_while_it_waits_gives_its_place_back():
    pipeline, engine, _ = make(Client())
    held = [engine.admission.enter("other") for _ in range(3)]
    with pytest.raises(Cancelled):
        pipeline.compute("m", "embed", TEXTS, gone=lambda: True)
    assert engine.admission.waiting == 0
    for place in held:
        engine.admission.leave(place)


def test_the_deadline_counts_while_the_encoder_works():
    pipeline, engine, now = make(Client(), timeout_s=10)
    engine.client.answers = [lambda: setattr(now, "s", 11.0)]
    with pytest.raises(DeadlineExceeded, match="request_timeout_s"):
        pipeline.compute("m", "embed", TEXTS)
    assert engine.admission.running == 0


def test_work_that_fails_gives_its_place_back_and_is_counted():
    pipeline, engine, _ = make(Client())
    engine.client.answers = [EngineLost("gone")]
    with pytest.raises(EngineLost):
        pipeline.compute("m", "embed", TEXTS)
    assert engine.admission.running == 0
    assert 'appliance_sequences_failed_total{code="engine_lost",model="m"} 1' in pipeline._metrics.render()


def test_a_line_that_is_full_or_a_service_that_stops_takes_nothing():
    pipeline, engine, _ = make(Client())
    held = [engine.admission.enter("other") for _ in range(5)]
    with pytest.raises(QueueFull):
        pipeline.compute("m", "embed", TEXTS)
    for place in held:
        engine.admission.leave(place)
    pipeline.draining = True
    with pytest.raises(Draining):
        pipeline.compute("m", "embed", TEXTS)
