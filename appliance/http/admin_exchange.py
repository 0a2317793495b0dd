"""The review desk's files and questions: import, export, merging two answers, and why a question is or is not answered from memory."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from appliance.cache import exchange
from appliance.cache.desk import Desk
from appliance.cache.policy import EVERYBODY
from appliance.http.admin_answers import explained, optional, owner, recall_of
from appliance.http.admin_audit import noted
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.incoming import read_body
from appliance.http.json_body import integer, text, wrong
from appliance.http.pages import guarded

FORMS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}
MOST_NUMBER = 1 << 62


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_exchange", __name__))

    @routes.post("/admin/api/reviewed/import")
    @needs("reviewer")
    def bring() -> Response:
        """{"text", "form": csv or jsonl, "namespace"}: all of it or nothing."""
        body = read_body()
        new = exchange.read(text(body.get("text"), "text"), _form(body.get("form")), owner=owner(), namespace=optional(body, "namespace") or EVERYBODY)
        made = Desk(recall_of(services).cache).take_over(new)
        noted(services, "answer.import", answers=len(made))
        return reply({"reviewed": made})

    @routes.get("/admin/api/reviewed/export")
    @needs("reviewer")
    def take() -> Response:
        """?form=csv or jsonl: the answers that are given, as a file that can be imported."""
        form = _form(request.args.get("form", "csv"))
        noted(services, "answer.export", form)
        response = Response(Desk(recall_of(services).cache).exported(form), content_type=FORMS[form])
        response.headers["Content-Disposition"] = f'attachment; filename="reviewed.{form}"'
        return response

    @routes.post("/admin/api/reviewed/<int:number>/merge")
    @needs("reviewer")
    def merge(number: int) -> Response:
        """{"into"}: the questions of this answer get that one, and this answer is gone."""
        into = integer(read_body().get("into"), "into", 0, MOST_NUMBER)
        Desk(recall_of(services).cache).merge(number, into)
        noted(services, "answer.merge", f"answer {number}", into=into)
        return reply({"reviewed": into})

    @routes.post("/admin/api/answers/explain")
    @needs("reviewer")
    def explain() -> Response:
        """{"question", "model", "key"}: what is known of it, and why it would be answered from memory or not; asks no model."""
        body = read_body()
        return reply(explained(services, text(body.get("question"), "question"), optional(body, "model") or "", optional(body, "key") or "anonymous"))

    return routes


def _form(value: Any) -> str:
    if value not in FORMS:
        raise wrong("form", value, "csv or jsonl")
    return value
