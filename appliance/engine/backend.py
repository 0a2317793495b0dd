"""What the loop needs of an engine: tokens in, logits out, and sequences whose memory can be trimmed and moved.

A backend is used by one thread. Sequences are numbered 0 .. sequences-1; each holds the tokens computed so far, at
positions 0 .. n-1. Backends raise errors of `appliance.errors`; a crash takes only the child that runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from appliance.types import ModelInfo

Progress = Callable[[str, float], None]
"""Called while loading with the phase and the share done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens to compute for one sequence in this step, starting at position `start`. outputs: which rows of logits."""

    seq: int
    start: int
    tokens: list[int]
    outputs: Literal["none", "last", "all"]

    @property
    def rows(self) -> int:
        """How many rows of logits it brings."""
        return {"none": 0, "last": 1, "all": len(self.tokens)}[self.outputs]


class Backend(Protocol):
    """One loaded model."""

    info: ModelInfo
    max_outputs: int
    """Most rows of logits one `decode` may ask for; more than there are sequences."""
    prefers_neighbours: bool
    """Whether sequences with neighbouring numbers are computed together and others are not."""
    prompt_block: int
    """Pieces of a prompt that end before it does are computed fastest in multiples of so many tokens; 1: any."""

    def decode(self, pieces: list[Piece]) -> Sequence[np.ndarray]:
        """Compute the pieces. Returns the rows asked for, float32 [vocabulary] each, in the order of the pieces; they
        may be written to and are valid until the next call."""

    def trim(self, seq: int, keep: int) -> int:
        """Forget all but the first `keep` tokens of a sequence. Returns how many could be kept: a backend that cannot
        cut (recurrent memory) forgets everything and returns 0."""

    def save(self, seq: int) -> Any:
        """A snapshot of a sequence's memory, with a `len` in bytes, good for `load` on this backend."""

    def load(self, seq: int, snapshot: Any) -> None:
        """Replace a sequence's memory by a snapshot."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text. add_special: with the model's beginning-of-text token. parse_special: control tokens
        written in the text count as such."""

    def piece(self, token: int) -> bytes:
        """The bytes of a token as they appear in text; control tokens are empty."""

    def label(self, token: int) -> str:
        """A token as /tokenize shows it, control tokens by name."""

    def is_end(self, token: int) -> bool:
        """Whether this token ends an answer."""

    def render(self, messages: list[dict[str, Any]]) -> str:
        """The prompt for these messages by the model's own template. Raises TemplateFailed."""

    def close(self) -> None:
        """Free everything. The object is not used afterwards."""
