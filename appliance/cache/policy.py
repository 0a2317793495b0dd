"""May this request be answered from memory, and may its answer be kept? Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from appliance.errors import ConfigError
from appliance.types import GenerationRequest

OWN, SHARED = "of:", "shared:"
"""What namespaces begin with, so that no principal can be named like a shared one."""
EVERYBODY = "everybody"
"""The namespace whose reviewed answers hold for all others too."""
MOST_QUESTION_CHARS = 1000
"""Longer ones are documents with a question somewhere in them: equal or not, but never alike."""


@dataclass(frozen=True, slots=True)
class Permission:
    """look: an answer may be looked up. store: the answer may be kept. similar: the answer to a question of the same meaning
    will do. why: nothing is looked up."""

    look: bool
    store: bool
    similar: bool
    why: str = ""


def permit(request: GenerationRequest, question: str, excluded: Collection[str] = ()) -> Permission:
    """What the cache may do for a request. excluded: principals and models that it does nothing for."""
    wish = request.cache
    for name in (request.principal, request.model):
        if name in excluded:
            return Permission(False, False, False, f"{name} is excluded (cache_exclude)")
    similar = wish.look and wish.similar and 0 < len(question) <= MOST_QUESTION_CHARS
    return Permission(wish.look, wish.store, similar, "" if wish.look else "the request asks for a new answer")


def namespace_of(request: GenerationRequest, shares: Mapping[str, str]) -> str:
    """Where the request's answers belong: its principal's own namespace, or the one that principal shares.

    The request's own word only divides that further: nobody reaches another's answers by naming them.
    """
    principal = request.principal
    base = SHARED + shares[principal] if principal in shares else OWN + principal
    return f"{base}/{request.cache.namespace}" if request.cache.namespace else base


def read_shares(rows: Sequence[str]) -> dict[str, str]:
    """`NAME:NAMESPACE` rows -> the namespace that each principal shares. Raises ConfigError."""
    shares: dict[str, str] = {}
    for row in rows:
        name, _, namespace = row.rpartition(":")
        if not name or not namespace or "/" in namespace:
            raise ConfigError(
                f"cache_share = {row!r} names no key and namespace.", param="cache_share", remedy="Write NAME:NAMESPACE, such as frontdesk:clinic."
            )
        if name in shares:
            raise ConfigError(f"cache_share names {name} twice.", param="cache_share")
        shares[name] = namespace
    return shares
