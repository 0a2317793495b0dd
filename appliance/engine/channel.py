"""Frames over one end of a socketpair: 4 bytes of length (big endian), then that many bytes.

A `Channel` belongs to one reading thread; `send` may be called by any thread. The end of the other process shows as
`ChannelClosed`, at once and without a timeout: that is how each side learns that the other one died.
"""

from __future__ import annotations

import select
import socket
import struct
import threading

from appliance.engine.messages import Message, decode, encode

MAX_FRAME_BYTES = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class ChannelClosed(Exception):
    """The other side is gone."""


class Channel:
    """Message passing over a connected stream socket, which the channel then owns."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._send_lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def fileno(self) -> int:
        """The descriptor, for handing it to a child."""
        return self._sock.fileno()

    def send(self, message: Message, timeout_s: float = -1) -> None:
        """Send one message whole; blocks while the other side does not read. Raises ChannelClosed, and ValueError for a
        message that is too large. With a timeout (for small messages) raises TimeoutError when it could not begin.
        """
        payload = encode(message)
        if len(payload) > MAX_FRAME_BYTES:
            raise ValueError(f"message of {len(payload)} bytes is over the limit of {MAX_FRAME_BYTES}")
        if not self._send_lock.acquire(timeout=timeout_s):
            raise TimeoutError("another message is still being sent")
        try:
            if timeout_s >= 0 and not self._writable(timeout_s):
                raise TimeoutError("the other side does not read")
            self._sock.sendall(_LENGTH.pack(len(payload)) + payload)
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:  # ValueError: polling a socket that is closed
            raise ChannelClosed(str(error)) from None
        finally:
            self._send_lock.release()

    def _writable(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        return bool(poll.poll(timeout_s * 1000))

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message, or None when none came within `timeout_s` (None: wait for ever, 0: do not wait).

        Raises ChannelClosed at the end of the stream and ValueError for a frame that is no message.
        """
        while True:
            if len(self._buffer) >= 4:
                (size,) = _LENGTH.unpack_from(self._buffer)
                if size > MAX_FRAME_BYTES:
                    raise ValueError(f"frame of {size} bytes is over the limit of {MAX_FRAME_BYTES}")
                if len(self._buffer) >= 4 + size:
                    payload = bytes(self._buffer[4 : 4 + size])
                    del self._buffer[: 4 + size]
                    return decode(payload)
            if not self._poll.poll(None if timeout_s is None else timeout_s * 1000):
                return None
            try:
                data = self._sock.recv(1 << 18)
            except OSError as error:
                raise ChannelClosed(str(error)) from None
            if not data:
                raise ChannelClosed("end of stream")
            self._buffer += data

    def close(self) -> None:
        """Close our end; the other side sees ChannelClosed. A `receive` under way in another thread ends too."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was faster
        self._sock.close()
