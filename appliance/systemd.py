"""What systemd is told of the service (sd_notify(3)): a datagram of NAME=value lines to the socket that it names."""

from __future__ import annotations

import socket
from collections.abc import MutableMapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Systemd:
    """address: of the socket, "" where nobody listens. watchdog_s: so often a sign of life is wanted, 0 for never."""

    address: str = ""
    watchdog_s: float = 0.0

    @classmethod
    def taken_from(cls, environment: MutableMapping[str, str]) -> Systemd:
        """What the unit asks for. Its variables are taken out, so that no process we start speaks for us."""
        names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        address, watchdog_us, _ = (environment.pop(name, "") for name in names)
        return cls(address, int(watchdog_us) / 1e6 if watchdog_us.isdigit() else 0.0)

    def tell(self, **fields: str | int) -> None:
        """Send fields, such as READY=1. A systemd that does not listen is no fault of ours."""
        if not self.address:
            return
        words = "\n".join(f"{name}={str(value).replace(chr(10), ' ')}" for name, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect("\0" + self.address[1:] if self.address.startswith("@") else self.address)
                sock.sendall(words.encode())
        except OSError:
            pass
