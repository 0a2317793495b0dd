"""A body that is too large is refused without being kept, and the client gets to read why."""

import io
import json
import resource
import socket
import time

from appliance.http import linger

MEGABYTE = 1024 * 1024


def test_64_megabytes_are_refused_and_the_client_sees_it(service, serve):
    host, port = serve(service).removeprefix("http://").split(":")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chunk = b"x" * MEGABYTE
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (64 * MEGABYTE))
        for _ in range(64):  # a simple client writes everything before it reads anything
            sock.sendall(chunk)
        raw = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 413 ")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "body_too_large"
    assert "67108864 bytes" in error["message"] and "max_body_bytes" in error["message"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 * 1024  # kilobytes


def test_a_large_body_without_a_good_key_is_refused_the_same_way(make_service, serve):
    host, port = serve(make_service(api_key=("secret",))).removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (8 * MEGABYTE))
        for _ in range(8):
            sock.sendall(b"x" * MEGABYTE)
        assert sock.recv(12) == b"HTTP/1.0 401"
        while sock.recv(65536):
            pass


def chunked(client, raw):
    return client.post(
        "/tokenize",
        input_stream=io.BytesIO(raw),
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )


def test_a_chunked_body_is_read_to_its_end_and_refused_above_the_limit(make_service, check_error):
    client = make_service(max_body_bytes=MEGABYTE).client
    body = b'{"content": "ab"}'
    assert chunked(client, body).get_json() == {"tokens": [97, 98]}
    assert chunked(client, body.ljust(MEGABYTE)).status_code == 200
    error = check_error(chunked(client, body.ljust(MEGABYTE + 1)), 413, "body_too_large")
    assert f"over the limit of {MEGABYTE} bytes" in error["message"]


def test_a_client_that_never_stops_sending_is_left_after_a_while():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        began = time.monotonic()
        linger.drain(ours, seconds=0.1)
        assert 0.05 < time.monotonic() - began < 1.0


def test_only_an_unread_body_of_some_size_is_lingered_over():
    assert not linger.is_unread({})
    assert not linger.is_unread({"CONTENT_LENGTH": "100"})
    assert not linger.is_unread({"CONTENT_LENGTH": "nonsense"})
    assert linger.is_unread({"CONTENT_LENGTH": str(MEGABYTE)})
    assert linger.is_unread({"HTTP_TRANSFER_ENCODING": "Chunked"})
    linger.drain(None)
