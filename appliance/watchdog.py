"""What systemd is told, when: ready once a request can be answered, and alive as long as requests are and engines move."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable

from appliance.http.health import Movement, why_not_ready
from appliance.services import Services
from appliance.systemd import Systemd

EVERY_S = 2.0
PROBE_S = 10.0
MORE_TIME_S = 60
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Watch:
    """`tick` by one thread. A service that hangs is silent, and systemd ends it when it has been for WatchdogSec."""

    def __init__(self, services: Services, systemd: Systemd, answers: Callable[[], bool]) -> None:
        """answers: whether the API gives an answer now."""
        self._services, self._systemd, self._answers = services, systemd, answers
        self._movement = Movement()
        self._ready = False
        self._told = ""

    @property
    def every_s(self) -> float:
        """How often to tick: a sign of life may be lost, or two."""
        return min(EVERY_S, self._systemd.watchdog_s / 4) if self._systemd.watchdog_s else EVERY_S

    def tick(self) -> None:
        """Tell what is true now."""
        why = why_not_ready(self._services)
        if not self._ready and (why or not self._answers()):
            # A model of many gigabytes loads for longer than any TimeoutStartSec; its own limit is load_timeout_s.
            self._systemd.tell(EXTEND_TIMEOUT_USEC=MORE_TIME_S * 1_000_000)
        elif not self._ready:
            self._ready = True
            self._systemd.tell(READY=1)
        elif self._moves() and self._answers():
            self._systemd.tell(WATCHDOG=1)
        status = why.message if why else self._at_work()
        if status != self._told:
            self._told = status
            self._systemd.tell(STATUS=status)

    def _moves(self) -> bool:
        """The supervisor ends an engine that hangs for hang_timeout_s. One that stands still for longer shows that it does not."""
        limit = 2 * self._services.config.hang_timeout_s
        return all(self._movement.still_s(name, engine) <= limit for name, engine in self._services.pipeline.engines.items())

    def _at_work(self) -> str:
        engines = self._services.pipeline.engines.values()
        ready = [engine.supervisor.name for engine in engines if engine.supervisor.status.state == "ready"]
        running, waiting = sum(engine.admission.running for engine in engines), sum(engine.admission.waiting for engine in engines)
        return f"{', '.join(ready)} ready; {running} running, {waiting} waiting"


def answers(address: tuple, tls: bool) -> bool:
    """Whether the API at this address of ours answers. address: of a socket, as getsockname() has it."""
    host, port = ANYWHERE.get(address[0], address[0]), address[1]
    context = ssl._create_unverified_context() if tls else None  # it is ourselves
    made = http.client.HTTPSConnection(host, port, timeout=PROBE_S, context=context) if tls else http.client.HTTPConnection(host, port, timeout=PROBE_S)
    try:
        made.request("GET", "/livez")
        return made.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        made.close()
