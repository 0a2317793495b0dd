"""A GGUF file that is loaded, with its words: what llama.cpp's generators and embedders have in common."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import llama_cpp as lib

from appliance.engine import llama_library
from appliance.engine.backend import Progress
from appliance.engine.llama_log import LlamaLog
from appliance.errors import ModelFileError, ModelFileMissing

MAGIC = b"GGUF"


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


class LlamaModel:
    """One file, memory-mapped. handle, vocab: llama.cpp's own. Used by one thread."""

    def __init__(self, path: Path, *, mlock: bool = False, progress: Progress = lambda phase, share: None) -> None:
        """Load it. Raises ModelFileMissing and ModelFileError."""
        check_file(path)
        self.path = path
        self.log = LlamaLog()
        llama_library.prepare()
        self.handle = self._load(mlock, progress)
        self.vocab = lib.llama_model_get_vocab(self.handle)
        self.vocabulary = lib.llama_vocab_n_tokens(self.vocab)
        self._pieces: dict[int, bytes] = {}
        self._spelling = self._unspellable()

    def _load(self, mlock: bool, progress: Progress) -> Any:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        if mlock:
            params.load_mode = lib.LLAMA_LOAD_MODE_MMAP_MLOCK
        raised: list[Exception] = []

        def told(share: float, _: Any) -> bool:
            try:
                progress("loading the weights", share)
            except Exception as error:  # nothing may pass through llama.cpp; False ends the loading
                raised.append(error)
            return not raised

        report = lib.llama_progress_callback(told)
        params.progress_callback = report
        model = lib.llama_model_load_from_file(str(self.path).encode(), params)
        if raised:
            raise raised[0]
        if not model:
            raise ModelFileError(
                f"{self.path.name} cannot be loaded: {self.log.last()}",
                remedy="The file is damaged, incomplete or of a kind this version does not know: download it again.",
            )
        return model

    @property
    def makes_embeddings(self) -> bool:
        """Whether it is an encoder: llama.cpp loads it like any other and aborts when it is asked for a token."""
        architecture = self._metadata("general.architecture")
        causal, pooling = (self._metadata(f"{architecture}.{key}") for key in ("attention.causal", "pooling_type"))
        return causal == "false" or pooling is not None

    @property
    def description(self) -> str:
        """What llama.cpp calls it."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self.handle, buffer, 256)
        return buffer.value.decode("utf-8", "replace")

    def _metadata(self, key: str) -> str | None:
        """A value of the file's metadata as text, None when it is not there."""
        buffer = ctypes.create_string_buffer(256)
        size = lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, 256)
        return buffer.value.decode("utf-8", "replace") if size >= 0 else None

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """See Backend.tokenize."""
        if self._spelling is not None:
            text = self._spelling.sub(" ", text)
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            tokens = (lib.llama_token * room)()
            count = lib.llama_tokenize(self.vocab, data, len(data), tokens, room, add_special, parse_special)
            if count >= 0:
                return tokens[:count]
            room = -count

    def _unspellable(self) -> re.Pattern[str] | None:
        """Characters that this vocabulary has no token for, or None when it can spell everything.

        A SentencePiece vocabulary without byte tokens makes llama.cpp abort the process on such a character
        (`llama_vocab::byte_to_token` throws), so one request would bring the engine down for all.
        """
        if lib.llama_vocab_type(self.vocab) != lib.LLAMA_VOCAB_TYPE_SPM:
            return None
        texts = {lib.llama_vocab_get_text(self.vocab, t) for t in range(self.vocabulary)}
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
            size = lib.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if size >= 0:
                return buffer.raw[:size]
            room = -size

    def close(self) -> None:
        """Free it. Contexts on it must be gone."""
        lib.llama_model_free(self.handle)
