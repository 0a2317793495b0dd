"""The model's own chat template, run in jinja2's sandbox: it is a program that came with a downloaded file.

What templates may use is what Hugging Face's `apply_chat_template` offers them: messages, bos_token, eos_token,
add_generation_prompt, tools, raise_exception and strftime_now.
https://huggingface.co/docs/transformers/chat_templating
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import jinja2
import jinja2.sandbox

from appliance.errors import InvalidRequest, TemplateFailed


class _Refused(Exception):
    """The template called raise_exception."""


def _raise(message: str) -> None:
    raise _Refused(message)


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
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        environment.filters["tojson"] = _to_json
        environment.add_extension("jinja2.ext.loopcontrols")
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            self._broken = f"line {error.lineno}: {error.message}"
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
            return self._template.render(messages=messages, add_generation_prompt=True, tools=None, **self._tokens)
        except _Refused as error:
            raise TemplateFailed(f"The model's chat template refused these messages: {error}", param="messages") from None
        except RecursionError:
            raise TemplateFailed("The model's chat template recurses without end.", param="messages") from None
        except Exception as error:  # the template is foreign code: whatever it raises is its failure
            raise TemplateFailed(
                f"The model's chat template failed on these messages: {type(error).__name__}: {error}", param="messages"
            ) from None

    @staticmethod
    def missing(model: str) -> InvalidRequest:
        """The error for a model without a template."""
        return InvalidRequest(
            f"The model {model} has no chat template, so it cannot follow messages.",
            param="messages",
            remedy="Use /v1/completions with a prompt.",
        )
