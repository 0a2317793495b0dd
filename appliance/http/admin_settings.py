"""The settings: what holds now, where it comes from, and what may be changed here."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g, render_template

from appliance.config import CHANGEABLE, SAVED_FILE, SETTINGS, data_dir
from appliance.errors import ConfigError, InvalidRequest
from appliance.http.admin_audit import acting, noted
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.incoming import read_body
from appliance.http.pages import guarded
from appliance.saved_settings import can_put_back, saved


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_settings", __name__))

    @routes.get("/admin/settings")
    @needs("admin")
    def page() -> str:
        return render_template("settings.html", person=g.signed.session.person, here="settings", found=_shown(services))

    @routes.get("/admin/api/settings")
    @needs("admin")
    def api() -> Response:
        return reply(_shown(services))

    @routes.post("/admin/api/settings")
    @needs("admin")
    def change() -> Response:
        """{"name": value, ...}; null takes a setting out of the page's file again."""
        body = read_body()
        if not body:
            raise InvalidRequest("Nothing is to be changed.", remedy="Send names and values of settings.")
        before = saved(data_dir(services.config))
        services.change_settings(body)
        services.trail.changed(acting(), before, saved(data_dir(services.config)))
        return reply(_shown(services))

    @routes.post("/admin/api/settings/put-back")
    @needs("admin")
    def put_back() -> Response:
        before = saved(data_dir(services.config))
        services.change_settings(None)
        noted(services, "settings.put_back")
        services.trail.changed(acting(), before, saved(data_dir(services.config)))
        return reply(_shown(services))

    return routes


def _shown(services: Services) -> dict[str, Any]:
    """Every setting. pending: what a restart would make of it, where that is another value."""
    config = services.config
    try:
        next_, fault = services.pending(), ""
    except ConfigError as error:
        next_, fault = config, error.message
    running, began, later = config.shown(), services.began_with.shown(), next_.shown()
    values = {setting.name: (running if setting.reload else began)[setting.name] for setting in SETTINGS}
    rows = [
        {
            "name": setting.name, "value": values[setting.name], "default": _plain(setting.default), "help": setting.help, "group": setting.group,
            "unit": setting.unit, "kind": setting.kind, "choices": list(setting.choices), "source": _source(next_.sources.get(setting.name, "default")),
            "changeable": setting in CHANGEABLE, "needs_restart": not setting.reload,
            "pending": later[setting.name] if later[setting.name] != values[setting.name] else None,
        }
        for setting in SETTINGS
    ]  # fmt: skip
    return {"settings": rows, "can_put_back": can_put_back(data_dir(config)), "fault": fault}


def _source(source: str) -> str:
    return "this page" if source.endswith(SAVED_FILE) else source


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
