"""OpenAI's two ways to write log probabilities: for chat and for completions. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

from appliance.types import TokenLogprob

LOWEST_LOGPROB = -9999.0
"""What OpenAI writes for a token without any probability: JSON has no minus infinity."""


def chat_logprobs(entries: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` of chat answers. A token that is no whole character shows as U+FFFD; its bytes are true."""
    return {
        "content": [
            {
                **_token(entry.piece, entry.logprob),
                "top_logprobs": [_token(piece, value) for _, piece, value in entry.top],
            }
            for entry in entries
        ],
        "refusal": None,
    }


def _token(piece: bytes, value: float | None) -> dict[str, Any]:
    return {"token": piece.decode("utf-8", "replace"), "logprob": finite(value), "bytes": list(piece)}


def finite(value: float | None) -> float:
    """A log probability that JSON can hold."""
    return LOWEST_LOGPROB if value is None else max(LOWEST_LOGPROB, value)


class LogprobWriter:
    """OpenAI's logprobs object of completions, for one choice; `text_offset` goes on from call to call."""

    def __init__(self, echoed: str = "") -> None:
        """echoed: the text that the answer begins with, where its tokens may not be exactly this text."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0
        self._echoed = echoed.encode()

    def write(self, entries: Iterable[TokenLogprob]) -> dict[str, Any]:
        """The next tokens. The very first token of an echoed prompt has no probability: null, as OpenAI writes it.
        The drawn token is always among its rivals, so there may be one more of them than was asked for."""
        found: dict[str, list] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for entry in entries:
            unknown = entry.logprob is None
            text = token_text(entry.piece)
            found["tokens"].append(text)
            found["token_logprobs"].append(None if unknown else finite(entry.logprob))
            rivals = {token_text(p): finite(v) for _, p, v in entry.top} | {text: finite(entry.logprob)}
            found["top_logprobs"].append(None if unknown else rivals)
            found["text_offset"].append(self._offset)
            self._offset += len(self._decoder.decode(self._written(entry.piece)))
        return found

    def _written(self, piece: bytes) -> bytes:
        """What the token adds to the text: some tokenizers put a space before a prompt, which the echo has not."""
        added = piece.startswith(b" ") and self._echoed and not self._echoed.startswith(piece)
        if piece:
            self._echoed = b""
        return piece[1:] if added else piece


def token_text(piece: bytes) -> str:
    r"""A token's text; bytes that are no whole characters as OpenAI writes them, `bytes:\xe2\x82`, so keys differ."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
