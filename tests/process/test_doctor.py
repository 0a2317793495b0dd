"""The doctor beside a running service, and the service that he starts to see whether this release works."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import psutil
from fakes import ROOT, wait_until
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


def test_a_service_with_tls_is_asked_as_well_and_its_certificate_is_looked_at(running_server, tmp_path):
    key, cert, folder = tmp_path / "key.pem", tmp_path / "cert.pem", tmp_path / "data"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=box", "-days", "5", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o600)
    settings = {"APPLIANCE_DATA_DIR": str(folder), "APPLIANCE_ENGINE": "fake", "APPLIANCE_MODEL": "fake"}
    tls = {"APPLIANCE_TLS_CERT": str(cert), "APPLIANCE_TLS_KEY": str(key)}
    server = running_server(**settings, **tls, healthy=False)
    with_tls = json.loads(command("doctor", "--json", environment={**settings, **tls, "APPLIANCE_PORT": str(server.port)}).stdout)
    assert with_tls["service"] == "the service runs" and "certificate_ends" in {one["code"] for one in with_tls["findings"]}
    without = json.loads(command("doctor", "--json", environment={**settings, "APPLIANCE_PORT": str(server.port)}).stdout)
    assert without["service"] == "the service runs", "it was started with other settings"


def test_an_archive_that_cannot_be_written_is_told(tmp_path):
    done = command("doctor", "--bundle", str(tmp_path / "nowhere" / "box.tar.gz"))
    assert done.returncode == 74 and "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_a_release_that_works_passes_whatever_is_configured(tmp_path):
    (tmp_path / "data").mkdir()
    wild = {"APPLIANCE_HOST": "192.0.2.1", "APPLIANCE_PORT": "many", "APPLIANCE_DATA_DIR": str(tmp_path / "data"), "NOTIFY_SOCKET": "/nowhere"}
    before = set(psutil.pids())
    done = command("doctor", "--self-test", "--json", environment=wild)
    assert done.returncode == 0, done.stderr
    passed = json.loads(done.stdout)
    assert passed["model"] == "starter" and passed["answer"].strip() and passed["seconds"] < 45
    assert not list((tmp_path / "data").iterdir())
    left = [pid for pid in set(psutil.pids()) - before if _is_of_a_self_test(pid)]
    assert not left


def _is_of_a_self_test(pid: int) -> bool:
    try:
        return "appliance-self-test-" in " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def test_a_release_whose_engine_is_broken_does_not_pass(tmp_path):
    for library in ("llama_cpp", "onnxruntime"):  # with one of them the other form of the model would be served
        (tmp_path / library).mkdir()
        (tmp_path / library / "__init__.py").write_text("raise ImportError('libengine.so: cannot open shared object file')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", ""), str(ROOT)]))
    began = time.monotonic()
    done = command("doctor", "--self-test", environment={"PYTHONPATH": path})
    assert done.returncode == 70 and time.monotonic() - began < 60, done.stdout
    assert "The service ended" in done.stderr and "libengine.so" in done.stderr and "Traceback" not in done.stderr


def test_a_self_test_that_is_ended_leaves_nothing(tmp_path):
    doctor = subprocess.Popen(
        [sys.executable, "-m", "appliance.cli", "doctor", "--self-test", "fake"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "APPLIANCE_FAKE_STEP_S": "5", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        wait_until(lambda: len(psutil.Process(doctor.pid).children(recursive=True)) >= 3, 30.0, "its service with an engine")
        family = psutil.Process(doctor.pid).children(recursive=True)
    finally:
        doctor.send_signal(signal.SIGTERM)
        doctor.wait(30)
    wait_until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family), 10.0, "the end of all of it")
    assert doctor.returncode == 128 + signal.SIGTERM and not list(tmp_path.glob("appliance-self-test-*"))
