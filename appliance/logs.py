"""Log lines on stderr, as text or JSON. Keys are never logged, prompts only where `log_prompts` says so."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass

LOGGER = logging.getLogger("appliance")
KEPT = 2000
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log. number: they count up from the start of the process. at: Unix seconds."""

    number: int
    at: float
    level: str
    text: str


class Recent(logging.Handler):
    """The last lines, for the admin page. Thread-safe."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[Line] = deque(maxlen=KEPT)
        self._reading = threading.Lock()
        self.setFormatter(_Words())

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        text = self.format(record)
        with self._reading:
            number = self._lines[-1].number + 1 if self._lines else 1
            self._lines.append(Line(number, record.created, record.levelname.lower(), text))

    def lines(self, after: int = 0, level: str = "debug", words: str = "") -> list[Line]:
        """Those after that number, of that level at least, with those words in them in whatever case."""
        with self._reading:
            found = list(self._lines)
        levels, words = LEVELS[LEVELS.index(level):], words.lower()
        return [line for line in found if line.number > after and line.level in levels and words in line.text.lower()]


class _Words(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{k}={_word(v)}" for k, v in getattr(record, "fields", {}).items())
        line = f"{_plain(record.getMessage())}{' ' + fields if fields else ''}"
        if not record.exc_info:
            return line
        return "\n".join([line, *map(_plain, self.formatException(record.exc_info).splitlines())])


class _Text(_Words):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        return f"{stamp} {record.levelname.lower():7} {super().format(record)}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        values = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        values |= getattr(record, "fields", {})
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)


def _plain(value: object) -> str:
    """One line, nothing a terminal would obey: control characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def _word(value: object) -> str:
    """A field's value; in quotes where it could be taken for more than one field."""
    text = _plain(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ' ="') else text


RECENT = Recent()


def configure(level: str, form: str) -> None:
    """Send the log to stderr. Safe to call again (reload)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    LOGGER.handlers[:] = [handler, RECENT]
    LOGGER.propagate = False
    LOGGER.setLevel(level.upper())


def log(level: str, message: str, **fields: object) -> None:
    """One line. level: debug, info, warning, error."""
    LOGGER.log(getattr(logging, level.upper()), message, extra={"fields": fields})
