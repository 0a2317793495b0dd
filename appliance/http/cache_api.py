"""/v1/cache: why a request is or is not answered from memory, and what people say of such answers."""

from __future__ import annotations

from flask import Blueprint, Response, g

from appliance.errors import InvalidRequest, NotFound, Unavailable
from appliance.http import schemas
from appliance.http.answering import reply
from appliance.http.contract import Services
from appliance.http.incoming import origin, read_body
from appliance.http.json_body import show, text, wrong
from appliance.recall import Recall


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = Blueprint("cache_api", __name__)

    def recall() -> Recall:
        found = services.pipeline.recall
        if found is None:
            raise Unavailable("This service remembers no answers.", remedy="Start it without no_cache; its log says whether the cache could not be opened.")
        return found

    @routes.post("/v1/cache/explain")
    def explain() -> Response:
        """Takes the body of a chat request; computes no answer."""
        body = read_body()
        return reply(recall().explain(schemas.chat_call(body, origin(services, body, "explain-"), services.config).request))

    @routes.post("/v1/cache/feedback")
    def feedback() -> Response:
        """{"id": of an answer, "verdict": "right" or "wrong"}: whether a remembered answer answered the question."""
        body = read_body()
        if body.get("id") is None:
            raise InvalidRequest("id is missing.", param="id", remedy="Send the id of the answer.")
        answer, verdict = text(body["id"], "id"), body.get("verdict")
        if verdict not in ("right", "wrong"):
            raise wrong("verdict", verdict, '"right" or "wrong"')
        if not recall().judge(answer, g.story.principal, verdict):
            raise NotFound(
                f"No remembered answer {show(answer)} was given to you lately.", param="id", remedy="Only answers to similar questions are judged, for some hours."
            )
        return reply({"id": answer, "verdict": verdict})

    @routes.get("/v1/cache/stats")
    def stats() -> Response:
        return reply(recall().cache.stats())

    return routes
