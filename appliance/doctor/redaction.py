"""Takes out of texts what must not leave the house: keys, names of people, what people wrote, addresses. Pure.

Two ways, because neither alone is enough. Words that are known to be private (names, keys, namespaces) are taken out wherever they stand. Of
lines of the log only what has the shape of our own lines is kept, and of that neither quoted words nor fields that are not known to be harmless.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

GONE = "…"
HARMLESS = frozenset(
    "method route status duration_ms error model models ttft_ms prompt_tokens completion_tokens cached_tokens finish cache texts".split()
)
"""Fields of log lines that hold numbers and words of ours. Not the request's id: a client may choose that."""
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
LINE = re.compile(rf"({STAMP}) (debug|info|warning|error) +(.*)")
FRAME = re.compile(r' +File "(?:[^"]*/)?(\w+\.py)", line \d+, in [\w<>]+')
FAULT = re.compile(r"([A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt|Exit))(?::.*)?")
QUOTED = re.compile(r"""(?<!\w)(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')(?!\w)""")
FIELD = re.compile(r"\b([\w.-]+)=\S+")
KEY = re.compile(r"\bak-[\w-]{8,}|(?=[\w-]*\d)(?=[\w-]*[a-z])(?=[\w-]*[A-Z])(?<![\w-])[\w-]{32,}")
IPV4 = re.compile(r"\b(\d{1,3}\.\d{1,3})\.\d{1,3}\.\d{1,3}\b")
IPV6 = re.compile(r"(?<![\w:])([0-9a-fA-F]{1,4}):(?:[0-9a-fA-F]{0,4}:){2,6}[0-9a-fA-F]{0,4}(?!\w)|(?<![\w:])([0-9a-fA-F]{1,4})::[0-9a-fA-F]{1,4}(?!\w)")
HOME = re.compile(r"/(home|Users)/[^/\s\"'`,;]+")
MAIL = re.compile(r"[\w.+-]+@[\w.-]+\w")
OURS = ("127.0", "0.0")
"""Beginnings of addresses that say nothing of a network."""


class Redactor:
    """Knows the private words of a box. words: names, keys and the like, of any length; case does not matter."""

    def __init__(self, words: Iterable[str]) -> None:
        spellings = {form for word in words if word.strip() for form in (word, json.dumps(word)[1:-1], repr(word)[1:-1])}
        longest_first = sorted(spellings, key=len, reverse=True)
        self._private = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in longest_first) or r"(?!)", re.IGNORECASE)

    def text(self, words: str) -> str:
        """A text of ours without private words, keys and mail addresses; network addresses and homes are shortened."""
        for pattern in (self._private, KEY, MAIL):
            words = pattern.sub(GONE, words)
        words = IPV4.sub(lambda found: found[0] if found[1].startswith(OURS) else f"{found[1]}.x.x", words)
        return HOME.sub(rf"/\1/{GONE}", IPV6.sub(lambda found: f"{found[1] or found[2]}:x", words))

    def message(self, words: str) -> str:
        """A text in which somebody else's words may stand: nothing that is quoted stays."""
        words = QUOTED.sub(GONE, words)  # first: a name may look like a field
        return self.text(FIELD.sub(lambda found: found[0] if found[1] in HARMLESS else f"{found[1]}={GONE}", words))

    def line(self, line: str) -> str | None:
        """A line of the log, as text or JSON, or of a traceback; None for any other, which may hold anything."""
        if found := LINE.fullmatch(line):
            return f"{found[1]} {found[2]:7} {self.message(found[3])}"
        if found := FRAME.fullmatch(line):
            return self.text(line.replace(line[line.index('"') + 1:line.index(found[1])], ""))
        if found := FAULT.fullmatch(line):
            return self.text(found[1])
        return self._from_json(line)

    def _from_json(self, line: str) -> str | None:
        try:
            values = json.loads(line)
            parts = [f"{name}={value}" for name, value in values.items() if name in HARMLESS]
            return " ".join([f"{float(values['time']):.3f} {str(values['level'])[:7]:7} {self.message(str(values['message']))}", *map(self.text, parts)])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def lines(self, lines: Iterable[str]) -> list[str]:
        """Those of the log that can be shown, and how many were left out at each place."""
        found: list[str] = []
        left_out = 0
        for line in lines:
            shown = self.line(line)
            if shown is None:
                left_out += 1
                continue
            if left_out:
                found.append(f"({left_out} lines left out)")
                left_out = 0
            found.append(shown)
        return [*found, *([f"({left_out} lines left out)"] if left_out else [])]

    def values(self, value: Any) -> Any:
        """Plain values, as they become JSON, with every text in them redacted; names of fields stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {name: self.values(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.values(inner) for inner in value]
        return value
