"""Jobs with real commands: how they go on after the service is gone, how they end, and what they leave."""

from __future__ import annotations

import json
import os
import signal

import psutil
import pytest
from fakes import wait_until

from appliance.errors import InvalidRequest, NotFound
from appliance.jobs import TRIES, Jobs


@pytest.fixture
def make(tmp_path):
    """Makes the jobs of a data folder; called again, those of a service that was started later."""
    made = []

    def jobs() -> Jobs:
        made.append(Jobs(tmp_path / "jobs", {"APPLIANCE_DATA_DIR": str(tmp_path)}, lambda level, words: None))
        made[-1].open()
        return made[-1]

    yield jobs
    for one in made:
        for process in one._processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(jobs: Jobs, number: int, states: tuple[str, ...] = ("done", "failed", "cancelled"), timeout_s: float = 30.0):
    def there() -> bool:
        jobs.tick()
        return jobs.find(number).state in states

    wait_until(there, timeout_s, f"the job in {states}: {jobs.find(number)}")
    return jobs.find(number)


def slow(folder) -> list[list[str]]:
    """Two commands; the first one reads for a minute."""
    (folder / "given" / "long.txt").write_text("How do I add a model from a stick to the box? " * 20_000)
    return [["models", "eval", f"--text={folder / 'given' / 'long.txt'}", "--", "starter"], ["models", "list"]]


def test_the_commands_of_a_job_run_one_after_the_other_and_the_log_has_what_they_say(make, tmp_path):
    jobs = make()
    job = jobs.submit("Look", "Ann", lambda folder: [["models", "verify", "--", "starter"], ["models", "list"]])
    assert (job.number, job.state, job.by) == (1, "waiting", "Ann")
    found = run(jobs, 1)
    assert found.state == "done" and found.ended_at >= found.began_at >= found.made_at
    words, end = jobs.log(found)
    assert "$ appliance models verify -- starter" in words and "starter: good" in words and "NAME" in words
    assert jobs.log(found, end) == ("", end) and jobs.log(found, end - 5)[0] == words[-5:]
    assert sorted(path.name for path in (tmp_path / "jobs" / "1").iterdir()) == ["exit", "job.json", "log"]


def test_the_first_command_that_fails_ends_it(make):
    jobs = make()
    jobs.submit("Look", "Ann", lambda folder: [["models", "verify", "--", "nobody"], ["models", "list"]])
    found = run(jobs, 1)
    assert found.state == "failed" and found.step == 0 and "66" not in found.why and "log" in found.why
    assert "nobody" in jobs.log(found)[0]


def test_one_at_a_time_in_the_order_they_came(make):
    jobs = make()
    for _ in range(3):
        jobs.submit("Look", "Ann", lambda folder: [["models", "list"]])
    jobs.tick()
    assert [job.state for job in jobs.all()] == ["waiting", "waiting", "running"]
    assert run(jobs, 3).began_at >= jobs.find(2).ended_at >= jobs.find(2).began_at >= jobs.find(1).ended_at


def test_a_cancelled_one_ends_at_once_with_all_its_processes(make):
    jobs = make()
    jobs.submit("Wait", "Ann", slow)
    jobs.submit("Never", "Ann", lambda folder: [["models", "list"]])
    running = run(jobs, 1, ("running",))
    wait_until(lambda: psutil.Process(running.pid).children(), 10, "its command")
    (child,) = psutil.Process(running.pid).children()
    jobs.cancel(2)
    jobs.cancel(1)
    assert run(jobs, 1).state == "cancelled" and jobs.find(2).state == "cancelled"
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    for number, error in ((1, InvalidRequest), (9, NotFound)):
        with pytest.raises(error):
            jobs.cancel(number)


def test_a_job_goes_on_while_there_is_no_service(make):
    first = make()
    first.submit("Look", "Ann", lambda folder: [["models", "verify", "--", "starter"], ["models", "list"]])
    first.tick()
    process = first._processes[1]
    later = make()
    assert later.find(1).state == "running" and later.find(1).pid == process.pid
    process.wait(30)
    found = run(later, 1)
    assert found.state == "done" and found.tries == 1 and "NAME" in later.log(found)[0]


def test_one_that_was_killed_with_the_box_is_done_again_but_not_for_ever(make, tmp_path):
    jobs = make()
    jobs.submit("Look", "Ann", lambda folder: [["models", "list"]])
    jobs.tick()
    os.killpg(jobs.find(1).pid, signal.SIGKILL)
    assert run(jobs, 1).state == "done" and jobs.find(1).tries == 2
    jobs.submit("Wait", "Ann", slow)
    for tries in range(1, TRIES + 1):
        assert run(jobs, 2, ("running",)).tries == tries
        os.killpg(jobs.find(2).pid, signal.SIGKILL)
        jobs._processes[2].wait()
        jobs.tick()
    found = run(jobs, 2)
    assert found.state == "failed" and "from outside" in found.why


def test_how_far_it_is_comes_from_the_command(make, tmp_path):
    jobs = make()
    jobs.submit("Look", "Ann", lambda folder: [["models", "verify", "--", "starter"]])
    seen = set()

    def over() -> bool:
        jobs.tick()
        progress = jobs.progress(jobs.find(1))
        if progress["share"] is not None:
            seen.add((progress["label"], 0 <= progress["share"] <= 1))
        return jobs.find(1).state == "done"

    wait_until(over, 30, "the end")
    assert seen == {("starter", True)}


def test_what_cannot_begin_leaves_no_job(make, tmp_path):
    jobs = make()

    def refused(folder):
        raise InvalidRequest("not that")

    with pytest.raises(InvalidRequest):
        jobs.submit("Look", "Ann", refused)
    assert jobs.all() == [] and list((tmp_path / "jobs").iterdir()) == []


def test_a_command_that_cannot_be_started_ends_its_own_job_only(make):
    jobs = make()
    jobs.submit("Odd", "Ann", lambda folder: [["models", "add", "--name=a\0b", "--", "x"]])
    jobs.submit("Look", "Ann", lambda folder: [["models", "list"]])
    jobs.tick()
    assert jobs.find(1).state == "failed" and "cannot be started" in jobs.find(1).why
    assert run(jobs, 2).state == "done"
    assert jobs.log(jobs.find(2), 10**30) == ("", jobs.log(jobs.find(2))[1])


def test_a_damaged_paper_hides_one_job_only(make, tmp_path):
    jobs = make()
    for _ in range(2):
        jobs.submit("Look", "Ann", lambda folder: [["models", "list"]])
    (tmp_path / "jobs" / "1" / "job.json").write_text('{"number": 1')
    assert [job.number for job in make().all()] == [2]
    assert json.loads((tmp_path / "jobs" / "2" / "job.json").read_text())["title"] == "Look"
