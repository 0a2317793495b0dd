"""What to compute in the next step: pure, no engine, no tensors. Its only product is a `Plan`.

Every answer that is streaming gets its token first; what is left of the step goes to waiting prompts, oldest first, in
chunks. So a long prompt never freezes the streams: a step lasts about `stall_s` while anything streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_CHUNK_TOKENS = 16
FIRST_CHUNK_TOKENS = 64
"""Computed before anything is known about this machine's speed."""
ALONE_FACTOR = 5
"""A step without any stream may last this many times longer: larger chunks are computed faster."""


@dataclass(frozen=True, slots=True)
class Work:
    """A running sequence as the scheduler sees it. todo: prompt tokens not yet computed, 0 when it is generating.
    every_row: each of these tokens brings a row of logits, not only the last one."""

    id: str
    arrival: int
    todo: int
    held: int = 0
    every_row: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """decode: ids that get one token. chunks: (id, prompt tokens). preempt: ids that lose their space and wait again.
    evict_tokens: space to take from cached prefixes before computing."""

    decode: tuple[str, ...] = ()
    chunks: tuple[tuple[str, int], ...] = ()
    preempt: tuple[str, ...] = ()
    evict_tokens: int = 0

    @property
    def empty(self) -> bool:
        """Nothing to compute."""
        return not self.decode and not self.chunks


@dataclass(slots=True)
class Pace:
    """How fast this machine computes, learned from the steps done; it turns a time limit into a token budget."""

    stall_s: float
    batch_tokens: int
    decode_s: float = 0.0
    prompt_token_s: float = 0.0

    def budget(self, streaming: int) -> int:
        """Prompt tokens that fit the next step beside `streaming` answers."""
        if not self.prompt_token_s:
            return min(self.batch_tokens, FIRST_CHUNK_TOKENS)
        left = self.stall_s - self.decode_s if streaming else self.stall_s * ALONE_FACTOR
        return min(self.batch_tokens, max(MIN_CHUNK_TOKENS, int(left / self.prompt_token_s)))

    def learn(self, decoded: int, prompt_tokens: int, seconds: float) -> None:
        """Take in a step that computed `decoded` stream tokens and `prompt_tokens` prompt tokens."""
        if not prompt_tokens:
            self.decode_s = seconds if not self.decode_s else 0.8 * self.decode_s + 0.2 * seconds
        elif prompt_tokens >= MIN_CHUNK_TOKENS:
            spent = max(seconds - (self.decode_s if decoded else 0.0), seconds * 0.2) / prompt_tokens
            # Quick to believe in slower (a growing context), slow to believe in faster (one lucky step).
            weight = 0.7 if spent > self.prompt_token_s else 0.3
            self.prompt_token_s = spent if not self.prompt_token_s else (1 - weight) * self.prompt_token_s + weight * spent


def plan_step(
    work: Sequence[Work],
    *,
    free_tokens: int,
    cached_tokens: int,
    budget_tokens: int,
    max_rows: int = 1 << 30,
    prompt_block: int = 1,
) -> Plan:
    """Plan one step over the running sequences.

    free_tokens and cached_tokens: KV space that is empty, and that can be emptied. max_rows: most rows of logits the
    engine gives in one step, at least one for each sequence. prompt_block: a chunk that does not finish its prompt is a
    multiple of this, where it can be that long. A sequence that is alone and still does not fit gets no plan; the caller
    has checked its length before it was let in.
    """
    running = sorted(work, key=lambda w: w.arrival)
    space = free_tokens + cached_tokens
    preempt: list[str] = []
    while len(running) > 1 and _need(running) > space:
        victim = running.pop()
        preempt.append(victim.id)
        space += victim.held
    decode = [w.id for w in running if not w.todo][:space]
    space -= len(decode)
    chunks: list[tuple[str, int]] = []
    spare_rows = max_rows - len(running)  # one is set aside for each sequence
    for item in running:
        size = min(item.todo, budget_tokens, space, spare_rows + 1 if item.every_row else item.todo)
        if size > 0:
            size = _even(item.todo, size, 1 if item.every_row else prompt_block)
            chunks.append((item.id, size))
            budget_tokens -= size
            space -= size
            spare_rows -= size - 1 if item.every_row else 0
    needed = len(decode) + sum(size for _, size in chunks)
    return Plan(tuple(decode), tuple(chunks), tuple(preempt), max(0, needed - free_tokens))


def _even(todo: int, most: int, block: int) -> int:
    """How many of `todo` tokens to compute now, `most` at most: equal chunks, for a small rest would cost nearly a whole
    one; in whole blocks, but for the last chunk and where not even one fits."""
    if most < block or todo <= most:
        return -(-todo // -(-todo // most))
    most -= most % block
    size = -(-todo // -(-todo // most))
    return -(-size // block) * block  # no more than `most`, which is a multiple too


def _need(running: Sequence[Work]) -> int:
    """Least space this step must have: a token for each stream, and one for the oldest prompt so that it moves on."""
    prompts = any(w.todo for w in running)
    return sum(1 for w in running if not w.todo) + (1 if prompts else 0)
