"""GGUF to a smaller GGUF, by llama.cpp's own quantizer."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import llama_cpp as lib

from appliance.engine import llama_library
from appliance.engine.llama_log import LlamaLog
from appliance.engine.llama_model import check_file
from appliance.errors import InvalidRequest, ModelFileError, StorageFailed

KINDS: dict[str, int] = {
    "F16": lib.LLAMA_FTYPE_MOSTLY_F16,
    "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_K_M": lib.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q5_K_M": lib.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q6_K": lib.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
}
OUTPUT_KINDS: dict[str, int] = {
    "F16": lib.GGML_TYPE_F16,
    "Q4_0": lib.GGML_TYPE_Q4_0,
    "Q6_K": lib.GGML_TYPE_Q6_K,
    "Q8_0": lib.GGML_TYPE_Q8_0,
}


def quantize(source: Path, target: Path, kind: str, *, output: str | None = None, threads: int = 0) -> None:
    """Write `source` to `target` with weights of `kind` (a key of KINDS).

    output: a key of OUTPUT_KINDS for the output and embedding tensors, None for llama.cpp's choice. threads: 0 for all.
    The target appears only when it is whole. Raises InvalidRequest, ModelFileError or StorageFailed.
    """
    if kind not in KINDS:
        raise InvalidRequest(f"There is no quantization {kind!r}.", param="type", remedy=f"Choose one of {', '.join(KINDS)}.")
    if output is not None and output not in OUTPUT_KINDS:
        raise InvalidRequest(
            f"The output tensor cannot be {output!r}.", param="output", remedy=f"Choose one of {', '.join(OUTPUT_KINDS)}."
        )
    check_file(source)
    if target.exists():
        raise InvalidRequest(f"{target} exists already.", param="target", remedy="Remove it or choose another name.")
    free, size = shutil.disk_usage(target.parent).free, source.stat().st_size
    if free < size:
        raise StorageFailed(f"{target.parent} has {free // 10**6} MB free; up to {size // 10**6} MB are needed.")
    log = LlamaLog()
    llama_library.prepare()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = KINDS[kind], threads
    if output is not None:
        params.output_tensor_type = params.token_embedding_type = OUTPUT_KINDS[output]
    part = target.with_name(f".{target.name}.part")
    try:
        status = lib.llama_model_quantize(str(source).encode(), str(part).encode(), params)
        if status:
            raise ModelFileError(f"{source.name} cannot be quantized to {kind}: {log.last()}", remedy="Begin from F16 or F32.")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
