"""The composition root, without starting anything."""

from __future__ import annotations

import logging

import pytest

from appliance.config import load_config
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
