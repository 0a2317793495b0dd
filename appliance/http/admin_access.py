"""Who may do what: people with roles, and API keys, each shown once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from flask import Blueprint, Response, g, render_template, request

from appliance.access.limits import Limits
from appliance.access.people import KEY_ROLES, ROLES, Key, Person, Role
from appliance.config import needs_key
from appliance.errors import InvalidRequest
from appliance.http.admin_answers import expires
from appliance.http.admin_audit import noted
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.fields import INT32_MAX
from appliance.http.incoming import read_body
from appliance.http.json_body import integer, text, wrong
from appliance.http.pages import guarded

COUNTED = ("requests_per_minute", "tokens_per_minute", "at_once")
MOST_MODELS, MOST_NAME_CHARS = 100, 200


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
        return render_template("access.html", person=g.signed.session.person, here="access", roles=ROLES, key_roles=KEY_ROLES, served=services.pipeline.names, found=shown())

    @routes.get("/admin/api/access")
    @needs("admin")
    def api() -> Response:
        return reply(shown())

    @routes.post("/admin/api/keys")
    @needs("admin")
    def make_key() -> Response:
        """{"name"} and what `change_key` takes; the answer is the only place where the key stands."""
        body = read_body()
        name = text(body.get("name"), "name")
        if services.auth.configured(name):
            raise InvalidRequest(f"The configuration has a key named {name!r}.", param="name", remedy="Choose another name.")
        number, key = services.access.make_key(name, _by(), _role(body, KEY_ROLES) or "user", Limits(**_limits(body, services)))
        services.renew_auth()
        noted(services, "key.make", name.strip(), number=number)
        return reply({"number": number, "key": key})

    @routes.post("/admin/api/keys/<int:number>")
    @needs("admin")
    def change_key(number: int) -> Response:
        """{"role", "requests_per_minute", "tokens_per_minute", "at_once", "models", "expires"}; what is not given stays, 0, null and empty take
        the limit away. It counts at the next request."""
        body = read_body()
        role, limits = _role(body, KEY_ROLES), _limits(body, services)
        services.access.change_key(number, role, limits, _by())
        services.renew_auth()
        noted(services, "key.change", _named(services.access.keys(), number), number=number, role=role, **limits)
        return reply({"key": number})

    @routes.post("/admin/api/keys/<int:number>/revoke")
    @needs("admin")
    def revoke(number: int) -> Response:
        """Answers that run may end; with `?streams=end` they are ended, each with an error that says so."""
        streams = request.args.get("streams", "")
        if streams not in ("", "end"):
            raise wrong("streams", streams, '"end", or left out')
        name = services.access.revoke_key(number, _by())
        services.renew_auth()
        noted(services, "key.revoke", _named(services.access.keys(), number), number=number)
        return reply({"revoked": number, "ended": services.access.turns.stop(name) if streams else 0})

    @routes.post("/admin/api/sessions/<int:number>/end")
    @needs("admin")
    def end_session(number: int) -> Response:
        whose = next((visit.name for visit in services.access.visits() if visit.number == number), "")
        services.access.end_visit(number, _by())
        noted(services, "session.revoke", whose)
        return reply({"ended": number})

    @routes.post("/admin/api/keys/none")
    @needs("admin")
    def open_to_all() -> Response:
        """Forget the revoked keys; where no key is good, none is needed any more."""
        if needs_key(services.config, services.began_with.host):
            raise InvalidRequest(
                f"The service listens on {services.began_with.host}, and without a key everybody there could use it.",
                remedy="Make a key, or set allow_anonymous.",
            )
        services.access.open_to_all(_by())
        services.renew_auth()
        noted(services, "key.none", key_required=services.auth.required)
        return reply({"key_required": services.auth.required})

    @routes.post("/admin/api/people")
    @needs("admin")
    def add() -> Response:
        """{"name", "role", "password"}"""
        body = read_body()
        role = _role(body, ROLES)
        if role is None:
            raise InvalidRequest("role is missing.", param="role", remedy=f"It is one of {', '.join(ROLES)}.")
        number = services.access.add(text(body.get("name"), "name"), role, text(body.get("password"), "password"), _by())
        noted(services, "person.add", text(body.get("name"), "name").strip(), role=role)
        return reply({"person": number})

    @routes.post("/admin/api/people/<int:number>")
    @needs("admin")
    def change(number: int) -> Response:
        """{"role", "password"}; what is not given stays."""
        body = read_body()
        role = _role(body, ROLES)
        services.access.change(number, role, text(body["password"], "password") if body.get("password") else None, _by())
        noted(services, "person.change", _named(services.access.everybody(), number), role=role, password=bool(body.get("password")))
        return reply({"person": number})

    @routes.post("/admin/api/people/<int:number>/remove")
    @needs("admin")
    def remove(number: int) -> Response:
        name = _named(services.access.everybody(), number)
        services.access.remove(number, _by())
        noted(services, "person.remove", name)
        return reply({"removed": number})

    return routes


def _by() -> str:
    return g.signed.session.person.name


def _named(rows: Sequence[Person | Key], number: int) -> str:
    """The name of a person or key, '' where there is none."""
    return next((row.name for row in rows if row.id == number), "")


def _role(body: dict[str, Any], roles: Sequence[Role]) -> Role | None:
    """None where none is given. Raises InvalidRequest."""
    if body.get("role") in (None, ""):
        return None
    if body["role"] not in roles:
        raise wrong("role", body["role"], f"one of {', '.join(roles)}")
    return cast(Role, body["role"])


def _limits(body: dict[str, Any], services: Services) -> dict[str, Any]:
    """Those that are given, by their names in `Limits`. Raises InvalidRequest."""
    found: dict[str, Any] = {name: integer(body[name] or 0, name, 0, INT32_MAX) for name in COUNTED if name in body}
    if "models" in body:
        found["models"] = _names(body["models"])
    if "expires" in body:
        found["expires"] = expires(body)
        if services.access.has_expired(Limits(**found)):
            raise InvalidRequest(f"expires is {body['expires']}, which is over.", param="expires", remedy="Choose a later day, or revoke the key.")
    return found


def _names(value: Any) -> tuple[str, ...]:
    """Of models: a list, or text with commas. They need not be served yet."""
    if value is None or isinstance(value, str):
        value = (value or "").split(",")
    if not isinstance(value, list) or len(value) > MOST_MODELS:
        raise wrong("models", value, f"a list of at most {MOST_MODELS} names")
    found = [text(item, f"models[{place}]").strip() for place, item in enumerate(value)]
    for place, name in enumerate(found):
        if len(name) > MOST_NAME_CHARS or not name.isprintable():
            raise InvalidRequest(f"models[{place}] must be at most {MOST_NAME_CHARS} printable characters.", param="models")
    return tuple(dict.fromkeys(filter(None, found)))


def _without_password(person: Person) -> dict[str, Any]:
    return {name: getattr(person, name) for name in ("id", "name", "role", "created", "changed")}
