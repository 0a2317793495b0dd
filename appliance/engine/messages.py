"""The wire between the web worker and an engine child: small dataclasses, encoded as JSON objects with a `kind`.

Both ends are always of the same release; VERSION guards against a child left over from another one. Every `Generate`
ends in exactly one entry of `Frame.ended` or `Frame.failed`, whatever happens to it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

VERSION = 1


@dataclass(slots=True)
class Generate:
    """Front to child: produce one sequence. `prompt` holds exactly one of messages, text, tokens.

    sampling: the fields of types.Sampling. max_tokens None: up to the end of the context. logprobs: how many
    alternatives for each token, None for none. echo: with logprobs, report those of the prompt's own tokens too.
    """

    id: str
    prompt: dict[str, Any]
    sampling: dict[str, Any]
    max_tokens: int | None = None
    stop: list[str] = field(default_factory=list)
    logprobs: int | None = None
    echo: bool = False


@dataclass(slots=True)
class Cancel:
    """Front to child: nobody wants this sequence any more. Answered by a `failed` entry with code `cancelled`."""

    id: str


@dataclass(slots=True)
class Ask:
    """Front to child: a question. tokenize, detokenize and template are answered between two steps; embed, rerank, classify
    and tokens by encoders only, see encoder.py. Each is answered once, one that was cancelled with code `cancelled`."""

    id: str
    what: str
    args: dict[str, Any]


@dataclass(slots=True)
class Stop:
    """Front to child: leave now; running sequences get `failed` with code `draining`."""


@dataclass(slots=True)
class Booting:
    """Child to front while it loads: what it does now and how far it is (0 to 1)."""

    phase: str
    progress: float = 0.0


@dataclass(slots=True)
class Ready:
    """Child to front, once: the model can be used. `info` holds the fields of types.ModelInfo."""

    info: dict[str, Any]
    version: int = VERSION


@dataclass(slots=True)
class Refused:
    """Child to front, last words: the model cannot be served; `error` is ApplianceError.to_wire()."""

    error: dict[str, Any]


@dataclass(slots=True)
class Answer:
    """Child to front: the result of an Ask, or its error (ApplianceError.to_wire())."""

    id: str
    result: Any = None
    error: dict[str, Any] | None = None


@dataclass(slots=True)
class Frame:
    """Child to front, after a step or two: everything they brought, and the heartbeat.

    deltas: [id, text, tokens, logprobs or null]; logprobs: [token, piece (latin-1), logprob, [[token, piece, logprob]..]].
    ended: [id, reason, prompt_tokens, completion_tokens, cached_tokens, stop text or null].
    failed: [id, ApplianceError.to_wire()].  started: ids whose prompt computation began in this step.
    load: gauges of the engine as named in loop.load().
    """

    step: int
    deltas: list[list[Any]] = field(default_factory=list)
    ended: list[list[Any]] = field(default_factory=list)
    failed: list[list[Any]] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    load: dict[str, Any] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Only a heartbeat."""
        return not (self.deltas or self.ended or self.failed or self.started)


Message = Generate | Cancel | Ask | Stop | Booting | Ready | Refused | Answer | Frame
_KINDS: dict[str, type] = {c.__name__: c for c in (Generate, Cancel, Ask, Stop, Booting, Ready, Refused, Answer, Frame)}
_FIELDS: dict[type, tuple[str, ...]] = {c: tuple(f.name for f in fields(c)) for c in _KINDS.values()}


def encode(message: Message) -> bytes:
    """One message as UTF-8 JSON, without the length prefix."""
    kind = type(message)
    data = {name: getattr(message, name) for name in _FIELDS[kind]}
    data["kind"] = kind.__name__
    return json.dumps(data, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def decode(data: bytes) -> Message:
    """The message in `data`. Raises ValueError for anything that is not one of ours."""
    try:
        values = json.loads(data)
        return _KINDS[values.pop("kind")](**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not an engine message: {error}") from None
