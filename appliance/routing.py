"""Which model answers a request: pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from appliance.errors import InvalidRequest, ModelNotFound

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
