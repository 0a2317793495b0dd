"""`Idempotency-Key`: a program that lost an answer on its way asks again, and nothing is computed a second time.

The header is Stripe's, and an IETF draft (draft-ietf-httpapi-idempotency-key-header) has the statuses: 422 for a key that came with another
request before, 409 while the first request runs. OpenAI's clients repeat a request by themselves after 409 and not after 422, as it should be.
Kept is what was answered with 200, for 24 h, in memory: a restart forgets it, and so does a crowd of newer answers.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from flask import Response, g, request

from appliance.auth import ANONYMOUS
from appliance.clock import Clock, monotonic
from appliance.errors import IdempotencyKeyInUse, IdempotencyKeyReused, InvalidRequest
from appliance.http.json_body import read_bytes
from appliance.http.request_log import Story

HEADER, REPLAYED = "Idempotency-Key", "idempotency-replayed"
BLUEPRINTS = frozenset({"openai_chat", "openai_completions", "openai_embeddings", "rerank", "classify"})
KEPT_S = 24 * 3600.0
MOST_ANSWERS, MOST_BYTES, LARGEST_BYTES = 1000, 16 << 20, 4 << 20
LONGEST_KEY = 255
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What was sent with status 200. headers: without those that each response gets anew."""

    body: bytes
    headers: dict[str, str]


@dataclass(slots=True)
class _Entry:
    fingerprint: bytes
    began: float
    answer: Answer | None = None


class Claim:
    """The right to answer first under a key. Ends with `keep` or `drop`; the later call does nothing."""

    def __init__(self, replays: Replays, key: tuple[str, str], entry: _Entry) -> None:
        self._replays, self._key, self._entry = replays, key, entry

    def keep(self, answer: Answer) -> None:
        """That is the answer."""
        self._replays._finish(self._key, self._entry, answer)

    def drop(self) -> None:
        """There is none: the next request with this key is answered as if it were the first."""
        self._replays._finish(self._key, self._entry, None)


class Replays:
    """Answers by who asked and their key. Thread-safe; nothing here blocks."""

    def __init__(self, now: Clock = monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._bytes = 0

    def claim(self, who: str, key: str, fingerprint: bytes) -> Answer | Claim:
        """The first answer, or the right to give it. Raises IdempotencyKeyReused, IdempotencyKeyInUse."""
        with self._lock:
            self._forget(lambda entry: self._now() - entry.began > KEPT_S)
            entry = self._entries.get((who, key))
            if entry is None:
                entry = self._entries[who, key] = _Entry(fingerprint, self._now())
                return Claim(self, (who, key), entry)
            if entry.fingerprint != fingerprint:
                raise IdempotencyKeyReused(
                    f"{HEADER} {key!r} came with another request before.", param=HEADER, remedy="Send a new key with each new request."
                )
            if entry.answer is None:
                raise IdempotencyKeyInUse(
                    f"The first request with {HEADER} {key!r} is being answered.", param=HEADER, remedy="Send it again in a moment.", retry_after_s=RETRY_S
                )
            return entry.answer

    def _finish(self, key: tuple[str, str], entry: _Entry, answer: Answer | None) -> None:
        with self._lock:
            if self._entries.get(key) is not entry or entry.answer:
                return
            if answer is None or len(answer.body) > LARGEST_BYTES:
                del self._entries[key]
                return
            entry.answer = answer
            self._bytes += len(answer.body)
            self._forget(lambda _: self._bytes > MOST_BYTES or len(self._entries) > MOST_ANSWERS)

    def _forget(self, wanted: Callable[[_Entry], bool]) -> None:
        """From the oldest on, as long as `wanted` says so. What is being answered stays: there is no more of it than requests run."""
        for key, entry in list(self._entries.items()):
            if entry.answer:
                if not wanted(entry):
                    return
                self._bytes -= len(self._entries.pop(key).answer.body)


def begin(replays: Replays) -> Response | None:
    """The first answer to the request, if there was one. Else a view will answer; what it says is kept by `finish`. Raises InvalidRequest and
    what `Replays.claim` raises."""
    key = request.headers.get(HEADER)
    if key is None or request.blueprint not in BLUEPRINTS:
        return None
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        raise InvalidRequest(f"{HEADER} has {len(key)} characters; 1 to {LONGEST_KEY} printable ones are taken.", param=HEADER, remedy="A random UUID will do.")
    g.body = read_bytes(request)
    g.story.body_read = True
    who = g.principal.name
    if who == ANONYMOUS.name:  # they are many
        who = f"{who} {request.remote_addr}"
    found = replays.claim(who, key, hashlib.sha256(f"{request.blueprint}\0".encode() + g.body).digest())
    if isinstance(found, Answer):
        return Response(found.body, headers={**found.headers, REPLAYED: "true"})
    g.claim = found
    return None


def finish(response: Response) -> None:
    """Keep a good answer; a stream when it is complete. To be called before anything else is done to the response."""
    claim: Claim | None = g.get("claim")
    if claim is None:
        return
    headers = {name: value for name, value in response.headers.items() if name != "Content-Length"}
    if response.status_code != 200:
        claim.drop()
    elif response.is_streamed:
        response.response = _recorded(response.response, claim, headers, g.story)  # type: ignore[arg-type]
        response.call_on_close(claim.drop)
    else:
        claim.keep(Answer(response.get_data(), headers))


def _recorded(chunks: Iterator[bytes], claim: Claim, headers: dict[str, str], story: Story) -> Iterator[bytes]:
    kept = bytearray()
    with closing(chunks):  # type: ignore[type-var]
        for chunk in chunks:
            if len(kept) <= LARGEST_BYTES and not chunk.startswith(b":"):  # a sign of life says nothing later
                kept += chunk
            yield chunk
    if not story.error and not story.stream_open:
        claim.keep(Answer(bytes(kept), headers))
