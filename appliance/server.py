"""The service as a process: gunicorn's arbiter with exactly one threaded web worker. The only importer of gunicorn.

We bind the socket ourselves (a clear error, a free port on request), tell systemd nothing before the API answers, and
let SIGHUP reload in place instead of replacing the worker, whose engines would be lost with it.
"""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.http import get_parser
from gunicorn.workers import gthread

from appliance import data_folder
from appliance.clock import monotonic
from appliance.config import Config, data_dir
from appliance.errors import ApplianceError, InvalidRequest, PermissionDenied, PortUnavailable, StorageFailed, from_wire
from appliance.http import linger
from appliance.http.arrival import MOST_BYTES, Arrival, State
from appliance.logs import configure, log
from appliance.services import Janitor, Services
from appliance.systemd import Systemd
from appliance.tls_context import Tls
from appliance.watchdog import Watch, answers

SPARE_THREADS = 16
"""Threads beside those that wait for an engine: health, metrics, pages."""
MAX_CONNECTIONS = 1000
SPARE_FILES = 64
"""Descriptors for everything but connections and the threads that look at them."""
STOP_GRACE_S = 8
"""More than it takes to end an engine that does not listen (`Supervisor.stop`): its streams are told why they end."""
FIRST_BYTES_S = 0.05
"""A new connection that brings nothing by then waits without a thread."""
READ_LIMIT_S = 30.0
"""A request must have arrived whole within this time, and its head, with the handshake before it, as well."""
WRITE_LIMIT_MS = 60_000
"""A client that takes nothing of its answer for this long is gone or asleep: the kernel ends its connection."""
HURRY_LIMIT_S = 1.0
"""The same while there are hardly any threads left for others."""
ERROR_LINGER_S = 1.0
NO_MORE_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
VANISHED = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PortUnavailable with what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by the accepted ones: tokens go out at once
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, WRITE_LIMIT_MS)  # inherited as well
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


class _Worker(gthread.ThreadWorker):
    """The web worker: SIGHUP reloads, SIGTERM also tells the services to drain, and nobody dawdles over a request."""

    services: Services

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._handled: dict[Any, tuple[float, Any]] = {}  # connection -> since when, and its request once the head is read

    def init_process(self) -> None:
        """Called by gunicorn in the new process."""
        util.write_error, util.close_graceful = _write_error, _close  # it has no hooks for these
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """Called by gunicorn on its main thread, where any error ends the worker and its engines with it."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in NO_MORE_FILES:
                raise
            time.sleep(0.1)  # descriptors come back when connections end; the kernel keeps the newcomers in line

    def handle(self, conn: Any) -> Any:
        """Called by gunicorn on a thread, with a connection that has something to read."""
        if not conn.initialized and not conn.wait_for_data(FIRST_BYTES_S):
            return gthread._DEFER  # gunicorn would hold the thread for 5 s
        state = self._arrived(conn)
        if state is State.MORE:
            return gthread._DEFER
        if state is not State.WHOLE:
            return _refuse(conn.sock, state)
        self._handled[conn] = (monotonic(), None)
        try:
            return super().handle(conn)
        finally:
            del self._handled[conn]

    def _arrived(self, conn: Any) -> State:
        """Take what has come of the head of a request. When it is whole, gunicorn's parser finds it in its buffer."""
        if getattr(conn, "arrival", None) is None:
            began = conn.parser.unreader.buf.getvalue() if conn.initialized else b""
            conn.arrival = Arrival(conn.sock, None if conn.initialized else self.services.tls.context, monotonic(), began)
        arrival = conn.arrival
        state = arrival.step()
        conn.sock = arrival.sock
        if state is State.MORE:
            return state
        conn.arrival = None
        if state is State.WHOLE:
            if not conn.initialized:  # in place of gunicorn's conn.init(), which waits for the handshake
                conn.initialized, conn.parser = True, get_parser(self.cfg, conn.sock, conn.client)
            conn.parser.unreader.buf = io.BytesIO()
            conn.parser.unreader.unread(bytes(arrival.data))
        return state

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Called by gunicorn when the head of a request is read."""
        self._handled[conn] = (self._handled[conn][0], req)
        try:
            return super().handle_request(req, conn)
        except OSError as error:
            if error.errno in VANISHED:  # gunicorn would write a traceback; a reset is what it takes for a client that left
                raise ConnectionResetError(errno.ECONNRESET, "the client vanished") from None
            raise

    def murder_pending(self) -> None:
        """Called by gunicorn every second. Clients that vanished while they sent would hold their threads for ever."""
        for conn in self.pending_conns:
            if arrival := getattr(conn, "arrival", None):  # else a byte now and then would keep it
                conn.timeout = min(conn.timeout, arrival.since + READ_LIMIT_S)
        self.pending_conns = deque(sorted(self.pending_conns, key=lambda conn: conn.timeout))
        super().murder_pending()
        handled = list(self._handled.items())
        limit = READ_LIMIT_S if len(handled) < self.cfg.threads - SPARE_THREADS // 2 else HURRY_LIMIT_S
        for conn, (since, req) in handled:
            if monotonic() - since > limit and _is_arriving(req):
                try:
                    # Its thread reads the end of the request now. TLS's own shutdown would make it go on in plain text.
                    socket.socket.shutdown(conn.sock, socket.SHUT_RD)
                except OSError:
                    pass  # it has just been closed
        if self.nr_conns >= self.worker_connections:  # nobody is accepted any more: the longest idle ones make room
            for conn in [*self.pending_conns, *self.keepalived_conns][: self.worker_connections // 10]:
                conn.timeout = 0.0

    def init_signals(self) -> None:
        """Called by gunicorn in the new process."""
        super().init_signals()
        signal.signal(signal.SIGHUP, lambda *_: self._aside("reload", self.services.reload))
        # Ctrl-C reaches the whole process group, and the arbiter answers it with SIGQUIT to us: once is enough.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGQUIT: leave at once. Gunicorn would shut its thread pool down here, and wait for ever where it was interrupted
        while it held the pool's lock."""
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        self.alive = False
        sys.exit(0)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: stop accepting (gunicorn) and end what is still running after drain_s (we)."""
        if self.alive:
            self._aside("drain", self.services.drain)
        super().handle_exit(sig, frame)

    @staticmethod
    def _aside(name: str, work: Callable[[], None]) -> None:
        # Not in the signal handler itself: it may interrupt a thread that holds the very lock the work needs.
        threading.Thread(target=work, name=name, daemon=True).start()


def _is_arriving(req: Any) -> bool:
    """Whether a part of the request is still to be read."""
    if req is None:
        return True
    reader = req.body.reader
    return bool(getattr(reader, "length", 0) or getattr(reader, "parser", None))  # announced length; chunked


def _refuse(sock: socket.socket, state: State) -> bool:
    """Say why to a client whose request is not read. Returns gunicorn's False, for closing the connection."""
    sock.setblocking(True)
    if state is State.LARGE:
        _write_error(sock, 431, "Request Header Fields Too Large", f"Its headers have more than {MOST_BYTES} bytes.")
    elif state is State.PLAIN:
        _write_error(sock, 400, "Bad Request", "HTTPS is spoken here: write https:// in place of http://.")
    return False


def _write_error(sock: socket.socket, status: int, reason: str, message: str) -> None:
    """What gunicorn says when it cannot parse a request, in our shape instead of HTML. Replaces `util.write_error`."""
    if status == 501:  # an unknown transfer coding
        status, reason = 400, "Bad Request"
    words = f"The server could not read this as an HTTP request: {reason}. {message}".strip()
    error = InvalidRequest(words) if status < 500 else ApplianceError(words)
    body = json.dumps(error.body()).encode("ascii")
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    util.write_nonblock(sock, head.encode("latin-1") + body)
    linger.drain(sock, ERROR_LINGER_S)  # it may still be sending, and would be reset before it has read why


def _close(sock: socket.socket, *_: Any) -> None:
    """End a connection at once. Replaces `util.close_graceful`, which waits up to 2 s for the client to close as well, on
    the thread that accepts everybody else."""
    try:
        sock.shutdown(socket.SHUT_WR)
        sock.setblocking(False)
        for _ in range(16):  # what is there already: closing over unread data makes the kernel send a reset
            if not sock.recv(4096):
                break
    except (OSError, ValueError):
        pass  # nothing is there, or the client was faster
    finally:
        sock.close()


class _Arbiter(Arbiter):
    """Forwards SIGHUP to the worker, which reloads without dropping a stream."""

    def reload(self) -> None:
        """Called by gunicorn on SIGHUP."""
        self.kill_workers(signal.SIGHUP)


class _Application(BaseApplication):
    def __init__(
        self, config: Config, sock: socket.socket, reload_config: Callable[[], Config], report: int, requests: int, systemd: Systemd, tls: Tls
    ) -> None:
        self._config, self._sock, self._requests, self._systemd, self._tls = config, sock, requests, systemd, tls
        self._address = sock.getsockname()  # gunicorn makes a socket of its own of the descriptor, and closes ours
        self._reload_config, self._report = reload_config, report
        self._services: Services | None = None
        self._watch: Janitor | None = None
        super().__init__()

    def load_config(self) -> None:
        """Our settings in gunicorn's words."""
        config = self._config
        threads = self._requests + SPARE_THREADS
        values = {
            "bind": f"fd://{self._sock.fileno()}",
            "workers": 1,
            "worker_class": _Worker,
            "threads": threads,
            "worker_connections": _most_connections(threads),
            "forwarded_allow_ips": "",  # nobody may set SCRIPT_NAME, PATH_INFO or the scheme by a header
            "timeout": 120,
            "graceful_timeout": int(config.drain_s) + STOP_GRACE_S,
            "keepalive": 30,
            "accesslog": None,
            "errorlog": "-",
            "loglevel": "debug" if config.log_level == "debug" else "warning",
            "control_socket_disable": True,
            "certfile": str(self._tls.files[0]) if self._tls.context else None,  # makes wsgi.url_scheme https; `Arrival` does the rest
            "proc_name": "appliance",
            "post_fork": self._start,
            "worker_exit": self._stop,
        }
        for name, value in values.items():
            self.cfg.set(name, value)

    def _start(self, arbiter: Arbiter, worker: _Worker) -> None:
        # Engines first: their processes start while this one still imports Flask.
        services = worker.services = self._services = Services(self._config, self._reload_config, self._tls)
        services.start()
        threading.Thread(target=_watch_boot, args=(services, self._report), name="boot-watch", daemon=True).start()
        if self._systemd.address:
            watch = Watch(services, self._systemd, lambda: answers(self._address, self._tls.context is not None))
            self._watch = Janitor([watch.tick], every_s=watch.every_s, name="systemd")
            self._watch.start()

    def _stop(self, arbiter: Arbiter, worker: _Worker) -> None:
        self._systemd.tell(STOPPING=1)
        if self._watch:
            self._watch.stop()
        if self._services:
            self._services.stop()

    def load(self) -> Any:
        """The WSGI application; called in the worker."""
        from appliance.http.create_app import create_app

        return create_app(self._services)

    def run(self) -> None:
        """Serve until told to stop."""
        _Arbiter(self).run()


def _most_connections(threads: int) -> int:
    """As many as there are descriptors for; the soft limit of 1024 is raised to what the administrator allows."""
    wanted = MAX_CONNECTIONS + 2 * threads + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < wanted:  # -1: no limit
        soft = wanted if hard < 0 else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = wanted if soft < 0 else soft
    return max(SPARE_THREADS, min(MAX_CONNECTIONS + threads, room - threads - SPARE_FILES))


def _watch_boot(services: Services, report: int) -> None:
    """When no model at all can be served, say why and end the service: a restart would not help."""
    for supervisor in services.asked_for:
        supervisor.wait_settled()
    states = [s.status.state for s in services.asked_for]
    ready = [s.name for s in services.asked_for if s.status.state == "ready"]
    if ready:
        log("info", "The service is ready.", models=",".join(ready))
    elif states and all(state == "failed" for state in states):
        error = services.asked_for[0].status.error or ApplianceError("No model could be loaded.")
        os.write(report, json.dumps(error.to_wire()).encode())
        os.kill(os.getppid(), signal.SIGTERM)


def run(config: Config, reload_config: Callable[[], Config]) -> int:
    """Serve until stopped. Returns the exit code. Raises ApplianceError for what keeps it from starting."""
    configure(config.log_level, config.log_format)
    tls = Tls(config, log)
    requests = Services(config, tls=tls).fleet.most_requests  # every mistake in the settings shows here, before a process is started
    with _data_folder(config):
        tls.open()
        return _run(config, reload_config, requests, tls)


@contextmanager
def _data_folder(config: Config) -> Iterator[None]:
    """No backup is restored there as long as this process or the worker lives: an flock is inherited by fork. Where there can be no data
    folder the service runs without. Raises InUse."""
    with ExitStack() as stack:
        try:
            stack.enter_context(data_folder.served(data_dir(config)))
        except (OSError, StorageFailed, PermissionDenied) as error:
            log("error", f"The data folder cannot be used: {error}")
        yield


def _run(config: Config, reload_config: Callable[[], Config], requests: int, tls: Tls) -> int:
    sock = bind(config.host, config.port)
    scheme = "https" if tls.context else "http"
    host = f"[{config.host}]" if ":" in config.host else config.host
    log("info", f"Listening on {scheme}://{host}:{sock.getsockname()[1]}")
    reading, writing = os.pipe()
    os.set_inheritable(sock.fileno(), True)
    # Gunicorn would announce READY to systemd as soon as its arbiter runs, long before a model answers.
    systemd = Systemd.taken_from(os.environ)
    code = 0
    try:
        _Application(config, sock, reload_config, writing, requests, systemd, tls).run()
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
