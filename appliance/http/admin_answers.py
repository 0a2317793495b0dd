"""The review desk: answers that people have checked, what they should look at next, and what is forgotten."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, g, render_template, request

from appliance.cache import exchange
from appliance.cache.answers import Selection
from appliance.cache.desk import Desk
from appliance.cache.policy import EVERYBODY
from appliance.errors import InvalidRequest, Unavailable
from appliance.http import schemas
from appliance.http.admin_audit import noted
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.incoming import read_body
from appliance.http.json_body import flag, number, text, wrong
from appliance.http.pages import guarded
from appliance.recall import Recall

STATES = ("live", "rejected", "expired")
LONGEST_SEARCH = 200
HOUR_S = 3600.0
COUNTED_S = 20.0
"""Counting all answers takes a tenth of a second where there are many."""


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_answers", __name__))

    def desk() -> Desk:
        return Desk(recall_of(services).cache)

    def shown() -> dict[str, Any]:
        wanted = request.args.get("q", "")[:LONGEST_SEARCH]
        at = desk()
        return {
            "unreviewed": at.unreviewed(text=wanted),
            "near_misses": at.near_misses(),
            "judged_wrong": at.judged_wrong(),
            "reviewed": at.reviewed(wanted),
            "stats": at.cache.stats(COUNTED_S),
        }

    @routes.get("/admin/answers")
    @needs("reviewer")
    def page() -> str:
        found = shown() if services.pipeline.recall else None
        asked = request.args.get("explain", "").strip()
        told = explained(services, asked) if found and asked else None
        return render_template("answers.html", person=g.signed.session.person, here="answers", q=request.args.get("q", ""), found=found, asked=asked, explained=told)

    @routes.get("/admin/api/answers")
    @needs("reviewer")
    def api() -> Response:
        return reply(shown())

    @routes.post("/admin/api/answers/<int:number>/approve")
    @needs("reviewer")
    def approve(number: int) -> Response:
        body = read_body()
        made = desk().approve(number, owner(), optional(body, "answer"), optional(body, "source") or "", expires(body))
        noted(services, "answer.approve", f"answer {made}", of=number)
        return reply({"reviewed": made})

    @routes.post("/admin/api/reviewed")
    @needs("reviewer")
    def write() -> Response:
        """{"questions": [...], "answer", "namespace", "source", "expires"}"""
        body = read_body()
        made = desk().write(owner(), questions(body, "questions"), text(body.get("answer"), "answer"), optional(body, "namespace") or EVERYBODY, optional(body, "source") or "", expires(body))
        noted(services, "answer.write", f"answer {made}", namespace=optional(body, "namespace") or EVERYBODY)
        return reply({"reviewed": made})

    @routes.post("/admin/api/reviewed/<int:number>")
    @needs("reviewer")
    def change(number: int) -> Response:
        """{"answer", "phrasings": [...], "state": live, rejected or expired}; what is not given stays."""
        body, at = read_body(), desk()
        state, more = optional(body, "state"), questions(body, "phrasings")
        if state not in (None, *STATES):
            raise wrong("state", state, f"one of {', '.join(STATES)}")
        answer = optional(body, "answer")
        if answer is None and not more and state is None:
            raise InvalidRequest("Nothing is to be changed.", remedy="Send answer, phrasings or state.")
        if answer is not None or more:
            at.edit(number, owner(), answer, more)
        if state is not None:
            at.set_state(number, owner(), state)
        noted(services, "answer.change", f"answer {number}", words=answer is not None, phrasings=len(more), state=state)
        return reply({"reviewed": number})

    @routes.post("/admin/api/answers/purge")
    @needs("admin")
    def purge() -> Response:
        """{"namespace", "model", "tag", "text", "older_than_hours", "all", "preview"}: which generated answers are forgotten."""
        body, at = read_body(), desk()
        hours = body.get("older_than_hours")
        which = Selection(
            namespace=optional(body, "namespace"),
            model=optional(body, "model"),
            tag=optional(body, "tag"),
            text=optional(body, "text"),
            older_than_s=None if hours in (None, "") else float(number(hours, "older_than_hours", 0, 1e6)) * HOUR_S,
        )
        if which == Selection() and not flag(body, "all"):
            raise InvalidRequest("Nothing says which answers.", remedy="Send a condition, or all: true.")
        if flag(body, "preview"):
            count, some = at.to_be_purged(which)
            return reply({"would_remove": count, "questions": some})
        removed = at.cache.purge(which)
        told = {name: value for name, value in asdict(which).items() if value and name != "text"}  # somebody's words
        noted(services, "cache.purge", removed=removed, words=which.text is not None, **told)
        return reply({"removed": removed})

    return routes


def recall_of(services: Services) -> Recall:
    """What remembers. Raises Unavailable."""
    if services.pipeline.recall is None:
        raise Unavailable("This service remembers no answers.", remedy="Start it without no_cache; its log says whether the cache could not be opened.")
    return services.pipeline.recall


def explained(services: Services, question: str, model: str = "", key: str = "anonymous") -> dict[str, Any]:
    """See Recall.explain: for a conversation that begins with the question, asked with that key."""
    origin = schemas.Origin("explain", services.pipeline.resolve(model, ("generate",)), key, "interactive")
    call = schemas.chat_call({"messages": [{"role": "user", "content": question}]}, origin, services.config)
    return recall_of(services).explain(call.request)


def owner() -> str:
    """Whoever is signed in answers for what is reviewed."""
    return g.signed.session.person.name


def optional(body: dict[str, Any], name: str) -> str | None:
    """A text that may be left out; an empty one is none. Raises InvalidRequest."""
    value = body.get(name)
    return None if value is None or value == "" else text(value, name)


def questions(body: dict[str, Any], name: str) -> list[str]:
    """A list of questions, or text with one a line. Raises InvalidRequest."""
    value = body.get(name)
    if isinstance(value, str):
        value = value.splitlines()
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(name, value, "a list of questions")
    return [found for place, item in enumerate(value) if (found := text(item, f"{name}[{place}]").strip())]


def expires(body: dict[str, Any]) -> float | None:
    """Unix seconds of the end of a day that is given as YYYY-MM-DD. Raises InvalidRequest."""
    given = optional(body, "expires")
    return exchange.last_moment(given) if given else None
