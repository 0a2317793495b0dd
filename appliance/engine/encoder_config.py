"""What an ONNX model's folder says about its task: config.json as transformers writes it, and sentence-transformers' files.

https://www.sbert.net/docs/sentence_transformer/usage/custom_models.html tells what modules.json, 1_Pooling/config.json,
sentence_bert_config.json and config_sentence_transformers.json hold. No weight is read here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from appliance.engine.encoder import Activation
from appliance.engine.model_files import read_text
from appliance.errors import ModelFileError, ModelFileMissing
from appliance.types import Task

Pooling = Literal["mean", "cls", "last", "max", "mean_sqrt"]
POOLINGS: tuple[str, ...] = get_args(Pooling)
POOLING_NAMES: dict[str, Pooling] = {
    "mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last", "max_tokens": "max", "mean_sqrt_len_tokens": "mean_sqrt",
    "mean_sqrt_len": "mean_sqrt",
}  # fmt: skip
"""sentence-transformers' names where they differ from ours."""
HEADS: dict[str, Task] = {
    "ForSequenceClassification": "classify", "ForTokenClassification": "tokens",
    "ForCausalLM": "generate", "LMHeadModel": "generate", "Model": "embed", "ForMaskedLM": "embed",
}  # fmt: skip
"""How the name of an architecture ends, and the task of its models."""
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize", "Dropout")
OFFSET_POSITIONS = ("roberta", "camembert", "mpnet", "longformer", "data2vec-text", "luke")
"""Kinds of models (model_type contains one) whose positions are counted from the padding token's number + 1."""
LONGEST_TOKENS = 512
"""For models that do not say how long a text may be."""
NO_LIMIT_TOKENS = 1 << 20
"""tokenizer_config.json says 10^30 where it has no limit."""
TEXT_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Which of a model's prompts is for which kind of text, the first one that it has."""
REMEDY = "Download the model's folder again, or export it as `appliance models convert` does."


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """limit_tokens: of one sequence. positions: how many the weights have, which padding must not exceed. labels: empty
    where config.json has none. prompt_pooled: whether a prompt counts for the vector. lower: texts are lower-cased first."""

    task: Task
    kind: str = ""
    limit_tokens: int = LONGEST_TOKENS
    positions: int = NO_LIMIT_TOKENS
    pad_token: int = 0
    vocabulary: int = 0
    labels: tuple[str, ...] = ()
    activation: Activation = "softmax"
    pooling: Pooling = "mean"
    normalize: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    prompt_pooled: bool = True
    lower: bool = False


def is_decoder(folder: Path) -> bool:
    """Whether the model in a folder writes text. Raises ModelFileError where the folder does not say what it is for."""
    return read_task(folder, read_json(folder / "config.json")) == "generate"


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Everything but the weights. Raises ModelFileError for what cannot be read or served."""
    config = read_json(folder / "config.json")
    task = read_task(folder, config)
    labels = _labels(config)
    if task == "classify" and (len(labels) or config.get("num_labels")) == 1:
        task = "rerank"
    modules = _modules(folder)
    known = [m["type"].rpartition(".")[2] for m in modules]
    if strange := [name for name in known if name not in KNOWN_MODULES]:
        raise ModelFileError(
            f"{folder / 'modules.json'} has a part that is not in the ONNX graph and not supported: {', '.join(strange)}.",
            remedy="Export the whole model as one graph (output sentence_embedding), and leave modules.json out.",
        )
    place = next((m.get("path") for m in modules if m["type"].endswith(".Pooling")), None) or "1_Pooling"
    pooling = read_json(folder / place / "config.json", optional=True)
    bert = read_json(folder / "sentence_bert_config.json", optional=True)
    pad = _number(config.get("pad_token_id"))
    positions = _positions(config, pad or 0)
    words = read_json(folder / "tokenizer_config.json", optional=True)
    told = (_number(bert.get("max_seq_length")), _number(words.get("model_max_length")), positions)
    limits = [number for number in told if number and number <= NO_LIMIT_TOKENS]
    return EncoderConfig(
        task=task,
        kind=str(config.get("model_type") or ""),
        limit_tokens=min(limits, default=LONGEST_TOKENS),
        positions=positions or NO_LIMIT_TOKENS,
        pad_token=pad or 0,
        vocabulary=_number(config.get("vocab_size")) or 0,
        labels=labels,
        activation=_activation(config),
        pooling=_pooling(pooling, folder / place / "config.json"),
        normalize="Normalize" in known if modules else True,
        prompts=_prompts(read_json(folder / "config_sentence_transformers.json", optional=True)),
        prompt_pooled=pooling.get("include_prompt", True) is not False,
        lower=bert.get("do_lower_case") is True,
    )


def read_task(folder: Path, config: dict[str, Any]) -> Task:
    """What a model is for, by its architecture. Raises ModelFileError where that is not known."""
    if _modules(folder):
        return "embed"
    names = [str(name) for name in config.get("architectures") or []]
    for name in names:
        for ending, task in HEADS.items():
            if name.endswith(ending):
                return task
    if (folder / "genai_config.json").exists():
        return "generate"
    if (folder / "1_Pooling").is_dir():
        return "embed"
    raise ModelFileError(
        f"{folder / 'config.json'} does not say what the model is for: architectures is {', '.join(names) or 'not there'}.",
        remedy=f"Names that are understood end in {', '.join(HEADS)}.",
    )


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """A file that holds an object; empty when it is optional and not there. Raises ModelFileMissing or ModelFileError."""
    found = _read(path, {} if optional else None)
    if not isinstance(found, dict):
        raise ModelFileError(f"{path} holds no object.", remedy=REMEDY)
    return found


def _read(path: Path, default: Any) -> Any:
    try:
        return json.loads(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        if default is not None:
            return default
        raise ModelFileMissing(f"{path.name} is missing in {path.parent}.", remedy=REMEDY) from None
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read as JSON: {error}.", remedy=REMEDY) from None


def _modules(folder: Path) -> list[dict[str, Any]]:
    found = _read(folder / "modules.json", [])
    if not isinstance(found, list) or not all(isinstance(m, dict) and isinstance(m.get("type"), str) for m in found):
        raise ModelFileError(f"{folder / 'modules.json'} holds no list of modules.", remedy=REMEDY)
    return found


def _number(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    found = config.get("id2label")
    if not isinstance(found, dict):
        return tuple(f"LABEL_{at}" for at in range(_number(config.get("num_labels")) or 0))
    try:
        return tuple(str(found[key]) for key in sorted(found, key=int))
    except ValueError:
        raise ModelFileError("config.json: the keys of id2label are no numbers.", remedy=REMEDY) from None


def _positions(config: dict[str, Any], pad: int) -> int | None:
    most = _number(config.get("max_position_embeddings"))
    if most and any(kind in str(config.get("model_type")) for kind in OFFSET_POSITIONS):
        most -= pad + 1
    return most


def _activation(config: dict[str, Any]) -> Activation:
    return {"multi_label_classification": "sigmoid", "regression": "none"}.get(str(config.get("problem_type")), "softmax")


def _pooling(found: dict[str, Any], path: Path) -> Pooling:
    """The way of pooling; sentence-transformers takes the mean where nothing is said, and joins the vectors of several."""
    ways = [key.removeprefix("pooling_mode_") for key, value in found.items() if key.startswith("pooling_mode_") and value is True]
    if isinstance(found.get("pooling_mode"), str):
        ways = [found["pooling_mode"]]
    if not found:
        return "mean"
    names = [POOLING_NAMES.get(way, way) for way in ways]
    if len(names) != 1 or names[0] not in POOLINGS:
        raise ModelFileError(
            f"{path} asks for the pooling {' and '.join(ways) or 'none'}, which is not supported.",
            remedy=f"Supported is one of {', '.join(POOLINGS)}.",
        )
    return names[0]


def _prompts(found: dict[str, Any]) -> dict[str, str]:
    """What is put before texts of each kind; "" is the kind of texts that have none."""
    given = found.get("prompts")
    given = {k: v for k, v in given.items() if isinstance(v, str)} if isinstance(given, dict) else {}
    prompts = {kind: next((given[n] for n in names if n in given), "") for kind, names in TEXT_PROMPTS.items()}
    prompts[""] = given.get(found.get("default_prompt_name") or "", "")
    return {kind: text for kind, text in prompts.items() if text}


def entailment_of(labels: tuple[str, ...]) -> tuple[int, int] | None:
    """(index of entailment, index of contradiction) among a classifier's labels, None where it judges no entailment."""
    low = [label.lower() for label in labels]
    yes = next((at for at, label in enumerate(low) if label.startswith("entail")), None)
    if yes is None or len(low) < 2:
        return None
    no = next((at for at, label in enumerate(low) if label.startswith(("contra", "not"))), None)
    return yes, no if no is not None else (-1 if yes == 0 else 0)
