"""Tokenizers of every kind, trained on the spot: what Words reads, writes and refuses."""

from __future__ import annotations

import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from appliance.engine.model_files import SETTINGS_BYTES, TOKENIZER_BYTES
from appliance.engine.onnx_words import SPACE, Words
from appliance.engine.text import TextAssembler
from appliance.errors import InvalidRequest, ModelFileError, ModelFileMissing

BEGIN, END, PAD, UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"
CONTROL = [UNKNOWN, BEGIN, END, PAD]
TEXTS = [
    "The quick brown fox can't jump over 12345 lazy dogs; it's their day!", "  two  spaces\n\n\tand lines", "naïve café über",
    "中文字 and हिन्दी", "🙂 family 👩‍👩‍👧", "the theme of these things is that they are the same thing",
]  # fmt: skip
ANY_TEXT = st.text() | st.text(st.sampled_from("ab thes<>|/\n\té🙂中\u0301"), max_size=40)


def byte_level() -> Tokenizer:
    """As GPT-2 and its heirs, with tokens that were added later: ÿ is also the name of a byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=CONTROL, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_tokens([AddedToken("ÿ", normalized=False), AddedToken("<tool> ", normalized=False)])
    return tokenizer


def sentence_piece() -> Tokenizer:
    """As Llama 2: a space before the text, byte tokens for what has none of its own."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(TEXTS[:3], trainers.BpeTrainer(vocab_size=150, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    tokens = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), "<", "s", ">", "s>", "<0", *sorted(model["vocab"])]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    # The second rule puts a control token together from its letters, as the lists of real models do.
    merges = [("s", ">"), ("<", "s>"), *map(tuple, model["merges"])]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(CONTROL)
    return tokenizer


def unigram() -> Tokenizer:
    """As T5 and XLM-R: spaces by a pre-tokenizer, and control tokens that score best of all."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=CONTROL, unk_token=UNKNOWN, show_progress=False)
    tokenizer.train_from_iterator(TEXTS[:1] + TEXTS[5:], trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    """As BERT."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=180, special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


@cache
def json_of(kind: Any) -> str:
    return kind().to_str()


def put(folder: Path, kind: Any, **files: Any) -> Path:
    """A folder with a tokenizer and other files: `config={...}` becomes config.json."""
    (folder / "tokenizer.json").write_text(json_of(kind), "utf-8")
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values), "utf-8")
    return folder


def read(words: Words, text: str, **how: bool) -> list[int]:
    return words.encode(text, **{"add_special": False, "parse_special": False} | how)


def joined(words: Words, ids: list[int]) -> str:
    """What a client that reads a stream sees."""
    assembler = TextAssembler()
    return "".join(assembler.push(words.piece(token)) for token in ids) + assembler.finish()


NAMES = {"bos_token": BEGIN, "eos_token": END, "pad_token": {"content": PAD, "special": True}}


# -- tokens and bytes ----------------------------------------------------------------------------------------------


def test_every_text_survives_a_byte_level_vocabulary(tmp_path):
    words = Words(put(tmp_path, byte_level))

    @given(ANY_TEXT)
    def check(text: str) -> None:
        ids = read(words, text)
        assert b"".join(map(words.piece, ids)) == text.encode() and joined(words, ids) == text
        assert any(name in text for name in CONTROL) or ids == read(words, text, parse_special=True)

    check()


def test_every_text_survives_a_vocabulary_with_byte_tokens(tmp_path):
    words = Words(put(tmp_path, sentence_piece))

    @given(ANY_TEXT.filter(lambda text: SPACE not in text))
    def check(text: str) -> None:
        ids = read(words, text)
        assert joined(words, ids) == (f" {text}" if text else "")
        assert words.tokenizer.decode(ids, skip_special_tokens=True) == text

    check()


@pytest.mark.parametrize("kind", [byte_level, sentence_piece, unigram, word_piece])
def test_joined_pieces_are_what_the_tokenizer_itself_writes(tmp_path, kind):
    words = Words(put(tmp_path, kind))
    for text in [*TEXTS, "don't stop, ever! is that it?", "they are naïve"]:
        ids = read(words, text)
        assert len(ids) > 1 and joined(words, ids).lstrip(" ") == words.tokenizer.decode(ids).lstrip(" ")


def test_a_character_that_is_split_among_tokens_comes_out_whole(tmp_path):
    words = Words(put(tmp_path, byte_level))
    ids = read(words, "a🙃b")
    assert len(ids) > 3 and joined(words, ids) == "a🙃b" and joined(words, ids[:2]) == "a\ufffd"


def test_halves_of_surrogate_pairs_are_read_as_question_marks(tmp_path):
    words = Words(put(tmp_path, byte_level))
    assert joined(words, read(words, "a\ud800b")) == "a?b"


def test_tokens_that_were_added_are_written_as_they_are(tmp_path):
    words = Words(put(tmp_path, byte_level))
    added, tool = (words.tokenizer.token_to_id(text) for text in ("ÿ", "<tool> "))
    assert read(words, "ÿ<tool> x")[:2] == [added, tool]
    assert words.piece(added) == "ÿ".encode() and words.piece(tool) == b"<tool> " and words.label(added) == "ÿ"


def test_the_vocabulary_reaches_to_the_highest_token(tmp_path):
    words = Words(put(tmp_path, byte_level))
    assert words.vocabulary == words.tokenizer.token_to_id("<tool> ") + 1 == words.tokenizer.get_vocab_size()
    for token in (-1, words.vocabulary, 10**9):
        assert words.piece(token) == b"" and words.label(token) == "" and not words.is_end(token)


def test_a_hole_in_the_vocabulary_is_an_empty_token(tmp_path):
    data = json.loads(json_of(word_piece))
    data["model"]["vocab"]["<0x41>"] = 5000
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    words = Words(tmp_path)
    assert words.vocabulary == 5001 and words.piece(5000) == b" <0x41>" and words.piece(4999) == b"" and words.label(4999) == ""


def test_a_missing_decoder_is_told_from_the_rest(tmp_path):
    for kind, expected in ((byte_level, "naïve café"), (sentence_piece, " naïve café"), (unigram, " the same")):
        data = json.loads(json_of(kind)) | {"decoder": None}
        (tmp_path / "tokenizer.json").write_text(json.dumps(data), "utf-8")
        words = Words(tmp_path)
        assert joined(words, read(words, expected.strip())) == expected


# -- control tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [byte_level, sentence_piece, unigram])
def test_control_tokens_count_as_such_only_where_they_are_asked_for(tmp_path, kind):
    words = Words(put(tmp_path, kind, tokenizer_config=NAMES))
    text = f"hi{END} {BEGIN}{PAD}"
    control = {words.tokenizer.token_to_id(name) for name in (BEGIN, END, PAD)}
    for _ in range(2):  # the second time the strict tokenizer is there already
        assert not control & {*read(words, text)} and control <= {*read(words, text, parse_special=True)}
    assert all(words.piece(token) == b"" for token in control) and {*map(words.label, control)} == {BEGIN, END, PAD}
    if kind is not unigram:
        assert joined(words, read(words, text)).strip() == text


def test_a_vocabulary_that_can_spell_its_control_tokens_does_not(tmp_path):
    words = Words(put(tmp_path, sentence_piece))
    assert words.tokenizer.encode(f"x{BEGIN}", add_special_tokens=False).ids[-1] == 1, "the library puts it together"
    ids = read(words, f"x{BEGIN}")
    assert 1 not in ids and [words.piece(token) for token in ids][-2:] == [b"<", b"s>"]
    assert read(words, "the theme") == words.tokenizer.encode("the theme", add_special_tokens=False).ids
    wanted = {token: words.tokenizer.id_to_token(token) for token in ids}
    assert all(words._strict.id_to_token(token) == text for token, text in wanted.items())


def test_an_end_token_that_is_only_a_word_becomes_a_control_token(tmp_path):
    data = json.loads(json_of(sentence_piece))
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != END]
    put(tmp_path, sentence_piece, tokenizer_config=NAMES)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    words = Words(tmp_path)
    assert words.is_end(2) and words.piece(2) == b"" and words.label(2) == END
    assert read(words, f"a{END}", parse_special=True)[-1] == 2 and 2 not in read(words, f"a{END}")


def test_a_line_end_that_ends_answers_stays_text(tmp_path):
    line_end = Words(put(tmp_path, byte_level)).tokenizer.token_to_id("Ċ")
    words = Words(put(tmp_path, byte_level, generation_config={"eos_token_id": [2, line_end]}))
    assert words.is_end(line_end) and words.piece(line_end) == b"\n"
    assert read(words, "a\nĊ", parse_special=True)[1] == line_end and joined(words, read(words, "a\nĊ", parse_special=True)) == "a\nĊ"


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({}, set()),
        ({"tokenizer_config": {"eos_token": END}}, {2}),
        ({"special_tokens_map": {"eos_token": {"content": END}}}, {2}),
        ({"generation_config": {"eos_token_id": 3}}, {3}),
        ({"generation_config": {"eos_token_id": [3, 5]}, "tokenizer_config": {"eos_token": END}}, {2, 3, 5}),
        ({"genai_config": {"model": {"eos_token_id": [3, 4]}}}, {3, 4}),
        ({"config": {"eos_token_id": 3}}, {3}),
        ({"config": {"eos_token_id": 3}, "tokenizer_config": {"eos_token": END}}, {2}),
        ({"generation_config": {"eos_token_id": None}, "genai_config": {"model": None}, "config": {"eos_token_id": True}}, set()),
    ],
)
def test_every_end_token_is_known(tmp_path, files, ends):
    words = Words(put(tmp_path, byte_level, **files))
    assert {token for token in range(words.vocabulary) if words.is_end(token)} == ends


# -- what is put around texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "before", "after"),
    [
        ({}, [], []),
        (NAMES, [], []),
        (NAMES | {"add_bos_token": True}, [1], []),
        (NAMES | {"add_bos_token": False, "add_eos_token": True}, [], [2]),
        (NAMES | {"tokenizer_class": "LlamaTokenizerFast"}, [1], []),
        (NAMES | {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False}, [], []),
        ({"bos_token": None, "add_bos_token": True}, [], []),
    ],
)
def test_begin_and_end_tokens_are_added_where_the_model_wants_them(tmp_path, settings, before, after):
    words = Words(put(tmp_path, sentence_piece, tokenizer_config=settings))
    plain = read(words, "the fox")
    assert read(words, "the fox", add_special=True) == [*before, *plain, *after] and plain
    assert words.begin_token == (before[0] if before else None) and read(words, "") == []
    assert read(words, "", add_special=True) == [*before, *after]


def test_what_tokenizer_json_puts_around_a_text_is_kept(tmp_path):
    words = Words(put(tmp_path, word_piece, tokenizer_config={"cls_token": "[CLS]", "pad_token": "[PAD]"}))
    ids = read(words, "The fox", add_special=True)
    assert ids == words.tokenizer.encode("The fox").ids and [ids[0], ids[-1]] == [2, 3]
    assert words.begin_token == 2 and words.pad_token == 0
    pair = words.tokenizer.encode("the fox", "the [SEP] dog")
    assert pair.ids.count(3) == 2 and {*pair.type_ids} == {0, 1}


def test_a_begin_token_of_the_post_processor_can_be_switched_off(tmp_path):
    tokenizer = sentence_piece()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 1)])
    put(tmp_path, sentence_piece, tokenizer_config=NAMES)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert Words(tmp_path).begin_token == 1 and read(Words(tmp_path), "a", add_special=True).count(1) == 1
    put_config = NAMES | {"add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(put_config))
    assert Words(tmp_path).begin_token is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(put_config | {"add_bos_token": True}))
    assert read(Words(tmp_path), "a", add_special=True).count(1) == 1


def test_truncation_and_padding_of_the_file_are_left_out(tmp_path):
    tokenizer = word_piece()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    words = Words(tmp_path)
    assert len(read(words, "the fox " * 20, add_special=True)) == 42 and len(read(words, "the", add_special=True)) == 3


# -- chat template and sizes ---------------------------------------------------------------------------------------

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"tokenizer_config": {"chat_template": TEMPLATE}}, "hi"),
        ({"tokenizer_config": NAMES | {"chat_template": TEMPLATE}}, "<s>hi</s>"),
        ({"tokenizer_config": NAMES | {"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": TEMPLATE}]}}, "<s>hi</s>"),
        ({"tokenizer_config": {"chat_template": [{"name": "only", "template": "one"}]}}, "one"),
        ({"tokenizer_config": {"chat_template": [{"name": "a", "template": "a"}, {"name": "b", "template": "b"}]}}, None),
        ({"tokenizer_config": {"chat_template": 5}}, None),
        ({"chat_template": {"chat_template": TEMPLATE}, "tokenizer_config": {"chat_template": "old"}}, "hi"),
        ({"genai_config": {"model": {"bos_token_id": 1, "eos_token_id": [2, 3]}}, "chat_template": {"chat_template": TEMPLATE}}, "<s>hi</s>"),
    ],
)
def test_the_chat_template_is_found_wherever_it_is(tmp_path, files, expected):
    words = Words(put(tmp_path, byte_level, **files))
    assert (words.template and words.template.render([{"role": "user", "content": "hi"}])) == expected


def test_a_chat_template_in_a_file_of_its_own_is_preferred(tmp_path):
    (put(tmp_path, byte_level, tokenizer_config={"chat_template": "old"}) / "chat_template.jinja").write_text("new")
    assert Words(tmp_path).template.render([]) == "new"


@pytest.mark.parametrize(
    ("files", "tokens", "kind"),
    [
        ({}, 0, ""),
        ({"config": {"max_position_embeddings": 512, "model_type": "llama"}, "tokenizer_config": {"model_max_length": 99}}, 512, "llama"),
        ({"config": {"n_positions": 64}, "genai_config": {"model": {"context_length": 48, "type": "gpt2"}}}, 48, "gpt2"),
        ({"tokenizer_config": {"model_max_length": 77}}, 77, ""),
        ({"tokenizer_config": {"model_max_length": 1000000000000000019884624838656}}, 0, ""),
        ({"config": {"max_position_embeddings": "many", "model_type": 5}}, 0, ""),
    ],
)
def test_context_and_kind_are_read(tmp_path, files, tokens, kind):
    words = Words(put(tmp_path, byte_level, **files))
    assert (words.context_tokens, words.model_type) == (tokens, kind)


# -- bad folders ---------------------------------------------------------------------------------------------------


def test_a_missing_tokenizer_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelFileMissing, match="tokenizer.json is missing in .*save_pretrained"):
            Words(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: "",
        lambda data: "{",
        lambda data: "[]",
        lambda data: json.dumps(data)[:-40],
        lambda data: json.dumps(data | {"model": {"type": "Telepathy"}}),
        lambda data: json.dumps(data | {"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}),
        lambda data: json.dumps(data | {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}),
    ],
)
def test_a_damaged_tokenizer_is_refused_in_words(tmp_path, change):
    (tmp_path / "tokenizer.json").write_text(change(json.loads(json_of(byte_level))), "utf-8")
    with pytest.raises(ModelFileError, match="tokenizer.json .*Download it again"):
        Words(tmp_path)


def test_a_tokenizer_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(b"\x80\x81\xff")
    with pytest.raises(ModelFileError, match="not text"):
        Words(tmp_path)


def test_a_library_that_panics_is_a_damaged_file(tmp_path, capfd):
    tokenizer = json.loads(json_of(word_piece))
    tokenizer["post_processor"]["special_tokens"] = {}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(ModelFileError, match="damaged"):
        Words(tmp_path)
    assert "panicked" in capfd.readouterr().err, "the case that this test is for"


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json", "genai_config.json"])
def test_a_damaged_file_beside_it_is_named(tmp_path, name):
    put(tmp_path, byte_level)
    for content in ("{", "[]", "[" * 100_000, '"\\ud800'):
        (tmp_path / name).write_text(content)
        with pytest.raises(ModelFileError, match=f"{name} holds no JSON object"):
            Words(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(ModelFileError, match=f"{name} cannot be read"):
        Words(tmp_path)
    shutil.rmtree(tmp_path / name)
    assert Words(tmp_path).vocabulary


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path, name):
    put(tmp_path, byte_level)
    path = tmp_path / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match=f"{name} cannot be read: it is a pipe"):
        Words(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ModelFileError, match=f"{name} cannot be read: it is a device"):
        Words(tmp_path)


@pytest.mark.parametrize(("name", "most"), [("config.json", SETTINGS_BYTES), ("tokenizer.json", TOKENIZER_BYTES)])
def test_a_file_without_end_is_not_read_to_it(tmp_path, name, most):
    put(tmp_path, byte_level)
    with (tmp_path / name).open("ab") as file:
        file.truncate(most + 1)  # a hole, which takes no room on the disk
    with pytest.raises(ModelFileError, match=f"{name} cannot be read: it has more than {most >> 20} MiB"):
        Words(tmp_path)


def test_a_text_that_cannot_be_spelled_is_the_askers_fault(tmp_path):
    data = json.loads(json_of(word_piece))
    data["model"]["unk_token"] = "[GONE]"
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    words = Words(tmp_path)
    assert read(words, "the fox")
    with pytest.raises(InvalidRequest, match="cannot spell this text"):
        read(words, "ÿ⁂")
