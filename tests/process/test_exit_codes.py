"""A service that cannot start says why in a sentence, and its exit code tells the service manager whether to try again."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from served import command


def one_sentence(stderr: str) -> str:
    """The last line, which must be the only one that is not a log line; there is no traceback."""
    assert "Traceback" not in stderr, stderr
    said = [line for line in stderr.splitlines() if not line[:4].isdigit()]
    assert len(said) == 1 and said[0].startswith("appliance: "), stderr
    return said[0]


def test_a_missing_model_file(tmp_path):
    done = command("serve", "--model", str(tmp_path / "gone.gguf"), "--port", "0")
    assert done.returncode == 66 and "gone.gguf" in one_sentence(done.stderr) and not done.stdout


@pytest.mark.parametrize("kind", ["text", "truncated", "empty", "folder"])
def test_a_file_that_is_no_model(tmp_path, tiny, kind):
    path = tmp_path / "broken.gguf"
    if kind == "folder":
        path.mkdir()
    else:
        whole = tiny.read_bytes()
        path.write_bytes({"text": b"Dear model,\n" * 50, "truncated": whole[: len(whole) // 2], "empty": b""}[kind])
    done = command("serve", "--model", str(path), "--port", "0")
    assert done.returncode == 65, done.stderr
    assert any("broken.gguf" in line and "appliance: " in line for line in done.stderr.splitlines())
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) < 12, done.stderr


def test_a_port_that_is_taken(tiny):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command("serve", "--model", str(tiny), "--port", str(port))
    assert done.returncode == 71 and str(port) in one_sentence(done.stderr) and "choose another --port" in done.stderr


def test_a_port_that_needs_privileges(tiny):
    prefix: list[str] = []
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        prefix += ["unshare", "--net", *(["--map-root-user"] if os.getuid() else [])]  # a fresh network has the usual limit
    if os.getuid() == 0 or prefix:
        prefix += [shutil.which("setpriv") or "setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]
    done = command("serve", "--model", str(tiny), "--host", "0.0.0.0", "--allow-anonymous", "--port", "80", prefix=tuple(prefix))
    assert done.returncode == 77, done.stderr
    assert "choose a higher --port" in one_sentence(done.stderr)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--ctx-size", "many"), "ctx"),
        (("--ctx-size", "8", "--kv-size", "4", "--parallel", "0"), "parallel"),
        (("--host", "0.0.0.0"), "--allow-anonymous"),
        (("--config", "/nowhere/config.toml"), "/nowhere/config.toml"),
        (("--cpus", "7000"), "7000"),
        (("--threads", "900"), "900"),
        (("--api-key-file", "/nowhere/keys"), "/nowhere/keys"),
    ],
)
def test_a_configuration_that_makes_no_sense(tiny, flags, told):
    done = command("serve", "--model", str(tiny), "--port", "0", *flags)
    assert done.returncode == 78 and told in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_configuration_file_with_mistakes_lists_them_all(tmp_path, tiny):
    file = tmp_path / "config.toml"
    file.write_text('prot = 8080\nctx_size = "big"\n')
    done = command("serve", "--model", str(tiny), "--config", str(file), "--check-config")
    assert done.returncode == 78 and "Did you mean port?" in done.stderr and "ctx_size" in done.stderr


def test_an_unknown_flag():
    done = command("serve", "--modle", "x.gguf")
    assert done.returncode == 64 and "Did you mean --model?" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    done = command("serve", "--port", "0", "--model", str(tmp_path))
    assert done.returncode == 65 and "has no model.onnx" in one_sentence(done.stderr)
    assert "appliance models convert" in done.stderr


def test_an_embedder_that_is_not_there(tiny):
    done = command("serve", "--port", "0", "--model", str(tiny), "--embedder", "nowhere")
    assert done.returncode == 78 and "embedder = 'nowhere': the catalog has no such model." in one_sentence(done.stderr)


def test_check_config_prints_what_would_be_used_and_starts_nothing(tmp_path):
    done = command("serve", "--model", "/no/such.gguf", "--ctx-size", "99", "--api-key", "sesame", "--check-config",
                   environment={"APPLIANCE_PARALLEL": "3"})  # fmt: skip
    assert done.returncode == 0 and not done.stderr
    told = json.loads(done.stdout)
    assert (told["configuration"]["ctx_size"], told["sources"]["ctx_size"]) == (99, "flag")
    assert (told["configuration"]["parallel"], told["sources"]["parallel"]) == (3, "environment")
    assert "sesame" not in done.stdout


def test_no_command_and_help_and_version():
    assert command().returncode == 64
    assert command("serve", "--help").stdout.count("--") > 40
    assert command("--version").stdout.startswith("appliance ")
