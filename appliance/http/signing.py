"""Signing in and out of the admin pages: forms that work without JavaScript, a cookie, and who may open which page."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from flask import Blueprint, Response, g, redirect, render_template, request

from appliance.access.people import Person, Role, Session
from appliance.access.service import Signed
from appliance.auth import Auth, sent_key
from appliance.errors import ApplianceError, AuthenticationFailed, NotSignedIn, PermissionDenied
from appliance.http import keys
from appliance.http.admin_audit import noted
from appliance.http.contract import Services, needs, public
from appliance.http.pages import guarded
from appliance.trail.entries import By

COOKIE = "appliance_session"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
HOMES: dict[Role, str] = {"reviewer": "/admin/answers", "user": "/"}
"""Where those begin for whom the first admin page is not."""
SIGN_IN, FIRST, HOME, API = "/admin/sign-in", "/admin/first", "/admin", "/admin/api/"


def check(services: Services, role: Role | Literal["any"]) -> None:
    """Put who is signed in into `g.signed`. A key with the role admin does for the API what a session of an admin does; browsers do not send
    it by themselves, so no page has to be shown. Raises NotSignedIn, PermissionDenied for another role or for a form of another site, and what
    `keys.identify` raises."""
    signed = services.access.signed_in(request.cookies.get(COOKIE, ""))
    if signed is None and request.path.startswith(API) and sent_key(request.headers):
        signed = _by_key(services)
    elif signed is None:
        raise NotSignedIn("Nobody is signed in.", remedy=f"Sign in at {SIGN_IN}.")
    elif request.method not in SAFE:
        g.signed = signed  # before anything is refused: its cookie may have a new token
        own_page()
    g.signed = signed
    person = signed.session.person
    if role != "any" and person.role not in (role, "admin"):
        raise PermissionDenied(f"This needs the role {role}; {person.name} has {person.role}.", remedy="An administrator can change it.")


def _by_key(services: Services) -> Signed:
    key = keys.identify(services)
    return Signed(Session(b"", Person(0, f"key {key.name}", key.role, "", 0.0, 0.0), 0.0, 0.0, 0.0, *_seen()))


def own_name(auth: Auth) -> None:
    """A stranger's domain can be made to resolve to this machine, and its pages would then be of one origin with ours. Raises PermissionDenied."""
    if not auth.is_ours(request.host):
        raise PermissionDenied(
            f"The admin pages are not opened under the name {request.host[:100]!r}.",
            remedy="Open them by the machine's IP address or local name, or set `names` to the domain name it has.",
        )


def own_page() -> None:
    """A cookie goes along with what other sites make a browser send, so a change must come from a page of ours. Raises PermissionDenied.

    Browsers say so in Sec-Fetch-Site; older ones, and all of them without TLS, name the page's origin.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin", "")
    if site == "same-origin" or (site is None and origin.partition("://")[2] == request.host):
        return
    raise PermissionDenied("This was not sent by a page of this service.", remedy="Open the admin page and do it there.")


def set_cookie(response: Response, token: str) -> None:
    """Strict: no other site's link opens the pages as whoever is signed in. Secure also behind a proxy that speaks TLS for us."""
    secure = request.is_secure or request.headers.get("Origin", "").startswith("https://")
    response.set_cookie(COOKIE, token, httponly=True, secure=secure, samesite="Strict", path=HOME)


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("signing", __name__))

    @routes.get(SIGN_IN)
    @public
    def form() -> Response | str:
        if services.access.code:
            return redirect(FIRST)  # type: ignore[return-value]
        return render_template("sign_in.html", to=_inside(request.args.get("to")))

    @routes.post(SIGN_IN)
    @public
    def sign_in() -> tuple[str, int] | Response:
        own_page()
        to, name = _inside(request.form.get("to")), request.form.get("name", "")
        try:
            token, session = services.access.sign_in(name, request.form.get("password", ""), *_seen())
        except ApplianceError as error:
            _refused(services, error, name)
            return render_template("sign_in.html", to=to, name=name, error=error), error.status
        services.trail.note(By("person", session.person.name, _seen()[0]), "session.begin")
        return _entered(token, HOMES.get(session.person.role, to) if to == HOME else to)

    @routes.get(FIRST)
    @public
    def first() -> Response | str:
        if not services.access.code:
            return redirect(SIGN_IN)  # type: ignore[return-value]
        return render_template("first.html", code=request.args.get("code", ""))

    @routes.post(FIRST)
    @public
    def make_first() -> tuple[str, int] | Response:
        own_page()
        given = {field: request.form.get(field, "") for field in ("code", "name", "password")}
        try:
            token, session = services.access.make_first(*given.values(), *_seen())
        except ApplianceError as error:
            _refused(services, error, "", "first")
            return render_template("first.html", code=given["code"], name=given["name"], error=error), error.status
        first = By("person", session.person.name, _seen()[0])
        services.trail.note(first, "person.add", first.name, role=session.person.role)
        services.trail.note(first, "session.begin")
        return _entered(token, HOME)

    @routes.post("/admin/sign-out")
    @needs("any")
    def sign_out() -> Response:
        services.access.sign_out(request.cookies.get(COOKIE, ""))
        noted(services, "session.end")
        g.signed = None
        response = redirect(SIGN_IN, 303)
        response.delete_cookie(COOKIE, path=HOME)
        return response  # type: ignore[return-value]

    return routes


def _entered(token: str, to: str) -> Response:
    response = redirect(to, 303)
    set_cookie(response, token)  # type: ignore[arg-type]
    return response  # type: ignore[return-value]


def _refused(services: Services, error: ApplianceError, name: str, what: str = "") -> None:
    """Into the audit log, where a password or the code was looked at: tries that were told to wait would fill it. A name that nobody has is left
    out, since some people type their password there."""
    if isinstance(error, (AuthenticationFailed, PermissionDenied)):
        known = [person.name for person in services.access.everybody() if person.name.casefold() == name.strip().casefold()]
        services.trail.note(By("person", *known[:1] or [""], _seen()[0]), "session.refuse", what)


def _seen() -> tuple[str, str]:
    return request.remote_addr or "", request.headers.get("User-Agent", "")


def _inside(to: str | None) -> str:
    """A page of ours to go on to; anything else is the first one."""
    return to if to and to.startswith(HOME) and not urlsplit(to).netloc and "\\" not in to and to.isprintable() else HOME
