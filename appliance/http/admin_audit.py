"""Who did what to the box: the audit log as a page, as files and verified; and who acts, for the other pages' entries."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, g, render_template, request

from appliance.access.people import LONGEST_NAME
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.incoming import read_body
from appliance.http.json_body import flag, text, wrong
from appliance.http.pages import guarded
from appliance.logs import log
from appliance.spreadsheet import table
from appliance.trail.entries import ACTIONS, By, Entry, Wish
from appliance.trail.forget import forget

SHOWN = 100
MOST_TAKEN = 100_000
"""Entries in one file: it is made in memory."""
DAY_S = 86_400.0
FORMS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_audit", __name__))

    routes.add_app_template_filter(words)

    def shown(wish: Wish) -> dict[str, Any]:
        found = services.trail.search(wish, SHOWN + 1)
        return {"entries": [_as_json(entry) for entry in found[:SHOWN]], "older": found[SHOWN - 1].number if len(found) > SHOWN else None}

    @routes.get("/admin/audit")
    @needs("admin")
    def page() -> str:
        asked = {name: request.args.get(name, "") for name in ("who", "action", "day")}
        return render_template("audit.html", person=g.signed.session.person, here="audit", actions=sorted(ACTIONS), asked=asked, found=shown(_wish()))

    @routes.get("/admin/api/audit")
    @needs("admin")
    def api() -> Response:
        """?who=, ?action=, ?day=YYYY-MM-DD; ?before= the number `older` of the page before."""
        return reply(shown(_wish()))

    @routes.post("/admin/api/audit/verify")
    @needs("admin")
    def verify() -> Response:
        """{}: the whole chain is computed anew."""
        count, fault = services.trail.verify()
        head = services.trail.head()
        return reply({"good": fault is None, "entries": count, "fault": asdict(fault) if fault else None, "head": f"{head.number}:{head.hash}"})

    @routes.get("/admin/api/audit/export")
    @needs("admin")
    def take() -> Response:
        """?form=csv or jsonl, and what `api` takes: as a file of at most MOST_TAKEN entries, the newest first."""
        form = request.args.get("form", "csv")
        if form not in FORMS:
            raise wrong("form", form, "csv or jsonl")
        rows = services.trail.search(_wish(), MOST_TAKEN)
        noted(services, "audit.export", form, entries=len(rows))
        response = Response(_csv(rows) if form == "csv" else "".join(f"{json.dumps(_as_json(row))}\n" for row in rows), content_type=FORMS[form])
        response.headers["Content-Disposition"] = f'attachment; filename="audit.{form}"'
        return response

    @routes.post("/admin/api/forget")
    @needs("admin")
    def forgotten() -> Response:
        """{"name", "account"}: what the box keeps about a person or a key; account: that as well."""
        body = read_body()
        name = text(body.get("name"), "name")
        services.usage.forget(name)
        found = forget(services.config, name, services.trail, acting(), log, account=flag(body, "account"))
        services.renew_auth()
        return reply(asdict(found))

    return routes


def acting() -> By:
    """Whoever is signed in, at their address."""
    return By("person", g.signed.session.person.name, request.remote_addr or "")


def noted(services: Services, action: str, object: object = "", **detail: Any) -> None:
    """Write down that whoever is signed in did something. It is on the disk when this returns; see `trail.log`."""
    services.trail.note(acting(), action, str(object), **detail)


def _wish() -> Wish:
    asked, day = request.args, request.args.get("day", "")
    since = None
    if day:
        try:
            since = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
        except ValueError:
            raise wrong("day", day, "a day such as 2027-03-31") from None
    return Wish(asked.get("who", "").strip()[: LONGEST_NAME + 8], asked.get("action", ""), since, since + DAY_S if since is not None else None, asked.get("before", None, int))


def words(value: Any) -> str:
    """A detail as one reads it; a filter of the templates."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {words(one)}" for name, one in value.items())
    return " ".join(map(words, value)) if isinstance(value, list) else "none" if value is None else str(value)


def _as_json(entry: Entry) -> dict[str, Any]:
    return asdict(entry) | {"by": entry.by}


def _csv(rows: list[Entry]) -> str:
    """For a spreadsheet; times in UTC."""
    cells = (
        [row.number, datetime.fromtimestamp(row.at, UTC).strftime("%Y-%m-%d %H:%M:%S"), row.by, row.address, row.action, row.object, json.dumps(row.detail, ensure_ascii=False), row.hash]
        for row in rows
    )  # fmt: skip
    return table(("number", "time", "by", "address", "action", "object", "detail", "hash"), cells)
