"""From a checked request to a response: follow the pipeline's events, watch the client, write them out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Any, Protocol

from flask import Response, g

from appliance.clock import Clock, monotonic
from appliance.errors import ApplianceError, Cancelled
from appliance.http import caching, sse
from appliance.http.contract import Services
from appliance.http.keys import Watch
from appliance.http.request_log import Story, Tally
from appliance.http.schemas import Call
from appliance.logs import log
from appliance.types import Delta, Event, Recalled, TokenLogprob, Waiting

CHECK_S = 0.25
"""While tokens come without a pause, the client is looked after this often."""
COMMIT_S = 1.0
"""A stream waits this long for its first event: until then an error can still be a proper HTTP status."""


class Shape(sse.Shape, Protocol):
    """An endpoint's way to write answers, whole and streamed."""

    param: str
    """The field a prompt comes in, for errors that the engine finds."""

    def whole(self, texts: list[str], logprobs: list[list[TokenLogprob]], tally: Tally) -> dict[str, Any]:
        """The body of an answer that is not streamed."""


def reply(value: Any, status: int = 200) -> Response:
    """A JSON response; ASCII only, so whatever the text holds can be sent."""
    return Response(json.dumps(value, separators=(",", ":")), status, mimetype="application/json")


def answer(services: Services, call: Call, shape: Shape) -> Response:
    """Generate and respond. Raises what the pipeline raises before the first byte."""
    story: Story = g.story
    story.tally = tally = Tally(call.request)
    if services.config.log_prompts:
        log("info", "prompt", id=story.id, prompts=[asdict(prompt) for prompt in call.request.prompts])
    events = follow(services.pipeline.answer(call.request), Watch(), tally, shape.param)
    recalled = next(events)
    assert isinstance(recalled, Recalled)
    story.recalled = recalled
    headers = caching.headers(recalled)
    if not call.stream:
        found = _collect(events, call, shape, tally)
        if recalled.outcome == "hit":
            found["cache"] = caching.described(recalled)
        response = reply(found)
        response.headers.update(headers)
        return response
    status = services.pipeline.engine(call.request.model).supervisor.status
    first = _first(events, lambda: status.state == "loading")
    story.stream_open = True
    written = sse.body(first, events, shape, story, tally, include_usage=call.include_usage)
    response = Response(written, mimetype=sse.MIMETYPE, headers=sse.HEADERS | headers)
    response.call_on_close(events.close)  # also when the server never began to iterate
    return response


def follow(
    events: Iterator[Event | Waiting], watch: Watch, tally: Tally, param: str, clock: Clock = monotonic
) -> Iterator[Event | Waiting]:
    """Pass events on until the client leaves (then raise Cancelled) or its key ends them (KeyRevoked). The pipeline's iterator is closed in any case."""
    looked = clock()
    try:
        with closing(events):  # type: ignore[type-var]
            for event in events:
                now = clock()
                if isinstance(event, Waiting) or now - looked >= CHECK_S:
                    looked = now
                    if watch.gone():
                        raise Cancelled("The client left.")
                tally.saw(event)
                yield event
    except ApplianceError as error:
        if error.param in ("prompt", "messages"):
            error.param = param  # the engine does not know which endpoint the prompt came through
        raise


def _first(events: Iterator[Event | Waiting], loading: Any, clock: Clock = monotonic) -> Event | Waiting:
    """The first event worth a stream, or a Waiting when none came in time. While the model loads, the answer may
    still be a 503, so the wait is the pipeline's."""
    until = clock() + COMMIT_S
    for event in events:
        if not isinstance(event, Waiting) or (clock() >= until and not loading()):
            return event
    raise RuntimeError("the pipeline ended without an event")


def _collect(events: Iterator[Event | Waiting], call: Call, shape: Shape, tally: Tally) -> dict[str, Any]:
    count = call.request.sequences
    texts: list[list[str]] = [[] for _ in range(count)]
    logprobs: list[list[TokenLogprob]] = [[] for _ in range(count)]
    for event in events:
        if isinstance(event, Delta):
            texts[event.index].append(event.text)
            logprobs[event.index].extend(event.logprobs)
    return shape.whole(["".join(parts) for parts in texts], logprobs, tally)
