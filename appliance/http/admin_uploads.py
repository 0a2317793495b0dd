"""A model from a browser: the file in pieces, then a job that adds it."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

from flask import Blueprint, Response, g, request

from appliance import catalog
from appliance.errors import InvalidRequest
from appliance.http.admin_audit import noted
from appliance.http.admin_jobs import begun
from appliance.http.admin_model_jobs import add_words
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.incoming import read_body
from appliance.http.json_body import integer, read_bytes, text, wrong
from appliance.http.pages import guarded
from appliance.jobs import GIVEN


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_uploads", __name__))

    @routes.post("/admin/api/uploads")
    @needs("admin")
    def begin() -> Response:
        """{"name", "size_bytes"}: a GGUF file; one of that name and size that broke off is gone on with, from `received` on."""
        body = read_body()
        upload = services.uploads.begin(text(body.get("name"), "name"), integer(body.get("size_bytes"), "size_bytes", 0, 1 << 50))
        noted(services, "upload.begin", upload.name, size_bytes=upload.size_bytes, received=upload.received)
        return reply(asdict(upload))

    @routes.get("/admin/api/uploads/<int:number>")
    @needs("admin")
    def how_far(number: int) -> Response:
        return reply(asdict(services.uploads.find(number)))

    @routes.post("/admin/api/uploads/<int:number>")
    @needs("admin")
    def piece(number: int) -> Response:
        """A piece as the body; ?offset= says where it begins."""
        data = read_bytes(request)
        g.story.body_read = True
        return reply(asdict(services.uploads.append(number, request.args.get("offset", -1, int), data)))

    @routes.post("/admin/api/uploads/<int:number>/drop")
    @needs("admin")
    def drop(number: int) -> Response:
        services.uploads.drop(number)
        noted(services, "upload.drop", f"upload {number}")
        return reply({"dropped": number})

    @routes.post("/admin/api/uploads/<int:number>/add")
    @needs("admin")
    def finish(number: int) -> Response:
        """{"name", "sha256"}: all of it is here; becomes a model of the catalog."""
        body = read_body()
        name, sha256 = body.get("name"), body.get("sha256") or ""
        if not isinstance(sha256, str) or not re.fullmatch("([0-9a-fA-F]{64})?", sha256.strip()):
            raise wrong("sha256", sha256, "64 hexadecimal digits")
        upload = services.uploads.find(number)
        add_words("", name)  # mistakes are found before the upload is moved
        if taken := catalog.read_catalog(services.config).get(name or upload.name.removesuffix(".gguf")):
            raise InvalidRequest(f"There is a model {taken.name} already.", param="name", remedy="Give this one another name.")

        def steps(folder: Path) -> list[list[str]]:
            return [add_words(str(services.uploads.take(number, folder / GIVEN)), name, sha256)]

        return reply(begun(services, f"Add {upload.name}", steps))

    return routes
