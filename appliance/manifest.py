"""`manifest.toml`, the paper that comes with a model: what it is, where it is from, and the hash of every file.

Reading is strict: an unknown key, a missing one, a wrong type, a path that leaves the folder; all mistakes are told at
once. Writing gives the same bytes for the same values.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import tomli_w

from appliance.errors import ModelFileError, ModelFileMissing
from appliance.storage import in_words, write_atomically

Format = Literal["gguf", "onnx"]
Task = Literal["generate", "embed", "rerank", "classify"]
FORMATS: tuple[str, ...] = get_args(Format)
TASKS: tuple[str, ...] = get_args(Task)
FILE_NAME = "manifest.toml"
VERSION = 1
LARGEST_BYTES = 1 << 20
LONGEST_TEXT = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model. path: relative to the model's folder, with forward slashes."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a model is from, as texts; "" where it is not known. date: YYYY-MM-DD."""

    source: str = ""
    revision: str = ""
    url: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model on paper. The first of `files` that is of the model's format is the one an engine opens.

    aliases: other names under which the catalog finds it. context_tokens: 0 where it is not known.
    created_by: the command that made this folder.
    """

    name: str
    family: str
    format: Format
    task: Task
    quantization: str
    context_tokens: int
    licence: str
    files: tuple[ModelFile, ...]
    aliases: tuple[str, ...] = ()
    description: str = ""
    created_by: str = ""
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def main(self) -> ModelFile:
        """The file an engine opens."""
        return next(file for file in self.files if file.path.lower().endswith("." + self.format))

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)


def name_problem(name: str) -> str:
    """Why a model cannot be called so, as the end of a sentence; "" when it can."""
    if not _NAME.fullmatch(name):
        return "has to be 1 to 64 letters, digits, dots, underscores and dashes, and begins with a letter or digit"
    if name.lower() == "default":
        return "already means whichever model is the default"
    if name.lower().endswith((".gguf", ".onnx")):
        return "would be taken for a file's name"
    return ""


def path_problem(path: str) -> str:
    """Why a file of a model cannot lie there, as the end of a sentence; "" when it can."""
    if not path or len(path) > LONGEST_TEXT or not path.isprintable() or "\\" in path:
        return "is not a plain relative path"
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        return "leaves the model's folder or is not a plain relative path"
    if PurePosixPath(path) == PurePosixPath(FILE_NAME):
        return "is the manifest itself"
    return ""


def read(path: Path) -> Manifest:
    """The manifest in a file. Raises ModelFileMissing, or ModelFileError that lists every mistake, one a line."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise ModelFileMissing(f"There is no manifest at {path}.", remedy="Add the model with `appliance models add`.") from None
    except OSError as error:
        raise in_words(error, f"Reading {path}") from None
    return parse(data, str(path))


def parse(data: bytes, where: str = FILE_NAME) -> Manifest:
    """The manifest in `data`. Raises ModelFileError that lists every mistake, one a line; `where` names the file in it."""
    if len(data) > LARGEST_BYTES:
        raise ModelFileError(f"{where} is larger than {LARGEST_BYTES} bytes: that is no manifest.")
    try:
        found = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{where} is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ModelFileError(f"{where} cannot be read as TOML: {error or 'it is nested too deeply'}.") from None
    mistakes: list[str] = []
    manifest = _Reader(mistakes).manifest(found)
    if manifest is None or mistakes:
        raise ModelFileError("\n".join(f"{where}: {mistake}" for mistake in mistakes))
    return manifest


def dumps(manifest: Manifest) -> str:
    """The TOML text; the same for the same values."""
    values = asdict(manifest)
    order = ("name", "aliases", "description", "family", "format", "task", "quantization", "context_tokens", "licence",
             "created_by", "provenance", "files")  # fmt: skip
    return tomli_w.dumps({"version": VERSION} | {key: values[key] for key in order})


def save(manifest: Manifest, folder: Path) -> None:
    """Write `folder/manifest.toml` atomically. Raises OSError; ValueError for values that could not be read again."""
    text = dumps(manifest)
    try:
        parse(text.encode("utf-8"))
    except (ModelFileError, UnicodeEncodeError) as error:
        raise ValueError(str(error)) from None
    write_atomically(folder / FILE_NAME, text.encode("utf-8"))


class _Reader:
    """Collects mistakes instead of stopping at the first."""

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = mistakes

    def manifest(self, data: Mapping[str, Any]) -> Manifest | None:
        version = data.get("version")
        if type(version) is not int or version != VERSION:
            newer = type(version) is int and version > VERSION
            why = f"version {version} is newer than this program" if newer else f"version = {VERSION} is missing"
            self.mistakes.append(why)
            if newer:
                return None
        self.known(data, {"version"} | {f.name for f in fields(Manifest)}, "")
        name = self.text(data, "name", "")
        if name is not None and (problem := name_problem(name)):
            self.mistakes.append(f"name = {name!r} {problem}")
        aliases = self.aliases(data, name)
        chosen = {key: self.choice(data, key, words) for key, words in (("format", FORMATS), ("task", TASKS))}
        texts = {key: self.text(data, key, "") for key in ("family", "quantization", "licence")}
        optional = {key: self.text(data, key, "", optional=True) for key in ("description", "created_by")}
        context = self.number(data, "context_tokens", "")
        provenance = self.provenance(data.get("provenance", {}))
        files = self.files(data.get("files"), chosen["format"])
        if self.mistakes:
            return None
        return Manifest(name=name, aliases=aliases, context_tokens=context, provenance=provenance, files=files, **chosen, **texts, **optional)  # type: ignore[arg-type]

    def known(self, data: Mapping[str, Any], names: set[str], where: str) -> None:
        for key in data:
            if key not in names:
                close = difflib.get_close_matches(key, names, n=1)
                self.mistakes.append(f"there is no key {where}{key!r}." + (f" Did you mean {close[0]}?" if close else ""))

    def text(self, data: Mapping[str, Any], key: str, where: str, optional: bool = False) -> str | None:
        value = data.get(key, "" if optional else None)
        if value is None:
            self.mistakes.append(f"{where}{key} is missing")
        elif not isinstance(value, str) or len(value) > LONGEST_TEXT or not value.isprintable() or not (value.strip() or optional):
            kind = "a text" if optional else "a text that is not empty"
            self.mistakes.append(f"{where}{key} has to be {kind}, of one line and at most {LONGEST_TEXT} characters")
        else:
            return value
        return None

    def number(self, data: Mapping[str, Any], key: str, where: str) -> int | None:
        value = data.get(key)
        if type(value) is int and 0 <= value < 1 << 63:
            return value
        self.mistakes.append(f"{where}{key} is missing" if value is None else f"{where}{key} has to be a whole number, 0 or more")
        return None

    def choice(self, data: Mapping[str, Any], key: str, words: tuple[str, ...]) -> Any:
        value = data.get(key)
        if isinstance(value, str) and value in words:
            return value
        close = difflib.get_close_matches(value, words, n=1) if isinstance(value, str) else []
        hint = f" Did you mean {close[0]}?" if close else ""
        self.mistakes.append(f"{key} is missing" if value is None else f"{key} = {str(value)[:60]!r} is none of {', '.join(words)}.{hint}")
        return None

    def aliases(self, data: Mapping[str, Any], name: str | None) -> tuple[str, ...]:
        value = data.get("aliases", [])
        if not isinstance(value, list) or not all(isinstance(alias, str) for alias in value):
            self.mistakes.append("aliases has to be a list of texts")
            return ()
        for alias in value:
            problem = name_problem(alias) or ("is there twice" if [name, *value].count(alias) > 1 else "")
            if problem:
                self.mistakes.append(f"the alias {alias!r} {problem}")
        return tuple(value)

    def provenance(self, value: Any) -> Provenance | None:
        if not isinstance(value, dict):
            self.mistakes.append("provenance has to be a table")
            return None
        names = {f.name for f in fields(Provenance)}
        self.known(value, names, "provenance.")
        texts = {key: self.text(value, key, "provenance.", optional=True) for key in sorted(names)}
        if texts["date"] and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", texts["date"], re.ASCII):
            self.mistakes.append(f"provenance.date = {texts['date']!r} is not a date like 2026-01-31")
        return None if None in texts.values() else Provenance(**texts)  # type: ignore[arg-type]

    def files(self, value: Any, format_: str | None) -> tuple[ModelFile, ...]:
        if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
            self.mistakes.append("files has to be a list of tables ([[files]]) that is not empty")
            return ()
        found: list[ModelFile] = []
        for number, row in enumerate(value, 1):
            where = f"files {number}: "
            self.known(row, {f.name for f in fields(ModelFile)}, where)
            path, sha256 = self.text(row, "path", where), self.text(row, "sha256", where)
            size = self.number(row, "size_bytes", where)
            if path is not None and (problem := path_problem(path)):
                self.mistakes.append(f"{where}{path!r} {problem}")
            if sha256 is not None and not _SHA256.fullmatch(sha256):
                self.mistakes.append(f"{where}sha256 has to be 64 lower-case hexadecimal digits")
            if path is not None and any(path == other.path for other in found):
                self.mistakes.append(f"{where}{path!r} is there twice")
            if path is not None and sha256 is not None and size is not None:
                found.append(ModelFile(path, sha256, size))
        if format_ and found and not any(file.path.lower().endswith("." + format_) for file in found):
            self.mistakes.append(f"format = {format_!r}, but none of the files ends in .{format_}")
        return tuple(found)
