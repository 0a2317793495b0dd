"""Fields that other servers obey and this one does not. Ignoring them would give an answer that was not asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.errors import InvalidRequest
from appliance.http.json_body import show, wrong

FIELDS = {
    "tools": "Tool calls are",
    "functions": "Function calls are",
    "audio": "Audio is",
    "grammar": "Grammars are",
    "json_schema": "JSON schemas are",
    "structured_outputs": "Structured output is",
    "guided_json": "Guided decoding is",
    "guided_regex": "Guided decoding is",
    "guided_choice": "Guided decoding is",
    "guided_grammar": "Guided decoding is",
    "ignore_eos": "Going on after the model has ended its answer is",
    "min_tokens": "A minimum length is",
    "stop_token_ids": "Stopping at token ids is",
    "bad_words": "A list of banned words is",
    "allowed_token_ids": "A list of allowed tokens is",
    "chat_template": "A template that comes with the request is",
    "chat_template_kwargs": "Passing values to the template is",
    "continue_final_message": "Continuing the last message is",
    "lora": "A choice of LoRA adapters is",
    "use_beam_search": "Beam search is",
    "mirostat": "Mirostat is",
    "dynatemp_range": "Dynamic temperature is",
    "xtc_probability": "XTC sampling is",
    "dry_multiplier": "DRY sampling is",
    "suffix": "Inserting text is",
}
"""Refused unless they hold null, false, 0 or nothing: many programs always send the whole list, switched off."""


def unsupported(param: str, what: str) -> InvalidRequest:
    """The error for something that other servers have and this service does not."""
    return InvalidRequest(f"{what} not supported yet ({param}).", param=param)


def refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for what would change the answer's meaning; what is only advice is ignored."""
    for name, what in FIELDS.items():
        if body.get(name):
            raise unsupported(name, what)
    for name in ("tool_choice", "function_call"):
        if body.get(name) not in (None, "none", "auto"):
            raise unsupported(name, "Tool calls are")
    if body.get("modalities") not in (None, [], ["text"]):
        raise unsupported("modalities", "Output other than text is")
    wanted = body.get("response_format")
    if wanted is not None:
        kind = wanted.get("type") if isinstance(wanted, dict) else None
        if not isinstance(kind, str):
            raise wrong("response_format", wanted, 'an object such as {"type": "text"}')
        if kind != "text":
            raise unsupported("response_format", f"A response_format of type {show(kind)} is")
