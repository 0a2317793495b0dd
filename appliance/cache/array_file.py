"""A file of NumPy arrays: each in the .npy format, one after the other, then the SHA-256 of all before.

Nothing is asked to be on the disk: after a power cut the sum tells that the file cannot be used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from appliance.storage import in_words


class _Summed:
    """What np.lib.format writes to: passes everything on and sums it up."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sum = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        return self._file.write(data)


def write_arrays(path: Path, arrays: Iterable[np.ndarray]) -> None:
    """Replace a file, whole or not at all; only its owner may read it. Raises StorageFailed or PermissionDenied."""
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            summed = _Summed(file)
            for each in arrays:
                np.lib.format.write_array(summed, np.ascontiguousarray(each), allow_pickle=False)
            file.write(summed.sum.digest())
        os.replace(part, path)
    except OSError as error:
        raise in_words(error, f"writing {path}") from None
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def read_arrays(path: Path) -> Iterator[Iterator[np.ndarray]]:
    """The arrays of a file, one by one. Raises OSError, and ValueError for a damaged file before any array is given out."""
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size - hashlib.sha256().digest_size
        left, found = end, hashlib.sha256()
        while left > 0 and (data := file.read(min(left, 1 << 20))):
            found.update(data)
            left -= len(data)
        if left or file.read() != found.digest():
            raise ValueError(f"{path} is damaged")
        file.seek(0)

        def arrays() -> Iterator[np.ndarray]:
            while file.tell() < end:
                yield np.lib.format.read_array(file, allow_pickle=False)

        yield arrays()
