"""The table of sampling parameters: names, limits, and where each goes. Read by schemas and openapi."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from appliance.errors import InvalidRequest
from appliance.http.json_body import integer, number, show, word, wrong
from appliance.types import Sampling

INT32_MAX = 2**31 - 1
GREEDY_BELOW = 1e-3
"""Dividing logits by less than this overflows, and the result would be the best token anyway."""
MAX_BIASES = 10_000
BANNED = -1e9
"""Added to a banned token's logit: no probability is left, yet every sum stays finite."""


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter. `sampling` is its name in types.Sampling. Limits are inclusive."""

    name: str
    kind: Literal["number", "integer"]
    low: float
    high: float
    sampling: str
    help: str

    def read(self, value: Any) -> float | int:
        """The checked value. Raises InvalidRequest that names the field and the limit."""
        if self.kind == "number":
            return number(value, self.name, self.low, self.high)
        return integer(value, self.name, int(self.low), int(self.high))


SAMPLING_FIELDS = (
    Field("temperature", "number", 0, 100, "temperature", "Higher is more random; 0 always takes the likeliest token."),
    Field("top_p", "number", 0, 1, "top_p", "Draw from the likeliest tokens that together have this probability."),
    Field("top_k", "integer", -1, INT32_MAX, "top_k", "Draw from this many likeliest tokens; 0 or -1 from all."),
    Field("min_p", "number", 0, 1, "min_p", "Drop tokens less likely than this share of the likeliest one."),
    Field("typical_p", "number", 0, 1, "typical_p", "Locally typical sampling; 1 switches it off."),
    Field("repeat_penalty", "number", 0.1, 10, "repeat_penalty", "Makes seen tokens less likely; 1 switches it off."),
    Field("repetition_penalty", "number", 0.1, 10, "repeat_penalty", "vLLM's name for repeat_penalty."),
    Field("presence_penalty", "number", -2, 2, "presence_penalty", "Subtracted once from the logit of a seen token."),
    Field("frequency_penalty", "number", -2, 2, "frequency_penalty", "Subtracted for each time a token was seen."),
    Field("repeat_last_n", "integer", -1, INT32_MAX, "penalty_last_n", "Tokens the penalties look back; -1 for all."),
    Field("seed", "integer", -(2**63), 2**63 - 1, "seed", "Same seed, same text; absent, null or -1 draws a new one."),
)


def read_sampling(body: Mapping[str, Any]) -> Sampling:
    """All sampling parameters of a body. Whether the vocabulary has a biased token is for the engine to say."""
    values: dict[str, Any] = {}
    for row in SAMPLING_FIELDS:
        value = body.get(row.name)
        if value is not None:
            values[row.sampling] = row.read(value)
    if values.get("temperature", 1.0) < GREEDY_BELOW:
        values["temperature"] = 0.0
    if values.get("top_k") == -1:  # vLLM's word for off
        values["top_k"] = 0
    if "seed" in values:
        # llama.cpp's -1 means a new seed each time; the generator wants numbers without a sign.
        values["seed"] = None if values["seed"] == -1 else values["seed"] % 2**64
    if body.get("logit_bias") is not None:
        values["logit_bias"] = _read_biases(body["logit_bias"])
    return Sampling(**values)


def _read_biases(value: Any) -> tuple[tuple[int, float], ...]:
    """OpenAI's object {"id": bias} or llama.cpp's list [[id, bias], ...], where false bans the token."""
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        for item in value:
            if not isinstance(item, list) or len(item) != 2:
                raise wrong("logit_bias", item, "an object or a list of [token id, bias] pairs")
        pairs = [(item[0], item[1]) for item in value]
    else:
        raise wrong("logit_bias", value, "an object of token id to bias")
    if len(pairs) > MAX_BIASES:
        raise InvalidRequest(f"logit_bias has {len(pairs)} entries; the limit is {MAX_BIASES}.", param="logit_bias")
    found = {_token(key): _bias(bias) for key, bias in pairs}
    return tuple(found.items())


def _token(key: Any) -> int:
    digits = isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 12
    if not digits and (isinstance(key, bool) or not isinstance(key, int)):
        shown = show(key) if isinstance(key, str) else word(key)
        raise InvalidRequest(
            f"logit_bias takes token ids, not {shown}.", param="logit_bias", remedy="/tokenize tells the ids."
        )
    token = int(key)
    if not 0 <= token <= INT32_MAX:
        raise InvalidRequest(f"logit_bias: {token} is no token id.", param="logit_bias")
    return token


def _bias(value: Any) -> float:
    return BANNED if value is False else number(value, "logit_bias", -100, 100)
