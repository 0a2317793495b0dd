"""Who owns which sequence and how much KV space: pure bookkeeping, no engine.

A slot is one sequence of the engine. It is `active` (a request uses it), `cached` (its tokens are kept because a later
request may begin with them) or `free`. Space is counted in tokens: free + used + cached = total, always. What is
displaced from a slot can live on in the `PrefixStore`, as a snapshot in ordinary memory.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

MIN_REUSE_TOKENS = 4
"""A shorter common beginning is not worth a copy."""


def common_prefix(a: array, b: array) -> int:
    """How many leading tokens two arrays share. Compares memory in halving steps, so it is quick for long prompts."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def token_array(tokens: Sequence[int] = ()) -> array:
    """Tokens in the compact form that `common_prefix` compares."""
    return array("i", tokens)


@dataclass(slots=True)
class Slot:
    """One sequence. tokens: what its memory holds. owner: the request that uses it, None when free or cached."""

    seq: int
    tokens: array = field(default_factory=token_array)
    owner: str | None = None
    last_used: int = 0

    @property
    def state(self) -> Literal["free", "cached", "active"]:
        """Derived, so that it cannot disagree with the rest."""
        if self.owner is not None:
            return "active"
        return "cached" if self.tokens else "free"


@dataclass(slots=True)
class Stored:
    """A displaced sequence: its tokens and the engine's snapshot of them."""

    tokens: array
    snapshot: Any
    size_bytes: int


class PrefixStore:
    """Snapshots by recency within a limit in bytes. A snapshot whose tokens another one begins with is dropped."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._entries: OrderedDict[int, Stored] = OrderedDict()
        self._next_key = 0

    def __len__(self) -> int:
        return len(self._entries)

    def covers(self, tokens: array) -> bool:
        """Whether some snapshot already begins with all of these tokens."""
        return any(common_prefix(entry.tokens, tokens) == len(tokens) for entry in self._entries.values())

    def best(self, tokens: array) -> tuple[int, Stored | None]:
        """The longest common beginning with any snapshot, and that snapshot, which counts as used now."""
        length, key = 0, None
        for candidate, entry in self._entries.items():
            shared = common_prefix(entry.tokens, tokens)
            if shared > length:
                length, key = shared, candidate
        if key is None:
            return 0, None
        self._entries.move_to_end(key)
        return length, self._entries[key]

    def put(self, tokens: array, snapshot: Any, size_bytes: int) -> None:
        """Keep a snapshot; the least recently used ones make room. One that is too large alone is not kept."""
        if size_bytes > self.limit_bytes:
            return
        for key in [k for k, e in self._entries.items() if common_prefix(e.tokens, tokens) == len(e.tokens)]:
            self._drop(key)
        self._entries[self._next_key] = Stored(array("i", tokens), snapshot, size_bytes)
        self._next_key += 1
        self.used_bytes += size_bytes
        while self.used_bytes > self.limit_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: int) -> None:
        self.used_bytes -= self._entries.pop(key).size_bytes

    def check_integrity(self) -> None:
        """Raises AssertionError when the byte count is off or over the limit."""
        assert self.used_bytes == sum(e.size_bytes for e in self._entries.values()) <= self.limit_bytes


class Slots:
    """All slots of an engine. `total_tokens` may be less than slots x `context_tokens`: space is then overbooked."""

    def __init__(self, count: int, context_tokens: int, total_tokens: int) -> None:
        self.context_tokens = context_tokens
        self.total_tokens = total_tokens
        self.all = [Slot(seq) for seq in range(count)]
        self._clock = 0

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.all)

    @property
    def used_tokens(self) -> int:
        """Space of active slots."""
        return sum(len(s.tokens) for s in self.all if s.owner is not None)

    @property
    def cached_tokens(self) -> int:
        """Space of cached slots, which can be taken at any time."""
        return sum(len(s.tokens) for s in self.all if s.owner is None)

    @property
    def free_tokens(self) -> int:
        """Space nobody uses."""
        return self.total_tokens - self.used_tokens - self.cached_tokens

    def active(self) -> list[Slot]:
        """Slots in use, in the order of their numbers."""
        return [s for s in self.all if s.owner is not None]

    def best_match(self, tokens: array) -> tuple[int, Slot | None]:
        """The longest common beginning with what any slot holds; cached slots win a tie (they cost no copy)."""
        length, found = 0, None
        for slot in self.all:
            if not slot.tokens:
                continue
            shared = common_prefix(slot.tokens, tokens)
            if shared > length or (shared == length and found is not None and found.owner is not None and slot.owner is None):
                length, found = shared, slot
        return length, found

    def choose_empty(self, near_active: bool) -> Slot | None:
        """A slot for a new request: a free one, else the cached one unused for longest; None when all are active.

        near_active: prefer the lowest number that touches an active slot, for engines that compute neighbours together.
        """
        idle = [s for s in self.all if s.owner is None]
        if not idle:
            return None
        active = {s.seq for s in self.active()}

        def rank(slot: Slot) -> tuple:
            touches = not active or slot.seq - 1 in active or slot.seq + 1 in active
            return (near_active and not touches, bool(slot.tokens), slot.last_used, slot.seq)

        return min(idle, key=rank)

    def take(self, slot: Slot, owner: str) -> None:
        """Give an idle slot to a request."""
        assert slot.owner is None
        self._clock += 1
        slot.owner, slot.last_used = owner, self._clock

    def release(self, slot: Slot, keep: bool) -> None:
        """End of a request: its tokens stay as cached ones, or go."""
        self._clock += 1
        slot.owner, slot.last_used = None, self._clock
        if not keep:
            del slot.tokens[:]

    def oldest_cached(self, besides: Slot | None = None) -> Slot | None:
        """The cached slot that was not used for longest, for eviction."""
        return min((s for s in self.all if s.state == "cached" and s is not besides), key=lambda s: s.last_used, default=None)

    def check_integrity(self) -> None:
        """free + used + cached = total, nothing negative, no slot over its context, no owner twice."""
        assert self.free_tokens >= 0, f"KV space overdrawn: {self.free_tokens}"
        assert self.free_tokens + self.used_tokens + self.cached_tokens == self.total_tokens
        assert all(len(s.tokens) <= self.context_tokens for s in self.all)
        owners = [s.owner for s in self.all if s.owner is not None]
        assert len(owners) == len(set(owners)), f"one request owns two slots: {owners}"
