"""GGUF embedding models (the BERT family, and decoders made for embedding) through llama.cpp.

How tokens become one vector (mean, first or last token) is in the file; llama.cpp does it. Prompts for queries and
documents are not in such files.
"""

from __future__ import annotations

from typing import Any

import llama_cpp as lib
import numpy as np

from appliance.engine.backend import Progress
from appliance.engine.encoder import Encoder, Head, Row
from appliance.engine.llama_model import LlamaModel
from appliance.errors import InvalidRequest, ModelFileError
from appliance.types import ModelInfo

POOLINGS = {lib.LLAMA_POOLING_TYPE_MEAN: "mean", lib.LLAMA_POOLING_TYPE_CLS: "cls", lib.LLAMA_POOLING_TYPE_LAST: "last"}
MOST_ROWS = 32
FLASH_FROM_TOKENS = 1024
"""In longer contexts the attention matrices of a batch would take gigabytes; flash attention never writes them down."""


class LlamaEncoder(Encoder):
    """One GGUF embedding model with its context. Used by one thread."""

    def __init__(
        self,
        model: LlamaModel,
        *,
        name: str,
        threads: int,
        context_tokens: int = 0,
        progress: Progress = lambda phase, share: None,
    ) -> None:
        """Make a context; the model is closed with the encoder. context_tokens: takes texts of that length at most, 0: as trained. Raises ModelFileError."""
        self._model = model
        if not model.makes_embeddings:
            raise ModelFileError(f"{model.path.name} is not an embedding model.", remedy="Serve it as a text generation model.")
        _check_vocabulary(model.vocab, model.path.name)
        trained = lib.llama_model_n_ctx_train(model.handle)
        limit = min(context_tokens or trained, trained)
        progress("reserving memory", 0.0)
        self.max_rows = MOST_ROWS
        self._context = self._open(max(limit, self.max_tokens), threads, model.path.name)
        self._memory = lib.llama_get_memory(self._context)  # None for the BERT family, which keeps nothing
        self._batch = lib.llama_batch_init(max(limit, self.max_tokens), 0, 1)
        pooling = lib.llama_pooling_type(self._context)
        self.info = ModelInfo(
            name=name,
            path=str(model.path),
            task="embed",
            dimensions=lib.llama_model_n_embd_out(model.handle),
            description=f"{model.description}, {POOLINGS.get(pooling, 'other')} pooling",
            parameters=lib.llama_model_n_params(model.handle),
            size_bytes=lib.llama_model_size(model.handle),
            vocabulary=model.vocabulary,
            context_tokens=limit,
            trained_context_tokens=trained,
            threads=threads,
            backend="llama.cpp",
        )
        self.head = Head(limit_tokens=limit)

    def _open(self, tokens: int, threads: int, name: str) -> Any:
        params = lib.llama_context_default_params()
        # Without causal attention a text must be computed in one piece.
        params.n_ctx = params.n_batch = params.n_ubatch = tokens
        params.n_seq_max = self.max_rows
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True  # one text may take all the room
        params.embeddings = True
        params.flash_attn_type = int(tokens >= FLASH_FROM_TOKENS)
        params.no_perf = True
        params.pooling_type = lib.LLAMA_POOLING_TYPE_UNSPECIFIED
        context = lib.llama_init_from_model(self._model.handle, params)
        if context and lib.llama_pooling_type(context) == lib.LLAMA_POOLING_TYPE_NONE:
            lib.llama_free(context)
            params.pooling_type = lib.LLAMA_POOLING_TYPE_MEAN
            context = lib.llama_init_from_model(self._model.handle, params)
        if not context:
            words = f"{name}: llama.cpp cannot set up a context of {tokens} tokens: {self._model.log.last()}"
            raise ModelFileError(words, remedy="Lower ctx_size.")
        if lib.llama_pooling_type(context) not in POOLINGS:
            words = f"{name} is a reranker, and those are served as ONNX models only."
            raise ModelFileError(words, remedy="Use an ONNX export of the model.")
        return context

    # -- reading -----------------------------------------------------------------------------------------------

    def read(self, text: str, other: str | None, *, truncate: bool, skip: int, param: str, most: int = 0) -> Row:
        """See Encoder.read. A text that is cut keeps the token that ends every text."""
        limit = self.head.limit_tokens
        tokens = self.tokenize(self.beginning(text, truncate=truncate, param=param), add_special=True, parse_special=False)
        if len(tokens) > limit:
            if not truncate:
                raise self.too_long(len(tokens), param)
            ends = lib.llama_vocab_is_control(self._model.vocab, tokens[-1])
            tokens = [*tokens[: limit - 1], tokens[-1]] if ends else tokens[:limit]
        if not tokens:
            raise InvalidRequest(f"{param} is empty.", param=param)
        return Row(tokens)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """See Backend.tokenize."""
        return self._model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def piece(self, token: int) -> bytes:
        """See Backend.piece."""
        return self._model.piece(token)

    def label(self, token: int) -> str:
        """See Backend.label."""
        return self._model.label(token)

    # -- computing ---------------------------------------------------------------------------------------------

    def compute(self, rows: list[Row]) -> list[np.ndarray]:
        """See Encoder.compute. Raises RuntimeError with llama.cpp's words when it fails."""
        batch, at = self._batch, 0
        for number, row in enumerate(rows):
            for position, token in enumerate(row.ids):
                batch.token[at], batch.pos[at] = token, position
                batch.n_seq_id[at], batch.logits[at] = 1, 1
                batch.seq_id[at][0] = number
                at += 1
        batch.n_tokens = at
        if self._memory:
            lib.llama_memory_clear(self._memory, True)
        status = lib.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}: {self._model.log.last()}")
        shape = (self.info.dimensions,)
        return [np.ctypeslib.as_array(lib.llama_get_embeddings_seq(self._context, n), shape).copy() for n in range(len(rows))]

    def close(self) -> None:
        """See Encoder.close."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._context)
        self._model.close()


def _check_vocabulary(vocab: Any, name: str) -> None:
    """Raises ModelFileError for a vocabulary on which llama.cpp would abort the process when the first text is tokenized."""
    kind = lib.llama_vocab_type(vocab)
    word_piece = kind == lib.LLAMA_VOCAB_TYPE_WPM
    needed = [("begins", lib.llama_vocab_bos, word_piece or lib.llama_vocab_get_add_bos(vocab)),
              ("separates", lib.llama_vocab_sep, word_piece),
              ("ends", lib.llama_vocab_eos, not word_piece and lib.llama_vocab_get_add_eos(vocab))]  # fmt: skip
    lacking = [f"the token that {what} texts" for what, find, wanted in needed if wanted and find(vocab) == lib.LLAMA_TOKEN_NULL]
    if kind == lib.LLAMA_VOCAB_TYPE_NONE:
        lacking = ["its vocabulary"]
    elif kind == lib.LLAMA_VOCAB_TYPE_SPM:
        texts = {lib.llama_vocab_get_text(vocab, token) for token in range(lib.llama_vocab_n_tokens(vocab))}
        lacking += ["tokens for single bytes"] * any(f"<0x{byte:02X}>".encode() not in texts for byte in range(256))
    if lacking:
        remedy = "Convert the model to GGUF again with its tokenizer's files."
        raise ModelFileError(f"{name} lacks {' and '.join(lacking)}.", remedy=remedy)
