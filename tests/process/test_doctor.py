"""The doctor beside a running service."""

from __future__ import annotations

import gzip
import json

from fakes import wait_until
from served import command


def test_beside_a_running_service_he_asks_it_and_changes_nothing(running_server, tmp_path):
    folder = tmp_path / "data"
    server = running_server("--engine", "fake", "--model", "fake", APPLIANCE_DATA_DIR=str(folder), APPLIANCE_NO_CACHE="0")
    assert server.chat("Where do zebras sleep?").status == 200
    environment = {"APPLIANCE_DATA_DIR": str(folder), "APPLIANCE_PORT": str(server.port), "APPLIANCE_ENGINE": "fake", "APPLIANCE_MODEL": "fake"}
    archive = tmp_path / "box.tar.gz"
    done = command("doctor", "--json", "--bundle", str(archive), environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["service"] == "the service runs" and "check_failed" not in {one["code"] for one in told["findings"]}
    assert archive.stat().st_mode & 0o777 == 0o600
    text = gzip.decompress(archive.read_bytes()).decode()
    assert "appliance_engine_ready" in text and '"state": "ready"' in text and "zebra" not in text
    again = command("doctor", "--bundle", str(archive), environment=environment)
    assert again.returncode == 64 and "is there already" in again.stderr
    assert server.chat("Where do zebras sleep?").headers["x-cache"] == "hit", "the service goes on"
    wait_until(lambda: b"\nappliance_findings{" in server.get("/metrics").body, 30.0, "the service's own look")


def test_an_archive_that_cannot_be_written_is_told(tmp_path):
    done = command("doctor", "--bundle", str(tmp_path / "nowhere" / "box.tar.gz"))
    assert done.returncode == 74 and "nowhere" in done.stderr and "Traceback" not in done.stderr
