"""Answers from memory where there are any, from an engine otherwise; what an engine says is remembered."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from appliance.cache.answers import NewAnswer, Remembered
from appliance.cache.flight import Flights, Generation
from appliance.cache.identity import Identity, identify
from appliance.cache.lookup import Hit, Look
from appliance.cache.policy import Permission, namespace_of, permit
from appliance.cache.reviewed import Verdict
from appliance.cache.service import Cache
from appliance.clock import Clock, monotonic, utc_date
from appliance.errors import NotRemembered
from appliance.metrics import Metrics
from appliance.types import (
    CacheWish,
    ChatPrompt,
    Delta,
    Event,
    Finished,
    GenerationRequest,
    Recalled,
    Sampling,
    TextPrompt,
    Usage,
    Waiting,
)

MOST_GIVEN = 10_000
"""Hits that can still be judged."""


@dataclass(frozen=True, slots=True)
class Given:
    """A remembered answer that somebody was given."""

    principal: str
    who: Identity
    hit: Hit


class Recall:
    """Stands between the API and the engines. Thread-safe."""

    def __init__(
        self,
        cache: Cache,
        digest_of: Callable[[str], str],
        metrics: Metrics,
        *,
        shares: Mapping[str, str],
        excluded: Collection[str] = (),
        epoch: str = "",
        noticed: Callable[[GenerationRequest, Given], None] = lambda request, given: None,
        clock: Clock = monotonic,
    ) -> None:
        """digest_of: of a served model's weights and template, '' while it is not known. shares: see policy.read_shares. noticed: is told
        of each answer that is given to a similar question."""
        self.cache = cache
        self._digest_of, self._metrics, self._clock = digest_of, metrics, clock
        self.noticed = noticed
        self._shares, self._excluded, self._epoch = shares, excluded, epoch
        self._flights = Flights()
        self._given: OrderedDict[str, Given] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, request: GenerationRequest, generate: Callable[[GenerationRequest], Generation]) -> Generation:
        """As Pipeline.answer. Raises NotRemembered where only a remembered answer is wanted and there is none."""
        who = self.identity(request)
        may = permit(request, who.question, self._excluded) if who else Permission(False, False, False, self._why_none(request))
        if who is None or not (may.look or may.store):
            yield self._told(request, Recalled("bypass", why=may.why))
            yield from generate(request)
            return
        look = self.cache.lookup(request, who, may)
        if look.hit:
            if may.store:
                self._note(request, who, look.hit)
            yield self._told(request, _recalled(look.hit))
            yield from _replayed(look.hit)
            return
        if request.cache.only:
            raise NotRemembered("No answer to this request is remembered, and the request asks for no other (only-if-cached).")

        def begin() -> Generation:
            return self._watched(request, who, may, look, generate(request))

        if not may.look:  # it asks for an answer of its own
            yield self._told(request, Recalled("bypass", why=look.why))
            yield from begin()
            return
        joined, seat = self._flights.join(_flight_key(request, who, may), begin)
        try:
            yield self._told(request, Recalled("hit", "flight", 1.0, 0.0) if joined else Recalled("miss", why=look.why))
            yield from seat
        finally:
            seat.close()

    def identity(self, request: GenerationRequest, namespace: str | None = None) -> Identity | None:
        """What the request must share with another, None where it cannot share anything. namespace: another than the caller's."""
        digest = self._digest_of(request.model)
        if namespace is None:
            namespace = namespace_of(request, self._shares)
        return identify(request, namespace=namespace, model=digest, epoch=self._epoch) if digest else None

    def _why_none(self, request: GenerationRequest) -> str:
        return "a request of this kind is not remembered" if self._digest_of(request.model) else "the model has not been looked at yet"

    def _note(self, request: GenerationRequest, who: Identity, hit: Hit) -> None:
        """So that somebody can say whether it was the same question."""
        if not hit.similar:
            return
        given = Given(request.principal, who, hit)
        self.noticed(request, given)
        with self._lock:
            self._given[request.id] = given
            if len(self._given) > MOST_GIVEN:
                self._given.popitem(last=False)

    def judge(self, answer_id: str, principal: str, verdict: str) -> bool:
        """Take what a principal says of an answer it was given; whether there was one. Raises StorageFailed."""
        with self._lock:
            given = self._given.get(answer_id)
            if given is None or given.principal != principal:
                return False
            del self._given[answer_id]
        hit = given.hit
        self.cache.judge(Verdict(given.who.namespace, suspect(hit), given.who.question, hit.remembered, hit.score, verdict, principal))
        return True

    def explain(self, request: GenerationRequest) -> dict[str, Any]:
        """What a lookup of this request finds and why; nothing is counted or generated."""
        who = self.identity(request)
        if who is None:
            return {"outcome": "bypass", "why": self._why_none(request), "candidates": []}
        standing = self.cache.standing(who.namespace)
        look = self.cache.lookup(request, who, permit(request, who.question, self._excluded), count=False)
        return {
            "outcome": "hit" if look.hit else "miss",
            "tier": look.hit.tier if look.hit else "",
            "why": look.why,
            "namespace": who.namespace,
            "threshold": standing.threshold,
            "candidates": [asdict(candidate) for candidate in look.candidates],
        }

    def _watched(self, request: GenerationRequest, who: Identity, may: Permission, look: Look, events: Generation) -> Generation:
        """The events; a whole answer is remembered. One that was cut off is none."""
        began, parts = self._clock(), []
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if isinstance(event, Delta):
                    parts.append(event.text)
                if isinstance(event, Finished) and may.store:
                    self.remember(request, who, "".join(parts), event, self._clock() - began, look.vector)
                yield event

    def remember(
        self, request: GenerationRequest, who: Identity, answer: str, end: Finished, cost_s: float = 0.0, vector: np.ndarray | None = None
    ) -> None:
        """Keep an answer, unless it was cut off. cost_s: what it took. vector: of the question, where it is known."""
        if end.reason != "stop":
            return
        new = NewAnswer(
            identity=who,
            model_name=request.model,
            request=_as_json(request),
            answer=answer,
            prompt_tokens=end.usage.prompt_tokens,
            completion_tokens=end.usage.completion_tokens,
            cost_s=cost_s,
            ttl_s=request.cache.ttl_s,
            tags=request.cache.tags,
        )
        self.cache.keep(new, vector, permit(request, who.question).similar)

    def _told(self, request: GenerationRequest, recalled: Recalled) -> Recalled:
        self._metrics.count("appliance_cache_lookups_total", model=request.model, outcome=recalled.outcome, tier=recalled.tier)
        return recalled


def asked_again(old: Remembered, kept: Mapping[str, Any], model: str, wish: CacheWish) -> GenerationRequest:
    """The request that an answer was given to, as work for idle time. kept: what `_as_json` wrote."""
    prompt = kept["prompt"]
    sampling = kept["sampling"] | {"logit_bias": tuple(map(tuple, kept["sampling"]["logit_bias"]))}
    return GenerationRequest(
        id=f"answer-{old.id}-again",
        model=model,
        prompts=(ChatPrompt(tuple(prompt["messages"])) if "messages" in prompt else TextPrompt(prompt["text"]),),
        sampling=Sampling(**sampling),
        stop=tuple(kept["stop"]),
        priority="batch",
        principal="renewal",
        cache=replace(wish, tags=tuple(json.loads(old.tags))),
    )


def suspect(hit: Hit) -> int | None:
    """The answer that a wrong verdict is about; a reviewed one stays, whatever question it was given to by mistake."""
    return hit.entry if hit.tier == "semantic" else None


def _recalled(hit: Hit) -> Recalled:
    on = utc_date(hit.reviewed) if hit.reviewed is not None else ""
    return Recalled("hit", hit.tier, hit.score, hit.age_s, entry=hit.entry, reviewed_by=hit.reviewed_by, reviewed_on=on)  # type: ignore[arg-type]


def _replayed(hit: Hit) -> Iterator[Event | Waiting]:
    yield Delta(0, hit.answer, tokens=hit.completion_tokens)
    usage = Usage(hit.prompt_tokens, hit.completion_tokens, cached_tokens=hit.prompt_tokens)
    yield Finished(0, "stop", usage)


def _flight_key(request: GenerationRequest, who: Identity, may: Permission) -> bytes:
    wish = replace(request.cache, fresh_s=None, only=False)
    return who.exact + repr((request.max_tokens, may.store, wish)).encode()


def _as_json(request: GenerationRequest) -> str:
    """What it takes to ask again."""
    return json.dumps({"prompt": asdict(request.prompts[0]), "sampling": asdict(request.sampling), "stop": request.stop}, separators=(",", ":"))
