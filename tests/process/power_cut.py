"""What a power cut leaves of a folder: nothing that was not synced. `power_cut.c` notes it while a program works."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


class PowerCut:
    """Over one folder, without folders in it. `environment` is for the program that works there."""

    def __init__(self, folder: Path, beside: Path) -> None:
        """beside: a new folder for our own files."""
        beside.mkdir()
        self.folder, self._kept = folder, beside / "kept"
        library = beside / "power_cut.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, SOURCE, "-ldl", "-lpthread"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "CUT_FROM": str(folder), "CUT_TO": str(self._kept)}
        self.begin()

    def begin(self) -> None:
        """What lies there now is on the disk."""
        shutil.rmtree(self._kept, ignore_errors=True)
        (self._kept / "data").mkdir(parents=True)
        names = {path.name: path.stat().st_ino for path in self.folder.iterdir() if path.is_file()}
        for name, inode in names.items():
            shutil.copy(self.folder / name, self._kept / "data" / str(inode))
        (self._kept / "names").write_text("".join(f"{inode} {name}\n" for name, inode in names.items()))

    def cut(self) -> None:
        """Now, after the program was killed: the folder is as a disk would have it."""
        for path in self.folder.iterdir():
            if path.is_file():
                path.unlink()
        for line in (self._kept / "names").read_text().splitlines():
            inode, _, name = line.partition(" ")
            data = self._kept / "data" / inode
            if not name.endswith("-shm"):  # memory that is shared, made anew
                (self.folder / name).write_bytes(data.read_bytes() if data.exists() else b"")
        self.begin()


def environment_of(cut: PowerCut) -> dict[str, str]:
    """For a child: ours, and the cut's."""
    return {**os.environ, **cut.environment}
