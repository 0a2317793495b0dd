"""Frames over a socketpair."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time

import pytest
from fakes import wait_until

from appliance.engine.channel import MAX_FRAME_BYTES, Channel, ChannelClosed
from appliance.engine.messages import Ask, Cancel, Stop, encode


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    ends = Channel(a), Channel(b)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def raw():
    a, b = socket.socketpair()
    channel = Channel(b)
    yield a, channel
    a.close()
    channel.close()


def framed(message) -> bytes:
    payload = encode(message)
    return struct.pack(">I", len(payload)) + payload


def test_messages_arrive_in_order_and_then_nothing(pair):
    ours, theirs = pair
    for n in range(100):
        ours.send(Cancel(str(n)))
    assert [theirs.receive(0).id for _ in range(100)] == [str(n) for n in range(100)]
    assert theirs.receive(0) is None
    assert theirs.receive(0.01) is None


def test_frames_may_be_cut_anywhere(raw):
    sock, channel = raw
    stream = b"".join(framed(Cancel("x" * n)) for n in range(30))
    rng, at, got = random.Random(1), 0, []
    while at < len(stream):
        size = rng.randint(1, 40)
        sock.sendall(stream[at : at + size])
        at += size
        while (message := channel.receive(0)) is not None:
            got.append(len(message.id))
    assert got == list(range(30))


def test_a_large_message_passes_whole_while_both_sides_work(pair):
    ours, theirs = pair
    text = "\N{EURO SIGN}" * 1_000_000
    sender = threading.Thread(target=ours.send, args=(Ask("a", "tokenize", {"text": text}),), name="test-sender")
    sender.start()
    assert theirs.receive(10).args["text"] == text
    sender.join()


def test_the_end_of_the_other_side_is_seen_at_once(pair):
    ours, theirs = pair
    ours.send(Stop())
    ours.close()
    assert isinstance(theirs.receive(5), Stop), "what was sent before the end still arrives"
    began = time.monotonic()
    with pytest.raises(ChannelClosed):
        theirs.receive(5)
    with pytest.raises(ChannelClosed):
        theirs.send(Stop())
    assert time.monotonic() - began < 1


def test_closing_our_own_end_wakes_a_waiting_receive(pair):
    ours, _ = pair
    seen = []

    def wait() -> None:
        try:
            ours.receive(10)
        except ChannelClosed as error:
            seen.append(error)

    thread = threading.Thread(target=wait, name="test-receiver")
    thread.start()
    time.sleep(0.05)
    ours.close()
    thread.join(2)
    assert len(seen) == 1
    with pytest.raises(ChannelClosed):
        ours.send(Stop())
    with pytest.raises(ChannelClosed):
        ours.send(Stop(), timeout_s=0.1)
    with pytest.raises(ChannelClosed):
        ours.receive(0)


def test_an_end_in_the_middle_of_a_frame_is_an_end(raw):
    sock, channel = raw
    sock.sendall(framed(Stop())[:-2])
    sock.close()
    with pytest.raises(ChannelClosed):
        channel.receive(1)


def test_a_frame_that_is_no_message_is_refused(raw):
    sock, channel = raw
    sock.sendall(struct.pack(">I", 3) + b"abc")
    with pytest.raises(ValueError, match="not an engine message"):
        channel.receive(1)


def test_a_frame_over_the_limit_is_refused_before_it_is_read(raw):
    sock, channel = raw
    sock.sendall(struct.pack(">I", MAX_FRAME_BYTES + 1))
    with pytest.raises(ValueError, match="over the limit"):
        channel.receive(1)


def test_a_message_over_the_limit_is_not_sent(pair, monkeypatch):
    ours, theirs = pair
    monkeypatch.setattr("appliance.engine.channel.MAX_FRAME_BYTES", 100)
    with pytest.raises(ValueError, match="over the limit"):
        ours.send(Cancel("x" * 100))
    ours.send(Cancel("short"))
    assert theirs.receive(1).id == "short"


def test_a_send_with_a_timeout_gives_up_when_nobody_reads(pair):
    ours, _ = pair
    blocked = threading.Thread(target=_swallow, args=(ours, Ask("a", "x", {"text": "y" * 5_000_000})), name="test-blocked")
    blocked.start()
    wait_until(ours._send_lock.locked)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ours.send(Stop(), timeout_s=0.1)
    assert 0.05 < time.monotonic() - began < 2
    ours.close()
    blocked.join(2)
    assert not blocked.is_alive()


def _swallow(channel: Channel, message) -> None:
    try:
        channel.send(message)
    except ChannelClosed:
        pass


def test_many_threads_may_send_at_once(pair):
    ours, theirs = pair
    threads = [
        threading.Thread(target=lambda n=n: [ours.send(Cancel(f"{n}:{'z' * 500}")) for _ in range(50)], name=f"test-send-{n}")
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    got = [theirs.receive(5).id[0] for _ in range(200)]
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted("0123" * 50)
