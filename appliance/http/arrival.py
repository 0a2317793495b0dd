"""The beginning of a request as it comes in: a client that dawdles over its TLS handshake or its headers holds no thread."""

from __future__ import annotations

import socket
import ssl
from enum import Enum, auto

HEAD_END = b"\r\n\r\n"
MOST_BYTES = 64 * 1024
"""Of a head: a request line and headers. Cookies and keys of an honest client take a few thousand."""
PIECE_BYTES = 16 * 1024
HANDSHAKE = b"\x16"
"""The first byte of a TLS connection (RFC 8446, 5.1: the content type of a record)."""


class State(Enum):
    """How far it is."""

    MORE = auto()
    """Nothing is to be done before the socket is readable again."""
    WHOLE = auto()
    """The head is in `data`, or the client has ended in the middle of it."""
    GONE = auto()
    """The client has left, or no TLS could be agreed on; OpenSSL has told it why."""
    LARGE = auto()
    """More than MOST_BYTES, and no end."""
    PLAIN = auto()
    """It speaks no TLS where TLS is spoken."""


class Arrival:
    """What has come of the next request on a connection. One thread at a time."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None, since: float, data: bytes = b"") -> None:
        """context: for a new connection that is to speak TLS. data: what was read already. since: its clock's seconds, for others."""
        self.sock, self.since, self.data = sock, since, bytearray(data)
        self._context = context
        self._shaking = context is not None

    def step(self) -> State:
        """Take what is there, and never wait. `sock` may be another one afterwards; it does not block."""
        try:
            self.sock.setblocking(False)
            if self._context:
                if self.sock.recv(1, socket.MSG_PEEK) not in (HANDSHAKE, b""):
                    return State.PLAIN
                self.sock = self._context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
                self._context = None
            if self._shaking:
                self.sock.do_handshake()  # type: ignore[attr-defined]
                self._shaking = False
            while HEAD_END not in self.data:
                if len(self.data) > MOST_BYTES:
                    return State.LARGE
                piece = self.sock.recv(PIECE_BYTES)
                if not piece:
                    return State.WHOLE if self.data else State.GONE
                self.data += piece
        except (BlockingIOError, ssl.SSLWantReadError):
            return State.MORE
        except OSError:  # ssl.SSLError is one
            return State.GONE
        return State.WHOLE
