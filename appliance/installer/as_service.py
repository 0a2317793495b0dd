"""What the installer does in the service's folders, as the service's user: `python -m appliance.installer.as_service WHAT ...`.

Root never works by path in a folder that the service owns: whoever broke into the service could put links there and be root by the next
upgrade. So root starts this, out of an installed version.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from appliance.errors import ApplianceError, StepFailed
from appliance.storage import in_words, sync_folder, write_atomically

STEPS = "steps.json"
FILLED_AGAIN = ("cache.db",)
NEVER_PUT_BACK = ("audit.db",)
"""A log that is taken back would look as if somebody had cut it."""


def copy_databases(data: Path, into: Path) -> None:
    """A consistent copy of each database of a data folder in an empty folder, whether the service runs or not, but of those that are filled
    again by themselves; and a note of which changes of their tables all of them have had. Raises StepFailed, StorageFailed."""
    try:
        for path in sorted(data.glob("*.db")):
            if path.name not in FILLED_AGAIN:
                with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=30)) as source, closing(sqlite3.connect(into / path.name)) as target:
                    source.backup(target)
        write_atomically(into / STEPS, json.dumps({path.name: _steps(path) for path in data.glob("*.db")}).encode())
    except sqlite3.Error as error:
        raise StepFailed(f"The databases in {data} could not be copied: {error}.") from None
    except OSError as error:
        raise in_words(error, f"Copying the databases to {into}") from None


def _steps(path: Path) -> list[str]:
    """The changes of its tables that a database has had."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return [f"{kind}/{name}" for kind, name in db.execute("SELECT migration_set, name FROM _sqlite_migrations ORDER BY 1, 2")]
    except sqlite3.Error:
        return []


def ahead(data: Path, former: Path) -> list[str]:
    """Names of databases that a later version changed since the copies in `former` were made, so that the one before cannot read them."""
    try:
        known = json.loads((former / STEPS).read_bytes())
    except (OSError, ValueError):
        return []  # killed before the copies were complete, and so before the later version ran
    return [path.name for path in sorted(data.glob("*.db")) if path.name in known and path.name not in NEVER_PUT_BACK and not set(_steps(path)) <= set(known[path.name])]


def ready_databases(data: Path, former: Path, names: Sequence[str]) -> None:
    """Copies of databases in `former` beside those whose place they will take. Raises StorageFailed."""
    try:
        for name in names:
            if (former / name).exists():
                _draft(data, name).unlink(missing_ok=True)
                shutil.copyfile(former / name, _draft(data, name))
        os.sync()
    except OSError as error:
        raise in_words(error, "Copying the databases") from None


def put_back_databases(data: Path, names: Sequence[str], aside: Path) -> None:
    """What `ready_databases` made in place of the databases, which are kept in `aside`, a folder. The service must not run. Raises StorageFailed."""
    try:
        for name in names:
            for path in data.glob(f"{name}*"):
                shutil.move(path, aside / path.name)
            if _draft(data, name).exists():
                _draft(data, name).replace(data / name)
        sync_folder(data)
    except OSError as error:
        raise in_words(error, "Putting back the databases") from None


def _draft(data: Path, name: str) -> Path:
    return data / f".{name}.new"


def add_model(source: Path, models: Path) -> None:
    """A model's folder into the catalog, whole or not at all; one that is there stays as it is. Raises StorageFailed."""
    if (models / source.name).exists():
        return
    try:
        models.mkdir(exist_ok=True, mode=0o750)
        with tempfile.TemporaryDirectory(dir=models, prefix=".new.") as scratch:
            shutil.copytree(source, Path(scratch) / source.name).rename(models / source.name)
    except OSError as error:
        raise in_words(error, f"Adding the model {source.name}") from None


def main(words: Sequence[str]) -> int:
    """Entry point; `ahead` prints a JSON list."""
    what, *rest = words
    try:
        match what, rest:
            case "copy", [data, into]:
                copy_databases(Path(data), Path(into))
            case "ahead", [data, former]:
                print(json.dumps(ahead(Path(data), Path(former))))
            case "ready", [data, former, *names]:
                ready_databases(Path(data), Path(former), names)
            case "put-back", [data, aside, *names]:
                put_back_databases(Path(data), names, Path(aside))
            case "add-model", [source, models]:
                add_model(Path(source), Path(models))
            case _:
                return 64
    except ApplianceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
