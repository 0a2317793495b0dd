"""Making a bundle, on a machine with a network or from a folder of wheels."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
import platform
import re
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from appliance import manifest as papers
from appliance.bundle import archive, wheels
from appliance.bundle.archive import FORMAT, MANIFEST, NEEDED_WHEELS, SCRIPT_BYTES, SIGNATURE, Manifest
from appliance.bundle.sbom import sbom
from appliance.bundle.signing import sign
from appliance.errors import InvalidRequest
from appliance.storage import in_words

ARCHES = ("x86_64", "aarch64")
SCRIPT = """#!/bin/sh
# The appliance, version {version}, for {arch}. As root: sh {name} [--help]
# A tar archive begins at byte {bytes}: tail -c +{next} {name} | tar t
set -eu
me=$(readlink -f -- "$0")
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
tail -c +{next} -- "$me" 2>/dev/null | tar -x -f - -C "$folder" --occurrence=1 install.sh || :
if [ ! -s "$folder/install.sh" ]; then
    echo "$me is cut off or damaged; nothing was changed. Copy it again." >&2
    exit 65
fi
command -v bash >/dev/null || {{ echo "bash is missing; nothing was changed." >&2; exit 69; }}
bash "$folder/install.sh" --bundle "$me" "$@"
exit
"""
ALWAYS_CARRIED = ("install.sh", *NEEDED_WHEELS)
"""What runs before anything is installed."""
CHECKOUT_FILES = ("install.sh", "README.md", "CHANGELOG.md")


@dataclass(frozen=True, slots=True)
class Order:
    """What a bundle is to be. checkout: the project; key: the private key; pythons: such as "3.11"; llama: a wheel of llama-cpp-python;
    wheels: take the others from this folder, None for a package index; models: folders of models to carry besides those that come
    with the appliance; answers: reviewed answers, as `cache export` writes them; since: what the boxes have already."""

    checkout: Path
    key: Path
    arch: str
    pythons: tuple[str, ...]
    llama: Path
    wheels: Path | None = None
    models: tuple[Path, ...] = ()
    answers: Path | None = None
    since: Manifest | None = None


def build(order: Order, out: Path, tell: wheels.Tell) -> Manifest:
    """Write the bundle to `out`, whole or not at all. Raises InvalidRequest, Unavailable, StorageFailed."""
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bundle.") as scratch:
            return _build(order, out, Path(scratch), tell)
    except OSError as error:
        raise in_words(error, f"Writing {out}") from None


def _build(order: Order, out: Path, folder: Path, tell: wheels.Tell) -> Manifest:
    version, made = version_of(order.checkout), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    files, found = _wheels(order, folder, tell)
    for name in CHECKOUT_FILES:
        files[name if name == "install.sh" else f"docs/{name}"] = order.checkout / name
    for path in sorted((order.checkout / "systemd").rglob("*")):
        if path.is_file():
            files[f"systemd/{path.relative_to(order.checkout / 'systemd')}"] = path
    weights = []
    for model in order.models:
        paper = papers.read(model / papers.FILE_NAME)
        weights += [(f"{paper.name}/{file.path}", paper.licence, file.sha256) for file in paper.files]
        files |= {f"models/{paper.name}/{path.relative_to(model)}": path for path in sorted(model.rglob("*")) if path.is_file()}
    if order.answers:
        files["answers" + order.answers.suffix] = order.answers
    files["sbom.cdx.json"] = _write(folder / "sbom.json", json.dumps(sbom(version, made, found, weights), indent=1))
    known = {member.sha256 for member in order.since.members.values()} if order.since else set()
    rows = {}
    for name, path in files.items():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        rows[name] = {"size": path.stat().st_size, "sha256": digest, "carried": digest not in known or name.startswith(ALWAYS_CARRIED)}
    manifest = {
        "format": FORMAT, "version": version, "arch": order.arch, "pythons": sorted(order.pythons), "glibc": wheels.oldest_glibc(found),
        "cpu": "portable" if wheels.is_portable(order.llama) else "native", "made": made, "since": order.since.version if order.since else "",
        "files": rows,
    }  # fmt: skip
    raw = json.dumps(manifest, indent=1).encode()
    signature = sign(raw, order.key)
    tell("writing the bundle")
    _pack(out, folder / "bundle", SCRIPT.format(version=version, arch=order.arch, name=out.name, bytes=SCRIPT_BYTES, next=SCRIPT_BYTES + 1), raw, signature, files, rows)
    return archive.parse_manifest(raw)


def _wheels(order: Order, folder: Path, tell: wheels.Tell) -> tuple[dict[str, Path], list[wheels.Wheel]]:
    """(members, wheels): the wheels of every Python with a requirements file for each, and their licences."""
    if order.arch not in ARCHES:
        raise InvalidRequest(f"There are no boxes of the kind {order.arch}.", param="arch", remedy=f"Choose {' or '.join(ARCHES)}.")
    if order.arch not in order.llama.name:
        raise InvalidRequest(f"{order.llama.name} is not for {order.arch}.", param="llama_wheel", remedy=f"Compile it on a machine of that kind, see systemd/README.md: this one is {platform.machine()}.")
    files: dict[str, Path] = {}
    found: dict[str, wheels.Wheel] = {}
    for python in order.pythons:
        into = folder / f"wheels-{python}"
        into.mkdir()
        rows = wheels.gather(order.checkout, python, order.arch, order.llama, order.wheels, into, tell)
        files[f"requirements-{python}.txt"] = _write(folder / f"requirements-{python}.txt", "".join(f"{row.requirement()}\n" for row in rows))
        files |= {f"wheels/{row.path.name}": row.path for row in rows}
        found |= {row.path.name: row for row in rows}
    for row in found.values():
        text = "\n\n".join(row.licences) or f"{row.name} {row.version} names its licence as: {row.licence or 'nothing'}.\n"
        files[f"licences/{row.name}-{row.version}.txt"] = _write(folder / f"licence-{row.name}-{row.version}", text)
    return files, list(found.values())


def _pack(out: Path, draft: Path, script: str, raw: bytes, signature: bytes, files: Mapping[str, Path], rows: Mapping[str, Any]) -> None:
    carried = [name for name in files if rows[name]["carried"]]
    # The script takes the first install.sh and stops reading; then what the installer itself needs.
    order = sorted(carried, key=lambda name: (name != "install.sh", not name.startswith("wheels/"), name))
    with draft.open("wb") as file:
        padding = SCRIPT_BYTES - len(script.encode()) - 1
        file.write(script.encode() + b"#" * padding + b"\n")
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in ((MANIFEST, raw), (SIGNATURE, signature)):
                _add(tar, name, len(data), io.BytesIO(data))
            for name in order:
                with files[name].open("rb") as content:
                    _add(tar, name, rows[name]["size"], content)
        file.flush()
        os.fchmod(file.fileno(), 0o755)
        os.fsync(file.fileno())
    os.replace(draft, out)


def _add(tar: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o755 if name == "install.sh" else 0o644
    tar.addfile(info, content)


def _write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def version_of(checkout: Path) -> str:
    """The version of a checkout, which its CHANGELOG.md says. Raises InvalidRequest where there is none."""
    try:
        text = (checkout / "CHANGELOG.md").read_text("utf-8")
    except OSError:
        text = ""
    found = re.search(r"^## (\d+\.\d+\.\d+)", text, re.M)
    if not found or not (checkout / "pyproject.toml").is_file():
        raise InvalidRequest(f"{checkout} is not a checkout of the project.", remedy="A bundle is built from a checkout: git clone, ./install.sh --user, .venv/bin/appliance bundle build.")
    return found[1]


def differences(old: Manifest, new: Manifest) -> dict[str, Sequence[str]]:
    """Names of files by what happened to them: added, removed, changed."""
    return {
        "added": sorted(new.members.keys() - old.members.keys()),
        "removed": sorted(old.members.keys() - new.members.keys()),
        "changed": sorted(name for name in old.members.keys() & new.members.keys() if old.members[name].sha256 != new.members[name].sha256),
    }
