"""What a student's GGUF is worth against its teacher: its own answers to held-out questions, and how sure it is of the teacher's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from appliance.engine.backend import Backend, Piece
from appliance.engine.llama_backend import LlamaBackend
from appliance.factory import evaluate, words
from appliance.factory.prompts import Prompt, normalise, words_of
from appliance.factory.teacher import Pair, generate

MOST_QUESTIONS, MOST_TRAINED = 500, 32
MOST_WRONG = 20
SHORTEST_CONTEXT = evaluate.SPEED_PROMPT_TOKENS + evaluate.SPEED_STEPS
Tell = Callable[[int, int], None]


def f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall over the words of both, as the SQuAD evaluation does (Rajpurkar et al. 2016,
    arXiv:1606.05250); 1.0 for two empty texts."""
    ours, theirs = Counter(words_of(answer)), Counter(words_of(expected))
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def compare(pairs: Sequence[Pair], answers: Sequence[str]) -> dict[str, Any]:
    """match: share of answers that say the same after normalising; f1: their mean; wrong: some that do not match."""
    matches = [normalise(answer) == normalise(pair.answer) for pair, answer in zip(pairs, answers, strict=True)]
    wrong = [
        {"question": pair.prompt.question, "teacher": pair.answer, "student": answer}
        for pair, answer, match in zip(pairs, answers, matches, strict=True)
        if not match
    ]
    softer = [f1(answer, pair.answer) for pair, answer in zip(pairs, answers, strict=True)]
    count = max(1, len(pairs))
    return {"questions": len(pairs), "match": sum(matches) / count, "f1": sum(softer) / count, "wrong": wrong[:MOST_WRONG]}


def judge(candidate: LlamaBackend, reference: LlamaBackend, held_out: Sequence[Pair], trained: Sequence[Pair], tell: Tell) -> dict[str, Any]:
    """All figures of one model (made by evaluate.load, of a context of at least SHORTEST_CONTEXT tokens).

    questions, match, f1, wrong: see `compare`, on held-out questions. trained_match: the same on some it was trained on.
    perplexity, perplexity_rise, kl (nats), top1: over the tokens of the teacher's answers, the latter three against
    `reference`. tokens_per_s_1, tokens_per_s_8: generated, with one and eight streams.
    """
    held_out, trained = held_out[:MOST_QUESTIONS], trained[:MOST_TRAINED]
    answers = []
    for pair in [*held_out, *trained]:
        # The student was taught without the teacher's system message, and its template shows none.
        answers.append(generate(candidate, Prompt(pair.prompt.question), max_tokens=candidate.info.context_tokens).text)
        tell(len(answers), len(held_out) + len(trained))
    figures = compare(held_out, answers[: len(held_out)])
    figures["trained_match"] = compare(trained, answers[len(held_out) :])["match"]
    figures |= _sureness(candidate, reference, held_out)
    figures["tokens_per_s_1"], figures["tokens_per_s_8"] = (evaluate.tokens_per_second(candidate, n) for n in (1, 8))
    return figures


def _sureness(candidate: Backend, reference: Backend, pairs: Sequence[Pair]) -> dict[str, float]:
    losses, their_losses, divergences, agreed = [], [], [], []
    for pair in pairs:
        text = candidate.render(pair.prompt.messages)
        prompt = candidate.tokenize(text, add_special=False, parse_special=True)
        answer = candidate.tokenize(pair.answer + words.END, add_special=False, parse_special=True)
        both = zip(_distributions(candidate, prompt, answer), _distributions(reference, prompt, answer), strict=True)
        for token, (ours, theirs) in zip(answer, both, strict=True):
            losses.append(-float(ours[token]))
            their_losses.append(-float(theirs[token]))
            divergences.append(float(np.sum(np.exp(theirs, dtype=np.float64) * (theirs - ours))))
            agreed.append(int(ours.argmax()) == int(theirs.argmax()))
    perplexity, their_perplexity = float(np.exp(np.mean(losses))), float(np.exp(np.mean(their_losses)))
    return {
        "perplexity": perplexity,
        "perplexity_rise": perplexity / their_perplexity - 1,
        "kl": float(np.mean(divergences)),
        "top1": float(np.mean(agreed)),
        "positions": len(losses),
    }


def _distributions(backend: Backend, prompt: list[int], answer: list[int]) -> Iterator[np.ndarray]:
    """Natural-log distribution [vocabulary] of each answer token, the teacher's answer in front of it given."""
    tokens = (prompt + answer)[:-1]
    backend.trim(0, 0)
    for start in range(0, len(tokens), evaluate.ROWS):
        rows = backend.decode([Piece(0, start, tokens[start : start + evaluate.ROWS], "all")])
        for offset, row in enumerate(rows):
            if start + offset >= len(prompt) - 1:
                top = row.max()
                yield row - (top + np.log(np.exp(row - top).sum(dtype=np.float64)))
