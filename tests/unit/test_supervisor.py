"""The life of an engine child, with real processes that run the scripted engine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
from fakes import Engine, running_engine, wait_until
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine import child as child_module
from appliance.engine import supervisor as supervisor_module
from appliance.engine.child import Child, Death
from appliance.engine.client import EngineClient
from appliance.engine.supervisor import BOOT_TRIES, LONGEST_PAUSE_S, Supervisor, pause_before_restart
from appliance.errors import (
    ApplianceError,
    Cancelled,
    ContextLengthExceeded,
    Draining,
    EngineLost,
    ModelFailed,
    ModelFileError,
    ModelLoading,
    RequestQuarantined,
)
from appliance.types import Failed, Finished

process = pytest.mark.process


@process
def test_a_child_loads_answers_and_leaves_when_told():
    with running_engine() as engine:
        status = engine.supervisor.status
        assert status.state == "ready" and status.info.context_tokens == 2048 and psutil.pid_exists(status.pid)
        inbox = engine.submit("hello")
        assert isinstance(inbox.wait_end(), Finished) and inbox.text == "echo: hello"
        assert engine.client.ask("tokenize", {"text": "hi"}, 5)["tokens"] == [104, 105]
        wait_until(lambda: status.load.get("running") == 0)
    assert status.state == "absent" and status.pid is None
    assert [child.process.returncode for child in engine.children] == [0]


@process
def test_kill_9_in_mid_stream_ends_that_stream_and_nothing_else():
    with running_engine(sequences=1, fake_step_s=0.01) as engine:
        streaming = engine.submit("!long")
        streaming.wait_text()
        waiting = engine.submit("patient")
        began = time.monotonic()
        os.kill(engine.supervisor.status.pid, signal.SIGKILL)
        end = streaming.wait_end()
        assert isinstance(end.error, EngineLost) and "killed from outside (SIGKILL)" in str(end.error)
        assert isinstance(waiting.wait_end(), Finished) and waiting.text == "echo: patient"
        assert engine.submit("next").wait_end().reason == "stop"
        assert time.monotonic() - began < 5
        assert len(streaming.ends) == len(waiting.ends) == 1
        assert engine.supervisor.status.restarts == {"stopped": 1}
    assert len(engine.children) == 2


@process
def test_a_request_that_crashes_the_engine_twice_is_quarantined_and_others_are_served():
    with running_engine() as engine:
        poison = engine.submit("!crash")
        end = poison.wait_end()
        assert isinstance(end.error, EngineLost) and "SIGSEGV" in str(end.error)
        assert engine.supervisor.status.restarts == {"crash": 2}
        with pytest.raises(RequestQuarantined):
            engine.submit("!crash")
        engine.supervisor.wait_ready(20)
        assert isinstance(engine.submit("harmless").wait_end(), Finished)
    assert len(engine.children) == 3


@process
def test_a_hanging_engine_is_killed_and_the_hang_is_explained():
    with running_engine(hang_timeout_s=1.0) as engine:
        stuck = engine.submit("!hang")
        end = stuck.wait_end()
        assert isinstance(end.error, EngineLost)
        assert "it hung: no step for 1 s" in str(end.error) and "hang_timeout_s" in str(end.error)
        assert engine.supervisor.status.restarts == {"hang": 2}
        engine.supervisor.wait_ready(20)
        assert isinstance(engine.submit("fine").wait_end(), Finished)
    assert any("it hung" in words for _, words in engine.log)


@process
def test_an_idle_engine_is_not_killed_when_a_request_arrives_after_a_long_silence():
    with running_engine(hang_timeout_s=1.0) as engine:
        time.sleep(1.6)
        assert isinstance(engine.submit("good morning").wait_end(), Finished)
        assert engine.supervisor.status.restarts == {}
    assert len(engine.children) == 1


@process
@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "There is no model file"), (b"I am only text.", "is not a GGUF file"), (b"GGUF" + b"\0" * 60, "cannot be loaded")],
    ids=["missing", "text", "truncated"],
)
def test_a_model_that_cannot_be_served_is_refused_in_words_and_not_tried_again(tmp_path, content, words):
    path = tmp_path / "model.gguf"
    if content:
        path.write_bytes(content)
    engine = Engine(engine="llama", path=str(path))
    early = engine.submit("hello")
    engine.supervisor.start()
    try:
        engine.wait_state("failed")
        assert words in engine.supervisor.status.reason and str(path.name) in engine.supervisor.status.reason
        assert len(engine.children) == 1
        assert isinstance(early.wait_end().error, ModelFailed) and words in str(early.ends[0].error)
        with pytest.raises(ModelFailed, match=words):
            engine.supervisor.wait_ready(1)
        with pytest.raises(ModelFailed):
            engine.submit("too late")
        assert engine.supervisor.status.error.exit_code in (65, 66)
    finally:
        engine.supervisor.stop()
    assert engine.children[0].process.returncode == 65


@process
def test_a_child_that_cannot_boot_is_tried_three_times(capfd):
    engine = Engine(cpus=(100_000,))  # no such CPU: setting the affinity fails
    engine.supervisor.start()
    try:
        engine.wait_state("failed")
        assert "3 times in a row while loading" in engine.supervisor.status.reason
    finally:
        engine.supervisor.stop()
    assert len(engine.children) == BOOT_TRIES
    assert engine.supervisor.status.restarts == {"fault": 3}
    assert "Traceback" in capfd.readouterr().err, "its last words are in the log"


def test_a_process_that_cannot_be_started_is_tried_three_times(monkeypatch):
    log, paused_after = [], []
    monkeypatch.setattr(supervisor_module, "pause_before_restart", lambda deaths: paused_after.append(deaths) or 0.05)

    def no_process():
        raise OSError(12, "Cannot allocate memory")

    supervisor = Supervisor(
        "x", no_process, EngineClient(), hang_timeout_s=1, load_timeout_s=1, log=lambda *line: log.append(line)
    )
    began = time.monotonic()
    supervisor.start()
    wait_until(lambda: supervisor.status.state == "failed")
    assert time.monotonic() - began >= 0.1
    supervisor.stop()
    assert "Cannot allocate memory" in log[-1][1] and len(log) == BOOT_TRIES
    assert paused_after == [1, 2]


@process
def test_a_child_that_loads_too_long_is_killed_and_that_is_explained(monkeypatch):
    _instead_of_worker(monkeypatch, "import time; time.sleep(60)")
    engine = Engine(load_timeout_s=0.3)
    engine.supervisor.start()
    with pytest.raises(ModelLoading):
        engine.supervisor.wait_ready(0.05)
    wait_until(lambda: engine.supervisor.status.restarts.get("slow_boot"))
    engine.supervisor.stop()
    assert "not ready after 0.3 s" in engine.log[0][1]


@process
def test_a_child_that_talks_nonsense_is_replaced(monkeypatch):
    _instead_of_worker(
        monkeypatch, "import socket,sys; socket.socket(fileno=int(sys.argv[1])).sendall(b'\\0\\0\\0\\2{}'); sys.stdin.read()"
    )
    engine = Engine()
    engine.supervisor.start()
    wait_until(lambda: engine.supervisor.status.restarts.get("fault"))
    engine.supervisor.stop()
    assert "makes no sense" in engine.log[0][1]


def _instead_of_worker(monkeypatch, code: str) -> None:
    real = child_module.subprocess.Popen

    def popen(argv, **how):
        return real([sys.executable, "-c", code, *argv[3:]], **how)

    monkeypatch.setattr(child_module, "subprocess", SimpleNamespace(**vars(child_module.subprocess) | {"Popen": popen}))


@process
def test_stop_fails_what_runs_with_draining_and_leaves_nothing():
    engine = Engine(fake_step_s=0.01, sequences=1)
    engine.supervisor.start()
    engine.supervisor.wait_ready(20)
    running, waiting = engine.submit("!long"), engine.submit("!long of another")
    running.wait_text()
    began = time.monotonic()
    engine.supervisor.stop()
    assert time.monotonic() - began < 3
    for inbox in (running, waiting):
        assert [type(end.error) for end in inbox.ends] == [Draining]
    with pytest.raises(Draining):
        engine.submit("late")


@process
def test_stop_kills_a_child_that_hangs_and_calls_it_draining():
    engine = Engine(hang_timeout_s=60)
    engine.supervisor.start()
    engine.supervisor.wait_ready(20)
    stuck = engine.submit("!hang")
    time.sleep(0.2)
    blocked = threading.Thread(target=engine.submit, args=("x" * 2_000_000,), name="test-blocked")
    blocked.start()  # fills the socket of a child that reads no more
    time.sleep(0.2)
    began = time.monotonic()
    engine.supervisor.stop(timeout_s=0.5)
    assert time.monotonic() - began < 5
    blocked.join(2)
    assert isinstance(stuck.ends[0].error, Draining)
    assert engine.children[0].process.returncode == -signal.SIGKILL


@process
@pytest.mark.parametrize("wait_s", [0.0, 0.05])
def test_stop_while_loading_does_not_wait_for_the_load(wait_s):
    engine = Engine()
    engine.supervisor.start()
    time.sleep(wait_s)
    began = time.monotonic()
    engine.supervisor.stop()
    assert time.monotonic() - began < 3
    assert all(child.process.returncode is not None for child in engine.children)


def test_a_model_that_fails_its_check_is_refused_in_words_and_no_process_is_started():
    started, log = [], []

    def check(stopping):
        raise ModelFileError("The file was changed.", remedy="Fetch it again.")

    supervisor = Supervisor(
        "x", lambda: started.append(1), EngineClient(), hang_timeout_s=1, load_timeout_s=1,
        log=lambda *line: log.append(line), check=check,
    )  # fmt: skip
    supervisor.start()
    wait_until(lambda: supervisor.status.state == "failed")
    supervisor.stop()
    assert not started and isinstance(supervisor.status.error, ModelFileError)
    assert log == [("error", "Engine x cannot be served: The file was changed. Fetch it again.")]


def test_stop_ends_a_check_that_takes_long_and_no_process_is_started():
    started, began = [], threading.Event()

    def check(stopping):
        began.set()
        wait_until(stopping)
        raise Draining("The service is stopping.")

    supervisor = Supervisor(
        "x", lambda: started.append(1), EngineClient(), hang_timeout_s=1, load_timeout_s=1, log=print, check=check
    )
    supervisor.start()
    assert began.wait(5) and supervisor.status.state == "loading" and supervisor.status.phase == "checking"
    supervisor.stop()
    assert not started and supervisor.status.state == "absent"


def test_stop_without_a_start_is_fine():
    engine = Engine()
    engine.supervisor.stop()
    engine.supervisor.stop()
    assert engine.supervisor.status.state == "absent"


@process
def test_a_question_is_answered_between_the_steps_of_a_stream():
    with running_engine() as engine:
        stream = engine.submit("!long")
        stream.wait_text()
        assert engine.client.ask("tokenize", {"text": "abc"}, 5)["tokens"] == [97, 98, 99]
        assert not stream.ends
        engine.client.cancel(stream.id)
        assert isinstance(stream.wait_end().error, Cancelled)


@process
def test_a_request_that_is_far_too_large_is_refused_and_the_engine_lives():
    with running_engine() as engine:
        assert isinstance(engine.submit("x" * 3_000_000).wait_end().error, ContextLengthExceeded)
        assert isinstance(engine.submit("small").wait_end(), Finished)
    assert len(engine.children) == 1


@process
def test_200_random_cancels_refusals_and_kills_leave_nothing_behind():
    rng = random.Random(11)
    with running_engine(fake_step_s=0.002) as engine:
        boxes, kills = [], 0
        for n in range(200):
            words = rng.choice(["short", "!long", "shared words " * 20 + str(n), "x" * 5000, f"!template {n}", "!long again"])
            inbox = engine.submit(words, max_tokens=rng.choice([None, 1, 5, 50]))
            boxes.append(inbox)
            if rng.random() < 0.5 or "!long" in words:
                threading.Timer(rng.random() * 0.1, engine.client.cancel, (inbox.id,)).start()
            if n % 40 == 20:
                pid = engine.supervisor.status.pid
                if pid:
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
            time.sleep(rng.random() * 0.02)
        for inbox in boxes:
            if not inbox.ends:
                engine.client.cancel(inbox.id)
        for inbox in boxes:
            inbox.wait_end(30)
        assert all(len(inbox.ends) == 1 for inbox in boxes)
        kinds = {type(e.error).__name__ if isinstance(e, Failed) else "Finished" for inbox in boxes for e in inbox.ends}
        assert {"Finished", "Cancelled", "ContextLengthExceeded", "TemplateFailed"} <= kinds
        assert kinds <= {"Finished", "Cancelled", "ContextLengthExceeded", "TemplateFailed", "EngineLost"}
        engine.supervisor.wait_ready(20)
        # An idle loop checks its books before it waits: had they been wrong, the child would have died of it.
        assert isinstance(engine.submit("after all").wait_end(), Finished)
        time.sleep(0.1)
        assert isinstance(engine.submit("really").wait_end(), Finished)
        assert engine.supervisor.status.restarts == {"stopped": kills}
        assert engine.supervisor.status.load["kv_used_tokens"] == 0
    assert len(engine.children) == kills + 1


# -- words for deaths ----------------------------------------------------------------------------------------------


def explained(code: int, oom_kills: tuple[int, int] = (0, 0)) -> Death:
    child = Child.__new__(Child)
    child._oom_kills = oom_kills[0]
    original = child_module._oom_kills
    child_module._oom_kills = lambda: oom_kills[1]
    try:
        return child.explain(code)
    finally:
        child_module._oom_kills = original


@pytest.mark.parametrize(
    ("code", "oom", "cause", "words", "blame"),
    [
        (0, (0, 0), "stopped", "told to stop", False),
        (70, (0, 0), "fault", "exit code 70", True),
        (-signal.SIGSEGV, (0, 0), "crash", "SIGSEGV", True),
        (-signal.SIGABRT, (0, 0), "crash", "SIGABRT", True),
        (-signal.SIGILL, (0, 0), "crash", "run install.sh again", True),
        (-signal.SIGKILL, (3, 3), "stopped", "killed from outside (SIGKILL)", False),
        (-signal.SIGKILL, (3, 4), "out_of_memory", "memory ran out", False),
        (-signal.SIGTERM, (0, 0), "stopped", "SIGTERM", False),
        (-40, (0, 0), "stopped", "signal 40", False),
    ],
)
def test_every_way_to_die_has_its_words(code, oom, cause, words, blame):
    death = explained(code, oom)
    assert death.cause == cause and words in death.words and death.blame is blame


def test_out_of_memory_kills_are_read_from_vmstat(tmp_path):
    table = tmp_path / "vmstat"
    table.write_text("pgfault 12\noom_kill 7\nother 1\n")
    assert child_module._oom_kills(table) == 7
    assert child_module._oom_kills(tmp_path / "missing") == 0


@given(st.integers(0, 10_000))
def test_pauses_grow_to_a_limit_and_the_first_restart_is_at_once(deaths):
    assert pause_before_restart(1) == 0.0
    assert pause_before_restart(deaths) <= pause_before_restart(deaths + 1) <= LONGEST_PAUSE_S


def test_a_child_gets_no_key_and_imports_nothing_from_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("APPLIANCE_API_KEY", "secret-1")
    monkeypatch.setenv("APPLIANCE_API_KEY_FILE", "/secret-2")
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    environment = child_module._environment({"OMP_NUM_THREADS": "1"})
    assert not [name for name in environment if name.startswith("APPLIANCE_")] and "secret" not in str(environment.values())
    assert environment["OMP_NUM_THREADS"] == "1" and environment["PYTHONPATH"].endswith(f"{os.pathsep}/somewhere/else")
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    (tmp_path / "appliance").mkdir()
    program = "appliance.engine.worker"  # without arguments it ends after its imports
    ended = subprocess.run([sys.executable, "-m", program], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "IndexError" in ended.stderr and "wrong numpy" not in ended.stderr


@process
def test_a_text_that_crashes_an_encoder_is_found_and_refused_and_everybody_else_is_answered():
    with running_engine(name="embed", fake_step_s=0.1) as engine:
        texts = ["a b", "a b c", "x !crash", "a b c d", "a"]
        found = {}

        def ask(text: str) -> None:
            try:
                found[text] = engine.client.compute("embed", {"inputs": [text]})["tokens"]
            except ApplianceError as error:
                found[text] = error

        def ask_all(texts: list[str]) -> None:
            threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(40)

        ask_all(texts)
        assert isinstance(found.pop("x !crash"), EngineLost)
        assert found == {"a b": [4], "a b c": [5], "a b c d": [6], "a": [3]}
        assert engine.supervisor.status.restarts == {"crash": 2}
        ask_all(texts)
        assert isinstance(found.pop("x !crash"), RequestQuarantined)
        assert found == {"a b": [4], "a b c": [5], "a b c d": [6], "a": [3]}
        assert engine.supervisor.status.restarts == {"crash": 2}
