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
from typing import Any

from appliance.errors import ApplianceError, Draining
from appliance.logs import log
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
        remembered = known.get(key, {})
        if remembered.keys() == engines.keys():
            return remembered
        found: dict[str, Rates] = {}
        for engine, measure in engines.items():
            try:
                found[engine] = dict(measure())
            except Draining:
                raise
            except ApplianceError as error:
                log("warning", f"An engine cannot serve this model ({engine}): {error}")
                found[engine] = {}
        if all(found.values()):  # what failed may be mended, so it is tried again at the next start
            self._save(known | {key: found})
        return found

    def _save(self, rates: dict[str, dict[str, Rates]]) -> None:
        data = json.dumps({"version": 1, "rates": rates}, indent=1).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, data, durable=False)
        except OSError:
            pass  # a data folder that cannot be written costs time at the next start, nothing else

    def _load(self) -> dict[str, dict[str, Rates]]:
        """What is in the file; whatever does not look right is left out."""
        try:
            rows = json.loads(self._path.read_bytes())["rates"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}
        return {key: row for key, row in rows if _looks_right(row)}


def _looks_right(row: Any) -> bool:
    return isinstance(row, dict) and all(
        isinstance(rates, dict) and rates and all(type(rate) in (int, float) and 0 < rate < math.inf for rate in rates.values())
        for rates in row.values()
    )


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
