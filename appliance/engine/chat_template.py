"""The model's own chat template, run in jinja2's sandbox: it is a program that came with a downloaded file.

What templates may use is what Hugging Face's `apply_chat_template` offers them: messages, bos_token, eos_token,
add_generation_prompt, tools, raise_exception and strftime_now.
https://huggingface.co/docs/transformers/chat_templating

The sandbox keeps a template away from Python; it does not keep it from eating the machine. So numbers stay
small, and time and memory are limited, also while compiling: jinja2 computes constants then.
"""

from __future__ import annotations

import datetime
import json
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox

from appliance.errors import InvalidRequest, TemplateFailed

RENDER_LIMIT_S = 5.0
RENDER_LIMIT_BYTES = 256_000_000
NUMBER_LIMIT_BITS = 4096
MESSAGE_LIMIT_CHARS = 500
"""Of a refusal in the template's own words."""


class _Refused(Exception):
    """The template called raise_exception."""


def _raise(message: str) -> None:
    raise _Refused(message)


class _TooLong(BaseException):
    """The template runs for longer than RENDER_LIMIT_S. No Exception: jinja2 swallows those while compiling."""


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """No arithmetic that a signal cannot interrupt: `9**9**9` would be one instruction of many hours."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Called by jinja2 for the operators above."""
        if isinstance(left, int) and isinstance(right, int):
            a, b = left.bit_length(), right.bit_length()
            if (a + b if operator == "*" else a * abs(right) if b < 64 else NUMBER_LIMIT_BITS + 1) > NUMBER_LIMIT_BITS:
                raise OverflowError("a number becomes too large")
        return super().call_binop(context, operator, left, right)


@contextmanager
def _bounded() -> Iterator[None]:
    """Limits time and memory. Time only on the main thread, which is where an engine renders: only it takes signals."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    timed = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, _too_long) if timed else None
    try:
        resource.setrlimit(resource.RLIMIT_AS, (min([used + RENDER_LIMIT_BYTES, *limits]), hard))
        if timed:
            signal.setitimer(signal.ITIMER_REAL, RENDER_LIMIT_S)
        yield
    finally:
        try:
            if timed:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
        finally:  # the time may be up right here
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _too_long(*_: Any) -> None:
    raise _TooLong


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # The arguments of Hugging Face's filter; jinja2's own would write HTML escapes.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class ChatTemplate:
    """A compiled template. Compiling does not fail: a template that cannot be compiled fails when it is used, so that
    the model still serves plain completions."""

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._template: jinja2.Template | None = None
        self._broken = ""
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        environment.filters["tojson"] = _to_json
        environment.add_extension("jinja2.ext.loopcontrols")
        try:
            with _bounded():
                self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            self._broken = f"line {error.lineno}: {error.message}"
        except _TooLong:
            self._broken = f"it takes longer than {RENDER_LIMIT_S:g} s to compile"
        except Exception as error:  # constants are computed while compiling, so anything can go wrong here too
            self._broken = f"{type(error).__name__}: {error}"

    def render(self, messages: list[dict[str, Any]]) -> str:
        """The prompt text, ending where the assistant's answer begins. Raises TemplateFailed."""
        if self._template is None:
            raise TemplateFailed(
                f"The model's chat template is broken ({self._broken}).",
                param="messages",
                remedy="Use /v1/completions, or a file of this model with a repaired template.",
            )
        try:
            with _bounded():
                return self._template.render(messages=messages, add_generation_prompt=True, tools=None, **self._tokens)
        except _Refused as error:
            words = str(error)[:MESSAGE_LIMIT_CHARS]
            raise TemplateFailed(f"The model's chat template refused these messages: {words}", param="messages") from None
        except _TooLong:
            raise TemplateFailed(
                f"The model's chat template took longer than {RENDER_LIMIT_S:g} s on these messages.", param="messages"
            ) from None
        except RecursionError:
            raise TemplateFailed("The model's chat template recurses without end.", param="messages") from None
        except Exception as error:  # the template is foreign code: whatever it raises is its failure
            raise TemplateFailed(
                "The model's chat template failed on these messages: "
                f"{type(error).__name__}: {str(error)[:MESSAGE_LIMIT_CHARS]}",
                param="messages",
            ) from None

    @staticmethod
    def missing(model: str) -> InvalidRequest:
        """The error for a model without a template."""
        return InvalidRequest(
            f"The model {model} has no chat template, so it cannot follow messages.",
            param="messages",
            remedy="Use /v1/completions with a prompt.",
        )
