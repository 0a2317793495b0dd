"""POST /tokenize, /detokenize and /apply-template, as llama-server has them."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from appliance.errors import InvalidRequest
from appliance.http import schemas
from appliance.http.answering import reply
from appliance.http.contract import Services
from appliance.http.incoming import model_for, read_body
from appliance.http.json_body import flag, text

MAX_CHARS = 262_144
"""Tokenizing runs between two steps of the engine: every stream waits for it, so it must be short."""
MAX_TOKENS = 262_144


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = Blueprint("openai_tokens", __name__)

    @routes.post("/tokenize")
    @routes.post("/v1/tokenize")
    def tokenize() -> Response:
        body = read_body()
        name = next((n for n in ("content", "text") if body.get(n) is not None), None)
        if name is None:
            raise InvalidRequest("content is missing.", param="content", remedy="Send the text as content.")
        content = text(body[name], name)
        if len(content) > MAX_CHARS:
            raise InvalidRequest(f"{name} has {len(content)} characters; the limit is {MAX_CHARS}.", param=name)
        pieces = flag(body, "with_pieces")
        special = {"add_special": flag(body, "add_special")}
        if body.get("parse_special") is not None:
            special["parse_special"] = flag(body, "parse_special")
        found = _ask(services, body, "tokenize", {"text": content, "pieces": pieces, **special})
        tokens = found["tokens"]
        if pieces:
            return reply({"tokens": [{"id": t, "piece": p} for t, p in zip(tokens, found["pieces"], strict=True)]})
        return reply({"tokens": tokens})

    @routes.post("/detokenize")
    @routes.post("/v1/detokenize")
    def detokenize() -> Response:
        body = read_body()
        tokens = list(schemas.token_ids(body["tokens"], "tokens")) if body.get("tokens") not in (None, []) else []
        if body.get("tokens") is None:
            raise InvalidRequest("tokens is missing.", param="tokens", remedy="Send a list of token ids.")
        if len(tokens) > MAX_TOKENS:
            raise InvalidRequest(f"tokens has {len(tokens)} entries; the limit is {MAX_TOKENS}.", param="tokens")
        try:
            return reply({"content": _ask(services, body, "detokenize", {"tokens": tokens})["text"]})
        except InvalidRequest as error:
            if error.param == "prompt":
                error.param = "tokens"  # the engine checks them as it checks a prompt
            raise

    @routes.post("/apply-template")
    @routes.post("/v1/apply-template")
    def apply_template() -> Response:
        body = read_body()
        messages = list(schemas.messages(body.get("messages")))
        return reply({"prompt": _ask(services, body, "template", {"messages": messages})["prompt"]})

    return routes


def _ask(services: Services, body: dict[str, Any], what: str, args: dict[str, Any]) -> Any:
    return services.pipeline.ask(model_for(services, body), what, args)
