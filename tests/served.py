"""A real service on loopback and the clients that the tests of this folder use."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from fakes import ROOT, wait_until

START_S = 30.0
PROGRAM = "import sys; from appliance.cli import main; sys.exit(main())"


class Answer:
    """A response that is read to its end."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object; it must have exactly the four fields."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return error

    @property
    def text(self) -> str:
        """What the model said."""
        choice = self.json["choices"][0]
        return choice["message"]["content"] if "message" in choice else choice["text"]


class Stream:
    """A running SSE answer. Iterating gives the data of each event, parsed; `[DONE]` ends it."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self.connection, self.response = connection, response
        self.events: list[dict[str, Any]] = []
        self.done = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while line := self.response.readline():
            if line == b"data: [DONE]\n":
                self.done = True
            elif line.startswith(b"data: "):
                self.events.append(json.loads(line[6:]))
                yield self.events[-1]

    def first_text(self) -> str:
        """Wait for the first text."""
        for event in self:
            if event.get("choices") and (text := _text_of(event)):
                return text
        raise AssertionError(f"no text came: {self.events}")

    def rest(self) -> Stream:
        """Read to the end."""
        for _ in self:
            pass
        return self

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(_text_of(event) for event in self.events if event.get("choices"))

    @property
    def error(self) -> dict[str, Any] | None:
        """The error event, if it ended with one."""
        return self.events[-1].get("error") if self.events else None

    def close(self) -> None:
        """Leave, as a person closes a tab."""
        self.response.close()
        self.connection.close()


def _text_of(event: dict[str, Any]) -> str:
    choice = event["choices"][0]
    return choice.get("text") or choice.get("delta", {}).get("content") or ""


def chat(content: str, **more: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, **more}


class Server:
    """`appliance serve` with its processes."""

    def __init__(self, flags: tuple[str, ...], folder: Path, environment: dict[str, str], before: str = "") -> None:
        self.log_path = folder / "stderr.txt"
        self.began = time.monotonic()
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{before}\n{PROGRAM}", "serve", *flags, "--port", "0"] if before
                else [sys.executable, "-m", "appliance.cli", "serve", *flags, "--port", "0"],
                stderr=log, stdout=log, stdin=subprocess.DEVNULL, cwd=ROOT, start_new_session=True,
                env={**os.environ, **environment},
            )  # fmt: skip
        self.port = 0
        self.ca = Path({**os.environ, **environment}.get("APPLIANCE_DATA_DIR", folder)) / "tls" / "ca.crt"
        self.context: ssl.SSLContext | None = None
        self.streams: list[Stream] = []

    # -- its processes -----------------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """Everything it wrote."""
        return self.log_path.read_text("utf-8", "replace")

    def wait_listening(self) -> None:
        """Until the address is printed."""

        def told() -> bool:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log}"
            return "Listening on" in self.log

        wait_until(told, START_S, "the address")
        scheme, port = re.search(r"Listening on (https?)://127[.\d]+:(\d+)", self.log).groups()
        self.port = int(port)
        if scheme == "https":
            self.context = ssl.create_default_context(cafile=self.ca if self.ca.exists() else None)

    def wait_healthy(self) -> None:
        """Until /health says ok."""

        def healthy() -> bool:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log}"
            try:
                return self.get("/health").status == 200
            except OSError:
                return False

        wait_until(healthy, START_S, f"health; the log:\n{self.log}")

    @property
    def worker_pid(self) -> int:
        """The web worker: the arbiter's only child."""
        (worker,) = psutil.Process(self.process.pid).children()
        return worker.pid

    def models(self) -> dict[str, dict[str, Any]]:
        """The states in /readyz."""
        return self.get("/readyz").json["models"]

    def engine_pid(self, model: str | None = None) -> int | None:
        """The engine child of a model (default: the first)."""
        states = self.models()
        return states[model or next(iter(states))]["pid"]

    def family(self) -> set[int]:
        """All live processes of its session."""
        found = set()
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.add(process.pid)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    def stop(self, timeout_s: float = 40.0) -> None:
        """SIGTERM; then nothing may be left, and no traceback in the log."""
        try:
            if self.process.poll() is None:  # else the test has ended it and knows its exit code
                self.process.send_signal(signal.SIGTERM)
                code = self.process.wait(timeout_s)
                assert code == 0, f"exit code {code}:\n{self.log}"
            wait_until(lambda: not self.family(), 5.0, "the end of all its processes")
            assert "Traceback" not in self.log, self.log
        finally:
            for pid in self.family():
                os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def close_streams(self) -> None:
        """End all connections of streams."""
        for stream in self.streams:
            stream.close()

    # -- its clients -------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base address."""
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """A new one; with TLS it checks the certificate."""
        if self.context:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout_s, context=self.context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def request(self, method: str, path: str, body: Any = None, timeout_s: float = 30.0, **headers: str) -> Answer:
        """One request on a connection of its own."""
        connection = self.connection(timeout_s)
        try:
            data = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.request("GET", path, **headers)

    def chat(self, content: str, **more: Any) -> Answer:
        """A chat answer, whole."""
        return self.request("POST", "/v1/chat/completions", chat(content, **more))

    def stream(self, content: str, timeout_s: float = 30.0, headers: dict[str, str] | None = None, **more: Any) -> Stream:
        """A chat answer as it comes."""
        connection = self.connection(timeout_s)
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(chat(content, stream=True, **more)),
            {"Content-Type": "application/json", **(headers or {})},
        )  # fmt: skip
        response = connection.getresponse()
        if response.status != 200:
            words = response.read()
            connection.close()
            raise AssertionError(f"{response.status}: {words!r}")
        self.streams.append(Stream(connection, response))
        return self.streams[-1]

    def raw(self, data: bytes, timeout_s: float = 10.0) -> bytes:
        """Send bytes as they are; everything that comes back until the connection ends or is quiet for long."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as sock:
            received = b""
            try:
                sock.sendall(data)
                while part := sock.recv(65536):
                    received += part
            except (ConnectionError, TimeoutError):
                pass
            return received

    def gauge(self, name: str) -> float:
        """Sum of a metric over its labels."""
        lines = self.get("/metrics").body.decode().splitlines()
        values = [float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{re.escape(name)}[ {{]", line)]
        assert values or name.endswith("_total"), f"there is no metric {name}"
        return sum(values)

    def open_work(self) -> dict[str, float]:
        """What is still going on, by metric; all zero when idle."""
        names = ("appliance_requests_waiting", "appliance_sequences_admitted", "appliance_engine_running", "appliance_kv_used_tokens")
        return {name: self.gauge(name) for name in names}

    def wait_idle(self, timeout_s: float = 20.0) -> float:
        """Until nothing goes on; the seconds it took."""
        began = time.monotonic()
        wait_until(lambda: not any(self.open_work().values()), timeout_s, f"idleness ({self.open_work()})")
        return time.monotonic() - began


@contextmanager
def serving(folder: Path, *flags: str, healthy: bool = True, before: str = "", **environment: str) -> Iterator[Server]:
    """A running service; at its end it is stopped, with proof that nothing is left. before: code that runs in it first.

    It remembers no answers unless APPLIANCE_NO_CACHE="0": most tests ask the same twice to see it computed twice."""
    server = Server(flags, folder, {"APPLIANCE_NO_CACHE": "1", **environment}, before)
    try:
        server.wait_listening()
        if healthy:
            server.wait_healthy()
        yield server
    except BaseException:
        for pid in server.family():
            os.kill(pid, signal.SIGKILL)
        server.process.wait()
        print(server.log, file=sys.stderr)
        raise
    else:
        server.close_streams()  # a client that keeps its connection makes the end two seconds longer
        server.stop()
    finally:
        server.close_streams()


def command(*arguments: str, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "appliance.cli", *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT,
        stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})},
    )  # fmt: skip
