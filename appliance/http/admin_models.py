"""The models: what there is and what is served, and loading, unloading and choosing while the service runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, g, render_template

from appliance import catalog
from appliance.catalog import CatalogModel
from appliance.errors import InvalidRequest
from appliance.http.admin_audit import noted
from appliance.http.admin_jobs import as_shown
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.health import model_state
from appliance.http.incoming import read_body
from appliance.http.json_body import text
from appliance.http.pages import guarded
from appliance.jobs import Job

CERTIFICATE = "certificate.json"
TYPES = {"gguf": ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"), "onnx": ("int8-block", "int8", "int4-block")}
"""Offered in the page; the command knows more, and says so."""


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_models", __name__))

    @routes.get("/admin/models")
    @needs("admin")
    def page() -> str:
        return render_template("models.html", person=g.signed.session.person, here="models", types=TYPES, found=_shown(services))

    @routes.get("/admin/api/models")
    @needs("admin")
    def api() -> Response:
        return reply(_shown(services))

    @routes.post("/admin/api/models/load")
    @needs("admin")
    def load() -> Response:
        """{"name"}. Serve one more; the engines of the others may move."""
        name = _name()
        going = [job for job in services.jobs.all() if job.state in ("waiting", "running") and job.steps[0][:2] == ("models", "remove")]
        if any(job.steps[0][-1] in find(services, name).names for job in going):
            raise InvalidRequest(f"{name} is just being removed.", param="name", remedy="Cancel that job first.")
        services.fleet.serve(name)
        noted(services, "model.serve", name)
        return reply(_shown(services))

    @routes.post("/admin/api/models/unload")
    @needs("admin")
    def unload() -> Response:
        """{"name"}. What it is writing may end first."""
        name = _name()
        services.fleet.withdraw(name)
        noted(services, "model.withdraw", name)
        return reply(_shown(services))

    @routes.post("/admin/api/models/default")
    @needs("admin")
    def default() -> Response:
        """{"name"}. The one that answers where none is named."""
        name = _name()
        services.fleet.prefer(name)
        noted(services, "model.default", name)
        return reply(_shown(services))

    @routes.post("/admin/api/models/restart")
    @needs("admin")
    def restart() -> Response:
        """{"name"}. Also one that was given up."""
        name = _name()
        services.fleet.restart(name)
        noted(services, "model.restart", name)
        return reply(_shown(services))

    return routes


def _name() -> str:
    return text(read_body().get("name"), "name")


def find(services: Services, name: Any) -> CatalogModel:
    """A model of the catalog by its name in a request. Raises InvalidRequest, ModelNotFound."""
    return catalog.read_catalog(services.config).find(text(name, "name"))


def _shown(services: Services) -> dict[str, Any]:
    """Every model of the catalog, and what is served under another name."""
    found, engines = catalog.read_catalog(services.config), dict(services.pipeline.engines)
    rows = []
    for model in found.models:
        served = next((name for name in model.names if name in engines), None)
        rows.append(_row(model) | {"served": served, "engine": _engine(services, served), "default": bool(engines) and served == next(iter(engines))})
    listed = {row["served"] for row in rows}
    others = [name for name, engine in engines.items() if name not in listed and not engine.hidden]
    working: list[Job] = [job for job in services.jobs.all() if job.state in ("waiting", "running")]
    return {
        "models": rows, "others": [{"name": name, "engine": _engine(services, name), "default": name == next(iter(engines))} for name in others],
        "uploads": [asdict(upload) for upload in services.uploads.unfinished()],
        "kept": services.fleet.is_kept, "jobs": [as_shown(services, job) for job in working],
    }  # fmt: skip


def _engine(services: Services, name: str | None) -> dict[str, Any] | None:
    engine = services.pipeline.engines.get(name or "")
    return model_state(engine) | {"aside": engine.aside} if engine else None


def _row(model: CatalogModel) -> dict[str, Any]:
    paper = model.manifest
    told = paper and {
        "task": paper.task, "format": paper.format, "quantization": paper.quantization, "size_bytes": paper.size_bytes, "licence": paper.licence,
        "context_tokens": paper.context_tokens, "description": paper.description, "source": paper.provenance.source, "sha256": paper.main.sha256,
    }  # fmt: skip
    return {"name": model.name, "shipped": model.shipped, "reason": model.reason, "paper": told, "certificate": _certificate(model)}


def _certificate(model: CatalogModel) -> dict[str, Any] | None:
    """What its certificate says, None where there is none that can be read."""
    try:
        found = json.loads((model.folder / CERTIFICATE).read_text("utf-8"))
        return found if isinstance(found, dict) else None
    except (OSError, ValueError):
        return None
