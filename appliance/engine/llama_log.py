"""llama.cpp's log, which is the only place where it says why something failed."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp as lib

LINE_LIMIT_CHARS = 500
LOG_ERROR, LOG_CONTINUES = 4, 5  # ggml.h, enum ggml_log_level; not bound


class LlamaLog:
    """Takes llama.cpp's log away from stderr and keeps its last complaints. One a process; must outlive the library's use."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._level = 0
        self._callback = lib.llama_log_callback(self._take)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _: Any) -> None:
        if level == LOG_CONTINUES:
            level = self._level
        self._level = level
        if level >= LOG_ERROR and text.strip():
            line = text.decode("utf-8", "replace").strip()[:LINE_LIMIT_CHARS]
            # It may quote the file, and ends on terminals.
            self._lines = [*self._lines[-4:], "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)]

    def last(self) -> str:
        """The first of the last complaints (the later ones repeat it in more general words), without its function's name."""
        line = self._lines[0] if self._lines else "no reason was given"
        return line.split(": ", 1)[-1].rstrip(".") + "."
