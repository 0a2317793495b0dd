"""A whole service in this process: the real pipeline, supervisor, client and loop over the fake engine, on threads."""

from __future__ import annotations

import os
import socket
import socketserver
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from fakes import Words
from flask.testing import FlaskClient

from appliance import saved_settings
from appliance.access.service import Access
from appliance.admission import Admission
from appliance.auth import Auth
from appliance.cache.lookup import Options
from appliance.cache.policy import read_shares
from appliance.cache.service import Cache
from appliance.clock import monotonic
from appliance.config import SETTINGS, Config, data_dir, load_config
from appliance.doctor import reading, running
from appliance.doctor.service import Doctor
from appliance.engine.channel import Channel, ChannelClosed
from appliance.engine.child import Death
from appliance.engine.client import EngineClient
from appliance.engine.encoder_loop import EncoderLoop
from appliance.engine.fake_backend import FakeBackend
from appliance.engine.fake_encoder import FakeEncoder, is_fake_encoder
from appliance.engine.loop import Loop
from appliance.engine.messages import Booting, Ready, Refused
from appliance.engine.supervisor import Supervisor
from appliance.engine.topology import read_topology
from appliance.errors import ModelFileError
from appliance.fleet import Fleet, Once
from appliance.history import History
from appliance.http.create_app import create_app
from appliance.jobs import Jobs
from appliance.metrics import Metrics
from appliance.pipeline import Engine, Pipeline
from appliance.recall import Recall
from appliance.tls_context import Tls
from appliance.trail.log import Trail
from appliance.uploads import Uploads
from appliance.usage import Usage

PASSWORD = "correct horse battery"
OURS = {"Sec-Fetch-Site": "same-origin"}
"""What browsers send along from our own pages."""


class ThreadChild:
    """The engine's loop on a thread instead of in a process; otherwise what `supervisor` expects of a child."""

    pid = os.getpid()

    def __init__(self, backend: FakeBackend | FakeEncoder, gate: threading.Event, refuse: str) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        self._socket = theirs
        self._backend, self._gate, self._refuse = backend, gate, refuse
        self.loop: Loop | EncoderLoop | None = None
        self._thread = threading.Thread(target=self._run, name="fake-engine")
        self._thread.start()

    def _run(self) -> None:
        link = Channel(self._socket)
        try:
            if self._refuse:
                link.send(Refused(ModelFileError(self._refuse).to_wire()))
                return
            link.send(Booting("reading weights", 0.5))
            self._gate.wait()
            if isinstance(self._backend, FakeEncoder):
                self.loop = EncoderLoop(self._backend, link, monotonic)
            else:
                self.loop = Loop(self._backend, link, monotonic, stall_s=0.2, batch_tokens=512, store_bytes=0)
            link.send(Ready(asdict(replace(self._backend.info, threads=1, cpus=(0,)))))
            while not self.loop.stopping:
                self.loop.step()
        except ChannelClosed:
            pass
        finally:
            link.close()

    def kill(self) -> None:
        self._gate.set()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the loop has ended by itself

    def bury(self, timeout_s: float = 5.0) -> int:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive()
        self.channel.close()
        return -9

    def explain(self, code: int) -> Death:
        return Death("stopped", "it was killed from outside (SIGKILL)")


class Client(FlaskClient):
    """Reads and closes responses as a server does, unless `buffered=False`."""

    def open(self, *args: Any, buffered: bool = True, **more: Any) -> Any:
        return super().open(*args, buffered=buffered, **more)


class Service:
    """Running services with an application over them. Settings are given by name."""

    def __init__(
        self,
        *,
        models: tuple[str, ...] = ("fake",),
        aside: str = "",
        step_s: float = 0.0,
        sequences: int = 4,
        context_tokens: int = 512,
        loaded: bool = True,
        refuse: str = "",
        remember: Path | None = None,
        meaning: Any = None,
        people: bool = False,
        **settings: Any,
    ) -> None:
        """remember: the folder of a cache; meaning: what judges questions for it; people: somebody may sign in."""
        values = {s.name: s.default for s in SETTINGS} | {"data_dir": Path(os.environ.get("APPLIANCE_DATA_DIR", tempfile.gettempdir()))} | settings
        self.config = self.began_with = Config(values)
        self.auth = Auth.from_config(self.config)
        self.metrics = Metrics()
        self.started_unix = 1_700_000_000
        self.access, self.history = Access(self.config.data_dir, lambda level, words: None), History(self.metrics)
        self._fleet_of = models
        self.jobs = Jobs(self.config.data_dir / "jobs", {}, lambda level, words: None)
        self.usage = Usage(self.config.data_dir, lambda level, words: None)
        self.uploads = Uploads(self.config.data_dir / "uploads")
        self.tls = Tls(self.config, lambda level, words: None)
        self.tls.open()
        self.trail = Trail(self.config.data_dir, lambda level, words: None)
        if people:
            self.access.open()
            self.usage.open()
            self.trail.open()
        self.gate = threading.Event()
        self.children: list[ThreadChild] = []
        if loaded:
            self.gate.set()
        engines = {}
        for name in (*models, *filter(None, [aside])):
            client = EngineClient()

            def start(name: str = name) -> ThreadChild:
                backend: FakeBackend | FakeEncoder
                if is_fake_encoder(name):
                    backend = FakeEncoder(name, step_s=step_s)
                else:
                    backend = FakeBackend(name, sequences=sequences, context_tokens=context_tokens, step_s=step_s)
                self.children.append(ThreadChild(backend, self.gate, refuse))
                return self.children[-1]

            supervisor = Supervisor(
                name, start, client, hang_timeout_s=30, load_timeout_s=30, log=lambda level, words: None
            )
            admission = Admission(sequences, self.config.queue_size)
            task = FakeEncoder(name).info.task if is_fake_encoder(name) else "generate"
            wake = Once(supervisor.start) if name == aside else lambda: None
            engines[name] = Engine(supervisor, client, admission, task, name == aside, wake, digest=lambda name=name: f"fake {name}")
        self.cache = self.recall = None
        if remember:
            self.cache = Cache(remember, meaning or Words(), Options(), self.metrics, lambda level, words: print(f"{level}: {words}"))
            self.cache.open()
            shares = read_shares(self.config.cache_share)
            self.recall = Recall(
                self.cache, lambda name: engines[name].digest(), self.metrics, shares=shares, excluded=self.config.cache_exclude
            )
        self.pipeline = Pipeline(engines, self.metrics, timeout_s=self.config.request_timeout_s, recall=self.recall)
        for engine in engines.values():
            if engine.aside:
                continue
            engine.supervisor.start()
            if loaded and not refuse:
                engine.supervisor.wait_ready(5)
        self.doctor = Doctor(lambda: reading.collect(self.config, running.here(self.pipeline.engines, self.started_unix)))
        self.metrics.add_source(self.doctor.gauges)
        self.app = create_app(self)
        self.app.test_client_class = Client

    def change_settings(self, changes: Mapping[str, Any] | None) -> None:
        folder = data_dir(self.config)
        if changes is None:
            saved_settings.put_back(folder, self.pending)
        else:
            saved_settings.change(folder, changes, self.pending)
        self.config = self.pending()

    def pending(self) -> Config:
        return load_config({"api_key": self.config.api_key or None}, os.environ)

    def renew_auth(self) -> None:
        self.auth = self.auth.with_made(*self.access.key_digests())

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def outstanding(self) -> int:
        return sum(engine.client.outstanding() for engine in self.pipeline.engines.values())

    @cached_property
    def fleet(self) -> Fleet:
        """For the pages that show models: of the same names, none of them started."""
        return Fleet(Config(self.config.values | {"engine": ("fake",), "model": self._fleet_of}), read_topology())

    def stop(self) -> None:
        self.gate.set()
        if "fleet" in self.__dict__:
            self.fleet.stop()
        for engine in self.pipeline.engines.values():
            engine.supervisor.stop()
        if self.cache:
            self.cache.close()
        self.usage.close()
        self.access.close()
        self.trail.close()


def administrator(service: Service) -> Any:
    """A client of Ann, the first administrator."""
    client = service.client
    entered = client.post("/admin/first", data={"code": service.access.code, "name": "Ann", "password": PASSWORD}, headers=OURS)
    assert entered.status_code == 303, entered.text
    return client


class Threaded(socketserver.ThreadingMixIn, WSGIServer):
    """A thread a connection, which `server_close` waits for; one request a connection."""

    daemon_threads = False


class Handler(WSGIRequestHandler):
    """Looks like gunicorn's gthread worker where it matters here."""

    def get_environ(self) -> dict[str, Any]:
        return super().get_environ() | {"gunicorn.socket": self.connection}

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def on_a_socket(service: Service) -> Iterator[str]:
    """The service on a real socket; gives its address."""
    server = Threaded(("127.0.0.1", 0), Handler)
    server.set_app(service.app)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
