"""What every endpoint that takes JSON does first: read the body, find the model and who is asking."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from flask import g, request

from appliance.http import caching, schemas
from appliance.http.contract import Services
from appliance.http.json_body import parse_body, read_bytes


def read_body() -> dict[str, Any]:
    """The request's JSON object; notes that the body was read."""
    raw = g.pop("body", None)  # `idempotency` has read it already
    if raw is None:
        raw = read_bytes(request)
    g.story.body_read = True
    return parse_body(raw, request.mimetype)


def model_for(services: Services, body: dict[str, Any], tasks: Sequence[str] = ()) -> str:
    """The served name of the model that a body asks for, among those that its key may use. Raises what `Pipeline.resolve` raises."""
    return services.pipeline.resolve(schemas.model_name(body), tasks, g.principal.limits.models)


def origin(services: Services, body: dict[str, Any], prefix: str) -> schemas.Origin:
    """Where a request for a generation comes from and which model it means. Raises ModelNotFound, ModelNotAllowed, or
    InvalidRequest."""
    model = model_for(services, body, ("generate",))
    return schemas.Origin(
        id=prefix + secrets.token_hex(12),
        model=model,
        principal=g.story.principal,
        priority=schemas.priority(request.headers.get("X-Priority")),
        cache=caching.read_wish(request.headers.get("Cache-Control"), body),
    )
