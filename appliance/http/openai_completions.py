"""POST /v1/completions: plain text or token ids in, their continuation out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from flask import Blueprint, Response

from appliance.clock import unix_seconds
from appliance.http import schemas
from appliance.http.answering import answer
from appliance.http.contract import Services
from appliance.http.incoming import origin, read_body
from appliance.http.logprobs import LogprobWriter
from appliance.http.request_log import Tally
from appliance.types import Delta, Finished, GenerationRequest, Prompt, TextPrompt, TokenLogprob, TokenPrompt


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = Blueprint("openai_completions", __name__)

    @routes.post("/v1/completions")
    @routes.post("/completions")
    def completions() -> Response:
        body = read_body()
        where = origin(services, body, "cmpl-")
        call = schemas.completion_call(body, where, services.config)
        del body  # up to 20 times the size of what was sent, and the answer may take minutes

        def words(tokens: Sequence[int]) -> str:
            return services.pipeline.ask(where.model, "detokenize", {"tokens": list(tokens)})["text"]

        return answer(services, call, CompletionShape(call.request, words, call.include_usage))

    return routes


class CompletionShape:
    """text_completion objects, whole and as chunks."""

    param = "prompt"

    def __init__(
        self, request: GenerationRequest, detokenize: Callable[[Sequence[int]], str], include_usage: bool = False
    ) -> None:
        """detokenize is only called to echo a prompt of token ids."""
        self._request = request
        self._detokenize = detokenize
        self._created = unix_seconds()
        self._tail = '],"usage":null}\n\n' if include_usage else "]}\n\n"
        self._before = f'data: {json.dumps(self._head(), separators=(",", ":"))[:-1]},"choices":['
        self._texts = [f'{self._before}{{"index":{i},"text":' for i in range(request.sequences)]
        self._after_text = ',"logprobs":null,"finish_reason":null}' + self._tail
        self._logprobs: dict[int, LogprobWriter] = {}

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._request.id,
            "object": "text_completion",
            "created": self._created,
            "model": self._request.model,
        }

    def _echoed(self, index: int) -> str:
        prompt: Prompt = self._request.prompts[index // self._request.choices]
        if not self._request.echo:
            return ""
        if isinstance(prompt, TextPrompt):
            return prompt.text
        return self._detokenize(prompt.tokens) if isinstance(prompt, TokenPrompt) else ""

    def _describe(self, index: int, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        if index not in self._logprobs:
            prompt = self._request.prompts[index // self._request.choices]
            echoed = prompt.text if self._request.echo and isinstance(prompt, TextPrompt) else ""
            self._logprobs[index] = LogprobWriter(echoed)
        return self._logprobs[index].write(entries)

    def opening(self, index: int) -> bytes:
        """The echoed prompt, where one is wanted."""
        text = self._echoed(index)
        return f"{self._texts[index]}{json.dumps(text)}{self._after_text}".encode() if text else b""

    def delta(self, event: Delta) -> bytes:
        """A chunk of text."""
        if event.logprobs:
            entries = json.dumps(self._describe(event.index, event.logprobs), separators=(",", ":"))
            after = f',"logprobs":{entries},"finish_reason":null}}{self._tail}'
            return f"{self._texts[event.index]}{json.dumps(event.text)}{after}".encode()
        if not event.text:
            return b""
        return f"{self._texts[event.index]}{json.dumps(event.text)}{self._after_text}".encode()

    def closing(self, event: Finished) -> bytes:
        """The chunk with the finish reason."""
        return f'{self._texts[event.index]}"","logprobs":null,"finish_reason":"{event.reason}"}}{self._tail}'.encode()

    def totals(self, usage: dict) -> bytes:
        """The usage chunk: no choices."""
        return f'{self._before}],"usage":{json.dumps(usage, separators=(",", ":"))}}}\n\n'.encode()

    def whole(self, texts: list[str], logprobs: list[list[TokenLogprob]], tally: Tally) -> dict[str, Any]:
        """The text_completion object; choices are numbered prompt by prompt."""
        choices = [
            {
                "index": index,
                "text": self._echoed(index) + text,
                "logprobs": self._describe(index, logprobs[index]) if self._request.logprobs is not None else None,
                "finish_reason": tally.finished[index].reason,
            }
            for index, text in enumerate(texts)
        ]
        return {**self._head(), "choices": choices, "usage": tally.usage()}
