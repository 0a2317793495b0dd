"""Changing what is served, with the scripted engine in real processes: nothing is started that the test does not end."""

from __future__ import annotations

import pytest
from fakes import wait_until

from appliance import fleet as fleet_module
from appliance.catalog import read_catalog
from appliance.config import load_config
from appliance.engine.topology import LogicalCpu, Topology
from appliance.errors import InvalidRequest, ModelNotFound
from appliance.fleet import Fleet


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
    assert told == [["a", "b"]]
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
    with pytest.raises(InvalidRequest, match="only model"):
        served.withdraw("b")


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
