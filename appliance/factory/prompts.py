"""The prompts to ask a teacher: from a text file, JSON Lines, or templates. Pure but for reading the file.

    questions.txt     one prompt a line; blank lines do not count
    questions.jsonl   {"prompt": "..."} or {"messages": [{"role": "system", ...}, {"role": "user", ...}]}, other keys are ignored
    questions.toml    templates = ["How do I {verb} the {thing}?"]     a brace itself is written twice: {{ }}
                      [values]
                      verb = ["start", "stop"]
                      thing = ["service", "engine"]
"""

from __future__ import annotations

import difflib
import json
import math
import random
import re
import string
import sys
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import InvalidRequest
from appliance.storage import in_words

MOST = 100_000
"""Prompts that templates expand to; beyond it a sample is drawn."""
MOST_MISTAKES = 20
_WORDS = re.compile(r"\w+|[^\w\s.,;:!?¿¡…'\"’‘“”]")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question, and the system message the teacher gets with it ("" for none). The student sees the question only."""

    question: str
    system: str = ""

    @property
    def messages(self) -> list[dict[str, str]]:
        """What a chat client would send."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, {"role": "user", "content": self.question}]

    @property
    def row(self) -> dict[str, Any]:
        """The keys of a JSON Lines row; `from_row` reads them again."""
        return {"messages": self.messages} if self.system else {"prompt": self.question}


def words_of(text: str) -> list[str]:
    """Words and symbols in lower case, without punctuation: how two texts are compared. "C++" and "C" stay different."""
    return _WORDS.findall(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()))


def normalise(text: str) -> str:
    """The same for texts that ask, or say, the same in other letters; for any script."""
    return " ".join(words_of(text)) or text.strip()


def distinct(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The first prompt of each normalised question, in order."""
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        found.setdefault(normalise(prompt.question), prompt)
    return list(found.values())


def read(path: Path, *, limit: int = MOST, seed: int = 1) -> list[Prompt]:
    """The distinct prompts in a file; its ending says of which kind it is.

    limit, seed: templates with more combinations than `limit` give a sample of that many. Raises InvalidRequest that lists
    the mistakes with their lines, StorageFailed or PermissionDenied.
    """
    text = text_of(path)
    mistakes: list[str] = []
    if path.suffix.lower() == ".toml":
        found = _expand(text, limit, seed, mistakes)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        found = [prompt for _, prompt, _ in rows(text, mistakes)]
    else:
        lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        mistakes += [f"line {number}: {problem}" for number, line in lines if (problem := _problem(line))]
        found = [Prompt(line) for _, line in lines]
    if mistakes:
        more = [f"... and {len(mistakes) - MOST_MISTAKES} more"] if len(mistakes) > MOST_MISTAKES else []
        raise InvalidRequest("\n".join(f"{path.name}: {mistake}" for mistake in mistakes[:MOST_MISTAKES] + more), param="prompts")
    if not found:
        raise InvalidRequest(f"{path} holds no prompt.", param="prompts", remedy="Write one prompt a line.")
    return distinct(found)


def text_of(path: Path) -> str:
    """The UTF-8 text of a file. Raises InvalidRequest, StorageFailed or PermissionDenied."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InvalidRequest(f"There is no file {path}.", param="prompts", remedy="Check the path.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InvalidRequest(f"{path} line {line} is not UTF-8 text.", param="prompts", remedy="Save the file as UTF-8.") from None
    except OSError as error:
        raise in_words(error, f"Reading {path}") from None


def rows(text: str, mistakes: list[str]) -> Iterator[tuple[int, Prompt, Mapping[str, Any]]]:
    """(line, prompt, the whole row) of JSON Lines; what is wrong is added to `mistakes` with its line."""
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 may stand inside a JSON text
        if line.strip():
            try:
                row = json.loads(line)
                yield number, from_row(row), row
            except RecursionError:
                mistakes.append(f"line {number}: it is nested too deeply")
            except json.JSONDecodeError as error:
                mistakes.append(f"line {number}: not JSON: {error.msg} at column {error.colno}")
            except ValueError as error:
                mistakes.append(f"line {number}: {error}")


def from_row(row: Any) -> Prompt:
    """The prompt in {"prompt": ...} or {"messages": [...]}. Raises ValueError with a reason."""
    if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
        raise ValueError('an object with either "prompt" or "messages" is needed')
    if "prompt" in row:
        return Prompt(_checked(row["prompt"], "prompt"))
    messages = row["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("messages has to be a list of objects with role and content")
    roles = [message.get("role") for message in messages]
    if roles not in (["user"], ["system", "user"]):
        raise ValueError("messages has to be one user message, or a system and a user message: a student learns single questions, no conversations")
    texts = [_checked(message.get("content"), f"content of the {message['role']} message") for message in messages]
    return Prompt(texts[-1], texts[0] if len(texts) == 2 else "")


def _checked(text: Any, name: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"the {name} is not a text")
    if problem := _problem(text):
        raise ValueError(f"the {name} is no prompt: {problem}")
    return text.strip()


def _problem(text: str) -> str:
    if not text.strip():
        return "it is empty"
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        return "it has a character that is none (NUL, or half of a pair)"
    return ""


def _expand(text: str, limit: int, seed: int, mistakes: list[str]) -> list[Prompt]:
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        mistakes.append(f"not TOML: {error or 'it is nested too deeply'}")
        return []
    for key in data:
        if key not in ("templates", "values"):
            close = difflib.get_close_matches(key, ("templates", "values"), n=1)
            mistakes.append(f"there is no key {key!r}." + (f" Did you mean {close[0]}?" if close else ""))
    templates, values = data.get("templates", []), data.get("values", {})
    if not _are_texts(templates):
        mistakes.append("templates has to be a list of texts, none of them empty")
        return []
    if not isinstance(values, dict):
        mistakes.append("values has to be a table of lists")
        return []
    mistakes += [f"values.{name} has to be a list of texts, none of them empty" for name, words in values.items() if not _are_texts(words)]
    parts = [_fields(number, template, values, mistakes) for number, template in enumerate(templates, 1)]
    used = {name for names in parts for name in names}
    mistakes += [f"values.{name} is used by no template" for name in values if name not in used]
    if mistakes:
        return []
    counts = [math.prod(len(values[name]) for name in names) for names in parts]
    return [Prompt(_fill(number, templates, parts, counts, values).strip()) for number in _numbers(sum(counts), limit, seed)]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) and not _problem(text) for text in value)


def _fields(number: int, template: str, values: Mapping[str, Any], mistakes: list[str]) -> list[str]:
    names: list[str] = []
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        mistakes.append(f"template {number} ({template!r}): {error}; a brace itself is written twice")
        return []
    for _, name, spec, conversion in pieces:
        if name is None:
            continue
        if spec or conversion or not name.isidentifier():
            mistakes.append(f"template {number}: {{{name}}} has to be a plain name")
        elif name not in values:
            close = difflib.get_close_matches(name, values, n=1)
            mistakes.append(f"template {number}: there are no values for {{{name}}}." + (f" Did you mean {close[0]}?" if close else ""))
        elif name not in names:
            names.append(name)
    return names


def _numbers(total: int, limit: int, seed: int) -> Iterable[int]:
    """Which of the combinations 0 .. total-1 are taken, ascending."""
    if total <= limit:
        return range(total)
    rng = random.Random(seed)
    if total <= sys.maxsize:
        return sorted(rng.sample(range(total), limit))
    drawn: set[int] = set()
    while len(drawn) < limit:  # so many that none is drawn twice but by a wonder
        drawn.add(rng.randrange(total))
    return sorted(drawn)


def _fill(number: int, templates: list[str], parts: list[list[str]], counts: list[int], values: Mapping[str, list[str]]) -> str:
    """Combination `number`, counted through the templates; inside one, the last name's value changes fastest."""
    which = 0
    while number >= counts[which]:
        number -= counts[which]
        which += 1
    chosen = {}
    for name in reversed(parts[which]):
        number, at = divmod(number, len(values[name]))
        chosen[name] = values[name][at]
    return templates[which].format(**chosen)
