"""The flags of a distillation, for `python -m appliance.factory.distil` and the command line alike; without torch, so that
`--help` does not wait for it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

SIZES: dict[str, tuple[int, str]] = {
    "vocabulary": (4096, "tokens of the student's vocabulary"),
    "hidden": (320, "width of the student"),
    "layers": (6, "layers of the student"),
    "heads": (5, "attention heads; hidden has to be a multiple of twice as many"),
    "kv_heads": (5, "heads of keys and values; heads has to be a multiple"),
    "ffn": (864, "width of the feed-forward layers"),
    "context": (256, "tokens of a question and its answer together"),
    "steps": (4000, "steps of the training"),
    "batch": (64, "pairs in a step"),
    "warmup": (100, "steps until the learning rate is at its peak"),
    "save_every": (200, "steps between two checkpoints"),
    "seed": (1, "what all that is drawn depends on"),
}
"""The usual values, which are those of student.Shape and student.Recipe, and their words."""
RATES: dict[str, tuple[float, str]] = {
    "learning_rate": (2e-3, "peak of the learning rate"),
    "dropout": (0.1, "share of the activations that a step leaves out"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags. `vars` of what the parser then finds is what `distil.run` takes."""
    parser.add_argument("prompts", metavar="PROMPTS", type=Path, help="questions: a text file with one a line, .jsonl, or .toml with templates")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the student; the same command goes on where a run was stopped")
    teachers = parser.add_mutually_exclusive_group(required=True)
    teachers.add_argument("--teacher", metavar="URL|FILE", help="an OpenAI-compatible address, http://host:port/v1, or a model file of this machine")
    teachers.add_argument("--answers", type=Path, metavar="FILE", help="answers there are already, as JSON Lines")
    parser.add_argument("--teacher-model", "--model", dest="model", default="", metavar="NAME", help="the teacher's name at its address")
    parser.add_argument("--key-env", default="", metavar="VAR", help="environment variable with the teacher's API key")
    parser.add_argument("--timeout", type=_above(0), default=120.0, metavar="SECONDS", help="for one answer (default: 120)")
    parser.add_argument("--at-once", type=_whole(1), default=4, metavar="N", help="questions the teacher is asked at the same time (default: 4)")
    parser.add_argument("--labels", dest="kind", action="store_const", const="labels", default="answers",
                        help="the answers are labels: make a classifier (ONNX) instead of a model that writes")  # fmt: skip
    parser.add_argument("--limits", type=Path, metavar="FILE", help="TOML with what the student must reach")
    parser.add_argument("--min-match", type=_above(0, most=1), metavar="SHARE", help="held-out questions to be answered as the teacher does")
    parser.add_argument("--held-out", type=_above(0, most=1), default=0.1, metavar="SHARE", help="questions kept back to test with (default: 0.1)")
    parser.add_argument("--name", default="", metavar="N", help="the student's name; default: the folder's")
    parser.add_argument("--licence", default="unknown", metavar="TEXT", help="the student's licence")
    parser.add_argument("--noise", action="store_true", help="learn the questions with typing errors and English small talk, too")
    for name, (usual, words) in SIZES.items():
        least = 0 if name in ("seed", "warmup") else 1
        parser.add_argument(f"--{name.replace('_', '-')}", type=_whole(least), default=usual, metavar="N", help=f"{words} (default: {usual})")
    for name, (rate, words) in RATES.items():
        kind = _above(0) if name == "learning_rate" else _above(-1e-9, most=1)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=rate, metavar="X", help=f"{words} (default: {rate:g})")
    parser.add_argument("--threads", type=_whole(1), metavar="N", help="default: all for training, what serving would use for judging")


def _whole(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return convert


def _above(least: float, most: float = math.inf) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least < value <= most and value < math.inf):
            raise argparse.ArgumentTypeError(f"{text!r} is no number " + (f"from 0 to {most:g}" if most < math.inf else "above 0"))
        return value

    return convert
