"""The composition root, without starting anything."""

from __future__ import annotations

import logging
import threading

import pytest

from appliance import services as services_module
from appliance.config import load_config
from appliance.engine.topology import LogicalCpu, Topology
from appliance.fleet import Once
from appliance.logs import LOGGER
from appliance.services import Services


@pytest.fixture(autouse=True)
def own_log(monkeypatch):
    """A reload also sets up the log."""
    monkeypatch.setattr(LOGGER, "handlers", [])
    monkeypatch.setattr(LOGGER, "propagate", True)
    monkeypatch.setattr(LOGGER, "level", LOGGER.level)


def test_a_reload_does_not_open_the_network_to_everybody(caplog, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("k1\n")
    running = load_config({"host": "0.0.0.0", "api_key_file": str(keys), "engine": "fake", "model": ["x"]}, {})
    fresh = load_config({"host": "127.0.0.1", "engine": "fake", "model": ["x"]}, {})  # good, but for another socket
    services = Services(running, lambda: fresh)
    with caplog.at_level(logging.ERROR, "appliance"):
        services.reload()
    assert services.auth.required and services.config is running
    assert "0.0.0.0" in caplog.text and "old one stays" in caplog.text


def test_a_reload_may_drop_the_keys_on_loopback(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("k1\n")
    flags = {"engine": "fake", "model": ["x"]}
    services = Services(load_config({"api_key_file": str(keys), **flags}, {}), lambda: load_config(flags, {}))
    services.reload()
    assert not services.auth.required


def test_where_others_reach_it_the_box_is_never_open_by_itself(tmp_path):
    flags = {"host": "0.0.0.0", "engine": "fake", "model": ["x"], "data_dir": str(tmp_path)}
    config = load_config(flags, {}, has_keys=lambda folder: True)
    services = Services(config, lambda: config)
    services.access.open()
    try:
        services.renew_auth()
        assert services.auth.required, "although there is no key at all"
        number, _ = services.access.make_key("till", "Ann")
        services.reload()
        services.access.revoke_key(number, "Ann")
        services.access.open_to_all("Ann")
        services.renew_auth()
        assert services.auth.required
    finally:
        services.access.close()


def test_a_reload_counts_the_keys_of_the_admin_page(caplog, tmp_path):
    flags = {"host": "0.0.0.0", "engine": "fake", "model": ["x"], "data_dir": str(tmp_path)}
    fresh = load_config(flags | {"queue_size": 5}, {}, has_keys=lambda folder: True)
    services = Services(load_config(flags | {"api_key": ["k"]}, {}), lambda: fresh)
    services.access.open()
    try:
        with caplog.at_level(logging.ERROR, "appliance"):
            services.reload()
        assert services.config is not fresh and "old one stays" in caplog.text
        services.access.make_key("till", "Ann")
        services.reload()
        assert services.config is fresh and services.auth.required
    finally:
        services.access.close()


def test_what_the_doctor_finds_is_in_the_metrics(tmp_path):
    service = Services(load_config({"engine": "fake", "model": ["x"], "no_cache": True, "data_dir": str(tmp_path)}, {}))
    assert "appliance_findings" not in service.metrics.render()
    service.doctor.tick()
    assert 'appliance_findings{severity="problem"}' in service.metrics.render()


def services(monkeypatch, cpus: int, **flags) -> Services:
    box = Topology(tuple(LogicalCpu(n, n) for n in range(cpus)), online_cpus=cpus)
    monkeypatch.setattr(services_module, "read_topology", lambda: box)
    return Services(load_config(flags, {}))


def placed(service: Services) -> list[tuple]:
    plan = service.fleet.placement
    return [(place.cpus, place.threads) for place in (*plan.children, *plan.encoders)]


def test_the_embedder_is_served_beside_and_takes_no_core_of_the_chat_model(monkeypatch):
    both = services(monkeypatch, 4, model=["/x/chat.gguf"])
    assert both.pipeline.names == ["chat", "minilm-l6-int8"]
    assert placed(both) == [((0, 1, 2, 3), 4), ((0, 1, 2, 3), 1)]
    assert [s.name for s in both.asked_for] == ["chat"] and len(both.supervisors) == 2
    embedder = both.pipeline.engines["minilm-l6-int8"]
    assert (embedder.task, embedder.aside, embedder.supervisor.status.state) == ("embed", True, "absent")
    alone = services(monkeypatch, 4, model=["/x/chat.gguf"], embedder="none")
    assert alone.pipeline.names == ["chat"] and placed(alone) == placed(both)[:1]
    assert both.fleet.most_requests == alone.fleet.most_requests + 80 + 64


def test_an_embedder_that_is_asked_for_is_served_once_and_has_the_box_to_itself(monkeypatch):
    service = services(monkeypatch, 4, model=["minilm-l6-int8"])
    assert service.pipeline.names == ["minilm-l6-int8"] and placed(service) == [((0, 1, 2, 3), 4)]
    assert [s.name for s in service.asked_for] == ["minilm-l6-int8"]


def test_models_that_generate_divide_the_cores_whatever_their_order(monkeypatch):
    service = services(monkeypatch, 4, engine="fake", model=["a", "embed", "b"])
    cores = service.fleet._cores(["a", "embed", "b"], {"a": "generate", "embed": "embed", "b": "generate"})
    assert (cores["a"].cpus, cores["b"].cpus, cores["embed"].threads) == ((0, 1), (2, 3), 1)
    assert service.pipeline.resolve("", ("embed",)) == "embed" and service.pipeline.names == ["a", "embed", "b"]


def test_an_engine_is_started_once_whoever_asks_first():
    started = []
    once = Once(lambda: started.append(1))
    threads = [threading.Thread(target=once) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started == [1]
