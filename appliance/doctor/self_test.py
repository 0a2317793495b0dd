"""Does this release work on this machine? A whole service, with its processes, in a folder of its own is asked one question.

Nothing of the box is touched: it has its own data folder, an empty configuration, a free port on loopback and the model that comes with the
appliance, or the scripted engine where that is missing or not wanted. Upgrades judge a new release by it, on a copy of the box's databases.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.catalog import read_catalog
from appliance.config import SETTINGS, Config
from appliance.errors import ApplianceError
from appliance.trail import log as trail

READY_S, LOOK_S, ANSWER_S, STOP_S = 30.0, 1.0, 15.0, 12.0
"""Together less than a minute."""
POLL_S = 0.1
ASKED = "How do I add a model?"
SYSTEMD = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
"""What belongs to the service that runs us, if one does."""
LAST_WORDS = 12
KEY = secrets.token_urlsafe(24)
"""A copy of a box's data folder may have keys, and then one is needed."""


@dataclass(frozen=True, slots=True)
class Passed:
    """model: which one answered. seconds: from the start to the end of the answer."""

    model: str
    answer: str
    seconds: float


def self_test(*, fake: bool = False, copy: Path | None = None, clock: Callable[[], float] = time.monotonic) -> Passed:
    """Start a service, ask it, stop it; takes seconds, and less than a minute in any case. fake: with the scripted engine.
    copy: a data folder to work with, which is changed; every database in it must open.

    Raises ApplianceError, which says how far it came and what it wrote last. However it ends, no process is left.
    """
    with tempfile.TemporaryDirectory(prefix="appliance-self-test-") as name:
        folder = Path(name)
        default = read_catalog(Config({setting.name: setting.default for setting in SETTINGS} | {"data_dir": folder})).default
        model = "fake" if fake or not default else default
        if copy and (copy / trail.FILE).exists():
            trail.write_head(copy)  # of what was copied, or an end would seem to be missing
        began, log = clock(), folder / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(_command(folder, copy or folder / "data", model), stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=_environment(), start_new_session=True)
        try:
            try:
                port = _wait(lambda: _port(log), process, began + READY_S, clock, "to listen")
                _wait(lambda: _get(port, "/health")[0] == 200, process, began + READY_S, clock, "to be ready")
                if faults := _errors(log):
                    raise ApplianceError(f"The service answers, but: {faults[0]}")
                body = {"model": model, "messages": [{"role": "user", "content": ASKED}], "max_tokens": 24, "temperature": 0}
                status, answer = _get(port, "/v1/chat/completions", json.dumps(body))
                said = json.loads(answer)["choices"][0]["message"]["content"] if status == 200 else ""
                seconds = clock() - began
                if not said.strip():
                    raise ApplianceError(f"The service answered with status {status} and {answer[:300]!r}.")
            except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
                raise ApplianceError(f"The service did not answer: {type(error).__name__}: {error}.") from None
            process.terminate()
            try:
                code = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                raise ApplianceError(f"The service answered, but did not stop within {STOP_S:g} s.") from None
            if code:
                raise ApplianceError(f"The service answered, but ended with exit code {code}.")
            return Passed(model, said, seconds)
        except ApplianceError as failed:
            failed.remedy = f"Stay with the release of before, and report this. It wrote last:\n{_last_words(log)}"
            raise
        finally:
            _end(process)


def _command(folder: Path, data: Path, model: str) -> list[str]:
    (folder / "config.toml").write_text("")  # else the system's configuration would be read
    engine = ["--engine", "fake"] if model == "fake" else []
    own = ["--config", str(folder / "config.toml"), "--data-dir", str(data.absolute()), "--log-format", "json", "--host", "127.0.0.1", "--port", "0"]
    return [sys.executable, "-m", "appliance.cli", "serve", "--model", model, *engine, *own, "--ctx-size", "512", "--parallel", "1", "--drain-s", "1", "--embedder", "none"]


def _environment() -> dict[str, str]:
    ours = {*SYSTEMD, *(setting.env for setting in SETTINGS)}
    return {name: value for name, value in os.environ.items() if name not in ours} | {"APPLIANCE_API_KEY": KEY}


def _wait(look: Callable[[], int], process: subprocess.Popen[bytes], until: float, clock: Callable[[], float], what: str) -> int:
    while True:
        if (code := process.poll()) is not None:
            raise ApplianceError(f"The service ended with exit code {code} before it began {what}.")
        try:
            if found := look():
                return found
        except (OSError, http.client.HTTPException):
            pass  # not yet
        if clock() > until:
            raise ApplianceError(f"The service did not begin {what} within {READY_S:g} s.")
        time.sleep(POLL_S)


def _port(log: Path) -> int:
    found = re.search(r"Listening on http://127\.0\.0\.1:(\d+)", log.read_text("utf-8", "replace"))
    return int(found[1]) if found else 0


def _get(port: int, path: str, body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S if body else LOOK_S)
    try:
        connection.request("POST" if body else "GET", path, body, {"Authorization": f"Bearer {KEY}"} | ({"Content-Type": "application/json"} if body else {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _errors(log: Path) -> list[str]:
    found = []
    for line in log.read_text("utf-8", "replace").splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and said.get("level") == "error":
            found.append(str(said.get("message") or line))
    return found


def _last_words(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-LAST_WORDS:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it is left: the whole session is ended, engines too."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()
