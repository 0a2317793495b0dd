"""What the loop needs of an encoder, and what all encoders share: a question becomes rows of tokens, results an answer.

Questions (messages.Ask) and their answers; `input[3]` in an error is the text with that index:

    embed     {inputs: [text or token ids], kind: query|document|null, dimensions, normalize: null as the model does, truncate}
              -> {vectors: base64 of little-endian float32 [texts x dim], dim, tokens: [of each text]}
    rerank    {query, documents, truncate: documents, never the query, document_tokens: null or how many of a document count}
              -> {scores: [0 to 1], logits, tokens: of all pairs}
    classify  {inputs, labels: null or [text] (zero-shot), multi_label, template, truncate}
              -> {labels, scores: [[of each label] of each text], tokens: [of each text]}
    tokens    {inputs, truncate} -> {entities: [[{label, score, start, end, text}] of each text], tokens: [of each text]}
"""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from appliance.engine.entities import Mark, entities
from appliance.errors import ContextLengthExceeded, InvalidRequest
from appliance.types import ModelInfo

TOKEN_CHARS = 64
"""A text with more characters than this for each token that the model takes is too long without being read."""
SHORTEN = "Shorten it, cut it into parts, or send truncate: true."
HYPOTHESIS = "This example is {}."
NOUNS = {
    "embed": "an embedding model", "rerank": "a reranker", "classify": "a text classifier", "tokens": "a token classifier",
}  # fmt: skip
WORK = {"embed": "embed texts", "rerank": "rerank documents", "classify": "classify texts", "tokens": "find entities"}
Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(slots=True)
class Row:
    """One sequence to compute. types: 1 for the tokens of the second text of a pair, empty where all are 0. skip: how many
    tokens at its beginning are left out of the pooling. marks: where each token comes from, for token classification."""

    ids: list[int]
    types: list[int] = field(default_factory=list)
    skip: int = 0
    marks: list[Mark] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Head:
    """How what the model computes becomes an answer.

    normalize: vectors get length one. prompts: what is put before a text, by kind; "" for texts of no kind. activation:
    from logits to scores. entailment: (index of entailment, index of contradiction) where a classifier can judge
    any label by it. limit_tokens: of one sequence.
    """

    limit_tokens: int
    normalize: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    activation: Activation = "softmax"
    entailment: tuple[int, int] | None = None


class Encoder(ABC):
    """One loaded model that reads whole sequences. Used by one thread. A result is, by `info.task`: a vector (embed),
    logits (rerank, classify), or logits for each token (tokens), float32."""

    info: ModelInfo
    head: Head
    max_rows = 64
    """Most sequences in one batch; 1 where a result would depend on what it is computed with."""
    max_tokens = 512
    """Most tokens in one batch, padding counted, unless a single sequence is longer."""

    @abstractmethod
    def read(self, text: str, other: str | None, *, truncate: bool, skip: int, param: str, most: int = 0) -> Row:
        """The row of a text, or of a pair. Raises ContextLengthExceeded unless it fits or may be cut.

        most: of a pair only the second text is cut, so that the row has at most so many tokens; more are needed for the first.
        """

    @abstractmethod
    def compute(self, rows: list[Row]) -> list[np.ndarray]:
        """The results of some rows, in order."""

    @abstractmethod
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """See Backend.tokenize."""

    @abstractmethod
    def piece(self, token: int) -> bytes:
        """See Backend.piece."""

    @abstractmethod
    def label(self, token: int) -> str:
        """See Backend.label."""

    @abstractmethod
    def close(self) -> None:
        """Free everything. The object is not used afterwards."""

    # -- questions ---------------------------------------------------------------------------------------------

    def prepare(self, what: str, args: dict[str, Any]) -> Iterator[Row]:
        """The rows that a question needs, read as they are asked for. Raises InvalidRequest, ContextLengthExceeded."""
        if what != self.info.task:
            raise InvalidRequest(
                f"{self.info.name} is {NOUNS[self.info.task]}: it cannot {WORK.get(what, 'answer ' + repr(what))}.",
                param="model",
                remedy="Name a model that is made for this; /v1/models lists them.",
            )
        return getattr(self, f"_rows_to_{what}")(args)

    def answer(self, what: str, args: dict[str, Any], rows: list[Row], results: list[np.ndarray]) -> dict[str, Any]:
        """The answer to a question from the results of its rows, in order."""
        return getattr(self, f"_answer_to_{what}")(args, rows, results)

    def too_long(self, tokens: int, param: str) -> ContextLengthExceeded:
        """The error for a sequence that does not fit."""
        return ContextLengthExceeded(
            f"{param} has {tokens} tokens; {self.info.name} takes {self.head.limit_tokens}.",
            param=param,
            remedy=SHORTEN,
        )

    def beginning(self, text: str, *, truncate: bool, param: str) -> str:
        """As much of a text as can matter: the rest is not even tokenized, because others wait meanwhile.

        Raises ContextLengthExceeded where there is a rest, unless it may be cut off.
        """
        limit = self.head.limit_tokens
        most = limit * TOKEN_CHARS
        if len(text) > most and not truncate:
            raise ContextLengthExceeded(
                f"{param} has {len(text)} characters; {self.info.name} takes {limit} tokens, and at most {most} characters.",
                param=param,
                remedy=SHORTEN,
            )
        return text[:most]

    # -- embed -------------------------------------------------------------------------------------------------

    def _rows_to_embed(self, args: dict[str, Any]) -> Iterator[Row]:
        dimensions, most = args.get("dimensions"), self.info.dimensions
        if dimensions is not None and not 1 <= dimensions <= most:
            raise InvalidRequest(f"dimensions is {dimensions}; {self.info.name} has 1 to {most}.", param="dimensions")
        truncate = bool(args.get("truncate"))
        prompt, skip = self._prompt(args.get("kind"))
        for at, value in enumerate(args["inputs"]):
            param = f"input[{at}]"
            if isinstance(value, list):
                yield self._read_ids(value, truncate, param)
            else:
                yield self.read(prompt + value, None, truncate=truncate, skip=skip, param=param)

    def _prompt(self, kind: str | None) -> tuple[str, int]:
        """What is put before each text, and how many tokens of it are not pooled."""
        return self.head.prompts.get(kind or "", ""), 0

    def _read_ids(self, tokens: list[int], truncate: bool, param: str) -> Row:
        """Token ids are used as they are, nothing is put around them."""
        if len(tokens) > self.head.limit_tokens and not truncate:
            raise self.too_long(len(tokens), param)
        tokens = tokens[: self.head.limit_tokens]
        end = self.info.vocabulary
        wrong = next((t for t in tokens if type(t) is not int or not 0 <= t < end), None)
        if wrong is not None:
            raise InvalidRequest(f"{param}: token {wrong!r} is not in the vocabulary (0 to {end - 1}).", param=param)
        if not tokens:
            raise InvalidRequest(f"{param} is empty.", param=param)
        return Row(tokens)

    def _answer_to_embed(self, args: dict[str, Any], rows: list[Row], results: list[np.ndarray]) -> dict[str, Any]:
        dim = args.get("dimensions") or self.info.dimensions
        vectors = np.array(results, "<f4").reshape(len(rows), self.info.dimensions)[:, :dim]
        normalize = args.get("normalize")
        if self.head.normalize if normalize is None else normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return {
            "vectors": base64.b64encode(np.ascontiguousarray(vectors, "<f4")).decode("ascii"),
            "dim": dim,
            "tokens": [len(row.ids) for row in rows],
        }

    # -- rerank ------------------------------------------------------------------------------------------------

    def _rows_to_rerank(self, args: dict[str, Any]) -> Iterator[Row]:
        query, truncate, limit = args["query"], bool(args.get("truncate")), self.head.limit_tokens
        try:
            alone = len(self.read(query, "", truncate=False, skip=0, param="query").ids)
        except ContextLengthExceeded as error:
            error.remedy = "Shorten it: queries are never cut."
            raise
        if alone == limit:
            raise ContextLengthExceeded(
                f"query has {alone} tokens, which leaves no room for a document; {self.info.name} takes {limit} for both.",
                param="query",
                remedy="Shorten it: queries are never cut.",
            )
        most = min(limit, alone + (args.get("document_tokens") or limit))
        for at, document in enumerate(args["documents"]):
            yield self.read(query, document, truncate=truncate, skip=0, param=f"documents[{at}]", most=most)

    def _answer_to_rerank(self, args: dict[str, Any], rows: list[Row], results: list[np.ndarray]) -> dict[str, Any]:
        logits = [float(result[0]) for result in results]
        return {"scores": [float(_sigmoid(x)) for x in logits], "logits": logits, "tokens": sum(len(row.ids) for row in rows)}

    # -- classify ----------------------------------------------------------------------------------------------

    def _rows_to_classify(self, args: dict[str, Any]) -> Iterator[Row]:
        truncate, labels = bool(args.get("truncate")), args.get("labels")
        if labels is None:
            for at, text in enumerate(args["inputs"]):
                yield self.read(text, None, truncate=truncate, skip=0, param=f"input[{at}]")
            return
        if self.head.entailment is None:
            raise InvalidRequest(
                f"{self.info.name} knows its own labels only ({', '.join(self.info.labels[:20])}), "
                "because it has not learnt to judge others.",
                param="labels",
                remedy="Leave labels out, or name a model for natural language inference.",
            )
        template = args.get("template") or HYPOTHESIS
        if "{}" not in template:
            raise InvalidRequest("The template has no {} where the label belongs.", param="template")
        if not labels:
            raise InvalidRequest("labels is empty.", param="labels")
        for at, text in enumerate(args["inputs"]):
            for label in labels:
                yield self.read(text, template.replace("{}", label), truncate=truncate, skip=0, param=f"input[{at}]")

    def _answer_to_classify(self, args: dict[str, Any], rows: list[Row], results: list[np.ndarray]) -> dict[str, Any]:
        logits = np.array(results, np.float64).reshape(len(rows), len(self.info.labels))
        counts = [len(row.ids) for row in rows]
        labels = args.get("labels")
        if labels is not None:
            logits = logits.reshape(-1, len(labels), logits.shape[-1])
            scores = _entailed(logits, *self.head.entailment, apart=bool(args.get("multi_label")) or len(labels) == 1)
            counts = [sum(counts[at : at + len(labels)]) for at in range(0, len(counts), len(labels))]
        elif self.head.activation == "none":
            scores = logits
        elif self.head.activation == "sigmoid" or args.get("multi_label"):
            scores = _sigmoid(logits)
        else:
            scores = softmax(logits)
        return {"labels": list(labels if labels is not None else self.info.labels), "scores": scores.tolist(), "tokens": counts}

    # -- tokens ------------------------------------------------------------------------------------------------

    def _rows_to_tokens(self, args: dict[str, Any]) -> Iterator[Row]:
        for at, text in enumerate(args["inputs"]):
            yield self.read(text, None, truncate=bool(args.get("truncate")), skip=0, param=f"input[{at}]")

    def _answer_to_tokens(self, args: dict[str, Any], rows: list[Row], results: list[np.ndarray]) -> dict[str, Any]:
        found = [
            entities(text, row.marks, softmax(result.astype(np.float64)), self.info.labels)
            for text, row, result in zip(args["inputs"], rows, results, strict=True)
        ]
        return {"entities": found, "tokens": [len(row.ids) for row in rows]}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _sigmoid(logits: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))  # exp would overflow


def _entailed(logits: np.ndarray, entailment: int, contradiction: int, *, apart: bool) -> np.ndarray:
    """Scores [texts, labels] from logits [texts, labels, classes]: each label against its contradiction (apart), or all
    against each other. Yin et al. 2019, https://arxiv.org/abs/1909.00161, as transformers' zero-shot pipeline has it."""
    if apart:
        return softmax(logits[..., [contradiction, entailment]])[..., 1]
    return softmax(logits[..., entailment])
