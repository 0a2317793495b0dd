"""One model from an offer into the data folder: whole and checked, or not at all.

Everything is gathered in `.incoming-NAME` beside its later place, which is taken with one rename. What a try leaves behind
when it is interrupted is used by the next one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from appliance import integrity, manifest
from appliance.catalog import Catalog
from appliance.errors import ApplianceError, InvalidRequest, ModelFileError, StorageFailed
from appliance.gguf_header import read_header
from appliance.intake import place
from appliance.intake.facts import read_facts
from appliance.manifest import Manifest, ModelFile, Provenance, Task, name_problem
from appliance.storage import in_words, sync_folder

SPARE = 0.05
"""Of a model's size: what a filesystem needs beside the bytes themselves."""
Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call; negative when some have to be done again."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of an offer. fetch(target, progress) writes it, goes on where an earlier try stopped, puts it on the disk
    and returns its SHA-256; it raises ApplianceError or OSError and may leave a part of the file for the next try."""

    path: str
    size_bytes: int
    fetch: Callable[[Path, Progress], str]


@dataclass(frozen=True, slots=True)
class Offer:
    """What a source has. pieces: the main file first. paper: the manifest, when the source has one already."""

    name: str
    pieces: tuple[Piece, ...]
    source: str
    revision: str = ""
    url: str = ""
    licence: str = ""
    paper: Manifest | None = None

    @property
    def size_bytes(self) -> int:
        """All pieces together."""
        return sum(piece.size_bytes for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person who adds a model decides; None and () leave it to the source. date: YYYY-MM-DD. sha256: what the
    main file must have, "" where that is not known."""

    name: str | None = None
    aliases: tuple[str, ...] = ()
    task: Task | None = None
    licence: str | None = None
    created_by: str = ""
    date: str = ""
    sha256: str = ""


def add(offer: Offer, wishes: Wishes, catalog: Catalog, models: Path, hashes: integrity.HashCache, progress: Progress) -> Manifest:
    """Bring an offer into the folder `models`. Returns its manifest.

    Raises InvalidRequest for a name that cannot be taken, StorageFailed when there is not enough space, ModelFileError for
    files that are no model, Unavailable when the same name is just being added; and what the pieces raise.
    """
    name = wishes.name or offer.name
    aliases = wishes.aliases or (offer.paper.aliases if offer.paper else ())
    _check_names(name, aliases, catalog)
    try:
        models.mkdir(parents=True, exist_ok=True)
        with place.lock(models, name):
            try:
                return _add(offer, wishes, name, aliases, models, hashes, progress)
            except BaseException:
                place.drop_if_empty(models / f"{place.INCOMING}{name}")
                raise
    except OSError as error:
        raise in_words(error, f"Adding {name} to {models}", _RETRY if error.errno not in (1, 13) else "") from None


_RETRY = "Free some space or look at the disk, then run the same command again: it goes on where it stopped."


def _add(offer: Offer, wishes: Wishes, name: str, aliases: tuple[str, ...], models: Path, hashes: integrity.HashCache, progress: Progress) -> Manifest:
    place.sweep(models)
    incoming = models / f"{place.INCOMING}{name}"
    place.keep_only(incoming, {piece.path for piece in offer.pieces})
    _check_space(offer, incoming, models)
    files = []
    for piece in offer.pieces:
        target = incoming / piece.path
        target.parent.mkdir(parents=True, exist_ok=True)
        files.append(ModelFile(piece.path, piece.fetch(target, progress), target.stat().st_size))
    try:
        if wishes.sha256 and files[0].sha256 != wishes.sha256.strip().lower():
            raise ModelFileError(
                f"{files[0].path} has the SHA-256 {files[0].sha256}; {wishes.sha256} was expected.", remedy="Compare the file with its source and copy it again.",
            )  # fmt: skip
        paper = _paper(offer, wishes, name, aliases, tuple(files), incoming)
        manifest.save(paper, incoming)
    except (ApplianceError, ValueError) as error:
        shutil.rmtree(incoming)  # another try with the same files would end in the same way
        if isinstance(error, ValueError):
            raise ModelFileError(f"No manifest can be written for {name}: {error}") from None
        raise
    for folder, _, _ in os.walk(incoming):
        sync_folder(Path(folder))
    os.rename(incoming, models / name)
    sync_folder(models)
    for file in files:
        hashes.remember(models / name / file.path, file.sha256)
    return paper


def _check_names(name: str, aliases: tuple[str, ...], catalog: Catalog) -> None:
    for each in (name, *aliases):
        if problem := name_problem(each):
            raise InvalidRequest(f"A model cannot be called {each!r}: that {problem}.", param="name", remedy="Choose another with --name.")
        if other := catalog.get(each):
            remedy = "Choose another with --name" if each == name else "Choose another --alias"
            more = "." if other.shipped else f", or remove that one first: appliance models remove {other.name}"
            raise InvalidRequest(f"The catalog already has a model {each!r} ({other.folder}).", param="name", remedy=remedy + more)
    if len({name, *aliases}) <= len(aliases):
        raise InvalidRequest(f"One of the names {', '.join((name, *aliases))} is given twice.", param="alias", remedy="Leave one out.")


def _check_space(offer: Offer, incoming: Path, models: Path) -> None:
    here = {piece.path: piece.size_bytes for piece in offer.pieces}
    present = sum(min(size, (incoming / path).stat().st_size) for path, size in here.items() if (incoming / path).is_file())
    needed = int((offer.size_bytes - present) * (1 + SPARE))
    free = shutil.disk_usage(models).free
    if needed > free:
        raise StorageFailed(
            f"{models} has {in_units(free)} of free space; {in_units(needed)} are needed for {offer.name}.",
            remedy="Free some space, or set --data-dir to a larger disk.",
        )


def _paper(offer: Offer, wishes: Wishes, name: str, aliases: tuple[str, ...], files: tuple[ModelFile, ...], folder: Path) -> Manifest:
    if offer.paper:
        expected = {file.path: file for file in offer.paper.files}
        listed = [file for file in files if file.path in expected]
        for file in listed:
            if file != expected[file.path]:
                raise ModelFileError(
                    f"{file.path} is not what the manifest beside it says: SHA-256 {expected[file.path].sha256} was expected, {file.sha256} was found.",
                    remedy="Copy the folder again from where it is from.",
                )
        changes = {key: value for key, value in (("task", wishes.task), ("licence", wishes.licence)) if value}
        return replace(offer.paper, name=name, aliases=aliases, **changes)
    facts = read_facts(folder, files[0].path, offer.licence)
    for part in files[1:]:
        if facts.format == "gguf" and part.path.lower().endswith(".gguf"):
            read_header(folder / part.path)
    return Manifest(
        name=name,
        aliases=aliases,
        description=facts.description,
        family=facts.family,
        format=facts.format,
        task=wishes.task or facts.task,
        quantization=facts.quantization,
        context_tokens=facts.context_tokens,
        licence=wishes.licence or facts.licence,
        created_by=wishes.created_by,
        provenance=Provenance(offer.source, offer.revision, offer.url, wishes.date),
        files=files,
    )


def in_units(size_bytes: int) -> str:
    """A size for people, such as "1.2 GB"."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= limit:
            return f"{size_bytes / limit:.1f} {unit}"
    return f"{size_bytes} bytes"
