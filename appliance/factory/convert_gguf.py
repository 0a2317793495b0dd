"""A Hugging Face folder (config.json, safetensors, tokenizer) as a GGUF file with f16 weights.

Names of tensors and metadata are the `gguf` package's; what llama.cpp expects of each architecture is read in its
src/models/*.cpp. Tensors are read, changed and written one by one, so that memory stays at about one of them. Every
tensor must be accounted for: none missing, none left over, each of the shape that config.json implies.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors import SafetensorError, safe_open

from appliance.errors import InvalidRequest, ModelFileError, ModelFileMissing, StorageFailed
from appliance.factory import convert_words
from appliance.factory.convert_shape import Shape, Tell, describe, expected, read_shape, refused
from appliance.gguf_header import read_header
from appliance.storage import in_words

NOT_WEIGHTS = re.compile(r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$|position_ids$")
"""Tables that older versions of transformers stored beside the weights."""
NOT_ENCODER = re.compile(r"^(pooler|cls)\.")
"""What a BERT was trained with and embeddings do without."""
GPT2_TRANSPOSED = re.compile(r"(attn_qkv|attn_output|ffn_up|ffn_down)\.weight$")
LLAMA_ROTATED = re.compile(r"attn_[qk]\.(weight|bias)$")
KEPT_IN_F32 = ("position_embd.weight", "token_types.weight")
"""They are small, and added to f32 values without a matrix product."""
READABLE = {"F64", "F32", "F16", "BF16"}
HEADER_MARGIN_BYTES = 1 << 25
"""The largest vocabularies take half of it."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of the folder, and what it becomes. shape: in the GGUF file, the longest stride first."""

    key: str
    file: Path
    name: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> type[np.floating]:
        """f32 for norms and biases, f16 for matrices."""
        return np.float32 if len(self.shape) == 1 or self.name in KEPT_IN_F32 else np.float16

    @property
    def size_bytes(self) -> int:
        """In the GGUF file."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def convert(folder: Path, target: Path, *, name: str = "", tell: Tell = lambda what, share: None) -> None:
    """Write the model in `folder` to `target` as GGUF, f16 with f32 norms and biases.

    name: for `general.name`; the folder's own without it. tell: gets what is done or should be known, and the share done.
    The target appears only when it is whole. Raises InvalidRequest (the target exists), ModelFileMissing, ModelFileError
    (damaged, incomplete, or of a kind that llama.cpp would compute differently) or StorageFailed.
    """
    if target.exists():
        raise InvalidRequest(f"{target} exists already.", param="target", remedy="Remove it or choose another name.")
    if not folder.is_dir():
        raise ModelFileMissing(f"There is no folder {folder}.", remedy="Name the folder with config.json.")
    config = convert_words.read_json(folder / "config.json")
    shape = read_shape(config)
    sources = _match(_stored(folder), shape)
    words = convert_words.read(folder, config, shape.vocabulary, bert=shape.arch == "bert", tell=tell)
    part = target.with_name(f".{target.name}.part")
    writer = gguf.GGUFWriter(str(part), shape.arch)
    frequencies = describe(writer, config, shape, tell)
    if shape.arch == "bert":
        _pooling(writer, folder, tell)
    writer.add_name(convert_words.writable(name or folder.resolve().name))
    if licence := _licence(folder):
        writer.add_license(licence)
    convert_words.write(writer, words)
    if template := convert_words.chat_template(folder):
        writer.add_chat_template(template)
    try:
        free, size = shutil.disk_usage(target.parent).free, sum(s.size_bytes for s in sources) + HEADER_MARGIN_BYTES
        if free < size:
            raise StorageFailed(
                f"{target.parent} has {free // 10**6} MB free; {size // 10**6} MB are needed.", remedy="Free some space."
            )
        _write(writer, sources, shape, frequencies, tell)
        read_header(part)
        os.replace(part, target)
    except OSError as error:
        raise in_words(error, f"Writing {target}") from None
    finally:
        writer.close()
        part.unlink(missing_ok=True)


def _stored(folder: Path) -> dict[str, tuple[Path, tuple[int, ...], str]]:
    """Tensors of the folder by name: file, shape and type."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        listed = convert_words.read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(f, str) and Path(f).name == f for f in listed.values()):
            raise ModelFileError(f"{index} has no list of files.", remedy="Download it again.")
        names = sorted(set(listed.values()))
    elif (folder / "model.safetensors").exists():
        listed, names = {}, ["model.safetensors"]
    else:
        listed, names = {}, sorted(path.name for path in folder.glob("*.safetensors"))
        if len(names) != 1:
            raise ModelFileMissing(
                f"There is no model.safetensors in {folder}, nor an index of several.",
                remedy="Download the safetensors files; other kinds (.bin, .pth) are not read.",
            )
    found: dict[str, tuple[Path, tuple[int, ...], str]] = {}
    for name in names:
        with _opened(folder / name) as file:
            for key in file.keys():  # noqa: SIM118 - no dictionary
                rows = file.get_slice(key)
                found[key] = (folder / name, tuple(rows.get_shape()), rows.get_dtype())
    if lost := sorted(listed.keys() - found.keys()):
        raise _missing(lost, "its index lists")
    return found


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")  # numpy has no bf16
    except FileNotFoundError:
        raise ModelFileMissing(f"{path.name} is missing in {path.parent}.", remedy="Download the whole folder.") from None
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}.", remedy="Download it again.") from None


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _missing(names: list[str], who: str) -> ModelFileError:
    return ModelFileError(f"The folder lacks tensors that {who}: {_some(names)}.", remedy="Download the whole folder again.")


def _match(stored: Mapping[str, tuple[Path, tuple[int, ...], str]], shape: Shape) -> list[Source]:
    """What becomes of each stored tensor. Raises ModelFileError for those missing, left over or of another shape or type."""
    wanted = expected(shape)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[shape.arch.upper()], shape.layers)
    plain = {key: _canonical(key, shape.arch) for key in stored}
    names = {key: table.get_name(plain[key], try_suffixes=(".weight", ".bias")) for key in stored}
    sources: dict[str, Source] = {}
    left: list[str] = []
    for key, (file, size, dtype) in stored.items():
        name = names[key]
        if NOT_WEIGHTS.search(key) or (shape.arch == "bert" and NOT_ENCODER.search(plain[key])):
            continue
        if name == "output.weight" and shape.tied:  # the embedding, by whichever of its two names it was saved
            if "token_embd.weight" in names.values():
                continue
            name = "token_embd.weight"
        if name not in wanted or name in sources:
            left.append(key)
            continue
        if shape.arch == "gpt2" and GPT2_TRANSPOSED.search(name):
            size = size[::-1]
        if size != wanted[name] or dtype not in READABLE:
            raise ModelFileError(
                f"Tensor {key} is {dtype} {list(size)}; config.json implies {list(wanted[name])} in bf16, f16 or f32.",
                remedy="config.json and the weights are not of the same model: download both again.",
            )
        sources[name] = Source(key, file, name, size)
    if lost := sorted(wanted.keys() - sources.keys()):
        raise _missing(lost, "config.json implies (by their GGUF names)")
    if left:
        raise refused(f"it has tensors with no place in {shape.arch}: {_some(sorted(left))}")
    return list(sources.values())


def _canonical(key: str, arch: str) -> str:
    """A stored tensor's name without what differs between ways to save the same model."""
    if arch == "gpt2" and not key.startswith(("transformer.", "lm_head.")):
        return f"transformer.{key}"
    if arch == "bert":
        return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", key.removeprefix("bert.")))
    return key


def _pooling(writer: gguf.GGUFWriter, folder: Path, tell: Tell) -> None:
    """How sentence-transformers makes one vector of a text's (1_Pooling/config.json), as far as llama.cpp knows the way."""
    if (folder / "2_Dense").exists():
        raise refused("a dense layer follows the pooling")
    if not (folder / "1_Pooling" / "config.json").exists():
        tell("The folder does not say how its vectors are pooled (1_Pooling/config.json); neither will the GGUF file.", 0.0)
        return
    settings = convert_words.read_json(folder / "1_Pooling" / "config.json")
    modes = [key.removeprefix("pooling_mode_") for key, on in settings.items() if key.startswith("pooling_mode_") and on is True]
    known = {"mean_tokens": gguf.PoolingType.MEAN, "cls_token": gguf.PoolingType.CLS, "lasttoken": gguf.PoolingType.LAST}
    if len(modes) != 1 or modes[0] not in known:
        raise refused(f"its vectors are pooled by {' and '.join(modes) or 'nothing'}")
    writer.add_pooling_type(known[modes[0]])


def _licence(folder: Path) -> str:
    """The licence in the model card's front matter, "" where there is none."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            text = file.read(1 << 16)
    except OSError:
        return ""
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:[ \t]*[\"']?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else ""


def _write(
    writer: gguf.GGUFWriter, sources: list[Source], shape: Shape, frequencies: np.ndarray | None, tell: Tell
) -> None:
    if frequencies is not None:
        writer.add_tensor_info("rope_freqs.weight", frequencies.shape, frequencies.dtype, frequencies.nbytes)
    for source in sources:
        writer.add_tensor_info(source.name, source.shape, np.dtype(source.dtype), source.size_bytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if frequencies is not None:
        writer.write_tensor_data(frequencies)
    done, all_bytes = 0, sum(source.size_bytes for source in sources)
    for path in dict.fromkeys(source.file for source in sources):
        with _opened(path) as file:
            for source in (s for s in sources if s.file == path):
                writer.write_tensor_data(_values(file, source, shape))
                done += source.size_bytes
                tell("writing the weights", done / all_bytes)
    writer.close()


def _values(file: Any, source: Source, shape: Shape) -> np.ndarray:
    """A tensor as it stands in the GGUF file."""
    try:
        tensor = file.get_tensor(source.key)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"Tensor {source.key} cannot be read: {error}.", remedy="Download it again.") from None
    values = (tensor.float() if source.dtype is np.float32 else tensor.half()).numpy()
    if not np.isfinite(values).all():
        raise ModelFileError(
            f"Tensor {source.key} has values that are no numbers or too large for {np.dtype(source.dtype).name}.",
            remedy="The file is damaged, or the model needs bf16 weights, which are not written here.",
        )
    if shape.arch == "gpt2" and GPT2_TRANSPOSED.search(source.name):
        values = values.T  # transformers keeps these as [in, out]
    if shape.arch == "llama" and LLAMA_ROTATED.search(source.name):
        # transformers rotates the first half of a head against the second, llama.cpp's llama each pair of neighbours.
        heads = shape.heads if "attn_q" in source.name else shape.kv_heads
        values = values.reshape(heads, 2, shape.head_size // 2, -1).swapaxes(1, 2).reshape(values.shape)
    return np.ascontiguousarray(values)
