"""GGUF vocabularies as tokenizer.json: the same tokens, bytes and ends as llama.cpp's, or a refusal that says where not."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import llama_cpp as lib
import pytest
import tiny_model
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from real_engine import SHARED, opened
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from appliance.engine.llama_log import LlamaLog
from appliance.engine.onnx_words import Words
from appliance.errors import ModelFileError, ModelFileMissing, StorageFailed
from appliance.factory import gguf_words

FILES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"}
LOGS: list[LlamaLog] = []
"""Kept, because llama.cpp goes on writing to the last one."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
ANY_TEXT = st.text() | st.text(st.sampled_from("ab the'sLL019.,!<|>_\n\t\r é🙂中\u3000\u0301"), max_size=40)


@cache
def learned() -> tuple[list[str], list[str]]:
    """Byte-level tokens and merges, learned across the borders of words: wherever a text is cut, the tokens change."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=3000, special_tokens=["<|end|>"], show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([*gguf_words.SENTENCES, " ".join(gguf_words.SENTENCES)] * 2, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [" ".join(pair) for pair in model["merges"]]


def write_file(path: Path, model: str, tokens: list[str], types: dict[int, int], **more: Any) -> Path:
    """A GGUF file without tensors. more: `tokenizer.ggml` metadata."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(len(tokens))
    writer.add_context_length(77)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types([types.get(token, NORMAL) for token in range(len(tokens))])
    for name, value in more.items():
        key = f"tokenizer.ggml.{name}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            writer.add_uint32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def byte_level(path: Path, extra: tuple[str, ...] = (), types: dict[int, int] | None = None, **more: Any) -> Path:
    tokens, merges = learned()
    return write_file(path, "gpt2", [*tokens, *extra], {0: CONTROL} | (types or {}), **{"merges": merges, "bos_token_id": 0, "eos_token_id": 0} | more)


def sentence_piece(path: Path, words: list[str], types: dict[int, int] | None = None, scores: list[float] | None = None, **more: Any) -> Path:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    kinds = {0: UNKNOWN, 1: CONTROL, 2: CONTROL} | {3 + byte: 6 for byte in range(256)}
    scores = scores or [-float(number) for number in range(len(words))]
    return write_file(path, "llama", tokens, kinds | (types or {}), scores=[0.0] * 259 + scores, **more)


def same_as_llama(file: Path, words: Words, texts: list[str]) -> None:
    """The texts become the same tokens."""
    LOGS.append(LlamaLog())
    params = lib.llama_model_default_params()
    params.vocab_only, params.n_gpu_layers = True, 0
    model = lib.llama_model_load_from_file(str(file).encode(), params)
    assert model, LOGS[-1].last()
    try:
        vocab = lib.llama_model_get_vocab(model)
        for text in texts:
            data = text.encode()
            tokens = (lib.llama_token * (len(data) + 8))()
            count = lib.llama_tokenize(vocab, data, len(data), tokens, len(tokens), False, False)
            assert words.encode(text, add_special=False, parse_special=False) == tokens[:count], (file.name, text)
    finally:
        lib.llama_model_free(model)


@pytest.mark.parametrize("names", [names for names, _, _ in gguf_words.FAMILIES])
def test_words_are_cut_as_in_llama(tmp_path, names):
    first, *others = names.split()
    gguf_words.write(byte_level(tmp_path / "first.gguf", pre=first), tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES
    words = Words(tmp_path / "out")
    for name in others:
        same_as_llama(byte_level(tmp_path / f"{name}.gguf", pre=name), words, gguf_words.SENTENCES)


def test_a_file_without_a_rule_has_the_default_one(tmp_path):
    gguf_words.write(byte_level(tmp_path / "none.gguf"), tmp_path / "none")
    gguf_words.write(byte_level(tmp_path / "default.gguf", pre="default"), tmp_path / "default")
    texts = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("none", "default")]
    assert texts[0] == texts[1]


def test_a_merge_that_is_listed_twice_counts_where_it_is_first(tmp_path):
    merges = learned()[1]
    gguf_words.write(byte_level(tmp_path / "a.gguf", pre="gpt-2", merges=merges + merges[:200]), tmp_path / "out")
    gguf_words.write(byte_level(tmp_path / "b.gguf", pre="gpt-2"), tmp_path / "once")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tmp_path / "once" / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("vocabulary", ["bpe", "spm", "letters"])
def test_a_whole_model_is_read_and_written_as_by_the_other_engine(tmp_path, vocabulary):
    path = tiny_model.write_random(tmp_path / "tiny.gguf", vocabulary=vocabulary)
    gguf_words.write(path, tmp_path / "out", gguf.GGUFReader(path))
    words = Words(tmp_path / "out")
    with opened(path, sequences=1) as backend:
        assert words.vocabulary == backend.info.vocabulary and words.begin_token == backend.begin_token
        assert words.context_tokens == tiny_model.CONTEXT
        for token in range(words.vocabulary):
            assert (words.piece(token), words.label(token)) == (backend.piece(token), backend.label(token))
            assert words.is_end(token) == backend.is_end(token)
        messages = [{"role": "user", "content": "hi <|im_end|>"}]
        assert words.template.render(messages) == backend.render(messages)

        @given(ANY_TEXT, st.booleans(), st.booleans())
        @settings(max_examples=200)
        def check(text: str, add_special: bool, parse_special: bool) -> None:
            how = {"add_special": add_special, "parse_special": parse_special}
            assert words.encode(text, **how) == backend.tokenize(text, **how)

        check()
        chat = words.template.render(messages)
        if vocabulary != "letters":  # its control tokens have letters that it cannot spell
            assert words.encode(chat, add_special=False, parse_special=True) == backend.tokenize(chat, add_special=False, parse_special=True)


def test_everything_that_ends_an_answer_comes_along(tmp_path):
    extra = ("<|im_end|>", "<|eot_id|>", "<|begin|>", "[PAD]", "<tool>", "unused place")
    size = len(learned()[0])
    kinds = {size: CONTROL, size + 2: CONTROL, size + 3: CONTROL, size + 4: USER_DEFINED, size + 5: UNUSED}
    file = byte_level(
        tmp_path / "a.gguf", extra, kinds, pre="llama-bpe", bos_token_id=size + 2, eos_token_id=size, padding_token_id=size + 3,
        unknown_token_id=4294967295, add_eos_token=True,
    )  # fmt: skip
    gguf_words.write(file, tmp_path / "out")
    read = {name: json.loads((tmp_path / "out" / name).read_text()) for name in FILES}
    ends = read["generation_config.json"]["eos_token_id"]
    assert ends[0] == size and {0, size, size + 1} <= {*ends} and size + 2 not in ends, "the second one is NORMAL in the file"
    assert read["generation_config.json"]["bos_token_id"] == size + 2
    assert read["special_tokens_map.json"] == {"bos_token": "<|begin|>", "eos_token": "<|im_end|>", "pad_token": "[PAD]"}
    assert read["tokenizer_config.json"]["add_bos_token"] is read["tokenizer_config.json"]["add_eos_token"] is True
    assert read["tokenizer_config.json"]["model_max_length"] == 77 and "chat_template" not in read["tokenizer_config.json"]
    words = Words(tmp_path / "out")
    ids = words.encode("a<tool>b<|eot_id|>", add_special=True, parse_special=True)
    assert ids[0] == words.begin_token == size + 2 and ids[-1] == size and size + 4 in ids and ids[-2] == size + 1
    assert size + 4 in words.encode("a<tool>", add_special=False, parse_special=False) and words.pad_token == size + 3
    assert words.piece(size + 1) == b"" and words.label(size + 1) == "<|eot_id|>" and words.piece(size + 4) == b"<tool>"


@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_piece_joins_by_score(tmp_path, prefix):
    # Scores and numbers are in another order: "ing" has its "in" from the one and would have its "ng" from the other.
    joined = {"ng": -8.0, "th": -3.0, "▁t": -6.0, "in": -4.0, "▁the": -7.0, "the": -2.0, "he": -1.0, "<tool>": 0.0}
    words = ["▁", *tiny_model.LETTERS, *joined]
    file = sentence_piece(
        tmp_path / "a.gguf", words, {259 + len(words) - 1: USER_DEFINED}, [-99.0] * 27 + [*joined.values()],
        add_space_prefix=prefix, add_bos_token=not prefix,
    )  # fmt: skip
    gguf_words.write(file, tmp_path / "out")
    found = Words(tmp_path / "out")

    def spelled(text: str) -> list[str]:
        return [found.label(token) for token in found.encode(text, add_special=False, parse_special=False)]

    assert spelled("the") == ([" the"] if prefix else ["the"]) and spelled("thing")[-3:] == ["th", "in", "g"]
    assert spelled("a<tool>the")[-2:] == ["<tool>", " the" if prefix else "the"]
    assert b"".join(found.piece(token) for token in found.encode("Ä🙂", add_special=False, parse_special=False)).decode().strip() == "Ä🙂"
    assert found.begin_token == (None if prefix else 1) and found.is_end(2) and not found.is_end(1)
    same_as_llama(file, found, [*gguf_words.SENTENCES, "the thing in the inn", "ththethe hehething"])


def test_control_tokens_that_llama_lets_through_are_kept_out(tmp_path):
    words = ["▁", *tiny_model.LETTERS, "<", ">", "s>", "/s>", "k>", "nk>", "unk>"]
    gguf_words.write(sentence_piece(tmp_path / "a.gguf", words), tmp_path / "out")
    found = Words(tmp_path / "out")
    assert 1 in found.encode("a<s>", add_special=False, parse_special=True)
    typed = "a<s></s> <unk>"
    assert {0, 1, 2}.isdisjoint(found.encode(typed, add_special=False, parse_special=False))
    assert {0, 1, 2}.isdisjoint(found.tokenizer.encode(typed, add_special_tokens=False).ids), "nor for other programs"


def test_the_real_vocabularies_pass_where_they_are_present(tmp_path):
    tiny = tiny_model.write_random(tmp_path / "tiny.gguf", vocabulary="spm")
    real = [path for folder in (SHARED, SHARED.parent / "vocab") if folder.is_dir() for path in sorted(folder.rglob("*.gguf"))]
    for number, path in enumerate([tiny, *real]):
        gguf_words.write(path, tmp_path / str(number))
        words = Words(tmp_path / str(number))
        ids = words.encode("Once upon a time\n", add_special=True, parse_special=False)
        assert b"".join(map(words.piece, ids)).decode().strip() == "Once upon a time" and 3 < len(ids) < 30


def test_transformers_reads_what_was_written(tmp_path):
    gguf_words.write(byte_level(tmp_path / "a.gguf", pre="qwen2"), tmp_path / "out")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out"), Words(tmp_path / "out")
    for text in gguf_words.SENTENCES:
        assert theirs.encode(text) == ours.encode(text, add_special=True, parse_special=True)
    assert (theirs.eos_token, theirs.model_max_length) == ("<|end|>", 77)


# -- refusals ------------------------------------------------------------------------------------------------------


def refused(path: Path, folder: Path, match: str, kind: type[Exception] = ModelFileError) -> None:
    """Nothing is written."""
    with pytest.raises(kind, match=match):
        gguf_words.write(path, folder)
    assert not folder.exists() or not list(folder.iterdir())


def test_what_has_no_equal_is_refused_by_name(tmp_path):
    out = tmp_path / "out"
    refused(tiny_model.write_encoder(tmp_path / "bert.gguf"), out, "of the kind 'bert'.*Serve the GGUF file itself")
    for pre in ("deepseek-llm", "kimi-k2", "no such rule"):
        refused(byte_level(tmp_path / "pre.gguf", pre=pre), out, f"by the rule '{pre}'")


def test_damaged_files_are_refused(tmp_path):
    out = tmp_path / "out"
    refused(tmp_path / "none.gguf", out, "no model file", ModelFileMissing)
    whole = byte_level(tmp_path / "whole.gguf", pre="gpt-2")
    cut, other = tmp_path / "cut.gguf", tmp_path / "other.gguf"
    cut.write_bytes(whole.read_bytes()[:20_000])
    other.write_bytes(b"PK\x03\x04" * 99)
    refused(cut, out, "cut.gguf")
    refused(other, out, "other.gguf")
    refused(byte_level(tmp_path / "twice.gguf", ("a",), pre="gpt-2"), out, "a token twice")
    refused(write_file(tmp_path / "empty.gguf", "gpt2", [], {}, pre="gpt-2", eos_token_id=0), out, "vocabulary is empty|cannot be read")
    refused(write_file(tmp_path / "scores.gguf", "llama", ["<unk>", "<s>", "</s>"], {}), out, "lacks its scores")
    tokens, merges = learned()
    refused(write_file(tmp_path / "end.gguf", "gpt2", tokens, {0: CONTROL}, merges=merges, pre="gpt-2"), out, "no end token")
    refused(write_file(tmp_path / "merges.gguf", "gpt2", tokens, {0: CONTROL}, eos_token_id=0, pre="gpt-2"), out, "llama.cpp cannot read .*merges")
    nameless = write_file(tmp_path / "begin.gguf", "gpt2", tokens, {0: CONTROL}, merges=merges, eos_token_id=0, pre="llama-bpe")
    refused(nameless, out, "that the file does not name")
    # Neither bytes nor a space: llama.cpp ends the process.
    refused(write_file(tmp_path / "dies.gguf", "llama", ["<unk>", "<s>", "</s>", "a"], {0: UNKNOWN, 1: CONTROL, 2: CONTROL}, scores=[0.0] * 4), out, "it ended with -6")


def test_the_first_difference_is_named(tmp_path):
    # Equal scores: llama.cpp takes the pair that is further left, the library the one with the lower number.
    words = ["▁", *tiny_model.LETTERS, "ba", "ab"]
    file = sentence_piece(tmp_path / "a.gguf", words, scores=[-9.0] * 27 + [-1.0, -1.0])
    refused(file, tmp_path / "out", r"becomes, from token \d+ on, \['ab', .* in llama.cpp and \['a', 'ba', ")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageFailed, match="out"):
        gguf_words.write(byte_level(tmp_path / "a.gguf", pre="gpt-2"), tmp_path / "out")
