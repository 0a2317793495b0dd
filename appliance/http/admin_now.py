"""The admin's first page: how the box is doing, and what needs attention."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import psutil
from flask import Blueprint, Response, g, render_template

from appliance.backup import shelf
from appliance.clock import utc_date
from appliance.config import data_dir
from appliance.errors import ApplianceError
from appliance.history import Sample
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.health import model_state, why_not_ready
from appliance.http.pages import guarded

COUNTED_S = 20.0
FULL_DISK, FULL_MEMORY, HOT_C = 0.92, 0.92, 85.0
OLD_BACKUP_S = 3 * 86_400.0


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_now", __name__))

    @routes.get("/admin")
    @needs("admin")
    def page() -> str:
        return render_template("now.html", person=g.signed.session.person, here="now", now=now(services), days=_days(services))

    @routes.get("/admin/api/usage")
    @needs("admin")
    def usage() -> Response:
        """The last 30 days."""
        return reply({"days": _days(services), "by_model": {name: asdict(amount) for name, amount in services.usage.by("model").items()}})

    @routes.get("/admin/api/now")
    @needs("admin")
    def api() -> Response:
        return reply(now(services))

    return routes


def now(services: Services) -> dict[str, Any]:
    """Everything the page shows. Times in seconds, sizes in bytes, shares 0 to 1."""
    engines = {name: engine for name, engine in services.pipeline.engines.items()}
    samples = services.history.samples()
    last = [sample for sample in samples if sample.at > time.time() - 60]
    hits, looked = sum(s.hits for s in samples), sum(s.hits + s.misses for s in samples)
    firsts = [s.first_token_s for s in last if s.first_token_s is not None]
    found = {
        "at": time.time(),
        "started": services.started_unix,
        "models": {name: model_state(engine) for name, engine in engines.items()},
        "running": sum(engine.admission.running for engine in engines.values()),
        "waiting": sum(engine.admission.waiting for engine in engines.values()),
        "tokens_per_s": last[-1].tokens_per_s if last else 0.0,
        "first_token_s": sum(firsts) / len(firsts) if firsts else None,
        "hit_share": hits / looked if looked else None,
        "cache": _cache(services),
        "machine": _machine(services),
        "history": [asdict(sample) for sample in samples],
        "minutes": _minutes(samples),
    }
    return found | {"attention": _attention(services, found)}


def _days(services: Services) -> list[dict[str, Any]]:
    return [asdict(amount) | {"at": day * 86_400} for day, amount in services.usage.days()]


def _minutes(samples: list[Sample]) -> list[dict[str, Any]]:
    """The samples six by six, the newest first."""
    found = []
    for end in range(len(samples), 0, -6):
        some = samples[max(0, end - 6):end]
        firsts = [sample.first_token_s for sample in some if sample.first_token_s is not None]
        found.append({
            "at": some[-1].at, "tokens_per_s": sum(s.tokens_per_s for s in some) / len(some), "answers": sum(s.answers for s in some),
            "hits": sum(s.hits for s in some), "first_token_s": sum(firsts) / len(firsts) if firsts else None, "cpu": sum(s.cpu for s in some) / len(some),
        })  # fmt: skip
    return found


def _cache(services: Services) -> dict[str, Any] | None:
    recall = services.pipeline.recall
    try:
        return recall.cache.stats(COUNTED_S) if recall else None
    except ApplianceError as error:
        return {"degraded": error.message}


def _machine(services: Services) -> dict[str, Any]:
    memory, folder = psutil.virtual_memory(), data_dir(services.config)
    while not folder.exists():
        folder = folder.parent
    disk = psutil.disk_usage(str(folder))
    hottest = [entry.current for entries in getattr(psutil, "sensors_temperatures", dict)().values() for entry in entries]
    return {
        "cpu_by_core": [share / 100 for share in psutil.cpu_percent(percpu=True)],
        "memory": {"total": memory.total, "free": memory.available},
        "disk": {"total": disk.total, "free": disk.free, "folder": str(folder)},
        "temperature_c": max(hottest) if hottest else None,
    }


def _attention(services: Services, found: dict[str, Any]) -> list[str]:
    """Sentences: what is wrong and what to do."""
    words = []
    if services.trail.reason:
        words.append(f"The audit log is not written: {services.trail.reason}")
    not_ready = why_not_ready(services)
    if not_ready:
        words.append(not_ready.message)
    for name, state in found["models"].items():
        if state["state"] == "failed":
            words.append(f"The model {name} does not run: {state['reason']}")
        elif state["restarts"]:
            words.append(f"The engine of {name} was restarted {sum(state['restarts'].values())} times since the start ({', '.join(state['restarts'])}).")
    cache, machine = found["cache"], found["machine"]
    if cache is None:
        words.append("No answers are remembered (no_cache).")
    elif cache.get("degraded"):
        words.append(f"The cache cannot keep anything: {cache['degraded']}")
    if 1 - machine["disk"]["free"] / machine["disk"]["total"] > FULL_DISK:
        words.append(f"The disk of {machine['disk']['folder']} is nearly full. Remove a model, or lower cache_mb.")
    if 1 - machine["memory"]["free"] / machine["memory"]["total"] > FULL_MEMORY:
        words.append("Memory is nearly used up. Serve a smaller model, or fewer of them.")
    if (machine["temperature_c"] or 0) > HOT_C:
        words.append(f"The processor is at {machine['temperature_c']:.0f} °C and will slow down. Clean the fans.")
    backup = shelf.newest(services.config)
    if backup and time.time() - backup.made > OLD_BACKUP_S:
        words.append(f"The last good backup is of {utc_date(backup.made)}. See on the page System whether backups can be made.")
    return words
