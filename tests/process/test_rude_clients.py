"""Clients that leave, dawdle, shout or send rubbish: the others are served, and nothing is left over from them."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest
from fakes import wait_until
from served import Server, chat, serving

FREE_AGAIN_S = 2.0
FIELDS = {"message", "type", "param", "code"}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An engine of two sequences that takes 50 ms a step, ten prompt tokens each."""
    folder = tmp_path_factory.mktemp("slow")
    flags = ("--engine", "fake", "--model", "x", "--parallel", "2", "--batch-size", "8", "--ctx-size", "2000")
    with serving(folder, *flags, APPLIANCE_FAKE_STEP_S="0.05", APPLIANCE_DATA_DIR=str(folder)) as server:
        yield server


@pytest.fixture(scope="module")
def brisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A scripted engine at full speed."""
    folder = tmp_path_factory.mktemp("brisk")
    with serving(folder, "--engine", "fake", "--model", "x", APPLIANCE_DATA_DIR=str(folder)) as server:
        yield server


def send(server: Server, body: dict) -> socket.socket:
    """A request whose answer nobody reads."""
    data = json.dumps(body).encode()
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
    sock.sendall(b"Content-Length: %d\r\n\r\n" % len(data) + data)
    return sock


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("stage", ["queue", "prefill", "decode"])
def test_a_client_that_leaves_frees_the_engine(slow, stage, stream):
    holders = [send(slow, chat(f"!long {i}", max_tokens=1500, stream=True)) for i in range(4)] if stage == "queue" else []
    try:
        if holders:
            wait_until(lambda: slow.gauge("appliance_engine_running") == 2, what="a busy engine")
        before = slow.open_work()
        prompt = "!long" if stage == "decode" else "x" * 1500 + " !long"
        sock = send(slow, chat(prompt, max_tokens=400, stream=stream))
        grown = "appliance_requests_waiting" if stage == "queue" else "appliance_engine_running"
        wait_until(lambda: slow.open_work()[grown] > before[grown], what="the request in its stage")
        if stage == "decode":
            wait_until(lambda: slow.gauge("appliance_kv_used_tokens") > 40, what="some tokens")
        sock.close()
        began = time.monotonic()
        wait_until(lambda: slow.open_work()[grown] == before[grown], 10.0, "the place to be free again")
        seconds = time.monotonic() - began
        print(f"{stage}, {'stream' if stream else 'whole'}: free after {seconds:.2f} s")
        assert seconds < FREE_AGAIN_S + 1
    finally:
        for holder in holders:
            holder.close()
    slow.wait_idle()


def test_a_client_that_stops_reading_holds_up_nobody_else(slow):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(("127.0.0.1", slow.port))
    body = json.dumps(chat("!long", max_tokens=1000, stream=True)).encode()
    sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)  # fmt: skip
    try:
        wait_until(lambda: slow.gauge("appliance_engine_running") == 1, what="the stream nobody reads")
        assert slow.chat("hi").text == "echo: hi"
    finally:
        sock.close()
    slow.wait_idle()


def test_a_client_that_never_reads_its_answer_is_dropped(running_server):
    flags = ("--engine", "fake", "--model", "x", "--ctx-size", "8000")
    server = running_server(*flags, before="import appliance.server; appliance.server.WRITE_LIMIT_MS = 1000")
    body = chat("!long", max_tokens=7000, stream=True, logprobs=True, top_logprobs=20)  # some 10 MB
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.connect(("127.0.0.1", server.port))
        data = json.dumps(body).encode()
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(data) + data)  # fmt: skip
        wait_until(lambda: server.gauge("appliance_engine_running") == 1, what="the stream nobody reads")
        wait_until(lambda: "error=cancelled" in server.log or "status=499" in server.log, 30.0, "the end of its connection")
        server.wait_idle()
    assert server.chat("hi").text == "echo: hi"


def test_clients_that_dawdle_with_their_request_hold_up_nobody(brisk):
    sockets = []
    try:
        for n in range(60):
            sock = socket.create_connection(("127.0.0.1", brisk.port), timeout=10)
            sock.sendall([b"", b"POST /v1/chat", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n",
                          b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                          b'Content-Length: 500\r\n\r\n{"messages":'][n % 4])  # fmt: skip
            sockets.append(sock)
        began = time.monotonic()
        assert brisk.chat("hi").text == "echo: hi" and brisk.get("/health").status == 200
        assert time.monotonic() - began < 5
    finally:
        for sock in sockets:
            sock.close()
    wait_until(lambda: brisk.chat("hi").status == 200)


@pytest.mark.parametrize("part", ["head", "body"])
def test_clients_that_never_finish_their_request_lose_their_threads(running_server, part):
    flags = ("--engine", "fake", "--model", "x", "--parallel", "1", "--queue-size", "0")
    server = running_server(*flags, before="import appliance.server; appliance.server.READ_LIMIT_S = 1.0")
    data = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    if part == "body":
        data += b'Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{"messages":'
    with ExitStack() as open_sockets:
        for _ in range(40):  # more than it has threads
            sock = open_sockets.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            sock.sendall(data)
        assert server.chat("hi").text == "echo: hi"
        received = sock.recv(65536)
        assert not received if part == "head" else received.startswith(b"HTTP/1.1 400"), received


def test_a_slow_but_honest_client_gets_its_answer(brisk):
    body = json.dumps(chat("slowly")).encode()
    data = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n" + (
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    with socket.create_connection(("127.0.0.1", brisk.port), timeout=20) as sock:
        for at in range(0, len(data), 16):
            sock.sendall(data[at : at + 16])
            time.sleep(0.03)
        received = b""
        while part := sock.recv(65536):
            received += part
    assert b"200 OK" in received and b"echo: slowly" in received


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_64_megabytes_is_refused_and_the_server_lives(brisk, chunked):
    before = psutil.Process(brisk.worker_pid).memory_info().rss
    connection = http.client.HTTPConnection("127.0.0.1", brisk.port, timeout=60)
    part = b'{"messages":[' + b" " * (1 << 20)
    try:
        headers = {"Content-Type": "application/json"} | ({} if chunked else {"Content-Length": str(64 << 20)})
        body = (part[: 1 << 20] for _ in range(64))
        connection.request("POST", "/v1/chat/completions", body, headers, encode_chunked=chunked)
        response = connection.getresponse()
        error = json.loads(response.read())["error"]
    finally:
        connection.close()
    assert response.status == 413 and set(error) == FIELDS and error["code"] == "body_too_large"
    assert "max_body_bytes" in error["message"]
    assert brisk.chat("hi").text == "echo: hi"
    assert psutil.Process(brisk.worker_pid).memory_info().rss - before < 60_000_000, "it was kept in memory"


def post(body: bytes, *headers: bytes, target: bytes = b"/v1/chat/completions", method: bytes = b"POST") -> bytes:
    """A request, raw."""
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: x", b"Connection: close", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


JSON = b"Content-Type: application/json"
GOOD = json.dumps(chat("hi")).encode()
RUBBISH = {
    "malformed JSON": (post(b'{"messages": [', JSON), 400),
    "no body": (post(b"", JSON), 400),
    "NUL bytes as the body": (post(b"\0" * 100, JSON), 400),
    "a NUL byte in a text": (post(json.dumps(chat("a\0b")).encode(), JSON), 400),
    "bad UTF-8": (post(b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', JSON), 400),
    "a lone surrogate": (post(b'{"messages":[{"role":"user","content":"\\ud800"}]}', JSON), (200, 400)),
    "NaN": (post(b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}', JSON), 400),
    "a number of 5000 digits": (post(b'{"max_tokens":' + b"9" * 5000 + b"}", JSON), 400),
    "deep nesting": (post(b"[" * 100_000, JSON), 400),
    "a list": (post(b"[]", JSON), 400),
    "wrong types": (post(b'{"messages": "hello", "max_tokens": "many"}', JSON), 400),
    "empty messages": (post(b'{"messages": []}', JSON), 400),
    "an unknown model": (post(json.dumps(chat("x", model="gpt-9")).encode(), JSON), 404),
    "a prompt that is too long": (post(json.dumps(chat("x" * 9000)).encode(), JSON), 400),
    "another content type": (post(b"<xml/>", b"Content-Type: application/xml"), 415),
    "the wrong method": (post(b"", method=b"GET"), 405),
    "DELETE": (post(b"", method=b"DELETE"), 405),
    "a method of its own": (post(b"", method=b"BREW"), (400, 405)),
    "an unknown route": (post(GOOD, JSON, target=b"/v1/nothing"), 404),
    "a climbing path": (post(b"", target=b"/../../etc/passwd", method=b"GET"), (400, 404)),
    "a path with NUL": (post(b"", target=b"/v1/models/%00", method=b"GET"), (400, 404)),
    "a path that is no UTF-8": (post(b"", target=b"/v1/models/%ff%fe", method=b"GET"), (400, 404)),
    "a request id with a line break": (post(b"", b"X-Request-Id: a\r\n b", target=b"/health", method=b"GET"), (200, 400)),
    "a key that is no ASCII": (post(GOOD, JSON, b"Authorization: Bearer \xff\xfe"), (200, 401)),
    "an encoding we do not know": (post(GOOD, JSON, b"Content-Encoding: gzip"), (400, 415)),
}  # fmt: skip


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_over_http_is_answered_with_four_fields(brisk, name):
    data, expected = RUBBISH[name]
    received = brisk.raw(data)
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    assert status in (expected if isinstance(expected, tuple) else (expected,)), received
    if status >= 400:
        assert set(json.loads(body)["error"]) == FIELDS, received
    assert brisk.get("/livez").status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 4096,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),  # a TLS client at a plain port
        b"HELLO\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(1000)) + b"\r\n",
        b"GET /health HTTP/1.1\r\nHo\0st: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nBad Header Line\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nhello",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_is_not_http_gets_a_4xx_or_a_closed_connection(brisk, data):
    connection = socket.create_connection(("127.0.0.1", brisk.port), timeout=5)
    with connection:
        received = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                received += part
        except ConnectionError:
            pass
    if received:
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.1 414", b"HTTP/1.1 415", b"HTTP/1.1 431")), received
        assert set(json.loads(body)["error"]) == FIELDS
    assert brisk.get("/livez").status == 200 and "Traceback" not in brisk.log


def test_200_cancels_refusals_and_kills_leave_nothing_behind(running_server):
    server = running_server(
        "--engine", "fake", "--model", "x", "--parallel", "3", "--queue-size", "3", "--ctx-size", "600",
        APPLIANCE_FAKE_STEP_S="0.004",
    )  # fmt: skip
    server.chat("warm")
    worker = psutil.Process(server.worker_pid)
    wait_until(lambda: "The audit log ends with" in server.log, what="what is opened once")
    files = worker.num_fds()
    outcomes: Counter = Counter()
    numbers = iter(range(200))
    lock = threading.Lock()

    def one(draw: random.Random) -> str:
        stream, prompt = draw.random() < 0.5, draw.choice(["!long", "!long", "hello", "x" * 300, "y" * 700])
        body = chat(prompt + f" {draw.random()}", max_tokens=draw.randrange(1, 120), stream=stream)
        if draw.random() < 0.4:
            sock = send(server, body)
            time.sleep(draw.random() * 0.3)
            sock.close()
            return "left"
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=40)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read()
            response.close()
        finally:
            connection.close()
        if stream and response.status == 200:
            assert data.endswith(b"data: [DONE]\n\n") or b'"code":"engine_lost"' in data.rsplit(b"data: ", 1)[1], data[-300:]
            return "streamed"
        if response.status >= 400:
            assert set(json.loads(data)["error"]) == FIELDS
        return str(response.status)

    def work(seed: int) -> None:
        draw = random.Random(seed)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            if number in (60, 130):
                if pid := server.engine_pid():
                    os.kill(pid, signal.SIGKILL)
                    outcomes["killed"] += 1
                continue
            outcomes[one(draw)] += 1

    failures: list[BaseException] = []

    def guarded(seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures
    print(dict(outcomes))
    assert sum(outcomes.values()) == 200 and outcomes["killed"] == 2
    assert outcomes["left"] and outcomes["streamed"] and outcomes["200"] and outcomes["429"] and outcomes["400"], outcomes
    assert not {"500", "502", "504"} & set(outcomes)
    server.wait_idle()
    assert server.chat("still there").text == "echo: still there"
    assert len(worker.children()) == 1 and server.worker_pid == worker.pid and len(server.family()) == 3
    wait_until(lambda: worker.num_fds() <= files, 10.0, f"the files to be closed ({worker.num_fds()}, were {files})")
