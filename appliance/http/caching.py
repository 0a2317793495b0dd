"""The cache in HTTP's words: Cache-Control and the body's `cache` object in, `x-cache` headers out.

The header is RFC 9111's for requests; the object has LiteLLM's names, so that programs made for its proxy are understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from appliance.errors import InvalidRequest
from appliance.http.json_body import flag, number, show, text, wrong
from appliance.types import CacheWish, Recalled

MOST_S = 10 * 365 * 86400.0
MOST_NAME_CHARS, MOST_TAGS = 100, 16
FIELDS = ("ttl", "s-maxage", "no-cache", "no-store", "namespace", "similar", "tags")


def read_wish(header: str | None, body: Mapping[str, Any]) -> CacheWish:
    """What a request wants. The header and the object add up. Raises InvalidRequest."""
    wish = _of_header(header or "")
    given = body.get("cache")
    if given is None or given is True:
        return wish
    if given is False:
        return replace(wish, look=False, store=False)
    if not isinstance(given, dict):
        raise wrong("cache", given, "true, false, or an object")
    for name in given:
        if name not in FIELDS:
            raise InvalidRequest(f"cache has a field {show(name)}; there are {', '.join(FIELDS)}.", param="cache")
    fields = {f"cache.{name}": value for name, value in given.items()}
    if flag(fields, "cache.no-cache"):
        wish = replace(wish, look=False)
    if flag(fields, "cache.no-store"):
        wish = replace(wish, store=False)
    if fields.get("cache.similar") is not None:
        wish = replace(wish, similar=flag(fields, "cache.similar"))
    if fields.get("cache.ttl") is not None:
        wish = replace(wish, ttl_s=float(number(fields["cache.ttl"], "cache.ttl", 0, MOST_S)))
    if fields.get("cache.s-maxage") is not None:
        wish = replace(wish, fresh_s=float(number(fields["cache.s-maxage"], "cache.s-maxage", 0, MOST_S)))
    if fields.get("cache.namespace") is not None:
        wish = replace(wish, namespace=_name(fields["cache.namespace"], "cache.namespace"))
    return replace(wish, tags=_tags(fields.get("cache.tags")))


def _name(value: Any, where: str) -> str:
    found = text(value, where)
    if not found or len(found) > MOST_NAME_CHARS or not found.isprintable():
        raise InvalidRequest(f"{where} must be 1 to {MOST_NAME_CHARS} printable characters.", param=where)
    return found


def _tags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MOST_TAGS:
        raise wrong("cache.tags", value, f"a list of at most {MOST_TAGS} names")
    return tuple(_name(item, f"cache.tags[{place}]") for place, item in enumerate(value))


def _of_header(header: str) -> CacheWish:
    """Directives that are not known are passed over, as RFC 9111 5.2.3 wants."""
    wish = CacheWish()
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        name = name.strip().lower()
        if name == "no-cache":
            wish = replace(wish, look=False)
        elif name == "no-store":
            wish = replace(wish, store=False)
        elif name == "only-if-cached":
            wish = replace(wish, only=True)
        elif name == "max-age":
            seconds = value.strip().strip('"')
            if not seconds.isascii() or not seconds.isdigit():
                raise InvalidRequest(f"Cache-Control: max-age is {show(seconds)}; it is a number of seconds.", param="Cache-Control")
            wish = replace(wish, fresh_s=min(float(seconds[:12]), MOST_S))
    return wish


def headers(recalled: Recalled) -> dict[str, str]:
    """How the answer came about. Names of people are percent-encoded UTF-8: a header holds ASCII only."""
    found = {"x-cache": recalled.outcome}
    if recalled.tier:
        found["x-cache-tier"] = recalled.tier
    if recalled.score is not None:
        found["x-cache-score"] = f"{recalled.score:.4f}"
    if recalled.age_s is not None:
        found["x-cache-age"] = str(int(recalled.age_s))
    if recalled.entry is not None:
        found["x-cache-entry"] = str(recalled.entry)
    if recalled.why:
        found["x-cache-reason"] = quote(recalled.why, safe=" ,;:()'")
    if recalled.reviewed_by:
        found["x-reviewed-by"] = quote(recalled.reviewed_by, safe=" ,;:()'@")
        found["x-reviewed-on"] = recalled.reviewed_on
    return found


def described(recalled: Recalled) -> dict[str, Any]:
    """The `cache` object of an answer from memory."""
    found = {"tier": recalled.tier, "score": recalled.score, "age_s": int(recalled.age_s or 0), "entry": recalled.entry}
    if recalled.reviewed_by:
        found |= {"reviewed_by": recalled.reviewed_by, "reviewed_on": recalled.reviewed_on}
    return found
