"""llama.cpp itself, made ready for a process."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import llama_cpp as lib


@cache
def prepare() -> str:
    """Before the first model; safe to call again. Returns the kind of CPU whose kernels are used, "native" where there is one kind only.

    A portable build (see bundle/wheels.py) has its kernels in libraries of their own, libggml-cpu-KIND.so; ggml loads the best that this
    CPU can run, but only from a folder that it is told.
    """
    folder = Path(lib.__file__).parent / "lib"
    kind = "native"
    if any(folder.glob("libggml-cpu-*.so")):
        for openmp in folder.glob("libgomp.so.*"):  # in a bundle; the kernels ask for it by this name and are not told where
            ctypes.CDLL(str(openmp))
        # Asked of libllama, which finds it in the libggml that it has loaded; the file libggml.so would be a second one.
        lib.llama_cpp._lib.ggml_backend_load_all_from_path(os.fsencode(folder))
        loaded = (line.rpartition("/libggml-cpu-")[2].strip() for line in Path("/proc/self/maps").read_text().splitlines() if "/libggml-cpu-" in line)
        kind = next(loaded, "none").removesuffix(".so")
    lib.llama_backend_init()
    return kind
