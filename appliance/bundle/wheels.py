"""The wheels of a bundle: fetched with pip for each Python, with the box's own, and llama.cpp's for many CPUs."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from appliance.errors import ApplianceError, InvalidRequest, Unavailable

Tell = Callable[[str], None]
NEWEST_GLIBC = 35
"""Ubuntu 22.04 has 2.35, Debian 12 has 2.36."""
LLAMA = "llama-cpp-python"
PORTABLE = "-DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DCMAKE_INSTALL_BINDIR:STRING=llama_cpp/lib -DLLAVA_BUILD=OFF"
"""llama.cpp's kernels once for each kind of CPU, beside the library; it takes the best one when it is loaded (see
engine/llama_library.py)."""


@dataclass(frozen=True)
class Wheel:
    """A wheel file and what its METADATA says. licences: the texts that it carries."""

    path: Path
    name: str
    version: str
    licence: str
    licences: tuple[str, ...]

    def sha256(self) -> str:
        """Of the file, in hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def requirement(self) -> str:
        """A line of a requirements file, with the hash."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256()}"


def read_wheel(path: Path) -> Wheel:
    """Raises InvalidRequest for a file that is no wheel."""
    try:
        with zipfile.ZipFile(path) as packed:
            names = packed.namelist()
            metadata = next(name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            head = HeaderParser().parsestr(packed.read(metadata).decode("utf-8", "replace"))
            folder = metadata.rpartition("/")[0]
            texts = [name for name in names if name.startswith(f"{folder}/") and re.search(r"/(licen[cs]e|copying|notice|authors)", name, re.I) and not name.endswith("/")]
            licences = tuple(packed.read(name).decode("utf-8", "replace") for name in sorted(texts))
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise InvalidRequest(f"{path} is no wheel: {error or 'it has no METADATA'}.", param="wheels", remedy="Fetch it again.") from None
    licence = head["License-Expression"] or next((line for line in (head["License"] or "").splitlines() if line.strip()), "")
    return Wheel(path, head["Name"], head["Version"], licence.strip()[:200], licences)


def gather(checkout: Path, python: str, arch: str, llama: Path, folder: Path | None, into: Path, tell: Tell) -> list[Wheel]:
    """Everything that the box installs for `python` (such as 3.11), into a folder. folder: take wheels from there and touch no network.

    Raises Unavailable with pip's last words where something cannot be had."""
    with (checkout / "pyproject.toml").open("rb") as file:
        wanted = [line for line in tomllib.load(file)["project"]["dependencies"] if not line.startswith(LLAMA)]
    wanted += ["pip", *_needed_by(llama)]
    tag = "cp" + python.replace(".", "")
    platforms = [f"manylinux_2_{minor}_{arch}" for minor in range(NEWEST_GLIBC, 4, -1)] + [f"manylinux{old}_{arch}" for old in ("2014", "2010", "1")]
    flags = [word for name in platforms for word in ("--platform", name)]
    flags += ["--python-version", python, "--implementation", "cp", "--abi", tag, "--abi", "abi3", "--abi", "none", "--only-binary", ":all:"]
    tell(f"packages for Python {python}")
    source = ["--no-index", "--find-links", str(folder)] if folder else []
    _pip("download", "--dest", str(into), *source, *flags, *wanted)
    if arch == platform.machine():
        with_openmp(llama, into)
    else:
        shutil.copy2(llama, into)  # from a machine of that kind, whose `bundle build` has put it in
    with tempfile.TemporaryDirectory() as scratch:  # a build in the checkout would leave its traces there
        _pip("wheel", "--no-deps", "--wheel-dir", scratch, *source, str(checkout))
        for path in Path(scratch).glob("*.whl"):
            shutil.copy2(path, into)
    return [read_wheel(path) for path in sorted(into.glob("*.whl"))]


def _needed_by(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as packed:
        metadata = next(name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        head = HeaderParser().parsestr(packed.read(metadata).decode())
    return [line for line in head.get_all("Requires-Dist", []) if "extra ==" not in line]


def _pip(*words: str, **env: str) -> None:
    command = [sys.executable, "-m", "pip", *words, "--disable-pip-version-check", "--no-input"]
    done = subprocess.run(command, env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        last = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.strip().splitlines() or ["it said nothing"]
        raise Unavailable(f"pip could not get the packages: {last[0].removeprefix('ERROR: ')}", remedy="A bundle is built where a package index is reached, or with --wheels FOLDER.")


def portable_llama(checkout: Path, cache: Path, tell: Tell) -> Path:
    """llama-cpp-python for any CPU of this architecture (on x86 from x86-64-v2 on), compiled when the cache has none. Raises ApplianceError."""
    with (checkout / "pyproject.toml").open("rb") as file:
        wanted = next(line for line in tomllib.load(file)["project"]["dependencies"] if line.startswith(LLAMA))
    key = hashlib.sha256(f"{wanted} {PORTABLE} {platform.machine()} {platform.libc_ver()}".encode()).hexdigest()[:12]
    place = cache / f"portable-{key}"
    if found := sorted(place.glob("*.whl")):
        return found[0]
    tell("llama.cpp for every kind of CPU: 10 to 20 minutes on two cores, once")
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".build.") as scratch:
        # GCC up to 13 miscompiles the AMX kernels otherwise: see install.sh.
        flags = os.environ.get("CXXFLAGS", "") + (" -fno-dse" if platform.machine() == "x86_64" else "")
        env = {"CMAKE_ARGS": PORTABLE, "CXXFLAGS": flags.strip(), "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)}
        _pip("wheel", "--no-deps", "--no-cache-dir", "--no-binary", LLAMA, "--wheel-dir", scratch, wanted, **env)
        (built,) = Path(scratch).glob("*.whl")
        whole = Path(scratch) / "whole"
        whole.mkdir()
        return with_openmp(built, whole).rename(place / built.name)


def with_openmp(llama: Path, into: Path) -> Path:
    """The wheel with GCC's OpenMP library beside llama.cpp, which a Debian without a compiler does not have. Raises ApplianceError."""
    source = next(Path("/usr/lib").glob(f"{platform.machine()}-linux-gnu*/libgomp.so.1"), None)
    if source is None:
        raise ApplianceError("There is no libgomp.so.1, which llama.cpp was compiled with.", remedy="apt-get install libgomp1")
    target, name, data = into / llama.name, "llama_cpp/lib/libgomp.so.1", source.read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(llama) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            if info.filename == name:
                continue
            content = old.read(info)
            if info.filename.endswith(".dist-info/RECORD"):
                content += f"{name},sha256={digest},{len(data)}\n".encode()
            new.writestr(info, content)
        new.writestr(name, data)
    return target


def is_portable(llama: Path) -> bool:
    """Whether a wheel of llama-cpp-python has kernels for several kinds of CPU."""
    with zipfile.ZipFile(llama) as packed:
        return sum(bool(re.search(r"/libggml-cpu-\w+\.so$", name)) for name in packed.namelist()) > 1


def oldest_glibc(wheels: list[Wheel]) -> str:
    """The oldest C library that all of them run with, such as 2.28: by their tags, and for those that have none (PEP 600) by the
    symbols that their libraries ask for."""
    return f"2.{max((minor for wheel in wheels for minor in _glibc(wheel.path)), default=17)}"


def _glibc(path: Path) -> Iterator[int]:
    tags = path.stem.split("-")[-1]
    if tags == "any":
        return
    if minors := [int(minor) for minor in re.findall(r"manylinux_2_(\d+)_", tags)]:
        yield min(minors)
    elif "manylinux" in tags:
        yield 17
    else:
        with zipfile.ZipFile(path) as packed:
            for name in packed.namelist():
                if re.search(r"\.so(\.\d+)*$", name):
                    yield from (int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)\b", packed.read(name)))


def wheel_cache() -> Path:
    """Where install.sh keeps built wheels."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("APPLIANCE_WHEEL_CACHE") or Path(base) / "appliance" / "wheels")


def native_llama(cache: Path) -> Path:
    """The wheel that install.sh compiled for this machine. Raises ApplianceError where there is none."""
    found = sorted(cache.glob("llama_cpp_python-*/llama_cpp_python-*.whl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ApplianceError(f"There is no wheel of {LLAMA} in {cache}.", remedy="Run ./install.sh --user first.")
    return found[-1]
