"""A Debian of its own, booted with its own systemd and without a network, to install into. Needs root, debootstrap and systemd-nspawn."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil

SUITE, PACKAGES = "bookworm", "systemd,systemd-sysv,dbus,python3"
"""Debian 12 as small as it boots, and the Python of its base: no pip, no venv package, no compiler, no procps."""
START_S = 60.0
REBOOT = 133
"""With this code systemd-nspawn --keep-unit leaves it to whoever started it to start it again."""
NEEDED = ("debootstrap", "systemd-nspawn", "nsenter")


def missing() -> str:
    """Why no box can be booted here, ''."""
    if os.geteuid() != 0:
        return "a box of its own needs root"
    if absent := [name for name in NEEDED if not shutil.which(name)]:
        return f"{', '.join(absent)} is missing (apt-get install debootstrap systemd-container)"
    return ""


def debian(cache: Path) -> Path:
    """The folder with a Debian that was never booted; made once, from the mirror of this machine."""
    root = cache / f"{SUITE}-root"
    if not root.exists():
        draft = cache / f".{SUITE}-root"
        shutil.rmtree(draft, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(draft)], check=True, stdout=subprocess.DEVNULL)
        draft.rename(root)
    return root


class Box:
    """A booted machine. stick: a folder that it sees, read-only, at /mnt."""

    def __init__(self, folder: Path, debian: Path, stick: Path) -> None:
        self.root, self._stick = folder / "root", stick
        subprocess.run(["cp", "-a", str(debian), str(self.root)], check=True)
        self._log = (folder / "console.txt").open("wb")
        self._nspawn: subprocess.Popen | None = None

    def boot(self) -> None:
        """Switch it on, and wait until systemd has started everything."""
        command = ["systemd-nspawn", "--quiet", "--boot", "--private-network", "--register=no", "--keep-unit", f"--directory={self.root}", f"--bind-ro={self._stick}:/mnt"]
        self._nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True)
        self._wait_booted()

    def _wait_booted(self) -> None:
        until = time.monotonic() + START_S
        while self.run("systemctl", "is-system-running", check=False).strip() not in ("running", "degraded"):
            assert self._nspawn and self._nspawn.poll() is None and time.monotonic() < until, "the box did not boot"
            time.sleep(0.2)

    def reboot(self) -> None:
        """As a person with the power button, who waits for the end."""
        assert self._nspawn
        self.run("systemctl", "reboot", check=False)
        assert self._nspawn.wait(START_S) == REBOOT, "the box did not go down"
        self.boot()

    def off(self) -> None:
        """Switch it off and wait."""
        if self._nspawn and self._nspawn.poll() is None:
            os.killpg(self._nspawn.pid, signal.SIGTERM)  # nspawn passes it on as an orderly power-off
            try:
                self._nspawn.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self._nspawn.pid, signal.SIGKILL)
                self._nspawn.wait()
        self._log.close()

    def _leader(self) -> int:
        """Its systemd, as the host numbers it; 0 while it has none."""
        assert self._nspawn
        try:
            children = psutil.Process(self._nspawn.pid).children()
            return next((child.pid for child in children if child.name() == "systemd"), 0)
        except psutil.Error:
            return 0

    def command(self, *words: str) -> list[str]:
        """A command of the host that runs one in the box."""
        return ["nsenter", "--target", str(self._leader()), "--mount", "--uts", "--ipc", "--net", "--pid", "--", *words]

    def run(self, *words: str, check: bool = True, timeout_s: float = 100.0) -> str:
        """What a command in the box says."""
        done = subprocess.run(self.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s)
        assert done.returncode == 0 or not check, f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def run_and_kill(self, after_s: float, *words: str) -> bool:
        """Start a command and kill it and all it started; whether it was still at work."""
        process = subprocess.Popen(self.command("setsid", "--wait", *words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            pass
        family = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        for one in family:
            try:
                one.kill()
            except psutil.Error:
                pass
        process.wait()
        return bool(family)
