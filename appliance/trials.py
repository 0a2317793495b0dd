"""Which engine serves a model that is there in two forms: measured once on this machine, then remembered.

A GGUF file and the ONNX folder made of it (`appliance models convert X.gguf X-onnx --to onnx`) are the same model; which is
faster depends on the CPU and on how many sequences run at once, so both are measured (`engine.trial`) where `--engine auto`
has the choice. The rates are kept in a JSON file that may be deleted at any time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.errors import ApplianceError, Draining
from appliance.storage import write_atomically

FILE = "engines.json"
Rates = Mapping[str, float]
"""Output tokens a second by the number of sequences, as `engine.trial` measures them."""
Measure = Callable[[], Rates]


class Trials:
    """Rates by model and machine. For one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rates(self, key: str, engines: Mapping[str, Measure]) -> dict[str, Rates]:
        """The rates of each engine, measured where they are not remembered. An engine that cannot serve the model has none.

        key: the model's hashes, the machine and the settings that matter. Raises Draining.
        """
        known = self._load()
        found = {engine: rates for engine, rates in known.get(key, {}).items() if engine in engines}
        if found.keys() == engines.keys():
            return found
        for engine, measure in engines.items():
            try:
                found[engine] = dict(measure())
            except Draining:
                raise
            except ApplianceError:
                found[engine] = {}
        data = json.dumps({"version": 1, "rates": known | {key: found}}, indent=1).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, data, durable=False)
        except OSError:
            pass  # a data folder that cannot be written costs time at the next start, nothing else
        return found

    def _load(self) -> dict[str, dict[str, Rates]]:
        try:
            found = json.loads(self._path.read_bytes())["rates"]
            return {key: {engine: {str(n): float(rate) for n, rate in rates.items()} for engine, rates in row.items()} for key, row in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}


def fastest(rates: Mapping[str, Rates]) -> str:
    """The engine with the best mean of its rates, each relative to the best at that load (geometric, so that no load counts
    more than another); the first of them where none could be measured."""
    loads = sorted({load for found in rates.values() for load in found if load.isdigit()})

    def score(engine: str) -> float:
        found = rates[engine]
        if not loads or any(not found.get(load) for load in loads):
            return -math.inf
        return sum(math.log(found[load]) for load in loads)

    return max(rates, key=score)


def in_words(rates: Mapping[str, Rates], chosen: str) -> str:
    """One sentence for the log: "onnx: 104 tokens/s with 8 sequences, 33 with 1 (llama: 53, 36)"."""

    def told(found: Rates, word: str = "") -> str:
        loads = sorted((load for load in found if load.isdigit()), key=int, reverse=True)
        return ", ".join(f"{found[load]:.0f}{word if not at else ''} with {load}" for at, load in enumerate(loads)) or "not possible"

    others = "; ".join(f"{engine}: {told(found)}" for engine, found in rates.items() if engine != chosen)
    return f"{chosen}: {told(rates[chosen], ' tokens/s')} at once ({others})"
