"""Stand-ins and drivers that several tests share. The scripted engine itself is `appliance.engine.fake_backend`."""

from __future__ import annotations

import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from appliance.clock import FakeClock
from appliance.engine.backend import Piece
from appliance.engine.child import Child
from appliance.engine.client import EngineClient
from appliance.engine.fake_backend import END, FakeBackend, _next_byte
from appliance.engine.loop import Loop
from appliance.engine.messages import Answer, Ask, Cancel, Frame, Generate, Message, Stop, decode, encode
from appliance.engine.supervisor import Supervisor
from appliance.engine.worker import WorkerSettings
from appliance.types import Delta, Event, Failed, Finished

ROOT = Path(__file__).resolve().parent.parent
GREEDY = {"temperature": 0}


class MemoryLink:
    """A Link without a socket. Messages still go through their wire form."""

    def __init__(self) -> None:
        self.inbox: deque[Message] = deque()
        self.outbox: deque[Message] = deque()

    def send(self, message: Message) -> None:
        """From the loop to the test."""
        self.outbox.append(decode(encode(message)))

    def receive(self, timeout_s: float | None) -> Message | None:
        """The next message; an idle loop that would wait for ever is told that nothing came."""
        return decode(encode(self.inbox.popleft())) if self.inbox else None


class Words:
    """What the embedder and the pair verifier say, from the words of a question alone: the same words in any order mean the same.

    `ready` False: they cannot say. `sure`: what the verifier says of such a pair. `asked` counts.
    """

    prior = {0.9: 0.0005}

    def __init__(self, sure: float = 0.99) -> None:
        self.ready, self.sure, self.asked = True, sure, 0

    def embed(self, texts: list[str]) -> np.ndarray | None:
        """The sum of a vector for each word."""
        self.asked += 1
        if not self.ready:
            return None
        found = np.stack([sum(self._vector(word) for word in self._words(text)) for text in texts])
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    def same(self, asked: str, others: list[str]) -> list[float] | None:
        """`sure` for the same words."""
        if not self.ready:
            return None
        return [self.sure if self._words(asked) == self._words(other) else 0.1 for other in others]

    @staticmethod
    def _words(text: str) -> list[str]:
        return sorted(text.lower().replace("?", "").replace(",", "").split()) or ["nothing"]

    @staticmethod
    def _vector(word: str) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(384)


class TimedFake(FakeBackend):
    """A fake whose steps take time on a FakeClock: so much for each step and for each token."""

    def __init__(self, clock: FakeClock, *, base_s: float = 0.01, token_s: float = 0.001, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.clock, self.base_s, self.token_s = clock, base_s, token_s
        self.steps: list[list[Piece]] = []

    def decode(self, pieces: list[Piece]) -> Any:
        """As the fake, and the clock moves."""
        self.steps.append(pieces)
        self.clock.advance(self.base_s + self.token_s * sum(len(p.tokens) for p in pieces))
        return super().decode(pieces)


class Drive:
    """Runs a Loop over a FakeBackend step by step and checks after each step what must always hold."""

    def __init__(
        self, backend: FakeBackend | None = None, *, store_bytes: int = 0, batch_tokens: int = 64, **fake: Any
    ) -> None:
        self.clock = backend.clock if isinstance(backend, TimedFake) else FakeClock()
        self.backend = backend or FakeBackend(**fake)
        self.link = MemoryLink()
        self.loop = Loop(
            self.backend, self.link, self.clock, stall_s=0.2, batch_tokens=batch_tokens, store_bytes=store_bytes
        )
        self.texts: dict[str, str] = {}
        self.ended: dict[str, list[Any]] = {}
        self.failed: dict[str, dict[str, Any]] = {}
        self.started: list[str] = []
        self.logprobs: dict[str, list[Any]] = {}
        self.answers: dict[str, Answer] = {}
        self.frames: list[Frame] = []

    def generate(self, prompt: str | list[int] | list[dict[str, Any]], request_id: str = "", **more: Any) -> str:
        """Send a Generate; a text, token ids or messages."""
        request_id = request_id or f"r{len(self.texts)}"
        if isinstance(prompt, str):
            wire: dict[str, Any] = {"text": prompt}
        else:
            wire = {"tokens" if not prompt or isinstance(prompt[0], int) else "messages": prompt}
        self.texts[request_id] = ""
        self.link.inbox.append(Generate(request_id, wire, more.pop("sampling", GREEDY), **more))
        return request_id

    def send(self, message: Ask | Cancel | Stop) -> None:
        """Send something else."""
        self.link.inbox.append(message)

    @property
    def open(self) -> set[str]:
        """Requests that have not ended."""
        return set(self.texts) - set(self.ended) - set(self.failed)

    def step(self) -> bool:
        """One step of the loop, and all checks."""
        worked = self.loop.step()
        while self.link.outbox:
            message = self.link.outbox.popleft()
            if isinstance(message, Answer):
                self.answers[message.id] = message
            else:
                self._take(message)
        self.check()
        return worked

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.started += frame.started
        for request_id, text, _, logprobs in frame.deltas:
            assert request_id in self.open, f"{request_id} got text after its end"
            self.texts[request_id] += text
            self.logprobs.setdefault(request_id, []).extend(logprobs or [])
        for request_id, *rest in frame.ended:
            assert request_id in self.open, f"{request_id} ended twice"
            self.ended[request_id] = rest
        for request_id, error in frame.failed:
            assert request_id in self.open, f"{request_id} ended twice"
            self.failed[request_id] = error

    def check(self) -> None:
        """The books are right and say what the engine's memory says."""
        self.loop.slots.check_integrity()
        self.loop.store.check_integrity()
        for slot in self.loop.slots:
            memory = self.backend._memory[slot.seq]
            assert bytes(min(t, 255) for t in slot.tokens) == bytes(memory), f"slot {slot.seq} is not what is computed"

    def run(self, most_steps: int = 5000) -> Drive:
        """Step until every request has ended and everything is idle."""
        for _ in range(most_steps):
            if not self.step() and not self.open and not self.link.inbox:
                assert not self.loop.slots.used_tokens
                return self
        raise AssertionError(f"not ended after {most_steps} steps: {sorted(self.open)}")


def answer_alone(prompt: str, most: int, context_tokens: int, stops: tuple[str, ...] = ()) -> tuple[str, str]:
    """What the fake answers to a text prompt when it has the engine for itself: (text, reason)."""
    memory = bytearray(prompt.encode())
    said = bytearray()
    for _ in range(min(most, context_tokens - len(memory))):
        token = _next_byte(bytes(memory))
        if token == END:
            return said.decode("utf-8", "replace"), "stop"
        memory.append(token)
        said.append(token)
        for stop in sorted(stops, key=len, reverse=True):
            if said.endswith(stop.encode()):
                return said.decode("utf-8", "replace").removesuffix(stop), "stop"
    return said.decode("utf-8", "replace"), "length"


class Inbox:
    """Receives one sequence's events, as the pipeline would."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    @property
    def text(self) -> str:
        """Text so far."""
        return "".join(e.text for e in self.events if isinstance(e, Delta))

    @property
    def ends(self) -> list[Finished | Failed]:
        """Finished and Failed events; there must never be more than one."""
        return [e for e in self.events if isinstance(e, (Finished, Failed))]

    def wait_text(self, timeout_s: float = 20.0) -> str:
        """Wait until something has streamed."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.text or self.ends, timeout_s), "nothing streamed"
        return self.text

    def wait_end(self, timeout_s: float = 20.0) -> Finished | Failed:
        """Wait for the end."""
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self.ends), timeout_s), f"no end after {timeout_s} s"
        return self.ends[0]


def chat(content: str) -> dict[str, Any]:
    """A wire prompt of one message."""
    return {"messages": [{"role": "user", "content": content}]}


class Engine:
    """A supervisor with a real child that runs the fake engine."""

    def __init__(self, *, hang_timeout_s: float = 30.0, load_timeout_s: float = 30.0, **settings: Any) -> None:
        values = dict(
            engine="fake", name="tiny", path="", context_tokens=2048, sequences=4, kv_tokens=0, threads=1, cpus=(),
            batch_tokens=64, stall_s=0.2, store_bytes=100_000, fake_step_s=0.005,
        )  # fmt: skip
        self.settings = WorkerSettings(**(values | settings))
        self.log: list[tuple[str, str]] = []
        self.client = EngineClient()
        self.children: list[Child] = []
        self.supervisor = Supervisor(
            "tiny",
            self.start_child,
            self.client,
            hang_timeout_s=hang_timeout_s,
            load_timeout_s=load_timeout_s,
            log=lambda level, words: self.log.append((level, words)),
        )
        self._sent = 0

    def start_child(self) -> Child:
        """What the supervisor calls."""
        self.children.append(Child(self.settings, {}))
        return self.children[-1]

    def submit(self, content: str, **more: Any) -> Inbox:
        """Send a chat message; its id is on the inbox."""
        inbox = Inbox()
        self._sent += 1
        inbox.id = f"a{self._sent}"
        self.client.submit(Generate(inbox.id, chat(content), more.pop("sampling", GREEDY), **more), 0, inbox)
        return inbox

    def wait_state(self, state: str, timeout_s: float = 20.0) -> None:
        """Wait for the supervisor to get there."""
        wait_until(lambda: self.supervisor.status.state == state, timeout_s, f"state {state}")


@contextmanager
def running_engine(**settings: Any) -> Iterator[Engine]:
    """An engine that is ready; stopped at the end, with proof that nothing is left."""
    engine = Engine(**settings)
    engine.supervisor.start()
    try:
        engine.supervisor.wait_ready(20.0)
        yield engine
    finally:
        engine.supervisor.stop()
    assert engine.client.outstanding() == 0
    assert all(child.process.returncode is not None for child in engine.children)


def wait_until(condition: Any, timeout_s: float = 20.0, what: str = "it") -> None:
    """Poll for a condition."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"{what} did not come in {timeout_s} s"
        time.sleep(0.002)


def python(code: str, timeout_s: float = 60.0, **environment: str) -> str:
    """Run code in a fresh interpreter; its stdout. Raises with its stderr when it fails."""
    import os
    import subprocess

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
