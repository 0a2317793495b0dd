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
from appliance.http.encoding import compute, listed, texts, truncate, unwrapped, usage
from appliance.http.fields import INT32_MAX
from appliance.http.incoming import model_for, read_body
from appliance.http.json_body import flag, integer, show, wrong
from appliance.http.unsupported import unsupported

FORMATS = ("float", "base64")
FORMAT_NAMES = ("encoding_format", "embedding_type", "embedding_types", "output_dtype")
"""OpenAI's, Jina's, Cohere's and Voyage's; Cohere sends a list."""
UNSUPPORTED = {
    "late_chunking": "Late chunking is", "return_multivector": "A vector for each token is",
    "prompt_name": "A choice among the model's prompts by name is", "truncate_prompt_tokens": "Cutting texts to a number of tokens is",
}  # fmt: skip
"""Fields of other servers that would change the vectors."""
NORMS = {-1: False, 2: True}
"""llama-server's numbers for no norm and for the Euclidean one."""
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
        model = model_for(services, body, ("embed",))
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
    for name, what in UNSUPPORTED.items():
        if body.get(name):
            raise unsupported(name, what)
    return {
        "inputs": _inputs(unwrapped(body.get("input"), "input")),
        "kind": _kind(body),
        "dimensions": _dimensions(body),
        "normalize": _normalize(body),
        "truncate": truncate(body),
    }


def _dimensions(body: Mapping[str, Any]) -> int | None:
    """How many are kept; the second name is Cohere's and Voyage's."""
    given = {name: body[name] for name in ("dimensions", "output_dimension") if body.get(name) is not None}
    found = [integer(value, name, 1, INT32_MAX) for name, value in given.items()]
    if len(set(found)) > 1:
        raise InvalidRequest(f"dimensions is {found[0]}, output_dimension {found[1]}.", param="output_dimension", remedy="Send one of them.")
    return found[0] if found else None


def _normalize(body: Mapping[str, Any]) -> bool | None:
    """Whether vectors get length one, None where nothing is said: in Jina's, TEI's and llama-server's words."""
    for name in ("normalized", "normalize"):
        if body.get(name) is not None:
            return flag(body, name)
    if (norm := body.get("embd_normalize")) is None:
        return None
    if integer(norm, "embd_normalize", -1, INT32_MAX) not in NORMS:
        raise unsupported("embd_normalize", "A norm other than -1 (none) and 2 (Euclidean) is")
    return NORMS[int(norm)]


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
    """How vectors are written."""
    found = []
    for name in FORMAT_NAMES:
        value = body.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is None:
            continue
        if not isinstance(value, str):
            raise wrong(name, value, "one name" if isinstance(value, list) else "a string")
        if value not in FORMATS:
            raise InvalidRequest(f"{name} is {show(value)}; it can be {' or '.join(FORMATS)}.", param=name)
        found.append(value)
    return found[0] if found else "float"


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
