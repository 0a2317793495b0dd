"""Random GGUF tensor data, made directly in the block layouts ggml reads.

Each function returns uint8 [rows, bytes per row] (float types: their own dtype) for weights with mean 0
and standard deviation about `sigma`. Layouts are those of ggml-common.h; nothing is quantized
from float weights, so a billion parameters take seconds. A block's scale has a random sign:
Q4_0 codes run from -8 to 7, and that mean of -0.5, the same in all blocks, would become the
largest direction of every matrix.
"""

import numpy as np

Q4_0_RMS = 21.5**0.5  # of -8..7
Q8_0_RMS = 73.6  # of -128..127
Q6_K_RMS = 18.5  # of -32..31, times the sub-block scales' below
Q6_K_SCALE_RMS = 97.0  # of 64..127


def _signed_scales(rng, shape, size: float) -> np.ndarray:
    """float16 scales, `size` in magnitude, with random signs."""
    signs = rng.integers(0, 2, size=shape, dtype=np.int8).astype(np.float32) * 2 - 1
    return (signs * size).astype(np.float16)


def _bytes(rng, *shape) -> np.ndarray:
    """Random uint8."""
    return rng.integers(0, 256, size=shape, dtype=np.uint8)


def _as_bytes(values: np.ndarray) -> np.ndarray:
    """The raw bytes of `values` along its last axis."""
    return np.ascontiguousarray(values).view(np.uint8)


def q4_0(rng, rows: int, cols: int, sigma: float) -> np.ndarray:
    """32 weights in 18 bytes: f16 scale, 16 bytes of two 4-bit codes."""
    blocks = cols // 32
    scales = _signed_scales(rng, (rows, blocks, 1), sigma / Q4_0_RMS)
    return np.concatenate([_as_bytes(scales), _bytes(rng, rows, blocks, 16)], axis=2).reshape(rows, -1)


def q8_0(rng, rows: int, cols: int, sigma: float) -> np.ndarray:
    """32 weights in 34 bytes: f16 scale, 32 signed bytes."""
    blocks = cols // 32
    scales = _signed_scales(rng, (rows, blocks, 1), sigma / Q8_0_RMS)
    return np.concatenate([_as_bytes(scales), _bytes(rng, rows, blocks, 32)], axis=2).reshape(rows, -1)


def q6_k(rng, rows: int, cols: int, sigma: float) -> np.ndarray:
    """256 weights in 210 bytes: 128 low nibbles, 64 high bits, 16 signed sub-scales, f16 scale."""
    blocks = cols // 256
    codes = _bytes(rng, rows, blocks, 192)
    sub = rng.integers(64, 128, size=(rows, blocks, 16), dtype=np.int8)
    sub *= rng.integers(0, 2, size=sub.shape, dtype=np.int8) * 2 - 1
    scales = np.full((rows, blocks, 1), sigma / (Q6_K_RMS * Q6_K_SCALE_RMS), dtype=np.float16)
    return np.concatenate([codes, sub.view(np.uint8), _as_bytes(scales)], axis=2).reshape(rows, -1)


def f16(rng, rows: int, cols: int, sigma: float) -> np.ndarray:
    """Half floats, uniform (cheaper than normal, and only the variance matters here)."""
    width = sigma * 12**0.5
    return ((rng.random((rows, cols), dtype=np.float32) - 0.5) * width).astype(np.float16)


def damp_rows(data: np.ndarray, kind: str, rows: np.ndarray, factor: float) -> None:
    """Multiplies the weights of `rows` (bool mask) by `factor`, in place, through the block scales."""
    if kind == "f16":
        data[rows] = (data[rows].astype(np.float32) * factor).astype(np.float16)
        return
    size, offset = {"q4_0": (18, 0), "q8_0": (34, 0), "q6_k": (210, 208)}[kind]
    blocks = data.reshape(data.shape[0], -1, size)
    part = np.ascontiguousarray(blocks[rows][:, :, offset:offset + 2])
    scales = (part.view(np.float16).astype(np.float32) * factor).astype(np.float16)
    blocks[rows, :, offset:offset + 2] = scales.view(np.uint8)


MAKERS = {"q4_0": q4_0, "q8_0": q8_0, "q6_k": q6_k, "f16": f16}
