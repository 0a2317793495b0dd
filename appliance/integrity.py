"""Are a model's files still what its manifest says? A full SHA-256, or one remembered for a file that did not change.

A remembered hash counts only while size, mtime, ctime, inode and device are the same: a file that was swapped for one of
the same size and date has another inode or ctime. What nobody wrote (a bit that flips on the disk) only a full check sees.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.errors import Draining, ModelFileError, ModelFileMissing
from appliance.manifest import Manifest, ModelFile
from appliance.storage import in_words, write_atomically

CHUNK_BYTES = 1 << 20
SETTLE_NS = 50_000_000
"""File times move in ticks of up to 10 ms: two writes within one tick leave the same ctime."""
Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call."""
Stopping = Callable[[], bool]


class HashCache:
    """Hashes by path, kept in a JSON file that may be deleted at any time. path None: kept in memory only.

    For use by several threads, and by several processes at the same time: the last one to write wins, and what was lost
    is computed again.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def sha256(self, path: Path, *, full: bool = False, progress: Progress | None = None, stopping: Stopping | None = None) -> tuple[str, bool]:
        """(The SHA-256 of a file in hexadecimal, whether it was read for it now). full: read it in any case.

        Raises OSError, and Draining as soon as `stopping()` is true.
        """
        key = os.path.realpath(path)
        if not full:
            known = self._load().get(key)
            if known and known.get("identity") == _identity(os.stat(key)):
                if progress:
                    progress(known["identity"][0])
                return known["sha256"], False
        found = _read_sha256(key, progress, stopping)
        self.remember(path, found)
        return found, True

    def unchanged(self, path: Path) -> bool | None:
        """Whether a file is as it was when its hash was remembered; None where none is. Raises OSError."""
        known = self._load().get(os.path.realpath(path))
        return None if known is None else known["identity"] == _identity(os.stat(path))

    def remember(self, path: Path, sha256: str) -> None:
        """Keep the hash of a file that has just been read or written whole."""
        key = os.path.realpath(path)
        with self._lock:
            known = self._load() | {key: {"identity": _identity(os.stat(key)), "sha256": sha256}}
            self._known = {name: row for name, row in known.items() if os.path.exists(name)}
            if self._path is None:
                return
            data = json.dumps({"version": 1, "files": self._known}, indent=1).encode()
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, data, durable=False)
            except OSError:
                pass  # a data folder that cannot be written costs time at the next start, nothing else

    def _load(self) -> dict[str, dict[str, Any]]:
        """What is in the file and in memory; whatever does not look right is left out."""
        if self._path is None:
            return self._known
        try:
            rows = json.loads(self._path.read_bytes())["files"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return self._known
        return {name: row for name, row in rows if _looks_right(row)} | self._known


def _looks_right(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("sha256"), str) or not isinstance(row.get("identity"), list):
        return False
    return len(row["identity"]) == 5 and all(type(number) is int for number in row["identity"])


def _identity(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _read_sha256(path: str, progress: Progress | None, stopping: Stopping | None) -> str:
    with open(path, "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        if abs(time.time_ns() - before.st_ctime_ns) < SETTLE_NS:
            time.sleep(SETTLE_NS / 1e9)  # a write after this has a later ctime than the one remembered
            before = os.fstat(file.fileno())
        digest, buffer, left = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES)), before.st_size
        while left and (count := file.readinto(buffer[:left])):  # no more than there was: a file that grows has no end
            left -= count
            digest.update(buffer[:count])
            if progress:
                progress(count)
            if stopping and stopping():
                raise Draining("The service is stopping.")
        if _identity(os.fstat(file.fileno())) != _identity(before):
            raise ModelFileError(f"{path} was changed while it was read.", remedy="Try again when nothing writes to it.")
    return digest.hexdigest()


def check(
    folder: Path,
    manifest: Manifest,
    hashes: HashCache,
    *,
    full: bool = False,
    progress: Progress | None = None,
    stopping: Stopping | None = None,
) -> None:
    """Return when every file of a model is what its manifest says. full: read them all, whatever is remembered.

    Raises ModelFileMissing or ModelFileError that names the file, what was expected, what was found and what to do;
    StorageFailed or PermissionDenied for a file that cannot be read; Draining as soon as `stopping()` is true.
    """
    remedy = _remedy(manifest)
    for file in manifest.files:  # first what costs nothing
        _check_place(folder, file, manifest, remedy)
    for file in manifest.files:
        path = folder / file.path
        try:
            found, fresh = hashes.sha256(path, full=full, progress=progress, stopping=stopping)
            if found != file.sha256 and not fresh:  # never refuse a file on hearsay
                found, _ = hashes.sha256(path, full=True, stopping=stopping)
        except FileNotFoundError:
            raise ModelFileMissing(f"The model {manifest.name} lacks its file {path}.", remedy=remedy) from None
        except OSError as error:
            raise in_words(error, f"Reading {path}", remedy if not isinstance(error, PermissionError) else "") from None
        if found != file.sha256:
            raise ModelFileError(
                f"{path} is not the file that belongs to the model {manifest.name}: SHA-256 {file.sha256} was expected, "
                f"{found} was found. It was changed or has been damaged on the disk.",
                remedy=remedy,
            )


def _check_place(folder: Path, file: ModelFile, manifest: Manifest, remedy: str) -> None:
    path, base = folder / file.path, os.path.realpath(folder)
    if os.path.commonpath([base, os.path.realpath(path)]) != base:
        raise ModelFileError(f"{path} is a link that leaves the model's folder.", remedy="Put the file itself there.")
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFileMissing(f"The model {manifest.name} lacks its file {path}.", remedy=remedy) from None
    except OSError as error:
        raise in_words(error, f"Reading {path}") from None
    if not stat.S_ISREG(found.st_mode):
        raise ModelFileError(f"{path} is not a regular file.", remedy=remedy)
    if found.st_size != file.size_bytes:
        raise ModelFileError(
            f"{path} is not the file that belongs to the model {manifest.name}: {file.size_bytes} bytes were expected, "
            f"{found.st_size} were found.",
            remedy=remedy,
        )


def _remedy(manifest: Manifest) -> str:
    source = f" (it came from {manifest.provenance.source})" if manifest.provenance.source else ""
    return f"Remove the model and add it again{source}; if it was replaced on purpose, restart the service."
