"""The starter, from its data to its files: `python -m appliance.factory.starter DATA OUT`.

Learns a vocabulary, trains (resuming where a run was stopped), exports GGUF f16, quantizes to Q8_0 and Q4_0 and asks
every file the questions it never saw. OUT/report.json holds the figures of the model card.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from appliance.engine.backend import Piece
from appliance.engine.llama_backend import LlamaBackend
from appliance.factory import evaluate, export_gguf, questions, words
from appliance.factory.quantize import quantize
from appliance.factory.student import Recipe, Shape, Student, train

LONGEST_ANSWER = 110
REFUSAL_SHARE = 0.12
"""Share of the examples that are out of scope: enough to learn the refusal, not so many that it answers everything so."""


def judge(pairs: Sequence[questions.Pair], answers: Sequence[str]) -> dict[str, Any]:
    """Shares judged right: in scope by the normalised text, out of scope by the refusal."""
    right: Counter[bool] = Counter()
    total: Counter[bool] = Counter()
    wrong = []
    for pair, answer in zip(pairs, answers, strict=True):
        scope = pair.intent != questions.UNKNOWN
        total[scope] += 1
        if questions.normalise(answer) == questions.normalise(pair.answer):
            right[scope] += 1
        else:
            wrong.append({"question": pair.question, "intent": pair.intent, "answer": answer})
    return {
        "in_scope": right[True] / max(1, total[True]),
        "out_of_scope": right[False] / max(1, total[False]),
        "questions": sum(total.values()),
        "wrong": wrong,
    }


def ask(backend: LlamaBackend, prompts: Sequence[str]) -> list[str]:
    """Greedy answers of a GGUF, as a chat client would get them."""
    found = []
    for prompt in prompts:
        text = backend.render([{"role": "user", "content": prompt}])
        tokens, at, pieces = backend.tokenize(text, add_special=False, parse_special=True), 0, []
        backend.trim(0, 0)
        for _ in range(LONGEST_ANSWER):
            [row] = backend.decode([Piece(0, at, tokens, "last")])
            at += len(tokens)
            token = int(row.argmax())
            if backend.is_end(token):
                break
            pieces.append(backend.piece(token))
            tokens = [token]
        found.append(b"".join(pieces).decode("utf-8", "replace"))
    return found


def make(data: Path, out: Path, shape: Shape, recipe: Recipe) -> dict[str, Any]:
    """The whole way; returns the report, which is also written to out/report.json."""
    out.mkdir(parents=True, exist_ok=True)
    training, held_out = questions.split(questions.read(data))
    tokenizer = _vocabulary(out / "tokenizer.json", training, shape.vocabulary)
    student = Student(shape, recipe.dropout)
    began = time.monotonic()
    loss = train(student, _examples(training, tokenizer), recipe, out, _tell)
    half = out / "starter-f16.gguf"
    export_gguf.export(student, tokenizer, half, "starter", "apache-2.0")
    report: dict[str, Any] = {
        "shape": asdict(shape),
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in student.parameters()),
        "trained_on": len(training),
        "loss": loss,
        "seconds": time.monotonic() - began,
        "files": {},
    }
    files = [half]
    for kind in ("Q8_0", "Q4_0"):
        files.append(out / f"starter-{kind.lower()}.gguf")
        files[-1].unlink(missing_ok=True)
        quantize(half, files[-1], kind)
    for file in files:
        backend = evaluate.load(file, shape.context)
        report["files"][file.name] = judge(held_out, ask(backend, [p.question for p in held_out])) | {
            "size_bytes": file.stat().st_size
        }
        backend.close()
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _vocabulary(path: Path, pairs: Sequence[questions.Pair], size: int) -> Tokenizer:
    if not path.exists():
        words.learn([text for pair in pairs for text in (pair.question, pair.answer)], size).save(str(path))
    return words.load(path)


def _examples(pairs: Sequence[questions.Pair], tokenizer: Tokenizer) -> Any:
    inside = [p for p in pairs if p.intent != questions.UNKNOWN]
    outside = [p for p in pairs if p.intent == questions.UNKNOWN] or inside

    def draw(rng: random.Random) -> tuple[list[int], list[int]]:
        pair = rng.choice(outside if rng.random() < REFUSAL_SHARE else inside)
        question = questions.disturb(pair.question, rng)
        return tokenizer.encode(words.prompt_text(question)).ids, tokenizer.encode(pair.answer + words.END).ids

    return draw


def _tell(step: int, steps: int, loss: float) -> None:
    if step % 20 == 0 or step == steps:
        print(f"step {step} of {steps}, loss {loss:.4f}", file=sys.stderr, flush=True)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    usual = Recipe()
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--batch", type=int, default=usual.batch)
    parser.add_argument("--learning-rate", type=float, default=usual.learning_rate)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(usual.seed)
    recipe = Recipe(steps=arguments.steps, batch=arguments.batch, learning_rate=arguments.learning_rate)
    report = make(arguments.data, arguments.out, Shape(), recipe)
    for name, figures in report["files"].items():
        print(f"{name}: {figures['in_scope']:.1%} in scope, {figures['out_of_scope']:.1%} refusals, {figures['size_bytes']} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
