"""One answer in the making: its tokens, its sampler, its text, and when it ends."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from appliance.engine.messages import Generate
from appliance.engine.sampling import Sampler, log_softmax_at, top_candidates
from appliance.engine.scheduler import Work
from appliance.engine.slots import Slot, token_array
from appliance.engine.text import TextAssembler
from appliance.types import Sampling


class Sequence:
    """State of one `Generate`, waiting or running. Used by the loop's thread only.

    tokens: prompt and answer so far. slot: where it runs, None while it waits; what the slot holds is always a
    beginning of `tokens`, so a sequence that lost its slot just computes the missing part again.
    """

    def __init__(self, ask: Generate, prompt: list[int], context_tokens: int, arrival: int) -> None:
        self.id = ask.id
        self.arrival = arrival
        self.tokens: array = token_array(prompt)
        self.prompt_tokens = len(prompt)
        self.slot: Slot | None = None
        self.cached_tokens: int | None = None
        room = context_tokens - self.prompt_tokens
        self.limit = room if ask.max_tokens is None else min(ask.max_tokens, room)
        self.logprobs = ask.logprobs
        self.echo = ask.echo
        self._prompt_described = 0
        self.text = TextAssembler(ask.stop)
        how = dict(ask.sampling)
        how["logit_bias"] = tuple((int(t), float(b)) for t, b in how.get("logit_bias", ()))
        self.sampler = Sampler(Sampling(**how), prompt)
        self.reason: str | None = None
        self._unsent_text = ""
        self._unsent_tokens = 0
        self._unsent_logprobs: list[list[Any]] = []
        self._held_logprobs: list[tuple[int, list[Any]]] = []

    @property
    def generated(self) -> int:
        """Answer tokens so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def computed(self) -> int:
        """Tokens whose memory the slot holds."""
        return len(self.slot.tokens) if self.slot else 0

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Echoed prompts with log probabilities need logits for every prompt token, so nothing can be reused. False once
        they have all been reported: a sequence that was preempted does not report them again."""
        return self.echo and self.logprobs is not None and self._prompt_described < self.prompt_tokens

    def work(self) -> Work:
        """This sequence as the scheduler sees it. One missing token is a decode step, whoever wrote that token."""
        missing = len(self.tokens) - self.computed
        whole = self.wants_prompt_logprobs and self.computed < self.prompt_tokens
        todo = missing if missing > 1 or whole else 0
        return Work(self.id, self.arrival, todo, self.computed, whole)

    def take_prompt_rows(self, start: int, rows: list[np.ndarray], describe: Any) -> None:
        """Log probabilities of prompt tokens start+1 .. from the rows of logits computed for start .. ."""
        if not self._prompt_described:
            self._unsent_logprobs.append(self._describe(self.tokens[0], None, describe))
            self._prompt_described = 1
        for at in range(self._prompt_described, min(start + len(rows) + 1, self.prompt_tokens)):
            self._unsent_logprobs.append(self._describe(self.tokens[at], rows[at - start - 1], describe))
            self._prompt_described = at + 1

    def advance(self, logits: np.ndarray, backend: Any) -> None:
        """Draw the next token from its logits and take it in; sets `reason` when the answer is complete."""
        if self.limit == 0:  # max_tokens 0: only the echoed prompt is wanted
            self._finish("length")
            return
        kept = logits.copy() if self.logprobs is not None else None
        token = self.sampler.draw(logits)
        if backend.is_end(token):
            self._finish("stop")
            return
        self.tokens.append(token)
        self.sampler.accept(token)
        self._unsent_tokens += 1
        start = self.text.received
        self._unsent_text += self.text.push(backend.piece(token))
        if kept is not None:
            self._held_logprobs.append((start, self._describe(token, kept, backend.piece)))
            self._release_logprobs()
        if self.text.stopped_by is not None:
            self._finish("stop")
        elif self.generated >= self.limit:
            self._finish("length")

    def _finish(self, reason: str) -> None:
        self._unsent_text += self.text.finish()
        # The rest may complete a stop string that was being held back.
        self.reason = "stop" if self.text.stopped_by is not None else reason
        if self.text.stopped_by is None:
            self._unsent_logprobs += [entry for _, entry in self._held_logprobs]
        else:
            self._release_logprobs()

    def _release_logprobs(self) -> None:
        """A token is told about together with its text; one that belongs to a stop string alone, never."""
        while self._held_logprobs and self._held_logprobs[0][0] < self.text.released:
            self._unsent_logprobs.append(self._held_logprobs.pop(0)[1])

    def _describe(self, token: int, logits: np.ndarray | None, describe: Any) -> list[Any]:
        entry: list[Any] = [token, describe(token).decode("latin-1"), None, []]
        if logits is not None:
            rivals = np.empty(0, dtype=np.int64)
            if self.logprobs:
                rivals = top_candidates(logits, self.logprobs)
                rivals = rivals[np.argsort(-logits[rivals], kind="stable")][: self.logprobs]
            values = log_softmax_at(logits, np.append(rivals, token))
            entry[2] = float(values[-1])
            entry[3] = [
                [int(t), describe(int(t)).decode("latin-1"), float(v)] for t, v in zip(rivals, values[:-1], strict=True)
            ]
        return entry

    def take_delta(self) -> list[Any] | None:
        """What is new since the last call, as an entry of Frame.deltas, or None."""
        if not (self._unsent_text or self._unsent_logprobs):
            return None
        delta = [self.id, self._unsent_text, self._unsent_tokens, self._unsent_logprobs or None]
        self._unsent_text, self._unsent_tokens, self._unsent_logprobs = "", 0, []
        return delta

    def ended(self) -> list[Any]:
        """The entry of Frame.ended."""
        return [
            self.id,
            self.reason,
            self.prompt_tokens,
            self.generated,
            self.cached_tokens or 0,
            self.text.stopped_by,
        ]
