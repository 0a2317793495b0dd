"""The pages: HTML, style sheets and scripts from the folder `web`. Nothing is loaded from another host, and no script stands in a page."""

from __future__ import annotations

import time
from pathlib import Path

from flask import Blueprint, Response, render_template, request, send_from_directory

from appliance.clock import utc_date
from appliance.errors import NotFound
from appliance.http.contract import Services, public

POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self'",
        "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
SERVED = (".css", ".js", ".svg")
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer a form would name no origin, and so could not be told from another site's
    "Cache-Control": "no-cache",  # asked for again each time, by its ETag: after an upgrade page and script belong together
}


def web_folder() -> Path:
    """Templates and static files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "web"
    return inside if inside.is_dir() else package.parent / "web"


def guarded(routes: Blueprint) -> Blueprint:
    """The same blueprint, whose responses carry HEADERS."""

    @routes.after_request
    def guard(response: Response) -> Response:
        response.headers.update(HEADERS)
        if request.path.startswith("/admin"):
            response.headers["Cache-Control"] = "no-store"  # nothing of it stays behind the Back button after signing out
        return response

    return routes


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    folder = web_folder()
    routes = guarded(Blueprint("pages", __name__, template_folder=str(folder / "templates")))

    @routes.app_template_filter("clock")
    def clock(at: float) -> str:
        return time.strftime("%H:%M", time.gmtime(at))

    @routes.app_template_filter("day")
    def day(at: float) -> str:
        return utc_date(at)

    @routes.get("/")
    @public
    def chat() -> str:
        return render_template("chat.html")

    @routes.get("/help")
    @public
    def help_page() -> str:
        return render_template("help.html", base=request.host_url.rstrip("/"), ca=services.tls.ca is not None)

    @routes.get("/static/<path:name>")
    @public
    def static(name: str) -> Response:
        if not name.endswith(SERVED):
            raise NotFound(f"There is no {name[:100]!r} here.")
        return send_from_directory(folder / "static", name)

    return routes
