"""POST /v1/embeddings: texts or token ids in, a vector for each of them out."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Blueprint, Response

from appliance.errors import InvalidRequest
from appliance.http import schemas
from appliance.http.contract import Services
from appliance.http.encoding import compute, listed, texts, truncate, usage
from appliance.http.fields import INT32_MAX
from appliance.http.incoming import read_body
from appliance.http.json_body import integer, show, wrong
from appliance.http.unsupported import unsupported

FORMATS = ("float", "base64")
KINDS: dict[str, str | None] = {
    "query": "query", "search_query": "query", "retrieval.query": "query",
    "document": "document", "passage": "document", "search_document": "document", "retrieval.passage": "document",
    "classification": None, "clustering": None, "text-matching": None, "separation": None,
}  # fmt: skip
"""What `input_type` (Cohere, Voyage, NVIDIA) and `task` (Jina) can be, and which of the model's prompts is meant."""


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = Blueprint("openai_embeddings", __name__)

    @routes.post("/v1/embeddings")
    @routes.post("/embeddings")
    def embeddings() -> Response:
        body = read_body()
        model = services.pipeline.resolve(schemas.model_name(body), ("embed",))
        form, args = _form(body), _args(body)
        del body
        found = compute(services, model, "embed", args)
        rows = (
            f'{{"object":"embedding","index":{index},"embedding":{vector}}}'
            for index, vector in enumerate(_vectors(found["vectors"], found["dim"], form))
        )
        tail = json.dumps({"model": model, "usage": usage(sum(found["tokens"]))}, separators=(",", ":"))[1:]
        return Response(f'{{"object":"list","data":[{",".join(rows)}],{tail}', mimetype="application/json")

    return routes


def _args(body: Mapping[str, Any]) -> dict[str, Any]:
    if body.get("late_chunking"):
        raise unsupported("late_chunking", "Late chunking is")
    wanted = body.get("dimensions")
    return {
        "inputs": _inputs(body.get("input")),
        "kind": _kind(body),
        "dimensions": None if wanted is None else integer(wanted, "dimensions", 1, INT32_MAX),
        "truncate": truncate(body),
    }


def _inputs(value: Any) -> list[Any]:
    """Texts, or lists of token ids; one of either kind may come without a list around it."""
    if not isinstance(value, list) or not value or isinstance(value[0], str):
        return texts(value, "input")
    if isinstance(value[0], list):
        items = listed(value, "input", "a list")
        return [list(schemas.token_ids(item, f"input[{number}]")) for number, item in enumerate(items)]
    if isinstance(value[0], (int, float)) and not isinstance(value[0], bool):
        return [list(schemas.token_ids(value, "input"))]
    raise wrong("input[0]", value[0], "a text, a token id or a list of token ids")


def _kind(body: Mapping[str, Any]) -> str | None:
    for name in ("input_type", "task"):
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise wrong(name, value, "a string")
        if value not in KINDS:
            raise InvalidRequest(f"{name} is {show(value)}; it can be {', '.join(KINDS)}.", param=name)
        return KINDS[value]
    return None


def _form(body: Mapping[str, Any]) -> str:
    """How vectors are written; the second name is Jina's."""
    for name in ("encoding_format", "embedding_type"):
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise wrong(name, value, "a string")
        if value not in FORMATS:
            raise InvalidRequest(f"{name} is {show(value)}; it can be {' or '.join(FORMATS)}.", param=name)
        return value
    return "float"


def _vectors(packed: str, dim: int, form: str) -> Iterator[str]:
    """Each vector as JSON, out of the engine's base64, which holds all of them one after the other: little-endian float32.

    `json.dumps` takes four times as long for the numbers, and no stream gets a token meanwhile.
    """
    raw = base64.b64decode(packed)
    size = 4 * dim
    numbers = f"[{','.join(['%.9g'] * dim)}]"  # nine digits are a float32 exactly
    for start in range(0, len(raw), size):
        if form == "base64":
            yield f'"{base64.b64encode(raw[start : start + size]).decode("ascii")}"'
        else:
            yield numbers % struct.unpack_from(f"<{dim}f", raw, start)
