"""From token bytes to text that can be sent: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextAssembler:
    """Collects the bytes of tokens and releases text as soon as it is certain. The stop string that is complete first
    ends the text; of two that end together, the longer.

    Held back are the bytes of an unfinished UTF-8 character and the longest ending that may still become a stop
    string. Bytes that can be no UTF-8 become U+FFFD, as browsers do.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(s for s in stops if s)
        self._longest = max(map(len, self._stops), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self.stopped_by: str | None = None
        self.received = 0
        """Characters complete so far; those after a stop string do not count."""
        self.released = 0
        """Of these, the ones that were handed out."""

    def push(self, piece: bytes) -> str:
        """Text that became certain with these bytes. After a stop string was seen, always empty."""
        if self.stopped_by is not None:
            return ""
        text = self._decoder.decode(piece)
        self.received += len(text)
        self._pending += text
        return self._count(self._release())

    def finish(self) -> str:
        """The rest, at the end of the answer."""
        if self.stopped_by is not None:
            return ""
        self._pending += self._decoder.decode(b"", final=True)
        rest = self._release()
        if self.stopped_by is None:
            rest, self._pending = rest + self._pending, ""
        return self._count(rest)

    def _count(self, text: str) -> str:
        self.released += len(text)
        return text

    def _release(self) -> str:
        hits = [(at, stop) for stop in self._stops if (at := self._pending.find(stop)) >= 0]
        if hits:
            # The first to be complete, as if the text had come letter by letter: how it was cut into tokens is chance.
            at, self.stopped_by = min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
            certain, self._pending = self._pending[:at], ""
            return certain
        keep = self._possible_start()
        cut = len(self._pending) - keep
        certain, self._pending = self._pending[:cut], self._pending[cut:]
        return certain

    def _possible_start(self) -> int:
        """Length of the longest ending of the pending text that some stop string begins with."""
        for length in range(min(self._longest - 1, len(self._pending)), 0, -1):
            ending = self._pending[-length:]
            if any(stop.startswith(ending) for stop in self._stops):
                return length
        return 0
