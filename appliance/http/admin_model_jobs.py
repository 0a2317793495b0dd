"""Long work on models, each a job: adding by path and from the hub, checking, removing, quantizing, converting, comparing, certifying."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from flask import Blueprint, Response

from appliance.errors import InvalidRequest
from appliance.http import json_body
from appliance.http.admin_jobs import begun
from appliance.http.admin_models import find
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.incoming import read_body
from appliance.http.json_body import text, wrong
from appliance.http.openapi_admin import LIMITS
from appliance.http.pages import guarded
from appliance.jobs import GIVEN, WORK


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_model_jobs", __name__))

    def submit(title: str, steps: Any) -> Response:
        return reply(begun(services, title, steps))

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
        name = find(services, read_body().get("name")).name
        return submit(f"Verify {name}", lambda folder: [["models", "verify", "--", name]])

    @routes.post("/admin/api/models/remove")
    @needs("admin")
    def remove() -> Response:
        """{"name"}, of a model that is not served."""
        model = find(services, read_body().get("name"))
        if set(model.names) & set(services.pipeline.engines):
            raise InvalidRequest(f"{model.name} is being served.", param="name", remedy="Unload it first.")
        return submit(f"Remove {model.name}", lambda folder: [["models", "remove", "--yes", "--", model.name]])

    @routes.post("/admin/api/models/quantize")
    @needs("admin")
    def quantize() -> Response:
        """{"name", "type"}: a smaller model beside it, NAME-TYPE."""
        body = read_body()
        model, kind = find(services, text(body.get("name"), "name")), text(body.get("type"), "type")
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
        names = [find(services, name).name for name in _list(body.get("names"), "names")]
        reference = [f"--reference={find(services, body['reference']).name}"] if body.get("reference") else []
        return submit(f"Compare {', '.join(names)}", lambda folder: [["models", "eval", *reference, "--", *names]])

    @routes.post("/admin/api/models/certify")
    @needs("admin")
    def certify() -> Response:
        """{"name", "reference", limits by name}: measured on this processor; when all limits hold, the model has its certificate."""
        body = read_body()
        model = find(services, text(body.get("name"), "name"))
        if not any(body.get(name) is not None for name in LIMITS):
            raise InvalidRequest("No limit is set.", remedy="Say what the model must reach.")
        limits = {name: json_body.number(body[name], name, 0, 1e9) for name in LIMITS if body.get(name) is not None}
        reference = [f"--reference={find(services, body['reference']).name}"] if body.get("reference") else []

        def steps(folder: Path) -> list[list[str]]:
            (folder / GIVEN / "limits.toml").write_text(tomli_w.dumps(limits))
            return [["models", "certify", f"--limits={folder / GIVEN / 'limits.toml'}", *reference, "--", model.name]]

        return submit(f"Certify {model.name}", steps)

    return routes


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
