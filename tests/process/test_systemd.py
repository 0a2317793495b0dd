"""What systemd hears: ready when it is true, signs of life, what goes on, and the end."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from fakes import wait_until


class Listener:
    """systemd's end of the socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.heard: list[tuple[str, str]] = []

    def listen(self) -> list[tuple[str, str]]:
        """Everything so far."""
        while True:
            try:
                words = self._socket.recv(65536).decode()
            except BlockingIOError:
                return self.heard
            self.heard += [tuple(line.split("=", 1)) for line in words.splitlines()]

    def count(self, name: str) -> int:
        return sum(field == name for field, _ in self.listen())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path):
    listener = Listener(tmp_path / "notify")
    yield listener
    listener.close()


def test_it_is_ready_when_a_request_can_be_answered_and_alive_while_it_can(running_server, systemd, tmp_path):
    server = running_server("--engine", "fake", "--model", "x", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="1000000", APPLIANCE_FAKE_STEP_S="0.02")
    wait_until(lambda: ("READY", "1") in systemd.listen(), 10, "READY=1")
    assert server.get("/health").status == 200
    stream = server.stream("!long", max_tokens=2000)
    stream.first_text()
    wait_until(lambda: ("STATUS", "x ready; 1 running, 0 waiting") in systemd.listen(), 5, "what goes on")
    before = systemd.count("WATCHDOG")
    wait_until(lambda: systemd.count("WATCHDOG") >= before + 4, 5, "signs of life")
    assert systemd.count("READY") == 1
    assert b"NOTIFY_SOCKET" not in Path(f"/proc/{server.engine_pid()}/environ").read_bytes()
    stream.close()
    os.kill(server.worker_pid, signal.SIGSTOP)  # it hangs
    time.sleep(0.5)
    silent = systemd.count("WATCHDOG")
    time.sleep(1.5)
    assert systemd.count("WATCHDOG") == silent
    os.kill(server.worker_pid, signal.SIGCONT)
    wait_until(lambda: systemd.count("WATCHDOG") > silent, 5, "the next sign")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert systemd.listen()[-1] == ("STOPPING", "1")


def test_a_model_that_loads_for_long_gets_the_time(running_server, systemd, tmp_path):
    held = "import time, appliance.forms as f; check = f.Form.check; f.Form.check = lambda self, stopping: time.sleep(5) or check(self, stopping)"
    server = running_server("--engine", "fake", "--model", "x", before=held, NOTIFY_SOCKET=str(tmp_path / "notify"))
    heard = [name for name, _ in systemd.listen() if name in ("EXTEND_TIMEOUT_USEC", "READY")]
    wait_until(lambda: systemd.count("READY"), 10, "READY=1")
    assert heard[0] == "EXTEND_TIMEOUT_USEC" and server.get("/health").status == 200
    statuses = [words for name, words in systemd.listen() if name == "STATUS"]
    assert "loading" in statuses[0] and statuses[-1] == "x ready; 0 running, 0 waiting"


def test_one_that_cannot_be_loaded_is_never_called_ready(running_server, systemd, tmp_path):
    (tmp_path / "junk.gguf").write_bytes(b"junk")
    with pytest.raises(AssertionError, match="ended with 65"):
        running_server("--model", str(tmp_path / "junk.gguf"), NOTIFY_SOCKET=str(tmp_path / "notify"))
    assert systemd.count("READY") == 0
