"""A load client that costs little CPU: it shares two cores with the server it measures.

HTTP/1.1 and SSE are read by hand on one asyncio loop: each arriving piece of bytes is time-stamped, events
that carry text are counted by a byte pattern, and JSON is parsed once, for the usage at the end.
The work is the same for every server. Chunked-encoding sizes are not decoded: they are lines
of their own, and only whole `data:` lines are looked at.
"""

import asyncio
import json
import random
import re
import time
from dataclasses import dataclass, field

TIMEOUT_S = 900  # of one request; a hung server must end the run, loudly
# A delta with text in it; the role chunk's "content":"" or null does not match.
_TEXT = re.compile(rb'"content": ?"[^"]')
_USAGE = re.compile(rb'"usage": ?\{')
# Words that are one token (with their space) in the usual BPE vocabularies.
_WORDS = (
    "river stone cloud apple winter garden music window paper silver mountain yellow table letter summer "
    "bridge water forest engine market doctor family school island planet morning animal bottle camera "
    "castle circle coffee corner cotton county desert dinner dragon empire energy evening factor farmer "
    "father finger flower friend future guitar harbor health history hotel hunter jacket kitchen ladder "
    "leader lemon library machine master memory metal minute mirror mother museum nature needle number "
    "ocean office orange palace parent pencil people pepper person picture pocket police prince prison "
    "rabbit record report rocket sailor salmon season second secret shadow sister soldier spirit spring "
    "square station street student sugar supper teacher temple ticket tiger tomato travel turtle valley "
    "velvet village violin voice weather weekend wheel whisper wisdom wonder writer"
).split()


@dataclass
class Result:
    """One request's times (time.perf_counter seconds) and token counts from the server's usage."""

    sent_s: float
    text_s: list[float] = field(default_factory=list)  # arrival of each event with text
    done_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0

    @property
    def ttft_s(self) -> float:
        """Sending to first text."""
        return self.text_s[0] - self.sent_s

    @property
    def gaps_s(self) -> list[float]:
        """Between one text event and the next."""
        return [after - before for before, after in zip(self.text_s, self.text_s[1:], strict=False)]


class RequestFailed(Exception):
    """A request that did not end as asked; the run is worthless then and must stop."""


def words(count: int, seed: str) -> str:
    """`count` pseudo-random words, the same for the same seed."""
    return " ".join(random.Random(seed).choices(_WORDS, k=count))


def chat_body(model: str, prompt: str, max_tokens: int, sampling: dict) -> bytes:
    """The request's JSON; made before the clock runs."""
    return json.dumps({
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling,
    }).encode()


class _Stream(asyncio.Protocol):
    """Sends one request, then notes when text arrives; `finished` is set at [DONE], an error or EOF."""

    def __init__(self, request: bytes):
        self._request = request
        self._rest = b""
        self._status = b""
        self._usage = b""
        self._ended = False
        self.result = Result(0.0)
        self.finished = asyncio.get_running_loop().create_future()
        self.first_text = asyncio.Event()

    def connection_made(self, transport):
        """Starts the clock and sends."""
        self.transport = transport
        self.result.sent_s = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes):
        """Stamps and counts; keeps an unfinished last line for the next call."""
        now = time.perf_counter()
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if not self._status:
                self._status = line
            elif not line.startswith(b"data:"):
                continue
            elif _TEXT.search(line):
                self.result.text_s.append(now)
                self.first_text.set()
            elif b"[DONE]" in line:
                self._ended = True
                self.result.done_s = now
                self._finish()
            elif b'"error"' in line:
                self._fail(line)
            # A chunk may carry `"usage":null` (before) or the counts (last), never both.
            if _USAGE.search(line):
                self._usage = line
        if self._status and b" 200 " not in self._status and len(self._rest) > 0:
            self._fail(self._status + b" " + self._rest)

    def connection_lost(self, exc):
        """The server closed: fine after [DONE], else an error."""
        if not self._ended:
            self._fail(self._status + b" " + self._rest + b" (closed before [DONE])")

    def abandon(self) -> None:
        """Hangs up in the middle of the answer, on purpose."""
        self._ended = True
        self._finish()
        self.transport.close()

    def _finish(self):
        if not self.finished.done():
            self.finished.set_result(None)

    def _fail(self, what: bytes):
        self.first_text.set()
        if not self.finished.done():
            self.finished.set_exception(RequestFailed(what.decode(errors="replace").strip()[:500]))

    def read_usage(self, expected: int) -> None:
        """Fills the token counts; raises when the answer is not `expected` tokens long."""
        if not self._usage:
            raise RequestFailed("no usage chunk although stream_options.include_usage was sent")
        usage = json.loads(self._usage.split(b":", 1)[1])["usage"]
        self.result.prompt_tokens = usage["prompt_tokens"]
        self.result.output_tokens = usage["completion_tokens"]
        if self.result.output_tokens != expected:
            raise RequestFailed(f"asked for {expected} tokens, got {self.result.output_tokens}")
        if not self.result.text_s:
            raise RequestFailed("tokens were counted but no text arrived")


async def open_stream(port: int, body: bytes) -> _Stream:
    """Connects and sends; returns with the answer under way."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: _Stream(head.encode() + body), "127.0.0.1", port)
    return stream


async def request(port: int, body: bytes, expected: int) -> Result:
    """One complete request; raises RequestFailed unless it brings exactly `expected` tokens."""
    stream = await open_stream(port, body)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await stream.finished
        stream.read_usage(expected)
        return stream.result
    finally:
        stream.transport.close()


async def closed_loop(port: int, bodies: list[list[bytes]], expected: int) -> list[Result]:
    """One client per inner list, each sending its bodies one after another; all start together."""
    async def client(mine: list[bytes]) -> list[Result]:
        return [await request(port, body, expected) for body in mine]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client(mine)) for mine in bodies]
    return [result for task in tasks for result in task.result()]
