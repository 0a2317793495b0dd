"""The whole life of a box: a bundle is carried to a Debian that has never seen a network, and what happens to it in years happens in minutes.

`make test-box` runs these with 20 kills each; the suite with fewer, and only where a box can be booted.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nspawn
import pytest
from fakes import ROOT

from appliance.bundle import build, signing, wheels
from appliance.bundle.archive import opened

KILLS = int(os.environ.get("APPLIANCE_BOX_KILLS", "1"))
PYTHON = "3.11"
"""Of Debian 12."""
QUESTION = "How do I add a model?"
ASK = """
import json, ssl, sys, urllib.request
key, question = sys.argv[1:]
body = json.dumps({"model": "starter", "messages": [{"role": "user", "content": question}]}).encode()
head = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
context = ssl.create_default_context(cafile="/var/lib/appliance/tls/ca.crt")
with urllib.request.urlopen(urllib.request.Request("https://127.0.0.1:8443/v1/chat/completions", body, head), context=context, timeout=60) as answer:
    print(json.load(answer)["choices"][0]["message"]["content"])
"""

pytestmark = [pytest.mark.process, pytest.mark.box, pytest.mark.timeout(1200), pytest.mark.skipif(bool(nspawn.missing()), reason=nspawn.missing())]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text, f"{path} has changed"
    path.write_text(text.replace(old, new, 1), "utf-8")


@pytest.fixture(scope="module")
def stick(tmp_path_factory) -> Path:
    """Bundles: version 1.0.0, and newer ones. 3.0.0 cannot serve at all; 4.0.0 can by itself, but not under systemd."""
    stick, work = tmp_path_factory.mktemp("stick"), tmp_path_factory.mktemp("checkouts")
    signing.make_keys(work / "key")
    signing.make_keys(work / "stranger")
    (stick / "reviewed.csv").write_text("question,answer,owner,source\nWhen does the pharmacy open?,At 8.,Ann,sign at the door\n")
    faults = {"3.0.0": "raise SystemExit(70)", "4.0.0": 'if "NOTIFY_SOCKET" in os.environ:\n        raise SystemExit(70)'}
    llama = wheels.native_llama(wheels.wheel_cache())
    for version in ("1.0.0", "2.0.0", "3.0.0", "4.0.0", "5.0.0"):
        checkout = work / version
        shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", "bench", "tests", "__pycache__"))
        text = (checkout / "CHANGELOG.md").read_text("utf-8")
        (checkout / "CHANGELOG.md").write_text(re.sub(r"^## \d+\.\d+\.\d+", f"## {version}", text, count=1, flags=re.M))
        if version in faults:
            edit(checkout / "appliance/cli/serve.py", '    """Serve until stopped."""\n', f'    """Serve until stopped."""\n    {faults[version]}\n')
        since = None
        if version != "1.0.0":
            with opened(stick / "1.0.0.run") as first:
                since = first.manifest
        order = build.Order(checkout, work / ("stranger" if version == "5.0.0" else "key"), platform.machine(), (PYTHON,), llama, llama.parent, answers=stick / "reviewed.csv", since=since)
        build.build(order, stick / f"{version}.run", lambda words: None)
    doctored = b"#!/bin/sh\ntouch /owned\nexit\n"
    data = (stick / "3.0.0.run").read_bytes()
    (stick / "doctored.run").write_bytes(doctored + data[len(doctored):])
    (stick / "ask.py").write_text(ASK)
    return stick


@pytest.fixture(scope="module")
def debian() -> Path:
    return nspawn.debian(wheels.wheel_cache() / "debian")


@pytest.fixture
def box(tmp_path, debian, stick) -> Iterator[nspawn.Box]:
    box = nspawn.Box(tmp_path, debian, stick)
    box.boot()
    yield box
    box.off()


def install(box: nspawn.Box, version: str = "1.0.0", **how: bool) -> str:
    return box.run("sh", f"/mnt/{version}.run", **how)


def key_of(said: str) -> str:
    return re.search(r"API key +(ak-\S+)", said)[1]


def ask(box: nspawn.Box, key: str, question: str = QUESTION) -> str:
    return box.run("python3", "/mnt/ask.py", key, question)


def version(box: nspawn.Box) -> str:
    return box.run("appliance", "--version").split()[1]


def left(box: nspawn.Box) -> set[str]:
    """What is ours on the disk."""
    found = box.run("find", "/", "-xdev", "-iname", "*appliance*", "-not", "-path", "/proc/*", "-not", "-path", "/var/log/journal/*")
    users = re.findall(r"^appliance:", box.run("cat", "/etc/passwd", "/etc/group"), re.M)
    return {*found.split(), *users}


def test_the_life_of_a_box(box):
    """Installed, asked, switched off and on, upgraded, saved from two broken versions, rolled back, repaired, removed."""
    said = install(box)
    key = key_of(said)
    assert re.search(r"SHA-256:\s+([0-9A-F]{2}:){31}[0-9A-F]{2}", said), "what people compare who trust the box's certificate"
    answer = ask(box, key)
    assert "appliance models add" in answer and version(box) == "1.0.0"
    found = json.loads(box.run("appliance", "doctor", "--json"))
    assert found["service"] == "the service runs" and not [one for one in found["findings"] if one["severity"] == "problem"], found
    refused = box.run("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "appliance", "people", "list", check=False)
    assert "it needs root: sudo appliance people list" in refused
    assert box.run("systemctl", "is-enabled", "appliance").strip() == "enabled"
    assert "already" not in install(box) and ask(box, key) == answer, "once more changes nothing"

    assert ask(box, key, "When does the pharmacy open?").strip() == "At 8."
    assert box.run("appliance", "cache", "import", "/mnt/reviewed.csv"), "root's command may read what root may"
    box.reboot()
    assert ask(box, key) == answer
    assert ask(box, key, "When does the pharmacy open?").strip() == "At 8."

    till = box.run("appliance", "keys", "make", "till").strip()
    said = box.run("appliance", "upgrade", "/mnt/2.0.0.run")
    assert "databases copied" in said and version(box) == "2.0.0"
    assert ask(box, key) == ask(box, till) == answer and ask(box, till, "When does the pharmacy open?").strip() == "At 8."

    for broken, why in (("3.0.0", "failed"), ("4.0.0", "does not work here, and 2.0.0 runs again")):
        process = box.run("systemctl", "show", "--property=MainPID", "appliance") if broken == "3.0.0" else ""
        said = box.run("appliance", "upgrade", f"/mnt/{broken}.run", check=False)
        assert why in said and version(box) == "2.0.0", said
        assert ask(box, key) == answer
        assert not process or box.run("systemctl", "show", "--property=MainPID", "appliance") == process, "a version that does not pass its test touches nothing"

    said = box.run("appliance", "upgrade", "/mnt/doctored.run", check=False)
    assert version(box) == "2.0.0" or "2.0.0 runs again" in said
    assert "owned" not in box.run("ls", "/").split(), "what is signed by nobody is not run"
    said = box.run("appliance", "upgrade", "/mnt/5.0.0.run", check=False)
    assert "is signed with the key" in said and version(box) == "2.0.0"
    said = install(box, "1.0.0", check=False)
    assert "version 2.0.0 is installed" in said and version(box) == "2.0.0"

    assert "version 1.0.0 runs" in box.run("appliance", "rollback")
    assert version(box) == "1.0.0" and ask(box, till) == answer

    box.run("rm", "-rf", "/opt/appliance/current/.venv/bin", "/usr/local/lib/systemd/system/appliance.service")
    box.run("sh", "/mnt/1.0.0.run", "repair")
    assert version(box) == "1.0.0" and ask(box, key) == answer

    box.run("appliance", "uninstall", "--yes")
    assert box.run("systemctl", "is-active", "appliance", check=False).strip() == "inactive"
    assert {"/var/lib/appliance", "/etc/appliance"} <= left(box) and "/opt/appliance" not in left(box)
    install(box)
    assert ask(box, till) == answer, "the data of before are there again"
    box.run("appliance", "uninstall", "--yes", "--purge")
    assert left(box) == set()


def test_a_killed_installation_is_finished_by_the_next(box):
    chance = random.Random(1)
    began = time.monotonic()
    install(box)
    takes_s = time.monotonic() - began
    box.run("appliance", "uninstall", "--yes", "--purge")
    for _ in range(KILLS):
        box.run_and_kill(chance.uniform(0, takes_s), "sh", "/mnt/1.0.0.run")
    install(box)
    assert "appliance models add" in answers(box, box.run("appliance", "keys", "make", "till").strip())


def test_a_killed_upgrade_leaves_a_service_that_runs_and_is_finished_by_the_next(box):
    chance = random.Random(2)
    key = key_of(install(box))
    began = time.monotonic()
    box.run("appliance", "upgrade", "/mnt/2.0.0.run")
    takes_s = time.monotonic() - began
    box.run("appliance", "rollback")
    at_work = 0
    for _ in range(KILLS):
        box.run("rm", "-rf", "/opt/appliance/releases/2.0.0") if version(box) == "1.0.0" else box.run("appliance", "rollback")
        at_work += box.run_and_kill(chance.uniform(0, takes_s), "appliance", "upgrade", "/mnt/2.0.0.run")
        assert "appliance models add" in answers(box, key), "the service runs, the one or the other"
    box.run("appliance", "upgrade", "/mnt/2.0.0.run")
    assert at_work and version(box) == "2.0.0" and "appliance models add" in ask(box, key)
    assert json.loads(box.run("appliance", "keys", "list", "--json"))


def answers(box: nspawn.Box, key: str) -> str:
    """The answer; systemd may be restarting the service just now."""
    until = time.monotonic() + 60
    while True:
        try:
            return ask(box, key)
        except AssertionError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def test_a_full_disk_changes_nothing(box):
    key = key_of(install(box))
    free = shutil.disk_usage(box.root).free
    filler = box.root / "opt/filler"
    subprocess.run(["fallocate", "-l", str(free - 200_000_000), str(filler)], check=True)
    try:
        said = box.run("appliance", "upgrade", "/mnt/2.0.0.run", check=False)
    finally:
        filler.unlink()
    assert "MB of disk free for /opt; it needs" in said and "nothing was changed" in said
    assert version(box) == "1.0.0" and "appliance models add" in ask(box, key)
