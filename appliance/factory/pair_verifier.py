"""The pair verifier, from its pairs to its folder: `python -m appliance.factory.pair_verifier WEIGHTS PAIRS WORK`.

WEIGHTS is the embedder's checkpoint (see `embedder`), PAIRS labelled pairs of real questions (JSONL, may be packed). With
them it learns pairs made for it: written groups and generated opposites and paraphrases (models/pair-verifier-int8/data).
Trains (resuming in WORK), calibrates on pairs it never saw, exports, quantizes, measures the file, and with --ship writes
its folder with card, report, certificate and calibration.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from appliance.cache import gates
from appliance.catalog import shipped_folder
from appliance.errors import ApplianceError
from appliance.factory import convert_onnx, embedder, hard_pairs, quantize_onnx, verifier_papers
from appliance.factory.evaluate_onnx import Runner
from appliance.factory.question_pairs import Group, Labelled, part, read_groups, read_pairs, recall_at
from appliance.factory.student import Recipe
from appliance.factory.verifier import OPINIONS, Lesson, Verifier, calibrate

NAME = "pair-verifier-int8"
TRAINING = Recipe(steps=6000, batch=48, learning_rate=1.2e-4, warmup=200, weight_decay=0.01, save_every=200)
HELD_OUT = 0.12
"""Share of the connected real questions, and of the written groups, that are only measured on."""
GENERATED = 60_000
SHARES = {"real": 0.36, "written": 0.5, "generated": 0.14}
"""Of a batch, by where its pairs are from."""
BELIEF = {"real": 0.93, "written": 0.99, "generated": 0.97}
"""How far the labels are believed: those of the real pairs were given by many people in a hurry."""
THRESHOLDS = (0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)
FEWEST_WRONG = 0.0005
"""A rate that no sample of this size could show to be lower."""
PRECISIONS = (0.8, 0.9, 0.95)
TABLE_BITS = 4
"""Of the vectors of words, which are half of the model's size in 8 bits."""


class Pairs:
    """What is learned from and what is measured on."""

    def __init__(self, real: Sequence[Labelled], groups: Sequence[Group], material: hard_pairs.Material, seed: int = 1) -> None:
        self.real, self.held_out = part(real, HELD_OUT, seed)
        shuffled = list(groups)
        random.Random(seed).shuffle(shuffled)
        kept = round(len(shuffled) * HELD_OUT)
        self.written_held_out = [pair for group in shuffled[:kept] for pair in group.pairs()]
        self._groups = shuffled[kept:]
        asked = [(pair.a, pair.b) for pair in self.real if pair.same]
        made = hard_pairs.generate(material, GENERATED, random.Random(seed), asked)
        self.generated = [Labelled(pair.a, pair.b, pair.same, pair.kind) for pair in made]
        self._material = material

    def draw(self, rng: random.Random) -> Lesson:
        """A pair to learn."""
        (source,) = rng.choices(list(SHARES), SHARES.values())
        if source == "written":
            pair = rng.choice(list(rng.choice(self._groups).pairs()))
        else:
            pair = rng.choice(self.real if source == "real" else self.generated)
        if source != "generated" and rng.random() < 0.3:  # so that a typo is no sign of either label
            pair = replace(pair, **{side: hard_pairs.noise(getattr(pair, side), "en", self._material, rng) for side in ("a", "b") if rng.random() < 0.5})
        return Lesson(pair, "people" if source == "real" else "answer", BELIEF[source])


def measure(scores: np.ndarray, pairs: Sequence[Labelled], passed: np.ndarray) -> dict[str, Any]:
    """Recall at precisions, by the verifier alone and with the gates (passed: whether they let a pair through)."""
    same = np.array([pair.same for pair in pairs])
    gated = np.where(passed, scores, -1e9)
    return {
        "pairs": len(pairs),
        "same": int(same.sum()),
        "alone": {str(p): recall_at(scores, same, p)[0] for p in PRECISIONS},
        "with_gates": {str(p): recall_at(gated, same, p)[0] for p in PRECISIONS},
        "gates_refuse": {"same": float(1 - passed[same].mean()), "different": float(1 - passed[~same].mean())},
    }


def through_gates(pairs: Sequence[Labelled]) -> np.ndarray:
    """bool [pairs]: whether every gate lets the pair through."""
    return np.array([all(verdict.passed for verdict in gates.judge(pair.a, pair.b)) for pair in pairs])


def wrong_hits(probabilities: np.ndarray, pairs: Sequence[Labelled], passed: np.ndarray) -> dict[str, dict[str, float]]:
    """By threshold: hits, the share of the same that is hit, and wrong, the share of hits that would be wrong where half of all
    near questions are opposites."""
    same = np.array([pair.same for pair in pairs])
    found = {}
    for threshold in THRESHOLDS:
        hit = passed & (probabilities >= threshold)
        right, wrong = float(hit[same].mean()), float(hit[~same].mean())
        found[str(threshold)] = {"hits": right, "wrong": max(FEWEST_WRONG, wrong / max(1e-9, right + wrong))}
    return found


def make(weights: Path, pairs_file: Path, work: Path, data: Path, recipe: Recipe = TRAINING) -> dict[str, Any]:
    """Train and export into `work`; returns the report, also written to work/report.json. work/model is the folder to serve."""
    work.mkdir(parents=True, exist_ok=True)
    pairs = Pairs(read_pairs(pairs_file), read_groups(data), hard_pairs.read(data))
    _say(f"{len(pairs.real)} real pairs, {len(pairs.generated)} generated; measured on {len(pairs.held_out)} and {len(pairs.written_held_out)}")
    report: dict[str, Any] = {
        "recipe": asdict(recipe), "real": len(pairs.real), "generated": len(pairs.generated),
        "kinds": dict(Counter(pair.kind for pair in pairs.generated)), "float32": {},
    }  # fmt: skip
    checked = {"real": pairs.held_out, "written": pairs.written_held_out}
    passed = {name: through_gates(rows) for name, rows in checked.items()}
    with ThreadPoolExecutor(1) as pool:  # torch and onnxruntime must not compute in one thread
        pool.submit(_train, weights, pairs, work, recipe, checked, passed, report).result()
    with tempfile.TemporaryDirectory(dir=work, prefix=".export.") as scratch:
        convert_onnx.convert(work / "checkpoint", Path(scratch) / "float32", task="text-classification", tell=_say)
        shutil.rmtree(work / "model", ignore_errors=True)
        quantize_onnx.quantize(Path(scratch) / "float32", work / "model", "int8-block", table_bits=TABLE_BITS)
    report["int8"], logits = {}, {}
    runner = Runner(work / "model")
    for name, rows in checked.items():
        logits[name] = np.array([float(runner.run([(pair.a, pair.b)])[0].reshape(-1)[0]) for pair in rows])
        report["int8"][name] = measure(logits[name], rows, passed[name])
    written = 1 / (1 + np.exp(-logits["written"]))
    report["wrong_hits"] = wrong_hits(written, checked["written"], passed["written"])
    report["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    report["size_bytes"] = (work / "model" / convert_onnx.MODEL).stat().st_size
    (work / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _train(
    weights: Path, pairs: Pairs, work: Path, recipe: Recipe, checked: dict[str, list[Labelled]], passed: dict[str, np.ndarray], report: dict[str, Any]
) -> None:
    torch.manual_seed(recipe.seed)
    with tempfile.TemporaryDirectory(dir=work, prefix=".weights.") as scratch:
        network = Verifier(embedder.unpack(weights, Path(scratch)))

    def tell(step: int, steps: int, loss: float) -> None:
        if step % 20 == 0 or step == steps:
            _say(f"step {step} of {steps}, loss {loss:.4f}")

    network.learn(pairs.draw, recipe, work, tell)
    logits = {name: network.logits(rows) for name, rows in checked.items()}
    everything = [pair for rows in checked.values() for pair in rows]
    weighing = calibrate(np.concatenate(list(logits.values())), np.array([pair.same for pair in everything]))
    network.settle(weighing)
    report["weighing"] = asdict(weighing)
    for name, rows in checked.items():
        report["float32"][name] = measure(weighing(logits[name]), rows, passed[name])
        _say(f"float32, {name}: {report['float32'][name]}")
        for at, opinion in enumerate(OPINIONS):
            _say(f"  its opinion on {opinion} alone: {measure(logits[name][:, at], rows, passed[name])['alone']}")
    shutil.rmtree(work / "checkpoint", ignore_errors=True)
    network.network.save_pretrained(work / "checkpoint")
    network.tokenizer.save_pretrained(work / "checkpoint")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, default=shipped_folder() / NAME / "data")
    parser.add_argument("--steps", type=int, default=TRAINING.steps)
    parser.add_argument("--ship", type=Path, metavar="FOLDER", help=f"write FOLDER/{NAME}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        report = make(arguments.weights, arguments.pairs, arguments.work, arguments.data, replace(TRAINING, steps=arguments.steps))
        if arguments.ship:
            verifier_papers.write(arguments.work / "model", arguments.ship / NAME, report)
    except ApplianceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({name: report[name] for name in ("int8", "wrong_hits", "size_bytes")}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
