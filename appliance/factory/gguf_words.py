"""The vocabulary of a GGUF file as a Hugging Face tokenizer, for the two kinds that text generation models have.

Byte-level BPE ("gpt2" in GGUF) and SentencePiece-style BPE ("llama"). What comes out spells as llama.cpp does and not
always as the model's first tokenizer did: it is compared with llama.cpp before it is written, and refused when it differs.

llama.cpp ends the process on some damaged vocabularies, so it is asked in a process of its own: `python -m` this module.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from appliance.engine.onnx_words import SPACE, Words
from appliance.errors import ModelFileError
from appliance.factory.convert_words import LLAMA3_WORDS, QWEN2_WORDS
from appliance.gguf_header import read_header
from appliance.storage import in_words

ASK_LIMIT_S = 600.0
SHOWN_TOKENS = 12
"""Of a difference, around its place."""

_SHORT = r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
_REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_OTHER = r"| ?[^\s\p{L}\p{N}]+"
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+" + _OTHER + r"|\s+(?!\S)|\s+"
# llama.cpp knows small and capital letters of ASCII only; other letters are both.
_CAPITAL, _SMALL = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITAL}*{_SMALL}+%s|[^\r\n\p{{L}}\p{{N}}]?{_CAPITAL}+{_SMALL}*%s|\p{{N}}%s" + _OTHER + r"[\r\n/]*" + _REST
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_PUNCTUATED = r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + _REST
_SENTENCE = " ?[^(\\s|.,!?\N{HORIZONTAL ELLIPSIS}\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
# llama.cpp's spaces are no letters here, though they lie among them.
_EASTERN = r"[\u0800-\u9fa5\uac00-\ud7ff&&[^\s]]+"
FAMILIES: list[tuple[str, tuple[str, ...], bool]] = [
    ("gpt-2 phi-2 gigachat a.x-4.0 mellum modern-bert mpt olmo jais trillion granite-docling exaone4", (GPT2_WORDS,), False),
    ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", (r"\p{N}", GPT2_WORDS), False),
    ("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 glm4 glm5", (LLAMA3_WORDS,), True),
    ("smaug-bpe dbrx chatglm-bpe", (LLAMA3_WORDS,), False),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", (QWEN2_WORDS,), False),
    ("qwen35", (_SHORT + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _REST,), False),
    ("minicpm5", (r"\p{N}{1,3}", _SHORT + "|" + _LETTERS + r"|\p{N}+" + _OTHER + r"[\r\n]*" + _REST), True),
    ("tekken", (_CASED % ("", "", ""),), True),
    ("gpt-4o llama4 kanana2 minimax-m2", (_CASED % (f"(?:{_SHORT})?", f"(?:{_SHORT})?", "{1,3}"),), False),
    ("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EASTERN, r"\p{N}"), False),
    ("deepseek-v3 hunyuan-dense joyai-llm", (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u30ff]+", _PUNCTUATED), False),
    ("seed-coder", (_SHORT + "|" + _LETTERS + r"|\p{N}| ?[^\s\p{L}\p{N}\r\n]+" + _REST,), False),
    ("bailingmoe bailingmoe2 llada-moe", (_SHORT + "|" + _LETTERS + r"|\p{N}" + _OTHER + r"[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",), False),
    ("falcon", (r"[\p{P}\$\+<=>\^~\|`]+", GPT2_WORDS, "[0-9][0-9][0-9]"), False),
    ("bloom poro-chat gpt3-finnish", (_SENTENCE,), False),
    ("viking", (_SENTENCE, r"\p{N}"), False),
    ("default", (r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", "[0-9][0-9][0-9]"), False),
]
PRE_TOKENIZERS = {name: (cuts, ignore_merges) for names, cuts, ignore_merges in FAMILIES for name in names.split()}
"""llama.cpp's name of a rule to what cuts words, one after the other, and whether a word that is a token is taken whole
(llama-vocab.cpp, llm_tokenizer_bpe and llama_vocab::impl::load)."""

SENTENCES = [
    "", " ", "   ", "\n", "\n\n\n", "\t\tx", "Hello", " Hello", "Hello world, how are you today?", "  two  spaces   three    ",
    "It's I'll they'd WE'RE don'T o'clock 'tis", "The quick brown fox jumps over the lazy dog.", "UPPER lower CamelCase snake_case kebab-case",
    "0 1 12 123 1234 12345 123456 1234567 3.14159 -2,718.28 1e-9", "v2.0.1-rc3 (2024-05-06T07:08:09Z) 50% $19.99 #42 @me",
    "def f(x):\n    return x ** 2  # squared\n\n\nclass A(B):\n\tpass\n", "for (int i = 0; i < n; ++i) { a[i] += b[i] & 0xFF; }",
    '{"key": [1, 2.5, null], "nested": {"a": "b\\n"}}', "<html><body class='x'>&amp;</body></html>", "SELECT * FROM t WHERE a != 'b';",
    "line one\nline two\r\nline three\rline four \n  indented", "trailing newline\n", "a\n\n b\n \n  c", "...!!! ??? --- ___ === *** ~~~ ```py```",
    "https://example.org/path?q=1&r=%20#top, mail@example.org", "naïve café über Straße façade año", "Œuvre ŁÓDŹ İstanbul ÅNGSTRÖM",
    "Привет, мир! Как дела?", "Γειά σου Κόσμε, ΑΒΓ αβγ", "שלום עולם", "مرحبا بالعالم، كيف الحال؟", "नमस्ते दुनिया, हिन्दी।", "สวัสดีชาวโลก",
    "你好，世界！今天是2024年5月6日。", "こんにちは世界、カタカナとひらがな", "안녕하세요 세계", "Việt Nam, tiếng Việt: đường phố",
    "🙂 🎉👍🏽 family 👩‍👩‍👧 flag 🇩🇪", "e\u0301 decomposed, \u00a0no\u2003break\u3000spaces", "½ ² Ⅷ ① ١٢٣ x² + y³ = ∞ ≠ ∑ €5 £6 → ←",
    "“quoted” ‘single’ — dash – en… «guillemets»", "a" * 40 + " " + "=" * 70 + " " * 20 + "ab" * 15, "Once upon a time, there was a little girl named Lily.",
    "She said, \"I can't!\" and ran away.\nThen the dog saw the cat in the park.", "▁ Ġ <0x0A> <0xE2> ▁word",
]  # fmt: skip
"""What both tokenizers must read alike."""


@dataclass(slots=True)
class Heard:
    """What llama.cpp says of a vocabulary. Token ids, but for `add_*`, `texts` (what it was asked to read), `read` (ids for
    each of these and each of READINGS) and `pieces` (the bytes of each token, in hexadecimal)."""

    add_begin: bool
    add_end: bool
    control: list[int]
    user_defined: list[int]
    unknown: list[int]
    unused: list[int]
    ends: list[int]
    texts: list[str]
    read: list[list[list[int]]]
    pieces: list[str]


READINGS = [(add_special, parse_special) for add_special in (False, True) for parse_special in (False, True)]


@dataclass(slots=True)
class Known:
    """A GGUF file's vocabulary. special: ids of bos, eos, unk and pad, as far as the file names them."""

    model: str
    pre: str
    tokens: list[str]
    scores: list[float]
    merges: list[tuple[str, str]]
    space_prefix: bool
    chat_template: str
    context_tokens: int
    special: dict[str, int] = field(default_factory=dict)


def write(path: Path, folder: Path, reader: gguf.GGUFReader | None = None) -> None:
    """Write the vocabulary of a GGUF file as tokenizer.json, tokenizer_config.json (with the chat template),
    special_tokens_map.json and generation_config.json (with every token that ends an answer) into a folder.

    All of them or none. reader: of this file, where the caller has one; making it takes seconds.
    Raises ModelFileMissing, ModelFileError for what the `tokenizers` library cannot spell as llama.cpp does, or StorageFailed.
    """
    known = _read(path, reader)
    heard = _ask(path)
    if heard.add_begin and "bos" not in known.special:
        raise ModelFileError(f"{path.name}: every text begins with a token that the file does not name.", remedy="Take another file of this model.")
    try:
        tokenizer = _byte_level(known) if known.model == "gpt2" else _sentence_piece(known, heard)
        _finish(tokenizer, known, heard)
    except Exception as error:
        if type(error) not in (Exception, ValueError):  # what the library raises, for every fault
            raise
        raise _differs(f"the library refuses it ({error})") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".words-") as scratch:
            tokenizer.save(str(Path(scratch) / "tokenizer.json"), pretty=False)
            for name, values in _settings(known, heard).items():
                (Path(scratch) / name).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
            _compare(Words(Path(scratch)), known, heard)
            for file in sorted(Path(scratch).iterdir()):
                os.replace(file, folder / file.name)
    except OSError as error:
        raise in_words(error, f"Writing {folder}") from None


def _differs(why: str) -> ModelFileError:
    return ModelFileError(
        f"This vocabulary cannot be written as a tokenizer.json: {why}.",
        remedy="Serve the GGUF file itself, or convert the model from its Hugging Face folder.",
    )


# -- reading -----------------------------------------------------------------------------------------------------


def _read(path: Path, reader: gguf.GGUFReader | None) -> Known:
    header = read_header(path)
    model, pre = header.text("tokenizer.ggml.model"), header.text("tokenizer.ggml.pre") or "default"
    if model not in ("gpt2", "llama"):
        raise _differs(f"it is of the kind {model!r}, and only 'gpt2' (byte-level) and 'llama' (SentencePiece) can be")
    if model == "gpt2" and pre not in PRE_TOKENIZERS:
        raise _differs(f"it cuts words by the rule {pre!r}")
    try:
        fields = (reader or gguf.GGUFReader(path)).fields
        tokens, scores, merges = (
            list(fields[key].contents()) if (key := f"tokenizer.ggml.{name}") in fields else [] for name in ("tokens", "scores", "merges")
        )
    except OSError as error:
        raise in_words(error, f"Reading {path}") from None
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise ModelFileError(f"{path.name}: the vocabulary cannot be read: {error}.", remedy="Download the file again.") from None
    tokens = [text or f"[EMPTY_{number}]" for number, text in enumerate(tokens)]  # as llama.cpp calls them
    if not tokens or len(set(tokens)) < len(tokens) or model == "llama" and len(scores) < len(tokens):
        raise ModelFileError(
            f"{path.name}: the vocabulary is empty, has a token twice or lacks its scores.", remedy="Download the file again."
        )
    pairs = [(merge[:at], merge[at + 1 :]) for merge in merges if (at := merge.find(" ", 1)) > 0]
    prefix = header.metadata.get("tokenizer.ggml.add_space_prefix", True)
    known = Known(model, pre, tokens, scores, pairs, bool(prefix), header.text("tokenizer.chat_template"), header.context_tokens)
    # SentencePiece's own numbers stand in for missing ones; llama.cpp's for byte-level vocabularies are a comma's.
    missing = {"unk": 0, "bos": 1, "eos": 2} if model == "llama" else {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = header.metadata.get(f"tokenizer.ggml.{key}_token_id", missing.get(name))
        if isinstance(number, int) and 0 <= number < len(tokens):
            known.special[name] = number
    if "eos" not in known.special:
        raise ModelFileError(f"{path.name} names no end token, so no answer would ever end.", remedy="Take another file of this model.")
    return known


def _ask(path: Path) -> Heard:
    """What llama.cpp says, from a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "appliance.factory.gguf_words", str(path.resolve())],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_LIMIT_S, check=False,
        )  # fmt: skip
        said = json.loads(done.stdout) if done.returncode == 0 else {}
    except (subprocess.TimeoutExpired, ValueError):
        said, done = {}, None
    if "error" in said or not said:
        why = said.get("error") or ("it did not answer." if done is None else f"it ended with {done.returncode}.")
        raise ModelFileError(f"llama.cpp cannot read the vocabulary of {path.name}: {why}", remedy="Download the file again.")
    return Heard(**said)


def _answer(path: str) -> dict[str, Any]:
    """In the process of its own: a Heard, or an error."""
    import llama_cpp as lib

    from appliance.engine.llama_library import prepare
    from appliance.engine.llama_log import LlamaLog

    log = LlamaLog()
    prepare()
    params = lib.llama_model_default_params()
    params.n_gpu_layers, params.vocab_only = 0, True
    model = lib.llama_model_load_from_file(path.encode(), params)
    if not model:
        return {"error": log.last()}
    vocab = lib.llama_model_get_vocab(model)
    every = range(lib.llama_vocab_n_tokens(vocab))
    texts = [lib.llama_vocab_get_text(vocab, token).decode("utf-8", "replace") for token in every]
    kinds = [lib.llama_vocab_get_attr(vocab, token) for token in every]
    found = {
        name: [token for token in every if kinds[token] & getattr(lib, f"LLAMA_TOKEN_ATTR_{name.upper()}")]
        for name in ("control", "user_defined", "unknown", "unused")
    }
    spoken = [texts[token] for part in ("control", "user_defined") for token in found[part][:3] + found[part][-2:]]
    asked = SENTENCES + [f"a{text} b {text}\n{text}{text}c" for text in spoken]
    unknown = unspellable(texts) if lib.llama_vocab_type(vocab) == lib.LLAMA_VOCAB_TYPE_SPM else ""

    def read(text: str, add_special: bool, parse_special: bool) -> list[int]:
        if unknown:  # llama.cpp would end the process
            parts = ("control", "unknown", "user_defined") if parse_special else ("user_defined",)
            kept = "|".join(re.escape(texts[token]) for part in parts for token in found[part])
            text = re.sub(f"({kept or '(?!)'})|{unknown}", lambda hit: hit[1] or " ", text)
        data = text.encode()
        room = 2 * len(data) + 8
        tokens = (lib.llama_token * room)()
        return tokens[: lib.llama_tokenize(vocab, data, len(data), tokens, room, add_special, parse_special)]

    def piece(token: int) -> str:
        room = 4 * len(texts[token].encode()) + 64
        buffer = ctypes.create_string_buffer(room)
        size = lib.llama_token_to_piece(vocab, token, buffer, room, 0, False)
        return buffer.raw[:size].hex()

    return {
        "add_begin": lib.llama_vocab_get_add_bos(vocab), "add_end": lib.llama_vocab_get_add_eos(vocab), **found,
        "ends": [token for token in every if lib.llama_vocab_is_eog(vocab, token)],
        "texts": asked, "read": [[read(text, *how) for how in READINGS] for text in asked],
        "pieces": [piece(token) for token in every],
    }  # fmt: skip


def unspellable(tokens: list[str]) -> str:
    """A regular expression for the characters that a SentencePiece vocabulary has no token for, "" when it can spell all.
    The appliance reads these as spaces (`llama_backend`)."""
    if {f"<0x{byte:02X}>" for byte in range(256)} <= set(tokens):
        return ""
    return f"[^ {''.join(re.escape(text) for text in sorted(tokens) if len(text) == 1)}]"


# -- writing -----------------------------------------------------------------------------------------------------


def _byte_level(known: Known) -> Tokenizer:
    cuts, ignore_merges = PRE_TOKENIZERS[known.pre]
    vocab = {text: number for number, text in enumerate(known.tokens)}
    # llama.cpp gives the first of two equal merges the word, the library the last.
    merges = [pair for pair in dict.fromkeys(known.merges) if {*pair, "".join(pair)} <= vocab.keys()]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
    splits = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in cuts]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(known: Known, heard: Heard) -> Tokenizer:
    """llama.cpp joins any two neighbours that together are a token, the one with the highest score first. Here they are
    never joined to a control token: what people type must not become one."""
    vocab = {text: number for number, text in enumerate(known.tokens)}
    fixed = {*heard.control, *heard.unknown}
    joined = sorted((t for t in vocab if len(t) > 1 and vocab[t] not in fixed), key=lambda t: (-known.scores[vocab[t]], vocab[t]))
    merges = [(t[:i], t[i:]) for t in joined for i in range(1, len(t)) if t[:i] in vocab and t[i:] in vocab]
    unknown = unspellable(known.tokens)
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token=_text(known, "unk"), fuse_unk=True, byte_fallback=not unknown)
    )
    tokenizer.normalizer = normalizers.Sequence([
        *([normalizers.Replace(Regex(unknown), " ")] if unknown else []),
        *([normalizers.Prepend(SPACE)] if known.space_prefix else []),
        normalizers.Replace(" ", SPACE),
    ])  # fmt: skip
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if known.space_prefix else []))
    return tokenizer


def _finish(tokenizer: Tokenizer, known: Known, heard: Heard) -> None:
    """Name the added tokens, and put the begin and end tokens around texts where the model wants them."""
    special = sorted({*heard.control, *heard.unknown})
    user_defined = sorted({*heard.user_defined} - {*special})
    tokenizer.add_special_tokens([AddedToken(known.tokens[token], normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(known.tokens[token], normalized=False) for token in user_defined])
    around = {name: known.special[name] for name, wanted in (("bos", heard.add_begin), ("eos", heard.add_end)) if wanted and name in known.special}
    if around:
        begin, end = ([_text(known, name)] * (name in around) for name in ("bos", "eos"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*begin, "$A", *end], special_tokens=[(known.tokens[token], token) for token in {*around.values()}]
        )


def _text(known: Known, name: str) -> str | None:
    return known.tokens[known.special[name]] if name in known.special else None


def _settings(known: Known, heard: Heard) -> dict[str, dict[str, Any]]:
    """The files beside tokenizer.json."""
    texts = {f"{name}_token": known.tokens[number] for name, number in known.special.items()}
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **texts}
    settings |= {"add_bos_token": heard.add_begin, "add_eos_token": heard.add_end, "clean_up_tokenization_spaces": False}
    if known.context_tokens:
        settings["model_max_length"] = known.context_tokens
    if known.chat_template:
        settings["chat_template"] = known.chat_template
    end = known.special["eos"]
    generation = {f"{name}_token_id": known.special[name] for name in ("bos", "pad") if name in known.special}
    generation["eos_token_id"] = [end, *(token for token in heard.ends if token != end)]
    return {"tokenizer_config.json": settings, "special_tokens_map.json": texts, "generation_config.json": generation}


# -- comparing ---------------------------------------------------------------------------------------------------


def _compare(words: Words, known: Known, heard: Heard) -> None:
    """Raises ModelFileError for the first thing that is read or written otherwise than in llama.cpp."""
    fixed = {*heard.control, *heard.unknown}
    for text, expected in zip(heard.texts, heard.read, strict=True):
        # Some vocabularies let llama.cpp put a control token together from letters that were not to be parsed; not here.
        leaks = not fixed.isdisjoint(expected[READINGS.index((False, False))])
        for (add_special, parse_special), theirs in zip(READINGS, expected, strict=True):
            if leaks and not parse_special:
                continue
            ours = words.encode(text, add_special=add_special, parse_special=parse_special)
            if ours != theirs:
                at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
                shown = [[known.tokens[token] for token in tokens[at : at + SHOWN_TOKENS]] for tokens in (theirs, ours)]
                raise _differs(f"{text[:80]!r} becomes, from token {at} on, {shown[0]} in llama.cpp and {shown[1]} here")
    unused = {*heard.unused}
    for token, theirs in enumerate(map(bytes.fromhex, heard.pieces)):
        # llama.cpp shows what is not in the alphabet of bytes by a code; such tokens were added, and are meant as they are.
        if words.piece(token) != theirs and token not in unused and b"[UNK_BYTE_" not in theirs:
            raise _differs(f"token {token} is {theirs!r} in llama.cpp and {words.piece(token)!r} here")
        if words.is_end(token) != (token in heard.ends):
            raise _differs(f"token {token} ends an answer in one of both only")


if __name__ == "__main__":
    print(json.dumps(_answer(sys.argv[1])))
