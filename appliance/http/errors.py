"""The one error handler: whatever goes wrong, the client reads `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import difflib
import json
import math
from urllib.parse import urlencode

from flask import Flask, Response, current_app, g, redirect, request
from werkzeug.exceptions import HTTPException

from appliance import errors, logs
from appliance.http.request_log import Story

_ELSEWHERE = {
    "/completion": "POST /v1/completions takes the same prompt and n_predict, and answers in OpenAI's form.",
    "/props": "GET /v1/models and /readyz tell about the models.",
    "/slots": "GET /readyz and /metrics tell how busy the models are.",
    "/api/": "Ollama's API is not spoken here: use OpenAI's, with /v1 as the base URL.",
}
"""What people who come from other servers ask for, and where it is here. A name with a slash at its end is a folder."""


def register(app: Flask) -> None:
    """Make `app` answer every exception in our shape."""
    app.register_error_handler(Exception, handle)


def handle(exception: Exception) -> Response:
    """The response for any exception raised while a request was worked on."""
    headers: list[tuple[str, str]] = []
    if isinstance(exception, HTTPException):
        if exception.code is not None and exception.code < 400:
            return exception.get_response()  # type: ignore[return-value]
        headers = [(k, v) for k, v in exception.get_headers() if k.lower() not in ("content-type", "content-length")]
    story = g.get("story")
    error = told(exception, story)
    if error.code == "not_signed_in" and request.method in ("GET", "HEAD") and not request.path.startswith("/admin/api/"):
        return redirect(f"/admin/sign-in?{urlencode({'to': request.path})}")  # type: ignore[return-value]
    if story:
        story.error = error.code
    response = Response(json.dumps(error.body()), error.status, headers, mimetype="application/json")
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(0, math.ceil(error.retry_after_s)))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 11.6.1 wants a challenge with every 401
    return response


def told(exception: Exception, story: Story | None) -> errors.ApplianceError:
    """The exception in our words. What nobody expected is logged with its traceback and told without it."""
    if isinstance(exception, errors.ApplianceError):
        return exception
    if isinstance(exception, HTTPException):
        return _of_http(exception)
    fields = {"id": story.id, "route": story.route} if story else {}
    logs.LOGGER.error("unexpected error", exc_info=exception, extra={"fields": fields})
    return errors.ApplianceError(
        "Something went wrong in the server.", remedy="The reason is in its log, under the x-request-id of this answer."
    )


def _of_http(exception: HTTPException) -> errors.ApplianceError:
    code = exception.code or 500
    if code == 404:
        return errors.NotFound(f"There is nothing at {request.path[:200]!r}.", remedy=_nearest(request.path[:200]))
    if code == 405:
        allowed = " or ".join(sorted(set(getattr(exception, "valid_methods", None) or ()) - {"HEAD"}))
        return errors.MethodNotAllowed(
            f"{request.path[:200]} does not take {request.method[:20]}.", remedy=f"Use {allowed}."
        )
    if code == 413:
        limit = current_app.config["MAX_CONTENT_LENGTH"]
        size = f" of {request.content_length} bytes" if request.content_length else ""
        return errors.BodyTooLarge(f"The request body{size} is over the limit of {limit} bytes (max_body_bytes).")
    if code == 415:
        return errors.UnsupportedMediaType("The body must be JSON.", remedy="Send Content-Type: application/json.")
    kind = errors.InvalidRequest if code < 500 else errors.ApplianceError
    error = kind(exception.description or exception.name)
    error.status = code
    if code not in (400, 500):
        error.code = exception.name.lower().replace(" ", "_")
    return error


def _nearest(path: str) -> str:
    for name, remedy in _ELSEWHERE.items():
        if path == name or (name.endswith("/") and path.startswith(name)):
            return remedy
    routes = [rule.rule for rule in current_app.url_map.iter_rules()]
    close = difflib.get_close_matches(path, routes, n=1, cutoff=0.75)
    return f"Did you mean {close[0]}?" if close else "GET /openapi.json lists what there is."
