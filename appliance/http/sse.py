"""Writing an answer as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html.

Per token this costs one json.dumps of the text and one write; everything around the text is made once per stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Protocol

from appliance.clock import Clock, monotonic
from appliance.errors import Cancelled
from appliance.http import errors
from appliance.http.request_log import Story, Tally
from appliance.types import Delta, Event, Finished, Waiting

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
MIMETYPE = "text/event-stream"
KEEP_ALIVE_S = 1.0
DONE = b"data: [DONE]\n\n"


class Shape(Protocol):
    """How one family of endpoints writes its chunks. Each method returns whole events, or nothing."""

    def opening(self, index: int) -> bytes:
        """Before the first delta of a choice."""

    def delta(self, event: Delta) -> bytes:
        """More text."""

    def closing(self, event: Finished) -> bytes:
        """The choice is complete."""

    def totals(self, usage: dict) -> bytes:
        """The usage chunk."""


def data(value: dict) -> bytes:
    """One event."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def keep_alive(event: Event | Waiting) -> bytes:
    """A comment, which clients of the API pass over; a page shows it."""
    if isinstance(event, Waiting) and event.ahead is not None:
        return f": in line, {event.ahead} before this one, about {max(1, round(event.wait_s))} s\n\n".encode()
    return b": keep-alive\n\n"


def body(
    first: Event | Waiting,
    rest: Iterator[Event | Waiting],
    shape: Shape,
    story: Story,
    tally: Tally,
    *,
    include_usage: bool,
    clock: Clock = monotonic,
) -> Iterator[bytes]:
    """The bytes of a stream. An error ends it with an error event and without [DONE]; a client that left, silently."""
    opened: set[int] = set()
    written = clock() if not isinstance(first, Waiting) else float("-inf")  # a late stream says at once that it lives
    try:
        for event in chain((first,), rest):
            chunk = b""
            if isinstance(event, (Delta, Finished)):
                if event.index not in opened:
                    opened.add(event.index)
                    chunk = shape.opening(event.index)
                chunk += shape.delta(event) if isinstance(event, Delta) else shape.closing(event)
            now = clock()
            if not chunk:
                if now - written < KEEP_ALIVE_S:
                    continue
                chunk = keep_alive(event)
            written = now
            yield chunk
        story.stream_open = False
        yield shape.totals(tally.usage()) + DONE if include_usage else DONE
    except Cancelled:
        return
    except Exception as exception:
        error = errors.told(exception, story)
        story.error = error.code
        story.stream_open = False
        yield data(error.body())
