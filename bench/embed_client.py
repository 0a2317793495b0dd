"""Texts to embed, and the loads of `bench.embed` on our server: many texts, single ones, single ones beside streams."""

import asyncio
import base64
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import load, scenarios, servers

DATA = Path(__file__).resolve().parents[1] / "models" / "starter" / "data"
SEED = 20261122
SHORTEST, LONGEST = 3, 200  # words of a text
STREAMS, TICK_S = 4, 0.25
PROMPT_WORDS = 16

LENGTHS: dict[str, Callable[[random.Random], float]] = {
    "even": lambda draw: draw.uniform(SHORTEST, LONGEST),
    "log": lambda draw: math.exp(draw.uniform(math.log(SHORTEST), math.log(LONGEST))),
}


def mixed_texts(count: int, lengths: str, seed: int = SEED) -> list[str]:
    """`count` texts of SHORTEST to LONGEST words, in no order: questions and answers of the starter's data, one after the
    other up to a length that is drawn for each text. The same for the same seed."""
    draw = random.Random(seed)
    pieces = _pieces()
    texts = []
    for _ in range(count):
        size, found = round(LENGTHS[lengths](draw)), []
        while len(found) < size:
            found += draw.choice(pieces)
        texts.append(" ".join(found[:size]))
    return texts


def short_texts(count: int) -> list[str]:
    """`count` questions of 4 to 8 words."""
    return [" ".join(piece) for piece in random.Random(SEED).sample([p for p in _pieces() if 4 <= len(p) <= 8], count)]


def _pieces() -> list[list[str]]:
    """All questions and answers, each as its words."""
    found = []
    for path in sorted(DATA.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            intent = json.loads(line)
            found += [text.split() for text in (*intent["questions"], intent["answer"])]
    return found


@dataclass
class Run:
    """Texts that were embedded. took_s: of each request or batch. tokenizer_s: the tokenizer's part of seconds, where it
    is known. vectors: float32 [texts, width]. tokens: of all texts. computed: with padding, where it is known."""

    seconds: float
    took_s: list[float]
    vectors: np.ndarray
    tokens: int
    tokenizer_s: float = 0.0
    computed: int = 0

    @property
    def rate(self) -> float:
        """Sentences a second."""
        return len(self.vectors) / self.seconds

    def took_ms(self, share: float) -> float:
        """A percentile of the requests' times."""
        return scenarios.percentile(self.took_s, share) * 1e3


class Connection:
    """One kept-alive HTTP connection for embeddings."""

    def __init__(self, port: int, model: str) -> None:
        self._port, self._model = port, model

    async def __aenter__(self) -> "Connection":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._writer.close()

    def request(self, texts: list[str]) -> bytes:
        """The bytes to send for some texts."""
        # Both sides cut what is longer than the model takes.
        fields = {"model": self._model, "input": texts, "encoding_format": "base64", "truncate": True}
        body = json.dumps(fields).encode()
        head = ("POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n")
        return head.encode() + body

    async def embed(self, request: bytes, count: int) -> tuple[np.ndarray, int]:
        """(vectors [count, width], tokens). Raises RequestFailed."""
        async with asyncio.timeout(load.TIMEOUT_S):
            self._writer.write(request)
            status, *fields = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            named = dict(field.lower().split(": ", 1) for field in fields if field)
            body = await self._reader.readexactly(int(named["content-length"]))
        if " 200 " not in status:
            raise load.RequestFailed(f"{status} {body[:500].decode(errors='replace')}")
        answer = json.loads(body)
        rows = [base64.b64decode(row["embedding"]) for row in answer["data"]]
        if len(rows) != count:
            raise load.RequestFailed(f"sent {count} texts, got {len(rows)} vectors")
        return np.frombuffer(b"".join(rows), "<f4").reshape(count, -1), answer["usage"]["prompt_tokens"]


async def embed_all(
    port: int, model: str, texts: list[str], batch: int, in_flight: int = 1, pause_s: float = 0.0
) -> Run:
    """Embed texts, `batch` a request, `in_flight` requests at a time; decoding the vectors is part of the time."""
    parts = [texts[at : at + batch] for at in range(0, len(texts), batch)]
    requests = [Connection(port, model).request(part) for part in parts]
    answers: list[Any] = [None] * len(parts)
    took_s = [0.0] * len(parts)
    waiting = iter(range(len(parts)))

    async def client() -> None:
        async with Connection(port, model) as connection:
            for at in waiting:
                if pause_s:
                    await asyncio.sleep(pause_s)
                sent_s = time.perf_counter()
                answers[at] = await connection.embed(requests[at], len(parts[at]))
                took_s[at] = time.perf_counter() - sent_s

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(client())
    seconds = time.perf_counter() - began
    return Run(seconds, took_s, np.concatenate([vectors for vectors, _ in answers]), sum(tokens for _, tokens in answers))


async def embedder_is_there(port: int, model: str) -> None:
    """The embedder beside a model is loaded at the first question."""
    limit = time.monotonic() + servers.START_LIMIT_S
    while True:
        try:
            await embed_all(port, model, ["hello"], 1)
            return
        except* load.RequestFailed:
            if time.monotonic() > limit:
                raise
        await asyncio.sleep(0.2)


async def wave(port: int, model: str, tokens: int, seed: str, texts: list[str] | None) -> tuple[float, list[float], float]:
    """STREAMS answers of `tokens` tokens at once; with texts one is embedded every TICK_S while all of them decode.

    Returns the streams' tokens/s from first to last text (NaN when one came in one piece), the latencies in s, and how
    long all of them decoded.
    """
    bodies = [
        load.chat_body(servers.MODEL_NAME, load.words(PROMPT_WORDS, f"{seed} {n}"), tokens, scenarios.GREEDY) for n in range(STREAMS)
    ]
    streams = [await load.open_stream(port, body) for body in bodies]
    took_s: list[float] = []
    try:
        async with asyncio.timeout(load.TIMEOUT_S):
            for stream in streams:
                await stream.first_text.wait()
            began = time.perf_counter()
            if texts:
                took_s = await _probe(port, model, streams, texts)
            for stream in streams:
                await stream.finished
        for stream in streams:
            stream.read_usage(tokens)
    finally:
        for stream in streams:
            stream.transport.close()
    times = [stream.result.text_s for stream in streams]
    lasted = min(text_s[-1] for text_s in times) - began
    spans = [text_s[-1] - text_s[0] for text_s in times]
    return sum((tokens - 1) / span for span in spans) if all(spans) else math.nan, took_s, lasted


async def _probe(port: int, model: str, streams: list, texts: list[str]) -> list[float]:
    """Latencies of one text after the other, every TICK_S until a stream ends."""
    took_s = []
    async with Connection(port, model) as connection:
        due = time.perf_counter() + TICK_S / 2
        while True:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            # One that has to wait for its predecessor's answer has been waiting since it was due.
            began = due if took_s and took_s[-1] > TICK_S else time.perf_counter()
            await connection.embed(connection.request([texts[len(took_s) % len(texts)]]), 1)
            if any(stream.finished.done() for stream in streams):
                return took_s
            took_s.append(time.perf_counter() - began)
            due += TICK_S


async def beside(port: int, model: str, texts: list[str], tokens: int, least_s: float, seed: str) -> dict[tuple[str, str], float]:
    """Waves without and with texts beside them, in turns, until those with texts have lasted least_s. Returns values by
    (row of bench.embed, side)."""
    rates, took_s, lasted = ([], []), [], 0.0
    turn = 0
    while lasted < least_s:
        for loaded in (False, True) if turn % 2 == 0 else (True, False):
            rate, more_s, seconds = await wave(port, model, tokens, f"{seed} {turn} {loaded}", texts if loaded else None)
            if math.isnan(rate):
                raise load.RequestFailed("an answer came in one piece; raise --stream-tokens")
            rates[loaded].append(rate)
            took_s += more_s
            lasted += seconds if loaded else 0.0
        turn += 1
    if not took_s:
        raise load.RequestFailed("the answers ended before a text was embedded; raise --stream-tokens")
    without, with_texts = (statistics.median(found) for found in rates)
    ms = [1e3 * s for s in took_s]
    print(f"bench: {len(ms)} texts embedded beside {turn} waves of {STREAMS} streams", file=sys.stderr)
    return {
        ("beside p50", "ours"): scenarios.percentile(ms, 0.5), ("beside p95", "ours"): scenarios.percentile(ms, 0.95),
        ("streams", "ours"): with_texts, ("streams", "reference"): without,
    }  # fmt: skip
