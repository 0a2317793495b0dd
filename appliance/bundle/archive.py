"""A bundle, read: what it holds, and whether it is what its maker made. Standard library only, besides the check of signatures.

A bundle is a shell script of SCRIPT_BYTES and a tar archive behind it, so that one file is carried to a box and run there. It may
also be a folder into which that archive was unpacked. The first two members are `manifest.json`, which has the size and the
SHA-256 of every other member, and `manifest.sig`, an Ed25519 signature (RFC 8032) over the bytes of the manifest with the key
that made it. A bundle made against an installed version leaves out files that this version has; the manifest names them all the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from appliance.errors import BadBundle

FORMAT = 1
SCRIPT_BYTES = 4096
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MOST_MANIFEST_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 1 << 20
NEEDED_WHEELS = tuple(f"wheels/{name}-" for name in ("appliance", "cryptography", "cffi", "pycparser"))
"""What the installer is and needs. install.sh takes them out of a bundle too."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a bundle. carried: whether it is in it, or expected of an installed version."""

    name: str
    size: int
    sha256: str
    carried: bool = True


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself. version: of the appliance; arch: as `uname -m` says; pythons: such as "3.11"; glibc: the oldest
    C library that its wheels run with; cpu: "portable", or "native" for the CPU of its maker only; made: an ISO date and time;
    since: the version that it needs to be installed, ''."""

    version: str
    arch: str
    pythons: tuple[str, ...]
    glibc: str
    cpu: str
    made: str
    since: str
    members: dict[str, Member] = field(repr=False)
    raw: bytes = field(repr=False, compare=False)

    def installed_bytes(self) -> int:
        """The size of all files, carried or not."""
        return sum(member.size for member in self.members.values())


def parse_manifest(raw: bytes) -> Manifest:
    """Raises BadBundle for what is no manifest, has a name that leads out of its folder, or is of a later format."""
    try:
        found = json.loads(raw)
        if not isinstance(found, dict):
            raise TypeError
        if found["format"] != FORMAT:
            raise BadBundle(f"The bundle is of format {found['format']}; this version reads format {FORMAT}.", remedy="Install with the install.sh that is in the bundle.")
        members = {name: _member(name, row) for name, row in found["files"].items()}
        texts = [found[name] for name in ("version", "arch", "glibc", "cpu", "made", "since")]
        if not all(isinstance(text, str) for text in [*texts, *found["pythons"]]):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadBundle(f"The bundle's {MANIFEST} cannot be read: {error!r}.", remedy="Copy the bundle again.") from None
    version, arch, glibc, cpu, made, since = texts
    return Manifest(version, arch, tuple(found["pythons"]), glibc, cpu, made, since, members, raw)


def _member(name: str, row: dict[str, Any]) -> Member:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or name in ("", ".", MANIFEST, SIGNATURE) or "\0" in name:
        raise BadBundle(f"The bundle names a file {name!r}.", remedy="Do not install it.")
    size, digest = row["size"], row["sha256"]
    if not isinstance(size, int) or size < 0 or len(digest) != 64:
        raise ValueError(name)
    return Member(name, size, digest, bool(row.get("carried", True)))


class Bundle:
    """An open bundle, from `opened`. Used by one thread."""

    def __init__(self, path: Path, tar: tarfile.TarFile | None) -> None:
        self.path, self._tar = path, tar
        with self._open(MANIFEST) as file:
            self.manifest = parse_manifest(file.read(MOST_MANIFEST_BYTES))
        try:
            with self._open(SIGNATURE) as file:
                self.signature = file.read(4096)
            self._key, self._signature = (base64.b64decode(word, validate=True) for word in self.signature.split())
        except (ValueError, binascii.Error):
            raise BadBundle(f"{path} has no signature that can be read.", remedy="Get the bundle again from who made it.") from None

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        try:
            if self._tar:
                member = self._tar.next() if name == MANIFEST else self._tar.getmember(name)
                if member is None or member.name != name:
                    raise KeyError(name)
                file = self._tar.extractfile(member)
                if file is None:
                    raise KeyError(name)
            else:
                file = (self.path / name).open("rb")
        except (KeyError, FileNotFoundError):
            raise BadBundle(f"{self.path} has no {name}: it is cut off, or no bundle of the appliance.", remedy="Copy the bundle again.") from None
        with file:
            yield file

    @property
    def key(self) -> str:
        """The public key that it is signed with, in base64."""
        return base64.b64encode(self._key).decode()

    def check_signature(self, trusted: str = "") -> None:
        """That the manifest is signed, and by `trusted` if one is given (base64). Needs `cryptography`. Raises BadBundle."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        if trusted and trusted != self.key:
            raise BadBundle(
                f"The bundle is signed with the key {fingerprint(self.key)}; this box trusts {fingerprint(trusted)}.",
                remedy="Do not install it unless its maker says that the key has changed; then give the new public key with --key.",
            )
        try:
            Ed25519PublicKey.from_public_bytes(self._key).verify(self._signature, self.manifest.raw)
        except (InvalidSignature, ValueError):
            raise BadBundle("The bundle's signature does not fit: somebody or something changed it.", remedy="Get the bundle again from who made it.") from None

    def check_files(self, tell: Callable[[int], None] = lambda done: None) -> None:
        """That every carried file is there with the content that the manifest says, and no other. tell: bytes done. Raises BadBundle."""
        for _member, _ in self.files(tell):
            pass

    def files(self, tell: Callable[[int], None] = lambda done: None, into: Callable[[Member], IO[bytes] | None] = lambda member: None) -> Iterator[tuple[Member, IO[bytes] | None]]:
        """Each carried member once it was read and found right, with what `into` gave for it, into which it was written.

        Raises BadBundle at the first fault and OSError where writing fails; a file that is given is the caller's to close."""
        expected = {name: member for name, member in self.manifest.members.items() if member.carried}
        done = 0
        for name, file in self._contents():
            member = expected.pop(name, None)
            if member is None:
                raise BadBundle(f"The bundle holds {name!r}, which its manifest does not know.", remedy="Do not install it.")
            target, digest, size = into(member), hashlib.sha256(), 0
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                if target:
                    target.write(chunk)
                tell(done + size)
            if size != member.size or digest.hexdigest() != member.sha256:
                raise BadBundle(f"{name} in the bundle is damaged.", remedy="Copy the bundle again, and check the stick.")
            done += size
            yield member, target
        if expected:
            raise BadBundle(f"The bundle lacks {min(expected)}{f' and {len(expected) - 1} more' if len(expected) > 1 else ''}: it is cut off.", remedy="Copy the bundle again.")

    def _contents(self) -> Iterator[tuple[str, IO[bytes]]]:
        if self._tar is None:
            for name, member in self.manifest.members.items():
                if member.carried:
                    with self._open(name) as file:
                        yield name, file
            return
        for info in self._tar:
            if info.name in (MANIFEST, SIGNATURE):
                continue
            file = self._tar.extractfile(info) if info.isreg() else None
            if file is None:
                raise BadBundle(f"The bundle holds {info.name!r}, which is no file.", remedy="Do not install it.")
            yield info.name, file


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """The bundle at `path`, a file or a folder. Raises BadBundle, OSError."""
    if path.is_dir():
        yield Bundle(path, None)
        return
    with path.open("rb") as file:
        if not file.read(2) == b"#!" or file.seek(0, io.SEEK_END) < SCRIPT_BYTES:
            raise BadBundle(f"{path} is no bundle of the appliance.", remedy="A bundle is a file such as appliance-1.2.3-x86_64.run.")
        file.seek(SCRIPT_BYTES)
        try:
            with tarfile.open(fileobj=_From(file, SCRIPT_BYTES), mode="r:") as tar:
                yield Bundle(path, tar)
        except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
            raise BadBundle(f"{path} is damaged: {error}.", remedy="Copy the bundle again.") from None


class _From(io.RawIOBase):
    """A file whose beginning lies at an offset of another."""

    def __init__(self, file: IO[bytes], offset: int) -> None:
        self._file, self._offset = file, offset

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See io.RawIOBase."""
        return self._file.readinto(buffer)  # type: ignore[attr-defined]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See io.IOBase."""
        return self._file.seek(offset + (self._offset if whence == io.SEEK_SET else 0), whence) - self._offset

    def tell(self) -> int:
        """See io.IOBase."""
        return self._file.tell() - self._offset


def fingerprint(key: str) -> str:
    """How a person compares keys: the first 16 bytes of the SHA-256 of a key in base64, in groups of four."""
    digest = hashlib.sha256(base64.b64decode(key)).hexdigest()[:32]
    return " ".join(digest[at : at + 4] for at in range(0, 32, 4))
