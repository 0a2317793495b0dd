"""Long work that outlives a page, and the service: commands of ours, one job at a time, each in a process of its own.

A job is a folder, jobs/NUMBER in the data folder: `job.json`, what its commands wrote (`log`), how far they are (`progress`), and
two folders that are gone when the job is over: `given`, with what they need, and `work`, for what they make in between. A job whose
process vanished, as it does when the box is restarted, is done again with an empty `work`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from appliance.errors import InvalidRequest, NotFound
from appliance.storage import in_words, write_atomically

State = Literal["waiting", "running", "done", "failed", "cancelled"]
OVER = ("done", "failed", "cancelled")
PROGRESS = "APPLIANCE_PROGRESS"
"""In the environment of a command: the file to write to how far it is, as {"share", "label"}."""
GIVEN, WORK = "given", "work"
KEPT = 100
TRIES = 3
PATIENCE_S = 10.0
"""How long a cancelled command may tidy up."""
NICE = 15
"""People who wait for an answer come first."""
LOG_BYTES = 64_000
SHELL = 'trap : INT; "$@"; echo $? >"$0.part" && mv "$0.part" "$0"'
"""Keeps the exit code for a service that was started later than the command."""


@dataclass(frozen=True, slots=True)
class Job:
    """steps: the words of one command after the other; the first that fails ends the job. step: which one runs. at: Unix times.
    born: when the process `pid` began, which tells it from a later one of that number."""

    number: int
    title: str
    by: str
    steps: tuple[tuple[str, ...], ...]
    made_at: float
    state: State = "waiting"
    began_at: float | None = None
    ended_at: float | None = None
    step: int = 0
    pid: int | None = None
    born: float | None = None
    tries: int = 0
    cancelled_at: float | None = None
    why: str = ""


class Jobs:
    """All jobs of a data folder. `tick` by one thread, the rest by any."""

    def __init__(self, folder: Path, environment: dict[str, str], log: Callable[[str, str], None], *, now: Callable[[], float] = time.time) -> None:
        """folder: jobs/ in the data folder; made with the first job. environment: for the commands, beside our own."""
        self._folder, self._environment, self._log, self._now = folder, environment, log, now
        self._lock = threading.Lock()
        self._jobs: dict[int, Job] = {}
        self._processes: dict[int, subprocess.Popen] = {}

    def open(self) -> None:
        """Read what there is. A job that cannot be read is left out."""
        for path in self._folder.glob("*/job.json"):
            try:
                fields = json.loads(path.read_text("utf-8"))
                job = Job(**fields | {"steps": tuple(map(tuple, fields["steps"]))})
                self._jobs[job.number] = job
            except (OSError, ValueError, TypeError, KeyError) as error:
                self._log("warning", f"The job {path.parent.name} cannot be read: {error}")

    # -- for the pages -----------------------------------------------------------------------------------------

    def submit(self, title: str, by: str, steps: Callable[[Path], Sequence[Sequence[str]]]) -> Job:
        """A new job. steps: the commands' words, without `appliance`, for the job's folder; may put files into its `given`. Raises
        StorageFailed, and what steps raises; then there is no job."""
        with self._lock:
            number = max(self._jobs, default=0) + 1
            folder = self._folder / str(number)
            try:
                (folder / GIVEN).mkdir(parents=True)
                job = Job(number, title, by, tuple(tuple(words) for words in steps(folder)), self._now())
                self._keep(job)
            except OSError as error:
                raise in_words(error, f"Writing {folder}") from None
            finally:
                if number not in self._jobs:
                    shutil.rmtree(folder, ignore_errors=True)
            for old in sorted(number for number, job in self._jobs.items() if job.state in OVER)[:-KEPT]:
                shutil.rmtree(self._folder / str(old), ignore_errors=True)
                del self._jobs[old]
            return job

    def all(self) -> list[Job]:
        """The newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: -job.number)

    def find(self, number: int) -> Job:
        """Raises NotFound."""
        with self._lock:
            if number not in self._jobs:
                raise NotFound(f"There is no job {number}.", remedy="The oldest ones are forgotten.")
            return self._jobs[number]

    def progress(self, job: Job) -> dict[str, Any]:
        """{"share": 0 to 1 of the running command, or None, "label"}."""
        try:
            found = json.loads((self._folder / str(job.number) / "progress").read_text("utf-8"))
            return {"share": float(found["share"]), "label": str(found["label"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {"share": None, "label": ""}

    def log(self, job: Job, start: int = 0) -> tuple[str, int]:
        """(what the commands wrote from that byte on, at most LOG_BYTES of it, the end of that)."""
        try:
            with (self._folder / str(job.number) / "log").open("rb") as file:
                start = max(0, min(start, os.fstat(file.fileno()).st_size))
                file.seek(start)
                data = file.read(LOG_BYTES)
                return data.decode("utf-8", "replace"), start + len(data)
        except OSError:
            return "", 0

    def cancel(self, number: int) -> None:
        """End a job; what its command had begun is tidied up. Raises NotFound, InvalidRequest for one that is over."""
        job = self.find(number)
        with self._lock:
            job = self._jobs[number]
            if job.state in OVER:
                raise InvalidRequest(f"The job {number} is over: {job.state}.")
            if job.state == "waiting":
                self._end(job, "cancelled", "")
                return
            self._keep(replace(job, cancelled_at=self._now()))
            _send(job, signal.SIGINT)

    def forget(self, names: Collection[str], word: re.Pattern[str]) -> int:
        """Remove jobs that are over and were made by one of these names, or have that word in their commands or their log; how many."""
        with self._lock:
            gone = [job.number for job in self._jobs.values() if job.state in OVER and (job.by in names or self._mentions(job, word))]
            for number in gone:
                shutil.rmtree(self._folder / str(number), ignore_errors=True)
                del self._jobs[number]
            return len(gone)

    def _mentions(self, job: Job, word: re.Pattern[str]) -> bool:
        try:
            log = (self._folder / str(job.number) / "log").read_text("utf-8", "replace")
        except OSError:
            log = ""
        return any(map(word.search, (job.title, log, *(one for words in job.steps for one in words))))

    # -- the janitor's -----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look after the running job, and start the next."""
        with self._lock:
            for job in [job for job in self._jobs.values() if job.state == "running"]:
                self._look_after(job)
            waiting = [job for job in self._jobs.values() if job.state == "waiting"]
            if waiting and not any(job.state == "running" for job in self._jobs.values()):
                self._begin(min(waiting, key=lambda job: job.number))

    def _look_after(self, job: Job) -> None:
        process = self._processes.get(job.number)
        if process.poll() is None if process else lives(job):
            if job.cancelled_at and self._now() - job.cancelled_at > PATIENCE_S:
                _send(job, signal.SIGKILL)
            return
        code = self._exit_code(job)
        if job.cancelled_at:
            self._end(job, "cancelled", "")
        elif code is None or code > 128:  # killed from outside, as everything is when the box goes down
            if job.tries >= TRIES:
                self._end(job, "failed", f"It was ended from outside {TRIES} times.")
            else:
                self._keep(replace(job, state="waiting", step=0, pid=None, born=None))
        elif code:
            self._end(job, "failed", f"Its command ended with {code}; the last lines of the log say why.")
        elif job.step + 1 < len(job.steps):
            self._run(replace(job, step=job.step + 1))
        else:
            self._end(job, "done", "")

    def _begin(self, job: Job) -> None:
        work = self._folder / str(job.number) / WORK
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        self._run(replace(job, state="running", began_at=job.began_at or self._now(), tries=job.tries + 1))

    def _run(self, job: Job) -> None:
        folder, words = self._folder / str(job.number), job.steps[job.step]
        (folder / "progress").unlink(missing_ok=True)
        (folder / "exit").unlink(missing_ok=True)
        environment = os.environ | self._environment | {PROGRESS: str(folder / "progress"), "PYTHONUNBUFFERED": "1"}
        environment.pop("NOTIFY_SOCKET", None)
        try:
            with (folder / "log").open("ab") as log:
                log.write(f"$ appliance {' '.join(words)}\n".encode("utf-8", "replace"))
                log.flush()
                process = subprocess.Popen(
                    ["sh", "-c", SHELL, str(folder / "exit"), sys.executable, "-m", "appliance.cli", *words],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
                )  # fmt: skip
        except (OSError, ValueError) as error:
            self._end(job, "failed", f"Its command cannot be started: {error}.")
            return
        _make_nice(process.pid)
        self._processes[job.number] = process
        self._keep(replace(job, pid=process.pid, born=_born(process.pid)))

    def _exit_code(self, job: Job) -> int | None:
        self._processes.pop(job.number, None)
        try:
            return int((self._folder / str(job.number) / "exit").read_text())
        except (OSError, ValueError):
            return None

    def _end(self, job: Job, state: State, why: str) -> None:
        for name in (GIVEN, WORK):
            shutil.rmtree(self._folder / str(job.number) / name, ignore_errors=True)
        self._keep(replace(job, state=state, why=why, ended_at=self._now(), pid=None, born=None))
        self._log("info", f"The job {job.number} ({job.title}) is over: {state}. {why}".strip())

    def _keep(self, job: Job) -> None:
        self._jobs[job.number] = job
        write_atomically(self._folder / str(job.number) / "job.json", json.dumps(asdict(job)).encode())


def _born(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def lives(job: Job) -> bool:
    """Whether the command of a running job is at work, whoever started it."""
    return job.pid is not None and job.born is not None and _born(job.pid) == job.born


def _send(job: Job, number: signal.Signals) -> None:
    """To every process of the job."""
    if lives(job):
        try:
            os.killpg(job.pid, number)
        except ProcessLookupError:
            pass  # it has just ended


def _make_nice(pid: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
        Path(f"/proc/{pid}/autogroup").write_text(str(NICE))  # else a session has its own share, however nice it is
    except OSError:
        pass  # it has ended, or this kernel knows no such groups
