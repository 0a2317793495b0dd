"""ONNX models that read whole texts: embedders, rerankers, classifiers of texts and of tokens.

Some kernels compute the last rows of a matrix otherwise than the rest: on x86, onnxruntime's 8-bit MatMulNBits an odd
last row, with a cosine down to 0.998. So what such a model says would depend on whether a batch has an odd number of
tokens. When a model is loaded it is measured what numbers are safe, and batches are padded to these.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from appliance.engine.backend import Progress
from appliance.engine.encoder import Encoder, Head, Row
from appliance.engine.encoder_config import EncoderConfig, entailment_of, read_encoder_config
from appliance.engine.encoder_plan import padded
from appliance.engine.entities import Mark
from appliance.engine.onnx_session import MODEL, first_words, model_path, open_session
from appliance.engine.onnx_words import Words
from appliance.errors import InvalidRequest, ModelFileError
from appliance.types import ModelInfo

DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
VECTORS, STATES, LOGITS = ("sentence_embedding",), ("last_hidden_state", "token_embeddings"), ("logits",)
OUTPUTS = {"embed": (*VECTORS, *STATES), "rerank": LOGITS, "classify": LOGITS, "tokens": LOGITS}
"""Names of a graph's output by task, the best first."""
ONE_SCALE = b"DynamicQuantizeLinear"
"""An operator that rounds all texts of a batch with one scale, so that a text's result depends on its neighbours."""
MULTIPLES = (1, 2, 4, 8)
PROBE_LENGTHS, PROBE_PADDED = (5, 9, 15), 16
DISTANCES = (1e-4, 1e-2)
"""What counts as the same: the noise of float32, or where that is not to be had, what leaves a cosine of 0.9999."""
EXPORT_AGAIN = "Export it again as `appliance models convert` does."


class OnnxEncoder(Encoder):
    """One ONNX encoder. Used by one thread, which must not compute with torch too: on CPUs with AMX both get nonsense."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        threads: int,
        context_tokens: int = 0,
        cpus: tuple[int, ...] = (),
        spin: bool = True,
        progress: Progress = lambda phase, share: None,
    ) -> None:
        """Load the model of a folder (or its model.onnx). context_tokens: takes texts of that length at most, 0: as the
        model says. cpus, spin: see open_session. Raises ModelFileError with what is wrong."""
        path = model_path(folder)
        folder = path.parent
        config = self._config = read_encoder_config(folder)
        if config.task == "generate":
            raise ModelFileError(f"{folder.name} is a text generation model, not an encoder.", remedy="Serve it as such.")
        progress("reading the vocabulary", 0.0)
        self._words = Words(folder)
        progress("loading the weights", 0.0)
        self._session = open_session(path, threads, cpus, spin=spin)
        self._inputs = _inputs_of(self._session, folder.name)
        self._output = _output_of(self._session, config, folder.name)
        self._multiple = 1
        width = self._try_out(folder.name, self._words.vocabulary - 1)
        labels = _check_labels(config, width, folder) if config.task in ("classify", "tokens") else ()
        pooling = f", {config.pooling} pooling" if self._output in STATES else ""
        self.info = ModelInfo(
            name=name,
            path=str(folder),
            task=config.task,
            dimensions=width if config.task == "embed" else 0,
            labels=labels,
            description=f"{config.kind or 'encoder'} in ONNX{pooling}",
            size_bytes=sum(file.stat().st_size for file in folder.glob(f"{MODEL}*")),
            vocabulary=min(self._words.vocabulary, config.vocabulary or self._words.vocabulary),
            context_tokens=min(config.limit_tokens, context_tokens or config.limit_tokens),
            trained_context_tokens=config.limit_tokens,
            threads=threads,
            backend="onnxruntime",
        )
        self.head = Head(
            limit_tokens=self.info.context_tokens,
            normalize=config.normalize,
            prompts=config.prompts,
            activation=config.activation,
            entailment=entailment_of(labels) if config.task == "classify" else None,
        )
        progress("measuring how texts can be computed together", 0.0)
        if _contains(path, ONE_SCALE):
            self.max_rows = 1
        else:
            self._multiple, self.max_rows = self._probe()

    def _try_out(self, name: str, highest: int) -> int:
        """Compute one token, and the highest one; the width of what comes out. Raises ModelFileError where that cannot be done
        or is not what the task needs."""
        try:
            [result] = self.compute([Row([0])])
        except RuntimeError as error:
            raise ModelFileError(f"{name} opens, but cannot compute: {error}.", remedy=EXPORT_AGAIN) from error
        if result.ndim != (2 if self._config.task == "tokens" else 1):
            words = f"{name}: its output {self._output} is not of the shape that {self._config.task!r} needs."
            raise ModelFileError(words, remedy=EXPORT_AGAIN)
        if self._config.task == "rerank" and result.shape[-1] != 1:
            words = f"{name} has {result.shape[-1]} scores for a pair, not one."
            raise ModelFileError(words, remedy="Correct id2label in its config.json.")
        try:
            self.compute([Row([highest])])
        except RuntimeError as error:
            words = f"{name}: its tokenizer.json has tokens up to number {highest}, which the model does not have ({error})."
            raise ModelFileError(words, remedy="The two are of different models: copy the tokenizer that belongs to it.") from error
        return result.shape[-1]

    # -- reading -----------------------------------------------------------------------------------------------

    def read(self, text: str, other: str | None, *, truncate: bool, skip: int, param: str, most: int = 0) -> Row:
        """See Encoder.read. Without `most` the longer text of a pair is cut first."""
        text, other = (self._clean(part, truncate, param) if part is not None else None for part in (text, other))
        tokenizer, limit = self._words.tokenizer, self.head.limit_tokens
        try:
            if truncate:
                tokenizer.enable_truncation(most or limit, strategy="only_second" if most else "longest_first")
            found = tokenizer.encode(text, other)
        except Exception as error:  # the library raises the plain class
            words = f"{param}: the model's tokenizer cannot read this text: {str(error)[:200]}."
            raise InvalidRequest(words, param=param) from None
        finally:
            tokenizer.no_truncation()
        if len(found.ids) > limit:
            raise self.too_long(len(found.ids), param)
        if not found.ids:
            raise InvalidRequest(f"{param} is empty.", param=param)
        types = found.type_ids if other is not None and "token_type_ids" in self._inputs else []
        return Row(found.ids, types, min(skip, len(found.ids) - 1), _marks(found) if self.info.task == "tokens" else [])

    def _clean(self, text: str, truncate: bool, param: str) -> str:
        text = self.beginning(text, truncate=truncate, param=param)
        text = text.encode("utf-8", "replace").decode()  # halves of surrogate pairs are no text to the library
        return text.lower() if self._config.lower else text

    def _prompt(self, kind: str | None) -> tuple[str, int]:
        prompt, _ = super()._prompt(kind)
        if not prompt or self._config.prompt_pooled:
            return prompt, 0
        whole, text = (self._words.encode(prompt, add_special=special, parse_special=False) for special in (True, False))
        first = next((at for at in range(len(whole)) if whole[at : at + len(text)] == text), 0)  # what comes before every text
        return prompt, first + len(text)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """See Backend.tokenize."""
        return self._words.encode(text, add_special=add_special, parse_special=parse_special)

    def piece(self, token: int) -> bytes:
        """See Backend.piece."""
        return self._words.piece(token)

    def label(self, token: int) -> str:
        """See Backend.label."""
        return self._words.label(token)

    # -- computing ---------------------------------------------------------------------------------------------

    def compute(self, rows: list[Row]) -> list[np.ndarray]:
        """See Encoder.compute. Raises RuntimeError with onnxruntime's words when it fails."""
        length = padded(max(len(row.ids) for row in rows), len(rows), self._multiple, self._config.positions)
        output, mask = self._run(rows, length)
        if self._output in STATES:
            return list(_pool(output, mask, rows, self._config.pooling))
        if self._config.task == "tokens":
            return [values[: len(row.ids)] for values, row in zip(output, rows, strict=True)]
        return list(output)

    def _run(self, rows: list[Row], length: int) -> tuple[np.ndarray, np.ndarray]:
        """(the model's output for rows padded to a length, the mask that says what is not padding)."""
        shape = (len(rows), length)
        ids, mask = np.full(shape, self._config.pad_token, np.int64), np.zeros(shape, np.int64)
        types = np.zeros(shape, np.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row.ids)] = row.ids
            mask[at, : len(row.ids)] = 1
            if row.types:
                types[at, : len(row.types)] = row.types
        values = dict(zip(INPUTS, (ids, mask, types, np.broadcast_to(np.arange(length), shape)), strict=True))
        feed = {name: np.ascontiguousarray(values[name], dtype) for name, dtype in self._inputs.items()}
        try:
            [output] = self._session.run([self._output], feed)
        except Exception as error:  # its classes are of its own making, without a common one
            raise RuntimeError(first_words(str(error))) from error
        return output.astype(np.float32, copy=False), mask

    def _probe(self) -> tuple[int, int]:
        """(the smallest number of which a batch's tokens must be a multiple, how many rows may be computed together)."""
        draw = np.random.default_rng(1)
        highest = min(self.info.vocabulary, self._config.vocabulary or self.info.vocabulary)
        lengths = [min(length, self.head.limit_tokens) for length in PROBE_LENGTHS]
        rows = [Row(draw.integers(0, highest, length).tolist()) for length in lengths]
        room = max(lengths) if self.head.limit_tokens < PROBE_PADDED else PROBE_PADDED
        right = [self._run([row], room)[0][0] for row in rows]

        def same(rows: list[Row], right: list[np.ndarray], length: int, most: float) -> bool:
            found, _ = self._run(rows, length)
            return all(_distance(a, b, len(row.ids)) <= most for a, b, row in zip(found, right, rows, strict=True))

        for most in DISTANCES:
            for multiple in MULTIPLES:
                alone = zip(rows, right, strict=True)
                if all(same([row], [want], padded(len(row.ids), 1, multiple, room), most) for row, want in alone):
                    return multiple, Encoder.max_rows if same(rows, right, room, most) else 1
        return 1, 1

    def close(self) -> None:
        """See Encoder.close."""
        del self._session


def _pool(states: np.ndarray, mask: np.ndarray, rows: list[Row], way: str) -> np.ndarray:
    """Vectors [rows, width] from states [rows, tokens, width]."""
    if way == "cls":
        return states[:, 0]
    if way == "last":
        return states[np.arange(len(rows)), mask.sum(axis=1) - 1]
    for at, row in enumerate(rows):
        mask[at, : row.skip] = 0
    if way == "max":
        return np.where(mask[..., None] > 0, states, -np.inf).max(axis=1)
    counts = mask.sum(axis=1, keepdims=True)
    sums = np.matmul(mask[:, None, :].astype(np.float32), states)[:, 0]
    return sums / (counts if way == "mean" else np.sqrt(counts))


def _distance(found: np.ndarray, right: np.ndarray, tokens: int) -> float:
    """How far two outputs for one row are apart, as a share of the right one's length; of the tokens' vectors the farthest."""
    if found.ndim == 2:
        found, right = found[:tokens], right[:tokens]
    lengths = np.linalg.norm(right, axis=-1)
    return float((np.linalg.norm(found - right, axis=-1) / np.maximum(lengths, 1e-6)).max())


def _marks(found: Any) -> list[Mark]:
    return [
        Mark(start, end, -1 if special or word is None else word)
        for (start, end), word, special in zip(found.offsets, found.word_ids, found.special_tokens_mask, strict=True)
    ]


def _contains(path: Path, word: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(word) >= 0


def _inputs_of(session: Any, name: str) -> dict[str, Any]:
    """The graph's inputs with their types. Raises ModelFileError for one that is not known or has a fixed size."""
    found = {}
    for value in session.get_inputs():
        if value.name not in INPUTS or value.type not in DTYPES:
            words = f"{name} wants an input {value.name} ({value.type}), which is not known here."
            raise ModelFileError(words, remedy=EXPORT_AGAIN)
        if len(value.shape) != 2 or any(isinstance(size, int) for size in value.shape):
            raise ModelFileError(
                f"{name} takes one size only: {value.name} is {value.shape}, not [any number of texts, any number of tokens].",
                remedy="Export it again with dynamic axes, as `appliance models convert` does.",
            )
        found[value.name] = DTYPES[value.type]
    if "input_ids" not in found:
        raise ModelFileError(f"{name} has no input input_ids.", remedy=EXPORT_AGAIN)
    return found


def _output_of(session: Any, config: EncoderConfig, name: str) -> str:
    """The output that holds what the task needs. Raises ModelFileError where there is none."""
    names = [value.name for value in session.get_outputs()]
    found = next((wanted for wanted in OUTPUTS[config.task] if wanted in names), None)
    if found is None:
        wanted = " or ".join(OUTPUTS[config.task])
        raise ModelFileError(
            f"{name} is to be used for {config.task!r}, but has no output {wanted}; it has {', '.join(names)}.",
            remedy="Export it again for the task that its config.json names.",
        )
    return found


def _check_labels(config: EncoderConfig, width: int, folder: Path) -> tuple[str, ...]:
    if config.labels and len(config.labels) != width:
        words = f"{folder / 'config.json'} names {len(config.labels)} labels, but the model has {width}."
        raise ModelFileError(words, remedy="Correct id2label.")
    return config.labels or tuple(f"LABEL_{at}" for at in range(width))
