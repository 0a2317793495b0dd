"""The file of a backup: tar in gzip, encrypted or not, written and read as a stream.

The first member is `manifest.json`, which lists the others in their order with size and SHA-256. After the stream comes SEAL_BYTES: an empty
gzip member (RFC 1952) whose extra field holds the SHA-256 of all bytes before it. So a file that was changed or cut off anywhere is known as
such, also without the passphrase, and `tar -xzf` reads what is not encrypted.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from appliance.backup.contents import Member
from appliance.backup.encryption import MAGIC, PASSPHRASE, Opening, Sealing, Sink
from appliance.errors import BadBackup, ConfigError, StorageFailed
from appliance.storage import in_words

FORMAT = 1
MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 64 << 20
PIECE = 1 << 20
LEVEL = 1
"""Weights hardly get smaller at any level, and the box has other work."""
_SEAL_HEAD = struct.pack("<4sIBBH2sH", b"\x1f\x8b\x08\x04", 0, 0, 255, 4 + 32, b"AS", 32)
_SEAL_END = b"\x03\x00" + bytes(8)
SEAL_BYTES = len(_SEAL_HEAD) + 32 + len(_SEAL_END)
Progress = Callable[[int], object]
"""Is told how many more bytes are done."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A member as the manifest has it."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself. made: Unix seconds. schemas: the steps that each database has had. The three last: what was asked for."""

    made: float
    version: str
    host: str
    schemas: dict[str, list[str]]
    entries: tuple[Entry, ...]
    models: bool = False
    cache: bool = False
    secrets: bool = False
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Bytes of all members."""
        return sum(entry.size for entry in self.entries)


def is_encrypted(path: Path) -> bool:
    """Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def described(members: Iterable[Member]) -> tuple[Entry, ...]:
    """The members with their digests; reads all of them. Raises OSError."""
    found = []
    for member in members:
        with _data(member) as data:
            digest, size = hashlib.sha256(), 0
            while piece := data.read(PIECE):
                digest.update(piece)
                size += len(piece)
            found.append(Entry(member.name, size, digest.hexdigest()))
    return tuple(found)


def _data(member: Member) -> BinaryIO:
    return member.path.open("rb") if member.path else io.BytesIO(member.data)


# -- writing -------------------------------------------------------------------------------------------------------------------


class _Hashing:
    """Passes on what is written, or gives out what is read, and knows the SHA-256 of it."""

    def __init__(self, file: Any, progress: Progress | None = None) -> None:
        self._file, self._progress, self.digest = file, progress, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        self._file.write(data)

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        if self._progress:
            self._progress(len(data))
        return data


class _Zipping:
    """What tarfile writes to. gzip.GzipFile would try to write once more after a full disk, when it is collected."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self._zip, self._at = sink, zlib.compressobj(LEVEL, wbits=31), 0  # 31: with gzip's header and CRC

    def write(self, data: bytes) -> None:
        self._at += len(data)
        self._sink.write(self._zip.compress(data))

    def tell(self) -> int:
        return self._at

    def finish(self) -> None:
        self._sink.write(self._zip.flush())


def write(file: BinaryIO, paper: Manifest, members: Iterable[Member], passphrase: bytes | None, progress: Progress = lambda count: None) -> None:
    """Write a backup; the members are those of paper.entries, in their order. Raises OSError; StorageFailed for one that has changed."""
    whole = _Hashing(file)
    sealing = Sealing(whole, passphrase) if passphrase else None
    zipping = _Zipping(sealing or whole)
    tar = tarfile.TarFile(fileobj=zipping, mode="w", format=tarfile.PAX_FORMAT, copybufsize=PIECE)  # type: ignore[arg-type]
    words = json.dumps(asdict(paper), indent=1).encode()
    tar.addfile(_header(MANIFEST, len(words), paper.made), io.BytesIO(words))
    for entry, member in zip(paper.entries, members, strict=True):
        with _data(member) as data:
            read = _Hashing(data, progress)
            try:
                tar.addfile(_header(entry.name, entry.size, paper.made), read)  # type: ignore[arg-type]
            except OSError as error:
                if error.errno is not None:
                    raise
            if read.digest.hexdigest() != entry.sha256:  # also where tarfile found it too short
                raise StorageFailed(f"{member.path} was changed while it was being copied.", remedy="Make the backup again.")
    tar.close()
    zipping.finish()
    if sealing:
        sealing.finish()
    file.write(_SEAL_HEAD + whole.digest.digest() + _SEAL_END)


def _header(name: str, size: int, made: float) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(made)
    return info


# -- reading -------------------------------------------------------------------------------------------------------------------


class _Front:
    """A file without its last SEAL_BYTES."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file, self._left, self._progress = file, os.fstat(file.fileno()).st_size - SEAL_BYTES, progress

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(max(0, self._left if size < 0 else min(size, self._left)))
        self._left -= len(data)
        self._progress(len(data))
        return data


class _Told:
    """Reads a stream; what goes wrong is told in words."""

    def __init__(self, path: Path, stream: Any) -> None:
        self._path, self._stream = path, stream

    def read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _bad(self._path, str(error)) from None
        except OSError as error:
            raise in_words(error, f"Reading {self._path}") from None


def _bad(path: Path, why: str) -> BadBackup:
    return BadBackup(f"{path} is damaged: {why.rstrip('.')}.", remedy="Take another backup.")


def check_whole(path: Path, progress: Progress = lambda count: None) -> None:
    """Read every byte: is it as it was written? Needs no passphrase. Raises BadBackup, StorageFailed."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            front = _Front(file, progress)
            while piece := front.read(PIECE):
                digest.update(piece)
            seal = file.read(SEAL_BYTES)
    except FileNotFoundError:
        raise BadBackup(f"There is no backup {path}.", remedy="`appliance backup list` shows what there is.") from None
    except OSError as error:
        raise in_words(error, f"Reading {path}") from None
    if not (seal.startswith(_SEAL_HEAD) and seal.endswith(_SEAL_END) and len(seal) == SEAL_BYTES):
        raise BadBackup(f"{path} is no backup of this program, or its end is missing.", remedy="Take another one, or copy it again.")
    if seal[len(_SEAL_HEAD):-len(_SEAL_END)] != digest.digest():
        raise _bad(path, "its bytes are not those that were written")


def read(
    path: Path,
    passphrase: bytes | None,
    place: Callable[[Entry], Path | None],
    check: Callable[[Manifest], object] = lambda paper: None,
    progress: Progress = lambda count: None,
) -> Manifest:
    """Read all members, and compare each with the manifest. place: a new file for a member, in an existing folder, or None. check: sees
    the manifest before that. Raises BadBackup, ConfigError for the passphrase, StorageFailed, OSError from writing, and what check raises."""
    with _members(path, passphrase, progress) as (paper, stream):
        check(paper)
        for entry in paper.entries:
            data = next(stream, None)
            if data is None or (data[0].name, data[0].size, data[0].isreg()) != (entry.name, entry.size, True):
                raise _bad(path, f"{entry.name} is missing")
            target = place(entry)
            with open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600) if target else os.open(os.devnull, os.O_WRONLY), "wb") as file:
                digest = hashlib.sha256()
                while piece := data[1].read(PIECE):
                    digest.update(piece)
                    file.write(piece)
                if target:
                    file.flush()
                    os.fsync(file.fileno())
            if digest.hexdigest() != entry.sha256:
                raise _bad(path, f"{entry.name} is not what its manifest says")
        if extra := next(stream, None):
            raise _bad(path, f"{extra[0].name} is not in its manifest")
        return paper


def read_manifest(path: Path, passphrase: bytes | None) -> Manifest:
    """What the backup says of itself, without reading the rest. Raises BadBackup, ConfigError, StorageFailed."""
    with _members(path, passphrase, lambda count: None) as (paper, _):
        return paper


@contextmanager
def _members(path: Path, passphrase: bytes | None, progress: Progress) -> Iterator[tuple[Manifest, Iterator[tuple[tarfile.TarInfo, Any]]]]:
    try:
        file = path.open("rb")
        encrypted = is_encrypted(path)
    except OSError as error:
        raise in_words(error, f"Reading {path}") from None
    with file:
        if encrypted and not passphrase:
            raise ConfigError(f"{path} is encrypted, and there is no passphrase.", param="backup_passphrase_file", remedy=PASSPHRASE)
        front: Any = _Front(file, progress)
        unzipped = gzip.GzipFile(fileobj=Opening(front, passphrase or b"") if encrypted else front, mode="rb")
        try:
            with tarfile.open(fileobj=_Told(path, unzipped), mode="r|", bufsize=PIECE) as tar:  # type: ignore[call-overload]
                stream = _each(path, tar)
                info, data = next(stream, (None, None))
                if info is None or info.name != MANIFEST or info.size > MOST_MANIFEST_BYTES:
                    raise _bad(path, f"it does not begin with {MANIFEST}")
                yield _parsed(path, data.read()), stream
        except tarfile.TarError as error:
            raise _bad(path, str(error)) from None


def _each(path: Path, tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, Any]]:
    for info in tar:
        yield info, tar.extractfile(info) if info.isreg() else io.BytesIO()


def _parsed(path: Path, data: bytes) -> Manifest:
    try:
        found = json.loads(data)
        if found["format"] != FORMAT:
            raise BadBackup(f"{path} is of another form ({found['format']!r}) than this version knows.", remedy="Restore it with the version that made it, or a newer one.")
        fields = {name: found[name] for name in ("models", "cache", "secrets")}
        schemas = {str(name): list(map(str, steps)) for name, steps in found["schemas"].items()}
        entries = tuple(Entry(str(one["name"]), int(one["size"]), str(one["sha256"])) for one in found["entries"])
        paper = Manifest(float(found["made"]), str(found["version"]), str(found["host"]), schemas, entries, **fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _bad(path, f"its {MANIFEST} cannot be read ({error})") from None
    names = [entry.name for entry in entries]
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or name != "/".join(parts) or parts[0] == "/" or ".." in parts or "\0" in name:
            raise _bad(path, f"{name!r} is no name for a file of a backup")
    if len(set(names)) != len(names):
        raise _bad(path, "a name is there twice")
    return paper
