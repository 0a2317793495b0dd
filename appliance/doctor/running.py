"""What the running service says of itself: in its own process, or asked over its address by a command."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from appliance.config import Config
from appliance.doctor.facts import Engine
from appliance.logs import RECENT
from appliance.pipeline import Engine as Served

ASK_S = 3.0
DAY_S = 86_400.0
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
MOST_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Running:
    """listener: who has the port: "us", "other" or "nobody", "" where the port is not known. engines: without their memory. pid: of a process
    of the service. log_errors: lines of the last day. metrics: in Prometheus's text."""

    listener: str = ""
    engines: tuple[Engine, ...] = ()
    started_at: float | None = None
    pid: int | None = None
    log_errors: tuple[str, ...] = ()
    metrics: str = ""


def here(engines: Mapping[str, Served], started_at: float) -> Running:
    """Of the service in this process."""
    found = []
    for name, engine in engines.items():
        status = engine.supervisor.status
        threads, cpus = (status.info.threads, tuple(status.info.cpus)) if status.info else (0, ())
        found.append(Engine(name, status.state, status.reason, engine.task, status.pid, threads, cpus, dict(status.restarts)))
    after = time.time() - DAY_S
    errors = tuple(line.text.partition("\n")[0] for line in RECENT.lines(level="error") if line.at > after)
    return Running("us", tuple(found), started_at, os.getpid(), errors)


def ask(config: Config) -> Running:
    """Of the service that listens where the settings say. Never raises: who does not answer as we do is another program."""
    if not config.port:
        return Running()
    secure = config.tls_cert is not None or config.tls == "own"
    try:
        try:
            status, body = _get(config, "/readyz", secure)
            if status == 400:
                raise http.client.HTTPException("plain HTTP where TLS is wanted")
        except (http.client.HTTPException, ConnectionResetError, ssl.SSLError):
            secure = not secure  # it was started with other settings than these
            _, body = _get(config, "/readyz", secure)
    except ConnectionRefusedError:
        return Running("nobody")
    except (http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError):
        return Running("other")
    except OSError:
        return Running()  # this machine has no such address
    try:
        models = json.loads(body)["models"]
        engines = tuple(
            Engine(name, state["state"], state["reason"], state["task"], state["pid"], state["threads"] or 0, tuple(state["cpus"] or ()), dict(state["restarts"]))
            for name, state in models.items()
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        return Running("other")
    pid = next((engine.pid for engine in engines if engine.pid), None)
    return Running("us", engines, _began(pid), pid, metrics=_metrics(config, secure))


def _get(config: Config, path: str, secure: bool, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    host = ANYWHERE.get(config.host, config.host)
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # a question to ourselves, whatever name stands in the certificate
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, config.port, timeout=ASK_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, config.port, timeout=ASK_S)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read(MOST_BYTES)
    finally:
        connection.close()


def _metrics(config: Config, secure: bool) -> str:
    """"" where a key is asked for that does not stand in the settings."""
    try:
        status, body = _get(config, "/metrics", secure, {"Authorization": f"Bearer {config.api_key[0]}"} if config.api_key else {})
    except (OSError, http.client.HTTPException):
        return ""
    return body.decode("utf-8", "replace") if status == 200 else ""


def _began(pid: int | None) -> float | None:
    """When the web worker of an engine began."""
    try:
        worker = psutil.Process(pid).parent() if pid else None
        return worker.create_time() if worker else None
    except psutil.Error:
        return None


