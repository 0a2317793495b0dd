"""A student's vocabulary: byte-level BPE learned from its own texts, so that anything people type can be spelled."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from appliance.errors import InvalidRequest

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (PAD, START, END)
SMALLEST = 256 + len(SPECIAL)


def learn(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer with `size` tokens. Raises InvalidRequest when that is too few to spell every byte."""
    if size < SMALLEST:
        raise InvalidRequest(
            f"A vocabulary of {size} tokens cannot spell every byte.", param="vocabulary", remedy=f"Use at least {SMALLEST}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load(path: Path) -> Tokenizer:
    """A tokenizer.json."""
    return Tokenizer.from_file(str(path))


def prompt_text(question: str, times: int = 1) -> str:
    """The text in front of an answer; what chat_template makes of one user message."""
    return f"{START}{question}" * times + END


def chat_template(times: int = 1) -> str:
    """Jinja that writes the last question `times` times: a decoder reads from left to right, and knows the end of a question
    only when it sees its words again. One question, one answer: a student was taught no conversations, and whatever else
    stood here would be computed for each question, in training and in serving."""
    return (
        "{%- set ns = namespace(last='') -%}{%- for message in messages -%}{%- if message['role'] == 'user' -%}"
        "{%- set ns.last = message['content'] -%}{%- endif -%}{%- endfor -%}"
        f"{{{{ ('{START}' + ns.last) * {times} + '{END}' }}}}"
    )
