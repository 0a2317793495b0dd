"""A version in its folder: unpacked, with an environment of its own, and the stamp that says that it is whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from appliance.bundle.archive import MANIFEST, SIGNATURE, Bundle, Member
from appliance.errors import BadBundle
from appliance.installer.host import Host
from appliance.installer.layout import Layout
from appliance.storage import in_words, write_atomically

STAMP = "complete"
Tell = Callable[[str], None]


def python_version() -> str:
    """Such as 3.11: which wheels fit the Python that runs."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def unpack(bundle: Bundle, layout: Layout) -> Path:
    """The files of a bundle in the folder of its version, without the stamp. What is already there in full is left alone.

    Raises BadBundle, ApplianceError for a full disk; then nothing of it is left."""
    manifest = bundle.manifest
    folder = layout.release(manifest.version)
    if (folder / STAMP).exists():
        if layout.manifest(manifest.version) == manifest:
            return folder
        if manifest.version in (layout.installed(layout.current), layout.installed(layout.previous)):
            raise BadBundle(f"Version {manifest.version} is installed, and this bundle of the same version is another one.", remedy="Give the newer one a higher version.")
    shutil.rmtree(folder, ignore_errors=True)  # a killed run's
    try:
        folder.mkdir(parents=True)
        _fill(bundle, folder, layout)
        (folder / MANIFEST).write_bytes(manifest.raw)
        (folder / SIGNATURE).write_bytes(bundle.signature)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise in_words(error, f"Unpacking into {folder}") from None
        raise
    return folder


def _fill(bundle: Bundle, folder: Path, layout: Layout) -> None:
    def into(member: Member) -> IO[bytes]:
        path = folder / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")

    for _, file in bundle.files(into=into):
        if file:
            file.close()
    for member in bundle.manifest.members.values():
        if not member.carried:
            _take_over(member, folder, layout)
    (folder / "install.sh").chmod(0o755)


def _take_over(member: Member, folder: Path, layout: Layout) -> None:
    """A file that an installed version has, under whatever name."""
    path = folder / member.name
    path.parent.mkdir(parents=True, exist_ok=True)
    for version in layout.complete():
        for known in layout.manifest(version).members.values():
            source = layout.release(version) / known.name
            if known.sha256 == member.sha256 and digest_of(source) == member.sha256:
                os.link(source, path)
                return
    raise BadBundle(f"The bundle leaves out {member.name}, and no installed version has it.", remedy=f"This bundle is for boxes with version {_since(layout)}; use a full one.")


def _since(layout: Layout) -> str:
    return layout.installed(layout.current) or "of before"


def digest_of(path: Path) -> str:
    """SHA-256 in hex, '' for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def make_environment(folder: Path, host: Host) -> None:
    """The virtual environment of an unpacked version, from its own wheels alone, and the stamp. Nothing happens where it has the stamp.

    It is made in its final place: its scripts carry their path. Needs no pip and no ensurepip on the machine. Raises StepFailed."""
    if (folder / STAMP).exists():
        return
    shutil.rmtree(folder / ".venv", ignore_errors=True)
    python, wheels = folder / ".venv/bin/python", folder / "wheels"
    pip = next(wheels.glob("pip-*.whl"))
    host.run(getattr(sys, "_base_executable", sys.executable), "-I", "-m", "venv", "--without-pip", folder / ".venv")
    host.run(
        python, "-I", pip / "pip", "install", "--no-index", "--require-hashes", "--no-cache-dir", "--disable-pip-version-check", "--find-links", wheels,
        "--requirement", folder / f"requirements-{python_version()}.txt",
    )  # fmt: skip
    host.run(python, "-I", "-c", "import appliance.cli, llama_cpp, faiss, onnxruntime")
    os.sync()  # a power cut must not leave a stamp without the files it vouches for
    write_atomically(folder / STAMP, b"")


def damaged(layout: Layout, version: str) -> list[str]:
    """Names of the files of a version that are not as its bundle had them."""
    try:
        members = layout.manifest(version).members.values()
    except (OSError, BadBundle):
        return [MANIFEST]
    return [member.name for member in members if digest_of(layout.release(version) / member.name) != member.sha256]


def remove_old(layout: Layout) -> None:
    """Keep the version that runs, the one before it, and no more."""
    kept = {layout.installed(layout.current), layout.installed(layout.previous)}
    for folder in layout.opt.glob("releases/*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in layout.before.glob("*"):  # what was put aside in `left-N` is its owner's to delete
        if folder.name not in kept and not folder.name.startswith("left-"):
            shutil.rmtree(folder, ignore_errors=True)


def newer(one: str, other: str) -> bool:
    """Whether version `one` is higher than `other`. Raises BadBundle for what is no version."""
    return _numbers(one) > _numbers(other)


def _numbers(version: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        raise BadBundle(f"{version!r} is no version such as 1.2.3.") from None
