"""Reads what the rules want to know of our own files: databases, models, secrets, the certificate, backups. Changes nothing."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from appliance import catalog, certificates, tls_context, usage
from appliance.access import service as access
from appliance.backup.contents import DATABASES
from appliance.cache.service import ANSWERS_FILE, STATE_FILE
from appliance.config import Config, data_dir
from appliance.db.connection import Damaged, fault_of, in_words, inspect, is_still, open_for_reading
from appliance.doctor.facts import Base, Certificate, Kept, Model
from appliance.trail import log as trail

SCHEMAS = {base.name: (base.schema, base.precious) for base in DATABASES}
"""What each file should be, and whether it is precious. A file that is not named here is looked at as well, and counts as precious."""
STEPS = "_sqlite_migrations"
"""The table in which sqlite-utils keeps the record."""


def read_bases(folder: Path, whole_up_to: int) -> tuple[Base, ...]:
    """The databases of a data folder. whole_up_to: the bytes of the largest one of which every page is read."""
    return tuple(read_base(path, whole_up_to) for path in sorted(folder.glob("*.db")) if path.is_file())


def read_base(path: Path, whole_up_to: int) -> Base:
    """One database; what is wrong with it is said in `fault`."""
    schema, precious = SCHEMAS.get(path.name, (None, True))
    size, wal = path.stat(), path.with_name(f"{path.name}-wal")
    wal_bytes = wal.stat().st_size if wal.exists() else 0
    fault = remedy = ""
    steps: tuple[str, ...] = ()
    rows: dict[str, int] = {}
    still = is_still(path)
    try:
        inspect(path, whole=size.st_size <= whole_up_to, still=still)
        with closing(open_for_reading(path, still=still)) as db:
            tables = [name for name in db.table_names() if not name.startswith("sqlite_")]
            rows = {name: db.table(name).count for name in tables if name != STEPS}
            if STEPS in tables:
                steps = tuple(name for (name,) in db.execute(f"SELECT name FROM {STEPS} ORDER BY id"))
        newer = [step for step in steps if schema and step not in {migration.name for migration in schema.migrations}]
        if newer:
            fault = f"{path} was written by a newer version of this program: it has had the step {newer[0]}."
            remedy = f"Install that version again, or put a backup of this version at {path}."
    except (sqlite3.Error, OSError) as error:
        known = error if fault_of(error) else Damaged(str(error))
        words = in_words(known, path, precious)
        fault, remedy = words.message, words.remedy or ""
    return Base(path.name, size.st_size, wal_bytes, size.st_mtime, precious, fault, remedy, steps, rows)


def read_good_keys(folder: Path) -> int:
    """How many keys were made in the admin page and are good; 0 where that cannot be read."""
    return len(read_rows(folder / access.FILE, "SELECT name FROM keys WHERE revoked IS NULL"))


def read_names(folder: Path) -> set[str]:
    """Names of people and keys, namespaces, and what browsers call themselves: what must not leave the house."""
    sources = {
        access.FILE: ("SELECT name FROM people", "SELECT name FROM keys", "SELECT made_by FROM keys", "SELECT agent FROM sessions"),
        usage.FILE: ("SELECT DISTINCT who FROM usage",),
        ANSWERS_FILE: ("SELECT DISTINCT namespace FROM answers",),
        trail.FILE: ("SELECT DISTINCT word FROM words JOIN entries ON words.number = who WHERE kind IN ('person', 'key', 'command')",),
        STATE_FILE: ("SELECT DISTINCT namespace FROM reviewed", "SELECT DISTINCT owner FROM reviewed"),
    }
    return {str(name) for file, queries in sources.items() for query in queries for name in read_rows(folder / file, query) if name}


def read_rows(path: Path, query: str) -> list[object]:
    """The first column of a query; [] where the file or the table cannot be read."""
    try:
        with closing(open_for_reading(path, still=is_still(path))) as db:
            return [row[0] for row in db.execute(query)]
    except (sqlite3.Error, OSError):
        return []


def read_models(config: Config, served: Iterable[str]) -> tuple[Model, ...]:
    """The catalog, and what is served by its path. served: names of models that run. Raises ApplianceError where it is not known which should."""
    asked = catalog.entries(config)
    entries = [entry for entry in (*asked, catalog.embedder(config, asked), catalog.pair_verifier(config)) if entry]
    names = {*served, *(entry.model.name for entry in entries if entry.model)}
    hashes = catalog.hash_cache(config)
    found = [_model(model, model.name in names, hashes) for model in catalog.read_catalog(config).models]
    for entry in entries:
        if not entry.model and entry.engine != "fake":
            fault = "" if os.path.exists(entry.path) else f"There is no model file at {entry.path}."
            found.append(Model(entry.name, _size_bytes(entry.path), served=True, fault=fault))
    return tuple(found)


def _model(model: catalog.CatalogModel, served: bool, hashes: catalog.integrity.HashCache) -> Model:
    if model.manifest is None:
        return Model(model.name, _size_bytes(model.folder), model.shipped, served, model.reason)
    changed, fault = [], ""
    for file in model.manifest.files:
        path = model.folder / file.path
        try:
            if path.stat().st_size != file.size_bytes or hashes.unchanged(path) is False:
                changed.append(file.path)
        except OSError as error:
            fault = f"its file {path} cannot be read: {error.strerror}."
    return Model(model.name, sum(file.size_bytes for file in model.manifest.files), model.shipped, served, fault, tuple(changed))


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    except OSError:
        return 0


def read_kept(folder: Path, config: Config) -> tuple[Kept, ...]:
    """The data folder, what lies in it, and the files with secrets that the settings name."""
    secrets = [path for path in (config.api_key_file, config.tls_key) if path]
    inside = sorted(path for path in folder.iterdir() if path.name != "lost+found") if os.access(folder, os.R_OK | os.X_OK) and folder.is_dir() else []
    found = []
    for path in (folder, *inside, *secrets):
        try:
            seen = os.stat(path)
        except OSError:
            continue  # it has just gone, or is not ours to look at
        found.append(Kept(str(path), seen.st_mode, seen.st_uid, secret=path in secrets or ".db" in path.name))
    return tuple(found)


def read_certificate(config: Config) -> Certificate | None:
    """When the certificate that is served ends, None without TLS."""
    path = config.tls_cert or (data_dir(config) / tls_context.FOLDER / tls_context.SERVER if config.tls == "own" else None)
    if path is None:
        return None
    try:
        return Certificate(str(path), certificates.facts(path.read_bytes()).ends)
    except (OSError, ValueError) as error:
        return Certificate(str(path), None, str(error))


def newest_backup(folder: Path) -> float | None:
    """When the newest file in the folder of backups was written, Unix seconds."""
    try:
        return max((path.stat().st_mtime for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")), default=None)
    except OSError:
        return None

