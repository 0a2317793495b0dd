"""POST /v1/classify: texts in, the label of each out; with `labels` of one's own (zero-shot), or entities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response

from appliance.errors import InvalidRequest
from appliance.http.answering import reply
from appliance.http.contract import Services
from appliance.http.encoding import compute, listed, new_id, texts, truncate, unwrapped, usage
from appliance.http.incoming import model_for, read_body
from appliance.http.json_body import flag, text, wrong

TASKS = ("classify", "tokens")
MAX_LABELS = 100
MAX_PAIRS = 20_480
"""Texts x labels of one request: each pair is computed by itself."""


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = Blueprint("classify", __name__)

    @routes.post("/v1/classify")
    @routes.post("/classify")
    def classify() -> Response:
        body = read_body()
        model = model_for(services, body, TASKS)
        inputs, labels = texts(unwrapped(body.get("input"), "input"), "input"), _labels(body.get("labels"))
        if labels and len(inputs) * len(labels) > MAX_PAIRS:
            raise InvalidRequest(
                f"{len(inputs)} texts x {len(labels)} labels makes {len(inputs) * len(labels)} pairs; the limit is {MAX_PAIRS}.",
                param="labels",
                remedy="Send several requests.",
            )
        args = {"inputs": inputs, "truncate": truncate(body)}
        more = {"labels": labels, "multi_label": flag(body, "multi_label"), "template": _template(body)}
        del body
        if services.pipeline.loaded_task(model) == "tokens":
            if labels:
                raise InvalidRequest(
                    f"{model} finds entities and has labels of its own.", param="labels", remedy="Leave labels out."
                )
            found = compute(services, model, "tokens", args)
            rows = [{"index": index, "entities": entities} for index, entities in enumerate(found["entities"])]
        else:
            found = compute(services, model, "classify", args | more)
            rows = [_row(index, found["labels"], scores) for index, scores in enumerate(found["scores"])]
        tokens = usage(sum(found["tokens"]))
        return reply({"id": new_id("classify-"), "object": "list", "data": rows, "model": model, "usage": tokens})

    return routes


def _row(index: int, labels: list[str], scores: list[float]) -> dict[str, Any]:
    best = max(range(len(labels)), key=lambda number: scores[number])
    by_label = dict(sorted(zip(labels, scores, strict=True), key=lambda pair: -pair[1]))
    return {"index": index, "label": labels[best], "score": scores[best], "scores": by_label}


def _labels(value: Any) -> list[str] | None:
    if value is None:
        return None
    if len(listed(value, "labels", "a list of labels")) > MAX_LABELS:
        raise InvalidRequest(f"labels has {len(value)} entries; the limit is {MAX_LABELS}.", param="labels")
    found = texts(value, "labels")
    twice = next((label for number, label in enumerate(found) if label in found[:number]), None)
    if twice is not None:
        raise InvalidRequest(f"labels has {twice[:100]!r} twice.", param="labels")
    return found


def _template(body: Mapping[str, Any]) -> str | None:
    """The sentence that is judged for each label, in transformers' words `hypothesis_template`."""
    for name in ("template", "hypothesis_template"):
        value = body.get(name)
        if value is None:
            continue
        if "{}" not in text(value, name):
            raise wrong(name, value, "a sentence with {} in place of the label")
        return value
    return None
