"""Writing files so that a reader, and a power cut, sees the old one or the new one and nothing between."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from appliance.errors import ApplianceError, PermissionDenied, StorageFailed


def write_atomically(path: Path, data: bytes, *, durable: bool = True, secret: bool = False) -> None:
    """Replace `path` by a file with `data`; its folder must exist. durable: on the disk when this returns. secret: only its owner may
    read it. Where root writes it belongs to whom the folder belongs.

    Raises OSError; then the old file is still there and no other is left behind.
    """
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(number, "wb") as file:
            if not secret:
                os.fchmod(file.fileno(), 0o644)  # mkstemp allows the owner only, but the service may be another user
            if os.geteuid() == 0:  # what root writes among the service's files must not be in its way
                folder = os.stat(path.parent)
                os.fchown(file.fileno(), folder.st_uid, folder.st_gid)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk. A filesystem that cannot do that for folders is left alone."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


def in_words(error: OSError, doing: str, remedy: str = "") -> ApplianceError:
    """The error for a person: StorageFailed, or PermissionDenied. doing: "writing FILE"."""
    what = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(f"{doing} is not allowed: {what}.", remedy=remedy or "Run the command as the user whom the folder belongs to.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFailed(f"{doing} failed: the disk is full.", remedy=remedy or "Free some space and try again.")
    return StorageFailed(f"{doing} failed: {what}.", remedy=remedy or "Check the disk (dmesg), then try again.")
