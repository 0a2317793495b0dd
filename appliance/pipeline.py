"""The use case: a request goes in, events come out. Route, wait for a place, generate, and clean up whatever happens."""

from __future__ import annotations

import itertools
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from appliance import routing
from appliance.admission import Admission, Place
from appliance.clock import Clock, monotonic
from appliance.engine.client import EngineClient
from appliance.engine.messages import Generate
from appliance.engine.supervisor import Supervisor
from appliance.errors import ApplianceError, Cancelled, DeadlineExceeded, Draining, ModelLoading, QueueFull
from appliance.metrics import Metrics
from appliance.recall import Recall
from appliance.types import (
    ChatPrompt,
    Delta,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    Priority,
    Prompt,
    Recalled,
    TextPrompt,
    Waiting,
)

TICK_S = 0.25
"""How often a waiting request looks around: bounds how late a client that left is noticed."""
LOAD_WAIT_S = 10.0
"""A request waits this long for a model that is loading before it is told to come back."""
ASK_TIMEOUT_S = 30.0
MAX_ASKS = 8
"""Questions (tokenize, ...) under way at once: they have no place in a line, so this is what keeps threads for others."""
LAG_LIMIT_S = 60.0
"""A client that takes its answer this much later than it was made is too slow, and is left."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One served model, as the pipeline uses it.

    papers: what it is for, as its papers say; the loaded model itself knows better. aside: served beside what was asked for, and
    started by the first request that needs it, with `wake`, which may be called any number of times. hidden: works for the
    service itself, and requests cannot name it. digest: of what makes its answers, '' while that is not known.
    """

    supervisor: Supervisor
    client: EngineClient
    admission: Admission
    papers: str = "generate"
    aside: bool = False
    wake: Callable[[], None] = lambda: None
    hidden: bool = False
    digest: Callable[[], str] = lambda: ""

    @property
    def task(self) -> str:
        """generate, embed, rerank, classify or tokens."""
        info = self.supervisor.status.info
        return info.task if info else self.papers


class Pipeline:
    """Answers requests. Thread-safe; each request runs on its caller's thread."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        metrics: Metrics,
        *,
        timeout_s: float,
        recall: Recall | None = None,
        clock: Clock = monotonic,
    ) -> None:
        """engines: may be replaced at any time. timeout_s: longest time for a request, 0 for no limit. recall: of answers given
        before; None remembers nothing."""
        self.engines = engines
        self._metrics = metrics
        self.timeout_s = timeout_s
        self.recall = recall
        self._clock = clock
        self.draining = False
        self._asks = threading.BoundedSemaphore(MAX_ASKS)

    @property
    def names(self) -> list[str]:
        """Served models, the default first."""
        return [name for name, engine in self.engines.items() if not engine.hidden]

    def resolve(self, model: str, tasks: Sequence[str] = (), allowed: Collection[str] = ()) -> str:
        """The served name for a request's `model` field, of a model for one of `tasks` (any, when there are none) and among those that
        are allowed (all, when there are none).

        Raises ModelNotFound, ModelNotAllowed, or InvalidRequest for a model that is for something else.
        """
        served = {name: engine for name, engine in self.engines.items() if not engine.hidden}
        if allowed:
            served = routing.choose_allowed(model, served, allowed)
        if tasks:
            return routing.choose_for(model, {name: engine.task for name, engine in served.items()}, tasks)
        return routing.choose(model, list(served))

    def engine(self, model: str) -> Engine:
        """Raises ModelNotFound, also for one that was unloaded just now."""
        engines = self.engines
        return engines[routing.choose(model, [name for name, engine in engines.items() if not engine.hidden])]

    def loaded_task(self, model: str) -> str:
        """What a model is for, in its own words: waits for one that is not loaded yet. Raises what `ask` raises."""
        engine = self.engine(model)
        if engine.supervisor.status.info is None:
            with self._question():
                self._wake(engine)
                engine.supervisor.wait_ready(LOAD_WAIT_S)
        return engine.task

    def ask(self, model: str, what: str, args: dict[str, Any]) -> Any:
        """tokenize, detokenize or template on the model's engine. Raises what went wrong."""
        engine = self.engine(model)
        with self._question():
            self._wake(engine)
            engine.supervisor.wait_ready(LOAD_WAIT_S)
            return engine.client.ask(what, args, ASK_TIMEOUT_S)

    @contextmanager
    def _question(self) -> Iterator[None]:
        if not self._asks.acquire(timeout=TICK_S):
            raise QueueFull(f"{MAX_ASKS} questions such as this are waiting for an engine already.", retry_after_s=2)
        try:
            yield
        finally:
            self._asks.release()

    def _wake(self, engine: Engine) -> None:
        self._refuse_when_draining()
        engine.wake()

    def _refuse_when_draining(self) -> None:
        if self.draining:
            raise Draining("The service is stopping and takes no new requests.", retry_after_s=10)

    def compute(
        self,
        model: str,
        what: str,
        args: dict[str, Any],
        principal: str = "anonymous",
        priority: Priority = "interactive",
        gone: Callable[[], bool] = lambda: False,
    ) -> Any:
        """Work for an encoder, which waits its turn as an answer does: embed, rerank, classify or tokens, with the arguments and
        results of `engine.encoder`. A request that an engine was lost with is given to the next one once.

        gone: whether the client has left; asked every TICK_S. Raises Cancelled then, and otherwise what went wrong.
        """
        name = self.resolve(model)
        engine = self.engine(name)
        self._wake(engine)
        began = self._clock()
        deadline = began + self.timeout_s if self.timeout_s else float("inf")

        def left() -> bool:
            self._check(deadline)
            if gone():
                raise Cancelled("The client left.")
            return False

        place = engine.admission.enter(principal, priority)
        try:
            for _ in self._wait_ready(engine.supervisor, deadline):
                left()
            while not place.granted.wait(TICK_S):
                left()
            self._metrics.queue_wait(name, self._clock() - began)
            result = engine.client.compute(what, args, left)
        except ApplianceError as error:
            self._metrics.failed(name, error.code)
            raise
        finally:
            engine.admission.leave(place)
        tokens = result["tokens"]
        texts = args["documents"] if what == "rerank" else args["inputs"]
        count = sum(tokens) if isinstance(tokens, list) else tokens
        self._metrics.encoded(name, what, len(texts), count, self._clock() - began)
        return result

    def answer(self, request: GenerationRequest) -> Iterator[Event | Waiting]:
        """Recalled, then events of all sequences until each has Finished; `Waiting` at least every TICK_S without one.

        Closing the iterator cancels what nobody else waits for. Raises what `generate` raises, and NotRemembered.
        """
        self._refuse_when_draining()
        if self.recall:
            yield from self.recall.answer(request, self.generate)
        else:
            yield Recalled("bypass", why="nothing is remembered (no_cache)")
            yield from self.generate(request)

    def generate(self, request: GenerationRequest) -> Iterator[Event | Waiting]:
        """The events of an answer that an engine makes.

        Raises the error of the first sequence that fails, or why the request could not start. Closing the iterator
        cancels what still runs. The first `next` may already raise.
        """
        engine = self.engine(request.model)
        self._wake(engine)
        deadline = self._clock() + self.timeout_s if self.timeout_s else float("inf")
        began = self._clock()
        # In line before the model is ready: else any number of requests could wait for it, each with a thread.
        place = engine.admission.enter(request.principal, request.priority, request.sequences)
        try:
            yield from self._wait_ready(engine.supervisor, deadline)
            while not place.granted.wait(TICK_S):
                self._check(deadline)
                yield Waiting(*engine.admission.outlook(place))
            self._metrics.queue_wait(request.model, self._clock() - began)
            yield from self._generate(engine, request, place, deadline, began)
        finally:
            engine.admission.leave(place)

    def _wait_ready(self, supervisor: Supervisor, deadline: float) -> Iterator[Waiting]:
        until = min(deadline, self._clock() + LOAD_WAIT_S)
        while True:
            try:
                return supervisor.wait_ready(min(TICK_S, max(0.0, until - self._clock())))
            except ModelLoading:
                if self._clock() >= until:
                    raise
            yield Waiting()

    def _check(self, deadline: float) -> None:
        if self._clock() > deadline:
            raise DeadlineExceeded(
                f"The request was not complete after {self.timeout_s:g} s (request_timeout_s).", retry_after_s=30
            )

    def _generate(
        self, engine: Engine, request: GenerationRequest, place: Place, deadline: float, began: float
    ) -> Iterator[Event | Waiting]:
        events: queue.SimpleQueue[tuple[float, Event]] = queue.SimpleQueue()
        ends = itertools.count(1)

        def deliver(event: Event) -> None:
            events.put((self._clock(), event))
            if isinstance(event, (Finished, Failed)) and next(ends) == request.sequences:
                engine.admission.leave(place)  # the engine is free, however slowly the client reads

        open_ids: dict[int, str] = {}
        watch = _Stopwatch(self._metrics, request.model, self._clock, began)
        try:
            for index, ask in enumerate(_sequences(request)):
                open_ids[index] = ask.id
                engine.client.submit(ask, index, deliver)
            while open_ids:
                try:
                    made, event = events.get(timeout=TICK_S)
                except queue.Empty:
                    self._check(deadline)
                    yield Waiting()
                    continue
                watch.saw(event)
                self._check(deadline)
                if self._clock() - made > LAG_LIMIT_S:
                    raise DeadlineExceeded(f"The client is more than {LAG_LIMIT_S:g} s behind in reading its answer.")
                if isinstance(event, (Finished, Failed)):
                    del open_ids[event.index]
                if isinstance(event, Failed):
                    raise event.error
                yield event
        except ApplianceError as error:
            self._metrics.failed(request.model, error.code)
            raise
        finally:
            for request_id in open_ids.values():
                engine.client.cancel(request_id)


class _Stopwatch:
    """Turns a request's events into the latency metrics."""

    def __init__(self, metrics: Metrics, model: str, clock: Clock, began: float) -> None:
        self._metrics, self._model, self._clock, self._began = metrics, model, clock, began
        self._first: dict[int, float] = {}
        self._told: defaultdict[int, int] = defaultdict(int)

    def saw(self, event: Event) -> None:
        """Note one event."""
        now = self._clock()
        if isinstance(event, Delta):
            self._metrics.generated(self._model, event.tokens)
            self._told[event.index] += event.tokens
            if event.index not in self._first:
                self._first[event.index] = now
                self._metrics.first_token(self._model, now - self._began)
        elif isinstance(event, Finished):
            first = self._first.get(event.index, now)
            self._metrics.finished(self._model, event, now - self._began, now - first, self._told[event.index])


def _sequences(request: GenerationRequest) -> Iterator[Generate]:
    for index in range(request.sequences):
        prompt = request.prompts[index // request.choices]
        choice = index % request.choices
        sampling = request.sampling
        if sampling.seed is not None and choice:
            sampling = replace(sampling, seed=sampling.seed + choice)  # else all choices would be the same
        yield Generate(
            id=f"{request.id}/{index}",
            prompt=_wire_prompt(prompt),
            sampling=asdict(sampling),
            max_tokens=request.max_tokens,
            stop=list(request.stop),
            logprobs=request.logprobs,
            echo=request.echo,
        )


def _wire_prompt(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt, ChatPrompt):
        return {"messages": list(prompt.messages)}
    if isinstance(prompt, TextPrompt):
        return {"text": prompt.text}
    return {"tokens": list(prompt.tokens)}
