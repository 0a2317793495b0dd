"""What two questions mean, as the embedder and the pair verifier see it: for the cache, which never waits long for them.

Nothing is cut: what a model would not have read could be the difference.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from appliance.clock import Clock, monotonic
from appliance.errors import ApplianceError
from appliance.pipeline import Engine

PATIENCE_S = 1.0
"""An answer that comes later is not waited for: generating may well be faster."""
CALIBRATION = "calibration.json"
"""In the verifier's folder: wrong hits by threshold, as measured on pairs it never saw."""


class Encoders:
    """The two models as the cache asks them. Thread-safe. The first question starts their engines, which is not waited for."""

    def __init__(self, embedder: Engine | None, verifier: Engine | None, calibration: Path | None, clock: Clock = monotonic) -> None:
        self._embedder, self._verifier, self._clock = embedder, verifier, clock
        self.prior: Mapping[float, float] = _read(calibration) if calibration and verifier else {}

    def embed(self, texts: list[str]) -> np.ndarray | None:
        """Unit vectors, float32 [texts, width]; None when the embedder cannot say now."""
        if not self.prior:
            return None  # without a verifier nothing is ever sure enough, so there is nothing to search for
        found = self._compute(self._embedder, "embed", {"inputs": texts, "kind": None, "dimensions": None, "normalize": True, "truncate": False})
        if found is None:
            return None
        return np.frombuffer(base64.b64decode(found["vectors"]), "<f4").reshape(len(texts), found["dim"])

    def same(self, asked: str, others: list[str]) -> list[float] | None:
        """Probabilities that each means the same; None when the verifier cannot say now."""
        found = self._compute(self._verifier, "rerank", {"query": asked, "documents": others, "truncate": False})
        return None if found is None else [float(score) for score in found["scores"]]

    def _compute(self, engine: Engine | None, what: str, args: dict[str, Any]) -> Any:
        if engine is None:
            return None
        engine.wake()
        if engine.supervisor.status.state != "ready":
            return None
        until = self._clock() + PATIENCE_S

        def late() -> bool:
            return self._clock() > until

        try:
            place = engine.admission.enter("cache", "interactive")
        except ApplianceError:
            return None
        try:
            return engine.client.compute(what, args, late) if place.granted.wait(PATIENCE_S) else None
        except ApplianceError:
            return None  # a text that is too long for it is one of the reasons
        finally:
            engine.admission.leave(place)


def _read(path: Path) -> dict[float, float]:
    """Nothing where the file cannot be used: then no answer is given to a similar question."""
    try:
        return {float(threshold): float(rate) for threshold, rate in json.loads(path.read_text("utf-8"))["wrong_hits"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
