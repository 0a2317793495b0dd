"""JSON bodies to `GenerationRequest`. A refusal names the field; null means the default; unknown fields are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.config import Config
from appliance.errors import InvalidRequest
from appliance.http.fields import INT32_MAX, read_sampling
from appliance.http.json_body import flag, integer, show, text, word, wrong
from appliance.http.unsupported import refuse_unsupported, unsupported
from appliance.types import CacheWish, ChatPrompt, GenerationRequest, Priority, Prompt, TextPrompt, TokenPrompt

MAX_STOPS = 16
MAX_STOP_CHARS = 1000
MAX_TOP_LOGPROBS = 20
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Roles taken, and what the template is told. `developer` is OpenAI's newer name; templates know only `system`."""

MOST_TOKENS = 1_048_576
"""The largest ctx_size there is."""
MOST_MESSAGES = 20_000


@dataclass(frozen=True, slots=True)
class Origin:
    """What a request brings besides its body: its own id, the served model, who asks, in which lane, and what it wants of the cache."""

    id: str
    model: str
    principal: str
    priority: Priority
    cache: CacheWish = CacheWish()


@dataclass(frozen=True, slots=True)
class Call:
    """A checked request and how its answer is to be sent."""

    request: GenerationRequest
    stream: bool
    include_usage: bool


def model_name(body: Mapping[str, Any]) -> str:
    """The `model` field; absent, null and empty mean the default model."""
    value = body.get("model")
    return "" if value is None else text(value, "model")


def priority(header: str | None) -> Priority:
    """The lane from the X-Priority header."""
    value = (header or "interactive").strip().lower()
    if value == "batch":
        return "batch"
    if value != "interactive":
        raise InvalidRequest(f"X-Priority is {show(value)}; it can be interactive or batch.", param="X-Priority")
    return "interactive"


def chat_call(body: Mapping[str, Any], origin: Origin, config: Config) -> Call:
    """A body of /v1/chat/completions."""
    wants = flag(body, "logprobs")
    top = body.get("top_logprobs")
    if top is not None:
        top = integer(top, "top_logprobs", 0, MAX_TOP_LOGPROBS)
        if not wants:
            raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    prompt = ChatPrompt(messages(body.get("messages")))
    return _call(body, origin, config, (prompt,), logprobs=(top or 0) if wants else None, least_tokens=1)


def completion_call(body: Mapping[str, Any], origin: Origin, config: Config) -> Call:
    """A body of /v1/completions."""
    logprobs = body.get("logprobs")
    if logprobs is not None:
        logprobs = integer(logprobs, "logprobs", 0, MAX_TOP_LOGPROBS)
    prompts = _prompts(body.get("prompt"), config.max_choices)
    call = _call(body, origin, config, prompts, logprobs=logprobs, echo=flag(body, "echo"), least_tokens=0)
    best_of = body.get("best_of")
    if best_of is not None and integer(best_of, "best_of", 1, INT32_MAX) not in (1, call.request.choices):
        raise unsupported("best_of", "A best_of that differs from n is")
    return call


def _call(
    body: Mapping[str, Any],
    origin: Origin,
    config: Config,
    prompts: tuple[Prompt, ...],
    *,
    logprobs: int | None,
    least_tokens: int,
    echo: bool = False,
) -> Call:
    refuse_unsupported(body)
    stream, include_usage = _stream(body)
    request = GenerationRequest(
        id=origin.id,
        model=origin.model,
        prompts=prompts,
        sampling=read_sampling(body),
        max_tokens=_max_tokens(body, least_tokens, config.max_tokens or None),
        stop=_stops(body.get("stop")),
        choices=_choices(body, len(prompts), config.max_choices),
        logprobs=logprobs,
        echo=echo,
        priority=origin.priority,
        principal=origin.principal,
        cache=origin.cache,
    )
    return Call(request, stream, include_usage)


def _stream(body: Mapping[str, Any]) -> tuple[bool, bool]:
    stream = flag(body, "stream")
    options = body.get("stream_options")
    if options is None:
        return stream, False
    if not isinstance(options, dict):
        raise wrong("stream_options", options, "an object")
    if not stream:
        raise InvalidRequest("stream_options needs stream to be true.", param="stream_options")
    value = options.get("include_usage")
    if value is not None and not isinstance(value, bool):
        raise wrong("stream_options.include_usage", value, "true or false")
    return stream, bool(value)


def _max_tokens(body: Mapping[str, Any], least: int, default: int | None) -> int | None:
    for name in ("max_completion_tokens", "max_tokens", "n_predict"):  # the last is llama.cpp's name
        value = body.get(name)
        if value == -1 and not isinstance(value, bool):
            return None  # llama.cpp's and LM Studio's word for no limit
        if value is not None:
            return integer(value, name, least, INT32_MAX)
    return default


def _choices(body: Mapping[str, Any], prompts: int, limit: int) -> int:
    value = body.get("n")
    choices = 1 if value is None else integer(value, "n", 1, INT32_MAX)
    if prompts * choices > limit:
        raise InvalidRequest(
            f"{prompts} prompt{'s' * (prompts > 1)} x n = {choices} makes {prompts * choices} answers; "
            f"the limit is {limit} (max_choices).",
            param="n" if choices > 1 else "prompt",
            remedy="Send several requests.",
        )
    return choices


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_STOPS:
        raise InvalidRequest(f"stop has {len(items)} entries; the limit is {MAX_STOPS}.", param="stop")
    for item in items:
        if not isinstance(item, str):
            raise wrong("stop", item, "a string or a list of strings")
        if not item:
            raise InvalidRequest("stop contains an empty string, which would stop every answer at once.", param="stop")
        if len(text(item, "stop")) > MAX_STOP_CHARS:
            raise InvalidRequest(
                f"stop has a string of {len(item)} characters; the limit is {MAX_STOP_CHARS}.", param="stop"
            )
    return tuple(items)


def messages(value: Any) -> tuple[dict[str, Any], ...]:
    """The messages of a conversation, each with role and content (text)."""
    if value is None:
        raise InvalidRequest("messages is missing.", param="messages", remedy="Send a list of {role, content}.")
    if not isinstance(value, list):
        raise wrong("messages", value, "a list")
    if not value:
        raise InvalidRequest("messages is empty: there is nothing to answer.", param="messages")
    if len(value) > MOST_MESSAGES:
        raise InvalidRequest(f"There are {len(value)} messages; the limit is {MOST_MESSAGES}.", param="messages")
    return tuple(_message(item, f"messages[{number}]") for number, item in enumerate(value))


def _message(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(where, value, "an object with role and content")
    role = value.get("role")
    if value.get("tool_calls") or role in ("tool", "function"):
        raise unsupported(where, "Messages of tools are")
    if not isinstance(role, str) or role not in ROLES:
        shown = show(role) if isinstance(role, str) else word(role)
        raise InvalidRequest(f"{where}.role is {shown}; it can be {', '.join(ROLES)}.", param=f"{where}.role")
    return {"role": ROLES[role], "content": _content(value.get("content"), f"{where}.content")}


def _content(value: Any, where: str) -> str:
    if isinstance(value, str):
        return text(value, where)
    if not isinstance(value, list):
        raise wrong(where, value, "a string or a list of text parts")
    if not value:
        raise InvalidRequest(f"{where} is an empty list.", param=where)
    parts = []
    for number, part in enumerate(value):
        at = f"{where}[{number}]"
        if not isinstance(part, dict):
            raise wrong(at, part, 'an object such as {"type": "text", "text": "..."}')
        if part.get("type") != "text":
            shown = show(part.get("type")) if isinstance(part.get("type"), str) else word(part.get("type"))
            raise InvalidRequest(f"{at} is of type {shown}; only text is supported.", param=at)
        parts.append(text(part.get("text"), f"{at}.text"))
    return "\n".join(parts)  # as llama-server and vLLM join them


def _prompts(value: Any, limit: int) -> tuple[Prompt, ...]:
    if value is None:
        raise InvalidRequest("prompt is missing.", param="prompt", remedy="Send a text, or token ids.")
    if isinstance(value, str):
        return (TextPrompt(text(value, "prompt")),)
    if not isinstance(value, list):
        raise wrong("prompt", value, "a string, a list of strings, or token ids")
    if not value:
        raise InvalidRequest("prompt is an empty list.", param="prompt")
    if isinstance(value[0], (str, list)) and len(value) > limit:  # before each of millions is looked at
        raise InvalidRequest(f"prompt is a list of {len(value)}; the limit is {limit} (max_choices).", param="prompt")
    if isinstance(value[0], str):
        return tuple(TextPrompt(text(item, f"prompt[{number}]")) for number, item in enumerate(value))
    if isinstance(value[0], list):
        return tuple(TokenPrompt(token_ids(item, f"prompt[{number}]")) for number, item in enumerate(value))
    return (TokenPrompt(token_ids(value, "prompt")),)


def token_ids(value: Any, name: str) -> tuple[int, ...]:
    """A list of token ids, not empty; whether the vocabulary has them is for the engine to say."""
    if not isinstance(value, list):
        raise wrong(name, value, "a list of token ids")
    if not value:
        raise InvalidRequest(f"{name} is an empty list.", param=name)
    if len(value) > MOST_TOKENS:
        raise InvalidRequest(f"{name} has {len(value)} token ids; no context holds more than {MOST_TOKENS}.", param=name)
    found = [int(item) if type(item) is float and item.is_integer() else item for item in value]
    for number, item in enumerate(found):
        if type(item) is not int or not 0 <= item <= INT32_MAX:
            raise wrong(f"{name}[{number}]", item, "a token id")
    return tuple(found)
