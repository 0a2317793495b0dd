"""A model from a hub: `hf:owner/name[:file[@revision]]`. The only importer of huggingface_hub, and only when it is used.

The library lists the files, knows the tokens and moves the bytes; `http_get` is called rather than `hf_hub_download`, which
since version 2 throws away what it has when its process dies. What came is hashed and compared with what the hub listed.
HF_ENDPOINT, HF_TOKEN and the library's other variables count.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from appliance.errors import (
    ApplianceError,
    AuthenticationFailed,
    ConfigError,
    InvalidRequest,
    ModelFileError,
    ModelFileMissing,
    PermissionDenied,
    Unavailable,
)
from appliance.intake.add import Offer, Piece, Progress
from appliance.intake.facts import choose_files, name_from, plain
from appliance.manifest import path_problem

PREFIX = "hf:"
ADDRESS = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<file>[^@]+))?(?:@(?P<revision>.+))?", re.ASCII)
HUB = "https://huggingface.co"
LARGEST_BYTES = 50_000_000_000
"""The hub gives larger files only to its own transfer program."""
CHUNK_BYTES = 1 << 18
"""What came is written in pieces of this size; a cut connection loses at most one (10 MB as the library has it)."""
TRIES = 4
TRANSPORT = ("httpx", "httpcore", "h11", "requests", "urllib3", "ssl")


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as the hub lists it. sha256: for large files; blob: git's id, for all. "" when the hub does not say."""

    path: str
    size_bytes: int
    sha256: str
    blob: str


def offer(text: str, *, offline: bool = False) -> Offer:
    """What an address has to offer; asks the hub for its list of files and downloads nothing.

    Raises InvalidRequest for an address of another shape, ConfigError when `offline`, Unavailable without the library or
    without an answer, AuthenticationFailed, PermissionDenied, ModelFileMissing, ModelFileError.
    """
    address = ADDRESS.fullmatch(text)
    if not address:
        raise InvalidRequest(f"{text!r} is not an address like hf:owner/name, hf:owner/name:file.gguf or hf:owner/name:file.gguf@revision.")
    if offline:
        raise ConfigError(f"{text} would need the network, and `offline` is set.", param="offline", remedy="Fetch the file elsewhere and add it as a file.")
    repo = _Repository(address["repo"], address["revision"] or "main")
    listed, licence = repo.listing()
    chosen = choose_files(list(listed), address["file"] or "", f"{repo.name} on {repo.endpoint}")
    large = [path for path in chosen if listed[path].size_bytes > LARGEST_BYTES]
    if large:
        raise InvalidRequest(f"{large[0]} is larger than 50 GB.", remedy="Fetch it with the hub's own program and add it as a file.")
    pieces = tuple(Piece(path, listed[path].size_bytes, repo.fetching(listed[path])) for path in chosen)
    gguf = chosen[0].lower().endswith(".gguf")
    source = f"{PREFIX}{repo.name}:{chosen[0]}"
    return Offer(name_from(chosen[0] if gguf else repo.name), pieces, source, repo.commit, repo.url(chosen[0]), licence)


def _library() -> Any:
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import huggingface_hub
        import huggingface_hub.file_download
    except ImportError:
        raise Unavailable(
            "Fetching from a model hub needs the package huggingface_hub, which is not installed.",
            remedy="Install it with `./install.sh --user --extra factory`, or fetch the file elsewhere and add it as a file.",
        ) from None
    huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()  # it tells of every retry, in the middle of our line
    huggingface_hub.utils.tqdm.monitor_interval = 0  # a bar that is switched off needs no thread to watch it
    return huggingface_hub


class _Repository:
    """One repository at one revision."""

    def __init__(self, name: str, revision: str) -> None:
        self.library = _library()
        self.name, self.revision, self.commit = name, revision, ""
        self.endpoint = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")

    def url(self, path: str) -> str:
        """Where a file is."""
        return self.library.hf_hub_url(self.name, path, revision=self.commit or self.revision, endpoint=self.endpoint)

    def listing(self) -> tuple[dict[str, Listed], str]:
        """All files by path, and the licence; from here on the revision is a commit, so that all files fit together."""
        with self._told(""):
            info = self.library.HfApi(endpoint=self.endpoint).model_info(self.name, revision=self.revision, files_metadata=True)
        if not info.sha or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
            raise Unavailable(f"{self.endpoint} does not name the commit of {self.name}.", remedy="Check HF_ENDPOINT: it has to be a model hub.")
        self.commit = info.sha
        found = {}
        for row in info.siblings or []:
            if path_problem(row.rfilename):
                continue  # a name that would leave our folder
            lfs = getattr(row, "lfs", None)
            size, sha256 = (lfs.size, lfs.sha256) if lfs else (row.size, "")
            found[row.rfilename] = Listed(row.rfilename, size or 0, sha256 or "", getattr(row, "blob_id", None) or "")
        licence = next((tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")), "")
        return found, plain(licence)

    def fetching(self, file: Listed) -> Callable[[Path, Progress], str]:
        """The `fetch` of a piece."""
        return lambda target, progress: self._fetch(file, target, progress)

    def _fetch(self, file: Listed, target: Path, progress: Progress) -> str:
        with self._told(file.path):
            head = self.library.get_hf_file_metadata(self.url(file.path), endpoint=self.endpoint)
        if file.sha256 and head.etag and re.fullmatch(r"[0-9a-f]{64}", head.etag) and head.etag != file.sha256:
            raise ModelFileError(
                f"{self.endpoint} contradicts itself about {file.path}: SHA-256 {file.sha256} in the list, {head.etag} at the file.",
                remedy="Try again later; a mirror may be out of date (HF_ENDPOINT).",
            )
        size = head.size if head.size is not None else file.size_bytes or None
        if not file.sha256:
            target.unlink(missing_ok=True)  # nothing could tell whether the old part still fits
        resumed = target.exists() and target.stat().st_size > 0
        found, fits = self._download(file, size, target, progress)
        if not fits and resumed:  # the part of the earlier try was of something else
            progress(-target.stat().st_size)
            target.unlink()
            found, fits = self._download(file, size, target, progress)
        if not fits:
            target.unlink()
            raise ModelFileError(
                f"{file.path} did not come as the hub lists it: SHA-256 {file.sha256 or 'of git blob ' + file.blob} was expected, {found} was found.",
                remedy="Run the same command again; if it happens again, something between the hub and here changes the bytes.",
            )
        return found

    def _download(self, file: Listed, size: int | None, target: Path, progress: Progress) -> tuple[str, bool]:
        """Go on behind what is there. Returns (SHA-256, whether it is what the hub listed)."""
        with open(os.open(target, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as raw:
            if size is not None and os.fstat(raw.fileno()).st_size > size:
                raw.truncate(0)
            counted = _Counted(raw, progress)
            with self._told(file.path):
                for number in range(TRIES):
                    before = counted.at
                    try:
                        self._get(file, counted, size)
                        break
                    except Exception as error:
                        if number == TRIES - 1 or counted.at == before or not _is_transport(error):
                            raise
            raw.flush()
            os.fsync(raw.fileno())
            return _hashes(raw, file)

    def _get(self, file: Listed, counted: _Counted, size: int | None) -> None:
        self.library.file_download.http_get(
            self.url(file.path),
            counted,
            resume_size=counted.at,
            headers=self.library.utils.build_hf_headers(),  # dropped by the HTTP library when it is sent on to another host
            expected_size=size,
        )

    @contextmanager
    def _told(self, path: str) -> Iterator[None]:
        try:
            yield
        except ApplianceError:
            raise
        except Exception as error:
            words = self._words(error, path)
            if words is None:
                raise
            raise words from None

    def _words(self, error: Exception, path: str) -> ApplianceError | None:
        """The library's exceptions as ours; None for one that is not about the hub."""
        errors = self.library.errors
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, errors.GatedRepoError):
            return PermissionDenied(
                f"{self.name} is gated: its owner gives it to accounts that have asked for it.",
                remedy=f"Ask for it at {self.endpoint}/{self.name}, then set HF_TOKEN to a token of that account.",
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return ModelFileMissing(f"{self.name} has no revision {self.revision!r}.", remedy="Name a branch, a tag or a commit after the @.")
        if isinstance(error, errors.EntryNotFoundError) and path:
            return ModelFileMissing(f"{self.name} has no file {path!r} at {self.revision}.", remedy="Check the file's name.")
        if isinstance(error, errors.RepositoryNotFoundError):
            kind = AuthenticationFailed if status == 401 else ModelFileMissing
            return kind(f"{self.endpoint} shows no repository {self.name}: there is none, or it is private.", remedy="Check the name; for a private one set HF_TOKEN.")
        if isinstance(error, errors.OfflineModeIsEnabled):
            return ConfigError("HF_HUB_OFFLINE is set: huggingface_hub does not open connections.", remedy="Unset it, or add the model as a file.")
        if isinstance(error, errors.HFValidationError):
            return InvalidRequest(f"{self.name} cannot be the name of a repository: {error}")
        if status in (401, 403):
            return PermissionDenied(f"{self.endpoint} refuses {path or self.name} (HTTP {status}).", remedy="Check HF_TOKEN: it may have expired, or not be allowed to read this.")
        if status is not None:
            return Unavailable(f"{self.endpoint} answers HTTP {status} for {path or self.name}.", remedy="Try again later.")
        if _is_transport(error):
            what = plain(str(error).splitlines()[0] if str(error) else type(error).__name__)[:200]
            again = "Run the same command again: it goes on where it stopped." if path else "Check the network, HF_ENDPOINT and the proxy settings, then try again."
            return Unavailable(f"The connection to {self.endpoint} {'broke off within ' + path if path else 'failed'}: {what.rstrip('.')}.", remedy=again)
        return None


def _is_transport(error: BaseException) -> bool:
    """Whether it is the network's fault. Some of these libraries' exceptions are OSErrors without a number."""
    if type(error).__module__.startswith(TRANSPORT) and not hasattr(error, "response") or isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return isinstance(error, OSError) and error.errno in (None, errno.ENETUNREACH, errno.EHOSTUNREACH) and getattr(error, "response", None) is None


class _Counted:
    """A file that reports how far it is; what `http_get` needs of one."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self.file, self._progress = file, progress
        self.at = file.seek(0, os.SEEK_END)
        progress(self.at)

    def write(self, data: bytes) -> int:
        """At the end."""
        count = self.file.write(data)
        self.at += count
        self._progress(count)
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self.file.tell()

    def truncate(self, size: int | None = None) -> int:
        """What is cut off has to be fetched again."""
        left = self.file.truncate(size)
        self._progress(left - self.at)
        self.at = left
        return left


def _hashes(file: BinaryIO, listed: Listed) -> tuple[str, bool]:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while chunk := file.read(1 << 20):
        sha256.update(chunk)
        if not listed.sha256:
            blob.update(chunk)
    found = sha256.hexdigest()
    return found, found == listed.sha256 if listed.sha256 else listed.blob in ("", blob.hexdigest())
