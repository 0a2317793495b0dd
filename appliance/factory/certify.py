"""The acceptance gate: measured figures against limits, and a certificate bound to the file and to this CPU. Pure but
for reading and writing its two small files.

Limits are TOML; every key is optional, an unknown one is a mistake:

    max_perplexity_rise = 0.05     # share above the reference
    max_kl = 0.1                   # nats
    min_top1 = 0.85
    min_tokens_per_s = 5.0         # one stream
    min_cosine = 0.97              # embedders: mean cosine with the reference's embeddings
    min_accuracy = 0.9             # classifiers: share of labelled lines
    [[golden]]
    prompt = "..."
    must_contain = "..."
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.errors import ConfigError, InvalidRequest

CERTIFICATE = "certificate.json"
NUMBERS = ("max_perplexity_rise", "max_kl", "min_top1", "min_tokens_per_s", "min_cosine", "min_accuracy")


@dataclass(frozen=True, slots=True)
class Golden:
    """A prompt whose greedy answer must contain a text."""

    prompt: str
    must_contain: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model must reach; None asks for nothing."""

    max_perplexity_rise: float | None = None
    max_kl: float | None = None
    min_top1: float | None = None
    min_tokens_per_s: float | None = None
    min_cosine: float | None = None
    min_accuracy: float | None = None
    golden: tuple[Golden, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured, None where it was not: perplexity_rise as a share of the reference's; golden: the answers, in the
    order of the limits; cosine: the mean over the sentences; accuracy as a share."""

    perplexity_rise: float | None = None
    kl: float | None = None
    top1: float | None = None
    tokens_per_s: float | None = None
    golden: tuple[str, ...] = ()
    cosine: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One limit: what was asked, what was measured, whether it holds."""

    name: str
    limit: str
    measured: str
    passed: bool


def read_limits(path: Path) -> Limits:
    """Limits from TOML. Raises ConfigError that lists every mistake."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None
    mistakes = []
    for key, value in data.items():
        if key == "golden":
            continue
        if key not in NUMBERS:
            close = difflib.get_close_matches(key, NUMBERS, n=1)
            mistakes.append(f"{path}: there is no limit {key!r}." + (f" Did you mean {close[0]}?" if close else ""))
        elif isinstance(value, bool) or not isinstance(value, int | float):
            mistakes.append(f"{path}: {key} = {value!r} is not a number.")
    golden = []
    rows = data.get("golden", [])
    if not isinstance(rows, list):
        mistakes.append(f"{path}: golden has to be written as [[golden]].")
        rows = []
    for number, row in enumerate(rows, 1):
        if not (isinstance(row, dict) and set(row) == {"prompt", "must_contain"} and all(isinstance(v, str) for v in row.values())):
            mistakes.append(f"{path}: golden prompt {number} needs the texts prompt and must_contain, and nothing else.")
        else:
            golden.append(Golden(**row))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return Limits(**{key: float(data[key]) for key in NUMBERS if key in data}, golden=tuple(golden))


def judge(limits: Limits, measured: Measured) -> list[Verdict]:
    """One verdict for each limit that was set. A figure that is missing fails its limit."""
    rows: list[Verdict] = []

    def check(name: str, limit: float | None, value: float | None, at_most: bool) -> None:
        if limit is not None:
            passed = value is not None and (value <= limit if at_most else value >= limit)
            rows.append(Verdict(name, f"{limit:g}", "not measured" if value is None else f"{value:.4g}", passed))

    check("max_perplexity_rise", limits.max_perplexity_rise, measured.perplexity_rise, True)
    check("max_kl", limits.max_kl, measured.kl, True)
    check("min_top1", limits.min_top1, measured.top1, False)
    check("min_tokens_per_s", limits.min_tokens_per_s, measured.tokens_per_s, False)
    check("min_cosine", limits.min_cosine, measured.cosine, False)
    check("min_accuracy", limits.min_accuracy, measured.accuracy, False)
    for golden, answer in zip(limits.golden, measured.golden, strict=True):
        rows.append(Verdict(f"golden: {golden.prompt}", golden.must_contain, answer, golden.must_contain in answer))
    return rows


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(file: Path) -> dict[str, str]:
    """Hashes by name of the files that an ONNX graph keeps its weights in: model.onnx.data and the like."""
    return {path.name: sha256(path) for path in sorted(file.parent.glob(f"{file.name}?*"))} if file.suffix == ".onnx" else {}


def write_certificate(folder: Path, file: Path, cpu: str, measured: Measured, verdicts: list[Verdict], date: str) -> Path:
    """Write folder/certificate.json, whole or not at all. Raises InvalidRequest when a verdict failed."""
    failed = [v for v in verdicts if not v.passed]
    if failed:
        words = "; ".join(f"{v.name} is {v.measured}, the limit is {v.limit}" for v in failed)
        raise InvalidRequest(f"{file.name} does not pass: {words}.", remedy="Use a larger quantization, or change the limits.")
    content = {
        "file": file.name,
        "sha256": sha256(file),
        "beside": _beside(file),
        "cpu": cpu,
        "date": date,
        "measured": asdict(measured),
        "verdicts": [asdict(v) for v in verdicts],
    }
    target = folder / CERTIFICATE
    part = folder / f".{CERTIFICATE}.part"
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, target)
    return target


def certified(folder: Path, file_sha256: str, cpu: str) -> str | None:
    """Why the model in `folder` does not count as certified, or None when it does."""
    try:
        content: dict[str, Any] = json.loads((folder / CERTIFICATE).read_text())
        bound_to, made_on = content["sha256"], content["cpu"]
        changed = bound_to != file_sha256 or _beside(folder / content["file"]) != content.get("beside", {})
    except FileNotFoundError:
        return "it has no certificate"
    except (OSError, ValueError, KeyError, TypeError):
        return "its certificate cannot be read"
    if changed:
        return "its certificate is for another file"
    if made_on != cpu:
        return f"its certificate was made on another processor ({made_on})"
    return None
