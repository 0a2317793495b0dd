"""Starting and stopping the servers under test.

Only one server lives at a time. Two loaded servers would share the page cache kindly, but an idle one
may still spin (OpenMP threads wait actively) or tidy up; and a fresh process has no prompt cache from the
round before. So each turn is: start, warm up, measure, stop; the turns alternate.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import peer

START_LIMIT_S = 180
STOP_LIMIT_S = 20
MODEL_NAME = "bench"
KV_FLAGS = {"split": "--no-kv-unified", "unified": "--kv-unified"}


@dataclass(frozen=True)
class Setup:
    """What every server gets alike."""

    model: Path
    context: int  # tokens per request
    parallel: int
    threads: int


@dataclass(frozen=True)
class Server:
    """A running server: where to send, and its process group for CPU accounting."""

    port: int
    group_id: int


@dataclass(frozen=True)
class Contestant:
    """A name for the table and the command line (without the port)."""

    name: str
    command: tuple[str, ...]


def ours(command: str | None, setup: Setup, data_dir: Path, name: str = "ours") -> Contestant:
    """Our server; -c is tokens per request there, and the answer cache is off: we measure computing."""
    return Contestant(name, (
        *ours_command(command), "--model", str(setup.model), "--alias", MODEL_NAME,
        "-c", str(setup.context), "-np", str(setup.parallel), "-t", str(setup.threads),
        "--no-cache", "--data-dir", str(data_dir),
    ))


def ours_command(command: str | None) -> list[str]:
    """The given command split, or the `appliance serve` beside this Python."""
    if command:
        return shlex.split(command)
    script = Path(sys.executable).parent / "appliance"
    start = [str(script)] if script.exists() else [sys.executable, "-m", "appliance.cli"]
    return [*start, "serve"]


def llama_server(binary: Path, kv: str, setup: Setup) -> Contestant:
    """llama-server; its -c is for all slots together. Nothing that helps it is turned off."""
    return Contestant(f"llama-server {kv}", (
        str(binary), "-m", str(setup.model), "-a", MODEL_NAME,
        "-c", str(setup.context * setup.parallel), "-np", str(setup.parallel), "-t", str(setup.threads),
        KV_FLAGS[kv], "--no-webui", "--log-disable",
    ))


def llama_server_binary(given: Path | None) -> Path:
    """The given path or the one bench.peer built."""
    if given:
        return given
    built = peer.tool_paths()
    if not built:
        raise SystemExit("no llama-server: run `python -m bench.peer` first, or give --server-bin")
    return built["llama-server"]


@contextlib.contextmanager
def running(contestant: Contestant) -> Iterator[Server]:
    """Runs the server on a free port of 127.0.0.1; stops it, whatever happens, by its process group."""
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*contestant.command, "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )
        try:
            try:
                _wait_until_ready(process, port)
            except RuntimeError as error:
                log.seek(0)
                tail = log.read()[-3000:].decode(errors="replace")
                command = shlex.join(contestant.command)
                raise SystemExit(f"{contestant.name}: {error}\n{command}\n{tail}") from None
            yield Server(port, process.pid)
        finally:
            _stop(process)


def _free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _wait_until_ready(process: subprocess.Popen, port: int) -> None:
    """Polls /health (503 while loading, on both servers) until 200."""
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise RuntimeError(f"ended with exit code {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    raise RuntimeError(f"not ready after {START_LIMIT_S} s")


def _stop(process: subprocess.Popen) -> None:
    """SIGTERM to the server, then SIGKILL to what is left of its group (our engine children)."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            print(f"bench: pid {process.pid} ignored SIGTERM for {STOP_LIMIT_S} s, killing it",
                  file=sys.stderr)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def version(command: list[str]) -> str:
    """First line of `command --version`, or why there is none. What follows the subcommand `serve` is left out."""
    program = command[: command.index("serve")] if "serve" in command else command
    try:
        done = subprocess.run([*program, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"
    text = (done.stdout or done.stderr).strip()
    return text.splitlines()[0] if done.returncode == 0 and text else f"unknown (exit code {done.returncode})"
