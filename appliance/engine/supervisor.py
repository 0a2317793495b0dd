"""The life of one engine: start, watch, explain a death, start again with patience, give up on what cannot boot.

One thread a model, which is also the receiving thread of its channel. States: absent, loading, ready, draining, failed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from appliance.clock import Clock, monotonic
from appliance.engine.channel import Channel, ChannelClosed
from appliance.engine.child import Child, Death
from appliance.engine.client import EngineClient
from appliance.engine.messages import VERSION, Answer, Booting, Frame, Ready, Refused, Stop
from appliance.errors import ApplianceError, Draining, EngineLost, ModelFailed, ModelLoading, from_wire
from appliance.types import ModelInfo

State = Literal["absent", "loading", "ready", "draining", "failed"]
BOOT_TRIES = 3
STABLE_S = 60.0
LONGEST_PAUSE_S = 30.0
TICK_S = 0.25


@dataclass(slots=True)
class Status:
    """What is known about an engine. reason: in words, why it is not ready. restarts: by cause of death."""

    state: State = "absent"
    reason: str = ""
    phase: str = ""
    progress: float = 0.0
    info: ModelInfo | None = None
    pid: int | None = None
    restarts: dict[str, int] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    error: ApplianceError | None = None


def pause_before_restart(deaths_in_a_row: int) -> float:
    """Seconds to wait: none after the first death, then doubling from one second."""
    return 0.0 if deaths_in_a_row <= 1 else min(LONGEST_PAUSE_S, 2.0 ** min(deaths_in_a_row - 2, 10))


class Supervisor:
    """Keeps one model served. `start_child` makes a process; `log` takes (level, sentence).

    `check` runs on this thread before each start and may take seconds; it raises ApplianceError when the model must not be
    loaded, and soon after the function it is given says that the service is stopping.
    """

    def __init__(
        self,
        name: str,
        start_child: Callable[[], Child],
        client: EngineClient,
        *,
        hang_timeout_s: float,
        load_timeout_s: float,
        log: Callable[[str, str], None],
        clock: Clock = monotonic,
        check: Callable[[Callable[[], bool]], None] = lambda stopping: None,
    ) -> None:
        self.name = name
        self.client = client
        self._check = check
        self.status = Status()
        self._start_child = start_child
        self._hang_timeout_s = hang_timeout_s
        self._load_timeout_s = load_timeout_s
        self._log = log
        self._clock = clock
        self._stop, self._again = threading.Event(), threading.Event()
        self._changed = threading.Condition()
        self._why_stopped: ApplianceError = Draining("The service stopped before this answer was complete.", retry_after_s=10)
        self._child: Child | None = None
        self._thread = self._new_thread()

    # -- for anybody -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin loading, in the background."""
        self._become("loading")
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> None:
        """Return when the model is ready. Raises ModelLoading, ModelFailed or Draining when it is not by then."""
        with self._changed:
            self._changed.wait_for(lambda: self.status.state != "loading", timeout_s)
            state = self.status.state
        if state == "ready":
            return
        if state == "loading":
            raise ModelLoading(f"The model {self.name} is still loading.", remedy="Try again shortly.", retry_after_s=5)
        if state == "failed":
            raise ModelFailed(
                f"The model {self.name} is not available: {self.status.reason}",
                remedy="An administrator can load it again.",
                retry_after_s=60,
            )
        raise Draining("The service is stopping.", retry_after_s=10)

    def wait_settled(self) -> None:
        """Return when the first loading has ended, well or not."""
        with self._changed:
            self._changed.wait_for(lambda: self.status.state != "loading")

    def stop(self, timeout_s: float = 5.0, why: ApplianceError | None = None) -> None:
        """End the child and the thread; a child that is not gone after `timeout_s` is killed. Running sequences fail
        with `why`, or Draining. May be called at any time, also before `start`."""
        if why:
            self._why_stopped = why
            self.client.fail_all(why)  # the child only knows that it has to stop
        was_ready = self.status.state == "ready"
        self._become("draining")
        self._stop.set()
        if was_ready and (child := self._child):  # one that is loading would not listen and has nothing to finish
            try:
                child.channel.send(Stop(), timeout_s=1.0)
                self._thread.join(timeout_s)
            except (ChannelClosed, TimeoutError):
                pass  # it is already gone, or it hangs and does not read
        for _ in range(40):
            if not self._thread.is_alive():
                break
            if child := self._child:  # read again: it may have been started just now
                child.kill()
            self._thread.join(TICK_S)
        self.client.fail_all(self._why_stopped)
        self._become("absent")

    def again(self) -> None:
        """End the child and start another, also where that was given up; returns at once. Running sequences fail with EngineLost."""
        if self.status.state == "failed" and not self._stop.is_set():
            self._thread.join()  # it is at its end
            self.status.error, self._thread = None, self._new_thread()
            self.start()
        elif self._thread.is_alive():
            self._become("loading")
            self._again.set()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name=f"engine-{self.name}", daemon=True)

    def _become(self, state: State, reason: str = "") -> None:
        with self._changed:
            if self.status.state == "draining" and state in ("loading", "ready", "failed"):
                return
            self.status.state, self.status.reason = state, reason
            self._changed.notify_all()

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        boots_failed = deaths = 0
        while not self._stop.is_set():
            self._become("loading", self.status.reason)
            self._again.clear()
            ready_at, death, error = self._live()
            if self._stop.is_set():
                break
            if self._again.is_set():
                boots_failed = deaths = 0
                continue
            if ready_at is None:
                boots_failed += 1
            else:
                boots_failed = 0
                deaths = 1 if self._clock() - ready_at >= STABLE_S else deaths + 1
            restarts = self.status.restarts  # replaced, not changed: others iterate over it
            self.status.restarts = {**restarts, death.cause: restarts.get(death.cause, 0) + 1}
            if error or boots_failed >= BOOT_TRIES:
                self._give_up(death, error)
                break
            pause = pause_before_restart(boots_failed or deaths)
            self._log("warning", f"Engine {self.name}: {death.words}. Starting it again in {pause:g} s.")
            self._become("loading", death.words)
            until = self._clock() + pause
            while self._clock() < until and not self._again.is_set() and not self._stop.wait(min(TICK_S, pause)):
                pass

    def _give_up(self, death: Death, error: ApplianceError | None) -> None:
        words = str(error) if error else f"{death.words}, {BOOT_TRIES} times in a row while loading"
        self.status.error = error or ModelFailed(words)
        self._log("error", f"Engine {self.name} cannot be served: {words}")
        self._become("failed", words)
        self.client.fail_all(ModelFailed(f"The model {self.name} is not available: {words}", retry_after_s=60))

    def _live(self) -> tuple[float | None, Death, ApplianceError | None]:
        """One child from start to end: (when it became ready, why it ended, its own refusal)."""
        try:
            self.status.phase, self.status.progress = "checking", 0.0
            self._check(self._stop.is_set)
            child = self._child = self._start_child()
        except ApplianceError as error:
            return None, Death("refused", str(error)), error
        except OSError as error:
            return None, Death("fault", f"its process cannot be started: {error}"), None
        except Exception as error:  # a fault of ours must not leave everybody waiting
            return None, Death("fault", f"its start failed ({type(error).__name__}: {error})"), None
        self.status.pid = child.pid
        ready_at, cause, refusal = None, None, None
        heard = began = self._clock()
        try:
            while True:
                message = child.channel.receive(TICK_S)
                now = self._clock()
                if message is not None:
                    heard = now
                    if isinstance(message, Refused):
                        refusal = from_wire(message.error)
                    elif isinstance(message, Ready):
                        ready_at = now
                        self._welcome(child.channel, message)
                    else:
                        self._take(message)
                elif not self.client.outstanding():
                    heard = now  # silence is only suspicious while somebody waits
                cause = self._overdue(ready_at, heard, began, now)
                if cause:
                    break
        except ChannelClosed:
            pass
        except Exception as error:  # whatever it sent, this thread must live to bury it
            cause = Death("fault", f"it sent something that makes no sense ({type(error).__name__}: {error})")
        if cause:
            child.kill()
        code = child.bury()
        self._child, self.status.pid = None, None
        death = cause or (Death("refused", str(refusal)) if refusal else child.explain(code))
        why: ApplianceError = EngineLost(
            f"The engine was lost while it worked on this answer: {death.words}.", retry_after_s=2
        )
        if self._stop.is_set():
            why = self._why_stopped
        self.client.detach(why, death.blame)
        return ready_at, death, refusal

    def _welcome(self, channel: Channel, message: Ready) -> None:
        if message.version != VERSION:
            raise ValueError(f"wire version {message.version}, expected {VERSION}")
        values = dict(message.info)
        values["cpus"], values["labels"] = tuple(values["cpus"]), tuple(values.get("labels", ()))
        self.status.info = ModelInfo(**values)
        self.client.attach(channel)
        self._become("ready")
        self._log("info", f"Engine {self.name} is ready.")

    def _take(self, message: Any) -> None:
        if isinstance(message, Booting):
            self.status.phase, self.status.progress = message.phase, message.progress
        elif isinstance(message, (Frame, Answer)):
            if isinstance(message, Frame) and message.load:
                self.status.load = message.load
            self.client.take(message)

    def _overdue(self, ready_at: float | None, heard: float, began: float, now: float) -> Death | None:
        """A child that should have spoken and did not, or that is to make room for another."""
        if self._again.is_set():
            return Death("stopped", "it is started anew")
        if ready_at is None:
            if now - began > self._load_timeout_s:
                return Death("slow_boot", f"it was not ready after {self._load_timeout_s:g} s (load_timeout_s)")
            return None
        if self.client.outstanding() and now - heard > self._hang_timeout_s:
            return Death("hang", f"it hung: no step for {self._hang_timeout_s:g} s although work was waiting (hang_timeout_s)")
        return None
