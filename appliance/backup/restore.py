"""Putting a backup in the place of a data folder.

Everything is made ready in DIR.restoring, checked and on the disk before DIR is touched. Then two renames: DIR becomes
DIR.before-restore-TIME, DIR.restoring becomes DIR. A program killed before the first has changed nothing; between the two, the next restore
or the next start of the service makes the second.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from appliance import manifest
from appliance.backup import archive, shelf
from appliance.backup.archive import Entry, Manifest, Progress
from appliance.backup.contents import BACKUPS, CONFIGURATION, MODELS, SECRETS
from appliance.backup.create import check_databases, check_version, empty
from appliance.catalog import DEFAULT_FILE
from appliance.data_folder import COMPLETE, finish_switch, give_to_owner, held, restoring
from appliance.errors import ApplianceError, InUse, StorageFailed
from appliance.jobs import Jobs, lives
from appliance.storage import in_words, sync_folder
from appliance.trail import log as trail


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of it. made: when the backup was made, in Unix seconds. former: where the data of before lie, or None. missing: models whose weights are neither in the backup nor here."""

    folder: Path
    made: float
    former: Path | None = None
    missing: list[str] = field(default_factory=list)


def finish(folder: Path, name: str) -> bool:
    """Whether a restore of the backup of that name was interrupted between its two renames; it is finished then. To be called before
    `restore`, and before the backup is looked for: it may lie in the folder itself. Raises StorageFailed, PermissionDenied."""
    folder = folder.resolve()
    return finish_switch(folder) and _is_of(folder, name)


def restore(path: Path, folder: Path, words: bytes | None, version: str, now: float, progress: Progress = lambda count: None) -> Restored:
    """Restore a backup as the data folder `folder`. What no backup without weights holds (models, the backups themselves, keys of the box)
    stays as it is; see _take_over. words: the passphrase of an encrypted one.

    Raises InUse while a service, a job or another restore works with the folder, BadBackup, StorageFailed, PermissionDenied; then nothing
    is changed. May be killed at any time and run again.
    """
    path, folder = path.absolute(), folder.resolve()  # a link stays one, and what it leads to is replaced
    try:
        if os.path.ismount(folder):
            raise StorageFailed(f"{folder} is a mount point and cannot be replaced.", remedy="Restore into a folder on that disk (--into), and name that with data_dir.")
        with _alone(folder) as new:
            archive.check_whole(path, progress)
            empty(new)
            paper = _unpack(path, new, words, version, progress)
            missing = _take_over(folder, new, paper)
            _give_to_owner(folder, new)
            os.sync()  # Linux waits until all of it is on the disk
            marker = json.dumps({"backup": path.name, "made": paper.made, "restored": now}).encode()
            (new / COMPLETE).write_bytes(marker)
            give_to_owner(new / COMPLETE, new)
            os.sync()
            return Restored(folder, paper.made, _switch(folder, new, now), missing)
    except OSError as error:
        raise in_words(error, f"Restoring into {folder}", "Run the command as root." if error.errno in (errno.EACCES, errno.EPERM) else "") from None


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """The folder that will take the place of this one, both ours alone."""
    new = restoring(folder)
    busy = InUse(f"Another restore of {folder} is running.", remedy="Wait for its end.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _stopped(folder):
        new.mkdir(mode=0o700, exist_ok=True)
        with held(new, busy):
            if folder.exists():
                (new / COMPLETE).unlink(missing_ok=True)  # of one that was killed before it had changed anything
            try:
                yield new
            except BaseException:
                if not (new / COMPLETE).exists():  # else all is there, and DIR may be away already: the next run goes on
                    shutil.rmtree(new, ignore_errors=True)
                raise


@contextmanager
def _stopped(folder: Path) -> Iterator[None]:
    if not folder.exists():
        yield
    else:
        with held(folder, InUse(f"A service works with {folder}.", remedy="Stop it first: systemctl stop appliance.")):
            jobs = Jobs(folder / "jobs", {}, lambda level, sentence: None)
            jobs.open()
            if running := [job.title for job in jobs.all() if job.state == "running" and lives(job)]:
                raise InUse(f"The job {running[0]!r} still works with {folder}.", remedy="Wait for its end, or cancel it before the service is stopped.")
            yield


def _is_of(folder: Path, name: str) -> bool:
    try:
        return json.loads((folder / COMPLETE).read_text("utf-8"))["backup"] == name
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _unpack(path: Path, new: Path, words: bytes | None, version: str, progress: Progress) -> Manifest:
    def place(entry: Entry) -> Path:
        target = new / entry.name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return target

    paper = archive.read(path, words, place, lambda found: check_version(path, found, version), progress)
    check_databases(path, new, paper)
    return paper


def _take_over(folder: Path, new: Path, paper: Manifest) -> list[str]:
    """Bring over what the backup does not hold: the backups, models, and keys of the box where it has none; and the audit log, which no
    backup takes back. Files that are never changed in place are linked. A model that is here stays as it is unless the backup has its weights. Returns the
    models without weights."""
    for path in (folder / BACKUPS, folder / MODELS, *(folder / name for name in SECRETS), *folder.glob(f"{MODELS}/*"), *folder.glob("audit.*")):
        if path.is_symlink():  # it might lead root, who restores, to files that are not the service's
            raise StorageFailed(f"{path} is a link; nothing is restored beside it.", remedy="Remove the link, or move what it leads to into the data folder.")
    _link_tree(folder / BACKUPS, new / BACKUPS)
    for name in SECRETS:
        if (folder / name).is_dir() and not (new / name).exists():
            shutil.copytree(folder / name, new / name, symlinks=True)
    if (folder / trail.FILE).exists():
        if (new / trail.FILE).exists():  # of another box, perhaps: whoever moved house wants to keep it
            (new / CONFIGURATION).mkdir(mode=0o700, exist_ok=True)
            (new / trail.FILE).rename(new / CONFIGURATION / trail.FILE)
        for path in [*folder.glob(f"{trail.FILE}*"), *folder.glob(trail.HEAD_FILE)]:
            shutil.copy2(path, new)
    elif (new / trail.FILE).exists():
        trail.write_head(new)
    here = folder / MODELS
    for model in sorted(here.iterdir()) if here.is_dir() else ():
        if model.name.startswith(".") or model.name == DEFAULT_FILE or (paper.models and (new / MODELS / model.name).is_dir()):
            continue
        if model.is_dir():
            shutil.rmtree(new / MODELS / model.name, ignore_errors=True)
            _link_tree(model, new / MODELS / model.name)
    return [model.name for model in sorted((new / MODELS).iterdir()) if model.is_dir() and not _has_weights(model)] if (new / MODELS).is_dir() else []


def _has_weights(model: Path) -> bool:
    try:
        return all((model / file.path).is_file() for file in manifest.read(model / manifest.FILE_NAME).files)
    except ApplianceError:
        return True  # nobody knows what belongs to it; the catalog says so


def _link_tree(source: Path, target: Path) -> None:
    if source.is_dir():
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copytree(source, target, symlinks=True, copy_function=_link)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copy2(source, target, follow_symlinks=False)  # another disk, or one that knows no links
    return target


def _give_to_owner(folder: Path, new: Path) -> None:
    """As the folder that is replaced, or the one it will lie in."""
    model = folder if folder.exists() else folder.parent
    if folder.exists():
        new.chmod(folder.stat().st_mode & 0o7777)
    for place, _, files in os.walk(new):
        for path in (Path(place), *(Path(place, name) for name in files)):
            give_to_owner(path, model)


def _switch(folder: Path, new: Path, now: float) -> Path | None:
    former = None
    if folder.exists() and any(folder.iterdir()):
        former = _free(folder.with_name(f"{folder.name}.before-restore-{time.strftime(shelf.STAMP, time.gmtime(now))}"))
        try:
            folder.rename(former)
        except OSError:
            (new / COMPLETE).unlink()
            raise
    new.rename(folder)
    sync_folder(folder.parent)
    return former


def _free(path: Path) -> Path:
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found
