"""A student that answers from a fixed set: to tell questions apart is what it learns, and then to say the answer it means.

Which answer is meant is the hard part, so most of the steps look at the prompt alone: its last state must name the answer through a
head, whose rows are tokens afterwards.
The words begin where an embedder puts them: "erase" lies near "delete" before the student has seen either.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from appliance.factory.student import Recipe, Student, Tell, fit
from appliance.factory.tutor import Lessons

SMOOTHING = 0.05
"""Share of the target spread over all answers: neighbouring intents do overlap."""
SPREAD = 0.04
"""Standard deviation of the embeddings to begin with, about what training ends at."""

OWN_SHARE = 0.25
"""Of a batch: questions with their own answers; the others are lessons."""
MARGIN = 6.0
"""In logits: so far a name is to come before all words."""
PLACE_WEIGHT = 4.0
"""A cosine's worth of distance from the tutor's vector, against being wrong about the answer."""

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
        return _last_states(self.student, prompts)

    def forward(self, prompts: Sequence[list[int]]) -> torch.Tensor:
        """Prompts -> scores [batch, answers]."""
        return self.head(self.states(prompts))


def _last_states(student: Student, prompts: Sequence[list[int]]) -> torch.Tensor:
    ends = torch.tensor([len(prompt) - 1 for prompt in prompts])
    tokens = nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = student.states(tokens)
    return states[torch.arange(len(prompts)), ends].float()


class Speaker(nn.Module):
    """A reader's student that says what it has read: it has a token for each answer, whose text is the whole answer, and ends behind it.

    The reader as it was stays beside it as the measure: a student that is trained on the answers alone learns those to the written
    questions by heart, and no longer tells questions apart.
    """

    def __init__(self, reader: Reader, end: int, prompts: Sequence[list[int]], less: tuple[int, float] = (0, 0.0)) -> None:
        """Takes over the reader's student; the rows of its head become the tokens. end: the token that ends an answer, which no prompt may
        hold. prompts: many, to see by how much the answers must be raised above the words. less: an answer, and by how much in its logit
        it is to be given less readily."""
        super().__init__()
        self.student, self.end, self.first = reader.student, end, reader.student.shape.vocabulary
        self.student.drop(0.0)
        self._before = [copy.deepcopy(reader.student).requires_grad_(False)]  # in a list, so that it is no part of what is trained and kept
        self._head, (number, by) = reader.head.weight.detach().clone(), less
        self._less = torch.zeros(len(self._head))
        self._less[number] = -by
        self.eval()
        with torch.no_grad():
            states = torch.cat([reader.states(prompts[start : start + 100]) for start in range(0, len(prompts), 100)])
        boost = _boost(states, self._head, self.student.embedding.weight.detach())
        rows = self._head + boost
        rows[number] -= by * boost / (states @ boost).mean()
        self.student.add_tokens(rows)

    def forward(self, prompts: Sequence[list[int]]) -> torch.Tensor:
        """Prompts -> scores of the answers [batch, answers]."""
        return F.linear(_last_states(self.student, prompts), self.student.embedding.weight[self.first :])

    def loss(self, prompts: Sequence[list[int]], answers: Sequence[int]) -> torch.Tensor:
        """How far it is from saying, behind each prompt, what the reader would name, and from ending behind an answer, whichever that is.
        answers: a number for each prompt."""
        student, words = self.student, self.student.embedding.weight
        rows, ends = torch.arange(len(prompts)), torch.tensor([len(prompt) - 1 for prompt in prompts])
        said = [torch.tensor([*prompt, self.first + number]) for prompt, number in zip(prompts, answers, strict=True)]
        tokens = nn.utils.rnn.pad_sequence(said, batch_first=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = student.states(tokens)
            answered, over = F.linear(states[rows, ends], words), F.linear(states[rows, ends + 1], words)
            with torch.no_grad():
                read = F.linear(self._before[0].states(tokens[:, : max(ends) + 1].clamp(max=self.first - 1))[rows, ends], self._head).float() + self._less
        unlike = F.kl_div(answered.float().log_softmax(-1)[:, self.first :], read.softmax(-1), reduction="batchmean")
        return unlike + F.cross_entropy(over.float(), torch.full((len(prompts),), self.end))


class Marked:
    """Lessons as a reader learns them."""

    def __init__(self, lessons: Lessons, encode: Callable[[str], list[int]]) -> None:
        """encode: the prompt of a question."""
        self._prompts = [encode(text) for text in lessons.texts]
        self._vectors = torch.from_numpy(lessons.vectors)
        self._answers, self._shares = torch.from_numpy(lessons.answers), torch.from_numpy(lessons.shares)
        self.width = lessons.vectors.shape[1]

    def prompt(self, rng: random.Random) -> list[int]:
        """That of one of the texts."""
        return rng.choice(self._prompts)

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


def _boost(states: torch.Tensor, names: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """What is added to each name so that behind a prompt a name comes before all words, by some margin; it changes nothing among the names."""
    boost = torch.zeros(states.shape[1], requires_grad=True)
    apart = torch.logsumexp(states @ names.T, 1) - torch.logsumexp(states @ words.T, 1)
    optimiser = torch.optim.LBFGS([boost], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        found = F.softplus(MARGIN - apart - states @ boost).mean() + 1e-2 * (boost * boost).sum()
        found.backward()
        return found

    optimiser.step(closure)
    return boost.detach()


def speak(speaker: Speaker, draw: Callable[[random.Random], list[int]], recipe: Recipe, folder: Path, tell: Tell) -> float:
    """Train in place; returns the mean loss of the last steps. draw: a prompt. Resumes from folder/speaking.pt. See student.fit for errors."""
    count = speaker.student.shape.vocabulary - speaker.first

    def loss(rng: random.Random) -> torch.Tensor:
        return speaker.loss([draw(rng) for _ in range(recipe.batch)], [rng.randrange(count) for _ in range(recipe.batch)])

    return fit(speaker, loss, recipe, folder / "speaking.pt", asdict(speaker.student.shape), tell)


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
