"""Making a backup while the service runs, and checking one."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from appliance.backup import archive, shelf
from appliance.backup.archive import Manifest, Progress
from appliance.backup.contents import DATABASES, WORK, Database, Member, Wishes, databases, other_members
from appliance.config import Config, data_dir
from appliance.data_folder import give_to_owner, held
from appliance.db import connection
from appliance.db.migrations import check_known, steps_of
from appliance.errors import BadBackup, InUse, NotFound, StorageFailed
from appliance.storage import in_words, sync_folder

PART_S = 86_400.0
"""A part of a backup that is older was left by a program that was killed."""


def create(
    config: Config,
    wishes: Wishes,
    version: str,
    now: float,
    begun: Callable[[int], Progress] = lambda total: lambda count: None,
    tell: Callable[[str], object] = lambda sentence: None,
) -> shelf.Backup:
    """Make a backup, read it back, and only then give it its name. The service may run: it is read as it was at one moment (see `_snapshots`).
    begun: is told how many bytes there are, and gives who is told of those that are done. tell: takes a sentence on what was left out.

    Secrets go along where it is encrypted or they are wished for. Raises NotFound where there is nothing to keep, InUse while another one is
    made, StorageFailed (also where a precious database is damaged), PermissionDenied, ConfigError; then the backups of before are as they were.
    """
    folder, target, words = data_dir(config), shelf.folder_of(config, make=True), shelf.passphrase(config)
    wishes = replace(wishes, secrets=wishes.secrets or words is not None)
    wanted = databases(folder, wishes)
    if not wanted:
        raise NotFound(f"There is nothing to back up in {folder}.", remedy="Name the service's data folder with --data-dir.")
    name = shelf.name_of(now, words is not None)
    if (target / name).exists():
        raise InUse(f"There is a backup {name} already.", remedy="Try again in a second.")
    with _in_words(f"Copying what is in {folder}"), workplace(folder) as work:
        schemas = _snapshots(folder, wanted, work, tell)
        members = [Member(one, work / one) for one in schemas] + list(other_members(folder, config, wishes))
        paper = Manifest(now, version, platform.node(), schemas, archive.described(members), wishes.models, wishes.cache, wishes.secrets)
        with _in_words(f"Writing the backup into {target}"), _part(target, now) as part:
            with part.open("wb") as file:
                archive.write(file, paper, members, words, begun(paper.size))
                file.flush()
                os.fsync(file.fileno())
            archive.read(part, words, lambda entry: None)  # the databases are those that were looked through
            give_to_owner(part, target)
            part.rename(target / name)
            sync_folder(target)
    shelf.note_check(target, name, now)
    return shelf.find(target, name)


def _snapshots(folder: Path, wanted: Sequence[Database], work: Path, tell: Callable[[str], object]) -> dict[str, list[str]]:
    """Copies of the databases in `work`, all of one moment: a read transaction is begun in each, within milliseconds, before the first is
    copied. Nobody who writes waits for that (WAL). No file has rows that are nothing without those of another, so the milliseconds between
    them cannot make them contradict each other. Returns the steps of their schemas."""
    steps, opened = {}, {}
    with ExitStack() as stack:
        for one in wanted:
            with _damage(one, folder, tell):
                db = connection.open_for_reading(folder / one.name)
                stack.callback(db.close)
                db.execute("BEGIN")
                db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                opened[one] = db
        for one, db in opened.items():
            with _damage(one, folder, tell):
                connection.copy(db, work / one.name)
                connection.inspect_copy(work / one.name)
                steps[one.name] = steps_of(db, one.schema)
    return steps


@contextmanager
def _damage(one: Database, folder: Path, tell: Callable[[str], object]) -> Iterator[None]:
    """What is not precious is left out where it is damaged."""
    try:
        yield
    except sqlite3.Error as error:
        words = connection.in_words(error, folder / one.name, one.precious)
        if one.precious or connection.fault_of(error) != "damaged":
            raise words from None
        tell(f"{one.name} is not in the backup: {words}")


@contextmanager
def _part(target: Path, now: float) -> Iterator[Path]:
    """A new file (mode 0600) that is gone at the end unless it was given another name."""
    for old in target.glob(".appliance-*.part"):
        if now - old.stat().st_mtime > PART_S:
            old.unlink()
    number, name = tempfile.mkstemp(prefix=".appliance-", suffix=".part", dir=target)
    os.close(number)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _in_words(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise in_words(error, doing) from None


def verify(path: Path, config: Config, now: float, progress: Progress = lambda count: None) -> Manifest:
    """Read a backup whole, compare all digests, and have SQLite look through each database. Notes down what was found. Raises BadBackup,
    StorageFailed, InUse, ConfigError."""
    words = shelf.passphrase(config)
    try:
        with _in_words(f"Checking {path}"), workplace(data_dir(config)) as work:
            archive.check_whole(path, progress)
            names = {one.name for one in DATABASES}
            paper = archive.read(path, words, lambda entry: work / entry.name if entry.name in names else None, progress=progress)
            check_databases(path, work, paper)
    except BadBackup as error:
        shelf.note_check(path.parent, path.name, now, str(error))
        raise
    shelf.note_check(path.parent, path.name, now)
    return paper


def check_databases(path: Path, folder: Path, paper: Manifest) -> None:
    """The databases of a backup, which lie in `folder`, are whole. Raises BadBackup."""
    for one in DATABASES:
        if one.name in paper.schemas:
            try:
                connection.inspect_copy(folder / one.name)
            except sqlite3.Error as error:
                raise BadBackup(f"{one.name} in {path} is damaged: {error}.", remedy="Take another backup. A new one has the same fault where the service's own file has it.") from None


def check_version(path: Path, paper: Manifest, version: str) -> None:
    """This program can go on with what is in the backup; older schemas are brought up to date at the next start. Raises BadBackup."""
    remedy = f"Install version {paper.version} and restore it with that."
    if _numbers(paper.version) > _numbers(version):
        raise BadBackup(f"{path} was made by version {paper.version}; this is {version}, which may not know what is in it.", remedy=remedy)
    known = {one.name: one.schema for one in DATABASES}
    for name, steps in paper.schemas.items():
        if name not in known:
            raise BadBackup(f"{path} holds {name}, which this version does not know.", remedy=remedy)
        try:
            check_known(steps, known[name], Path(name), "")
        except StorageFailed as error:
            raise BadBackup(f"{path} cannot be restored by this version: {error.message}", remedy=remedy) from None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


@contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """An empty folder for copies in the data folder, for one at a time, empty again at the end; where there is no data folder, one for
    temporary files. Raises InUse, OSError."""
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as work:
            yield Path(work)
        return
    work = folder / WORK
    work.mkdir(mode=0o700, exist_ok=True)
    give_to_owner(work, folder)
    with held(work, InUse("Another backup is being made or checked.", remedy="Try again when that is done.")):
        empty(work)
        try:
            yield work
        finally:
            empty(work)


def empty(folder: Path) -> None:
    """Delete what is in a folder. Raises OSError."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
