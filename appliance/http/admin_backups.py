"""Backups on the system page: making and checking them are jobs; downloading and deleting are done at once."""

from __future__ import annotations

import time
from typing import Any

from flask import Blueprint, Response, send_file

from appliance.backup import shelf
from appliance.errors import ApplianceError
from appliance.http.admin_audit import noted
from appliance.http.admin_jobs import begun
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.incoming import read_body
from appliance.http.json_body import text, wrong
from appliance.http.pages import guarded

CONTENTS: dict[str, list[str]] = {"usual": [], "cache": ["--cache"], "models": ["--models"], "all": ["--cache", "--models"]}


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_backups", __name__))

    @routes.get("/admin/api/backups")
    @needs("admin")
    def api() -> Response:
        return reply(shown(services))

    @routes.post("/admin/api/backups")
    @needs("admin")
    def make() -> Response:
        """{"contents": usual, cache, models or all}"""
        contents = read_body().get("contents", "usual")
        if not isinstance(contents, str) or contents not in CONTENTS:
            raise wrong("contents", contents, f"one of {', '.join(CONTENTS)}")
        shelf.folder_of(services.config)  # a stick that is missing is told at once
        return reply(begun(services, "Make a backup", lambda folder: [["backup", "create", *_words(services), *CONTENTS[contents]]]))

    @routes.post("/admin/api/backups/verify")
    @needs("admin")
    def verify() -> Response:
        """{"name"}"""
        name = _named(services).name
        return reply(begun(services, f"Check {name}", lambda folder: [["backup", "verify", *_words(services), "--", name]]))

    @routes.post("/admin/api/backups/delete")
    @needs("admin")
    def delete() -> Response:
        """{"name"}"""
        name = _named(services).name
        shelf.remove(shelf.folder_of(services.config), name)
        noted(services, "backup.remove", name)
        return reply({"deleted": name})

    @routes.get("/admin/api/backups/<path:file>")
    @needs("admin")
    def download(file: str) -> Response:
        found = shelf.find(shelf.folder_of(services.config), file)
        return send_file(found.path.absolute(), mimetype="application/octet-stream", as_attachment=True, download_name=found.name)

    return routes


def shown(services: Services) -> dict[str, Any]:
    """What the page shows. Ages in seconds. problem: why none can be seen or made."""
    found: dict[str, Any] = {"folder": "", "backups": [], "problem": "", "encrypted": False}
    try:
        found["encrypted"] = shelf.passphrase(services.config) is not None
        folder = shelf.folder_of(services.config)
        found["folder"] = str(folder)
        found["backups"] = [
            {"name": one.name, "made": one.made, "age_s": time.time() - one.made, "size_bytes": one.size, "encrypted": one.encrypted, "checked": one.checked, "fault": one.fault}
            for one in shelf.all_of(folder)
        ]
    except ApplianceError as error:
        found["problem"] = str(error)
    return found


def _named(services: Services) -> shelf.Backup:
    return shelf.find(shelf.folder_of(services.config), text(read_body().get("name"), "name"))


def _words(services: Services) -> list[str]:
    """For a command, so that it means the same places as the service."""
    config = services.config
    places = {"config": config.config, "backup-dir": config.backup_dir, "backup-passphrase-file": config.backup_passphrase_file}
    return [f"--{name}={path.absolute()}" for name, path in places.items() if path]
