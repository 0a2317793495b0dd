"""What is remembered about one HTTP request until it is over: then one log line and one count are made of it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from appliance.clock import Clock, monotonic
from appliance.logs import log
from appliance.metrics import Metrics
from appliance.types import Delta, Event, Finished, GenerationRequest, Recalled, Waiting
from appliance.usage import Amount, Usage

CLIENT_LEFT = 499
_SANE_ID = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def request_id(sent: str | None) -> str:
    """The client's own X-Request-Id when it is printable ASCII of at most 128 characters, else a new one."""
    return sent if sent and _SANE_ID.fullmatch(sent) else "req-" + secrets.token_hex(12)


class Tally:
    """Counts what an answer brings: time to the first token, finish reasons and usage."""

    def __init__(self, request: GenerationRequest, clock: Clock = monotonic) -> None:
        self.request = request
        self.finished: dict[int, Finished] = {}
        self._unfinished: dict[int, int] = {}  # tokens seen, by sequence
        self.first_token_s: float | None = None
        self._clock = clock
        self._began = clock()

    def saw(self, event: Event | Waiting) -> None:
        """Note one event."""
        if isinstance(event, Delta):
            if self.first_token_s is None:
                self.first_token_s = self._clock() - self._began
            self._unfinished[event.index] = self._unfinished.get(event.index, 0) + event.tokens
        elif isinstance(event, Finished):
            self.finished[event.index] = event
            self._unfinished.pop(event.index, None)

    def tokens(self) -> int:
        """All of `usage`, and what came of answers that were cut off."""
        return self.usage()["total_tokens"] + sum(self._unfinished.values())

    def usage(self) -> dict:
        """OpenAI's usage. A prompt counts once, however many choices it has; cached is what no choice computed."""
        prompts: dict[int, list[Finished]] = {}
        for index, event in self.finished.items():
            prompts.setdefault(index // self.request.choices, []).append(event)
        prompt = sum(max(e.usage.prompt_tokens for e in events) for events in prompts.values())
        cached = sum(min(e.usage.cached_tokens for e in events) for events in prompts.values())
        completion = sum(e.usage.completion_tokens for e in self.finished.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def fields(self) -> dict[str, object]:
        """What the log line says about the answer; numbers only, never text."""
        usage = self.usage()
        found: dict[str, object] = {"model": self.request.model}
        if self.first_token_s is not None:
            found["ttft_ms"] = round(self.first_token_s * 1000)
        if self.finished:
            found |= {
                "prompt_tokens": usage["prompt_tokens"],
                "completion_tokens": usage["completion_tokens"],
                "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
                "finish": ",".join(sorted({e.reason for e in self.finished.values()})),
            }
        return found


@dataclass(slots=True)
class Encoded:
    """Counts what an encoder is asked: texts, and their tokens once it has answered."""

    model: str
    texts: int
    read: int | None = None

    def tokens(self) -> int:
        """All that were read."""
        return self.read or 0

    def fields(self) -> dict[str, object]:
        """What the log line says; numbers only, never text."""
        found: dict[str, object] = {"model": self.model, "texts": self.texts}
        return found if self.read is None else found | {"prompt_tokens": self.read}


@dataclass(slots=True)
class Story:
    """One request. `stream_open` is true from the commitment to a stream until its last byte was made."""

    id: str
    method: str
    route: str
    clock: Clock = monotonic
    principal: str = "-"
    error: str | None = None
    body_read: bool = False
    quiet: bool = False
    stream_open: bool = False
    tally: Tally | Encoded | None = None
    recalled: Recalled | None = None
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def finish(self, status: int, metrics: Metrics, usage: Usage) -> None:
        """The last byte is out, or the client is gone: write the line and count the request."""
        if self.stream_open:  # closed before its end
            status, self.error = CLIENT_LEFT, self.error or "cancelled"
        method = self.method if self.method in _METHODS else "other"
        metrics.count("appliance_requests_total", route=self.route, method=method, status=str(status))
        values: dict[str, object] = {
            "id": self.id,
            "method": method,
            "route": self.route,
            "status": status,
            "duration_ms": round((self.clock() - self.began) * 1000),
            "principal": self.principal,
        }
        if self.tally:
            values |= self.tally.fields()
            usage.note(self.principal, str(values["model"]), self._amount(values, status))
        if self.recalled and self.recalled.outcome != "bypass":
            values["cache"] = self.recalled.tier or self.recalled.outcome
        if self.error:
            values["error"] = self.error
        level = (
            "error"
            if status == 500
            else "warning"
            if status > 500
            else "debug"
            if self.quiet and status < 400
            else "info"
        )
        log(level, "request", **values)

    def _amount(self, values: Mapping[str, Any], status: int) -> Amount:
        first_s = values.get("ttft_ms", 0) / 1000
        return Amount(
            1, int(status >= 400), int(self.recalled is not None and self.recalled.outcome == "hit"), values.get("prompt_tokens", 0),
            values.get("completion_tokens", 0), self.clock() - self.began, int("ttft_ms" in values), first_s,
        )  # fmt: skip
