"""A Hugging Face tokenizer as the vocabulary of a GGUF file, for the three kinds llama.cpp and this appliance share.

Byte-level BPE ("gpt2" in GGUF), SentencePiece-style BPE ("llama") and WordPiece ("bert"). What cannot be spelled the
same way in llama.cpp is refused: a model that reads other tokens than it was trained on gives poor answers and no error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
from tokenizers import BertWordPieceTokenizer, Tokenizer
from tokenizers.models import WordPiece

from appliance.errors import ModelFileError, ModelFileMissing
from appliance.factory.convert_shape import Tell
from appliance.storage import in_words

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = (int(getattr(gguf.TokenType, n)) for n in
    ("NORMAL", "UNKNOWN", "CONTROL", "USER_DEFINED", "UNUSED", "BYTE"))  # fmt: skip
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space; llama.cpp also marks the beginning of a WordPiece word with it."""
UNREACHED_SCORE = -1e6
"""Of a token that no merge makes: llama.cpp's SentencePiece merges by score, the highest first."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_WORDS, LLAMA3_WORDS = _WORDS % "", _WORDS % "{1,3}"
PRE_TOKENIZERS: dict[tuple[Any, ...], str] = {
    ((("ByteLevel", True),), False): "gpt-2",
    ((("Digits", True), ("ByteLevel", True)), False): "smollm",
    ((("Split", QWEN2_WORDS), ("ByteLevel", False)), False): "qwen2",
    ((("Split", LLAMA3_WORDS), ("ByteLevel", False)), True): "llama-bpe",
    ((("Split", LLAMA3_WORDS), ("ByteLevel", False)), False): "smaug-bpe",  # as llama-bpe, but merges are not passed over
}
"""What a tokenizer.json cuts words with, and whether it ignores merges, to llama.cpp's name of it (llama-vocab.cpp)."""
OWN_RULE_CLASSES = ("Llama", "CodeLlama")
"""Tokenizer classes of transformers that set the begin and end tokens from their configuration, not tokenizer.json."""


@dataclass(slots=True)
class Vocabulary:
    """A vocabulary in GGUF's terms: one text and type for each id. before, after: what is put around every text."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    before: list[int]
    after: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    flags: dict[str, bool] = field(default_factory=dict)
    special: dict[str, int] = field(default_factory=dict)


def read_json(path: Path) -> dict[str, Any]:
    """A file with a JSON object. Raises ModelFileMissing or ModelFileError."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelFileMissing(f"{path.name} is missing in {path.parent}.", remedy="Download the whole folder.") from None
    except OSError as error:
        raise in_words(error, f"Reading {path}") from None
    except (ValueError, RecursionError):
        raise ModelFileError(f"{path} is not JSON.", remedy="Download it again.") from None
    if not isinstance(found, dict):
        raise ModelFileError(f"{path} holds no JSON object.", remedy="Download it again.")
    return found


def read(folder: Path, config: Mapping[str, Any], size: int, *, bert: bool, tell: Tell) -> Vocabulary:
    """The vocabulary in a folder, filled up to `size` tokens (rows of the embedding) with unused ones.

    Reads tokenizer.json (vocab.txt where a BERT has none), tokenizer_config.json and special_tokens_map.json.
    Raises ModelFileMissing, or ModelFileError for what llama.cpp would read differently.
    """
    settings = _settings(folder)
    tokenizer = _load(folder, settings, bert)
    data = json.loads(tokenizer.to_str())
    model = data["model"]
    wanted = "WordPiece" if bert else "BPE"
    if model.get("type") != wanted:
        raise _differs(f"it is of the kind {model.get('type')!r}, and {wanted} is needed for this architecture")
    tokens, types = _tokens(model["vocab"], data["added_tokens"], size)
    before, after = _around(tokenizer, settings)
    known = Vocabulary("", "default", tokens, types, before, after)
    if bert:
        _word_piece(known, data, settings)
    elif "ByteLevel" in _kinds(data["pre_tokenizer"]):
        _byte_level(known, data, tell)
    else:
        _sentence_piece(known, data, tell)
    text, times = Counter(known.tokens).most_common(1)[0]
    if times > 1:  # llama.cpp would abort the process
        raise _differs(f"token {text!r} is there twice")
    if any(a["lstrip"] or a["rstrip"] for a in data["added_tokens"]):
        tell("Special tokens of this tokenizer swallow the spaces beside them; llama.cpp keeps these.", 0.0)
    _name_special(known, settings, config, folder, bert)
    return known


def write(writer: gguf.GGUFWriter, known: Vocabulary) -> None:
    """The vocabulary as `tokenizer.ggml.*` metadata (docs/gguf.md of ggml)."""
    writer.add_tokenizer_model(known.model)
    writer.add_tokenizer_pre(known.pre)
    writer.add_token_list(known.tokens)
    writer.add_token_types(known.types)
    if known.scores:
        writer.add_token_scores(known.scores)
    if known.model == "gpt2":
        writer.add_token_merges(known.merges)
    for name, number in known.special.items():
        getattr(writer, f"add_{name}_token_id")(number)
    for name, flag in known.flags.items():
        writer.add_bool(f"tokenizer.ggml.{name}", flag)


def chat_template(folder: Path) -> str:
    """The model's chat template (its "default" one where there are several), "" for none."""
    try:
        return (folder / "chat_template.jinja").read_text("utf-8")
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError):
        raise ModelFileError(f"{folder / 'chat_template.jinja'} cannot be read.", remedy="Download it again.") from None
    found = _settings(folder).get("chat_template")
    if isinstance(found, list):
        found = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}.get("default")
    return writable(found) if isinstance(found, str) else ""


def writable(text: str) -> str:
    """The text as UTF-8 can hold it: JSON and file names may bring halves of characters."""
    return text.encode("utf-8", "replace").decode()


def _differs(why: str) -> ModelFileError:
    return ModelFileError(
        f"llama.cpp cannot spell like this tokenizer: {why}.",
        remedy="Take another model, or a GGUF file of it that its makers published.",
    )


def _settings(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            found |= read_json(folder / name)
    return found


def _load(folder: Path, settings: Mapping[str, Any], bert: bool) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists() and not (bert and (folder / "vocab.txt").exists()):
        raise ModelFileMissing(
            f"tokenizer.json is missing in {folder}.",
            remedy="Download it, or let transformers write one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER).",
        )
    try:
        if path.exists():
            tokenizer = Tokenizer.from_file(str(path))
        else:
            lower = settings.get("do_lower_case", True)
            vocab = WordPiece.read_file(str(folder / "vocab.txt"))
            tokenizer = Tokenizer.from_str(BertWordPieceTokenizer(vocab, lowercase=lower).to_str())
    except Exception as error:  # the library raises the plain class, for every fault
        raise ModelFileError(f"The tokenizer in {folder} cannot be read: {error}.", remedy="Download it again.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokens(vocab: Mapping[str, int], added: list[dict[str, Any]], size: int) -> tuple[list[str], list[int]]:
    by_id = {number: (text, NORMAL) for text, number in vocab.items()}
    by_id |= {a["id"]: (a["content"], CONTROL if a["special"] else USER_DEFINED) for a in added}
    if by_id and max(by_id) >= size:
        raise ModelFileError(
            f"The tokenizer has a token {max(by_id)}, but the model knows only {size} tokens.",
            remedy="tokenizer.json and config.json are not of the same model: download both again.",
        )
    rows = [by_id.get(number, (f"[PAD{number}]", UNUSED)) for number in range(size)]
    return [text for text, _ in rows], [kind for _, kind in rows]


def _around(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """What transformers puts before and after a text."""
    if str(settings.get("tokenizer_class", "")).startswith(OWN_RULE_CLASSES):
        begin = tokenizer.token_to_id(_content(settings.get("bos_token", "<s>")))
        end = tokenizer.token_to_id(_content(settings.get("eos_token", "</s>")))
        before = [begin] if settings.get("add_bos_token", True) and begin is not None else []
        return before, [end] if settings.get("add_eos_token", False) and end is not None else []
    text = "a"
    plain, whole = tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.encode(text).ids
    if not plain:
        raise _differs(f"it has no token for {text!r}")
    at = next(i for i in range(len(whole) + 1) if whole[i : i + len(plain)] == plain)
    before, after = whole[:at], whole[at + len(plain) :]
    if len(before) > 1 or len(after) > 1:
        raise _differs("it puts several tokens before or after every text")
    return before, after


def _steps(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """A step of a tokenizer.json and those inside it, as one list."""
    if part is None:
        return []
    return [step for child in part[inner] for step in _steps(child, inner)] if part["type"] == "Sequence" else [part]


def _kinds(pre_tokenizer: dict[str, Any] | None) -> list[str]:
    return [step["type"] for step in _steps(pre_tokenizer, "pretokenizers")]


def _byte_level(known: Vocabulary, data: Mapping[str, Any], tell: Tell) -> None:
    model = data["model"]
    for step in _steps(data["normalizer"], "normalizers"):
        if step["type"] != "NFC":
            raise _differs(f"it changes texts by {step['type']} first")
        tell("This tokenizer composes accents (NFC) first; llama.cpp reads them as they are typed.", 0.0)
    cuts: list[tuple[Any, ...]] = []
    for step in _steps(data["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "ByteLevel" and not step["add_prefix_space"]:
            cuts.append(("ByteLevel", step.get("use_regex", True)))
        elif step["type"] == "Digits":
            cuts.append(("Digits", step["individual_digits"]))
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            cuts.append(("Split", step["pattern"].get("Regex")))
        else:
            cuts.append((json.dumps(step),))
    pre = PRE_TOKENIZERS.get((tuple(cuts), bool(model.get("ignore_merges"))))
    if pre is None:
        raise _differs(
            f"it cuts words by a rule not known here ({cuts}, {'ignoring' if model.get('ignore_merges') else 'following'} merges)"
        )
    _no_affixes(model)
    known.model, known.pre = "gpt2", pre
    known.merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]


def _no_affixes(model: Mapping[str, Any]) -> None:
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _differs("it marks where in a word a token stands")


def _sentence_piece(known: Vocabulary, data: Mapping[str, Any], tell: Tell) -> None:
    model = data["model"]
    _no_affixes(model)
    prefix, kinds = _space_rule(data, known.tokens)
    vocab = model["vocab"]
    pairs = [tuple(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
    rank: dict[str, int] = {}
    for number, (left, right) in enumerate(pairs):
        rank.setdefault(left + right, number)
    # llama.cpp joins any two neighbours that together are a token, whether or not the merge is listed.
    listed = set(pairs)
    unlisted = sum(
        any(t[:i] in vocab and t[i:] in vocab and (t[:i], t[i:]) not in listed for i in range(1, len(t))) for t in rank
    )
    if unlisted:
        tell(f"{unlisted} of {len(rank)} merged tokens can be joined in llama.cpp in ways that this tokenizer does not know: "
             "some words will be read as other tokens.", 0.0)  # fmt: skip
    if "first" in kinds:
        tell("This tokenizer adds a space only to the very beginning; llama.cpp adds one after each special token too.", 0.0)
    for number, text in enumerate(known.tokens):
        if known.types[number] == NORMAL and model.get("byte_fallback") and _is_byte(text):
            known.types[number] = BYTE
        elif text == model.get("unk_token"):
            known.types[number] = UNKNOWN
    known.model, known.flags["add_space_prefix"] = "llama", prefix
    known.scores = [-float(rank[t] + 1) if t in rank else UNREACHED_SCORE for t in known.tokens]


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _space_rule(data: Mapping[str, Any], tokens: list[str]) -> tuple[bool, list[str]]:
    """Whether a space is put before a text, and the names of the rules found."""
    prefix, replaced, kinds = False, False, []
    for step in _steps(data["normalizer"], "normalizers"):
        if step["type"] == "Prepend" and step["prepend"] == SPACE:
            prefix = True
        elif step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == SPACE:
            replaced = True
        else:
            raise _differs(f"it changes texts by {step['type']} first")
    for step in _steps(data["pre_tokenizer"], "pretokenizers"):
        if step["type"] != "Metaspace" or step["replacement"] != SPACE:
            raise _differs(f"it cuts words by {step['type']}")
        if step["split"] and any(SPACE in text[1:] for text in tokens):
            raise _differs("it cuts at spaces, but has tokens with spaces inside")
        prefix, replaced = step["prepend_scheme"] != "never", True
        kinds.append(step["prepend_scheme"])
    if not replaced:
        raise _differs("it is neither byte-level nor like SentencePiece's")
    return prefix, kinds


def _word_piece(known: Vocabulary, data: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """BERT's words. Where accents are stripped, llama.cpp also strips the vowel signs of Indic scripts; BERT keeps some."""
    rules = data["normalizer"] or {}
    if rules.get("type") != "BertNormalizer" or not rules["clean_text"] or not rules["handle_chinese_chars"]:
        raise _differs("it does not clean texts as BERT does")
    if _kinds(data["pre_tokenizer"]) != ["BertPreTokenizer"]:
        raise _differs("it does not cut words as BERT does")
    mark = data["model"]["continuing_subword_prefix"]
    for number, text in enumerate(known.tokens):
        if known.types[number] == NORMAL:
            known.tokens[number] = text.removeprefix(mark) if text.startswith(mark) else SPACE + text
    lower = bool(settings.get("do_lower_case", rules["lowercase"]))
    accents = settings.get("strip_accents", rules["strip_accents"])
    known.model = "bert"
    known.flags["normalizer.lowercase"] = lower
    known.flags["normalizer.strip_accents"] = lower if accents is None else bool(accents)


def _name_special(known: Vocabulary, settings: Mapping[str, Any], config: Mapping[str, Any], folder: Path, bert: bool) -> None:
    """Fill in the ids of special tokens, and refuse where llama.cpp would put in its own numbers for missing ones."""
    ids = {text: number for number, text in enumerate(known.tokens)}

    def find(name: str) -> int | None:
        number = ids.get(_content(settings.get(f"{name}_token")))
        return number if number is not None else next(iter(_numbers(config.get(f"{name}_token_id"), known)), None)

    special = {name: find(name) for name in ("pad", "unk")}
    if bert:
        special |= {"bos": next(iter(known.before), None), "sep": next(iter(known.after), None), "mask": find("mask")}
        if special["bos"] is None or special["sep"] is None or special["unk"] is None:
            raise _differs("it has no [CLS], [SEP] and [UNK] tokens")
    else:
        end = find("eos")
        if end is None:
            raise ModelFileError(
                "No end token is known, so no answer of this model would ever end.",
                remedy="Name it in tokenizer_config.json (eos_token) or config.json (eos_token_id).",
            )
        begin = known.before[0] if known.before else find("bos")
        special |= {"eos": end, "bos": end if begin is None else begin}
        if known.after and known.after[0] != end:
            raise _differs("it ends texts with a token that is not its end token")
        ends = _numbers(config.get("eos_token_id"), known)
        if (folder / "generation_config.json").exists():
            ends += _numbers(read_json(folder / "generation_config.json").get("eos_token_id"), known)
        special["eot"] = next((number for number in ends if number != end), None)
        known.flags |= {"add_bos_token": bool(known.before), "add_eos_token": bool(known.after)}
    known.special = {name: number for name, number in special.items() if number is not None}


def _numbers(value: Any, known: Vocabulary) -> list[int]:
    """A token id of a configuration, or several, as far as they are tokens."""
    some = value if isinstance(value, list) else [value]
    return [n for n in some if isinstance(n, int) and not isinstance(n, bool) and 0 <= n < len(known.tokens)]


def _content(token: Any) -> str:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""
