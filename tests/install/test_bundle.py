"""Bundles: made whole, and refused whenever anything about them is not as their maker left it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from fakes import ROOT

from appliance.bundle import build, signing, wheels
from appliance.bundle.archive import MANIFEST, SCRIPT_BYTES, SIGNATURE, opened, parse_manifest
from appliance.errors import ApplianceError, BadBundle, InvalidRequest

pytestmark = pytest.mark.process


def appliance(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "appliance.cli", *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=110)


@pytest.fixture(scope="session")
def key(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "release"
    signing.make_keys(path)
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory, key) -> Path:
    """A real one, from the wheels that install.sh keeps."""
    path = tmp_path_factory.mktemp("bundle") / "appliance.run"
    llama = wheels.native_llama(wheels.wheel_cache())
    done = appliance("bundle", "build", "-o", path, "--key", key, "--llama-wheel", "native", "--wheels", llama.parent)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="session")
def small(tmp_path_factory, key) -> Path:
    """Of the form of a bundle, with three small files: for what is done to many copies."""
    folder = tmp_path_factory.mktemp("small")
    files = {"install.sh": b"echo installed\n", "wheels/a.whl": random.Random(1).randbytes(3000), "docs/README.md": b"words\n" * 40}
    return pack(folder / "small.run", key, files)


def pack(path: Path, key: Path, content: dict[str, bytes], **said: object) -> Path:
    """A bundle of these files, signed. said: otherwise in the manifest."""
    rows = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "carried": True} for name, data in content.items()}
    manifest = {"format": 1, "version": "9.0.0", "arch": "x86_64", "pythons": ["3.11"], "glibc": "2.17", "cpu": "native", "made": "2026-01-01T00:00:00+00:00", "since": "", "files": rows}
    raw = json.dumps(manifest | said).encode()
    with path.open("wb") as file:
        file.write(b"#!/bin/sh\n".ljust(SCRIPT_BYTES - 1, b"#") + b"\n")
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, data in {MANIFEST: raw, SIGNATURE: signing.sign(raw, key), **content}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def check(path: Path, key: str = "") -> None:
    with opened(path) as found:
        found.check_signature(key)
        found.check_files()


def test_a_bundle_has_everything_that_a_box_needs(bundle):
    with opened(bundle) as found:
        manifest = found.manifest
        found.check_signature()
        found.check_files()
    names = set(manifest.members)
    assert {"install.sh", "systemd/appliance.service", "docs/README.md", "sbom.cdx.json", f"requirements-{manifest.pythons[0]}.txt"} <= names
    for package in ("appliance", "llama_cpp_python", "onnxruntime", "faiss_cpu", "flask", "sqlite_utils", "psutil", "pip"):
        assert any(name.startswith(f"wheels/{package}-") for name in names), package
    assert manifest.version == build.version_of(ROOT) and manifest.cpu == "native" and re.fullmatch(r"2\.\d+", manifest.glibc)


def test_every_package_has_its_hash_its_licence_and_its_place_in_the_bill_of_materials(bundle):
    with tarfile.open(fileobj=io.BytesIO(bundle.read_bytes()[SCRIPT_BYTES:])) as tar:
        def text(name: str) -> str:
            return tar.extractfile(name).read().decode()

        packages = {name for name in tar.getnames() if name.startswith("wheels/")}
        requirements = text(next(name for name in tar.getnames() if name.startswith("requirements-"))).splitlines()
        parts = json.loads(text("sbom.cdx.json"))
        licences = [name for name in tar.getnames() if name.startswith("licences/")]
    assert len(requirements) == len(packages) and all(re.fullmatch(r"[\w.-]+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in requirements)
    assert (parts["bomFormat"], parts["specVersion"]) == ("CycloneDX", "1.5")
    assert len({part["bom-ref"] for part in parts["components"]}) == len(packages) == len(licences)
    assert all(len(part["hashes"][0]["content"]) == 64 and part["purl"].startswith("pkg:pypi/") for part in parts["components"])


def test_the_commands_say_what_a_bundle_is(bundle, key):
    assert "is whole" in appliance("bundle", "verify", bundle, "--key", f"{key}.pub").stdout
    listed = json.loads(appliance("bundle", "list", bundle, "--json").stdout)
    assert listed["files"]["install.sh"]["sha256"] == hashlib.sha256((ROOT / "install.sh").read_bytes()).hexdigest()


def test_a_bundle_of_another_maker_is_refused(bundle, tmp_path):
    signing.make_keys(tmp_path / "other")
    done = appliance("bundle", "verify", bundle, "--key", tmp_path / "other.pub")
    assert done.returncode == 65 and "is signed with the key" in done.stderr and len(done.stderr.splitlines()) == 1


def contents(path: Path) -> dict[str, bytes]:
    """What would be installed."""
    with opened(path) as bundle:
        bundle.check_signature()
        return {member.name: file.getvalue() for member, file in bundle.files(into=lambda member: io.BytesIO())}


def test_a_flipped_byte_is_found_or_changes_nothing(small, tmp_path):
    """Tar has fields that nobody reads, such as the owner's name."""
    data, chance, whole, found = small.read_bytes(), random.Random(2), contents(small), 0
    end = len(data.rstrip(b"\0"))
    for at in [SCRIPT_BYTES, end - 1, *(chance.randrange(SCRIPT_BYTES, end) for _ in range(300))]:
        changed = bytearray(data)
        changed[at] ^= 1 << chance.randrange(8)
        (tmp_path / "changed.run").write_bytes(changed)
        try:
            assert contents(tmp_path / "changed.run") == whole
        except BadBundle as error:
            assert error.remedy and "\n" not in str(error)
            found += 1
    assert found > 200


@pytest.mark.parametrize("left", [0, 100, SCRIPT_BYTES, SCRIPT_BYTES + 600, SCRIPT_BYTES + 5000])
def test_one_that_is_cut_off_is_refused(small, tmp_path, left):
    (tmp_path / "cut.run").write_bytes(small.read_bytes()[:left])
    with pytest.raises(BadBundle):
        check(tmp_path / "cut.run")


def test_a_missing_file_and_one_too_many_are_refused(small, key, tmp_path):
    with tarfile.open(fileobj=io.BytesIO(small.read_bytes()[SCRIPT_BYTES:])) as tar:
        tar.extractall(tmp_path / "folder", filter="data")
    check(tmp_path / "folder")
    (tmp_path / "folder/wheels/a.whl").unlink()
    with pytest.raises(BadBundle, match=r"has no wheels/a\.whl"):
        check(tmp_path / "folder")
    more = pack(tmp_path / "more.run", key, {"install.sh": b"x", "stranger": b"y"}, files={"install.sh": {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}})
    with pytest.raises(BadBundle, match="'stranger', which its manifest does not know"):
        check(more)


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/passwd", "a/../../b", ""])
def test_a_name_that_leads_out_of_its_folder_is_refused(name):
    row = {"size": 1, "sha256": "0" * 64}
    raw = {"format": 1, "version": "1.0.0", "arch": "x86_64", "pythons": [], "glibc": "2.17", "cpu": "native", "made": "", "since": "", "files": {name: row}}
    with pytest.raises(BadBundle):
        parse_manifest(json.dumps(raw).encode())


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"[" * 100_000, b'{"format": 2}', b'{"format": 1, "version": 1}', b"\xff"])
def test_what_is_no_manifest_is_refused(raw):
    with pytest.raises(BadBundle):
        parse_manifest(raw)


def test_a_bundle_that_cannot_be_written_leaves_nothing(tmp_path, key, monkeypatch):
    llama = wheels.native_llama(wheels.wheel_cache())
    order = build.Order(ROOT, key, "x86_64", ("2.7",), llama, llama.parent)  # there are no packages for that Python
    with pytest.raises(ApplianceError, match="pip could not get the packages"):
        build.build(order, tmp_path / "out.run", lambda words: None)
    assert list(tmp_path.iterdir()) == []


def test_keys_are_never_replaced_and_nobody_else_reads_them(key):
    assert key.stat().st_mode & 0o077 == 0
    before = key.read_bytes()
    with pytest.raises(InvalidRequest, match="exists already"):
        signing.make_keys(key)
    assert key.read_bytes() == before


def test_what_a_box_has_already_is_left_out(bundle, key, tmp_path):
    """A newer version: only what changed is carried."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", "bench", "tests", "__pycache__"))
    changelog = checkout / "CHANGELOG.md"
    changelog.write_text(re.sub(r"^## \d+\.\d+\.\d+", "## 99.0.0", changelog.read_text(), count=1, flags=re.M))
    llama = wheels.native_llama(wheels.wheel_cache())
    with opened(bundle) as old:
        order = build.Order(checkout, key, "x86_64", old.manifest.pythons, llama, llama.parent, since=old.manifest)
        made = build.build(order, tmp_path / "delta.run", lambda words: None)
        changed = build.differences(old.manifest, made)
    check(tmp_path / "delta.run")
    assert made.since == old.manifest.version
    carried = {name for name, member in made.members.items() if member.carried}
    assert carried == {*changed["added"], *changed["changed"], *(name for name in made.members if name.startswith(build.ALWAYS_CARRIED))}
    assert (tmp_path / "delta.run").stat().st_size < bundle.stat().st_size / 2


def test_a_portable_wheel_is_told_from_a_native_one(tmp_path):
    def wheel(*kernels: str) -> Path:
        path = tmp_path / f"llama-{len(kernels)}.whl"
        with zipfile.ZipFile(path, "w") as packed:
            for kind in kernels:
                packed.writestr(f"llama_cpp/lib/libggml-cpu{kind}.so", b"")
        return path

    assert wheels.is_portable(wheel("-haswell", "-icelake")) and not wheels.is_portable(wheel("", ".0"))


@pytest.mark.skipif(os.geteuid() != 0, reason="a process without a network needs root")
def test_an_unpacked_bundle_installs_and_answers_without_a_network(bundle, tmp_path):
    """As in the README: tail, tar, ./install.sh --user."""
    with tarfile.open(fileobj=io.BytesIO(bundle.read_bytes()[SCRIPT_BYTES:])) as tar:
        tar.extractall(tmp_path, filter="data")
    alone = ["unshare", "--net", "sh", "-ec", 'ip link set lo up && exec "$@"', "sh"]
    home = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run([*alone, "./install.sh", "--user", "--offline"], cwd=tmp_path, env=home, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0 and "start it with" in done.stdout, done.stdout + done.stderr
    done = subprocess.run([*alone, ".venv/bin/appliance", "doctor", "--self-test"], cwd=tmp_path, env=home, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "answered" in done.stdout, done.stderr


@pytest.mark.parametrize("damage", ["head", "program"])
def test_a_damaged_bundle_that_is_run_says_so_in_a_sentence(bundle, tmp_path, damage):
    data = bytearray(bundle.read_bytes()[: 60_000_000 if damage == "program" else SCRIPT_BYTES + 300])
    (tmp_path / "cut.run").write_bytes(data)
    done = subprocess.run(["sh", "cut.run", "verify"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 65 and re.search("Copy (it|the bundle) again", done.stderr)
    assert "Traceback" not in done.stderr and list(tmp_path.iterdir()) == [tmp_path / "cut.run"]
