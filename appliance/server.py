"""The service as a process: gunicorn's arbiter with exactly one threaded web worker. The only importer of gunicorn.

We bind the socket ourselves (a clear error, a free port on request), tell systemd nothing before the API answers, and
let SIGHUP reload in place instead of replacing the worker, whose engines would be lost with it.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import ThreadWorker

from appliance.config import Config
from appliance.errors import ApplianceError, PortUnavailable, from_wire
from appliance.logs import configure, log
from appliance.services import Services

SPARE_THREADS = 16
"""Threads beside those that wait for an engine: health, metrics, pages."""
MAX_CONNECTIONS = 1000
STOP_GRACE_S = 5


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PortUnavailable with what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by the accepted ones: tokens go out at once
        sock.bind((host, port))
        sock.listen(512)
    except OSError as error:
        sock.close()
        remedy = {
            errno.EADDRINUSE: "Another program listens there: stop it or choose another --port.",
            errno.EACCES: "Ports below 1024 need privileges: choose a higher --port.",
            errno.EADDRNOTAVAIL: "This machine has no such address: check --host.",
        }.get(error.errno or 0, "Check --host and --port.")
        failure = PortUnavailable(f"Cannot listen on {host} port {port}: {error.strerror or error}.", remedy=remedy)
        if error.errno == errno.EACCES:
            failure.exit_code = 77
        raise failure from None
    return sock


class _Worker(ThreadWorker):
    """The web worker: SIGHUP reloads, SIGTERM also tells the services to drain."""

    services: Services

    def init_signals(self) -> None:
        """Called by gunicorn in the new process."""
        super().init_signals()
        signal.signal(signal.SIGHUP, lambda *_: self._aside("reload", self.services.reload))

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: stop accepting (gunicorn) and end what is still running after drain_s (we)."""
        if self.alive:
            self._aside("drain", self.services.drain)
        super().handle_exit(sig, frame)

    @staticmethod
    def _aside(name: str, work: Callable[[], None]) -> None:
        # Not in the signal handler itself: it may interrupt a thread that holds the very lock the work needs.
        threading.Thread(target=work, name=name, daemon=True).start()


class _Arbiter(Arbiter):
    """Forwards SIGHUP to the worker, which reloads without dropping a stream."""

    def reload(self) -> None:
        """Called by gunicorn on SIGHUP."""
        self.kill_workers(signal.SIGHUP)


class _Application(BaseApplication):
    def __init__(self, config: Config, sock: socket.socket, reload_config: Callable[[], Config], report: int) -> None:
        self._config, self._sock = config, sock
        self._reload_config, self._report = reload_config, report
        self._services: Services | None = None
        super().__init__()

    def load_config(self) -> None:
        """Our settings in gunicorn's words."""
        config = self._config
        values = {
            "bind": f"fd://{self._sock.fileno()}",
            "workers": 1,
            "worker_class": _Worker,
            "threads": max(1, len(config.model)) * (config.parallel * 2 + config.queue_size) + SPARE_THREADS,
            "worker_connections": MAX_CONNECTIONS,
            "timeout": 120,
            "graceful_timeout": int(config.drain_s) + STOP_GRACE_S,
            "keepalive": 30,
            "accesslog": None,
            "errorlog": "-",
            "loglevel": "debug" if config.log_level == "debug" else "warning",
            "control_socket_disable": True,
            "certfile": str(config.tls_cert) if config.tls_cert else None,
            "keyfile": str(config.tls_key) if config.tls_key else None,
            "proc_name": "appliance",
            "post_fork": self._start,
            "worker_exit": self._stop,
        }
        for name, value in values.items():
            self.cfg.set(name, value)

    def _start(self, arbiter: Arbiter, worker: _Worker) -> None:
        # Engines first: their processes start while this one still imports Flask.
        services = worker.services = self._services = Services(self._config, self._reload_config)
        services.start()
        threading.Thread(target=_watch_boot, args=(services, self._report), name="boot-watch", daemon=True).start()

    def _stop(self, arbiter: Arbiter, worker: _Worker) -> None:
        if self._services:
            self._services.stop()

    def load(self) -> Any:
        """The WSGI application; called in the worker."""
        from appliance.http.create_app import create_app

        return create_app(self._services)

    def run(self) -> None:
        """Serve until told to stop."""
        _Arbiter(self).run()


def _watch_boot(services: Services, report: int) -> None:
    """When no model at all can be served, say why and end the service: a restart would not help."""
    for supervisor in services.supervisors:
        supervisor.wait_settled()
    states = [s.status.state for s in services.supervisors]
    ready = [s.name for s in services.supervisors if s.status.state == "ready"]
    if ready:
        log("info", "The service is ready.", models=",".join(ready))
    elif states and all(state == "failed" for state in states):
        error = services.supervisors[0].status.error or ApplianceError("No model could be loaded.")
        os.write(report, json.dumps(error.to_wire()).encode())
        os.kill(os.getppid(), signal.SIGTERM)


def run(config: Config, reload_config: Callable[[], Config]) -> int:
    """Serve until stopped. Returns the exit code. Raises ApplianceError for what keeps it from starting."""
    configure(config.log_level, config.log_format)
    Services(config)  # every mistake in the settings shows here, before a process is started
    sock = bind(config.host, config.port)
    scheme = "https" if config.tls_cert else "http"
    host = f"[{config.host}]" if ":" in config.host else config.host
    log("info", f"Listening on {scheme}://{host}:{sock.getsockname()[1]}")
    reading, writing = os.pipe()
    os.set_inheritable(sock.fileno(), True)
    # Gunicorn would announce READY to systemd as soon as its arbiter runs, long before a model answers.
    os.environ.pop("NOTIFY_SOCKET", None)
    code = 0
    try:
        _Application(config, sock, reload_config, writing).run()
    except SystemExit as end:
        code = int(end.code or 0)
    if os.getpid() != _MAIN_PID.get("pid", os.getpid()):
        raise SystemExit(code)  # gunicorn leaves the worker by SystemExit too; only the arbiter reads the report
    os.set_blocking(reading, False)
    try:
        words = os.read(reading, 65536)
    except BlockingIOError:
        words = b""
    if words:
        raise from_wire(json.loads(words))
    return 70 if code not in (0,) else 0


_MAIN_PID = {"pid": os.getpid()}
