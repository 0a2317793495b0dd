"""What a model's files say about it, and which of many files belong to it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import InvalidRequest, ModelFileError, ModelFileMissing
from appliance.gguf_header import read_header
from appliance.manifest import LONGEST_TEXT, Format, Task, name_problem

UNKNOWN = "unknown"
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
CHECKPOINTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".ckpt", ".gguf", ".tflite")
PAPERS = re.compile(r"(license|licence|notice|copying|readme)(\.(md|txt))?", re.IGNORECASE)
RANK_POOLING = 4
MOST_CONFIG_BYTES = 1 << 20
PRECISIONS = ("int4", "int8", "uint8", "q4", "q8", "fp16", "bf16", "fp32")


@dataclass(frozen=True, slots=True)
class Facts:
    """The part of a manifest that comes out of the files."""

    family: str
    format: Format
    task: Task
    quantization: str
    context_tokens: int
    licence: str
    description: str


def plain(text: str) -> str:
    """A text from a stranger's file, fit for one line of a manifest and for a terminal."""
    kept = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(kept.split())[:LONGEST_TEXT]


def name_from(text: str) -> str:
    """A catalog name made from a file's or a repository's name."""
    text = SHARD.sub("", text.rsplit("/", 1)[-1])
    text = re.sub(r"\.(gguf|onnx)$", "", text, flags=re.IGNORECASE)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:64]
    return "model" if name_problem(name) else name


def read_facts(folder: Path, main: str, licence: str = "") -> Facts:
    """Read them from the model's main file and what lies beside it. licence: what the source says, where the file is silent.

    Raises ModelFileError for a file that is damaged or no model.
    """
    if main.lower().endswith(".gguf"):
        return _gguf_facts(folder / main, licence)
    return _onnx_facts(folder, main, licence)


def _gguf_facts(path: Path, licence: str) -> Facts:
    header = read_header(path)
    kind = header.text("general.type")
    if kind not in ("", "model") or header.architecture == "clip":
        raise ModelFileError(f"{path.name} is a GGUF file, but no model: it is a {plain(kind)[:40] or 'vision encoder'}.", remedy="Name the model's own file.")
    if not header.architecture or not header.tensors:
        raise ModelFileError(f"{path.name} is a GGUF file without a model in it.", remedy="Name the model's own file.")
    pooling = header.metadata.get(f"{header.architecture}.pooling_type")
    task: Task = "generate"
    if pooling == RANK_POOLING:
        task = "rerank"
    elif pooling not in (None, 0) or "bert" in header.architecture:
        task = "embed"
    return Facts(
        family=plain(header.architecture),
        format="gguf",
        task=task,
        quantization=header.quantization,
        context_tokens=header.context_tokens,
        licence=plain(header.text("general.license")) or licence or UNKNOWN,
        description=plain(header.text("general.name")),
    )


def _onnx_facts(folder: Path, main: str, licence: str) -> Facts:
    try:
        with (folder / "config.json").open("rb") as file:
            config = json.loads(file.read(MOST_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        config = {}
    config = config if isinstance(config, dict) else {}
    made_for = " ".join(str(word) for word in config.get("architectures") or [] if isinstance(word, str))
    task: Task = "embed"
    if "CausalLM" in made_for or "LMHead" in made_for or (not made_for and (folder / "genai_config.json").exists()):
        task = "generate"
    elif "SequenceClassification" in made_for:
        labels = config.get("id2label")
        task = "rerank" if isinstance(labels, dict) and len(labels) == 1 else "classify"  # one number: how well two texts fit
    elif "TokenClassification" in made_for:
        task = "classify"
    context = config.get("max_position_embeddings")
    return Facts(
        family=plain(str(config.get("model_type") or UNKNOWN)) or UNKNOWN,
        format="onnx",
        task=task,
        quantization=next((word for word in PRECISIONS if word in main.lower()), UNKNOWN),
        context_tokens=context if type(context) is int and 0 < context < 1 << 32 else 0,
        licence=licence or UNKNOWN,
        description="",
    )


def choose_files(names: Sequence[str], wanted: str, where: str) -> tuple[str, ...]:
    """The files of one model among `names` (relative paths), its main file first.

    wanted: the main file, or "" when there is only one to choose. A GGUF model is one file or a complete set of shards; an
    ONNX model is everything but other kinds of weights. Licences and cards come along. `where` is for the sentences of
    the errors: InvalidRequest when there are several to choose from, ModelFileMissing, ModelFileError.
    """
    if wanted and wanted not in names:
        close = difflib.get_close_matches(wanted, names, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"There are: {_list(names)}."
        raise ModelFileMissing(f"{where} has no file {wanted!r}.", remedy=hint)
    main = wanted or _only_model(names, where)
    papers = [name for name in names if "/" not in name and PAPERS.fullmatch(name)]
    if main.lower().endswith(".gguf"):
        return (*_shards(names, main, where), *papers)
    if not main.lower().endswith(".onnx"):
        raise InvalidRequest(f"{main!r} is neither a GGUF nor an ONNX file.", remedy="Name a file that ends in .gguf or .onnx.")
    others = [name for name in names if name.lower().endswith(".onnx") and name != main]
    rest = [
        name
        for name in names
        if name != main
        and not name.lower().endswith(CHECKPOINTS)
        and not any(name == other or name.startswith((f"{other}.", f"{other}_")) for other in others)
        and not any(part.startswith(".") for part in name.split("/"))
    ]
    return (main, *sorted(rest))


def _only_model(names: Sequence[str], where: str) -> str:
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    firsts = [name for name in ggufs if not (shard := SHARD.search(name)) or int(shard[1]) == 1]
    onnxes = [name for name in names if name.lower().endswith(".onnx")]
    if onnxes and not ggufs:
        firsts = [name for name in onnxes if name.rsplit("/", 1)[-1] == "model.onnx"] or onnxes
    if len(firsts) == 1:
        return firsts[0]
    if firsts:
        raise InvalidRequest(f"{where} has {len(firsts)} models: {_list(firsts)}.", remedy="Name the file that you want.")
    if any(name.lower().endswith(CHECKPOINTS) for name in names):
        raise ModelFileError(f"{where} has no GGUF and no ONNX file, only a checkpoint for training.", remedy="Convert it to one of these formats first.")
    raise ModelFileError(f"{where} has no GGUF and no ONNX file.", remedy="Name a source that has one.")


def _shards(names: Sequence[str], main: str, where: str) -> tuple[str, ...]:
    shard = SHARD.search(main)
    if not shard:
        return (main,)
    head, count = main[: shard.start()], int(shard[2])
    present: Mapping[str, str] = {name.lower(): name for name in names}
    wanted = [f"{head}-{number:05}-of-{count:05}.gguf" for number in range(1, min(count, 99_999) + 1)]
    missing = [name for name in wanted if name.lower() not in present]
    if missing:
        raise ModelFileMissing(f"{where} lacks {len(missing)} of the model's {count} parts: {_list(missing)}.", remedy="Put all parts in one folder.")
    return tuple(present[name.lower()] for name in wanted)


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(plain(name)[:120] for name in names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")
