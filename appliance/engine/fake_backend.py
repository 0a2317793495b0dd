"""A scripted engine: deterministic, made of nothing but Python. Used by tests, by `doctor` and to show failures.

Its vocabulary is the 256 bytes plus one end token. It answers `echo: ` and the last line of the prompt. Words in the
prompt make things happen, so that every failure a real engine can have can be seen from outside:

    !crash   the process dies of a signal, as a bug in a kernel would make it
    !hang    the step never ends
    !die     the process is killed with SIGKILL, as by the kernel's out-of-memory killer
    !long    the answer has no end, so it runs to max_tokens
    !badutf  the answer begins with bytes that are no UTF-8
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np

from appliance.engine.backend import Piece
from appliance.errors import TemplateFailed
from appliance.types import ModelInfo

END = 256
VOCABULARY = 257


class FakeBackend:
    """See the module. step_s: time a step takes, to make concurrency visible."""

    def __init__(
        self,
        name: str = "fake",
        *,
        sequences: int = 4,
        context_tokens: int = 512,
        kv_tokens: int | None = None,
        step_s: float = 0.0,
    ) -> None:
        self.info = ModelInfo(
            name=name,
            path=name,
            description="scripted answers",
            parameters=VOCABULARY,
            vocabulary=VOCABULARY,
            context_tokens=context_tokens,
            trained_context_tokens=context_tokens,
            kv_tokens=kv_tokens or sequences * context_tokens,
            sequences=sequences,
            has_chat_template=True,
            backend="fake",
        )
        self.max_outputs = sequences + 16
        self.prefers_neighbours = self.info.kv_tokens >= sequences * context_tokens  # as with llama.cpp
        self.prompt_block = 1
        self._step_s = step_s
        self._memory: list[bytearray] = [bytearray() for _ in range(sequences)]
        self.computed_tokens = 0

    def decode(self, pieces: list[Piece]) -> list[np.ndarray]:
        """One-hot rows for the next byte of each script. Raises AssertionError when a piece does not continue its
        sequence: the fake checks its caller."""
        if self._step_s:
            time.sleep(self._step_s)
        held = sum(len(m) for m in self._memory) + sum(len(p.tokens) for p in pieces)
        assert held <= self.info.kv_tokens, f"{held} tokens held, room for {self.info.kv_tokens}"
        rows = []
        for piece in pieces:
            memory = self._memory[piece.seq]
            assert piece.tokens and piece.start == len(memory), f"sequence {piece.seq} holds {len(memory)}: {piece}"
            assert piece.start + len(piece.tokens) <= self.info.context_tokens, f"over the context: {piece}"
            for token in piece.tokens:
                memory.append(min(token, 255))
                if piece.outputs == "all":
                    rows.append(self._row(memory))
            self.computed_tokens += len(piece.tokens)
            if piece.outputs == "last":
                rows.append(self._row(memory))
        assert len(rows) <= self.max_outputs
        return rows

    def _row(self, memory: bytearray) -> np.ndarray:
        row = np.full(VOCABULARY, -20.0, dtype=np.float32)
        row[_next_byte(bytes(memory))] = 20.0
        return row

    def trim(self, seq: int, keep: int) -> int:
        """Forget all but the first `keep` tokens."""
        del self._memory[seq][keep:]
        return keep

    def save(self, seq: int) -> bytes:
        """The sequence's bytes."""
        return bytes(self._memory[seq])

    def load(self, seq: int, snapshot: Any) -> None:
        """Put bytes back."""
        assert not self._memory[seq]
        held = sum(len(m) for m in self._memory) + len(snapshot)
        assert held <= self.info.kv_tokens, f"{held} tokens held, room for {self.info.kv_tokens}"
        self._memory[seq] = bytearray(snapshot)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """UTF-8 bytes."""
        return list(text.encode("utf-8", "replace"))

    def piece(self, token: int) -> bytes:
        """The byte itself; nothing for the end token."""
        return b"" if token == END else bytes([token])

    def label(self, token: int) -> str:
        """The byte as Latin-1, or the end token's name."""
        return "<end>" if token == END else bytes([token]).decode("latin-1")

    def is_end(self, token: int) -> bool:
        """Whether this is the end token."""
        return token == END

    def render(self, messages: list[dict[str, Any]]) -> str:
        """One line a message, then `answer`. A message that says `!template` makes it fail."""
        if any("!template" in str(m.get("content")) for m in messages):
            raise TemplateFailed("The model's chat template refused these messages: told to.", param="messages")
        lines = [f"{m['role']}: {m['content']}".replace("\n", " ") for m in messages]
        return "\n".join([*lines, "answer\x02"])

    def close(self) -> None:
        """Nothing to free."""


def _next_byte(memory: bytes) -> int:
    """Where the script stands after these bytes: the prompt ends at the mark \\x02, or is the whole first line."""
    mark = memory.find(b"\x02")
    if mark >= 0:
        said = memory[:mark].rsplit(b"\n", 1)[0].rsplit(b"\n", 1)[-1].split(b": ", 1)[-1]
        done = len(memory) - mark - 1
    else:
        said, done = b"", 0
    _misbehave(said if mark >= 0 else memory)
    if mark < 0:
        return ord("a") + len(memory) % 26  # completions: an endless alphabet
    script = (b"\xff\xfe" if b"!badutf" in said else b"") + b"echo: " + said
    if b"!long" in said:
        script = script + b" la" * 100_000
    return script[done] if done < len(script) else END


def _misbehave(said: bytes) -> None:
    if b"!crash" in said:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"!die" in said:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"!hang" in said:
        time.sleep(3600)
