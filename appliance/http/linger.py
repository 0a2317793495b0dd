"""Closing a connection whose request body was refused, so that the client still gets to read why.

Closing a socket with unread data makes the kernel send a reset, and a reset throws away what the client has not read
yet - our 413. So the rest of the body is received and forgotten for a while, in one small buffer.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any

from appliance.clock import Clock, monotonic

LINGER_S = 10.0
SMALL_BYTES = 64 * 1024
"""gunicorn reads and drops an unread body up to this size itself and keeps the connection."""


def is_unread(environ: Mapping[str, Any]) -> bool:
    """Whether a request whose body nobody read announces more than the server would drop by itself."""
    if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
        return True
    try:
        return int(environ.get("CONTENT_LENGTH") or 0) > SMALL_BYTES
    except ValueError:
        return False


def drain(sock: socket.socket | None, seconds: float = LINGER_S, clock: Clock = monotonic) -> None:
    """Receive and forget until the client closes, for `seconds` at most. The answer must have been sent."""
    if sock is None:
        return
    until = clock() + seconds
    buffer = bytearray(SMALL_BYTES)
    try:
        if not isinstance(sock, ssl.SSLSocket):
            sock.shutdown(socket.SHUT_WR)  # tells the client that the answer is complete and nothing follows
        while (left := until - clock()) > 0:
            sock.settimeout(left)
            if not sock.recv_into(buffer):
                return
    except OSError:
        return  # the client is gone or too slow: either way there is nobody to be polite to
