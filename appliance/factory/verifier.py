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
OPINIONS = ("answer", "people")
"""What it says of a pair, a logit each: whether an answer to one question is one to the other, and whether people in a hurry
would call them the same. Labels of the two kinds contradict each other, and a single logit learns neither well."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A pair to learn. opinion: which one its label is; belief: how far the label is believed, 0.5 to 1."""

    pair: Labelled
    opinion: str
    belief: float


Draw = Callable[[random.Random], Lesson]


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
        self.network = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True, num_labels=len(OPINIONS))
        self.network.bert.embeddings.word_embeddings.weight.requires_grad_(False)

    def forward(self, first: Sequence[str], second: Sequence[str]) -> torch.Tensor:
        """Logits [pairs, opinions]."""
        batch = self.tokenizer(list(first), list(second), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.network(**batch).logits.float()

    def learn(self, draw: Draw, recipe: Recipe, folder: Path, tell: Tell) -> None:
        """Train, resuming from folder/verifier.pt. Either question may come first. See student.fit for errors."""

        def loss(rng: random.Random) -> torch.Tensor:
            drawn = sorted((draw(rng) for _ in range(recipe.batch)), key=lambda one: len(one.pair.a) + len(one.pair.b))
            total = torch.zeros(())
            for half in (drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]):  # of like length, so little is padding
                turned = [rng.random() < 0.5 for _ in half]
                first = [one.pair.b if turn else one.pair.a for one, turn in zip(half, turned, strict=True)]
                second = [one.pair.a if turn else one.pair.b for one, turn in zip(half, turned, strict=True)]
                said = self(first, second)[range(len(half)), [OPINIONS.index(one.opinion) for one in half]]
                targets = torch.tensor([one.belief if one.pair.same else 1 - one.belief for one in half])
                total = total + F.binary_cross_entropy_with_logits(said, targets, reduction="sum")
            return total / recipe.batch

        fit(self, loss, recipe, folder / "verifier.pt", {"verifier": self.network.config.hidden_size}, tell)
        self.eval()

    @torch.no_grad()
    def logits(self, pairs: Sequence[Labelled]) -> np.ndarray:
        """float32 [pairs, opinions]: the mean over both orders."""
        self.eval()
        order = sorted(range(len(pairs)), key=lambda at: len(pairs[at].a) + len(pairs[at].b))
        found = np.zeros((len(pairs), len(OPINIONS)), np.float32)
        for start in range(0, len(order), 128):
            at = order[start : start + 128]
            a, b = [pairs[n].a for n in at], [pairs[n].b for n in at]
            found[at] = ((self(a, b) + self(b, a)) / 2).numpy()
        return found

    def settle(self, weighing: Weighing) -> None:
        """Makes one logit of the opinions, in the weights themselves, so that whoever serves them gets a probability."""
        several = self.network.classifier
        one = nn.Linear(several.in_features, 1)
        by = torch.tensor([weighing.by])
        with torch.no_grad():
            one.weight.copy_(by @ several.weight)
            one.bias.copy_(by @ several.bias + weighing.plus)
        self.network.classifier = one
        self.network.num_labels = self.network.config.num_labels = 1


@dataclass(frozen=True, slots=True)
class Weighing:
    """Opinions to the logit of a probability: the sum of by * opinion, and plus (Platt 1999, with several inputs)."""

    by: tuple[float, ...]
    plus: float

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """[pairs, opinions] to [pairs]."""
        return logits @ np.array(self.by, np.float32) + np.float32(self.plus)


def calibrate(logits: np.ndarray, same: np.ndarray) -> Weighing:
    """The weighing of the logits [pairs, opinions] under which the probabilities fit the labels best."""
    x, y = torch.from_numpy(logits.astype(np.float64)), torch.from_numpy(same.astype(np.float64))
    by, plus = torch.ones(x.shape[1], dtype=torch.float64, requires_grad=True), torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([by, plus], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        found = F.binary_cross_entropy_with_logits(x @ by + plus, y)
        found.backward()
        return found

    optimiser.step(closure)
    return Weighing(tuple(by.tolist()), plus.item())
