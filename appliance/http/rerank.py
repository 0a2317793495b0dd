"""POST /v1/rerank: a query and documents in, how well each fits out, the best first. Jina's and Cohere's shape."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from appliance.errors import InvalidRequest
from appliance.http import schemas
from appliance.http.answering import reply
from appliance.http.contract import Services
from appliance.http.encoding import compute, listed, new_id, texts, truncate, usage
from appliance.http.fields import INT32_MAX
from appliance.http.incoming import read_body
from appliance.http.json_body import flag, integer, wrong


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = Blueprint("rerank", __name__)

    @routes.post("/v1/rerank")
    @routes.post("/v2/rerank")
    @routes.post("/rerank")
    def rerank() -> Response:
        body = read_body()
        model = services.pipeline.resolve(schemas.model_name(body), ("rerank",))
        query, documents = _query(body.get("query")), _documents(body.get("documents"))
        most = body.get("top_n")
        most = len(documents) if most is None else integer(most, "top_n", 1, INT32_MAX)
        whole = flag(body, "return_documents")
        args = {"query": query, "documents": documents, "truncate": truncate(body)}
        del body
        found = compute(services, model, "rerank", args)
        scores, order = found["scores"], found.get("logits") or found["scores"]  # scores near 1 are equal before logits are
        best = sorted(range(len(documents)), key=lambda index: (-order[index], index))[:most]
        results = [
            {"index": index, "relevance_score": scores[index]} | ({"document": {"text": documents[index]}} if whole else {})
            for index in best
        ]
        tokens = usage(found["tokens"])
        return reply({"id": new_id("rerank-"), "object": "list", "model": model, "results": results, "usage": tokens})

    return routes


def _query(value: Any) -> str:
    if isinstance(value, list):
        raise wrong("query", value, "a text")
    return texts(value, "query")[0]


def _documents(value: Any) -> list[str]:
    if value is None:
        raise InvalidRequest("documents is missing.", param="documents", remedy="Send a list of texts.")
    found = []
    for number, item in enumerate(listed(value, "documents", "a list of texts")):
        name = f"documents[{number}]"
        if isinstance(item, dict):
            name += ".text"
            item = item.get("text")
        if not isinstance(item, str):
            raise wrong(name, item, 'a text, or an object such as {"text": "..."}')
        found += texts(item, name)
    return found
