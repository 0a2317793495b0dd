"""What of a box is in a backup. The one list: what a part keeps in the data folder is named here, as kept or as derived."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from appliance import manifest, trials, usage
from appliance.access import people
from appliance.access import service as access
from appliance.cache import answers, reviewed
from appliance.cache import service as cache
from appliance.catalog import DEFAULT_FILE, HASHES_FILE
from appliance.config import BY_NAME, SAVED_FILE, SYSTEM_CONFIG, Config
from appliance.data_folder import COMPLETE
from appliance.db.migrations import Schema
from appliance.errors import ApplianceError
from appliance.saved_settings import BEFORE
from appliance.trail import entries
from appliance.trail import log as trail

MODELS, BACKUPS, WORK = "models", "backups", ".backup-work"
CONFIGURATION = "from-backup"
"""In a restored folder: what lay outside of it, such as the configuration file. A person compares it and puts it where it belongs."""


@dataclass(frozen=True, slots=True)
class Database:
    """A file of the data folder. precious: no backup without it; another one that is damaged is left out. optional: only in a backup that was
    asked for it."""

    name: str
    schema: Schema
    precious: bool = True
    optional: bool = False


DATABASES = (
    Database(access.FILE, people.SCHEMA),
    Database(cache.STATE_FILE, reviewed.SCHEMA),
    Database(trail.FILE, entries.SCHEMA),
    Database(usage.FILE, usage.SCHEMA, precious=False),
    Database(cache.ANSWERS_FILE, answers.SCHEMA, precious=False, optional=True),
)
FILES = (SAVED_FILE, BEFORE)
SECRETS = ("tls",)
"""Folders with keys of the box: only in a backup that is encrypted or was asked for them."""
DERIVED = {
    HASHES_FILE: "measured again",
    trials.FILE: "measured again",
    cache.INDEX_FOLDER: f"made anew of {cache.ANSWERS_FILE}",
    trail.HEAD_FILE: f"the last entry of {trail.FILE}, written anew by a restore",
    "jobs": "work in progress",
    "uploads": "work in progress",
    BACKUPS: "the backups themselves",
    WORK: "copies of a backup in the making",
    COMPLETE: "written by a restore",
    CONFIGURATION: "written by a restore",
}
"""What is in no backup, and why nothing is lost by that."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is wanted beside what is always in a backup."""

    models: bool = False
    cache: bool = False
    secrets: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a backup: its name there, and where it lies now, or what is in it."""

    name: str
    path: Path | None = None
    data: bytes = b""


def databases(folder: Path, wishes: Wishes) -> list[Database]:
    """Those that are there and wanted."""
    return [one for one in DATABASES if (wishes.cache or not one.optional) and (folder / one.name).exists()]


def other_members(folder: Path, config: Config, wishes: Wishes) -> Iterator[Member]:
    """Everything but the databases. Raises OSError."""
    for name in FILES:
        if (folder / name).is_file():
            yield Member(name, data=(folder / name).read_bytes())
    yield from _models(folder / MODELS, wishes.models)
    if wishes.secrets:
        for name in SECRETS:
            yield from _tree(folder / name, name)
    yield from _configuration(config, wishes.secrets)


def _models(models: Path, weights: bool) -> Iterator[Member]:
    """Without the weights: the manifest and what it does not list, such as certificates and reports."""
    if (models / DEFAULT_FILE).is_file():
        yield Member(f"{MODELS}/{DEFAULT_FILE}", data=(models / DEFAULT_FILE).read_bytes())
    for folder in sorted(models.iterdir()) if models.is_dir() else ():
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        place = f"{MODELS}/{folder.name}"
        try:
            large = {f"{place}/{file.path}" for file in manifest.read(folder / manifest.FILE_NAME).files}
        except ApplianceError:
            large = {member.name for member in _tree(folder, place)} - {f"{place}/{manifest.FILE_NAME}"}  # nobody knows what is what
        yield from (member for member in _tree(folder, place) if weights or member.name not in large)


def _tree(folder: Path, name: str) -> Iterator[Member]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            path = Path(place, file)
            if path.is_file():
                yield Member(f"{name}/{path.relative_to(folder).as_posix()}", path)


def _configuration(config: Config, secrets: bool) -> Iterator[Member]:
    """The configuration files; without `secrets` those settings are left out, and with them the files that they name are in."""
    main = config.config or SYSTEM_CONFIG
    for path in (main, *sorted((main.parent / "conf.d").glob("*.toml"))):
        if os.path.isfile(path):
            name = f"{CONFIGURATION}/{path.relative_to(main.parent).as_posix()}"
            yield Member(name, data=path.read_bytes() if secrets else _without_secrets(path.read_bytes()))
    for setting in ("api_key_file", "tls_cert", "tls_key") if secrets else ():
        path = config.values[setting]
        if path and path.is_file():
            yield Member(f"{CONFIGURATION}/{setting}/{path.name}", path)


def _without_secrets(text: bytes) -> bytes:
    values = tomllib.loads(text.decode())
    kept = {name: value for name, value in values.items() if not (setting := BY_NAME.get(name.replace("-", "_"))) or not setting.secret}
    if kept == values:
        return text
    return b"# Secrets were left out of this backup, and with them the comments.\n" + tomli_w.dumps(kept).encode()
