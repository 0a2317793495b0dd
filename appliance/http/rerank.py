"""POST /v1/rerank: a query and documents in, how well each fits out, the best first. Jina's and Cohere's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response

from appliance.errors import InvalidRequest
from appliance.http.answering import reply
from appliance.http.contract import Services
from appliance.http.encoding import compute, listed, new_id, texts, truncate, unwrapped, usage
from appliance.http.fields import INT32_MAX
from appliance.http.incoming import model_for, read_body
from appliance.http.json_body import flag, integer, wrong
from appliance.http.unsupported import unsupported

TOP = ("top_n", "top_k")
"""How many results are wanted; the second name is Voyage's."""


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = Blueprint("rerank", __name__)

    @routes.post("/v1/rerank")
    @routes.post("/v2/rerank")
    @routes.post("/rerank")
    def rerank() -> Response:
        body = read_body()
        model = model_for(services, body, ("rerank",))
        query, documents = _query(body.get("query")), _documents(body)
        most = next((integer(body[name], name, 1, INT32_MAX) for name in TOP if body.get(name) is not None), len(documents))
        whole = flag(body, "return_documents")
        args = {"query": query, "documents": documents, "truncate": truncate(body, True), "document_tokens": _document_tokens(body)}
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


def _documents(body: Mapping[str, Any]) -> list[str]:
    value = body.get("documents")
    if value is None:
        raise InvalidRequest("documents is missing.", param="documents", remedy="Send a list of texts.")
    if body.get("rank_fields") not in (None, [], ["text"]):
        raise unsupported("rank_fields", "Ranking by fields other than text is")
    found = unwrapped(listed(value, "documents", "a list of texts"), "documents")
    for number, item in enumerate(found):
        if not isinstance(item, str):
            raise wrong(f"documents[{number}]", item, 'a text, or an object such as {"text": "..."}')
    return texts(found, "documents")


def _document_tokens(body: Mapping[str, Any]) -> int | None:
    """How many tokens of a document count, None for as many as there is room for."""
    if body.get("max_chunks_per_doc") not in (None, 1):
        raise unsupported("max_chunks_per_doc", "Cutting a document into several parts is")
    value = body.get("max_tokens_per_doc")
    if value is None:
        return None
    if not truncate(body, True):
        words = "max_tokens_per_doc says that documents are cut, and truncate that they are not."
        raise InvalidRequest(words, param="max_tokens_per_doc", remedy="Leave one of them out.")
    return integer(value, "max_tokens_per_doc", 1, INT32_MAX)
