"""Long work: what runs, how far it is, what it says, and ending it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, g, render_template, request

from appliance.http.admin_audit import noted
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.pages import guarded
from appliance.jobs import LOG_BYTES, OVER, Job


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_jobs", __name__))

    @routes.get("/admin/jobs")
    @needs("admin")
    def page() -> str:
        return render_template("jobs.html", person=g.signed.session.person, here="jobs", jobs=_all(services))

    @routes.get("/admin/jobs/<int:number>")
    @needs("admin")
    def one_page(number: int) -> str:
        job = services.jobs.find(number)
        words, end = services.jobs.log(job)
        return render_template("job.html", person=g.signed.session.person, here="jobs", job=as_shown(services, job), words=words, end=end, whole=end < LOG_BYTES)

    @routes.get("/admin/api/jobs")
    @needs("admin")
    def api() -> Response:
        return reply({"jobs": _all(services)})

    @routes.get("/admin/api/jobs/<int:number>")
    @needs("admin")
    def follow(number: int) -> Response:
        """?start= is where the log was read to, in bytes; the answer has what came since, and `end`."""
        job = services.jobs.find(number)
        words, end = services.jobs.log(job, request.args.get("start", 0, int))
        return reply(as_shown(services, job) | {"log": words, "end": end})

    @routes.post("/admin/api/jobs/<int:number>/cancel")
    @needs("admin")
    def cancel(number: int) -> Response:
        services.jobs.cancel(number)
        noted(services, "job.cancel", f"job {number}")
        return reply(as_shown(services, services.jobs.find(number)))

    return routes


def begun(services: Services, title: str, steps: Callable[[Path], Sequence[Sequence[str]]]) -> dict[str, Any]:
    """A new job in the name of whoever is signed in, as the API has it. See Jobs.submit."""
    job = services.jobs.submit(title, g.signed.session.person.name, steps)
    noted(services, "job.start", f"job {job.number}", title=title)
    return as_shown(services, job)


def as_shown(services: Services, job: Job) -> dict[str, Any]:
    """A job as the API has it. share: of the step that runs, 0 to 1, or None."""
    return {
        "number": job.number, "title": job.title, "by": job.by, "state": job.state, "why": job.why, "made_at": job.made_at, "began_at": job.began_at,
        "ended_at": job.ended_at, "step": job.step + 1, "steps": len(job.steps), "over": job.state in OVER, "ending": bool(job.cancelled_at) and job.state == "running",
    } | (services.jobs.progress(job) if job.state == "running" else {"share": None, "label": ""})  # fmt: skip


def _all(services: Services) -> list[dict[str, Any]]:
    return [as_shown(services, job) for job in services.jobs.all()]
