"""The starter's lessons: a tutor is taught its questions, then marks texts; both stay in a folder, to go on from after a stop."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from appliance.factory import embedder, questions, tutor
from appliance.factory.student import Recipe, Tell
from appliance.factory.tutor import Lessons

TUTORING = Recipe(steps=1500, batch=96, learning_rate=3e-4, warmup=100, weight_decay=0.02, save_every=400)
COUNT = 200_000


def words_of(embedder_folder: Path) -> list[str]:
    """The whole English words of an embedder's vocabulary."""
    known = json.loads((embedder_folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    return [word for word in known if word.isascii() and word.isalpha() and len(word) > 2]


def prepare(
    weights: Path,
    words: list[str],
    intents: Sequence[questions.Intent],
    examples: questions.Examples,
    numbers: dict[str, int],
    out: Path,
    path: Path,
    *,
    recipe: Recipe = TUTORING,
    count: int = COUNT,
    seed: int = 1,
    tell: Callable[[str], Tell],
    told: Callable[[str], None],
) -> Lessons:
    """`count` texts marked by a tutor made from `weights` (see embedder.unpack), from the file `path` where they are there
    already; the tutor is kept in `out`. numbers: of the answers. told: gets what the tutor reaches on held-out questions."""
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=out, prefix=".weights.") as scratch:
            teacher = tutor.Tutor(embedder.unpack(weights, Path(scratch)), len(numbers))
        near = tutor.neighbours(teacher, words)  # before it is taught: afterwards all words are about the product

        def draw(rng: random.Random) -> tuple[str, int]:
            pair = examples.draw(rng)
            return pair.question, numbers[pair.answer]

        teacher.teach(draw, recipe, out, tell("tutoring"))
        asked = questions.held_out(intents)
        found = tutor.mark(teacher, [pair.question for pair in asked])
        named = dict(zip(found.texts, found.answers[:, 0].tolist(), strict=True))
        told(f"the tutor names {questions.shares_right(asked, [named[pair.question] in {numbers[right] for right in pair.right} for pair in asked])}")
        lessons = tutor.mark(teacher, tutor.Texts(intents, examples, near).make(count, random.Random(seed)), tell("marking"))
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, texts=np.array(lessons.texts), vectors=lessons.vectors, answers=lessons.answers, shares=lessons.shares)
        os.replace(part, path)
    with np.load(path) as stored:
        return Lessons(stored["texts"].tolist(), stored["vectors"], stored["answers"], stored["shares"])
