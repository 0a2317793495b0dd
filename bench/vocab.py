"""Vocabularies for synthetic models: read from a vocab-only GGUF, or made up.

A made-up vocabulary is a byte-level BPE one (GPT-2's byte alphabet) whose merges build two- and
three-letter pieces, so that ordinary words cost about as many tokens as in a real model.
"""

import itertools
import re
import string
from dataclasses import dataclass
from pathlib import Path

import gguf

NORMAL, CONTROL, UNUSED = 1, 3, 5  # GGUF's token types (gguf.TokenType)
MAX_MERGES = 20_000  # more would only slow the loading of the model
# Only plain words may come out of a random model: such a token is whole UTF-8, so each token is
# one chunk of a stream in every server, and none of them is a name llama.cpp takes for an end.
_PLAIN = re.compile("\u0120?[A-Za-z0-9]+")


@dataclass(frozen=True)
class Vocab:
    """Tokens, their GGUF types and the BPE merges, with the ids of the special tokens."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    bos: int
    eos: int
    source: str

    def plain(self) -> list[bool]:
        """Per token: may a generation contain it (see _PLAIN)?"""
        pairs = zip(self.tokens, self.types, strict=True)
        return [kind == NORMAL and bool(_PLAIN.fullmatch(text)) for text, kind in pairs]


def read_vocab(path: Path, size: int) -> Vocab:
    """The vocabulary of a GGUF file, padded to `size` tokens; a bigger one keeps its own size."""
    fields = gguf.GGUFReader(path).fields

    def value(key):
        if key not in fields:
            raise SystemExit(f"{path}: no {key}; need a GGUF with a BPE vocabulary")
        return fields[key].contents()

    tokens = value("tokenizer.ggml.tokens")
    types = value("tokenizer.ggml.token_type")
    merges = value("tokenizer.ggml.merges")
    missing = max(0, size - len(tokens))
    note = f"{path.name}: {len(tokens)} tokens" + (f" + {missing} unused" if missing else "")
    return Vocab(
        tokens=tokens + _fillers(missing),
        types=types + [UNUSED] * missing,
        merges=merges,
        pre=value("tokenizer.ggml.pre"),
        bos=value("tokenizer.ggml.bos_token_id"),
        eos=value("tokenizer.ggml.eos_token_id"),
        source=note,
    )


def make_vocab(size: int) -> Vocab:
    """A made-up vocabulary of exactly `size` tokens (at least 300), the same at each call."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = special + _byte_alphabet()
    if size < len(tokens):
        raise SystemExit(f"a byte-level vocabulary needs at least {len(tokens)} tokens, not {size}")
    count = min(size - len(tokens), MAX_MERGES)
    merges = list(itertools.islice(_merge_pairs(), count))
    tokens += [left + right for left, right in merges]
    types = [CONTROL] * len(special) + [NORMAL] * (len(tokens) - len(special))
    missing = size - len(tokens)
    return Vocab(
        tokens=tokens + _fillers(missing),
        types=types + [UNUSED] * missing,
        merges=[f"{left} {right}" for left, right in merges],
        pre="gpt-2",
        bos=1,
        eos=2,
        source=f"made up: {len(tokens)} tokens + {missing} unused",
    )


def _byte_alphabet() -> list[str]:
    """One printable character per byte, byte 0 first: GPT-2's mapping, which GGUF's BPE expects."""
    kept = set(range(0x21, 0x7F)) | set(range(0xA1, 0xAD)) | set(range(0xAE, 0x100))
    moved = itertools.count(0x100)
    return [chr(byte) if byte in kept else chr(next(moved)) for byte in range(256)]


def _merge_pairs():
    """Pairs to merge, in rank order: space+letter, letter pairs, then the space+three-letter pieces."""
    letters, space = string.ascii_lowercase, "\u0120"
    yield from ((space, letter) for letter in letters)
    pairs = ["".join(p) for p in itertools.product(letters, letters)]
    yield from ((pair[0], pair[1]) for pair in pairs)
    yield from ((space + letter, pair) for letter in letters for pair in pairs)
    yield from itertools.product(pairs, pairs)


def _fillers(count: int) -> list[str]:
    """Names for padding tokens; the brackets keep them apart from every real token."""
    return [f"[UNUSED_{number}]" for number in range(count)]
