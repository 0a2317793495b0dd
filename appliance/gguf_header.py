"""What a GGUF file says about itself, read without any library and without trusting a single length.

Only the header is read: metadata and the table of tensors. Long arrays (vocabularies) are stepped over. The places of
the tensors are checked against the file's size, so a file that was cut off is refused before anybody tries to load it.
Every fault is a ModelFileError; time and memory have limits whatever the file claims.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from appliance.errors import ModelFileError, ModelFileMissing
from appliance.storage import in_words

MOST_KEYS = 1 << 16
MOST_TENSORS = 1 << 16
MOST_STRINGS = 1 << 23
"""In all arrays together; the largest vocabularies have a quarter of a million tokens and as many merges."""
LONGEST_KEY = 1 << 16
LONGEST_KEPT_STRING = 1 << 20
MOST_KEPT_BYTES = 1 << 24
MOST_DIMENSIONS = 8
STRING, ARRAY = 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

TENSOR_TYPES: dict[int, tuple[str, int, int]] = {  # number: (name, weights in a block, bytes of a block)
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip
"""`general.file_type` in words; llama.cpp calls them so too."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of the table. offset: from where the tensors' data begins. size_bytes: 0 for a type we do not know."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the file says. metadata: numbers, truth values and strings that are not too long; arrays are left out."""

    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    data_start: int

    def text(self, key: str) -> str:
        """A metadata string, or ""."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int:
        """A metadata number, or 0."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else 0

    @property
    def architecture(self) -> str:
        """For example "llama"."""
        return self.text("general.architecture")

    @property
    def context_tokens(self) -> int:
        """What the model was trained for; 0 when it does not say."""
        return max(0, self.number(f"{self.architecture}.context_length"))

    @property
    def quantization(self) -> str:
        """As llama.cpp calls it, such as Q4_K_M; where the file does not say, the type of most weights."""
        known = FILE_TYPES.get(self.number("general.file_type")) if "general.file_type" in self.metadata else None
        if known:
            return known
        weights: Counter[int] = Counter()
        for tensor in self.tensors:
            weights[tensor.type] += _product(tensor.shape)
        kind = weights.most_common(1)[0][0] if weights else -1
        return TENSOR_TYPES[kind][0] if kind in TENSOR_TYPES else "unknown"


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file, checked against its size.

    Raises ModelFileMissing, or ModelFileError for what is no GGUF file, damaged, cut off or beyond the limits above.
    """
    try:
        with path.open("rb") as file:
            return _Header(file, os.fstat(file.fileno()).st_size, path.name).read()
    except FileNotFoundError:
        raise ModelFileMissing(f"There is no model file at {path}.", remedy="Check the path.") from None
    except IsADirectoryError:
        raise ModelFileError(f"{path} is a folder, not a GGUF file.") from None
    except OSError as error:
        raise in_words(error, f"Reading {path}") from None


def _product(numbers: tuple[int, ...]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


class _Header:
    """Reads forward only. `size`: of the whole file."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.file, self.size, self.name = file, size, name
        self.at = 0
        self.kept_bytes = self.strings = 0

    def bad(self, why: str) -> ModelFileError:
        return ModelFileError(f"{self.name}: {why}.", remedy="The file is damaged, incomplete or of another kind: compare its size with the original and fetch it again.")

    def take(self, count: int) -> bytes:
        data = self.file.read(count) if count <= self.size - self.at else b""
        if len(data) != count:
            raise self.bad(f"the file ends at byte {self.size}, within its header")
        self.at += count
        return data

    def skip(self, count: int) -> None:
        if count > self.size - self.at:
            raise self.bad(f"the file ends at byte {self.size}, within its header")
        self.at += count
        self.file.seek(self.at)

    def number(self, form: str) -> Any:
        try:
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        except struct.error:  # never: take gives what was asked for
            raise self.bad("it has a number that is none") from None

    def string(self, longest: int) -> str:
        length = self.number("<Q")
        if length > longest:
            raise self.bad(f"it has a name of {length} bytes; the limit is {longest}")
        return self._text(length)

    def _text(self, length: int) -> str:
        self.kept_bytes += length
        if self.kept_bytes > MOST_KEPT_BYTES:
            raise self.bad(f"its metadata is larger than {MOST_KEPT_BYTES} bytes")
        return self.take(length).decode("utf-8", "replace")

    def read(self) -> GgufHeader:
        if self.size < 24 or self.take(4) != b"GGUF":
            raise self.bad("it is not a GGUF file")
        version = self.number("<I")
        if version not in (2, 3):
            big = version in (2 << 24, 3 << 24)
            raise self.bad("it is for big-endian machines" if big else f"GGUF version {version} is not supported (2 and 3 are)")
        tensors, keys = self.number("<Q"), self.number("<Q")
        if tensors > MOST_TENSORS or keys > MOST_KEYS:
            raise self.bad(f"it claims {tensors} tensors and {keys} metadata keys; the limits are {MOST_TENSORS} and {MOST_KEYS}")
        metadata = self._metadata(keys)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self.bad(f"its alignment {alignment!r} is not a power of two")
        table = self._tensors(tensors, alignment)
        start = -(-self.at // alignment) * alignment
        for tensor in table:
            end = start + tensor.offset + tensor.size_bytes
            if end > self.size:
                raise self.bad(f"the file has {self.size} bytes, but tensor {tensor.name[:80]!r} ends at byte {end}: it was cut off")
        return GgufHeader(version, metadata, table, start)

    def _metadata(self, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        seen: set[str] = set()
        for _ in range(count):
            key, kind = self.string(LONGEST_KEY), self.number("<I")
            if key in seen:
                raise self.bad(f"its metadata has {key[:80]!r} twice")
            seen.add(key)
            value = self._value(kind)
            if value is not None:
                found[key] = value
        return found

    def _value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            length = self.number("<Q")
            if length <= LONGEST_KEPT_STRING:
                return self._text(length)
            self.skip(length)
        elif kind == ARRAY:
            self._skip_array()
        else:
            raise self.bad(f"it has metadata of an unknown type, {kind}")
        return None

    def _skip_array(self) -> None:
        kind, count = self.number("<I"), self.number("<Q")
        if kind in SCALARS:
            self.skip(count * struct.calcsize(SCALARS[kind]))
            return
        if kind != STRING:
            raise self.bad(f"it has an array of an unknown type, {kind}")
        self.strings += count
        if self.strings > MOST_STRINGS:
            raise self.bad(f"it claims more than {MOST_STRINGS} strings in arrays")
        for _ in range(count):
            self.skip_string()

    def skip_string(self) -> None:
        length = self.number("<Q")
        if length < 4096:
            self.take(length)  # cheaper than a seek
        else:
            self.skip(length)

    def _tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        found: dict[str, Tensor] = {}
        for _ in range(count):
            name, dimensions = self.string(LONGEST_KEY), self.number("<I")
            if dimensions > MOST_DIMENSIONS:
                raise self.bad(f"tensor {name[:80]!r} has {dimensions} dimensions")
            shape = tuple(self.number("<Q") for _ in range(dimensions))
            kind, offset = self.number("<I"), self.number("<Q")
            if name in found:
                raise self.bad(f"it has tensor {name[:80]!r} twice")
            if offset % alignment:
                raise self.bad(f"tensor {name[:80]!r} does not lie at a multiple of {alignment} bytes")
            found[name] = Tensor(name, shape, kind, offset, self._bytes(name, shape, kind))
        return tuple(found.values())

    def _bytes(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        if kind not in TENSOR_TYPES:
            return 0  # newer than this table: llama.cpp decides whether it can be loaded
        _, block, size = TENSOR_TYPES[kind]
        if shape and shape[0] % block:
            raise self.bad(f"tensor {name[:80]!r} has rows of {shape[0]} weights, which blocks of {block} cannot hold")
        return _product(shape) // block * size
