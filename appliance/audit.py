"""Looks again at answers that were given to similar questions: in idle time the question is answered anew and both answers compared.

What comes of it is a verdict, as a person could give it, and moves how sure the cache must be. Two answers in other words that
are neither clearly alike nor clearly apart make no verdict.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from appliance.cache import gates
from appliance.cache.flight import Generation
from appliance.cache.lookup import Hit, Meaning
from appliance.cache.reviewed import RIGHT, WRONG, Verdict
from appliance.cache.service import Cache
from appliance.errors import ApplianceError
from appliance.recall import Given, suspect
from appliance.types import CacheWish, Delta, Finished, GenerationRequest

JUDGE = "answered again"
ALWAYS = 20
"""So many hits a day are looked at whatever the share: with tens of hits a day a share alone would say nothing for weeks."""
DAY_S = 86400.0
ALIKE, APART = 0.85, 0.5
"""Cosines of two answers: from the first on they say the same if no gate objects, below the second they do not."""
TELLING = {"numbers", "units", "dates", "negation", "antonyms", "identifiers", "directions", "names"}
"""Gates that also hold for answers."""
MOST_WAITING = 200


@dataclass(frozen=True, slots=True)
class Sample:
    """A hit to look at again."""

    request: GenerationRequest
    given: Given


class Audit:
    """`note` is for any thread, `tick` for one of its own: an answer may take minutes."""

    def __init__(
        self,
        cache: Cache,
        meaning: Meaning,
        generate: Callable[[GenerationRequest], Generation],
        idle: Callable[[int], bool],
        now: Callable[[], float],
        share: float,
        rng: random.Random | None = None,
    ) -> None:
        """generate: see Pipeline.generate. idle: whether no more than that
        many answers are being generated or waited for. share: of hits that are looked at beyond the first of a day."""
        self.share = share
        self._cache, self._meaning, self._generate, self._idle, self._now = cache, meaning, generate, idle, now
        self._rng = rng or random.Random()
        self._waiting: deque[Sample] = deque(maxlen=MOST_WAITING)
        self._day, self._today = 0.0, 0
        self._over = threading.Event()

    def note(self, request: GenerationRequest, given: Given) -> None:
        """A similar question was answered from memory."""
        if self._now() - self._day >= DAY_S:
            self._day, self._today = self._now(), 0
        self._today += 1
        if self.share > 0 and (self._today <= ALWAYS or self._rng.random() < self.share):
            self._waiting.append(Sample(request, given))

    def stop(self) -> None:
        """End what `tick` does, soon."""
        self._over.set()

    def tick(self) -> None:
        """Look at one of the samples, if nobody is in the way. Never raises."""
        if not self._waiting or not self._idle(0):
            return
        sample = self._waiting.popleft()
        try:
            answer = self._again(sample.request)
            if answer is None:
                self._waiting.append(sample)  # somebody came; later then
                return
            verdict = self.compare(sample.given.hit, answer)
            if verdict:
                who, hit = sample.given.who, sample.given.hit
                self._cache.judge(Verdict(who.namespace, suspect(hit), who.question, hit.remembered, hit.score, verdict, JUDGE))
        except ApplianceError:
            return  # an engine that is gone, a question it refuses: this one is not looked at

    def _again(self, request: GenerationRequest) -> str | None:
        """A new answer; None when somebody else wanted the engine before it was complete."""
        again = replace(request, id=f"{request.id}-again", priority="batch", principal="audit", cache=CacheWish(look=False, store=False))
        found = again_in_peace(self._generate(again), lambda: self._over.is_set() or not self._idle(1))
        return None if found is None else found[0]

    def compare(self, hit: Hit, answer: str) -> str:
        """right, wrong, or '' where nobody could say."""
        if _plain(answer) == _plain(hit.answer):
            return RIGHT
        vectors = self._meaning.embed([hit.answer or " ", answer or " "])
        if vectors is None:
            return ""
        cosine = float(np.dot(vectors[0], vectors[1]))
        if cosine < APART:
            return WRONG
        objections = [verdict for verdict in gates.judge(hit.answer, answer) if not verdict.passed and verdict.gate in TELLING]
        return RIGHT if cosine >= ALIKE and not objections else ""


def again_in_peace(events: Generation, wanted: Callable[[], bool]) -> tuple[str, Finished] | None:
    """(the answer, how it ended); None when the engine was wanted for something else before it was complete. Raises what the
    generation raises."""
    parts: list[str] = []
    with closing(events):  # type: ignore[type-var]
        for event in events:
            if wanted():
                return None
            if isinstance(event, Delta):
                parts.append(event.text)
            if isinstance(event, Finished):
                return "".join(parts), event
    return None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .!")
