"""Encrypted streams: a key from a passphrase by scrypt (RFC 7914), then AES-256-GCM in chunks. The only importer of cryptography here.

The STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance"
(2015): a nonce is 7 random bytes, 4 bytes that count, and one that marks the last chunk, so no chunk can be changed, moved, left out or cut
off. A file:

    magic 16 | log2 N, r, p: 1 byte each | salt 16 | nonce 7 | HMAC-SHA-256 of all before 32 | chunks of CHUNK + 16 bytes, the last shorter
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from typing import BinaryIO, Protocol

from appliance.errors import BadBackup, ConfigError

MAGIC = b"appliance-sealed"
CHUNK = 1 << 16
TAG = 16
COST = (16, 8, 2)
"""scrypt's log2 N, r and p: 64 MB and a few tenths of a second for each guess (OWASP's Password Storage Cheat Sheet)."""
PASSPHRASE = "Name the file that has it: --backup-passphrase-file, or the setting of that name."
MOST_COST = (18, 8, 4)
_HEAD = struct.Struct("!16s3B16s7s")
HEADER = _HEAD.size + 32


class Sink(Protocol):
    """What can be written to."""

    def write(self, data: bytes, /) -> object:
        """Take all of it."""


def _keys(passphrase: bytes, salt: bytes, cost: tuple[int, int, int]) -> tuple[bytes, bytes]:
    """(for the chunks, for the header)."""
    log_n, r, p = cost
    both = hashlib.scrypt(passphrase, salt=salt, n=1 << log_n, r=r, p=p, maxmem=256 * r * (1 << log_n), dklen=64)
    return both[:32], both[32:]


def _nonce(start: bytes, number: int, last: bool) -> bytes:
    return start + struct.pack("!IB", number, last)


class Sealing:
    """Encrypts what is written; `finish` writes the last chunk. At most 2**32 chunks, 256 TB. One thread."""

    def __init__(self, sink: Sink, passphrase: bytes, *, cost: tuple[int, int, int] = COST) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._sink, self._start, salt = sink, os.urandom(7), os.urandom(16)
        key, header_key = _keys(passphrase, salt, cost)
        head = _HEAD.pack(MAGIC, *cost, salt, self._start)
        sink.write(head + hmac.digest(header_key, head, "sha256"))
        self._cipher, self._number, self._waiting = AESGCM(key), 0, bytearray()

    def write(self, data: bytes) -> None:
        """Any number of bytes."""
        self._waiting += data
        while len(self._waiting) > CHUNK:  # the last chunk is never empty but for an empty stream, so one is kept back
            self._seal(bytes(self._waiting[:CHUNK]), last=False)
            del self._waiting[:CHUNK]

    def finish(self) -> None:
        """The end of the stream."""
        self._seal(bytes(self._waiting), last=True)

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        self._sink.write(self._cipher.encrypt(_nonce(self._start, self._number, last), chunk, None))
        self._number += 1


class Opening:
    """Decrypts a stream that is read; raises BadBackup in place of giving out a byte that was not sealed so, ConfigError for another
    passphrase. One thread."""

    def __init__(self, source: BinaryIO, passphrase: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        head = source.read(HEADER)
        if len(head) < HEADER or not head.startswith(MAGIC):
            raise BadBackup("This is no encrypted backup, or its beginning is damaged.")
        _, *cost, salt, self._start = _HEAD.unpack_from(head)
        if any(value > most for value, most in zip(cost, MOST_COST, strict=True)) or 0 in cost:
            raise BadBackup("The beginning of the backup is damaged: no passphrase costs so much to check.")
        key, header_key = _keys(passphrase, salt, tuple(cost))
        if not hmac.compare_digest(hmac.digest(header_key, head[: _HEAD.size], "sha256"), head[_HEAD.size :]):
            raise ConfigError("The passphrase is not the one with which this backup was made.", param="backup_passphrase_file", remedy=PASSPHRASE)
        self._source, self._cipher, self._number = source, AESGCM(key), 0
        self._open, self._next = b"", source.read(CHUNK + TAG)
        if not self._next:
            raise BadBackup("The backup is cut off: nothing comes after its beginning.")

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, which may be fewer; b"" at the end."""
        if not self._open and self._next:
            self._open = self._opened()
        if size < 0:
            size = len(self._open)
        data, self._open = self._open[:size], self._open[size:]
        return data

    def _opened(self) -> bytes:
        from cryptography.exceptions import InvalidTag

        chunk, self._next = self._next, self._source.read(CHUNK + TAG)
        try:
            found = self._cipher.decrypt(_nonce(self._start, self._number, not self._next), chunk, None)
        except (InvalidTag, ValueError):
            raise BadBackup(f"The backup is damaged, or cut off, at about byte {HEADER + self._number * (CHUNK + TAG)}.") from None
        self._number += 1
        return found
