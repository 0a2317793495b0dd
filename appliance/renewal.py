"""Answers of models that are no longer served: in idle time the questions are put to the model that is, and its answers are remembered.

Those come first whose answers saved the most. The old answers stay aside: where their model comes back, they do too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from appliance.audit import again_in_peace
from appliance.cache.answers import Remembered
from appliance.cache.flight import Generation
from appliance.cache.service import Cache
from appliance.errors import ApplianceError, StorageFailed
from appliance.recall import Recall, asked_again
from appliance.types import CacheWish, GenerationRequest


class Renewal:
    """`tick` is for one thread: an answer may take minutes."""

    def __init__(
        self, cache: Cache, recall: Recall, generate: Callable[[GenerationRequest], Generation], idle: Callable[[int], bool], served: Callable[[str], str]
    ) -> None:
        """generate: see Pipeline.generate. idle: whether no more than that many answers are being generated or waited for. served: by the name of
        a model that is or was served, that of the model to ask now, '' for none."""
        self._cache, self._recall, self._generate, self._idle, self._served = cache, recall, generate, idle, served
        self._over = threading.Event()

    def stop(self) -> None:
        """End what `tick` does, soon."""
        self._over.set()

    def tick(self) -> None:
        """Ask one of the questions again, if nobody is in the way. Never raises."""
        try:
            old = self._cache.outdated() if self._idle(0) else None
            if old is not None:
                self._renew(old)
        except StorageFailed:
            return  # the cache has told it

    def _renew(self, old: Remembered) -> None:
        model, kept = self._served(old.model_name), self._cache.request_of(old)
        if not kept:
            return  # forgotten meanwhile
        request = asked_again(old, kept, model, CacheWish(look=False, store=False))
        who = self._recall.identity(request, old.namespace) if model else None
        if who is None:
            self._cache.was_renewed(old)
            return
        try:
            found = again_in_peace(self._generate(request), lambda: self._over.is_set() or not self._idle(1))
        except ApplianceError as error:
            if error.status < 500:  # not a question for this model: it may be too long
                self._cache.was_renewed(old)
            return
        if found is None:
            return  # somebody came; later then
        self._recall.remember(request, who, *found)
        self._cache.was_renewed(old)
