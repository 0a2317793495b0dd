"""What is said in the house stays there: the service, its libraries and its commands open no connection to anywhere else."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import ROOT

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
NETWORK = """
ip link set lo up
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add out type veth peer name wall
ip link set wall up
ip link set out arp off
ip address add 192.0.2.2/24 dev out
ip link set out up
ip route add default dev out
"""
"""A network of its own: loopback, and a card that everything else goes to and nobody answers from."""


@pytest.fixture
def sent() -> Iterator[Callable[[], int]]:
    """How many packets left. A network belongs to a thread and what it starts; this one's is put back at the end."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert LIBC.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        subprocess.run(["sh", "-ec", NETWORK], check=True)

        def count() -> int:
            row = re.search(r"^ *out:(.*)$", Path("/proc/thread-self/net/dev").read_text(), re.M)[1].split()
            return int(row[9])

        assert count() == 0
        yield count
    finally:
        assert LIBC.setns(before, CLONE_NEWNET) == 0
        os.close(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
def test_nothing_leaves_the_box(sent, running_server, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "XDG_CACHE_HOME": "", "ORT_DISABLE_TELEMETRY": ""}
    server = running_server("--model", "starter", **environment)
    assert server.chat("How do I add a model?").status == 200
    assert server.request("POST", "/v1/embeddings", {"model": "minilm-l6-int8", "input": "a question"}).status == 200
    assert server.get("/").status == server.get("/metrics").status == 200
    for words in (["models", "list"], ["doctor"], ["backup", "create"], ["audit", "verify"]):
        subprocess.run([sys.executable, "-m", "appliance.cli", *words], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=60)
    time.sleep(2)
    assert sent() == 0
    assert [path for path in home.rglob("*") if path.is_file()] == [], "a library keeps something of its own"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", ("198.51.100.1", 9))
    assert sent() == 1, "what does leave is seen"
