"""POST /v1/chat/completions."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response

from appliance.clock import unix_seconds
from appliance.http import schemas
from appliance.http.answering import answer
from appliance.http.contract import Services
from appliance.http.incoming import origin, read_body
from appliance.http.logprobs import chat_logprobs
from appliance.http.request_log import Tally
from appliance.types import Delta, Finished, GenerationRequest, TokenLogprob


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = Blueprint("openai_chat", __name__)

    @routes.post("/v1/chat/completions")
    @routes.post("/chat/completions")
    def chat_completions() -> Response:
        body = read_body()
        where = origin(services, body, "chatcmpl-")
        call = schemas.chat_call(body, where, services.config)
        del body  # up to 20 times the size of what was sent, and the answer may take minutes
        return answer(services, call, ChatShape(call.request, call.include_usage))

    return routes


class ChatShape:
    """chat.completion and chat.completion.chunk objects."""

    param = "messages"

    def __init__(self, request: GenerationRequest, include_usage: bool = False) -> None:
        self._request = request
        self._created = unix_seconds()
        tail = ',"usage":null}\n\n' if include_usage else "}\n\n"
        head = self._head("chat.completion.chunk")
        head = f'data: {json.dumps(head, separators=(",", ":"))[:-1]},"choices":[{{"index":'
        self._openings = [f"{head}{i}," for i in range(request.sequences)]
        self._tail = "}]" + tail
        self._no_choices = head.removesuffix('{"index":')
        self._deltas = [f'{o}"delta":{{"content":' for o in self._openings]
        self._after_text = '},"logprobs":null,"finish_reason":null' + self._tail

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._request.id, "object": kind, "created": self._created, "model": self._request.model}

    def opening(self, index: int) -> bytes:
        """The chunk with the role."""
        role = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
        return f"{self._openings[index]}{role}{self._tail}".encode()

    def delta(self, event: Delta) -> bytes:
        """A chunk of text."""
        if event.logprobs:
            entries = json.dumps(chat_logprobs(event.logprobs), separators=(",", ":"))
            after = f'}},"logprobs":{entries},"finish_reason":null{self._tail}'
            return f"{self._deltas[event.index]}{json.dumps(event.text)}{after}".encode()
        if not event.text:
            return b""
        return f"{self._deltas[event.index]}{json.dumps(event.text)}{self._after_text}".encode()

    def closing(self, event: Finished) -> bytes:
        """The chunk with the finish reason."""
        last = f'"delta":{{}},"logprobs":null,"finish_reason":"{event.reason}"'
        return f"{self._openings[event.index]}{last}{self._tail}".encode()

    def totals(self, usage: dict) -> bytes:
        """The usage chunk: no choices."""
        return f'{self._no_choices}],"usage":{json.dumps(usage, separators=(",", ":"))}}}\n\n'.encode()

    def whole(self, texts: list[str], logprobs: list[list[TokenLogprob]], tally: Tally) -> dict[str, Any]:
        """The chat.completion object."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": content, "refusal": None},
                "logprobs": chat_logprobs(logprobs[index]) if self._request.logprobs is not None else None,
                "finish_reason": tally.finished[index].reason,
            }
            for index, content in enumerate(texts)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": tally.usage()}
