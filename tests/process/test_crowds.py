"""Many clients that do nothing, or not what they should: the others are served."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from fakes import wait_until
from served import Server

FAKE = ("--engine", "fake", "--model", "x", "--parallel", "1", "--queue-size", "0")  # 17 threads
OWN = (*FAKE, "--tls", "own")
CROWD = 500
IN_TIME_S = 5.0
"""For two answers while CROWD others are connected."""
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The beginning of a TLS handshake."""
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A certificate for nobody and its key."""
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", "req", *options, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def crowd(stack: ExitStack, server: Server, size: int, data: bytes = b"") -> list[socket.socket]:
    """Connections that send this and stay."""
    found = []
    for _ in range(size):
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        sock.sendall(data)
        found.append(sock)
    return found


@pytest.mark.parametrize("data", [b"", b"GET /li"], ids=["nothing", "half a head"])
def test_a_crowd_that_does_not_go_on_leaves_threads_for_others(running_server, data):
    server = running_server(*FAKE)
    with ExitStack() as stack:
        crowd(stack, server, 60, data)
        assert server.request("GET", "/livez", timeout_s=15).status == 200
        assert server.chat("hi").text == "echo: hi"


def test_clients_that_do_not_close_their_end_keep_nobody_waiting(running_server):
    server = running_server(*FAKE)
    with ExitStack() as stack:
        crowd(stack, server, 30, b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert server.request("GET", "/livez", timeout_s=5).status == 200  # it was two seconds for each of them


def test_the_longest_idle_connections_make_room_for_new_ones(running_server):
    server = running_server(*FAKE, before="import appliance.server; appliance.server.MAX_CONNECTIONS = 22")  # 40 in all
    with ExitStack() as stack:
        crowd(stack, server, 100)
        assert server.request("GET", "/livez", timeout_s=20).status == 200


def test_running_out_of_descriptors_does_not_end_the_worker(running_server):
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))"
    big = "import appliance.server; appliance.server._most_connections = lambda threads: 1000"
    server = running_server(*FAKE, before=f"{few}; {big}")
    worker, engine = server.worker_pid, server.engine_pid()
    with ExitStack() as stack:
        crowd(stack, server, 120)
        wait_until(lambda: psutil.Process(worker).num_fds() >= 79, 10.0, "the last descriptor")

    def answers() -> bool:
        try:
            return server.get("/livez").status == 200
        except ConnectionError:  # taken from the queue with the last descriptor, while the crowd was leaving
            return False

    wait_until(answers)
    assert (server.worker_pid, server.engine_pid()) == (worker, engine)
    server.log_path.write_text("")  # gunicorn writes tracebacks of connections it could not look at


def test_nobody_sets_the_path_by_a_header(running_server):
    server = running_server(*FAKE)
    assert server.get("/livez", SCRIPT_NAME="/x", PATH_INFO="/metrics").json == {"status": "ok"}


def test_tls_clients_that_stop_in_the_handshake_leave_threads_for_others(running_server, certificate):
    server = running_server(*FAKE, "--tls-cert", certificate[0], "--tls-key", certificate[1], healthy=False)
    wait_until(lambda: "The service is ready" in server.log, 20.0, "the engine")
    trusting = ssl.create_default_context(cafile=certificate[0])
    with ExitStack() as stack:
        crowd(stack, server, 40, HELLO)
        plain = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        with trusting.wrap_socket(plain, server_hostname="localhost") as sock:
            assert sock.version() in ("TLSv1.2", "TLSv1.3")
            sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 200")


# -- clients that stop somewhere ----------------------------------------------------------------------------------------------


def says_nothing(server: Server, stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))


def connected(server: Server, stack: ExitStack) -> socket.socket:
    """With TLS its handshake is complete."""
    sock = says_nothing(server, stack)
    return stack.enter_context(server.context.wrap_socket(sock, server_hostname="localhost")) if server.context else sock


def stops_in_the_handshake(server: Server, stack: ExitStack) -> socket.socket:
    sock = says_nothing(server, stack)
    sock.sendall(HELLO)
    return sock


def stops_in_its_headers(server: Server, stack: ExitStack) -> socket.socket:
    sock = connected(server, stack)
    sock.sendall(LIVEZ[:20])
    return sock


def stays_after_an_answer(server: Server, stack: ExitStack) -> socket.socket:
    sock = connected(server, stack)
    sock.sendall(LIVEZ)
    received = b""
    while not received.endswith(b'{"status":"ok"}'):
        part = sock.recv(4096)
        assert part, received
        received += part
    return sock


def stays_and_begins_another_request(server: Server, stack: ExitStack) -> socket.socket:
    sock = stays_after_an_answer(server, stack)
    sock.sendall(LIVEZ[:20])
    return sock


WAYS = (says_nothing, stops_in_its_headers, stays_after_an_answer, stays_and_begins_another_request)


@pytest.mark.parametrize(
    ("flags", "way"),
    [*((FAKE, way) for way in WAYS), *((OWN, way) for way in (stops_in_the_handshake, *WAYS))],
    ids=lambda value: getattr(value, "__name__", None) or ("tls" if value is OWN else "plain"),
)
def test_500_clients_that_do_not_go_on_hold_up_nobody(running_server, flags, way: Callable):
    server = running_server(*flags)
    with ExitStack() as stack:
        for _ in range(CROWD):
            way(server, stack)
        began = time.monotonic()
        assert server.get("/health").status == 200
        assert server.chat("hi").text == "echo: hi"
        seconds = time.monotonic() - began
    print(f"two answers in {seconds:.2f} s")
    assert seconds < IN_TIME_S


@pytest.mark.parametrize("flags", [FAKE, OWN], ids=["plain", "tls"])
def test_a_client_that_sends_a_byte_now_and_then_is_let_go(running_server, flags):
    server = running_server(*flags, before="import appliance.server; appliance.server.READ_LIMIT_S = 1.0")
    with ExitStack() as stack:
        sock = stops_in_its_headers(server, stack)
        sock.settimeout(0.1)
        began, received = time.monotonic(), None
        while received is None:
            assert time.monotonic() - began < 15.0, "it is still being listened to"
            try:
                sock.sendall(b"x")
                received = sock.recv(100)
            except TimeoutError:
                pass
            except OSError:  # closed while we sent
                received = b""
        assert received == b"" and time.monotonic() - began > 0.5
    assert server.chat("hi").text == "echo: hi"


@pytest.mark.parametrize("flags", [FAKE, OWN], ids=["plain", "tls"])
def test_requests_that_come_in_pieces_or_several_at_once_are_answered(running_server, flags):
    server = running_server(*flags)
    with ExitStack() as stack:
        sock = connected(server, stack)
        data = LIVEZ + LIVEZ[:-7] + LIVEZ[-7:].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        for at in range(0, len(data), 25):
            sock.sendall(data[at : at + 25])
            time.sleep(0.02)
        received = b""
        while part := sock.recv(4096):
            received += part
    assert received.count(b"HTTP/1.1 200 OK") == 2


def test_headers_without_an_end_are_refused(running_server):
    server = running_server(*OWN)
    with ExitStack() as stack:
        sock = connected(server, stack)
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000)
        assert sock.recv(4096).startswith(b"HTTP/1.1 431 ")
    assert server.get("/livez").status == 200
