"""The beginning of a request, in whatever pieces it comes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.http.arrival import MOST_BYTES, Arrival, State

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(the client's, ours)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield theirs, ours


@given(st.lists(st.integers(1, len(HEAD) - 1), max_size=8), st.integers(0, len(HEAD)))
def test_pieces_of_whatever_size_make_the_whole(cuts, already):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arrival = Arrival(ours, None, 0.0, HEAD[:already])
        edges = sorted({already, *(cut for cut in cuts if cut > already), len(HEAD)})
        for begin, end in zip(edges, edges[1:], strict=False):
            assert arrival.step() is State.MORE
            theirs.sendall(HEAD[begin:end])
        assert arrival.step() is State.WHOLE and arrival.data == HEAD


def test_what_comes_behind_the_head_is_kept(ends):
    ends[0].sendall(HEAD + b"{}")
    arrival = Arrival(ends[1], None, 0.0)
    assert arrival.step() is State.WHOLE and arrival.data == HEAD + b"{}"


def test_a_client_that_leaves_is_told_from_one_that_ends_in_the_middle(ends):
    arrival = Arrival(ends[1], None, 0.0)
    assert arrival.step() is State.MORE
    ends[0].shutdown(socket.SHUT_WR)
    assert arrival.step() is State.GONE
    assert Arrival(ends[1], None, 0.0, b"GET /").step() is State.WHOLE  # the parser says what is wrong with it


def test_a_head_without_an_end_is_not_kept_for_ever(ends):
    arrival = Arrival(ends[1], None, 0.0)
    sent, state = 0, State.MORE
    while state is State.MORE:
        sent += ends[0].send(b"x" * 8192)
        state = arrival.step()
    assert state is State.LARGE and MOST_BYTES < sent < 2 * MOST_BYTES
