"""Builds the llama.cpp tools we compare with, from the source our own wheel is made of.

`llama-cpp-python`'s source archive carries llama.cpp under vendor/llama.cpp, so its
`llama-server` and `llama-bench` run exactly the kernels our engine runs; a difference in a
table is then a difference of servers, not of compilers or commits.

    python -m bench.peer [--sdist llama_cpp_python-0.3.36.tar.gz]

prints one `name path` line per tool; a second call finds the finished build and only prints.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "0.3.36"  # the version our engine pins; raise both together
TOOLS = ("llama-server", "llama-bench", "llama-batched-bench", "llama-perplexity")
# The first four are what llama-cpp-python's own CMakeLists.txt and pip give our wheel.
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    # The web page is fetched from a model hub at build time, which a box without one cannot.
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DGGML_CCACHE=OFF",
)
STAMP = "built.json"


def cache_root() -> Path:
    """Folder of all peer builds: ${XDG_CACHE_HOME:-~/.cache}/appliance/peer."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "appliance" / "peer"


def cpu_model() -> str:
    """The CPU's name from /proc/cpuinfo, or the machine type where it has no such line (ARM)."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return os.uname().machine


def cpu_features() -> str:
    """The CPU's feature flags: hypervisors give different CPUs one name, so the name is no key."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""


def cxx_flags() -> str:
    """CXXFLAGS for the build, the same as install.sh gives our wheel.

    GCC 12.2's _tile_loadconfig tells the optimizer of 8 of its 64 bytes only; the stores to the rest are
    dropped as dead and the first batched step on a CPU with AMX dies with SIGILL or SIGSEGV
    (llama.cpp pull request 26954). The flag costs nothing measurable and keeps AMX.
    """
    return "-fno-dse" if "amx_tile" in cpu_features().split() else ""


def build_dir(root: Path) -> Path:
    """The folder of this version, flags and CPU; GGML_NATIVE makes a build good for one CPU only."""
    text = "\n".join((*FLAGS, cxx_flags(), cpu_model(), cpu_features()))
    return root / f"llama-cpp-python-{VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def tool_paths(root: Path | None = None) -> dict[str, Path] | None:
    """Tool name -> path of a finished build, or None when nothing was built for this machine."""
    folder = build_dir(root or cache_root())
    if not (folder / STAMP).exists():
        return None
    paths = {name: folder / "build" / "bin" / name for name in TOOLS}
    return paths if all(path.exists() for path in paths.values()) else None


def download_sdist(folder: Path) -> Path:
    """Fetches the source archive with pip (the only step that needs the package index)."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps",
         "-d", str(folder), f"llama-cpp-python=={VERSION}"],
        check=True,
    )
    found = sorted(folder.glob(f"llama_cpp_python-{VERSION}*.tar.gz"))
    if not found:
        raise SystemExit(f"pip left no llama_cpp_python-{VERSION}*.tar.gz in {folder}")
    return found[0]


def unpack(sdist: Path, target: Path) -> None:
    """Puts the archive's vendor/llama.cpp at `target`, through a rename so that half a tree never stays."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        with tarfile.open(sdist) as archive:
            archive.extractall(scratch, filter="data")
        found = list(Path(scratch).glob("*/vendor/llama.cpp"))
        if len(found) != 1:
            raise SystemExit(f"{sdist}: no vendor/llama.cpp in it; give llama-cpp-python's source archive")
        found[0].rename(target)


def build(sdist: Path, folder: Path, jobs: int) -> None:
    """Configures and compiles only TOOLS (about 6 minutes on two cores), then writes the stamp."""
    if VERSION not in sdist.name:
        raise SystemExit(f"{sdist.name} is not version {VERSION}: the comparison would mix versions")
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source"
    if not source.exists():
        unpack(sdist, source)
    out = folder / "build"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    env = os.environ | {"CXXFLAGS": cxx_flags()}
    subprocess.run(["cmake", *generator, "-S", str(source), "-B", str(out), *FLAGS], check=True, env=env)
    subprocess.run(["cmake", "--build", str(out), "-j", str(jobs), "--target", *TOOLS], check=True)
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    stamp = {"version": VERSION, "sdist_sha256": digest, "flags": FLAGS, "cxxflags": cxx_flags(),
             "cpu": cpu_model()}
    (folder / STAMP).write_text(json.dumps(stamp, indent=1))


def main() -> int:
    """Command line: build if needed, print the paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sdist", type=Path, help="source archive (default: pip download)")
    parser.add_argument("--cache", type=Path, default=cache_root(), help="folder for builds (%(default)s)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    if tool_paths(args.cache) is None:
        build(args.sdist or download_sdist(args.cache / "sdist"), build_dir(args.cache), args.jobs)
    paths = tool_paths(args.cache)
    if paths is None:
        raise SystemExit("the build ended well but a tool is missing; delete the folder and try again")
    for name, path in paths.items():
        print(name, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
