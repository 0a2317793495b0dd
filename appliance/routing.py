"""Which model answers a request: pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from appliance.access.limits import CHANGE
from appliance.errors import InvalidRequest, ModelNotAllowed, ModelNotFound

Served = TypeVar("Served")

DEFAULT_NAMES = ("", "default")
TASKS = {
    "generate": "text generation",
    "embed": "embeddings",
    "rerank": "reranking",
    "classify": "classification",
    "tokens": "token classification",
}
"""What models are for, and how that is said in a sentence."""


def choose(wanted: str, names: Sequence[str]) -> str:
    """The served model for a request's `model` field. No name means the first model. Raises ModelNotFound."""
    if wanted in names:
        return wanted
    if wanted in DEFAULT_NAMES and names:
        return names[0]
    close = difflib.get_close_matches(wanted, names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise ModelNotFound(
        f"There is no model {wanted[:100]!r} here.", param="model", remedy=f"{hint}Served: {', '.join(names)}."
    )


def choose_for(wanted: str, served: Mapping[str, str], tasks: Sequence[str]) -> str:
    """As `choose`, among models by their tasks (name -> task): no name means the first whose task is one of `tasks`.

    Raises ModelNotFound for a name that is not served and where no model fits, InvalidRequest for a model of another task.
    """
    fitting = [name for name, task in served.items() if task in tasks]
    purpose = TASKS.get(tasks[0], tasks[0])
    if wanted in DEFAULT_NAMES and wanted not in served:
        if fitting:
            return fitting[0]
        there = ", ".join(f"{name} ({TASKS.get(task, task)})" for name, task in served.items())
        raise ModelNotFound(
            f"No model for {purpose} is served here.", param="model", remedy=f"Served: {there}." if there else None
        )
    name = choose(wanted, list(served))
    if name in fitting:
        return name
    there = f"{', '.join(fitting)} can do that." if fitting else "No model that can do that is served here."
    is_for = TASKS.get(served[name], served[name])
    raise InvalidRequest(f"The model {name} is for {is_for}, not for {purpose}.", param="model", remedy=there)


def choose_allowed(wanted: str, served: Mapping[str, Served], allowed: Collection[str]) -> dict[str, Served]:
    """Those of the served models that are allowed. Raises ModelNotAllowed where another one is wanted, and where there is none."""
    found = {name: value for name, value in served.items() if name in allowed}
    if not found or wanted in served and wanted not in found:
        but = f"not {wanted}" if found else "no such model is served here"
        raise ModelNotAllowed(
            f"This key may use {', '.join(allowed)}, and {but}.", param="model", remedy=CHANGE
        )
    return found
