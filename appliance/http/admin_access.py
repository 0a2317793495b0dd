"""Who may do what: people with roles, and API keys, each shown once."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from flask import Blueprint, Response, g, render_template

from appliance.access.people import ROLES, Person, Role
from appliance.errors import InvalidRequest
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.incoming import read_body
from appliance.http.json_body import text, wrong
from appliance.http.pages import guarded


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_access", __name__))

    def shown() -> dict[str, Any]:
        people = [_without_password(person) for person in services.access.everybody()]
        used = {who: asdict(amount) for who, amount in services.usage.by("who").items()}
        return {
            "people": people, "keys": [asdict(key) for key in services.access.keys()], "key_required": services.auth.required,
            "sessions": [asdict(visit) for visit in services.access.visits()], "used": used,
        }  # fmt: skip

    @routes.get("/admin/access")
    @needs("admin")
    def page() -> str:
        return render_template("access.html", person=g.signed.session.person, here="access", roles=ROLES, found=shown())

    @routes.get("/admin/api/access")
    @needs("admin")
    def api() -> Response:
        return reply(shown())

    @routes.post("/admin/api/keys")
    @needs("admin")
    def make_key() -> Response:
        """{"name"}; the answer is the only place where the key stands."""
        name = text(read_body().get("name"), "name")
        if services.auth.configured(name):
            raise InvalidRequest(f"The configuration has a key named {name!r}.", param="name", remedy="Choose another name.")
        number, key = services.access.make_key(name, _by())
        services.renew_auth()
        return reply({"number": number, "key": key})

    @routes.post("/admin/api/keys/<int:number>/revoke")
    @needs("admin")
    def revoke(number: int) -> Response:
        services.access.revoke_key(number, _by())
        services.renew_auth()
        return reply({"revoked": number})

    @routes.post("/admin/api/sessions/<int:number>/end")
    @needs("admin")
    def end_session(number: int) -> Response:
        services.access.end_visit(number, _by())
        return reply({"ended": number})

    @routes.post("/admin/api/keys/none")
    @needs("admin")
    def open_to_all() -> Response:
        """Forget the revoked keys; where no key is good, none is needed any more."""
        services.access.open_to_all(_by())
        services.renew_auth()
        return reply({"key_required": services.auth.required})

    @routes.post("/admin/api/people")
    @needs("admin")
    def add() -> Response:
        """{"name", "role", "password"}"""
        body = read_body()
        number = services.access.add(text(body.get("name"), "name"), _role(body), text(body.get("password"), "password"), _by())
        return reply({"person": number})

    @routes.post("/admin/api/people/<int:number>")
    @needs("admin")
    def change(number: int) -> Response:
        """{"role", "password"}; what is not given stays."""
        body = read_body()
        role = _role(body) if body.get("role") else None
        services.access.change(number, role, text(body["password"], "password") if body.get("password") else None, _by())
        return reply({"person": number})

    @routes.post("/admin/api/people/<int:number>/remove")
    @needs("admin")
    def remove(number: int) -> Response:
        services.access.remove(number, _by())
        return reply({"removed": number})

    return routes


def _by() -> str:
    return g.signed.session.person.name


def _role(body: dict[str, Any]) -> Role:
    if body.get("role") not in ROLES:
        raise wrong("role", body.get("role"), f"one of {', '.join(ROLES)}")
    return cast(Role, body["role"])


def _without_password(person: Person) -> dict[str, Any]:
    return {name: getattr(person, name) for name in ("id", "name", "role", "created", "changed")}
