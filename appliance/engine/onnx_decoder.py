"""A text generator in ONNX behind the same interface as a GGUF model: text here, computing in `onnx_past`.

Three kinds of graph are known: our own converter's (`factory/decoder_graph`), onnxruntime-genai's
(https://github.com/microsoft/onnxruntime-genai), which computes logits for every position, and optimum's plain exports.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from appliance.engine.backend import Piece, Progress
from appliance.engine.chat_template import ChatTemplate
from appliance.engine.onnx_past import DTYPES, GrowingPast, Past, SharedPast, caches_of
from appliance.engine.onnx_session import open_session
from appliance.engine.onnx_words import Words
from appliance.errors import ModelFileError
from appliance.types import ModelInfo

MODEL = "model.onnx"
SHARED_PAST = b"GroupQueryAttention"
KNOWN_INPUTS = {"input_ids", "attention_mask", "position_ids", "seqlens_k", "total_sequence_length", "output_rows"}
UNKNOWN_CONTEXT = 2048
"""Of a folder none of whose files says what the model was trained for."""
PROMPT_OUTPUTS = 64
"""Rows of logits in one step for echoed prompts; a row is vocabulary x 4 bytes, so this bounds the buffer."""
REMEDY = "Export it as `appliance models convert` does, or serve a GGUF file of this model."


class OnnxDecoder:
    """One ONNX decoder with the memory of its sequences. Used by one thread."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        context_tokens: int,
        sequences: int,
        kv_tokens: int,
        threads: int,
        cpus: tuple[int, ...] = (),
        progress: Progress = lambda phase, share: None,
    ) -> None:
        """Load the model and reserve room for its sequences. context_tokens 0: as trained. kv_tokens 0: enough for every
        sequence. Raises ModelFileError."""
        progress("reading the vocabulary", 0.0)
        self._words = Words(folder)
        progress("loading the weights", 0.0)
        session = open_session(folder, threads, cpus, spin=True)
        _check(session, folder.name)
        trained = self._words.context_tokens or UNKNOWN_CONTEXT
        context = min(context_tokens or trained, trained)
        progress("reserving the KV cache", 0.0)
        shared = _shares_its_past(folder / MODEL)
        try:
            self._past: Past = SharedPast(session, sequences, context) if shared else GrowingPast(session, sequences)
        except MemoryError as error:
            raise ModelFileError(
                f"{folder.name}: there is no room for {sequences} sequences of {context} tokens: {error}", remedy="Lower ctx_size or parallel."
            ) from None
        # A batch is made of neighbours; where there are no batches, any place is as good as another.
        self.prefers_neighbours = shared
        self.prompt_block = 1
        self.max_outputs = max(sequences, PROMPT_OUTPUTS)
        vocabulary = session.get_outputs()[0].shape[-1]
        if self._words.vocabulary > vocabulary:
            raise ModelFileError(
                f"{folder.name} has a tokenizer of {self._words.vocabulary} words, but the model knows {vocabulary}.",
                remedy="Its files are of two models: copy or convert it again.",
            )
        self._logits = np.empty((self.max_outputs, vocabulary), np.float32)
        tokens = min(kv_tokens or context * sequences, context * sequences)
        self.info = ModelInfo(
            name=name,
            path=str(folder),
            description=f"{self._words.model_type or 'decoder'} in ONNX" + ("" if shared else ", without batches: its past is copied at every step"),
            size_bytes=sum(path.stat().st_size for path in folder.glob(f"{MODEL}*")),
            vocabulary=vocabulary,
            context_tokens=context,
            trained_context_tokens=trained,
            kv_tokens=tokens,
            kv_bytes=tokens * sum(c.shape[1] * c.shape[3] * DTYPES[c.type].itemsize for c in caches_of(session)),
            sequences=sequences,
            has_chat_template=self._words.template is not None,
            threads=threads,
            backend="onnxruntime",
        )

    def decode(self, pieces: list[Piece]) -> list[np.ndarray]:
        """See Backend.decode."""
        rows: dict[int, np.ndarray] = {}
        filled = 0
        for batch in self._past.batches(pieces):
            begin = filled
            for piece in batch:
                rows[piece.seq] = self._logits[filled : filled + piece.rows]
                filled += piece.rows
            self._past.run(batch, self._logits[begin:filled])
        return [row for piece in pieces for row in rows[piece.seq]]

    def trim(self, seq: int, keep: int) -> int:
        """See Backend.trim."""
        return self._past.trim(seq, keep)

    def save(self, seq: int) -> Any:
        """See Backend.save."""
        return self._past.save(seq)

    def load(self, seq: int, snapshot: Any) -> None:
        """See Backend.load."""
        self._past.load(seq, snapshot)

    # -- text --------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """See Backend.tokenize."""
        return self._words.encode(text, add_special=add_special, parse_special=parse_special)

    def piece(self, token: int) -> bytes:
        """See Backend.piece."""
        return self._words.piece(token)

    def label(self, token: int) -> str:
        """See Backend.label."""
        return self._words.label(token)

    @property
    def begin_token(self) -> int | None:
        """The token every text begins with, None where the model wants none."""
        return self._words.begin_token

    def is_end(self, token: int) -> bool:
        """See Backend.is_end."""
        return self._words.is_end(token)

    def render(self, messages: list[dict[str, Any]]) -> str:
        """See Backend.render."""
        if self._words.template is None:
            raise ChatTemplate.missing(self.info.name)
        return self._words.template.render(messages)

    def close(self) -> None:
        """See Backend.close."""
        self._past.close()


def _check(session: ort.InferenceSession, name: str) -> None:
    """Raises ModelFileError for a graph whose inputs and outputs are not those of a decoder that can be fed token by token."""
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    caches = caches_of(session)
    if "input_ids" not in inputs or "logits" not in outputs or not caches:
        raise ModelFileError(f"{name} has no keys and values of earlier tokens among its inputs: it cannot write text token by token.", remedy=REMEDY)
    if left := sorted(inputs.keys() - KNOWN_INPUTS - {cache.name for cache in caches}):
        raise ModelFileError(f"{name} asks for inputs that are not known here: {', '.join(left[:4])}.", remedy=REMEDY)
    for cache in caches:
        if len(cache.shape) != 4 or not all(isinstance(cache.shape[at], int) for at in (1, 3)) or cache.type not in DTYPES:
            raise ModelFileError(f"{name} keeps its past in a form that is not known here: {cache.name} is {cache.type} {cache.shape}.", remedy=REMEDY)
    fixed = [value.name for value in (inputs["input_ids"], *caches) if any(isinstance(value.shape[at], int) for at in (0, *((2,) if len(value.shape) == 4 else (1,))))]
    if fixed:
        raise ModelFileError(f"{name} was exported for one size only ({fixed[0]}: {inputs[fixed[0]].shape}).", remedy="Export it with dynamic axes.")
    if not isinstance(session.get_outputs()[0].shape[-1], int) or session.get_outputs()[0].name != "logits":
        raise ModelFileError(f"{name} does not say how many words its logits are for.", remedy=REMEDY)


def _shares_its_past(model: Path) -> bool:
    """Whether the graph in this file writes new keys behind the old ones (GroupQueryAttention) instead of returning a longer past."""
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(SHARED_PAST) >= 0
