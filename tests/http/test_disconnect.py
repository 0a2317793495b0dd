"""A client that leaves takes its work with it: in queue, in prefill and in decode, streamed or not."""

import json
import socket
import time

import pytest

from appliance.http.client_watch import ClientWatch


@pytest.fixture
def pair():
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def test_a_client_that_is_there_is_not_gone(pair):
    watch = ClientWatch(pair[0])
    assert not watch.gone()
    pair[1].sendall(b"GET / HTTP/1.1")  # its next request already
    assert not watch.gone()
    assert pair[0].recv(14) == b"GET / HTTP/1.1"


def test_a_client_that_closed_is_gone_and_stays_so(pair):
    watch = ClientWatch(pair[0])
    pair[1].sendall(b"unread")
    pair[1].close()
    assert watch.gone()
    assert watch.gone()


def test_a_client_that_closed_only_its_sending_side_is_gone(pair):
    watch = ClientWatch(pair[0])
    pair[1].shutdown(socket.SHUT_WR)
    assert watch.gone()


def test_without_a_socket_nobody_is_ever_gone():
    assert not ClientWatch(None).gone()
    assert not ClientWatch.of({}).gone()


def test_a_socket_that_is_closed_already_means_gone(pair):
    pair[0].close()
    assert ClientWatch(pair[0]).gone()
    assert ClientWatch.of({"gunicorn.socket": pair[0]}).gone()


def test_a_reset_over_tcp_is_noticed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        watch = ClientWatch(theirs)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        ours.close()
        until = time.monotonic() + 1
        while not watch.gone() and time.monotonic() < until:
            time.sleep(0.005)
        assert watch.gone()
        theirs.close()


def send(address, body):
    """A request whose answer is not read yet."""
    host, port = address.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)))
    raw = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
    sock.sendall(head.encode() + raw)
    return sock


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("phase", ["queue", "prefill", "decode"])
def test_the_work_of_a_client_that_left_is_cancelled_within_a_second(
    make_service, serve, hello, wait_for, phase, stream
):
    step_s = {"queue": 0.005, "prefill": 0.4, "decode": 0.005}[phase]
    service = make_service(step_s=step_s, sequences=1, context_tokens=4096)
    engine = service.pipeline.engines["fake"]
    held = [engine.admission.enter("other") for _ in range(3)] if phase == "queue" else []
    hello["messages"][0]["content"] = "!long"
    sock = send(serve(service), hello | {"stream": stream, "max_tokens": 4000})
    if phase == "queue":
        wait_for(lambda: engine.admission.waiting == 1)
    else:
        wait_for(lambda: service.outstanding() == 1)
    if phase == "decode":
        wait_for(lambda: service.children[0].loop.slots.used_tokens > 40)
    sock.close()
    left = time.monotonic()
    wait_for(lambda: engine.admission.waiting == 0 and service.outstanding() == 0, 2.0)
    # In prefill the fake's own step of 0.4 s must end before the engine can listen.
    assert time.monotonic() - left < 1.0 + (0.4 if phase == "prefill" else 0)
    for place in held:
        engine.admission.leave(place)
    wait_for(lambda: 'status="499"' in service.metrics.render())
    assert engine.admission.running == 0
    service.children[0].loop.slots.check_integrity()


def test_a_stream_that_is_closed_before_it_began_gives_its_place_back(make_service, hello, wait_for):
    service = make_service(step_s=0.01)
    hello["messages"][0]["content"] = "!long"
    response = service.client.post("/v1/chat/completions", json=hello | {"stream": True}, buffered=False)
    response.close()
    wait_for(lambda: service.outstanding() == 0)
    assert service.pipeline.engines["fake"].admission.running == 0
