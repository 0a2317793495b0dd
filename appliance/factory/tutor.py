"""A tutor for the starter: the embedder's own network, taught the same questions, which then says what it makes of others.

Trained on few questions, a student from nothing knows few words; the embedder has read a billion sentences. So the embedder
learns the answers first (it is far too slow to serve and cannot write), and then marks many texts that nobody wrote: how
people type a question, two questions crossed, words replaced by their neighbours in meaning or by any others, words alone.
The student learns from both of its marks, where a text lies and which answers it could mean (knowledge distillation,
https://arxiv.org/abs/1503.02531; by representations too: https://arxiv.org/abs/1909.10351).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from appliance.factory import questions
from appliance.factory.student import Recipe, Tell, fit

LONGEST = 64
"""Tokens of a text that are looked at."""
SHARPNESS = 120.0
"""Vectors have length 1. So much times as long, the head on them learns fast enough beside an encoder that knows much already."""
BEST = 8
"""Answers of which the probability is kept; the rest is spread over all."""
NEIGHBOURS = 10
SHARES = {"asked": 0.4, "crossed": 0.15, "neighbours": 0.25, "strangers": 0.1, "words": 0.1}
"""Of the lessons, by how their texts are made."""

Draw = Callable[[random.Random], tuple[str, int]]
"""One example: a question and the number of its answer."""


class Tutor(nn.Module):
    """An encoder with a head that names the answer. Used by one thread."""

    def __init__(self, folder: Path, answers: int) -> None:
        """folder: a Hugging Face checkpoint of an encoder whose vectors are means, such as all-MiniLM-L6-v2."""
        from transformers import AutoModel, AutoTokenizer  # it reads files while it is imported

        super().__init__()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.encoder = AutoModel.from_pretrained(folder, local_files_only=True)
        self.width = self.encoder.config.hidden_size
        self.head = nn.Linear(self.width, answers)
        nn.init.normal_(self.head.weight, std=1 / SHARPNESS)

    def forward(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of length 1 [texts, width], and scores [texts, answers]."""
        batch = self._tokenizer(list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = self.encoder(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None].float()
        vectors = F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        return vectors, self.head(vectors * SHARPNESS)

    def teach(self, draw: Draw, recipe: Recipe, folder: Path, tell: Tell) -> None:
        """Learn the answers, resuming from folder/tutor.pt. See student.fit for errors."""

        def loss(rng: random.Random) -> torch.Tensor:
            texts, targets = zip(*(draw(rng) for _ in range(recipe.batch)), strict=True)
            return F.cross_entropy(self(texts)[1], torch.tensor(targets), label_smoothing=0.05)

        fit(self, loss, recipe, folder / "tutor.pt", {"answers": self.head.out_features}, tell)
        self.eval()


@dataclass(frozen=True, slots=True)
class Lessons:
    """Texts with the tutor's marks. vectors: [n, width]; answers, shares: [n, BEST or fewer], the
    likeliest answers and how likely they are."""

    texts: list[str]
    vectors: np.ndarray
    answers: np.ndarray
    shares: np.ndarray


@torch.no_grad()
def mark(tutor: Tutor, texts: list[str], tell: Tell = lambda step, steps, loss: None) -> Lessons:
    """The tutor's marks. Texts come back ordered by length: alike in length they are marked faster."""
    texts = sorted(texts, key=len)
    vectors = np.empty((len(texts), tutor.width), np.float16)
    kept = min(BEST, tutor.head.out_features)
    answers, shares = np.empty((len(texts), kept), np.int16), np.empty((len(texts), kept), np.float16)
    for start in range(0, len(texts), 256):
        part = slice(start, start + 256)
        vector, scores = tutor(texts[part])
        likeliest = scores.softmax(-1).topk(kept)
        vectors[part], answers[part], shares[part] = vector.numpy(), likeliest.indices.numpy(), likeliest.values.numpy()
        tell(min(start + 256, len(texts)), len(texts), 0.0)
    return Lessons(texts, vectors, answers, shares)


@torch.no_grad()
def neighbours(tutor: Tutor, words: list[str]) -> dict[str, list[str]]:
    """For each word the NEIGHBOURS others that mean most nearly the same."""
    vectors = torch.cat([tutor(words[start : start + 512])[0] for start in range(0, len(words), 512)])
    found: dict[str, list[str]] = {}
    for start in range(0, len(words), 1024):
        nearest = (vectors[start : start + 1024] @ vectors.T).topk(NEIGHBOURS + 1).indices.tolist()
        for at, row in enumerate(nearest, start):
            found[words[at]] = [words[other] for other in row if other != at][:NEIGHBOURS]
    return found


class Texts:
    """Makes texts to be marked. None of them is a held-out question."""

    def __init__(self, intents: Sequence[questions.Intent], examples: questions.Examples, near: dict[str, list[str]]) -> None:
        self._examples, self._near, self._words = examples, near, sorted(near)
        self._topics: dict[str, list[str]] = {}
        for intent in intents:
            self._topics.setdefault(intent.topic, []).extend(intent.questions)
        self._secret = {questions.normalise(pair.question) for pair in questions.held_out(intents)}

    def make(self, count: int, rng: random.Random) -> list[str]:
        """`count` different ones."""
        found: dict[str, None] = {}
        ways = self._ways(rng)
        while len(found) < count:
            text = next(ways).strip()
            if text and questions.normalise(text) not in self._secret:
                found[text] = None
        return list(found)

    def _ways(self, rng: random.Random) -> Iterator[str]:
        makers = {"asked": self._asked, "crossed": self._crossed, "neighbours": self._neighbours, "strangers": self._strangers, "words": self._alone}
        while True:
            (way,) = rng.choices(list(SHARES), SHARES.values())
            yield makers[way](rng)

    def _asked(self, rng: random.Random) -> str:
        return self._examples.draw(rng).question

    def _crossed(self, rng: random.Random) -> str:
        topic = self._topics[rng.choice(list(self._topics))]
        head, tail = (rng.choice(topic).split() for _ in range(2))
        return " ".join(head[: rng.randint(0, len(head))] + tail[rng.randint(0, len(tail)) :])

    def _neighbours(self, rng: random.Random) -> str:
        return self._replaced(rng, 0.4, lambda word: rng.choice(self._near[word]) if word in self._near else word)

    def _strangers(self, rng: random.Random) -> str:
        return self._replaced(rng, 0.3, lambda word: rng.choice(self._words))

    def _replaced(self, rng: random.Random, share: float, by: Callable[[str], str]) -> str:
        return " ".join(by(word.lower()) if rng.random() < share else word for word in self._asked(rng).split())

    def _alone(self, rng: random.Random) -> str:
        return " ".join(rng.choice(self._words) for _ in range(rng.choice((1, 1, 2, 3, 5, 8))))
