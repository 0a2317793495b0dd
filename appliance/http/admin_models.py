"""The models: what there is and what is served, adding by upload, by path and from the hub, and long work on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w
from flask import Blueprint, Response, g, render_template

from appliance import catalog
from appliance.catalog import CatalogModel
from appliance.errors import InvalidRequest
from appliance.http import json_body
from appliance.http.admin_audit import noted
from appliance.http.admin_jobs import as_shown, begun
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.health import model_state
from appliance.http.incoming import read_body
from appliance.http.json_body import text, wrong
from appliance.http.openapi_admin import LIMITS
from appliance.http.pages import guarded
from appliance.jobs import GIVEN, WORK, Job

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
        if any(job.steps[0][-1] in _find(services, name).names for job in going):
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

    @routes.post("/admin/api/models/add")
    @needs("admin")
    def add() -> Response:
        """{"source", "name"}: a file or a folder of this machine, or hf:owner/name[:file]."""
        body = read_body()
        source = text(body.get("source"), "source")
        return submit(f"Add {source}", lambda folder: [add_words(source, body.get("name"))])

    @routes.post("/admin/api/models/verify")
    @needs("admin")
    def verify() -> Response:
        """{"name"}: read every byte."""
        name = _find(services, _name()).name
        return submit(f"Verify {name}", lambda folder: [["models", "verify", "--", name]])

    @routes.post("/admin/api/models/remove")
    @needs("admin")
    def remove() -> Response:
        """{"name"}, of a model that is not served."""
        model = _find(services, _name())
        if set(model.names) & set(services.pipeline.engines):
            raise InvalidRequest(f"{model.name} is being served.", param="name", remedy="Unload it first.")
        return submit(f"Remove {model.name}", lambda folder: [["models", "remove", "--yes", "--", model.name]])

    @routes.post("/admin/api/models/quantize")
    @needs("admin")
    def quantize() -> Response:
        """{"name", "type"}: a smaller model beside it, NAME-TYPE."""
        body = read_body()
        model, kind = _find(services, text(body.get("name"), "name")), text(body.get("type"), "type")
        made = f"{model.name}-{kind.lower()}"

        def steps(folder: Path) -> list[list[str]]:
            target = str(folder / WORK / (f"{made}.gguf" if model.readable().format == "gguf" else made))
            return [["models", "quantize", f"--type={kind}", "--", model.name, target], add_words(target, made)]

        return submit(f"Quantize {model.name} to {kind}", steps)

    @routes.post("/admin/api/models/convert")
    @needs("admin")
    def convert() -> Response:
        """{"source", "to", "name"}: of a Hugging Face checkpoint's folder on this machine, or of a GGUF file."""
        body = read_body()
        source, to = text(body.get("source"), "source"), body.get("to") or "gguf"
        if to not in ("gguf", "onnx"):
            raise wrong("to", to, "gguf or onnx")
        name = text(body.get("name") or Path(source).name.removesuffix(".gguf"), "name")

        def steps(folder: Path) -> list[list[str]]:
            target = str(folder / WORK / (f"{name}.gguf" if to == "gguf" else "model"))
            return [["models", "convert", f"--to={to}", "--", source, target], add_words(target, name)]

        if "/" in name:
            raise wrong("name", name, "a name without a slash")
        return submit(f"Convert {source} to {to}", steps)

    @routes.post("/admin/api/models/compare")
    @needs("admin")
    def compare() -> Response:
        """{"names", "reference"}: models of one kind side by side; the table is in the job's log."""
        body = read_body()
        names = [_find(services, name).name for name in _list(body.get("names"), "names")]
        reference = [f"--reference={_find(services, body['reference']).name}"] if body.get("reference") else []
        return submit(f"Compare {', '.join(names)}", lambda folder: [["models", "eval", *reference, "--", *names]])

    @routes.post("/admin/api/models/certify")
    @needs("admin")
    def certify() -> Response:
        """{"name", "reference", limits by name}: measured on this processor; when all limits hold, the model has its certificate."""
        body = read_body()
        model = _find(services, text(body.get("name"), "name"))
        if not any(body.get(name) is not None for name in LIMITS):
            raise InvalidRequest("No limit is set.", remedy="Say what the model must reach.")
        limits = {name: json_body.number(body[name], name, 0, 1e9) for name in LIMITS if body.get(name) is not None}
        reference = [f"--reference={_find(services, body['reference']).name}"] if body.get("reference") else []

        def steps(folder: Path) -> list[list[str]]:
            (folder / GIVEN / "limits.toml").write_text(tomli_w.dumps(limits))
            return [["models", "certify", f"--limits={folder / GIVEN / 'limits.toml'}", *reference, "--", model.name]]

        return submit(f"Certify {model.name}", steps)

    def submit(title: str, steps: Any) -> Response:
        return reply(begun(services, title, steps))

    return routes


def _name() -> str:
    return text(read_body().get("name"), "name")


def _find(services: Services, name: Any) -> CatalogModel:
    return catalog.read_catalog(services.config).find(text(name, "name"))


def _list(value: Any, name: str) -> Sequence[str]:
    """A list, or text with one a line or commas between."""
    if isinstance(value, str):
        value = [part.strip() for part in value.replace(",", "\n").splitlines() if part.strip()]
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise wrong(name, value, "a list of names")
    return value


def add_words(source: str, name: Any, sha256: str = "") -> list[str]:
    """The command that adds a model. Raises InvalidRequest for a name that is no text."""
    more = [f"--name={text(name, 'name')}"] if name not in (None, "") else []
    return ["models", "add", *more, *([f"--sha256={sha256}"] if sha256 else []), "--", source]


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
