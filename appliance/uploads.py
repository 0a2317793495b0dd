"""Files that arrive in pieces from a browser: an upload that broke off goes on where it stopped, also after a restart."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import InvalidRequest, NotFound, StorageFailed
from appliance.storage import in_words, write_atomically

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.gguf")
COPIES = 2
"""The file itself, and its copy in the catalog."""
KEPT_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Upload:
    """number: its id. received: bytes that are here, which is where the next piece begins."""

    number: int
    name: str
    size_bytes: int
    received: int = 0


class Uploads:
    """Unfinished uploads of a data folder. Thread-safe."""

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder, self._now = folder, now
        self._lock = threading.Lock()

    def begin(self, name: str, size_bytes: int) -> Upload:
        """A new one, or the one of that name and size that broke off. Raises InvalidRequest, StorageFailed."""
        if not NAME.fullmatch(name):
            raise InvalidRequest(f"{name[:140]!r} is not the name of a GGUF file.", param="name", remedy="It ends in .gguf and has letters, digits, dots, dashes and underscores. ONNX models are added by path.")
        if size_bytes < 1:
            raise InvalidRequest(f"{name} is empty.", param="size_bytes")
        with self._lock:
            for upload in self._all():
                if (upload.name, upload.size_bytes) == (name, size_bytes):
                    return upload
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                free = shutil.disk_usage(self._folder).free
                if free < COPIES * size_bytes:
                    raise StorageFailed(
                        f"{name} needs {COPIES * size_bytes // 10**6} MB while it is added, and {free // 10**6} MB are free.", remedy="Free some space, or add it by path.",
                    )  # fmt: skip
                number = 1 + max((upload.number for upload in self._all()), default=0)
                self._part(number).touch()
                write_atomically(self._paper(number), json.dumps({"name": name, "size_bytes": size_bytes}).encode())
            except OSError as error:
                raise in_words(error, f"Writing into {self._folder}") from None
            return Upload(number, name, size_bytes)

    def find(self, number: int) -> Upload:
        """Raises NotFound."""
        try:
            paper = json.loads(self._paper(number).read_text("utf-8"))
            return Upload(number, paper["name"], paper["size_bytes"], self._part(number).stat().st_size)
        except (OSError, ValueError, KeyError):
            raise NotFound(f"There is no upload {number}.", remedy="Begin it again.") from None

    def append(self, number: int, offset: int, data: bytes) -> Upload:
        """One more piece. Raises NotFound; InvalidRequest for a piece that does not begin where the last one ended, StorageFailed."""
        with self._lock:
            upload = self.find(number)
            if offset != upload.received or offset + len(data) > upload.size_bytes:
                raise InvalidRequest(
                    f"{upload.received} of {upload.size_bytes} bytes are here; these are {len(data)} from {offset} on.", param="offset", remedy=f"Go on at {upload.received}.",
                )  # fmt: skip
            try:
                with self._part(number).open("ab") as file:
                    file.write(data)
            except OSError as error:
                os.truncate(self._part(number), offset)
                raise in_words(error, f"Writing {upload.name}") from None
            return self.find(number)

    def take(self, number: int, folder: Path) -> Path:
        """Move a complete one into `folder`. Raises NotFound, InvalidRequest, StorageFailed."""
        with self._lock:
            upload = self.find(number)
            if upload.received != upload.size_bytes:
                raise InvalidRequest(f"{upload.received} of {upload.size_bytes} bytes of {upload.name} are here.", remedy=f"Go on at {upload.received}.")
            try:
                os.rename(self._part(number), folder / upload.name)
                self._drop(number)
            except OSError as error:
                raise in_words(error, f"Moving {upload.name}") from None
            return folder / upload.name

    def drop(self, number: int) -> None:
        """Forget one. Raises NotFound."""
        with self._lock:
            self.find(number)
            self._drop(number)

    def unfinished(self) -> list[Upload]:
        """All that are there."""
        with self._lock:
            return self._all()

    def tick(self) -> None:
        """Forget what broke off a week ago."""
        with self._lock:
            for upload in self._all():
                if self._now() - self._part(upload.number).stat().st_mtime > KEPT_S:
                    self._drop(upload.number)

    def _all(self) -> list[Upload]:
        numbers = [int(path.stem) for path in self._folder.glob("*.json") if path.stem.isdigit()]
        return [self.find(number) for number in sorted(numbers) if self._part(number).is_file()]

    def _drop(self, number: int) -> None:
        self._paper(number).unlink(missing_ok=True)
        self._part(number).unlink(missing_ok=True)

    def _paper(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _part(self, number: int) -> Path:
        return self._folder / f"{number}.part"
