"""The box itself: versions, hardware, where things lie, the certificate, backups and the log."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib import metadata
from typing import Any

import psutil
from flask import Blueprint, Response, g, render_template, request

from appliance.config import data_dir
from appliance.doctor.service import Doctor
from appliance.engine.placement import describe
from appliance.errors import NotFound
from appliance.http import admin_backups
from appliance.http.answering import reply
from appliance.http.contract import Services, needs, public
from appliance.http.json_body import wrong
from appliance.http.pages import guarded
from appliance.logs import LEVELS, RECENT

PACKAGES = ("llama-cpp-python", "onnxruntime", "faiss-cpu", "flask", "gunicorn", "sqlite-utils", "numpy")


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_system", __name__))

    @routes.get("/admin/system")
    @needs("admin")
    def page() -> str:
        level, words = _wished()
        shown = {"level": level, "words": words, "lines": RECENT.lines(0, level, words)}
        return render_template(
            "system.html", person=g.signed.session.person, here="system", levels=LEVELS, log=shown, found=_shown(services), tls=services.tls.summary(),
            doctor=_examined(services), backups=admin_backups.shown(services),
        )  # fmt: skip

    @routes.get("/admin/api/system")
    @needs("admin")
    def api() -> Response:
        return reply(_shown(services))

    @routes.get("/admin/api/tls")
    @needs("admin")
    def certificate() -> Response:
        return reply(services.tls.summary())

    @routes.get("/ca.crt")
    @public
    def authority() -> Response:
        if services.tls.ca is None:
            raise NotFound("This service has no certificate authority of its own.", remedy="It has one where it runs with tls = own.")
        return Response(services.tls.ca, content_type="application/x-x509-ca-cert")

    @routes.get("/admin/api/log")
    @needs("admin")
    def log() -> Response:
        """?after= the number of the last line that is known; ?level= and ?q= filter."""
        level, words = _wished()
        return reply({"lines": [asdict(line) for line in RECENT.lines(request.args.get("after", 0, int), level, words)]})

    return routes


def _wished() -> tuple[str, str]:
    level = request.args.get("level", "info")
    if level not in LEVELS:
        raise wrong("level", level, f"one of {', '.join(LEVELS)}")
    return level, request.args.get("q", "")


def _examined(services: Services) -> Doctor:
    """Not before the first look, which may wait for systemd: the page comes at once all the same."""
    if request.args.get("again"):
        services.doctor.look()
    return services.doctor


def _shown(services: Services) -> dict[str, Any]:
    memory, folder = psutil.virtual_memory(), data_dir(services.config)
    return {
        "version": _version("appliance"),
        "started": services.started_unix,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "memory_bytes": memory.total,
        "data_dir": str(folder),
        "files": {path.name: path.stat().st_size for path in sorted(folder.glob("*.db")) if path.is_file()},
        "packages": {name: _version(name) for name in PACKAGES},
        "cores": describe(services.fleet.topology, services.fleet.placement),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
