"""The weights of a GGUF file in the form that ONNX Runtime's MatMulNBits reads: integers in blocks along a row.

Q4_0 and Q8_0 blocks change their packing but not a single weight: MatMulNBits computes (q - 8) * scale for 4 bits and
(q - 128) * scale for 8, consecutive weights in consecutive nibbles, the lower one first.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#commicrosoftmatmulnbits
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gguf
import numpy as np

from appliance.errors import ModelFileError

PLAIN = {"F32", "F16", "BF16"}
UNCHANGED = {"Q4_0": 4, "Q8_0": 8}
"""Types whose blocks are taken over as they are, and their bits."""
BLOCK = 32
ROUNDED = {"Q6_K"}
"""Types that llama.cpp gives the output of files of another type. Rounded to 8 bits: a tenth more than their own error."""
CANDIDATES = np.linspace(0.82, 1.0, 10, dtype=np.float32)
"""Shares of the largest weight of a block that are tried as the end of the scale when weights are rounded to 4 bits."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix [rows, columns] in blocks. packed: uint8 [rows, blocks, block * bits / 8]; scales: float32 [rows, blocks]."""

    packed: np.ndarray
    scales: np.ndarray
    bits: int
    block: int

    def take(self, rows: np.ndarray) -> Blocks:
        """The same matrix with its rows in another order."""
        return Blocks(self.packed[rows], self.scales[rows], self.bits, self.block)

    def floats(self) -> np.ndarray:
        """The weights, float32 [rows, columns]."""
        values = self.packed
        if self.bits == 4:
            values = np.stack((values & 15, values >> 4), axis=-1).reshape(*values.shape[:2], self.block)
        zero = 1 << (self.bits - 1)
        return ((values.astype(np.float32) - zero) * self.scales[..., None]).reshape(len(values), -1)


def read(tensor: gguf.ReaderTensor, block: int | None, bits: int = 4) -> Blocks | np.ndarray:
    """A matrix as blocks, or as float32 [rows, columns] where it is stored so and `block` is None.

    block: round weights of more than 4 bits to `bits` in blocks of so many. Raises ModelFileError for a type that can
    neither be taken over nor be rounded well.
    """
    kind = tensor.tensor_type.name
    if kind in UNCHANGED and block is None:
        blocks = _unpacked(tensor.data, UNCHANGED[kind])
        check_numbers(blocks.scales, tensor.name)
        return blocks
    if kind in PLAIN | ROUNDED | {"Q8_0"}:
        values = _floats(tensor)
        if block is None:
            return rounded(values, 8, BLOCK) if kind in ROUNDED else values
        return rounded(values, bits, block)
    if kind in UNCHANGED:
        raise ModelFileError(
            f"Tensor {tensor.name} is {kind} already; rounding it again would lose twice.",
            remedy="Leave --requantize out, or name the f16 file of this model.",
        )
    raise ModelFileError(
        f"Tensor {tensor.name} is {kind}, which has no equal among ONNX Runtime's types.",
        remedy="Convert a Q4_0 or Q8_0 file of this model, or its f16 file with --requantize block=128.",
    )


def rounded(weights: np.ndarray, bits: int, block: int) -> Blocks:
    """Round float32 [rows, columns] to blocks. For 4 bits the end of each block's scale is the one of CANDIDATES with the
    smallest squared error. Raises ModelFileError when the columns are no multiple of the block."""
    rows, columns = weights.shape
    if columns % block:
        raise ModelFileError(
            f"Rows of {columns} weights cannot be cut into blocks of {block}.", remedy="Choose a smaller block: 64 or 32."
        )
    found = [_rounded_rows(part, bits, block) for part in np.array_split(weights, max(1, weights.size >> 24))]
    packed, scales = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Blocks(packed, scales, bits, block)


def join(parts: Sequence[Blocks | np.ndarray]) -> Blocks | np.ndarray | None:
    """Matrices one below the other, None when they are not of one kind."""
    first = parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(list(parts))
    if isinstance(first, Blocks) and all(isinstance(p, Blocks) and (p.bits, p.block) == (first.bits, first.block) for p in parts):
        return Blocks(np.concatenate([p.packed for p in parts]), np.concatenate([p.scales for p in parts]), first.bits, first.block)
    return None


def _floats(tensor: gguf.ReaderTensor) -> np.ndarray:
    values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    check_numbers(values, tensor.name)
    return values


def check_numbers(values: np.ndarray, name: str) -> None:
    """Return when all are numbers. Raises ModelFileError."""
    if not np.isfinite(values).all():
        raise ModelFileError(f"Tensor {name} has values that are no numbers.", remedy="The file is damaged: download it again.")


def _unpacked(raw: np.ndarray, bits: int) -> Blocks:
    """Blocks of a 16-bit scale and 32 integers -> integers in order, and scales."""
    size = 2 + BLOCK * bits // 8
    blocks = raw.reshape(raw.shape[0], -1, size)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0].astype(np.float32)
    values = blocks[..., 2:]
    if bits == 8:
        return Blocks(values ^ 0x80, scales, 8, BLOCK)
    # Byte i of a Q4_0 block holds the weights i and i + 16 (ggml-quants.c, dequantize_row_q4_0).
    return Blocks(_nibbles(np.concatenate((values & 15, values >> 4), axis=-1)), scales, 4, BLOCK)


def _nibbles(values: np.ndarray) -> np.ndarray:
    return values[..., 0::2] | (values[..., 1::2] << 4)


def _rounded_rows(weights: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    values = weights.reshape(len(weights), -1, block)
    zero = 1 << (bits - 1)
    end = np.take_along_axis(values, np.abs(values).argmax(-1, keepdims=True), -1)  # with its sign: one more step is on its side
    best, scales = None, None
    for share in CANDIDATES if bits == 4 else CANDIDATES[-1:]:
        scale = end * (share / -zero)
        steps = np.divide(values, scale, out=np.zeros_like(values), where=scale != 0)
        steps = np.clip(np.rint(steps) + zero, 0, 2 * zero - 1)
        error = ((steps - zero) * scale - values).__pow__(2).sum(-1, keepdims=True)
        if best is None:
            best, scales, lowest = steps, scale, error
        else:
            better = error < lowest
            best, scales, lowest = np.where(better, steps, best), np.where(better, scale, scales), np.where(better, error, lowest)
    whole = best.astype(np.uint8)
    return (_nibbles(whole) if bits == 4 else whole), scales[..., 0]
