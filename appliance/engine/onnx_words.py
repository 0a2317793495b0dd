"""An ONNX model's text half: tokenizer.json through the `tokenizers` library, and what the files beside it say about it.

A folder is read as transformers and onnxruntime-genai leave it: tokenizer_config.json and special_tokens_map.json name
the special tokens, generation_config.json and genai_config.json the tokens that end an answer, and the chat template is
in a file of its own or in tokenizer_config.json. https://huggingface.co/docs/tokenizers
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders

from appliance.engine.chat_template import ChatTemplate
from appliance.engine.model_files import TOKENIZER_BYTES, read_text
from appliance.errors import ApplianceError, InvalidRequest, ModelFileError, ModelFileMissing

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space."""
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
OWN_RULE_CLASSES = ("Llama", "CodeLlama")
"""Tokenizer classes of transformers that put a begin token in front unless their configuration says otherwise."""
LONGEST_QUOTE_CHARS = 200
LONGEST_CONTEXT = 1 << 30
"""More is transformers' way to write that it does not know."""


class Words:
    """A model's tokenizer and chat template. Used by one thread.

    vocabulary: highest token id + 1, added tokens included. begin_token: what every text begins with, None where the
    model wants nothing. pad_token: what fills up batches, None where none is named. template: None where there is none.
    context_tokens: what the model was made for, 0 where no file says so. model_type: such as "llama", "" likewise.
    tokenizer: the library's object, without truncation and padding, for callers that need pairs or offsets; control tokens
    written in a text are text to it, and it puts around a text what tokenizer.json says, nothing with add_special_tokens off.
    """

    def __init__(self, folder: Path) -> None:
        """Read tokenizer.json and, where they are there, the files beside it. Raises ModelFileMissing or ModelFileError."""
        self.tokenizer = _load(folder / "tokenizer.json")
        self.vocabulary = max(self.tokenizer.get_vocab().values(), default=-1) + 1
        if not self.vocabulary:
            raise ModelFileError(f"{folder / 'tokenizer.json'} has no tokens.", remedy="Download it again.")
        settings = _optional(folder / "special_tokens_map.json") | _optional(folder / "tokenizer_config.json")
        config, genai = _optional(folder / "config.json"), _optional(folder / "genai_config.json").get("model")
        genai = genai if isinstance(genai, dict) else {}
        generation = _optional(folder / "generation_config.json")
        self.context_tokens = _context(settings, config, genai)
        self.model_type = next((kind for kind in (config.get("model_type"), genai.get("type")) if isinstance(kind, str)), "")

        self._byte_of, self._decoder = _decoding(self.tokenizer)
        begin, end, pad = (self._named(name, settings, [generation, genai, config]) for name in ("bos", "eos", "pad"))
        ends = {*_numbers(generation.get("eos_token_id")), *_numbers(genai.get("eos_token_id"))}
        self._ends = frozenset(ends | {end} - {None})
        self.pad_token = pad
        self._added = self._make_special({begin, *self._ends} - {None})
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        self._unknown = self.tokenizer.token_to_id(unknown) if isinstance(unknown, str) else None
        self._control = {number for number, token in self._added.items() if token.special} - {self._unknown}
        self._pieces: dict[int, bytes] = {}

        self.tokenizer.encode_special_tokens = True
        self._strict: Tokenizer | None = None
        self._before, self._after = self._around(settings, begin, end)
        self.begin_token = self._before[0] if self._before else None
        source = _template_source(folder, settings)
        bos, eos = ("" if token is None else self.label(token) for token in (begin, end))
        self.template = ChatTemplate(source, bos=bos, eos=eos) if source else None

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text; see Backend.tokenize. Raises InvalidRequest where the vocabulary cannot spell it."""
        text = text.encode("utf-8", "replace").decode()  # halves of surrogate pairs are no text to the library
        self.tokenizer.encode_special_tokens = not parse_special
        try:
            ids = _ids(self.tokenizer, text)
        finally:
            self.tokenizer.encode_special_tokens = True
        if not parse_special and not self._control.isdisjoint(ids):
            # Spelled out letter by letter and put together again as if it were a word: some vocabularies can do that.
            self._strict = self._strict or _without(self.tokenizer, [self._text(token) for token in self._control])
            ids = _ids(self._strict, text)
        return [*self._before, *ids, *self._after] if add_special else ids

    def piece(self, token: int) -> bytes:
        """The bytes of a token as they appear in the middle of a text; empty for control, unknown and missing tokens."""
        found = self._pieces.get(token)
        if found is None:
            hidden = token in self._control or token == self._unknown
            found = self._pieces[token] = b"" if hidden else self._bytes_of(token)
        return found

    def label(self, token: int) -> str:
        """A token as /tokenize shows it, control tokens by name."""
        if token in self._control or token == self._unknown:
            return self._text(token)
        return self.piece(token).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Whether this token ends an answer."""
        return token in self._ends

    def _text(self, token: int) -> str:
        return (self.tokenizer.id_to_token(token) if 0 <= token < self.vocabulary else None) or ""

    def _bytes_of(self, token: int) -> bytes:
        text = self._text(token)
        if not text:
            return b""
        if self._byte_of:
            # A token that was added is written as it is, not in the alphabet of bytes.
            spelled = token not in self._added and all(c in self._byte_of for c in text)
            return bytes(self._byte_of[c] for c in text) if spelled else text.encode()
        if self._decoder is None:
            return b" " + text.encode()
        if (byte := BYTE_TOKEN.fullmatch(text)) and "ByteFallback" in _kinds(self._decoder):
            return bytes([int(byte[1], 16)])
        # Decoders treat the first and the last token differently, so it is put between two others.
        whole, rest = self._decoder.decode(["a", text, "a"]), self._decoder.decode(["a", "a"])
        return whole[1 : len(whole) - len(rest) + 1].encode()

    def _named(self, name: str, settings: dict[str, Any], configs: list[dict[str, Any]]) -> int | None:
        """A special token by its text, or by its id in another file where the tokenizer's files do not mention it."""
        if f"{name}_token" in settings:
            text = _content(settings[f"{name}_token"])
            found = self.tokenizer.token_to_id(text)
            if found is not None or not text:
                return found
        numbers = (n for config in configs for n in _numbers(config.get(f"{name}_token_id")) if n < self.vocabulary)
        return next(numbers, None)

    def _make_special(self, tokens: set[int]) -> dict[int, AddedToken]:
        """All added tokens, after making begin and end tokens control tokens: older files list them as mere words."""
        self._added = self.tokenizer.get_added_tokens_decoder()
        texts = {token: self._text(token) for token in tokens}
        # An end that is a normal word, such as a line end, is not written in a text as it is in the vocabulary.
        literal = [text for token, text in texts.items() if text and (token in self._added or self._bytes_of(token) == text.encode())]
        self.tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in literal])
        return self.tokenizer.get_added_tokens_decoder()

    def _around(self, settings: dict[str, Any], begin: int | None, end: int | None) -> tuple[list[int], list[int]]:
        """What is put before and after every text: the tokenizer's own post-processor, unless the settings say otherwise."""
        with _failing(lambda why: _damaged(Path("tokenizer.json"), why)):
            before, after = _put_around(self.tokenizer)
        own = str(settings.get("tokenizer_class", "")).startswith(OWN_RULE_CLASSES)
        wants_begin, wants_end = (settings.get(f"add_{name}_token", default if own else None) for name, default in (("bos", True), ("eos", False)))
        if isinstance(wants_begin, bool) and begin is not None:
            before = [begin] * wants_begin + [token for token in before if token != begin]
        if isinstance(wants_end, bool) and end is not None:
            after = [token for token in after if token != end] + [end] * wants_end
        return before, after


def _load(path: Path) -> Tokenizer:
    try:
        text = read_text(path, TOKENIZER_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFileMissing(
            f"tokenizer.json is missing in {path.parent}.",
            remedy="Copy it there; transformers makes one: AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER).",
        ) from None
    except UnicodeDecodeError:
        raise ModelFileError(f"{path} is not text.", remedy="Download it again.") from None
    with _failing(lambda why: _damaged(path, why)):
        tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _damaged(path: Path, why: str) -> ModelFileError:
    return ModelFileError(f"{path} is damaged or of a newer kind: {why}.", remedy="Download it again.")


@contextmanager
def _failing(refusal: Callable[[str], ApplianceError]) -> Iterator[None]:
    """The library raises the plain class for every fault, and a class that is no Exception where it did not expect one."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise refusal(str(error)[:LONGEST_QUOTE_CHARS]) from None


def _optional(path: Path) -> dict[str, Any]:
    """A file with a JSON object, empty where there is none. Raises ModelFileError."""
    try:
        found = json.loads(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ModelFileError(f"{path} holds no JSON object.", remedy="Download it again.")
    return found


def _template_source(folder: Path, settings: dict[str, Any]) -> str:
    """The chat template, the one called "default" where there are several (or the only one), "" for none."""
    try:
        return read_text(folder / "chat_template.jinja")
    except FileNotFoundError:
        pass
    except UnicodeDecodeError:
        raise ModelFileError(f"{folder / 'chat_template.jinja'} cannot be read.", remedy="Download it again.") from None
    found = _optional(folder / "chat_template.json").get("chat_template") or settings.get("chat_template")
    if isinstance(found, list):
        several = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = several.get("default") or (next(iter(several.values())) if len(several) == 1 else None)
    return found if isinstance(found, str) else ""


def _content(token: Any) -> str:
    """The text of a special token, which is written as text or as an object."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""


def _context(settings: dict[str, Any], config: dict[str, Any], genai: dict[str, Any]) -> int:
    """Tokens the model was made for, 0 where no file says so. The tokenizer's own number is often only a guess."""
    told = [config.get("max_position_embeddings"), config.get("n_positions"), genai.get("context_length")]
    found = [number for value in told for number in _numbers(value) if number]
    guess = [number for number in _numbers(settings.get("model_max_length")) if number <= LONGEST_CONTEXT]
    return min(found or guess, default=0)


def _numbers(value: Any) -> list[int]:
    """A token id of a configuration, or several."""
    some = value if isinstance(value, list) else [value]
    return [n for n in some if isinstance(n, int) and not isinstance(n, bool) and n >= 0]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    with _failing(_unspelled):
        return tokenizer.encode(text, add_special_tokens=False).ids


def _unspelled(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The model's tokenizer cannot spell this text: {why}.", remedy="Leave out characters that the model does not know."
    )


def _put_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer's own post-processor puts before and after a text."""
    for text in ("a", "0", " "):
        plain, whole = tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.encode(text).ids
        if plain:
            at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
            return whole[:at], whole[at + len(plain) :]
    return tokenizer.encode("").ids, []


def _state(part: Any) -> Any:
    """A part of a tokenizer as it is written in tokenizer.json, None where there is none."""
    return None if part is None else json.loads(part.__getstate__())


def _kinds(part: Any) -> set[str]:
    """The kinds of a normalizer, pre-tokenizer or decoder and of all its steps."""

    def walk(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["type"]} if isinstance(value.get("type"), str) else set()
            return own.union(*map(walk, value.values()))
        return set().union(*map(walk, value)) if isinstance(value, list) else set()

    return walk(_state(part))


def _decoding(tokenizer: Tokenizer) -> tuple[dict[str, int], Any]:
    """How token texts become bytes: the alphabet of a byte-level vocabulary (empty for others), and the decoder."""
    decoder, cuts = tokenizer.decoder, tokenizer.pre_tokenizer
    if "ByteLevel" in (_kinds(decoder) or _kinds(cuts)):
        return byte_alphabet(), None
    written = json.dumps([_state(tokenizer.normalizer), _state(cuts)], ensure_ascii=False)
    if decoder is None and SPACE in written:
        decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return {}, decoder


def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for: printable Latin-1 characters are their own,
    the other bytes in order have the characters from U+0100 on (GPT-2, encoder.py, bytes_to_unicode)."""
    own = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = (byte for byte in range(256) if byte not in own)
    return {chr(byte): byte for byte in own} | {chr(0x100 + number): byte for number, byte in enumerate(moved)}


def _without(tokenizer: Tokenizer, control: list[str]) -> Tokenizer:
    """A copy that has the same ids but cannot spell these tokens, whatever is typed."""
    data = json.loads(tokenizer.to_str())
    model, gone = data["model"], set(control)
    # Their places stay taken, under names nobody can guess: the ids of others depend on how many tokens there are.
    names = {text: f"{text}{secrets.token_hex(16)}" for text in gone}
    for token in data["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(text, text): number for text, number in vocab.items()}
    else:
        model["vocab"] = [[names.get(text, text), score] for text, score in vocab]
    if "merges" in model:
        pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
        model["merges"] = [pair for pair in pairs if gone.isdisjoint((*pair, "".join(pair)))]
    return Tokenizer.from_str(json.dumps(data))
