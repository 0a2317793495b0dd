"""A request body as a JSON object, and values out of it: strict, and precise about what is wrong and where."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import IO, Any

from flask import Request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from appliance.errors import InvalidRequest, UnsupportedMediaType

_JSON_LIKE = frozenset({"", "application/json", "text/json", "text/plain", "application/x-www-form-urlencoded"})
_BLOCK_BYTES = 64 * 1024


def read_bytes(request: Request) -> bytes:
    """The whole body. Raises InvalidRequest or UnsupportedMediaType; werkzeug raises 413 by itself."""
    if request.mimetype.startswith("multipart/"):
        raise _not_json(request.mimetype)
    packed = request.headers.get("Content-Encoding", "identity").strip().lower()
    if packed not in ("", "identity"):
        raise UnsupportedMediaType(
            f"The body is packed ({packed[:50]}), which is not supported.", remedy="Send plain JSON."
        )
    try:
        if request.content_length is None and request.environ.get("wsgi.input_terminated"):
            return _read_unannounced(request.environ["wsgi.input"], request.max_content_length)
        return request.get_data(cache=False)
    except HTTPException:
        raise
    except Exception as error:  # what the server's own reader raises for a broken chunk or a lost connection
        raise InvalidRequest(f"The request body could not be read: {error}.") from None


def _read_unannounced(stream: IO[bytes], limit: int | None) -> bytes:
    """A chunked body, whose size is only known at its end. werkzeug would cut it at the limit without a word."""
    body = bytearray()
    while block := stream.read(_BLOCK_BYTES):
        body += block
        if limit is not None and len(body) > limit:
            raise RequestEntityTooLarge
    return bytes(body)


def parse_body(raw: bytes, mimetype: str) -> dict[str, Any]:
    """The body as a dict. Raises InvalidRequest or UnsupportedMediaType.

    Any Content-Type will do as long as the body is JSON: `curl -d` sends a form's type, and people paste such lines.
    """
    try:
        return parse_object(raw)
    except InvalidRequest:
        if mimetype in _JSON_LIKE or mimetype.endswith("+json"):
            raise
        raise _not_json(mimetype) from None


def _not_json(mimetype: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"The body is {mimetype[:100]}, not JSON.", remedy="Send Content-Type: application/json."
    )


def parse_object(raw: bytes) -> dict[str, Any]:
    """JSON bytes to a dict. Raises InvalidRequest that says where it went wrong."""
    try:
        text = raw.decode("utf-8-sig")  # a byte order mark, as PowerShell writes it, is harmless
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8: byte {error.start} is {raw[error.start]:#04x}.") from None
    if not text.strip():
        raise InvalidRequest("The body is empty.", remedy="Send a JSON object.")
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error.msg}, line {error.lineno} column {error.colno}.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except ValueError as error:  # a number with thousands of digits
        raise InvalidRequest(f"The body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be a JSON object, not {word(value)}.")
    return value


def _no_constant(name: str) -> None:
    raise InvalidRequest(f"The body is not JSON: {name} is no number.")


def word(value: Any) -> str:
    """The JSON type of a value, in words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "something else")


def show(value: Any) -> str:
    """A value for a message: short."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def wrong(name: str, value: Any, wanted: str) -> InvalidRequest:
    """The error for a value of the wrong type or form."""
    got = f"{word(value)} ({show(value)})" if isinstance(value, (bool, int, float, str)) else word(value)
    return InvalidRequest(f"{name} must be {wanted}, not {got}.", param=name)


def text(value: Any, name: str) -> str:
    """A string that can be tokenized and sent on. Raises InvalidRequest for NUL and lone surrogates too."""
    if not isinstance(value, str):
        raise wrong(name, value, "a string")
    if "\0" in value:
        raise InvalidRequest(f"{name} contains a NUL character, at position {value.index(chr(0))}.", param=name)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{name} contains half a character (a lone surrogate), at position {error.start}.", param=name
        ) from None
    return value


def number(value: Any, name: str, low: float, high: float) -> float:
    """A finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(name, value, "a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{name} is too large to be a number here.", param=name)
    _in_range(value, name, low, high)
    return float(value)


def integer(value: Any, name: str, low: int, high: int) -> int:
    """A whole number in [low, high]; 16.0 is one, as some languages have only one kind of number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(name, value, "a whole number")
    _in_range(value, name, low, high)
    return value


def _in_range(value: float, name: str, low: float, high: float) -> None:
    if value < low:
        raise InvalidRequest(f"{name} = {show(value)} is below the smallest allowed, {low:g}.", param=name)
    if value > high:
        raise InvalidRequest(f"{name} = {show(value)} is above the largest allowed, {high:g}.", param=name)


def flag(body: Mapping[str, Any], name: str) -> bool:
    """An optional boolean; absent and null are false."""
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong(name, value, "true or false")
    return value
