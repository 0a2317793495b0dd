"""What two requests must share before one may be given the other's answer. Pure.

Two digests: `partition` is everything but the question, which must be equal in any case; `exact` is the whole. What is not
named here cannot differ: a field that changes an answer's meaning belongs into `_frame`, and VERSION is raised with it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from appliance.types import ChatPrompt, GenerationRequest, TextPrompt

VERSION = 1
"""Raised when the same request gets another digest: what was remembered before is then never found again, and expires."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A request as the cache sees it. question: what is compared by meaning, '' where the whole must be equal."""

    namespace: str
    model: str
    partition: bytes
    exact: bytes
    question: str


def identify(request: GenerationRequest, *, namespace: str, model: str, epoch: str = "") -> Identity | None:
    """The identity of a request, None for one that has none: several answers, log probabilities, token ids as a prompt.

    model: digest of the weights, quantization and template. epoch: of the knowledge behind the answers; an administrator
    changes it when that has changed.
    """
    if request.sequences != 1 or request.logprobs is not None or request.echo:
        return None
    prompt = request.prompts[0]
    before: list[Any] = []
    if isinstance(prompt, TextPrompt):
        kind, question = "text", prompt.text
    elif isinstance(prompt, ChatPrompt):
        *before, last = prompt.messages
        kind, question = "chat", last["content"]
        if last["role"] != "user":  # an answer that is to be gone on with: its words are no question
            before, question = [*before, last], ""
    else:
        return None
    frame = [VERSION, namespace, model, epoch, kind, before, asdict(request.sampling), list(request.stop)]
    partition = _digest(frame)
    return Identity(namespace, model, partition, _digest([partition.hex(), question]), question.strip())


def fits(request: GenerationRequest, completion_tokens: int) -> bool:
    """Whether the request's max_tokens, which is no part of its identity, allows a whole answer of that length."""
    return request.max_tokens is None or completion_tokens <= request.max_tokens


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).digest()
