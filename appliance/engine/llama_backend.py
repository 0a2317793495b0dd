"""llama.cpp through llama-cpp-python's low-level bindings; only the modules `llama_*` import `llama_cpp`.

Each sequence has a KV stream of its own (`kv_unified` off) unless the KV space is overbooked: streams decode faster
because attention reads only a sequence's own cells, and prefixes are shared by copying a stream's cells, which costs
about a hundredth of computing them. Streams with neighbouring numbers are computed in one pass, others are not
(llama.cpp, `llama_batch_allocr::split_equal`), hence `prefers_neighbours`.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np

from appliance.engine.backend import Piece, Progress
from appliance.engine.chat_template import ChatTemplate
from appliance.engine.llama_context import LlamaContext
from appliance.engine.llama_lane import BLOCK_TOKENS, ENTER_TOKENS, PromptLane
from appliance.engine.llama_log import LlamaLog
from appliance.errors import ModelFileError, ModelFileMissing
from appliance.types import ModelInfo

MAGIC = b"GGUF"
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


def check_file(path: Path) -> None:
    """Refuse what cannot be a GGUF before llama.cpp sees it. Raises ModelFileMissing or ModelFileError."""
    if not path.exists():
        raise ModelFileMissing(f"There is no model file at {path}.", remedy="Check the path, or copy the file there.")
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder, not a GGUF file.", remedy="Name the .gguf file inside it.")
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.", remedy="Check its permissions.") from None
    if head != MAGIC:
        raise ModelFileError(
            f"{path} is not a GGUF file: it begins with {head!r} instead of {MAGIC!r}.",
            remedy="Download it again, or convert the model to GGUF.",
        )


class LlamaBackend:
    """One GGUF model with its context. Used by one thread."""

    def __init__(
        self,
        path: Path,
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
        mlock: bool = False,
        progress: Progress = lambda phase, share: None,
    ) -> None:
        """Load the model (memory-mapped) and reserve its KV space. context_tokens 0: as trained. kv_tokens 0: enough for
        every sequence. prompt_lane: on, off or auto: whether long prompts are computed in a context with flash attention
        of their own (`llama_lane`), auto: when that is measured to be faster. Raises ModelFileError."""
        check_file(path)
        self._log = LlamaLog()
        lib.llama_backend_init()
        self._model = self._load_model(path, mlock, progress)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self._vocabulary = lib.llama_vocab_n_tokens(self._vocab)
        trained = lib.llama_model_n_ctx_train(self._model)
        # Beyond what it was trained for a model only rambles; the rest of the space would be wasted.
        context_tokens = min(context_tokens or trained, trained)
        wanted = kv_tokens or context_tokens * sequences
        self.prefers_neighbours = wanted >= context_tokens * sequences
        self.max_outputs = max(sequences, PROMPT_OUTPUTS)
        self._pieces: dict[int, bytes] = {}
        self._spelling = self._unspellable()
        self._template = self._make_template()

        def context(flash: bool, kv_tokens: int = wanted, sequences: int = sequences, outputs: int = 0) -> LlamaContext:
            return LlamaContext(
                self._model,
                self._log,
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
                f"{path.name}: llama.cpp cannot set up a context of {wanted} tokens: {error}",
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
            path=str(path),
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

    def _load_model(self, path: Path, mlock: bool, progress: Progress) -> Any:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        if mlock:
            params.load_mode = lib.LLAMA_LOAD_MODE_MMAP_MLOCK
        report = lib.llama_progress_callback(lambda share, _: progress("loading the weights", share) or True)
        params.progress_callback = report
        model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise ModelFileError(
                f"{path.name} cannot be loaded: {self._log.last()}",
                remedy="The file is damaged, incomplete or of a kind this version does not know: download it again.",
            )
        if not lib.llama_model_has_decoder(model) or _makes_embeddings(model):
            raise ModelFileError(f"{path.name} is not a text generation model.", remedy="Serve a decoder model.")
        return model

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
        if lib.llama_model_n_params(self._model) > PROBE_LIMIT_PARAMETERS:
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
            return _probe_seconds(probe, min(self._vocabulary - 1, 100), chunk)
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
        model = self._model
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(model, buffer, 256)
        return ModelInfo(
            description=buffer.value.decode("utf-8", "replace"),
            parameters=lib.llama_model_n_params(model),
            size_bytes=lib.llama_model_size(model),
            vocabulary=self._vocabulary,
            trained_context_tokens=lib.llama_model_n_ctx_train(model),
            has_chat_template=self._template is not None,
            backend="llama.cpp",
            **known,
        )

    def _kv_bytes(self, type_k: str, type_v: str, lane_tokens: int) -> int:
        model = self._model
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
        if self._spelling is not None:
            text = self._spelling.sub(" ", text)
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            tokens = (lib.llama_token * room)()
            count = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, add_special, parse_special)
            if count >= 0:
                return tokens[:count]
            room = -count

    def _unspellable(self) -> re.Pattern[str] | None:
        """Characters that this vocabulary has no token for, or None when it can spell everything.

        A SentencePiece vocabulary without byte tokens makes llama.cpp abort the process on such a character
        (`llama_vocab::byte_to_token` throws), so one request would bring the engine down for all.
        """
        if lib.llama_vocab_type(self._vocab) != lib.LLAMA_VOCAB_TYPE_SPM:
            return None
        texts = {lib.llama_vocab_get_text(self._vocab, t) for t in range(self._vocabulary)}
        if all(f"<0x{byte:02X}>".encode() in texts for byte in range(256)):
            return None
        characters = {text.decode("utf-8", "replace") for text in texts}
        known = "".join(re.escape(c) for c in sorted(characters) if len(c) == 1)
        return re.compile(f"[^ {known}]")

    def piece(self, token: int) -> bytes:
        """See Backend.piece."""
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._bytes_of(token, special=False)
        return found

    def label(self, token: int) -> str:
        """See Backend.label."""
        return self._bytes_of(token, special=True).decode("utf-8", "replace")

    def _bytes_of(self, token: int, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if size >= 0:
                return buffer.raw[:size]
            room = -size

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
        source = lib.llama_model_chat_template(self._model, None)
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
        lib.llama_model_free(self._model)


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


def _metadata(model: Any, key: str) -> str | None:
    """A value of the file's metadata as text, None when it is not there."""
    buffer = ctypes.create_string_buffer(256)
    size = lib.llama_model_meta_val_str(model, key.encode(), buffer, 256)
    return buffer.value.decode("utf-8", "replace") if size >= 0 else None


def _makes_embeddings(model: Any) -> bool:
    """Whether the model is an encoder: llama.cpp loads it like any other and aborts when it is asked for a token."""
    architecture = _metadata(model, "general.architecture")
    return (
        _metadata(model, f"{architecture}.attention.causal") == "false"
        or _metadata(model, f"{architecture}.pooling_type") is not None
    )
