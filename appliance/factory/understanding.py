"""The first part of a student's training: to tell questions apart before it learns to write the answers.

A prompt is a quarter as long as prompt and answer together, and which answer is meant is the hard part, so most of the
steps look at the prompt alone: its last state must name the answer through a head that is thrown away afterwards.
The words begin where an embedder puts them: "erase" lies near "delete" before the student has seen either.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from appliance.factory.student import Recipe, Student, Tell, fit

SMOOTHING = 0.05
"""Share of the target spread over all answers: neighbouring intents do overlap."""
SPREAD = 0.04
"""Standard deviation of the embeddings to begin with, about what training ends at."""

Draw = Callable[[random.Random], tuple[list[int], int]]
"""One example: prompt tokens and the number of its answer."""


class Reader(nn.Module):
    """A student with a head that names the answer."""

    def __init__(self, student: Student, answers: int) -> None:
        super().__init__()
        self.student = student
        self.head = nn.Linear(student.shape.hidden, answers)

    def forward(self, prompts: list[list[int]]) -> torch.Tensor:
        """Prompts of different lengths -> scores [batch, answers]."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = self.student.states(tokens)
        return self.head(states[torch.arange(len(prompts)), lengths - 1].float())


def understand(student: Student, draw: Draw, answers: int, recipe: Recipe, folder: Path, tell: Tell) -> Reader:
    """Train in place, resuming from folder/understanding.pt. See student.fit for errors."""
    reader = Reader(student, answers)

    def loss(rng: random.Random) -> torch.Tensor:
        prompts, targets = zip(*(draw(rng) for _ in range(recipe.batch)), strict=True)
        return F.cross_entropy(reader(list(prompts)), torch.tensor(targets), label_smoothing=SMOOTHING)

    fit(reader, loss, recipe, folder / "understanding.pt", asdict(student.shape) | {"answers": answers}, tell)
    return reader


def place_words(student: Student, tokenizer: Tokenizer, embed: Callable[[list[str]], np.ndarray]) -> None:
    """Begin with each token where the embedder puts its text; the student must be as wide as the embedder."""
    texts = [tokenizer.decode([token]).strip().lower() or "." for token in range(student.shape.vocabulary)]
    vectors = torch.from_numpy(embed(texts)).float()
    vectors -= vectors.mean(0)
    with torch.no_grad():
        student.embedding.weight.copy_(vectors * (SPREAD / vectors.std()))
