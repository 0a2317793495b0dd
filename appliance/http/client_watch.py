"""Noticing that a client has left while its answer is still being made.

The kernel is asked, nothing is read: bytes of a next request stay where they are, and it works below TLS as well.
A client that closes only its sending side counts as gone; proxies treat it the same way (nginx logs 499).
"""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping
from typing import Any

_LEFT = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL


class ClientWatch:
    """Watches one connection. Used by the request's own thread; `gone` never blocks."""

    def __init__(self, sock: socket.socket | None) -> None:
        """sock: the client's connection; without one (a test client) nobody is ever gone."""
        self._poll: select.poll | None = None
        self._gone = False
        if sock is None:
            return
        if sock.fileno() < 0:
            self._gone = True
            return
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLRDHUP)

    @classmethod
    def of(cls, environ: Mapping[str, Any]) -> ClientWatch:
        """The watch for a WSGI request; gunicorn's gthread worker puts the connection into the environ."""
        return cls(environ.get("gunicorn.socket"))

    def gone(self) -> bool:
        """Whether the client has closed or lost the connection. Once true, always true."""
        if not self._gone and self._poll is not None:
            self._gone = any(event & _LEFT for _, event in self._poll.poll(0))
        return self._gone
