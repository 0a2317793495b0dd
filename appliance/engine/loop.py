"""The engine's loop: receive, admit, plan, compute, draw, send. One thread; `step` does one round.

What is computed is decided by `scheduler.plan_step`, who holds KV space by `slots.Slots`; this file moves the tokens.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol, get_args

from appliance.clock import Clock
from appliance.engine.backend import Backend, Piece
from appliance.engine.messages import Answer, Ask, Cancel, Frame, Generate, Message, Stop
from appliance.engine.scheduler import Pace, Plan, plan_step
from appliance.engine.sequence import Sequence
from appliance.engine.slots import MIN_REUSE_TOKENS, PrefixStore, Slot, Slots, common_prefix, token_array
from appliance.errors import ApplianceError, Cancelled, ContextLengthExceeded, Draining, InvalidRequest
from appliance.types import Task

WORTH_SAVING_TOKENS = 32
"""A displaced sequence shorter than this is computed again rather than kept as a snapshot."""
LOAD_REPORT_S = 0.2
TELL_S = 0.025
"""Least time between two frames of a streaming answer. Faster than anybody reads; each frame wakes the web worker and
the client, which on a small box takes the time from the very threads that compute the next token."""

ENCODER_TASKS = set(get_args(Task)) - {"generate"}


class Link(Protocol):
    """The side of a Channel that the loop uses."""

    def send(self, message: Message) -> None:
        """Hand a message to the web worker."""

    def receive(self, timeout_s: float | None) -> Message | None:
        """The next message, or None after `timeout_s`."""


class Loop:
    """Continuous batching over one backend. Everything here happens on the thread that calls `step`."""

    def __init__(
        self, backend: Backend, link: Link, clock: Clock, *, stall_s: float, batch_tokens: int, store_bytes: int
    ) -> None:
        info = backend.info
        self._backend = backend
        self._link = link
        self._clock = clock
        self._pace = Pace(stall_s, batch_tokens)
        # A request that fills the whole KV space must still be able to run alone.
        self.slots = Slots(info.sequences, min(info.context_tokens, info.kv_tokens), info.kv_tokens)
        self.store = PrefixStore(store_bytes)
        self._waiting: deque[Sequence] = deque()
        self._running: dict[str, Sequence] = {}
        self._arrivals = 0
        self._steps = 0
        self._frame = Frame(0)
        self._load_sent_at = self._told_at = -1e9
        self._last_step_s = 0.0
        self.stopping = False

    # -- one round ---------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One round. Returns False when there was nothing to compute. Raises ChannelClosed when the front is gone."""
        idle = not self._running and not self._waiting
        if idle:
            self.slots.check_integrity()
            self.store.check_integrity()
        self._receive(None if idle else 0.0)
        if self.stopping:
            return False
        self._admit()
        plan = self._plan()
        if plan.chunks:  # a long step: nobody waits through it for a token that is already there
            for sequence in self._running.values():
                self._tell(sequence)
        if self._frame.started or self._frame.deltas:
            self._send_frame()  # before the computation: if it kills us, the front knows whom to suspect
        if not plan.empty:
            self._compute(plan)
        if not self._frame.empty or not self._running or self._clock() - self._told_at >= TELL_S:
            self._send_frame()
        return not plan.empty

    def _receive(self, timeout_s: float | None) -> None:
        message = self._link.receive(timeout_s)
        while message is not None:
            self._handle(message)
            if self.stopping:
                return
            message = self._link.receive(0.0)

    def _handle(self, message: Message) -> None:
        if isinstance(message, Generate):
            self._enter(message)
        elif isinstance(message, Cancel):
            self._cancel(message.id)
        elif isinstance(message, Ask):
            self._answer(message)
        elif isinstance(message, Stop):
            for sequence in [*self._running.values(), *self._waiting]:
                self._fail(sequence.id, Draining("The service stopped before this answer was complete."))
            self._send_frame()
            self.stopping = True

    # -- requests in and out -----------------------------------------------------------------------------------

    def _enter(self, ask: Generate) -> None:
        try:
            prompt = self._prompt_tokens(ask.prompt)
            self._check_length(len(prompt), ask.prompt)
            self._check_biases(ask.sampling)
            sequence = Sequence(ask, prompt, self.slots.context_tokens, self._arrivals + 1)
        except ApplianceError as error:
            self._fail(ask.id, error)
        except (TypeError, ValueError, KeyError, OverflowError) as error:  # it fails alone
            self._fail(ask.id, InvalidRequest(f"The engine cannot read this request: {type(error).__name__}: {error}"))
        else:
            self._arrivals += 1
            self._waiting.append(sequence)

    def _prompt_tokens(self, prompt: dict[str, Any]) -> list[int]:
        if "tokens" in prompt:
            tokens = list(prompt["tokens"])
            self._check_length(len(tokens), prompt)  # first: looking at millions of tokens holds up the streams
            self._check_tokens(tokens, "prompt")
        elif "messages" in prompt:
            # Each message takes a token at least; rendering hundreds of thousands of them holds up the streams too.
            self._check_length(len(prompt["messages"]), prompt, "at least ")
            tokens = self._tokenize(prompt, self._backend.render(prompt["messages"]), add_special=False, parse_special=True)
        else:
            tokens = self._tokenize(prompt, prompt["text"], add_special=True, parse_special=False)
        if not tokens:
            raise InvalidRequest("The prompt is empty: there is nothing to continue.", param="prompt")
        return tokens

    def _check_tokens(self, tokens: list[int], param: str) -> None:
        vocabulary = self._backend.info.vocabulary
        wrong = next((t for t in tokens if not 0 <= t < vocabulary), None)
        if wrong is not None:
            raise InvalidRequest(f"Token {wrong} is not in the vocabulary (0 to {vocabulary - 1}).", param=param)

    def _check_biases(self, sampling: dict[str, Any]) -> None:
        self._check_tokens([int(token) for token, _ in sampling.get("logit_bias", ())], "logit_bias")

    def _tokenize(self, prompt: dict[str, Any], text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Tokenize, but look at the beginning of a very long text first: the streams wait meanwhile."""
        limit = self.slots.context_tokens
        sample = limit * 8
        if len(text) > 2 * sample:
            count = len(self._backend.tokenize(text[:sample], add_special=False, parse_special=parse_special))
            if count > limit:
                self._check_length(int(count * len(text) / sample), prompt, "about ")
        return self._backend.tokenize(text, add_special=add_special, parse_special=parse_special)

    def _check_length(self, tokens: int, prompt: dict[str, Any], about: str = "") -> None:
        limit = self.slots.context_tokens
        if tokens >= limit:
            raise ContextLengthExceeded(
                f"The prompt has {about}{tokens} tokens; the context of a request is {limit}, of which the answer needs at least 1.",
                param="messages" if "messages" in prompt else "prompt",
                remedy="Shorten the prompt, or ask your administrator to raise ctx_size.",
            )

    def _cancel(self, request_id: str) -> None:
        if request_id in self._running or any(s.id == request_id for s in self._waiting):
            self._fail(request_id, Cancelled("The client left."))

    def _fail(self, request_id: str, error: ApplianceError) -> None:
        self._leave(request_id)
        self._frame.failed.append([request_id, error.to_wire()])

    def _leave(self, request_id: str) -> None:
        sequence = self._running.pop(request_id, None)
        if sequence:
            self._tell(sequence)
            self.slots.release(sequence.slot, keep=True)
            sequence.slot = None
        self._waiting = deque(s for s in self._waiting if s.id != request_id)

    def _answer(self, ask: Ask) -> None:
        try:
            self._link.send(Answer(ask.id, self._ask(ask.what, ask.args)))
        except ApplianceError as error:
            self._link.send(Answer(ask.id, error=error.to_wire()))
        except (TypeError, ValueError, KeyError) as error:  # wrong arguments, or an answer too large for a frame
            self._link.send(Answer(ask.id, error=InvalidRequest(f"The engine cannot answer this: {error}").to_wire()))

    def _ask(self, what: str, args: dict[str, Any]) -> Any:
        backend = self._backend
        if what == "tokenize":
            tokens = backend.tokenize(
                args["text"], add_special=args.get("add_special", False), parse_special=args.get("parse_special", True)
            )
            return {"tokens": tokens, "pieces": [backend.label(t) for t in tokens] if args.get("pieces") else None}
        if what == "detokenize":
            tokens = list(args["tokens"])
            self._check_tokens(tokens, "tokens")
            return {"text": b"".join(backend.piece(t) for t in tokens).decode("utf-8", "replace")}
        if what == "template":
            return {"prompt": backend.render(args["messages"])}
        if what in ENCODER_TASKS:
            name = backend.info.name
            raise InvalidRequest(f"{name} is a text generation model: it cannot answer {what!r}.", param="model", remedy="Name a model for this task.")
        raise InvalidRequest(f"The engine does not know the question {what!r}.")

    # -- places ------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give slots to waiting sequences, oldest first, beginning with whatever of their prompt is already computed.

        One that waits for space is not overtaken, else small ones could keep it waiting for ever.
        """
        skipped: list[Sequence] = []
        while self._waiting and self._has_room(self._waiting[0]):
            sequence = self._waiting.popleft()
            if not self._place(sequence):
                skipped.append(sequence)
        self._waiting.extendleft(reversed(skipped))

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether a slot is left, and space for it beside what the running sequences have still to compute."""
        if not self._running:
            return True
        promised = sum(len(other.tokens) - other.computed for other in self._running.values())
        space = self.slots.free_tokens + self.slots.cached_tokens - promised
        return space > len(sequence.tokens) and any(slot.owner is None for slot in self.slots)

    def _place(self, sequence: Sequence) -> bool:
        reuse, source, stored = self._find_prefix(sequence)
        if self._soon_computed(sequence) >= reuse + WORTH_SAVING_TOKENS:
            return False  # another request computes the same beginning right now: copy it when it is done
        slot = source if source is not None and source.owner is None else self.slots.choose_empty(
            self._backend.prefers_neighbours
        )
        if slot is None:
            return False
        snapshot, length = None, 0
        if reuse and slot is not source:
            if stored is not None:
                snapshot, length = stored.snapshot, len(stored.tokens)
            elif source is not None:
                snapshot, length = self._backend.save(source.seq), len(source.tokens)
        self.slots.take(slot, sequence.id)
        self._settle(slot, sequence, reuse, snapshot, length)
        sequence.slot = slot
        self._running[sequence.id] = sequence
        if sequence.cached_tokens is None:  # not on a second placing after a preemption
            sequence.cached_tokens = min(len(slot.tokens), sequence.prompt_tokens)
            self._frame.started.append(sequence.id)
        return True

    def _find_prefix(self, sequence: Sequence) -> tuple[int, Slot | None, Any]:
        """Reusable tokens and where they are: (length, slot or None, stored snapshot or None)."""
        if sequence.wants_prompt_logprobs:
            return 0, None, None
        wanted = sequence.tokens[:-1]  # the last token must be computed: its logits are needed
        in_slot, slot = self.slots.best_match(wanted)
        in_store, stored = self.store.best(wanted)
        if in_store > in_slot and in_store >= MIN_REUSE_TOKENS:
            return in_store, None, stored
        if in_slot >= MIN_REUSE_TOKENS:
            return in_slot, slot, None
        return 0, None, None

    def _soon_computed(self, sequence: Sequence) -> int:
        """Tokens at the beginning that a running prompt shares and has not finished computing."""
        if sequence.wants_prompt_logprobs:
            return 0
        shared = [
            common_prefix(other.tokens, sequence.tokens)
            for other in self._running.values()
            if other.computed < other.prompt_tokens
        ]
        return min(max(shared, default=0), len(sequence.tokens) - 1)

    def _settle(self, slot: Slot, sequence: Sequence, reuse: int, snapshot: Any, length: int) -> None:
        """Make the slot hold the first `reuse` tokens of the sequence."""
        backend = self._backend
        if snapshot is None:
            if len(slot.tokens) - reuse >= WORTH_SAVING_TOKENS:
                self._keep(slot)
            self._cut(slot, reuse)
            return
        self._clear(slot)
        if not self._make_room(length, slot):
            return
        backend.load(slot.seq, snapshot)
        slot.tokens = sequence.tokens[:reuse]
        kept = backend.trim(slot.seq, reuse)
        del slot.tokens[kept:]

    def _keep(self, slot: Slot) -> None:
        if not self.store.limit_bytes or self.store.covers(slot.tokens):
            return
        snapshot = self._backend.save(slot.seq)
        self.store.put(slot.tokens, snapshot, len(snapshot))

    def _clear(self, slot: Slot) -> None:
        if len(slot.tokens) >= WORTH_SAVING_TOKENS:
            self._keep(slot)
        self._cut(slot, 0)

    def _cut(self, slot: Slot, keep: int) -> None:
        if len(slot.tokens) > keep or keep == 0:
            kept = self._backend.trim(slot.seq, keep)
            del slot.tokens[kept:]

    def _make_room(self, tokens: int, besides: Slot | None = None) -> bool:
        """Evict cached sequences, the longest unused first, until `tokens` fit."""
        while self.slots.free_tokens < tokens:
            victim = self.slots.oldest_cached(besides)
            if victim is None:
                return False
            self._clear(victim)
        return True

    def _close_gaps(self) -> None:
        """Move an active sequence beside the others where the engine computes only neighbours together."""
        active = self.slots.active()
        if not self._backend.prefers_neighbours or len(active) < 2 or active[-1].seq - active[0].seq < len(active):
            return
        mover = active[-1]
        hole = next(s for s in self.slots.all[active[0].seq :] if s.owner is None)
        sequence = self._running[mover.owner]
        snapshot = self._backend.save(mover.seq)
        self._clear(hole)
        self._backend.load(hole.seq, snapshot)
        hole.tokens, mover.tokens = mover.tokens, token_array()
        self._backend.trim(mover.seq, 0)
        self.slots.release(mover, keep=False)
        self.slots.take(hole, sequence.id)
        sequence.slot = hole

    # -- computing ---------------------------------------------------------------------------------------------

    def _plan(self) -> Plan:
        work = [s.work() for s in self._running.values()]
        plan = plan_step(
            work,
            free_tokens=self.slots.free_tokens,
            cached_tokens=self.slots.cached_tokens,
            budget_tokens=self._pace.budget(sum(1 for w in work if not w.todo)),
            max_rows=self._backend.max_outputs,
            prompt_block=self._backend.prompt_block,
        )
        for request_id in plan.preempt:
            self._preempt(request_id)
        if plan.evict_tokens:
            self._make_room(len(plan.decode) + sum(size for _, size in plan.chunks))
        return plan

    def _preempt(self, request_id: str) -> None:
        """Take a running sequence's space; it waits at the front of the line and goes on where it was."""
        sequence = self._running.pop(request_id)
        self._tell(sequence)
        slot = sequence.slot
        sequence.slot = None
        self._clear(slot)
        self.slots.release(slot, keep=False)
        self._waiting.appendleft(sequence)

    def _compute(self, plan: Plan) -> None:
        if not self._waiting and not plan.chunks:
            self._close_gaps()
        pieces: list[Piece] = []
        owners: list[Sequence] = []
        for request_id, size in [*((i, 1) for i in plan.decode), *plan.chunks]:
            sequence = self._running[request_id]
            start = sequence.computed
            tokens = sequence.tokens[start : start + size].tolist()
            complete = start + size == len(sequence.tokens)
            every = sequence.wants_prompt_logprobs and start < sequence.prompt_tokens
            outputs = "all" if every else "last" if complete else "none"
            pieces.append(Piece(sequence.slot.seq, start, tokens, outputs))
            owners.append(sequence)
        began = self._clock()
        logits = self._backend.decode(pieces)
        self._last_step_s = self._clock() - began
        self._steps += 1
        prompt_tokens = sum(size for _, size in plan.chunks)
        self._pace.learn(len(plan.decode), prompt_tokens, self._last_step_s)
        self._take(pieces, owners, logits)

    def _take(self, pieces: list[Piece], owners: list[Sequence], logits: Any) -> None:
        """Note what was computed and draw from the logits, row by row in the order of the pieces."""
        row = 0
        due = self._clock() - self._told_at >= TELL_S
        for piece, sequence in zip(pieces, owners, strict=True):
            sequence.slot.tokens.extend(piece.tokens)
            rows = logits[row : row + piece.rows]
            row += len(rows)
            if piece.outputs == "all":
                sequence.take_prompt_rows(piece.start, rows, self._backend.piece)
            if sequence.computed == len(sequence.tokens):
                try:
                    sequence.advance(rows[-1], self._backend)
                except ApplianceError as error:  # no token could be drawn: the others go on
                    self._fail(sequence.id, error)
                    continue
            if sequence.reason:
                self._leave(sequence.id)
                self._frame.ended.append(sequence.ended())
            elif due or sequence.generated == 1:  # the first one is what people wait for
                self._tell(sequence)

    # -- telling -----------------------------------------------------------------------------------------------

    def _tell(self, sequence: Sequence) -> None:
        """Put what a sequence has not told yet into the next frame."""
        delta = sequence.take_delta()
        if delta:
            self._frame.deltas.append(delta)

    def load(self) -> dict[str, Any]:
        """Gauges for /metrics: requests, KV tokens, stored prefixes, seconds of the last step."""
        slots = self.slots
        return {
            "running": len(self._running),
            "waiting": len(self._waiting),
            "kv_used_tokens": slots.used_tokens,
            "kv_cached_tokens": slots.cached_tokens,
            "kv_total_tokens": slots.total_tokens,
            "stored_prefixes": len(self.store),
            "stored_prefix_bytes": self.store.used_bytes,
            "step_s": self._last_step_s,
        }

    def _send_frame(self) -> None:
        frame = self._frame
        frame.step = self._steps
        now = self._clock()
        idle = not self._running and not self._waiting
        if idle or now - self._load_sent_at >= LOAD_REPORT_S:
            frame.load = self.load()
            self._load_sent_at = now
        self._frame = Frame(self._steps)
        self._told_at = now
        self._link.send(frame)
