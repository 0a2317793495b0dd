"""A student's vocabulary: byte-level BPE learned from its own texts, so that anything people type can be spelled."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from appliance.errors import InvalidRequest

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (PAD, START, END)
SMALLEST = 256 + len(SPECIAL)
# One question, one answer: the student was taught no conversations, so it is shown the last question only, between two
# tokens: whatever else stood there would be computed for each question, in training and in serving.
CHAT_TEMPLATE = (
    "{%- set ns = namespace(last='') -%}{%- for message in messages -%}{%- if message['role'] == 'user' -%}"
    "{%- set ns.last = message['content'] -%}{%- endif -%}{%- endfor -%}"
    "{{ '<|im_start|>' + ns.last + '<|im_end|>' }}"
)


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


def prompt_text(question: str) -> str:
    """The text in front of an answer; what CHAT_TEMPLATE makes of one user message."""
    return f"{START}{question}{END}"
