"""The network that judges whether two questions mean the same, and its training: a cross-encoder on the embedder's weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from appliance.factory.question_pairs import Labelled
from appliance.factory.student import Recipe, Tell, fit

LONGEST = 96
"""Tokens of a pair that are looked at in training."""
Draw = Callable[[random.Random], tuple[Labelled, float]]
"""A pair and how far its label is believed, 0.5 to 1."""


class Verifier(nn.Module):
    """Reads both questions at once. Used by one thread.

    The vectors of words stay as the embedder has them: what it knows of words that no pair shows is not forgotten, and a
    third of the work is saved.
    """

    def __init__(self, folder: Path) -> None:
        """folder: a Hugging Face checkpoint of a BERT."""
        from transformers import (  # it reads files while it is imported
            AutoModelForSequenceClassification,
            AutoTokenizer,
        )

        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.network = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True, num_labels=1)
        self.network.bert.embeddings.word_embeddings.weight.requires_grad_(False)

    def forward(self, first: Sequence[str], second: Sequence[str]) -> torch.Tensor:
        """Logits [pairs]."""
        batch = self.tokenizer(list(first), list(second), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.network(**batch).logits[:, 0].float()

    def learn(self, draw: Draw, recipe: Recipe, folder: Path, tell: Tell) -> None:
        """Train, resuming from folder/verifier.pt. Either question may come first. See student.fit for errors."""

        def loss(rng: random.Random) -> torch.Tensor:
            drawn = sorted((draw(rng) for _ in range(recipe.batch)), key=lambda one: len(one[0].a) + len(one[0].b))
            total = torch.zeros(())
            for half in (drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]):  # of like length, so little is padding
                turned = [rng.random() < 0.5 for _ in half]
                first = [pair.b if turn else pair.a for (pair, _), turn in zip(half, turned, strict=True)]
                second = [pair.a if turn else pair.b for (pair, _), turn in zip(half, turned, strict=True)]
                targets = torch.tensor([belief if pair.same else 1 - belief for pair, belief in half])
                total = total + F.binary_cross_entropy_with_logits(self(first, second), targets, reduction="sum")
            return total / recipe.batch

        fit(self, loss, recipe, folder / "verifier.pt", {"verifier": self.network.config.hidden_size}, tell)
        self.eval()

    @torch.no_grad()
    def logits(self, pairs: Sequence[Labelled]) -> np.ndarray:
        """float32 [pairs]: the mean over both orders."""
        self.eval()
        order = sorted(range(len(pairs)), key=lambda at: len(pairs[at].a) + len(pairs[at].b))
        found = np.zeros(len(pairs), np.float32)
        for start in range(0, len(order), 128):
            at = order[start : start + 128]
            a, b = [pairs[n].a for n in at], [pairs[n].b for n in at]
            found[at] = ((self(a, b) + self(b, a)) / 2).numpy()
        return found

    def scale(self, by: float, plus: float) -> None:
        """Logits become by * logit + plus, in the weights themselves, so that whoever serves them gets probabilities."""
        head = self.network.classifier
        with torch.no_grad():
            head.weight.mul_(by)
            head.bias.mul_(by).add_(plus)


@dataclass(frozen=True, slots=True)
class Platt:
    """Logits to logits of probabilities: by * x + plus (Platt 1999)."""

    by: float
    plus: float


def calibrate(logits: np.ndarray, same: np.ndarray) -> Platt:
    """The scaling under which the probabilities fit the labels best."""
    x, y = torch.from_numpy(logits.astype(np.float64)), torch.from_numpy(same.astype(np.float64))
    by, plus = torch.ones((), dtype=torch.float64, requires_grad=True), torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([by, plus], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        found = F.binary_cross_entropy_with_logits(by * x + plus, y)
        found.backward()
        return found

    optimiser.step(closure)
    return Platt(by.item(), plus.item())
