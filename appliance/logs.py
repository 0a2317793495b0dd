"""Log lines on stderr, as text or JSON. Keys are never logged, prompts only where `log_prompts` says so."""

from __future__ import annotations

import json
import logging
import sys
import time

LOGGER = logging.getLogger("appliance")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{k}={_word(v)}" for k, v in getattr(record, "fields", {}).items())
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        line = f"{stamp} {record.levelname.lower():7} {_plain(record.getMessage())}{' ' + fields if fields else ''}"
        if not record.exc_info:
            return line
        return "\n".join([line, *map(_plain, self.formatException(record.exc_info).splitlines())])


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


def configure(level: str, form: str) -> None:
    """Send the log to stderr. Safe to call again (reload)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(level.upper())


def log(level: str, message: str, **fields: object) -> None:
    """One line. level: debug, info, warning, error."""
    LOGGER.log(getattr(logging, level.upper()), message, extra={"fields": fields})
