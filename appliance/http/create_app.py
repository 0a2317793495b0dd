"""The Flask application: blueprints, keys, request ids, one error shape, one log line a request. No globals."""

from __future__ import annotations

from flask import Flask, Response, g, request
from werkzeug.routing import IntegerConverter, Map

from appliance.http import (
    admin_access,
    admin_answers,
    admin_audit,
    admin_backups,
    admin_doctor,
    admin_exchange,
    admin_jobs,
    admin_model_jobs,
    admin_models,
    admin_now,
    admin_settings,
    admin_system,
    admin_uploads,
    cache_api,
    classify,
    errors,
    health,
    idempotency,
    keys,
    linger,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_models,
    openai_tokens,
    openapi,
    pages,
    rerank,
    signing,
)
from appliance.http.contract import Services, is_public, role_of
from appliance.http.request_log import Story, request_id

GENERATING = (openai_chat, openai_completions)
ENCODING = (openai_embeddings, rerank, classify)
FAMILIES = (openai_models, *GENERATING, *ENCODING, openai_tokens, cache_api, health, openapi, pages, signing, admin_now, admin_answers, admin_exchange, admin_models, admin_model_jobs, admin_uploads, admin_jobs, admin_access, admin_audit, admin_settings, admin_system, admin_backups, admin_doctor)


class Number(IntegerConverter):
    """Of a row: what SQLite has no integer for leads nowhere."""

    def __init__(self, url_map: Map) -> None:
        super().__init__(url_map, max=(1 << 63) - 1)


def create_app(services: Services) -> Flask:
    """An application over running services. Starts no thread and opens no file."""
    app = Flask("appliance", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = services.config.max_body_bytes
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # there are no CORS headers to tell of: 405 like any other method
    app.url_map.converters["int"] = Number
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # a redirect would turn a POST into a question
    for family in FAMILIES:
        app.register_blueprint(family.blueprint(services))
    errors.register(app)

    replays = idempotency.Replays()

    @app.before_request
    def begin() -> Response | None:
        view = app.view_functions.get(request.endpoint or "")
        open_to_all = is_public(view)
        route = request.url_rule.rule if request.url_rule else "unmatched"
        # Pages ask again and again, and their log would show little else.
        quiet = open_to_all or (request.method == "GET" and route.startswith("/admin/api/")) or route == "/admin/api/uploads/<int:number>"
        g.story = Story(request_id(request.headers.get("X-Request-Id")), request.method, route, quiet=quiet)
        role = role_of(view)
        if request.path.startswith(signing.HOME):
            signing.own_name(services.auth)
        if role:
            signing.check(services, role)
            g.story.principal = g.signed.session.person.name
        elif view is not None and not open_to_all:
            keys.check(services, view)
            return idempotency.begin(replays)
        return None

    @app.after_request
    def end(response: Response) -> Response:
        story: Story = g.story
        idempotency.finish(response)
        response.headers["x-request-id"] = story.id
        response.headers["X-Content-Type-Options"] = "nosniff"
        if g.get("signed") and g.signed.token:
            signing.set_cookie(response, g.signed.token)
        keys.finish(response, services, story)
        status, environ = response.status_code, request.environ
        response.call_on_close(lambda: story.finish(status, services.metrics, services.usage))
        if not story.body_read and linger.is_unread(environ):
            response.call_on_close(lambda: linger.drain(environ.get("gunicorn.socket")))
        return response

    return app
