"""The data folder as a whole: who works with it, and how another one takes its place.

The lock is an flock(2) on the folder itself: no file is left behind, it goes with the folder when that is renamed, and the kernel takes it
from a process that dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import InUse
from appliance.storage import in_words, sync_folder

COMPLETE = ".restored"
"""In a folder that was restored whole; says of which backup."""


def restoring(folder: Path) -> Path:
    """Where the folder lies that is being restored and will take this one's place."""
    return folder.with_name(f"{folder.name}.restoring")


@contextmanager
def held(folder: Path, refusal: InUse, *, alone: bool = True) -> Iterator[None]:
    """Work with an existing folder, alone or beside others that do not want it alone. Raises `refusal` at once where that cannot be, OSError."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(number, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusal from None
        yield
    finally:
        os.close(number)


@contextmanager
def served(folder: Path) -> Iterator[None]:
    """For a service or a command that writes: while it works with the folder nothing is restored there. Makes it, or ends a restore that was killed. Raises InUse while
    one runs, StorageFailed, OSError."""
    finish_switch(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder, InUse(f"{folder} is being restored from a backup.", remedy="Start again when that is done.", retry_after_s=10), alone=False):
        yield


def give_to_owner(path: Path, folder: Path) -> None:
    """What root makes belongs to the owner of that folder, so that the service can go on with it. Raises OSError."""
    owner, found = folder.stat(), path.lstat()
    if os.geteuid() == 0 and (owner.st_uid, owner.st_gid) != (found.st_uid, found.st_gid):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def finish_switch(folder: Path) -> bool:
    """Put a restored folder in its place, where a restore was killed between its last two steps. Raises StorageFailed, PermissionDenied."""
    new = restoring(folder)
    if not (new / COMPLETE).is_file() or (folder.exists() and any(path.is_file() for path in folder.rglob("*"))):
        return False
    try:
        for place in sorted((folder, *folder.rglob("*")), reverse=True) if folder.exists() else ():
            place.rmdir()  # systemd makes empty ones before the service is started
        new.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTEMPTY) and folder.exists():
            return False  # somebody else was faster
        if error.errno in (errno.EACCES, errno.EPERM):  # the service, whose folder lies in one of root's: better not at all than without its data
            raise InUse(f"A restore into {folder} was interrupted.", remedy="Run `appliance backup restore` with the same backup again, as root: it ends what was begun.") from None
        raise in_words(error, f"Renaming {new} to {folder}", "Run `appliance backup restore` again, as root: it ends what was begun.") from None
    return True
