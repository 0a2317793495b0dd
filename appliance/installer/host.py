"""What is asked of the machine: its users and its systemd. Everything that changes it outside our folders goes through here."""

from __future__ import annotations

import os
import pwd
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from appliance.errors import StepFailed
from appliance.installer.layout import UNIT, USER, Layout

READY_S = 900.0
"""Loading a model from a slow disk may take minutes; the unit itself gives up earlier when nothing goes on."""


class Host:
    """This machine."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def run(self, *command: str | Path, as_user: bool = False, env: Mapping[str, str] | None = None, words: str = "", timeout_s: float = READY_S) -> str:
        """A program's output. as_user: as the service's user. words: given on its stdin. Raises StepFailed."""
        given: dict = {}
        if as_user and os.geteuid() == 0:
            user = pwd.getpwnam(USER)
            given = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        clean = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LANG": "C.UTF-8", "HOME": "/", "PIP_CONFIG_FILE": "/dev/null", **(env or {})}
        try:
            done = subprocess.run(
                [str(word) for word in command], env=clean, input=words, capture_output=True, text=True, errors="replace", timeout=timeout_s, umask=0o022, cwd="/", **given,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StepFailed(f"{Path(str(command[0])).name} could not be run: {error}.") from None
        if done.returncode:
            last = "\n".join((done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-5:])
            raise StepFailed(f"{Path(str(command[0])).name} failed: {last}")
        return done.stdout

    def as_service(self, release: Path, *words: str | Path) -> str:
        """Work in the service's own folders, as its user, by the program of an installed version; see `as_service`. Raises StepFailed."""
        return self.run(release / ".venv/bin/python", "-I", "-m", "appliance.installer.as_service", *words, as_user=True)

    def make_user(self, sysusers: Path) -> None:
        """The service's user, if there is none."""
        self.run("systemd-sysusers", sysusers)

    def has_user(self) -> bool:
        """Whether the service's user exists."""
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return False
        return True

    def remove_user(self) -> None:
        """Remove the service's user and group, if they are there."""
        for command in ("userdel", "groupdel"):
            try:
                self.run(command, USER)
            except StepFailed:
                pass  # gone already

    def systemctl(self, *words: str) -> str:
        """Raises StepFailed."""
        return self.run("systemctl", *words)

    def reload(self) -> None:
        """Have systemd read its units again."""
        self.systemctl("daemon-reload")

    def start(self) -> None:
        """Start the service, or start it again, and wait until it answers. One order to systemd, so that a killed installer leaves no
        service stopped. Raises StepFailed with what the service said."""
        try:
            self.systemctl("reset-failed", UNIT)  # or it might not be started because it had failed too often
        except StepFailed:
            pass  # it has never run
        since = time.time()
        try:
            self.systemctl("restart", UNIT)
            self._answers()
        except StepFailed as error:
            said = self.run("journalctl", "--unit", UNIT, "--since", f"@{since:.0f}", "--output", "cat", "--no-pager", "--lines", "5").strip()
            raise StepFailed(f"The service does not run: {error.message}\nIts last words:\n{said}") from None

    def _answers(self) -> None:
        """systemd calls it ready when a request can be answered; it must stay so for a moment, and be reached."""
        before = self.systemctl("show", "--property", "NRestarts,MainPID", UNIT)
        time.sleep(2)
        if self.systemctl("show", "--property", "NRestarts,MainPID", UNIT) != before or not self.active():
            raise StepFailed("it ended right after it was ready.")
        unverified = ssl._create_unverified_context()  # only ourselves, on loopback
        last: Exception | None = None
        for scheme in ("https", "http"):
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unverified)).open(f"{scheme}://{self._address()}:{self.port()}/readyz", timeout=20):
                    return
            except OSError as error:
                last = error
        raise StepFailed(f"it does not answer at {self._address()}:{self.port()}: {last}.")

    def port(self) -> int:
        """The port that is set."""
        return int(self._layout.setting("port", 8080))

    def _address(self) -> str:
        """Where the service listens, as this machine reaches it."""
        host = str(self._layout.setting("host", "127.0.0.1"))
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
        return f"[{host}]" if ":" in host and not host.startswith("[") else host

    def active(self) -> bool:
        """Whether the service runs and is ready."""
        try:
            return self.systemctl("is-active", UNIT).strip() == "active"
        except StepFailed:
            return False

    def stop(self) -> None:
        """Stop the service and start it no more. Nothing happens where there is none."""
        for words in (("stop", UNIT), ("disable", UNIT)):
            try:
                self.systemctl(*words)
            except StepFailed:
                pass  # there is no such unit any more
