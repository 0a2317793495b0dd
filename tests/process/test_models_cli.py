"""`appliance models` as processes: killed in the middle, run again, and the service that loads what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import ROOT, wait_until
from hub_server import Hub, serving_hub
from served import command

LARGE_BYTES = 64 << 20


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, known to the commands by their environment."""
    monkeypatch.setenv("APPLIANCE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "data"


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A valid model with a long tail, so that copying it takes a while."""
    path = tmp_path_factory.mktemp("large") / "large.gguf"
    path.write_bytes(tiny.read_bytes())
    with path.open("ab") as file:
        file.write(os.urandom(1 << 20) * (LARGE_BYTES >> 20))
    return path


def begin(*arguments: str) -> subprocess.Popen[bytes]:
    """A command that is not waited for."""
    return subprocess.Popen(
        [sys.executable, "-m", "appliance.cli", "models", *arguments], cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def models(data: Path) -> list[str]:
    return [model["name"] for model in json.loads(command("models", "list", "--json").stdout)["models"] if not model["shipped"]]


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_kill_9_in_mid_copy_leaves_nothing_in_place_and_the_next_add_finishes(data, large):
    part = data / "models" / ".incoming-large" / "large.gguf"
    shares = [0.02, 0.4, 0.8]  # three times, at different places, each one further
    for _ in range(20):
        if not shares:
            break
        process = begin("add", str(large))
        wait_until(lambda p=process: size_of(part) > shares[0] * LARGE_BYTES or p.poll() is not None)
        process.kill()
        if process.wait() == 0:  # it was faster than we: once more from the beginning
            assert command("models", "remove", "large", "--yes").returncode == 0
            continue
        assert models(data) == [] and not (data / "models" / "large").exists()
        shares.pop(0)
    assert not shares, f"no run could be killed at {shares} of the copy"
    listed = json.loads(command("models", "list", "--json").stdout)["unfinished"]
    assert 0 < listed["large"] <= large.stat().st_size
    done = command("models", "add", str(large))
    assert done.returncode == 0, done.stderr
    assert models(data) == ["large"]
    assert (data / "models" / "large" / "large.gguf").read_bytes() == large.read_bytes()
    assert sorted(path.name for path in (data / "models").iterdir()) == ["large"]
    assert command("models", "verify", "large").returncode == 0


def test_kill_9_in_mid_download_loses_only_what_was_on_its_way(data, large, monkeypatch):
    whole = large.read_bytes()
    with serving_hub(Hub({"o/n": {"large.gguf": whole}}, pause_s=0.002)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        part = data / "models" / ".incoming-large" / "large.gguf"
        process = begin("add", "hf:o/n")
        wait_until(lambda: size_of(part) > LARGE_BYTES // 8, 30)
        process.kill()
        process.wait()
        kept = size_of(part)
        assert kept < len(whole) and models(data) == []
        hub.pause_s = 0
        done = command("models", "add", "hf:o/n")
        assert done.returncode == 0 and done.stderr == "", "there is no bar where there is no terminal"
        assert hub.gets("/large.gguf")[-1]["range"] == f"bytes={kept}-"
    assert (data / "models" / "large" / "large.gguf").read_bytes() == whole


def test_a_service_serves_a_model_by_name_and_the_default_without_one(data, tiny, running_server):
    assert command("models", "add", str(tiny), "--name", "mine").returncode == 0
    assert command("models", "use", "mine", "--uncertified").returncode == 0
    server = running_server()
    assert [model["id"] for model in server.get("/v1/models").json["data"]] == ["mine", "minilm-l6-int8"]
    assert server.chat("Hello", max_tokens=2).status == 200


def test_one_flipped_byte_stops_that_model_with_the_reason_and_the_others_go_on(data, tiny, running_server):
    for name in ("good", "bad"):
        assert command("models", "add", str(tiny), "--name", name).returncode == 0
    path = data / "models" / "bad" / tiny.name
    before = os.stat(path)
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = command("models", "verify")
    assert done.returncode == 65 and "good: good" in done.stdout and "bad: " in done.stdout and "was expected" in done.stdout
    alone = command("serve", "--model", "bad", "--port", "0")
    assert alone.returncode == 65 and "SHA-256" in alone.stderr and "Traceback" not in alone.stderr
    server = running_server("--model", "good", "--model", "bad")
    assert server.chat("Hello", max_tokens=2, model="good").status == 200
    refused = server.chat("Hello", max_tokens=2, model="bad")
    assert refused.status == 503 and "SHA-256" in refused.error["message"]


def test_an_unchanged_model_is_not_read_again_at_the_next_start(data, large):
    assert command("models", "add", str(large)).returncode == 0
    code = (
        "from appliance import catalog; from appliance.config import load_config; import time; c = load_config({'model': ['large']});"
        "e = catalog.entries(c)[0]; t = time.perf_counter(); catalog.verify_before_load(e, catalog.hash_cache(c)); print(time.perf_counter() - t)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    assert float(done.stdout) < 0.02


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("models",), 64, ""),
        (("models", "lst"), 64, "invalid choice"),
        (("models", "show", "nothing"), 64, "appliance models list"),
        (("models", "verify", "x", "--all"), 64, "not both"),
        (("models", "add", "/nowhere.gguf"), 66, "/nowhere.gguf"),
        (("models", "add", "hf:o/n", "--offline"), 78, "offline"),
        (("serve", "--model", "nothing", "--port", "0"), 66, "Nor does the catalog"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(data, arguments, code, told):
    done = command(*arguments)
    assert done.returncode == code and told in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_help_is_quick(data):
    began = time.monotonic()
    assert command("models", "add", "--help").stdout.count("--") >= 6
    assert time.monotonic() - began < 5
