"""What holds for every test: a data folder of its own, and nothing left behind."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

from appliance.config import SETTINGS

# A shell ignores SIGINT for what it starts in the background, and children inherit that: tests of Ctrl-C need it back.
signal.signal(signal.SIGINT, signal.default_int_handler)

UNIT = Path(__file__).parent / "unit"
PATIENCE_S = 3.0
BROWSERS_OWN = "asyncio_"
"""Threads that Playwright keeps for as long as it drives a browser."""
SETTING_NAMES = frozenset(setting.env for setting in SETTINGS)

hypothesis.settings.register_profile("appliance", deadline=None, max_examples=60, derandomize=True, database=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000, database=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "appliance"))


def pytest_collection_finish() -> None:
    """What was imported stays: a full collection that looks at it each time takes a tenth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_dirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New folders. `mktemp` reads the whole list of them to find the next number; this counts."""
    base = tmp_path_factory.mktemp("data")
    return (base / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def private_data_dir(data_dirs: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes what belongs to the person who runs it."""
    for name in SETTING_NAMES.intersection(os.environ):
        monkeypatch.delenv(name)
    folder = next(data_dirs)
    folder.mkdir()
    monkeypatch.setenv("APPLIANCE_DATA_DIR", str(folder))
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))


def _settled(left: Callable[[], set]) -> set:
    """What is still left after a moment of patience."""
    until = time.monotonic() + PATIENCE_S
    while (found := left()) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def _children() -> set[int]:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # takes nobody's exit status away
    except ChildProcessError:
        return set()  # there is none, running or ended; to list them all processes of the machine must be read
    return {child.pid for child in psutil.Process().children()}


def _sockets() -> set[str]:
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue  # the descriptor of this very listing
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No thread, no child process and (unit tests) no socket outlives its test."""
    threads = set(threading.enumerate())
    children = _children()
    sockets = _sockets()
    yield
    left = _settled(lambda: {thread for thread in set(threading.enumerate()) - threads if not thread.name.startswith(BROWSERS_OWN)})
    assert not left, f"threads left behind: {sorted(thread.name for thread in left)}"
    pids = _settled(lambda: _children() - children)
    assert not pids, f"child processes left behind: {sorted(pids)}"
    if UNIT in request.path.parents:
        open_sockets = _settled(lambda: _sockets() - sockets)
        assert not open_sockets, f"sockets left open: {sorted(open_sockets)}"
