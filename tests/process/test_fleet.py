"""Changing what is served, with the scripted engine in real processes: nothing is started that the test does not end."""

from __future__ import annotations

import threading
import time

import pytest
from fakes import wait_until

from appliance import fleet as fleet_module
from appliance.catalog import read_catalog
from appliance.config import load_config
from appliance.engine.messages import Generate
from appliance.engine.topology import LogicalCpu, Topology
from appliance.errors import Draining, InvalidRequest, ModelNotFound, StorageFailed
from appliance.fleet import Fleet
from appliance.types import Failed


@pytest.fixture
def fleet(tmp_path):
    """Makes a fleet on a box of so many cores; ended after the test."""
    made = []

    def make(cpus: int = 2, **settings) -> Fleet:
        box = Topology(tuple(LogicalCpu(n, n) for n in range(cpus)), online_cpus=cpus)
        config = load_config({"engine": "fake", "data_dir": str(tmp_path), "embedder": "none"} | settings, {})
        made.append(Fleet(config, box))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def ready(fleet: Fleet) -> list[str]:
    return [name for name, engine in fleet.engines.items() if engine.supervisor.status.state == "ready"]


def shared(fleet: Fleet) -> dict[str, bool]:
    """By model: whether it has to share its cores, of which this box has too few to divide."""
    return {name: seat.form.settings.shared for name, seat in fleet._asked.items()}


def test_a_second_model_shares_the_box_and_the_first_makes_room(fleet):
    served = fleet(model=["a"])
    told = []
    served.changed = lambda engines: told.append(list(engines))
    served.start()
    wait_until(lambda: ready(served) == ["a"], 20, "the first engine")
    before = served.engines["a"].supervisor.status.pid
    assert shared(served) == {"a": False}
    served.serve("b")
    assert told == [["a", "b"]] and served.engines["b"].supervisor.status.state in ("loading", "ready")
    wait_until(lambda: ready(served) == ["a", "b"] and shared(served) == {"a": True, "b": True}, 30, "both")
    wait_until(lambda: served.engines["a"].supervisor.status.pid not in (None, before), 20, "the first in another process")
    assert served.engines["a"].supervisor.status.restarts == {}  # it was asked to; nothing died


def test_one_that_is_unloaded_leaves_its_cores_to_the_others(fleet):
    served = fleet(model=["a", "b"])
    served.start()
    wait_until(lambda: ready(served) == ["a", "b"], 20, "both")
    gone = served.engines["a"]
    served.withdraw("a")
    assert list(served.engines) == ["b"]
    wait_until(lambda: gone.supervisor.status.state == "absent", 20, "the end of the first")
    wait_until(lambda: shared(served) == {"b": False} and ready(served) == ["b"], 30, "the whole box")
    with pytest.raises(ModelNotFound):
        served.withdraw("a")
    with pytest.raises(InvalidRequest, match="No other model"):
        served.withdraw("b")


def test_the_last_one_that_is_ready_stays_whatever_is_loading_or_encodes(fleet, monkeypatch):
    served = fleet(model=["a", "embed"])
    served.start()
    wait_until(lambda: ready(served) == ["a", "embed"], 20, "both")
    with pytest.raises(InvalidRequest, match="text generation"):
        served.withdraw("a")
    go_on = threading.Event()
    check = fleet_module.Form.check
    monkeypatch.setattr(fleet_module.Form, "check", lambda self, stopping: go_on.wait(20) and check(self, stopping))
    served.serve("b")
    with pytest.raises(InvalidRequest, match="ready"):
        served.withdraw("a")
    go_on.set()
    wait_until(lambda: "b" in ready(served), 20, "the other")
    served.withdraw("a")


def test_answers_of_one_that_is_unloaded_are_told_so(fleet, monkeypatch):
    monkeypatch.setenv("APPLIANCE_FAKE_STEP_S", "0.05")
    served = fleet(model=["a", "b"], drain_s=0.3)
    served.start()
    wait_until(lambda: ready(served) == ["a", "b"], 20, "both")
    ends = []
    engine = served.engines["a"]
    engine.admission.enter("somebody")
    engine.client.submit(Generate(id="r/0", prompt={"text": "!long"}, sampling={}, max_tokens=5000, stop=[], logprobs=None, echo=False), 0, ends.append)
    wait_until(lambda: ends, 10, "the first words")
    served.withdraw("a")
    wait_until(lambda: isinstance(ends[-1], Failed), 20, "the end")
    assert ends[-1].error.code == "model_failed" and "unloaded" in str(ends[-1].error)


def test_the_service_stops_while_an_engine_moves(fleet, monkeypatch):
    served = fleet(model=["a"])
    served.start()
    wait_until(lambda: ready(served) == ["a"], 20, "the engine")
    waits = threading.Event()

    def slow(stopping):
        waits.set()
        while not stopping():
            time.sleep(0.02)
        raise InvalidRequest("the service is stopping")

    monkeypatch.setattr(served.engines["a"].supervisor, "_check", slow)
    served.restart("a")
    assert waits.wait(10)
    began = time.monotonic()
    served.stop()
    assert time.monotonic() - began < 10
    with pytest.raises(Draining):
        served.serve("b")


def test_what_cannot_be_kept_is_not_changed(fleet, tmp_path):
    served = fleet(engine="auto")
    (tmp_path / "models" / "default").mkdir(parents=True)
    with pytest.raises(StorageFailed):
        served.serve("minilm-l6-int8")
    assert list(served.engines) == ["starter"]
    (tmp_path / "models" / "default").rmdir()
    served.serve("minilm-l6-int8")
    assert list(served.engines) == ["starter", "minilm-l6-int8"]


def test_what_runs_may_end_before_its_engine_moves(fleet):
    served = fleet(model=["a"])
    served.start()
    wait_until(lambda: ready(served) == ["a"], 20, "the engine")
    engine, before = served.engines["a"], served.engines["a"].supervisor.status.pid
    place = engine.admission.enter("somebody")
    served.restart("a")
    wait_until(lambda: not engine.admission.enter("another").granted.wait(0.05), 10, "the hold")
    assert engine.supervisor.status.pid == before
    engine.admission.leave(place)
    wait_until(lambda: ready(served) == ["a"] and engine.supervisor.status.pid not in (None, before), 20, "the next process")
    assert engine.admission.enter("third").granted.wait(5)


def test_an_engine_that_was_given_up_can_be_started_again(fleet, tmp_path, monkeypatch):
    served = fleet(model=["a"])
    seat = served._asked["a"]
    real, calls = seat.form.check, []

    def refuse_once(stopping):
        calls.append(1)
        if len(calls) == 1:
            raise InvalidRequest("not today")
        real(stopping)

    monkeypatch.setattr(seat.engine.supervisor, "_check", refuse_once)
    served.start()
    wait_until(lambda: seat.engine.supervisor.status.state == "failed", 10, "the refusal")
    served.restart("a")
    wait_until(lambda: ready(served) == ["a"], 20, "the second try")
    assert seat.engine.supervisor.status.error is None


def test_the_default_comes_first_and_nothing_is_started_anew(fleet):
    served = fleet(model=["a", "b"])
    served.start()
    wait_until(lambda: ready(served) == ["a", "b"], 20, "both")
    pids = [engine.supervisor.status.pid for engine in served.engines.values()]
    served.prefer("b")
    assert list(served.engines) == ["b", "a"]
    served._mover.submit(lambda: None).result(10)
    assert [engine.supervisor.status.pid for engine in served.engines.values()] == pids[::-1]


def test_who_has_a_place_of_the_new_plan_keeps_it(fleet):
    served = fleet(4, model=["a", "b"])
    tasks = dict.fromkeys("bca", "generate")
    assert {name: place.cpus for name, place in served._cores(["b", "a"], {"b": "generate", "a": "generate"}).items()} == {"a": (0, 1), "b": (2, 3)}
    assert {name: place.cpus for name, place in fleet(6, model=["a", "b"])._cores(list("bca"), tasks).items()} == {"b": (0, 1), "c": (2, 3), "a": (4, 5)}


def test_what_does_not_fit_is_refused_with_the_numbers(fleet, monkeypatch):
    served = fleet(model=["a"])
    monkeypatch.setattr(fleet_module, "_size_bytes", lambda path: 10**15)
    with pytest.raises(InvalidRequest, match=r"needs 1\.1 PB|needs [\d,.]+ .B of memory at least; [\d.]+ .B are free"):
        served.serve("b")
    monkeypatch.undo()
    for name in "bcd":
        served.serve(name)
    with pytest.raises(InvalidRequest, match="4 models are served"):
        served.serve("e")
    with pytest.raises(InvalidRequest, match="already"):
        served.serve("d")


def test_a_choice_lasts_where_no_model_was_named(fleet, tmp_path):
    named = fleet(model=["a"])
    named.serve("b")
    assert not named.is_kept and not (tmp_path / "models").exists()
    chosen = fleet(engine="auto")
    assert chosen.is_kept and list(chosen.engines) == ["starter"]
    with pytest.raises(ModelNotFound, match="minilm-l6-int8"):
        chosen.serve("minilm-l6-int9")
    chosen.serve("minilm-l6-int8")
    chosen.prefer("minilm-l6-int8")
    assert list(fleet(engine="auto").engines) == ["minilm-l6-int8", "starter"]
    found = read_catalog(load_config({"data_dir": str(tmp_path)}, {}))
    assert (found.default, found.beside) == ("minilm-l6-int8", ("starter",))
