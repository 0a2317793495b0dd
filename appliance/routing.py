"""Which model answers a request: pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from appliance.errors import ModelNotFound

DEFAULT_NAMES = ("", "default")


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
