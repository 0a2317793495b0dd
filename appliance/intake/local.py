"""A model from a file or a folder of this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from appliance import manifest
from appliance.errors import InvalidRequest, ModelFileError, ModelFileMissing
from appliance.gguf_header import read_header
from appliance.intake.add import Offer, Piece, Progress
from appliance.intake.facts import SHARD, choose_files, name_from
from appliance.manifest import FILE_NAME, path_problem
from appliance.storage import in_words

CHUNK_BYTES = 1 << 20
MOST_FILES = 1000


def offer(text: str) -> Offer:
    """What a file or a folder has to offer. Raises ModelFileMissing, ModelFileError or InvalidRequest."""
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return _folder(path.resolve())
        if not path.exists():
            raise ModelFileMissing(f"There is no file and no folder at {path}.", remedy="Check the path; a model hub's address begins with hf:.")
        return _file(path)
    except OSError as error:
        raise in_words(error, f"Reading {path}") from None


def _file(path: Path) -> Offer:
    if path.suffix.lower() == ".onnx":
        raise InvalidRequest(f"{path.name} alone is not enough for an ONNX model.", remedy="Give the folder that also has its tokenizer.")
    read_header(path)  # a file that is no model is refused before a byte is copied
    names = [path.name]
    if SHARD.search(path.name):
        siblings = [child.name for child in path.parent.iterdir() if SHARD.search(child.name)]
        names = list(choose_files(siblings, path.name, str(path.parent)))
    pieces = tuple(_piece(path.parent, name) for name in names)
    return Offer(name_from(path.name), pieces, source=f"file:{path.name}")


def _folder(folder: Path) -> Offer:
    names = sorted(_files(folder))
    if FILE_NAME in names:
        paper = manifest.read(folder / FILE_NAME)
        listed = [file.path for file in paper.files]
        missing = [name for name in listed if name not in names]
        if missing:
            raise ModelFileMissing(f"{folder} lacks the file {missing[0]} that its manifest names.", remedy="Copy the whole folder.")
        cards = [name for name in names if "/" not in name and name not in listed and name != FILE_NAME]
        pieces = tuple(_piece(folder, name) for name in (*listed, *cards))
        return Offer(paper.name, pieces, source=paper.provenance.source, paper=paper)
    chosen = choose_files(names, "", str(folder))
    if chosen[0].lower().endswith(".gguf"):
        read_header(folder / chosen[0])
    pieces = tuple(_piece(folder, name) for name in chosen)
    gguf = chosen[0].lower().endswith(".gguf")
    return Offer(name_from(chosen[0] if gguf else folder.name), pieces, source=f"folder:{folder.name}")


def _files(folder: Path) -> Iterator[str]:
    count = 0
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(base, name)
            relative = path.relative_to(folder).as_posix()
            if name.startswith(".") or not path.is_file():
                continue
            count += 1
            if count > MOST_FILES:
                raise ModelFileError(f"{folder} has more than {MOST_FILES} files.", remedy="Name the model's own folder.")
            if problem := path_problem(relative) if relative != FILE_NAME else "":
                raise ModelFileError(f"{relative!r} in {folder} {problem}.", remedy="Rename the file.")
            yield relative


def _piece(folder: Path, name: str) -> Piece:
    path = folder / name
    return Piece(name, path.stat().st_size, lambda target, progress: copy(path, target, progress))


def copy(source: Path, target: Path, progress: Progress) -> str:
    """Copy a file, going on behind what an earlier try left, and put it on the disk. Returns its SHA-256.

    What is there already is compared with the source, byte by byte, and cut off where it differs. Raises OSError, and
    ModelFileError when the source changes meanwhile.
    """
    digest, same = hashlib.sha256(), True
    with source.open("rb") as reader, open(os.open(target, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as writer:
        before = os.fstat(reader.fileno())
        left = before.st_size  # no more than there was: a file that grows has no end
        while left and (chunk := reader.read(min(left, CHUNK_BYTES))):
            left -= len(chunk)
            if same:
                at = writer.tell()
                there = _read_up_to(writer, len(chunk))
                if same := there == chunk:
                    digest.update(chunk)
                    progress(len(chunk))
                    continue
                writer.seek(at)
                writer.truncate()
            _write_all(writer, chunk)
            digest.update(chunk)
            progress(len(chunk))
        writer.truncate()
        os.fsync(writer.fileno())
        after = os.fstat(reader.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ModelFileError(f"{source} was changed while it was copied.", remedy="Try again when nothing writes to it.")
    return digest.hexdigest()


def _read_up_to(file, count: int) -> bytes:  # noqa: ANN001 - an unbuffered file
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _write_all(file, data: bytes) -> None:  # noqa: ANN001 - an unbuffered file
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
