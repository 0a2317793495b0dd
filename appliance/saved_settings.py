"""Settings that are changed in the admin page: a TOML file in the data folder, with the one before it beside it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from appliance.config import BY_NAME, CHANGEABLE, SAVED_FILE, convert
from appliance.errors import ConfigError, InvalidRequest
from appliance.storage import in_words, write_atomically

BEFORE = "settings.before.toml"


def change(folder: Path, changes: Mapping[str, Any], check: Callable[[], object]) -> None:
    """Save settings; None takes one out of the file. check: reads the whole configuration and raises ConfigError; then the file is as it
    was. Raises InvalidRequest for every mistake at once, StorageFailed."""
    saved = _read(folder / SAVED_FILE)
    mistakes = []
    for name, value in changes.items():
        if name not in BY_NAME or BY_NAME[name] not in CHANGEABLE:
            mistakes.append(f"{name[:60]!r} cannot be changed here.")
            continue
        words = "".join(map(str, value)) if isinstance(value, list) else str(value)
        if words.encode("utf-8", "replace").decode() != words:
            mistakes.append(f"{name} is no text that can be saved.")
            continue
        try:
            saved |= {name: None if value is None else _plain(convert(BY_NAME[name], value))}
        except ConfigError as error:
            mistakes.append(error.message)
    if mistakes:
        raise InvalidRequest("\n".join(mistakes), param="settings")
    _write(folder, {name: value for name, value in saved.items() if value is not None}, check)


def put_back(folder: Path, check: Callable[[], object]) -> None:
    """The file before the last change; putting back once more undoes it. Raises InvalidRequest where there is none."""
    if not (folder / BEFORE).is_file():
        raise InvalidRequest("There are no settings to put back.", remedy="Nothing was changed here yet.")
    _write(folder, _read(folder / BEFORE), check)


def saved(folder: Path) -> dict[str, Any]:
    """What was changed, by name. Raises InvalidRequest for a file that cannot be read."""
    return _read(folder / SAVED_FILE)


def can_put_back(folder: Path) -> bool:
    """Whether there was a change."""
    return (folder / BEFORE).is_file()


def _write(folder: Path, values: Mapping[str, Any], check: Callable[[], object]) -> None:
    path, before = folder / SAVED_FILE, folder / BEFORE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = path.read_bytes() if path.is_file() else b""
        write_atomically(path, tomli_w.dumps(values).encode())
        try:
            check()
        except ConfigError as error:
            write_atomically(path, old)
            raise InvalidRequest(error.message, param="settings") from None
        write_atomically(before, old)
    except OSError as error:
        raise in_words(error, f"Writing {path}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}", remedy="Mend or remove it; what it held is set again here.") from None


def _plain(value: Any) -> Any:
    """As TOML has it."""
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
