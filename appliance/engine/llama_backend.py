"""llama.cpp through llama-cpp-python's low-level bindings; only the modules `llama_*` import `llama_cpp`.

Each sequence has a KV stream of its own (`kv_unified` off) unless the KV space is overbooked: streams decode faster
because attention reads only a sequence's own cells, and prefixes are shared by copying a stream's cells, which costs
about a hundredth of computing them. Streams with neighbouring numbers are computed in one pass, others are not
(llama.cpp, `llama_batch_allocr::split_equal`), hence `prefers_neighbours`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import llama_cpp as lib
import numpy as np

from appliance.engine.backend import Piece, Progress
from appliance.engine.chat_template import ChatTemplate
from appliance.engine.llama_context import LlamaContext
from appliance.engine.llama_lane import BLOCK_TOKENS, ENTER_TOKENS, PromptLane
from appliance.engine.llama_model import LlamaModel
from appliance.errors import ModelFileError
from appliance.types import ModelInfo

PROMPT_OUTPUTS = 64
"""Rows of logits in one step for echoed prompts; a row is vocabulary x 4 bytes, so this bounds the buffer."""
PROBE_TOKENS, PROBE_CHUNK, PROBE_STEPS = 256, 64, 3
PROBE_CONTEXT = 2048
"""Without flash attention the rows of values lie as far apart as the context is long, and that makes prompts slower: a
probe in a tiny context would flatter it."""
LANE_MIN_CONTEXT = 1024
"""In a smaller context prompts are too short for a lane to be worth its memory."""
LANE_MIN_GAIN = 1.1
PROBE_LIMIT_PARAMETERS = 3_000_000_000
"""Larger models are not probed: it would take long, and attention is a small part of their work."""


class LlamaBackend:
    """One GGUF model with its context. Used by one thread."""

    def __init__(
        self,
        model: LlamaModel,
        *,
        name: str,
        context_tokens: int,
        sequences: int,
        kv_tokens: int,
        threads: int,
        batch_tokens: int,
        type_k: str = "f16",
        type_v: str = "f16",
        flash_attn: str = "auto",
        prompt_lane: str = "auto",
        progress: Progress = lambda phase, share: None,
    ) -> None:
        """Reserve the model's KV space; the model is closed with the backend. context_tokens 0: as trained. kv_tokens 0: enough for
        every sequence. prompt_lane: on, off or auto: whether long prompts are computed in a context with flash attention
        of their own (`llama_lane`), auto: when that is measured to be faster. Raises ModelFileError."""
        self._model, self._vocab = model, model.vocab
        if not lib.llama_model_has_decoder(model.handle) or model.makes_embeddings:
            raise ModelFileError(f"{model.path.name} is not a text generation model.", remedy="Serve a decoder model.")
        trained = lib.llama_model_n_ctx_train(model.handle)
        # Beyond what it was trained for a model only rambles; the rest of the space would be wasted.
        context_tokens = min(context_tokens or trained, trained)
        wanted = kv_tokens or context_tokens * sequences
        self.prefers_neighbours = wanted >= context_tokens * sequences
        self.max_outputs = max(sequences, PROMPT_OUTPUTS)
        self._template = self._make_template()

        def context(flash: bool, kv_tokens: int = wanted, sequences: int = sequences, outputs: int = 0) -> LlamaContext:
            return LlamaContext(
                model.handle,
                model.log,
                kv_tokens=kv_tokens,
                sequences=sequences,
                batch_tokens=batch_tokens + sequences,
                outputs=outputs or self.max_outputs,
                threads=threads,
                flash_attn=flash,
                unified=not self.prefers_neighbours,
                type_k=type_k,
                type_v=type_v,
            )

        try:
            progress("measuring attention kernels", 0.0)
            flash, why, gain = self._choose_kernel(context, flash_attn, type_v, batch_tokens, context_tokens)
            self.flash_attn = "on" if flash else "off"
            progress("reserving the KV cache", 0.0)
            self._context = context(flash)
        except MemoryError as error:
            raise ModelFileError(
                f"{model.path.name}: llama.cpp cannot set up a context of {wanted} tokens: {error}",
                remedy="Lower ctx_size or parallel, or choose other cache types.",
            ) from None
        possible = not flash and self.prefers_neighbours and type_k == type_v == "f16" and batch_tokens >= ENTER_TOKENS
        helps = context_tokens >= LANE_MIN_CONTEXT and gain >= LANE_MIN_GAIN
        possible = possible and (prompt_lane == "on" or prompt_lane == "auto" and helps)
        self._lane = self._open_lane(context, context_tokens) if possible else None
        self._computing = self._lane or self._context
        self.prompt_block = BLOCK_TOKENS if self._lane else 1
        self.info = self._describe(
            name=name,
            path=str(model.path),
            # llama.cpp rounds a stream up to its own granularity; what was asked for is what counts.
            context_tokens=min(context_tokens, self._context.tokens_per_sequence),
            kv_tokens=min(wanted, self._context.kv_tokens),
            kv_bytes=self._kv_bytes(type_k, type_v, context_tokens if self._lane else 0),
            sequences=sequences,
            threads=threads,
        )
        if self._lane:
            why += f", but on for long prompts, in a context of their own ({f'{gain:.2f} times faster' if gain else 'forced'})"
        self.info = replace(self.info, description=f"{self.info.description}, flash attention {why}")

    def _choose_kernel(
        self, context: Callable[..., LlamaContext], flash: str, type_v: str, batch_tokens: int, context_tokens: int
    ) -> tuple[bool, str, float]:
        """Whether to use flash attention, why in words, and how many times faster it makes prompts (0: not measured).
        `auto` measures single tokens behind a short prompt."""
        if flash != "auto":
            return flash == "on", flash, 0.0
        if type_v != "f16":
            return True, "on (quantized values need it)", 0.0
        if not self.prefers_neighbours:
            return True, "on (one KV pool for all sequences: it skips the others' cells)", 0.0
        if lib.llama_model_n_params(self._model.handle) > PROBE_LIMIT_PARAMETERS:
            return True, "on (llama.cpp's default)", 0.0
        chunks = (min(ENTER_TOKENS, batch_tokens), min(PROBE_CHUNK, batch_tokens))
        space = max(PROBE_TOKENS + PROBE_CHUNK, min(context_tokens, PROBE_CONTEXT))
        on, off = (self._probe(context, k, space, chunk) for k, chunk in zip((True, False), chunks, strict=True))
        if on is None or off is None:  # some key types only one of the kernels can read
            return off is None, f"{'on' if off is None else 'off'} (the other kernel cannot read these cache types)", 0.0
        (on_s, on_prompt_s), (off_s, off_prompt_s) = on, off
        better = on_s <= off_s
        why = f"{'on' if better else 'off'} (measured: {max(on_s, off_s) / min(on_s, off_s):.2f} times faster)"
        return better, why, off_prompt_s / on_prompt_s

    def _probe(
        self, context: Callable[..., LlamaContext], flash: bool, kv_tokens: int, chunk: int
    ) -> tuple[float, float] | None:
        """Seconds for a token and for half of a short prompt with one kernel, None when it cannot be used."""
        try:
            probe = context(flash, kv_tokens, 1)
        except MemoryError:
            return None
        try:
            return _probe_seconds(probe, min(self._model.vocabulary - 1, 100), chunk)
        finally:
            probe.close()

    def _open_lane(self, context: Callable[..., LlamaContext], context_tokens: int) -> PromptLane | None:
        """The context for long prompts, None where there is no memory for it or the cells cannot be moved."""
        try:
            lane = PromptLane(context(True, context_tokens, 1, 1), self._context)
        except MemoryError:
            return None
        if lane.works():
            return lane
        lane.close()
        return None

    def _describe(self, **known: Any) -> ModelInfo:
        model = self._model.handle
        return ModelInfo(
            description=self._model.description,
            parameters=lib.llama_model_n_params(model),
            size_bytes=lib.llama_model_size(model),
            vocabulary=self._model.vocabulary,
            trained_context_tokens=lib.llama_model_n_ctx_train(model),
            has_chat_template=self._template is not None,
            backend="llama.cpp",
            **known,
        )

    def _kv_bytes(self, type_k: str, type_v: str, lane_tokens: int) -> int:
        model = self._model.handle
        heads = max(1, lib.llama_model_n_head(model))
        width = lib.llama_model_n_embd(model) // heads * lib.llama_model_n_head_kv(model)
        bits = {"f16": 16, "q8_0": 8.5, "q4_0": 4.5}
        per_token = lib.llama_model_n_layer(model) * width * (bits[type_k] + bits[type_v]) / 8
        return int((self._context.kv_tokens + lane_tokens) * per_token)

    # -- computing ---------------------------------------------------------------------------------------------

    def decode(self, pieces: list[Piece]) -> list[np.ndarray]:
        """See Backend.decode."""
        return self._computing.decode(pieces)

    def trim(self, seq: int, keep: int) -> int:
        """See Backend.trim."""
        return self._computing.trim(seq, keep)

    def save(self, seq: int) -> Any:
        """See Backend.save."""
        return self._computing.save(seq)

    def load(self, seq: int, snapshot: Any) -> None:
        """See Backend.load."""
        self._computing.load(seq, snapshot)

    # -- text --------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """See Backend.tokenize."""
        return self._model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def piece(self, token: int) -> bytes:
        """See Backend.piece."""
        return self._model.piece(token)

    def label(self, token: int) -> str:
        """See Backend.label."""
        return self._model.label(token)

    @property
    def begin_token(self) -> int | None:
        """The token every text begins with, None where the model wants none."""
        return lib.llama_vocab_bos(self._vocab) if lib.llama_vocab_get_add_bos(self._vocab) else None

    def is_end(self, token: int) -> bool:
        """See Backend.is_end."""
        return lib.llama_vocab_is_eog(self._vocab, token)

    def render(self, messages: list[dict[str, Any]]) -> str:
        """See Backend.render."""
        if self._template is None:
            raise ChatTemplate.missing(self.info.name)
        return self._template.render(messages)

    def _make_template(self) -> ChatTemplate | None:
        source = lib.llama_model_chat_template(self._model.handle, None)
        if not source:
            return None
        vocab = self._vocab

        def name(token: int) -> str:
            return self.label(token) if token >= 0 else ""

        return ChatTemplate(
            source.decode("utf-8", "replace"),
            bos=name(lib.llama_vocab_bos(vocab)),
            eos=name(lib.llama_vocab_eos(vocab)),
        )

    def close(self) -> None:
        """See Backend.close."""
        if self._lane:
            self._lane.close()
        self._context.close()
        self._model.close()


def _probe_seconds(context: LlamaContext, token: int, chunk: int) -> tuple[float, float]:
    """Shortest time of a single token behind PROBE_TOKENS others, and of the second half of those, computed in chunks."""
    prompt_s, half = [], PROBE_TOKENS // 2
    for start in (0, half, half):  # the first half warms up
        kept = context.trim(0, start)  # 0 where memory cannot be cut; such a model gets no lane
        began = time.perf_counter()
        for at in range(kept, start + half, chunk):
            context.decode([Piece(0, at, [token] * min(chunk, start + half - at), "none")])
        prompt_s.append(time.perf_counter() - began)
    token_s = []
    for step in range(PROBE_STEPS + 1):  # the first one warms up
        began = time.perf_counter()
        context.decode([Piece(0, PROBE_TOKENS + step, [token], "last")])
        token_s.append(time.perf_counter() - began)
    return min(token_s[1:]), min(prompt_s[1:])
