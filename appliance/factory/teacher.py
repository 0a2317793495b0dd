"""Teachers and what they answer: over HTTP, from a model of this machine, or from a file; collected so that a kill loses nothing.

The collected answers are JSON Lines, a prompt's row (prompts.Prompt.row) with `answer` and `finish`. A line is written with
one call as soon as its answer is there, so only the last line of a file can be torn.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from appliance.engine.backend import Backend, Piece
from appliance.errors import ApplianceError, AuthenticationFailed, InvalidRequest, PermissionDenied, Unavailable
from appliance.factory.prompts import Prompt, normalise, rows, text_of, words_of
from appliance.storage import in_words, sync_folder
from appliance.types import Sampling

REFUSED = "refused"
"""Finish of an answer that the teacher will not give to this prompt; it is not stored, so a later run asks again."""
MOST_REFUSED = 20
"""Refusals in a row, at the beginning, after which something else must be wrong."""
MOST_BYTES = 16 << 20
LONGEST_WAIT_S = 300.0
SYNC_ROWS, SYNC_S = 16, 1.0
CHUNK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """finish: "stop", "length" when it was cut off, another word of the teacher's, or REFUSED, then text says why."""

    text: str
    finish: str = "stop"


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with what the teacher answered."""

    prompt: Prompt
    answer: str
    finish: str = "stop"


class Teacher(Protocol):
    """Something that answers. `answer` may be called by several threads."""

    name: str
    """What tells it from other teachers, with the settings that change its answers."""

    def answer(self, prompt: Prompt) -> Answer:
        """One answer. Raises ApplianceError when asking others makes no sense either."""

    def stop(self) -> None:
        """Answers that are being waited for may fail now."""


class _Again(Exception):
    """Worth another try. after_s: what the server asked for."""

    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, and the key would go to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class HttpTeacher:
    """A model behind an OpenAI-compatible address such as http://host:8080/v1.

    key_env: the environment variable that holds the API key, "" for none. temperature 0 is greedy. timeout_s: for one whole
    request. Rate limits, server errors and lost connections are tried again `retries` times, after what Retry-After says or
    after backoff_s, doubled each time.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        key_env: str = "",
        temperature: float = 0.0,
        max_tokens: int = 512,
        timeout_s: float = 120.0,
        retries: int = 6,
        backoff_s: float = 0.5,
    ) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise InvalidRequest(f"{address!r} is no address of a teacher.", param="teacher", remedy="Write it as http://host:port/v1.")
        if not model:
            raise InvalidRequest("The teacher's model is not named.", param="model", remedy="/v1/models of the teacher lists its models.")
        self.name = f"{model}, temperature {temperature:g}, at most {max_tokens} tokens"
        self._address = address.rstrip("/")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"} | _authorization(key_env)
        self._settings = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
        self._timeout_s, self._retries, self._backoff_s = timeout_s, retries, backoff_s
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._stopped = threading.Event()
        self._not_before = 0.0

    def answer(self, prompt: Prompt) -> Answer:
        """See Teacher.answer. Raises Unavailable when all tries failed, and what the key or the address is refused with."""
        problem = ""
        for attempt in range(self._retries + 1):
            self._stopped.wait(max(0.0, self._not_before - time.monotonic()))
            if self._stopped.is_set():
                raise Unavailable("The teacher is not asked any more.")
            try:
                return self._ask(prompt)
            except _Again as again:
                problem = str(again)
                if again.after_s is not None:  # meant for all of us, not for this request alone
                    self._not_before = max(self._not_before, time.monotonic() + min(again.after_s, LONGEST_WAIT_S))
                elif attempt < self._retries:
                    self._stopped.wait(min(30.0, self._backoff_s * 2**attempt) * random.uniform(0.5, 1.0))
        raise Unavailable(
            f"The teacher at {self._address} does not answer after {self._retries + 1} tries: {problem}.",
            remedy="Start it or check the address.",
        )

    def stop(self) -> None:
        """See Teacher.stop."""
        self._stopped.set()

    def _ask(self, prompt: Prompt) -> Answer:
        body = json.dumps(self._settings | {"messages": prompt.messages, "stream": False}).encode()
        request = urllib.request.Request(f"{self._address}/chat/completions", body, self._headers)
        until = time.monotonic() + self._timeout_s
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                return _parse(_read(response, until))
        except urllib.error.HTTPError as error:
            with error:
                return self._refusal(error)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise _Again(str(reason) or type(reason).__name__) from None

    def _refusal(self, error: urllib.error.HTTPError) -> Answer:
        said = _said(error)
        what = f"The teacher at {self._address} answers {error.code}: {said}"
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Again(f"{error.code} {said}", _retry_after(error.headers.get("Retry-After", "")))
        if error.code == 401:
            raise AuthenticationFailed(what, remedy="Name the environment variable that holds its API key.")
        if error.code == 403:
            raise PermissionDenied(what, remedy="Use a key that may use this model.")
        if error.code in (404, 405) or error.code < 400:
            raise InvalidRequest(what, param="teacher", remedy="Check the model's name and the address, which usually ends in /v1.")
        return Answer(what, REFUSED)


def _authorization(key_env: str) -> dict[str, str]:
    if not key_env:
        return {}
    key = os.environ.get(key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise InvalidRequest(f"The environment variable {key_env} holds no API key.", param="key_env", remedy=f"Set {key_env}.")
    return {"Authorization": f"Bearer {key}"}


def _read(response: http.client.HTTPResponse, until: float) -> bytes:
    """The body; the socket's own time limit is for one read, so a server that sends a byte now and then would never end."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise _Again(f"its answer is longer than {MOST_BYTES} bytes")
        if time.monotonic() > until:
            raise _Again("its answer takes too long")
    return b"".join(parts)


def _parse(body: bytes) -> Answer:
    """An answer in OpenAI's chat completion shape. A body that was cut off is no JSON, whatever its length was to be."""
    try:
        [choice, *_] = json.loads(body)["choices"]
        message, finish = choice["message"], choice.get("finish_reason") or "stop"
        text = message.get("content") or ""
        if not isinstance(text, str) or not isinstance(finish, str):
            raise TypeError("content is no text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Again(f"its answer is no chat completion ({type(error).__name__}: {str(error)[:100]})") from None
    return Answer(text.encode("utf-8", "replace").decode(), finish)


def _said(error: urllib.error.HTTPError) -> str:
    """The error message of the body, one line."""
    try:
        body = error.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        body = ""
    try:
        found = json.loads(body)["error"]
        text = found["message"] if isinstance(found, dict) else found
    except (ValueError, KeyError, TypeError, RecursionError):
        text = body or error.reason
    return " ".join(c if c.isprintable() else " " for c in str(text).split())[:300]


def _retry_after(text: str) -> float | None:
    """Seconds in a Retry-After header (RFC 9110, 10.2.3: seconds or a date), None when there is none to understand."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


class GgufTeacher:
    """A GGUF file or ONNX folder of this machine. One answer at a time; with a seed an answer does not depend on what was asked before."""

    def __init__(self, path: Path, *, temperature: float = 0.0, seed: int = 1, max_tokens: int = 512, context_tokens: int = 2048) -> None:
        from appliance.factory.evaluate import Apart

        self._model = Apart(path, context_tokens, sequences=1)
        self.name = f"{path.name}, temperature {temperature:g}, seed {seed}, at most {max_tokens} tokens"
        self._how, self._max_tokens = Sampling(temperature=temperature, seed=seed), max_tokens
        self._lock, self._stopped = threading.Lock(), False

    def answer(self, prompt: Prompt) -> Answer:
        """See Teacher.answer."""
        with self._lock:
            if self._stopped:
                raise Unavailable("The teacher is not asked any more.")
            return self._model.call(generate, self._model.backend, prompt, self._how, self._max_tokens)

    def stop(self) -> None:
        """See Teacher.stop."""
        self._stopped = True

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            self._model.close()


def generate(backend: Backend, prompt: Prompt, how: Sampling = Sampling(temperature=0), max_tokens: int = 512) -> Answer:  # noqa: B008 - frozen
    """What a chat client would get, on sequence 0. A prompt that fills the context is REFUSED."""
    from appliance.engine.sampling import Sampler

    tokens = backend.tokenize(backend.render(prompt.messages), add_special=False, parse_special=True)
    room = backend.info.context_tokens
    if len(tokens) >= room:
        return Answer(f"The prompt has {len(tokens)} tokens, the context {room}.", REFUSED)
    sampler, at, pieces, finish = Sampler(how, tokens), 0, [], "length"
    backend.trim(0, 0)
    while len(tokens) > CHUNK_TOKENS:
        backend.decode([Piece(0, at, tokens[:CHUNK_TOKENS], "none")])
        at, tokens = at + CHUNK_TOKENS, tokens[CHUNK_TOKENS:]
    while len(pieces) < max_tokens and at + len(tokens) <= room:
        [row] = backend.decode([Piece(0, at, tokens, "last")])
        at += len(tokens)
        token = sampler.draw(row)
        if backend.is_end(token):
            finish = "stop"
            break
        sampler.accept(token)
        pieces.append(backend.piece(token))
        tokens = [token]
    return Answer(b"".join(pieces).decode("utf-8", "replace"), finish)


class FileTeacher:
    """Answers that somebody has already: JSON Lines of a prompt's row with `answer`; what `collect` wrote is such a file."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidRequest that lists the mistakes with their lines."""
        mistakes: list[str] = []
        self._answers: dict[str, Answer] = {}
        for number, prompt, row in rows(text_of(path), mistakes):
            if isinstance(row.get("answer"), str):
                answer = Answer(row["answer"].encode("utf-8", "replace").decode(), str(row.get("finish") or "stop"))
                self._answers.setdefault(normalise(prompt.question), answer)
            else:
                mistakes.append(f"line {number}: the answer is missing or not a text")
        if mistakes or not self._answers:
            told = "\n".join(f"{path.name}: {mistake}" for mistake in mistakes[:20])
            raise InvalidRequest(told or f"{path} holds no answer.", param="answers")
        self.name = f"answers of {path.name}"

    def answer(self, prompt: Prompt) -> Answer:
        """See Teacher.answer."""
        return self._answers.get(normalise(prompt.question)) or Answer(f"The file has no answer to {prompt.question[:60]!r}.", REFUSED)

    def stop(self) -> None:
        """See Teacher.stop: nothing is waited for."""


class _AnswerFile:
    """The file that answers are collected in, open for appending. A torn last line is cut off."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._unsynced, self._synced_at = path, threading.Lock(), 0, time.monotonic()
        self.known: dict[Prompt, Pair] = {}
        try:
            self._number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise in_words(error, f"Opening {path}") from None
        try:
            self._end = self._repair()
            for _, prompt, row in self._rows():
                self.known[prompt] = Pair(prompt, row["answer"], row["finish"])
            os.fsync(self._number)
            sync_folder(path.parent)
        except OSError as error:
            os.close(self._number)
            raise in_words(error, f"Reading {path}") from None
        except BaseException:
            os.close(self._number)
            raise

    def _repair(self) -> int:
        """Cut off what stands behind the last whole line. Returns the length that is left."""
        data = self._path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end != len(data):
            os.ftruncate(self._number, end)
        return end

    def _rows(self) -> list[tuple[int, Prompt, Any]]:
        mistakes: list[str] = []
        found = list(rows(text_of(self._path), mistakes))
        mistakes += [f"line {n}: no answer" for n, _, row in found if not (isinstance(row.get("answer"), str) and isinstance(row.get("finish"), str))]
        if mistakes:
            raise InvalidRequest(f"{self._path} {mistakes[0]}.", remedy="Delete that line: the prompt is asked again.")
        return found

    def add(self, pair: Pair) -> None:
        """Append one answer; on the disk after SYNC_ROWS of them or SYNC_S seconds. Raises StorageFailed."""
        data = (json.dumps(pair.prompt.row | {"answer": pair.answer, "finish": pair.finish}, ensure_ascii=False) + "\n").encode()
        with self._lock:
            try:
                written = 0
                while written < len(data):
                    written += os.pwrite(self._number, data[written:], self._end + written)
                self._unsynced += 1
                if self._unsynced >= SYNC_ROWS or time.monotonic() - self._synced_at > SYNC_S:
                    self._sync()
            except OSError as error:
                os.ftruncate(self._number, self._end)
                raise in_words(error, f"Writing {self._path}", "Free some space and run the command again: it goes on.") from None
            self._end += len(data)
            self.known[pair.prompt] = pair

    def _sync(self) -> None:
        os.fsync(self._number)
        self._unsynced, self._synced_at = 0, time.monotonic()

    def close(self) -> None:
        """Everything is on the disk after this. Raises StorageFailed."""
        try:
            self._sync()
        except OSError as error:
            raise in_words(error, f"Writing {self._path}") from None
        finally:
            os.close(self._number)


def collect(
    prompts: Sequence[Prompt], teacher: Teacher, path: Path, tell: Callable[[int, int], None] = lambda done, all_: None, *, at_once: int = 4
) -> list[Pair]:
    """The answers to all prompts: those in `path` as they are, the others asked (`at_once` at a time) and appended to it.

    Prompts that the teacher refuses are left out. Raises Unavailable when the teacher is gone, StorageFailed when the disk
    is full, InvalidRequest when no prompt is answered; what was collected is in `path`, and the next call goes on from it.
    """
    file = _AnswerFile(path)
    try:
        todo = [prompt for prompt in prompts if prompt not in file.known]
        done, refused = len(prompts) - len(todo), 0
        tell(done, len(prompts))
        with ThreadPoolExecutor(max(1, at_once), thread_name_prefix="teacher") as pool:
            futures = [pool.submit(_one, teacher, prompt, file) for prompt in todo]
            try:
                for future in as_completed(futures):
                    answer = future.result()
                    done, refused = done + 1, refused + (answer.finish == REFUSED)
                    if answer.finish == REFUSED and not file.known and refused >= min(MOST_REFUSED, len(todo)):
                        raise InvalidRequest(f"The teacher answers none of the first {refused} prompts. {answer.text}", param="teacher")
                    tell(done, len(prompts))
            except BaseException:
                teacher.stop()
                for future in futures:
                    future.cancel()
                raise
        return [file.known[prompt] for prompt in prompts if prompt in file.known]
    except ApplianceError as error:
        error.message += f" {len(file.known)} answers are in {path}; the same command goes on from there."
        raise
    finally:
        file.close()


def _one(teacher: Teacher, prompt: Prompt, file: _AnswerFile) -> Answer:
    answer = teacher.answer(prompt)
    if answer.finish != REFUSED:
        file.add(Pair(prompt, answer.text, answer.finish))  # in this thread: nothing waits between the answer and the disk
    return answer


_THOUGHTS = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)
_NO_ANSWER = re.compile(
    r"(i'?m |i am )?(very |really )?(sorry|afraid)\b.{0,40}\b(can'?t|cannot|not able|unable|don'?t|do not)\b"
    r"|(as|being) an ai\b|i (can'?t|cannot|am unable to|'?m unable to|won'?t) (help|assist|answer|do|provide|comply)",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"<\|[^|\s]{1,40}\|>|</?s>|\[/?INST\]")
LONGEST_LOOP, LOOP_WORDS, LOOP_TIMES = 60, 12, 4


def clean(
    pairs: Sequence[Pair],
    *,
    longest_tokens: int,
    count: Callable[[str], int] = lambda text: len(words_of(text)),
    keep_refusals: bool = False,
) -> tuple[list[Pair], dict[str, int]]:
    """(pairs fit for teaching, how many were left out by reason).

    Thoughts in <think> tags are taken off. Reasons: duplicate (same normalised question), empty, cut_off, too_long (`count` of
    question and answer above longest_tokens), control_tokens, refusal (not with keep_refusals), loop.
    """
    kept: list[Pair] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    for pair in pairs:
        text = _THOUGHTS.sub("", pair.answer, count=1).strip() if pair.answer.lstrip().startswith("<think>") else pair.answer.strip()
        key = normalise(pair.prompt.question)
        if key in seen:
            reason = "duplicate"
        elif pair.finish == "length" or text.startswith("<think>"):
            reason = "cut_off"
        elif not text:
            reason = "empty"
        elif count(pair.prompt.question) + count(text) > longest_tokens:
            reason = "too_long"
        elif _CONTROL.search(text) or _CONTROL.search(pair.prompt.question):
            reason = "control_tokens"
        elif pair.finish == "content_filter" or (not keep_refusals and _NO_ANSWER.match(text.replace("’", "'"))):
            reason = "refusal"
        elif is_loop(text):
            reason = "loop"
        else:
            seen.add(key)
            kept.append(Pair(pair.prompt, text, pair.finish))
            continue
        left_out[reason] += 1
    return kept, dict(left_out)


def is_loop(text: str) -> bool:
    """Whether some words, at least LOOP_WORDS of them in all, come LOOP_TIMES times and more one after the other."""
    words = words_of(text)
    for period in range(1, min(LONGEST_LOOP, len(words) // LOOP_TIMES) + 1):
        run = 0
        for at in range(period, len(words)):
            run = run + 1 if words[at] == words[at - period] else 0
            if run >= max(period * (LOOP_TIMES - 1), LOOP_WORDS - period):
                return True
    return False
