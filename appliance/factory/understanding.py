"""The first part of a student's training: to tell questions apart before it learns to write the answers.

A prompt is a quarter as long as prompt and answer together, and which answer is meant is the hard part, so most of the
steps look at the prompt alone: its last state must name the answer through a head that is thrown away afterwards.
The words begin where an embedder puts them: "erase" lies near "delete" before the student has seen either.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from appliance.factory.student import Recipe, Student, Tell, fit, writing_loss
from appliance.factory.tutor import Lessons

SMOOTHING = 0.05
"""Share of the target spread over all answers: neighbouring intents do overlap."""
SPREAD = 0.04
"""Standard deviation of the embeddings to begin with, about what training ends at."""

OWN_SHARE = 0.25
"""Of a batch: questions with their own answers; the others are lessons."""
PLACE_WEIGHT = 4.0
"""A cosine's worth of distance from the tutor's vector, against being wrong about the answer."""

READ_BATCH = 96
"""Prompts that are read beside each step of writing."""
SURE = 0.8
"""A tutor that gives an answer this share of its belief is taken at its word."""

Draw = Callable[[random.Random], tuple[list[int], int]]
"""One example: prompt tokens and the number of its answer."""


class Reader(nn.Module):
    """A student with a head that names the answer, and one that says where a tutor (`tutor`) would put the text."""

    def __init__(self, student: Student, answers: int, width: int = 0) -> None:
        """width: of the tutor's vectors, 0 without a tutor."""
        super().__init__()
        self.student = student
        self.head = nn.Linear(student.shape.hidden, answers)
        self.place = nn.Linear(student.shape.hidden, width) if width else None

    def states(self, prompts: Sequence[list[int]]) -> torch.Tensor:
        """Prompts of different lengths -> what the student makes of each, float32 [batch, hidden]."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = self.student.states(tokens)
        return states[torch.arange(len(prompts)), lengths - 1].float()

    def forward(self, prompts: Sequence[list[int]]) -> torch.Tensor:
        """Prompts -> scores [batch, answers]."""
        return self.head(self.states(prompts))


class Namer(Reader):
    """A reader whose student has a token for each answer, and says it first: naming the answer is the first step of writing it.

    A student that is to write at once forgets how to tell questions apart, because what it writes can be learned by heart; one
    that names the answer first learns to write from the name.
    """

    def __init__(self, reader: Reader) -> None:
        """Takes over the reader's student and what it has learned; the reader is not to be used any more."""
        nn.Module.__init__(self)
        self.student, self.place = reader.student, reader.place
        self.first = self.student.shape.vocabulary
        self.student.add_tokens(reader.head.weight.detach())

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """States -> scores [batch, answers]."""
        return F.linear(states, self.student.embedding.weight[self.first :])

    def unnamed(self, prompts: Sequence[list[int]]) -> torch.Tensor:
        """How far each prompt is from being followed by a name: minus the log of the share that all names have, [prompts]."""
        scores = F.linear(self.states(prompts), self.student.embedding.weight)
        return scores.logsumexp(-1) - scores[:, self.first :].logsumexp(-1)

    def name(self, number: int) -> int:
        """The token of an answer."""
        return self.first + number


class Marked:
    """Lessons as a reader learns them."""

    def __init__(self, lessons: Lessons, encode: Callable[[str], list[int]]) -> None:
        """encode: the prompt of a question."""
        self._prompts = [encode(text) for text in lessons.texts]
        self._vectors = torch.from_numpy(lessons.vectors)
        self._answers, self._shares = torch.from_numpy(lessons.answers), torch.from_numpy(lessons.shares)
        self.width = lessons.vectors.shape[1]
        self._sure = np.flatnonzero(lessons.shares[:, 0] >= SURE)

    def draw(self, rng: random.Random) -> tuple[list[int], int]:
        """The prompt of a text that the tutor is sure of, and the number of the answer it names."""
        number = int(self._sure[rng.randrange(len(self._sure))])
        return self._prompts[number], int(self._answers[number, 0])

    def loss(self, reader: Reader, count: int, rng: random.Random) -> torch.Tensor:
        """How far the reader is from the tutor's marks on `count` of the texts, one number each."""
        chosen = [rng.randrange(len(self._prompts)) for _ in range(count)]
        states = reader.states([self._prompts[number] for number in chosen])
        scores = reader.head(states).log_softmax(-1)
        shares = self._shares[chosen].float()
        rest = (1 - shares.sum(1)).clamp(min=0)
        means = -(scores.gather(1, self._answers[chosen].long()) * shares).sum(1) - rest * scores.mean(1)
        assert reader.place is not None
        away = 1 - F.cosine_similarity(reader.place(states), self._vectors[chosen].float())
        return means + PLACE_WEIGHT * away


def understand(reader: Reader, draw: Draw, recipe: Recipe, folder: Path, tell: Tell, marked: Marked | None = None) -> None:
    """Train in place, resuming from folder/understanding.pt. marked: a tutor's lessons, which then make up most of a batch.
    See student.fit for errors."""
    shape = asdict(reader.student.shape) | {"answers": reader.head.out_features}
    fit(reader, lambda rng: _reading_loss(reader, draw, recipe.batch, rng, marked), recipe, folder / "understanding.pt", shape, tell)


def write(
    namer: Namer, draw: Draw, whole: Callable[[random.Random], tuple[list[int], list[int]]], recipe: Recipe, folder: Path, tell: Tell,
    marked: Marked | None = None,
) -> float:  # fmt: skip
    """Train in place to write answers behind their names, while reading goes on (READ_BATCH prompts a step); returns the mean loss of
    the last steps. whole: a prompt, and the name and the tokens of its answer. Resumes from folder/writing.pt. See student.fit for errors."""

    def loss(rng: random.Random) -> torch.Tensor:
        examples = [whole(rng) for _ in range(recipe.batch)]
        named = namer.unnamed([prompt for prompt, _ in examples]).mean()
        return writing_loss(namer.student, examples) + named + _reading_loss(namer, draw, READ_BATCH, rng, marked)

    return fit(namer, loss, recipe, folder / "writing.pt", asdict(namer.student.shape), tell)


def _reading_loss(reader: Reader, draw: Draw, batch: int, rng: random.Random, marked: Marked | None) -> torch.Tensor:
    own = round(batch * OWN_SHARE) if marked else batch
    prompts, targets = zip(*(draw(rng) for _ in range(own)), strict=True)
    found = F.cross_entropy(reader(prompts), torch.tensor(targets), label_smoothing=SMOOTHING)
    if marked is None:
        return found
    return OWN_SHARE * found + (1 - OWN_SHARE) * marked.loss(reader, batch - own, rng).mean()


def place_words(student: Student, tokenizer: Tokenizer, embed: Callable[[list[str]], np.ndarray]) -> None:
    """Begin with each token where the embedder puts its text; the student must be as wide as the embedder."""
    texts = [tokenizer.decode([token]).strip().lower() or "." for token in range(student.shape.vocabulary)]
    vectors = torch.from_numpy(embed(texts)).float()
    vectors -= vectors.mean(0)
    with torch.no_grad():
        student.embedding.weight.copy_(vectors * (SPREAD / vectors.std()))
