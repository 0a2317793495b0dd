"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g

from appliance.errors import ModelNotFound
from appliance.http.answering import reply
from appliance.http.contract import Services


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = Blueprint("openai_models", __name__)

    @routes.get("/v1/models")
    @routes.get("/models")
    def models() -> Response:
        allowed = g.principal.limits.models
        names = [name for name in services.pipeline.names if not allowed or name in allowed]
        return reply({"object": "list", "data": [model_object(services, name) for name in names]})

    @routes.get("/v1/models/<path:name>")
    @routes.get("/models/<path:name>")
    def model(name: str) -> Response:
        found = services.pipeline.resolve(name, allowed=g.principal.limits.models)
        if found != name:  # "default" means a model in a request, but it is no model's id
            raise ModelNotFound(f"There is no model {name!r} here.", param="model", remedy=f"Did you mean {found!r}?")
        return reply(model_object(services, name))

    return routes


def model_object(services: Services, name: str) -> dict[str, Any]:
    """OpenAI's model object with its task, and with llama-server's `meta`, which is null until the model is loaded."""
    engine = services.pipeline.engine(name)
    info = engine.supervisor.status.info
    meta = info and {
        "n_ctx": info.context_tokens,
        "n_ctx_train": info.trained_context_tokens,
        "n_params": info.parameters,
        "n_vocab": info.vocabulary,
        "size": info.size_bytes,
        "backend": info.backend,
    }
    found = {
        "id": name,
        "object": "model",
        "created": services.started_unix,
        "owned_by": "appliance",
        "task": engine.task,
        "meta": meta,
    }
    if engine.task == "embed":
        found["dimensions"] = info.dimensions if info else None
    if engine.task in ("classify", "tokens"):
        found["labels"] = list(info.labels) if info else None
    return found
