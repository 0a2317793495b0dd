"""Tiny random Hugging Face models of every family, converted: llama.cpp computes and spells what transformers does."""

from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import llama_cpp as lib
import numpy as np
import pytest
import torch
import transformers
from real_engine import SHARED, opened, teacher_forced
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from appliance.engine.llama_log import LlamaLog
from appliance.errors import ApplianceError, InvalidRequest, ModelFileError, ModelFileMissing, StorageFailed
from appliance.factory import convert_gguf, convert_words

TEXT = "The quick brown fox can't jump over 12345 lazy dogs; it's DOG'S day!\n\nWhat is 7 times 80? The answer, they said, "
HINDI = "हिन्दी"
TEXTS = [
    "", "The lazy fox", " two  spaces   three", "tabs\tand\nlines\n\n\n  indented\r\nend ", "12 345 6789012 3.14 v2.0", "it's I'LL they'd DON'T",
    "naïve café über Straße", "中文字 текст עברית", HINDI, "🙂 family 👩‍👩‍👧", "a<end>b <end>", "code: x=[1,2];//no\n\treturn x**2", "\u00a0non\u2003breaking",
]  # fmt: skip
SPACE = convert_words.SPACE
BEGIN, END, UNKNOWN = "<begin>", "<end>", "<unk>"
TOLERANCE = 0.1
"""In log probabilities. Sharp attention over an f16 cache makes up to 0.05, also with f32 weights; a wrong rotary pair 10."""
SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64)
Family = namedtuple("Family", "config words saved", defaults=({},))
FAMILIES = {
    "llama": Family(transformers.LlamaConfig(**SMALL, num_key_value_heads=2, attention_bias=True, mlp_bias=True), "llama-bpe"),
    "llama-tied": Family(transformers.LlamaConfig(**SMALL, tie_word_embeddings=True), "llama"),
    "mistral-bf16-shards": Family(
        transformers.MistralConfig(**SMALL, num_key_value_heads=2, head_dim=16, sliding_window=40), "smollm",
        {"dtype": torch.bfloat16, "max_shard_size": "9KB"}),
    "qwen2": Family(transformers.Qwen2Config(**SMALL, num_key_value_heads=1, tie_word_embeddings=True), "qwen2"),
    "qwen3-shards": Family(
        transformers.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16), "smaug-bpe", {"max_shard_size": "20KB"}),
    "gpt2": Family(transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64), "gpt-2"),
    "linear": Family(transformers.LlamaConfig(**SMALL, num_key_value_heads=2, rope_scaling={"rope_type": "linear", "factor": 3.0}), "gpt-2"),
    "llama3": Family(
        transformers.LlamaConfig(**SMALL, rope_scaling={
            "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        "gpt-2"),
    "yarn": Family(
        transformers.Qwen2Config(**SMALL | {"max_position_embeddings": 128}, num_key_value_heads=2, rope_scaling={
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.3, "beta_fast": 4.0}),
        "qwen2"),
}  # fmt: skip


def byte_level(pre: str) -> Tokenizer:
    """A byte-level BPE vocabulary that cuts words as llama.cpp's `pre` does."""
    rules = {name: rule for rule, name in convert_words.PRE_TOKENIZERS.items()}
    cuts, ignore_merges = rules[pre]
    make = {
        "ByteLevel": lambda use: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use),
        "Digits": lambda single: pre_tokenizers.Digits(individual_digits=single),
        "Split": lambda words: pre_tokenizers.Split(Regex(words), "isolated"),
    }
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([make[kind](how) for kind, how in cuts])
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, trainers.BpeTrainer(
        vocab_size=330, special_tokens=[BEGIN, END], show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    if pre == "llama-bpe":
        put_begin(tokenizer)
    return tokenizer


def train(tokenizer: Tokenizer, trainer: trainers.Trainer) -> None:
    tokenizer.train_from_iterator([TEXT, *TEXTS] * 3, trainer)


def put_begin(tokenizer: Tokenizer) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )


def sentence_piece() -> Tokenizer:
    """BPE as transformers makes it of a SentencePiece model: byte tokens, and every way to merge a token listed."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    train(trained, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    learned = sorted(model["vocab"].keys() - {END}, key=model["vocab"].get)
    tokens = [UNKNOWN, BEGIN, END, *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    vocab = {token: number for number, token in enumerate(tokens)}
    merges = [(t[:i], t[i:]) for t in tokens[259:] for i in range(1, len(t)) if t[:i] in vocab and t[i:] in vocab]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = trained.normalizer
    tokenizer.add_special_tokens([UNKNOWN, BEGIN, END])
    put_begin(tokenizer)
    return tokenizer


def words(pre: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer as transformers saves it."""
    tokenizer = sentence_piece() if pre == "llama" else byte_level(pre)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=END, unk_token=UNKNOWN if pre == "llama" else None)  # fmt: skip
    made.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    return made


def randomize(model: torch.nn.Module) -> None:
    """Weights large enough that attention looks at few places, so that a wrong position or head is seen; exact in bf16."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, values in model.named_parameters():
            scale = 0.35 if values.ndim > 1 else 0.2
            middle = 1.0 if values.ndim == 1 and name.endswith("weight") else 0.0
            values.copy_((torch.randn_like(values) * scale + middle).bfloat16())


def make(folder: Path, family: str) -> tuple[torch.nn.Module, transformers.PreTrainedTokenizerFast]:
    """A saved model and its tokenizer."""
    config, pre, saved = FAMILIES[family]
    tokenizer = words(pre)
    config.vocab_size = -(-len(tokenizer) // 16) * 16  # a few rows more than tokens, as real models have
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.architectures = None
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomize(model)
    saved = dict(saved)
    model.to(saved.pop("dtype", torch.float16)).save_pretrained(folder, **saved)
    tokenizer.save_pretrained(folder)
    return model.float(), tokenizer


def log_probabilities(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1).numpy()


def difference(gguf_file: Path, model: torch.nn.Module, ids: list[int]) -> float:
    """The largest one between llama.cpp's and transformers' log probabilities."""
    with opened(gguf_file, sequences=1) as backend:
        return float(np.abs(teacher_forced(backend, ids) - log_probabilities(model, ids)).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_what_transformers_computes(family, tmp_path):
    model, tokenizer = make(tmp_path / "hf", family)
    told: list[tuple[str, float]] = []
    convert_gguf.convert(tmp_path / "hf", tmp_path / "m.gguf", name="tiny", tell=lambda *what: told.append(what))
    assert told[-1] == ("writing the weights", 1.0) and len(list((tmp_path / "hf").glob("*.safetensors"))) >= 1 + ("shards" in family)
    ids = tokenizer(TEXT).input_ids[:24]
    with opened(tmp_path / "m.gguf", sequences=1) as backend:
        found, expected = teacher_forced(backend, ids), log_probabilities(model, ids)
        assert backend.tokenize(TEXT, add_special=True, parse_special=True)[:24] == ids
        assert backend.is_end(tokenizer.eos_token_id) and not backend.is_end(11)
        messages = [{"role": "user", "content": "hello"}]
        assert backend.render(messages) == tokenizer.apply_chat_template(messages, tokenize=False)
    assert np.abs(found - expected).max() < TOLERANCE
    best = expected.max(1)
    assert (expected[np.arange(len(ids)), found.argmax(1)] >= best - TOLERANCE / 2).all()


@pytest.mark.parametrize("family", ["linear", "llama3", "yarn"])
def test_the_tolerance_would_show_unscaled_rotary_positions(family, tmp_path):
    model, tokenizer = make(tmp_path / "hf", family)
    edit(tmp_path / "hf" / "config.json", rope_scaling=None)
    convert_gguf.convert(tmp_path / "hf", tmp_path / "m.gguf")
    assert difference(tmp_path / "m.gguf", model, tokenizer(TEXT).input_ids[:24]) > 10 * TOLERANCE


def test_the_tolerance_would_show_a_wrong_rotary_pair(tmp_path, monkeypatch):
    model, tokenizer = make(tmp_path / "hf", "llama-tied")
    monkeypatch.setattr(convert_gguf, "LLAMA_ROTATED", re.compile("attn_k"))
    convert_gguf.convert(tmp_path / "hf", tmp_path / "m.gguf")
    assert difference(tmp_path / "m.gguf", model, tokenizer(TEXT).input_ids[:24]) > 20 * TOLERANCE


@pytest.mark.parametrize("pre", ["llama", *convert_words.PRE_TOKENIZERS.values()])
def test_llama_cpp_spells_as_the_tokenizer_does(pre, tmp_path):
    family = next((name for name, f in FAMILIES.items() if f.words == pre))
    _, tokenizer = make(tmp_path / "hf", family)
    told: list[str] = []
    convert_gguf.convert(tmp_path / "hf", tmp_path / "m.gguf", tell=lambda what, share: told.append(what))
    assert not [t for t in told if "other tokens" in t]
    with opened(tmp_path / "m.gguf") as backend:
        for text in TEXTS[1:]:
            assert backend.tokenize(text, add_special=True, parse_special=True) == tokenizer(text).input_ids, text
            if END not in text:
                spelled = b"".join(map(backend.piece, tokenizer(text, add_special_tokens=False).input_ids)).decode()
                assert spelled.strip(" ") == text.strip(" ")


def test_the_metadata_says_whose_model_it_is_and_how_far_it_sees(tmp_path):
    make(tmp_path / "hf", "mistral-bf16-shards")
    (tmp_path / "hf" / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\nlicense: none\n")
    told: list[str] = []
    convert_gguf.convert(tmp_path / "hf", tmp_path / "m.gguf", tell=lambda what, share: told.append(what))
    found = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    assert (found["general.name"], found["general.license"], found["general.file_type"]) == ("hf", "apache-2.0", 1)
    assert found["llama.context_length"] == 40 and "looks back 40 tokens" in told[0]
    assert found["tokenizer.ggml.add_bos_token"] is False and found["tokenizer.ggml.token_type"][-1] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "m.gguf"]


def test_an_embedding_saved_under_the_heads_name_and_older_names_are_found(tmp_path):
    model, tokenizer = make(tmp_path / "hf", "gpt2")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    renamed = {name.removeprefix("transformer."): values for name, values in tensors.items()}
    renamed["lm_head.weight"] = renamed.pop("wte.weight")
    renamed["h.0.attn.bias"] = torch.ones(1, 1, 64, 64).half()
    save_file(renamed, tmp_path / "hf" / "model.safetensors")
    convert_gguf.convert(tmp_path / "hf", tmp_path / "m.gguf")
    assert difference(tmp_path / "m.gguf", model, tokenizer(TEXT).input_ids[:24]) < TOLERANCE


def test_of_several_chat_templates_the_default_one_is_taken(tmp_path):
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain \ud800"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert convert_words.chat_template(tmp_path) == "plain ?"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several[:1]}))
    assert convert_words.chat_template(tmp_path) == ""


# -- encoders --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["tokenizer.json", "vocab.txt"])
def bert(request, tmp_path) -> tuple[torch.nn.Module, transformers.BertTokenizerFast, Path]:
    """An encoder with its pooling, as sentence-transformers saves it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    train(tokenizer, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    folder = tmp_path / "hf"
    folder.mkdir()
    by_id = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in by_id))
    made = transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
    made.save_pretrained(folder)
    if request.param == "vocab.txt":
        (folder / "tokenizer.json").unlink()
    config = transformers.BertConfig(**SMALL, vocab_size=len(by_id))
    model = transformers.BertForMaskedLM(config) if request.param == "vocab.txt" else transformers.BertModel(config)
    randomize(model.eval())
    model.half().save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    settings = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    return getattr(model, "bert", model).float(), made, folder


@contextmanager
def encoder(path: Path) -> Iterator[tuple[lib.llama_model_p, lib.llama_context_p]]:
    """llama.cpp's own way to run an encoder, pooling as the file says; the engine serves decoders only."""
    log = LlamaLog()
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    assert model, log.last()
    params = lib.llama_context_default_params()
    params.embeddings, params.n_threads, params.n_threads_batch, params.n_ctx = True, 1, 1, 64
    context = lib.llama_init_from_model(model, params)
    try:
        yield model, context
    finally:
        lib.llama_free(context)
        lib.llama_model_free(model)


def test_an_encoder_gives_transformers_vectors_and_tokens(bert, tmp_path):
    model, tokenizer, folder = bert
    convert_gguf.convert(folder, tmp_path / "m.gguf")
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["bert.pooling_type"].contents() == gguf.PoolingType.MEAN
    with encoder(tmp_path / "m.gguf") as (loaded, context):
        for text in sorted({*TEXTS[1:]} - {HINDI}):  # see convert_words._word_piece
            expected, data, room = tokenizer(text).input_ids, text.encode(), (lib.llama_token * 256)()
            count = lib.llama_tokenize(lib.llama_model_get_vocab(loaded), data, len(data), room, 256, True, True)
            assert room[:count] == expected, text
            assert lib.llama_encode(context, lib.llama_batch_get_one(room, count)) == 0
            vector = np.array(lib.llama_get_embeddings_seq(context, 0)[:32])
            with torch.no_grad():
                mean = model(torch.tensor([expected])).last_hidden_state[0].mean(0).double().numpy()
            assert vector @ mean / np.linalg.norm(vector) / np.linalg.norm(mean) > 0.999


def test_a_pooling_that_llama_cpp_does_not_know_is_refused(bert, tmp_path):
    _, _, folder = bert
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    refused(folder, tmp_path / "m.gguf", ModelFileError, "pooled by max_tokens")


# -- what cannot be converted ----------------------------------------------------------------------------------


def refused(folder: Path, target: Path, kind: type[ApplianceError], *says: str) -> None:
    """The conversion fails in words and leaves nothing behind."""
    before = set(target.parent.iterdir())
    with pytest.raises(kind) as raised:
        convert_gguf.convert(folder, target)
    for what in says:
        assert what in str(raised.value)
    assert set(target.parent.iterdir()) == before


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A good folder."""
    folder = tmp_path_factory.mktemp("whole") / "hf"
    make(folder, "llama")
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy of a good folder to damage."""
    return Path(shutil.copytree(whole, tmp_path / "hf"))


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


CONFIGS = [
    ({"architectures": ["T5ForConditionalGeneration"]}, "T5ForConditionalGeneration cannot be converted"),
    ({"architectures": 7}, "does not name"),
    ({"hidden_size": "wide"}, "hidden_size='wide'"),
    ({"num_hidden_layers": 3}, "blk.2.attn_k.bias"),
    ({"num_hidden_layers": 1}, "no place in llama: model.layers.1."),
    ({"intermediate_size": 64}, "config.json implies [32, 64]"),
    ({"hidden_act": "relu"}, "activation is 'relu'"),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "the rule 'dynamic'"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "original_max_position_embeddings=None"),
    ({"rope_scaling": 5}, "rope_scaling=5"),
    ({"quantization_config": {"bits": 4}}, "quantized already"),
    ({"vocab_size": 100}, "knows only 100 tokens"),
    ({"num_key_value_heads": 3}, "3 key-value heads"),
    ({"head_dim": 7}, "heads are 7 wide"),
    ({"num_hidden_layers": 2**30}, "1073741824 layers"),
    ({"rms_norm_eps": -1}, "rms_norm_eps=-1"),
]


@pytest.mark.parametrize(("values", "says"), CONFIGS)
def test_a_configuration_that_llama_cpp_cannot_follow_is_refused(folder, tmp_path, values, says):
    edit(folder / "config.json", **values)
    if "vocab_size" in values:
        tensors = load_file(folder / "model.safetensors")
        cut = {n: v[:100].contiguous() if n in ("model.embed_tokens.weight", "lm_head.weight") else v for n, v in tensors.items()}
        save_file(cut, folder / "model.safetensors")
    refused(folder, tmp_path / "m.gguf", ModelFileError, says)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_named(folder, tmp_path, name):
    data = (folder / name).read_bytes()
    for cut in (len(data) // 2, 5, 0):
        (folder / name).write_bytes(data[:cut])
        refused(folder, tmp_path / "m.gguf", ModelFileError, "Download")
    (folder / name).write_bytes(b"\xff" * 4000)
    refused(folder, tmp_path / "m.gguf", ModelFileError, "Download")
    (folder / name).unlink()
    refused(folder, tmp_path / "m.gguf", ModelFileMissing, name)


def test_tensors_that_are_missing_left_over_or_no_numbers_are_named(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    for change, says in (
        ({"lm_head.weight": None}, "output.weight"),
        ({"model.layers.0.self_attn.strange.weight": torch.zeros(2, 2)}, "self_attn.strange.weight"),
        ({"model.norm.weight": torch.full((32,), float("nan"))}, "model.norm.weight has values that are no numbers"),
        ({"model.norm.weight": torch.zeros(32, dtype=torch.int8)}, "model.norm.weight is I8"),
        ({"lm_head.weight": tensors["lm_head.weight"].float() * 1e6}, "too large for float16"),
    ):
        changed = {name: values for name, values in (tensors | change).items() if values is not None}
        save_file(changed, folder / "model.safetensors")
        refused(folder, tmp_path / "m.gguf", ModelFileError, says)


def test_a_missing_shard_and_an_index_that_lies_are_named(tmp_path):
    folder = tmp_path / "hf"
    make(folder, "qwen3-shards")
    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map=listed | {"model.extra": next(iter(listed.values()))})
    refused(folder, tmp_path / "m.gguf", ModelFileError, "model.extra")
    edit(index, weight_map={"model.norm.weight": "../../secret.safetensors"})
    refused(folder, tmp_path / "m.gguf", ModelFileError, "no list of files")
    edit(index, weight_map=listed)
    lost = sorted(folder.glob("model-*.safetensors"))[1]
    lost.unlink()
    refused(folder, tmp_path / "m.gguf", ModelFileMissing, f"{lost.name} is missing")


UNIGRAM = {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]], "byte_fallback": False}
TOKENIZERS = [
    ({"pre_tokenizer": {"type": "Whitespace"}, "normalizer": None}, "by Whitespace"),
    ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}}, "rule not known"),
    ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}}, "ignoring merges"),
    ({"normalizer": {"type": "Lowercase"}}, "Lowercase first"),
    ({"model": UNIGRAM}, "'Unigram'"),
]


@pytest.mark.parametrize(("values", "says"), TOKENIZERS)
def test_a_tokenizer_that_llama_cpp_would_read_differently_is_refused(folder, tmp_path, values, says):
    edit(folder / "tokenizer.json", **values)
    refused(folder, tmp_path / "m.gguf", ModelFileError, says)


def test_a_model_whose_answers_would_never_end_is_refused(folder, tmp_path):
    edit(folder / "tokenizer_config.json", eos_token=None)
    edit(folder / "special_tokens_map.json", eos_token=None)
    edit(folder / "config.json", eos_token_id=None)
    refused(folder, tmp_path / "m.gguf", ModelFileError, "end token")
    edit(folder / "config.json", eos_token_id=[1])
    convert_gguf.convert(folder, tmp_path / "m.gguf")


def test_the_target_is_not_overwritten_and_a_full_disk_is_seen_before(folder, tmp_path, monkeypatch):
    (tmp_path / "m.gguf").write_text("mine")
    refused(folder, tmp_path / "m.gguf", InvalidRequest, "exists already")
    assert (tmp_path / "m.gguf").read_text() == "mine"
    refused(tmp_path / "nothing", tmp_path / "n.gguf", ModelFileMissing, "no folder")
    with pytest.raises(StorageFailed):
        convert_gguf.convert(folder, tmp_path / "nowhere" / "n.gguf")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 10**5))
    refused(folder, tmp_path / "n.gguf", StorageFailed, "free")


REAL = SHARED / "TinyStories-656K"
if (REAL / "config.json").is_file():  # else there is nothing to compare with, and no test to be skipped

    def test_a_real_model_becomes_the_file_its_makers_tools_made(tmp_path):
        told: list[str] = []
        convert_gguf.convert(REAL, tmp_path / "m.gguf", tell=lambda what, share: told.append(what))
        assert any("other tokens" in what for what in told)
        ours, theirs = (gguf.GGUFReader(p) for p in (tmp_path / "m.gguf", REAL / f"{REAL.name}-f16.gguf"))
        expected = {t.name: t.data for t in theirs.tensors}
        assert {t.name for t in ours.tensors} == set(expected)
        assert all(np.array_equal(t.data, expected[t.name]) for t in ours.tensors)
        for key in ("tokens", "scores", "token_type", "bos_token_id", "eos_token_id", "unknown_token_id", "add_bos_token"):
            assert ours.fields[f"tokenizer.ggml.{key}"].contents() == theirs.fields[f"tokenizer.ggml.{key}"].contents()
