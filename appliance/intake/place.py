"""Folders that appear and vanish in one step: the half-finished and the half-deleted have names that the catalog skips."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import Unavailable
from appliance.storage import sync_folder

INCOMING = ".incoming-"
TRASH = ".trash-"
LOCK = ".lock-"


@contextmanager
def lock(models: Path, name: str) -> Iterator[None]:
    """Only one process at a time adds a model of this name; the kernel frees the lock when its holder dies.

    Raises Unavailable when another one is at it.
    """
    path = models / f"{LOCK}{name}"
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(number), os.stat(path))  # not one that its last holder has just deleted
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise Unavailable(f"Another command is adding {name} just now.", remedy="Wait for it, or choose another --name.")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(number)


def keep_only(folder: Path, wanted: set[str]) -> None:
    """Make `folder` if there is none, and delete what is in it but not among these relative paths."""
    folder.mkdir(exist_ok=True)
    for base, folders, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(base, name)
            if path.is_symlink() or not path.is_file() or path.relative_to(folder).as_posix() not in wanted:
                path.unlink()
        for name in folders:
            path = Path(base, name)
            if path.is_symlink():
                path.unlink()
            elif not any(path.iterdir()):
                path.rmdir()


def unfinished(models: Path) -> dict[str, int]:
    """Names that were begun to be added and are not complete, with the bytes they hold."""
    if not models.is_dir():
        return {}
    folders = sorted(child for child in models.iterdir() if child.name.startswith(INCOMING) and child.is_dir())
    return {folder.name.removeprefix(INCOMING): sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders}


def remove(folder: Path) -> None:
    """Delete a model's folder: gone from the catalog at once, then from the disk. Raises OSError."""
    trash = folder.parent / f"{TRASH}{os.getpid()}-{folder.name.lstrip('.')}"
    os.rename(folder, trash)
    sync_folder(folder.parent)
    if trash.is_symlink():
        trash.unlink()  # a link to a folder elsewhere: that one is not ours
    else:
        try:
            shutil.rmtree(trash)
        except FileNotFoundError:
            pass  # another command is sweeping


def drop_if_empty(folder: Path) -> None:
    """Delete a folder in which there is no byte worth going on from."""
    if folder.is_dir() and not any(file.is_file() and file.stat().st_size for file in folder.rglob("*")):
        shutil.rmtree(folder, ignore_errors=True)


def sweep(models: Path) -> None:
    """Delete what earlier removals did not get done with."""
    for child in models.iterdir():
        if child.name.startswith(TRASH):
            child.unlink() if child.is_symlink() else shutil.rmtree(child, ignore_errors=True)
