"""Is it alive, is it ready, how is it doing. Answered from what is known already: no lock, no engine, no queue."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from appliance.clock import Clock, monotonic
from appliance.errors import ApplianceError, Draining, ModelFailed, ModelLoading
from appliance.http.answering import reply
from appliance.http.contract import Services, for_metrics, public
from appliance.pipeline import Engine

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = Blueprint("health", __name__)
    movement = Movement()

    @routes.get("/health")
    @routes.get("/v1/health")
    @public
    def health() -> Response:
        error = why_not_ready(services)
        if error is None:
            return reply({"status": "ok"})
        words = {"model_loading": "loading model", "draining": "stopping"}
        return _refusal(error, {"status": words.get(error.code, "error")})

    @routes.get("/livez")
    @public
    def livez() -> Response:
        return reply({"status": "ok"})

    @routes.get("/readyz")
    @public
    def readyz() -> Response:
        error = why_not_ready(services)
        states = {name: model_state(engine) for name, engine in services.pipeline.engines.items()}
        stuck = [
            name
            for name, engine in services.pipeline.engines.items()
            if movement.still_s(name, engine) > services.config.hang_timeout_s / 2
        ]
        for name in stuck:
            states[name]["reason"] = "work is waiting and no step was completed for a while"
        asked = {name: states[name] for name, engine in services.pipeline.engines.items() if not engine.aside}
        if error is None and all(name in stuck or state["state"] != "ready" for name, state in asked.items()):
            error = ModelFailed(f"The engine of {', '.join(stuck)} does not move.", retry_after_s=5)
        if error is None:
            return reply({"status": "ready", "models": states})
        return _refusal(error, {"status": "not ready", "models": states})

    @routes.get("/metrics")
    @for_metrics
    def metrics() -> Response:
        return Response(services.metrics.render(), content_type=METRICS_TYPE)

    return routes


def _refusal(error: ApplianceError, more: dict[str, Any]) -> Response:
    response = reply({**more, **error.body()}, 503)
    response.headers["Retry-After"] = str(int(error.retry_after_s or 5))
    return response


def why_not_ready(services: Services) -> ApplianceError | None:
    """Why no request can be answered now, or None. One model that is ready is enough."""
    engines = services.pipeline.engines
    if services.pipeline.draining:
        return Draining("The service is stopping.", retry_after_s=10)
    states = {name: engine.supervisor.status for name, engine in engines.items() if not engine.aside}
    if any(status.state == "ready" for status in states.values()):
        return None
    for name, status in states.items():
        if status.state in ("loading", "absent"):
            progress = f" ({status.phase}, {status.progress:.0%})" if status.phase else ""
            reason = f" after a restart: {status.reason}" if status.reason else ""
            return ModelLoading(f"The model {name} is still loading{progress}{reason}.", retry_after_s=5)
    for name, status in states.items():
        if status.state == "failed":
            return ModelFailed(f"The model {name} is not available: {status.reason}", retry_after_s=60)
    return Draining("The service is stopping.", retry_after_s=10)


def model_state(engine: Engine) -> dict[str, Any]:
    """One model's state for /readyz."""
    status = engine.supervisor.status
    info = status.info
    return {
        "state": status.state,
        "task": engine.task,
        "reason": status.reason or ("the first request for it starts it" if engine.aside and status.state == "absent" else ""),
        "phase": status.phase,
        "progress": status.progress,
        "restarts": dict(status.restarts),
        "pid": status.pid,
        "threads": info.threads if info else None,
        "cpus": list(info.cpus) if info else None,
        "requests_waiting": engine.admission.waiting,
        "sequences_running": status.load.get("running", 0),
        "steps": engine.client.steps,
    }


class Movement:
    """For how long an engine has had work without completing a step, as seen by whoever asks now and then.

    The supervisor kills such an engine in the end; this tells a load balancer earlier.
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}

    def still_s(self, name: str, engine: Engine) -> float:
        """Seconds without a step while work is waiting; 0 when there is none."""
        now, steps = self._clock(), engine.client.steps
        busy = engine.admission.waiting or engine.supervisor.status.load.get("running", 0)
        seen, since = self._seen.get(name, (steps, now))
        if not busy or seen != steps:
            since = now
        self._seen[name] = (steps, since)
        return now - since
