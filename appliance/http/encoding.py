"""What the endpoints of encoders (embeddings, rerank, classify) share: their texts out of a body, and the way to the engine."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from flask import g, request

from appliance.errors import ApplianceError, InvalidRequest
from appliance.http import schemas
from appliance.http.contract import Services
from appliance.http.json_body import flag, show, text, wrong
from appliance.http.keys import Watch
from appliance.http.request_log import Encoded, Story
from appliance.http.unsupported import unsupported
from appliance.logs import log

MAX_TEXTS = 2048
"""Texts of one request, as with OpenAI."""
MANY = "Send several requests."


def texts(value: Any, name: str) -> list[str]:
    """A text or a list of at most MAX_TEXTS, none of them empty. Raises InvalidRequest that says which one is wrong."""
    if value is None:
        raise InvalidRequest(f"{name} is missing.", param=name, remedy="Send a text, or a list of texts.")
    if isinstance(value, str):
        return [_full(text(value, name), name)]
    items = listed(value, name, "a text or a list of texts")
    return [_full(text(item, f"{name}[{number}]"), f"{name}[{number}]") for number, item in enumerate(items)]


def unwrapped(value: Any, name: str) -> Any:
    """A list with the texts of objects such as {"text": "..."} in place of these; anything else as it is."""
    if not isinstance(value, list) or len(value) > MAX_TEXTS:
        return value
    return [_text_of(item, f"{name}[{number}].text") if isinstance(item, dict) else item for number, item in enumerate(value)]


def _text_of(item: dict[str, Any], name: str) -> str:
    found = item.get("text")
    if not isinstance(found, str):
        raise wrong(name, found, 'a text, or an object such as {"text": "..."}')
    return _full(text(found, name), name)


def listed(value: Any, name: str, wanted: str) -> list[Any]:
    """A list of 1 to MAX_TEXTS things."""
    if not isinstance(value, list):
        raise wrong(name, value, wanted)
    if not value:
        raise InvalidRequest(f"{name} is an empty list.", param=name)
    if len(value) > MAX_TEXTS:
        raise InvalidRequest(f"{name} has {len(value)} entries; the limit is {MAX_TEXTS}.", param=name, remedy=MANY)
    return value


def _full(value: str, name: str) -> str:
    if not value:
        raise InvalidRequest(f"{name} is an empty string.", param=name, remedy="Leave it out, or send a text.")
    return value


def truncate(body: Mapping[str, Any], default: bool = False) -> bool:
    """Whether a text that is too long is cut at its end; also in Cohere's and TEI's words, and by Voyage's name."""
    for name, value in (("truncate", "START"), ("truncation_direction", "Left")):
        if body.get(name) == value:
            raise unsupported(name, "Cutting a text at its beginning is")
    for name in ("truncate", "truncation"):
        value = body.get(name)
        if value in ("END", "NONE"):
            return value == "END"
        if isinstance(value, str):
            raise InvalidRequest(f"{name} is {show(value)}; it can be true, false, END or NONE.", param=name)
        if value is not None:
            return flag(body, name)
    return default


def compute(services: Services, model: str, what: str, args: dict[str, Any]) -> Any:
    """The engine's answer, while the client is watched. Raises what `pipeline.compute` raises."""
    story: Story = g.story
    asked = args["documents"] if what == "rerank" else args["inputs"]
    story.tally = tally = Encoded(model, len(asked))
    if services.config.log_prompts:
        log("info", "prompt", id=story.id, prompts=[*([args["query"]] if what == "rerank" else []), *asked])
    lane = schemas.priority(request.headers.get("X-Priority"))
    try:
        result = services.pipeline.compute(model, what, args, story.principal, lane, Watch().gone)
    except ApplianceError as error:
        if error.param == "input[0]" and len(asked) == 1:
            error.param = "input"  # it came alone, not in a list
        raise
    tokens = result["tokens"]
    tally.read = sum(tokens) if isinstance(tokens, list) else tokens
    return result


def usage(tokens: int) -> dict[str, int]:
    """OpenAI's usage where nothing is generated."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def new_id(prefix: str) -> str:
    """A name for one answer."""
    return prefix + secrets.token_hex(12)
