"""The model factory on the command line, with real processes on tiny models made here."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model
from fakes import ROOT, wait_until
from served import command
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from appliance import manifest
from appliance.cli import factory, measure
from appliance.factory import distil_flags, quantize, quantize_onnx

WORDS = "the a box server disk is full empty slow fast nurse river train rain soup bell day night and of to in".split()
COLOURS = {"alpha": "red", "beta": "green", "gamma": "blue", "delta": "white"}
FORMS = ("What colour is item {}?", "Tell me the colour of item {}.", "item {}: which colour?", "I need the colour of item {}", "Which colour has {}?",
         "Say how {} is painted", "{} is of what colour?", "paint of {}?")  # fmt: skip
SMALL = ["--vocabulary", "300", "--hidden", "32", "--layers", "1", "--heads", "2", "--kv-heads", "1", "--ffn", "48", "--context", "96", "--batch", "4",
         "--warmup", "1", "--held-out", "0.2", "--threads", "1"]  # fmt: skip


def run(*arguments: object, **how) -> subprocess.CompletedProcess[str]:
    """`appliance models ...`; whatever happens, nobody sees a traceback."""
    done = command("models", *map(str, arguments), **how)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def good(*arguments: object) -> str:
    """The same, and it has to go well. Returns what it says."""
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


MANY = """
import contextlib, io, json, sys
from appliance.cli import main
found = []
for words in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    found.append((code, told.getvalue()))
print(json.dumps(found))
"""


def refused(*cases: tuple[tuple[object, ...], int, str]) -> None:
    """Each (arguments, exit code, part of the sentence) is refused so; one process does them all."""
    words = json.dumps([["models", *map(str, arguments)] for arguments, _, _ in cases])
    done = subprocess.run([sys.executable, "-c", MANY], input=words, capture_output=True, text=True, cwd=ROOT, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    for (arguments, code, told), (found, said) in zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert found == code and told in said and "Traceback" not in said, (arguments, found, said)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder of its own, and one CPU: where others compute, threads would only wait for each other."""
    monkeypatch.setenv("APPLIANCE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield tmp_path / "data"
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints `decoder` and `encoder` as transformers saves them, tiny.gguf with f16 weights, and a short.txt."""
    root = tmp_path_factory.mktemp("factory")
    tiny_model.write_random(root / "tiny.gguf", kind="f16")
    (root / "short.txt").write_text("The bell is slow. The nurse is in the rain. Full of soup!")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import transformers

        torch.manual_seed(3)
        words = Tokenizer(models.BPE())
        words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        words.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        words.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=280, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False))
        size = words.get_vocab_size()
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.LlamaConfig(**shape, vocab_size=size, max_position_embeddings=128, bos_token_id=0, eos_token_id=0)
        transformers.LlamaForCausalLM(config).save_pretrained(root / "decoder")
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", bos_token="<end>").save_pretrained(root / "decoder")

        vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
        words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        config = transformers.BertConfig(**shape, vocab_size=30000, max_position_embeddings=48, initializer_range=0.15)
        transformers.BertModel(config).eval().save_pretrained(root / "encoder")
        words.save(str(root / "encoder" / "tokenizer.json"))
    return root


# -- what is there without doing anything ----------------------------------------------------------


def test_what_the_help_promises_is_what_the_libraries_know():
    from appliance.factory.student import Recipe, Shape

    assert set(factory.GGUF_TYPES) == set(quantize.KINDS) and set(factory.ONNX_TYPES) == set(quantize_onnx.KINDS)
    for name, (usual, _) in (distil_flags.SIZES | distil_flags.RATES).items():
        [kind] = [kind for kind in (Shape(), Recipe()) if hasattr(kind, name)]
        assert getattr(kind, name) == usual, name


def test_the_built_in_text_is_long_and_plain_and_in_sentences():
    text = measure.read_text(None)
    assert 2300 < len(text.split()) < 2700 and text.isascii()
    found = measure.sentences(text)
    assert len(found) > 150 and max(map(len, found)) < 400
    assert measure.sentences('One. "Two!" Three?\n\nFour\nfive. One.') == ["One.", '"Two!', "Three?", "Four five."]


LESS = "import sys; sys.modules.update(dict.fromkeys(%r)); from appliance.cli import main; sys.exit(main(sys.argv[1:]))"


def without(packages: tuple[str, ...], *arguments: object) -> tuple[int, str, str]:
    """The command in an interpreter that has not these packages."""
    words = [sys.executable, "-c", LESS % (packages,), "models", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_help_waits_for_no_library_and_one_that_is_missing_is_named_with_the_remedy(made, tmp_path):
    extra = ("torch", "transformers", "optimum", "onnx", "gguf", "tokenizers", "safetensors", "numpy", "llama_cpp")
    code, said, _ = without(extra, "distil", "--help")
    assert code == 0 and "--teacher-model" in said and "(default: 320)" in said
    (tmp_path / "q.txt").write_text("one\n")
    onnx = tmp_path / "onnx"
    onnx.mkdir()
    (onnx / "model.onnx").write_text("")
    (onnx / "config.json").write_text('{"architectures": ["BertModel"]}')
    for packages, arguments in (
        (("gguf",), ("convert", made / "decoder", tmp_path / "x.gguf")),
        (("optimum",), ("convert", made / "encoder", tmp_path / "x")),
        (("onnx",), ("quantize", onnx, tmp_path / "x", "--type", "int8")),
        (("tokenizers",), ("eval", onnx)),
        (("torch",), ("distil", tmp_path / "q.txt", tmp_path / "x", "--answers", tmp_path / "q.txt")),
    ):
        code, _, said = without(packages, *arguments)
        assert code == 69 and f"package {packages[0]}," in said and "./install.sh --user --extra factory" in said
    assert not (tmp_path / "x").exists()


# -- GGUF ------------------------------------------------------------------------------------------


def test_a_checkpoint_becomes_a_gguf_file_that_is_quantized_and_compared(made, tmp_path):
    large, small = tmp_path / "large.gguf", tmp_path / "small.gguf"
    assert f"Wrote {large}" in good("convert", made / "decoder", large, "--name", "ours")
    assert "of the size before" in good("quantize", large, small, "--type", "q8_0", "--output", "q8_0")
    assert small.stat().st_size < large.stat().st_size
    picture, text = tmp_path / "all.svg", tmp_path / "text.txt"
    text.write_text(" ".join(WORDS * 12))
    said = good("eval", large, small, "--reference", large, "--picture", picture, "--text", text)
    rows = [line for line in said.splitlines() if ".gguf |" in line]
    assert [row.split()[1] for row in rows] == ["large.gguf", "small.gguf"] and "| 0.00000 | 100.0 % |" in rows[0]
    assert "Windows of 128 tokens, reference large.gguf." in said
    assert len(list(ET.parse(picture).iter("{http://www.w3.org/2000/svg}circle"))) == 2
    found = json.loads(good("eval", small, "--context", 96, "--text", text, "--json"))
    assert found["kind"] == "text generator" and found["models"][0]["perplexity"] > 1 and found["models"][0]["kl"] is None
    again = run("quantize", large, small, "--type", "Q4_0")
    assert again.returncode == 64 and "exists already" in again.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["all.svg", "large.gguf", "small.gguf", "text.txt"]


@pytest.fixture
def parrot(data: Path, tmp_path: Path) -> str:
    """A model of the catalog that answers everything with "Hey, guv"."""
    path = tiny_model.write_parrot(tmp_path / "parrot.gguf", "Hey, guv")
    good("add", path)
    return "parrot"


def limits(folder: Path, text: str) -> Path:
    path = folder / "limits.toml"
    path.write_text(text)
    return path


def test_only_a_certified_model_becomes_the_default_unless_told_otherwise(data, parrot, tmp_path):
    golden = '[[golden]]\nprompt = "Who?"\nmust_contain = "{}"\n'
    paper = data / "models" / parrot / "certificate.json"
    refused = run("use", parrot)
    assert refused.returncode == 64 and "it has no certificate" in refused.stderr
    assert "appliance models certify parrot --limits" in refused.stderr and "--uncertified" in refused.stderr

    said = good("certify", parrot, "--limits", limits(tmp_path, "min_tokens_per_s = 0.5\n" + golden.format("Hey")))
    assert "min_tokens_per_s" in said and re.search(r"golden: Who\?\s+Hey\s+Hey, guv\s+yes", said) and "NO" not in said
    assert "is the default now" in good("use", parrot)

    found = json.loads(paper.read_text())
    paper.write_text(json.dumps(found | {"cpu": "m68k abacus"}))
    elsewhere = run("use", parrot)
    assert elsewhere.returncode == 64 and "on another processor (m68k abacus)" in elsewhere.stderr
    assert good("use", parrot, "--uncertified")

    failed = run("certify", parrot, "--limits", limits(tmp_path, "min_tokens_per_s = 1e9\n" + golden.format("Bye")), "--json")
    assert failed.returncode == 65 and "fails 2 of 2 limits" in failed.stderr and "'Hey, guv', the limit is 'Bye'" in failed.stderr
    told = json.loads(failed.stdout)
    assert told["certified"] is False and [row["passed"] for row in told["verdicts"]] == [False, False]
    assert "withdrawn" in failed.stderr and not paper.exists() and run("use", parrot).returncode == 64
    assert good("verify", parrot)


def test_a_file_is_certified_against_its_reference_and_the_certificate_lies_beside_it(made, tmp_path):
    small = tmp_path / "q8.gguf"
    good("quantize", made / "tiny.gguf", small, "--type", "Q8_0")
    asked = limits(tmp_path, "max_perplexity_rise = 0.5\nmax_kl = 0.5\nmin_top1 = 0.5\n")
    short = tmp_path / "short.txt"
    short.write_text("the rain in the night and the soup of the day " * 20)
    said = good("certify", small, "--limits", asked, "--reference", made / "tiny.gguf", "--text", short)
    assert said.count(" yes") == 3 and "is certified for" in said
    assert json.loads((tmp_path / "certificate.json").read_text())["file"] == "q8.gguf"


# -- GGUF and ONNX ---------------------------------------------------------------------------------


def test_a_model_as_gguf_and_as_onnx_stand_in_one_table_and_either_is_certified_and_used(data, tmp_path):
    gguf, onnx = tiny_model.write_parrot(tmp_path / "parrot.gguf", "Hey, guv"), tmp_path / "parrot-onnx"
    said = good("convert", gguf, onnx, "--to", "onnx")
    assert f"appliance models eval {onnx} --reference {gguf}" in said
    assert said.splitlines()[-1].startswith("From now on this chooses the faster of both") and f"appliance serve --model {gguf}" in said
    assert "the faster" not in good("convert", gguf, tmp_path / "elsewhere", "--to", "onnx")
    text = tmp_path / "text.txt"
    text.write_text("the rain in the night and the soup of the day " * 20)
    picture = tmp_path / "both.svg"
    said = good("eval", gguf, onnx, "--reference", onnx, "--text", text, "--context", 128, "--picture", picture)
    rows = [line.split() for line in said.splitlines() if line.startswith("| parrot")]
    assert [row[1] for row in rows] == ["parrot.gguf", "parrot-onnx"] and len(list(ET.parse(picture).iter("{http://www.w3.org/2000/svg}circle"))) == 2
    assert "Windows of 128 tokens, reference parrot-onnx." in said
    asked = limits(tmp_path, 'max_perplexity_rise = 0.1\nmax_kl = 0.1\nmin_top1 = 0.9\nmin_tokens_per_s = 0.5\n[[golden]]\nprompt = "Who?"\nmust_contain = "Hey"\n')
    good("add", onnx)
    assert "it has no certificate" in run("use", "parrot-onnx").stderr
    assert good("certify", "parrot-onnx", "--limits", asked, "--reference", gguf, "--text", text, "--context", 128).count(" yes") == 5
    assert "is the default now" in good("use", "parrot-onnx")


# -- ONNX ------------------------------------------------------------------------------------------


def test_an_encoder_goes_the_whole_way_to_the_catalog(made, data, tmp_path):
    large, small, brief = tmp_path / "large", tmp_path / "small", ("--text", made / "short.txt")
    good("convert", made / "encoder", large)
    good("quantize", large, small, "--type", "INT8-block", "--block", "16", "--keep", "*Gather*")
    said = good("eval", small, large, "--reference", large, *brief)
    assert "| mean cosine |" in said and "1.0000 | 1.0000" in said.splitlines()[3] and "Reference: large." in said
    asked = limits(tmp_path, "min_cosine = 0.9\n")
    assert "min_cosine" in good("certify", small, "--limits", asked, "--reference", large)
    good("add", small)
    before = manifest.read(data / "models" / "small" / "manifest.toml")
    good("certify", "small", "--limits", asked, "--reference", large / "model.onnx", *brief)
    assert good("verify", "small"), "a certificate is no file that must not change"
    after = manifest.read(data / "models" / "small" / "manifest.toml")
    assert {file.path for file in before.files} - {file.path for file in after.files} <= {"certificate.json"}

    odd = tmp_path / "odd"
    shutil.copytree(large, odd)
    (odd / "config.json").write_text('{"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}')
    refused(
        (("eval", odd, *brief), 65, "does not compute as an ONNX classifier does"),
        (("eval", small, odd), 64, "small is an ONNX embedder, odd is an ONNX classifier"),
        (("eval", small, made / "tiny.gguf"), 64, "small is an ONNX embedder, tiny.gguf is a text generator"),
        (("quantize", small, tmp_path / "x", "--type", "int8"), 64, "quantized already"),
        (("quantize", large, tmp_path / "x", "--type", "Q4_0"), 64, "for GGUF files"),
        (("quantize", large, tmp_path / "x", "--type", "int8", "--output", "F16"), 64, "--output is for GGUF files"),
        (("quantize", large, tmp_path / "x", "--type", "int8", "--keep", "nothing"), 64, "'nothing'"),
        (("eval", large, "--picture", tmp_path / "x"), 64, "A picture is drawn of text generators"),
        (("eval", large, "--context", 99), 64, "for models that write"),
        (("certify", large, "--limits", asked), 64, "--reference"),
        (("certify", large, "--limits", limits(data, "min_top1 = 1\n")), 64, "Its limits are min_cosine"),
    )
    assert not (tmp_path / "x").exists()


# -- distilling ------------------------------------------------------------------------------------


def answers(folder: Path, form: str) -> tuple[Path, Path]:
    """(questions, what a teacher answered)."""
    pairs = [(question.format(item), form.format(item=item, colour=colour)) for item, colour in COLOURS.items() for question in FORMS]
    (folder / "questions.txt").write_text("\n".join(question for question, _ in pairs))
    (folder / "answers.jsonl").write_text("\n".join(json.dumps({"prompt": question, "answer": answer}) for question, answer in pairs))
    return folder / "questions.txt", folder / "answers.jsonl"


def test_answers_become_a_model_that_can_be_added_and_used(tmp_path):
    asked, answered = answers(tmp_path, "Item {item} is {colour}.")
    out = tmp_path / "student"
    done = run("distil", asked, out, "--answers", answered, "--steps", 20, *SMALL)
    assert done.returncode == 0 and "train 20 of 20" in done.stderr and "chosen: student-" in done.stdout, done.stderr
    good("add", out)
    assert good("use", "student")
    lost = run("distil", asked, tmp_path / "other", "--teacher", "tiny-teacher", "--steps", 20, *SMALL)
    assert lost.returncode == 66 and "appliance models list" in lost.stderr
    strict = run("distil", asked, out, "--answers", answered, "--steps", 20, *SMALL, "--limits", limits(tmp_path, "min_top1 = 2\n"))
    assert strict.returncode == 64 and "No file passes the limits" in strict.stderr and "train 20" not in strict.stderr


def test_labels_become_a_classifier_whose_accuracy_is_measured(tmp_path):
    asked, labelled = answers(tmp_path, "{colour}")
    out = tmp_path / "painter"
    assert "chosen: model.onnx" in good("distil", asked, out, "--answers", labelled, "--labels", "--steps", 150, "--learning-rate", "0.01", "--dropout", 0, *SMALL)
    found = json.loads(good("eval", out, "--labels", labelled, "--json"))
    assert found["kind"] == "ONNX classifier" and found["models"][0]["accuracy"] > 0.8
    asked = limits(tmp_path, 'min_accuracy = 0.8\n[[golden]]\nprompt = "What colour is item alpha?"\nmust_contain = "red"\n')
    assert good("certify", out, "--limits", asked, "--labels", labelled).count(" yes") == 2
    without_labels = run("certify", out, "--limits", asked)
    assert without_labels.returncode == 64 and "--labels" in without_labels.stderr
    labelled.write_text('{"prompt": "x", "answer": "purple"}\nnonsense\n')
    wrong = run("eval", out, "--labels", labelled)
    assert wrong.returncode == 64 and "'purple' is no label" in wrong.stderr and "line 2: not JSON" in wrong.stderr and "blue" in wrong.stderr


# -- what cannot be done ---------------------------------------------------------------------------


def test_what_cannot_be_done_is_said_in_a_sentence(made, tmp_path):
    cases = [
        ("convert nowhere x.gguf", 66, "There is no folder nowhere"),
        ("convert nowhere x", 66, "There is no nowhere/config.json"),
        ("convert {made}/encoder {made}/tiny.gguf", 64, "exists already"),
        ("convert {made}/encoder {tmp}/no/x", 64, "There is no folder"),
        ("convert {made}/encoder {tmp}/x.gguf --task feature-extraction", 64, "--task is for ONNX"),
        ("convert {made}/encoder {tmp}/x --name y", 64, "--name is for GGUF"),
        ("convert {made}/encoder {tmp}/x --to pdf", 64, "invalid choice"),
        ("convert {made}/encoder {tmp}/x.gguf", 65, "cannot spell"),
        ("quantize {made}/tiny.gguf {tmp}/x.gguf", 64, "--type"),
        ("quantize {made}/tiny.gguf {tmp}/x.gguf --type Q7", 64, "Q4_K_M"),
        ("quantize {made}/tiny.gguf {tmp}/x.gguf --type int8", 64, "for ONNX models"),
        ("quantize {made}/tiny.gguf {tmp}/x.gguf --type Q8_0 --block 32", 64, "--block is for ONNX"),
        ("quantize {made}/tiny.gguf {tmp}/x.gguf --type Q8_0 --output int8", 64, "output"),
        ("quantize {made}/encoder {tmp}/x --type int8", 66, "no model.onnx"),
        ("quantize {made}/decoder/config.json {tmp}/x --type Q8_0", 65, "not a GGUF file"),
        ("eval nothing", 66, "appliance models list"),
        ("eval {made}/tiny.gguf --reference {made}/lost.gguf", 66, "lost.gguf"),
        ("eval {made}/tiny.gguf --text {tmp}/nothing.txt", 66, "There is no text"),
        ("eval {made}/tiny.gguf --text {made}/tiny.gguf", 64, "not UTF-8"),
        ("eval {made}/tiny.gguf --text {made}/short.txt", 64, "Give a longer text"),
        ("eval {made}/tiny.gguf --context 257", 64, "was trained for 256"),
        ("eval {made}/tiny.gguf --labels {made}/decoder/config.json", 64, "for ONNX classifiers"),
        ("eval {made}/tiny.gguf --picture {tmp}/no/x.svg", 64, "There is no folder"),
        ("certify {made}/tiny.gguf", 64, "--limits"),
        ("certify {made}/tiny.gguf --limits {tmp}/no.toml", 66, "no.toml"),
        ("certify {made}/tiny.gguf --limits {made}/tiny.gguf", 78, "TOML"),
        ("distil {tmp}/q.txt {tmp}/x --answers {tmp}/a.jsonl", 66, "q.txt"),
        ("distil {made}/decoder/config.json {tmp}/x", 64, "required"),
        ("distil {made}/decoder/config.json {tmp}/x --teacher a --answers b", 64, "not allowed with"),
        ("distil {made}/decoder/config.json {tmp}/x --teacher ftp://host --teacher-model m", 64, "no address"),
        ("distil {made}/decoder/config.json {tmp}/x --answers a --steps 0", 64, "no whole number from 1"),
        ("distil {made}/decoder/config.json {tmp}/x --answers a --learning-rate nan", 64, "no number above 0"),
    ]
    refused(*((tuple(words.format(made=made, tmp=tmp_path).split(" ")), code, told) for words, code, told in cases))
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.gguf").exists() and not (made / "certificate.json").exists()


def test_limits_that_cannot_be_judged_are_refused_before_anything_is_measured(made, tmp_path):
    cases = [
        ("", 78, "sets no limit"),
        ("max_kl = 0.1\n", 64, "--reference"),
        ("min_cosine = 1\n", 64, "cannot be measured of tiny.gguf, a text generator"),
        ("golden = 5\nmax_k = 1\n", 78, "Did you mean max_kl?"),
    ]
    for number, (text, _, _) in enumerate(cases):
        (tmp_path / str(number)).mkdir()
        limits(tmp_path / str(number), text)
    refused(*(
        (("certify", made / "tiny.gguf", "--limits", tmp_path / str(number) / "limits.toml"), code, told) for number, (_, code, told) in enumerate(cases)
    ))


def test_a_full_disk_leaves_nothing_that_looks_like_a_model(made, tmp_path):
    for arguments in (
        ("convert", made / "decoder", tmp_path / "x.gguf"),
        ("quantize", made / "tiny.gguf", tmp_path / "x.gguf", "--type", "Q8_0"),
    ):
        done = run(*arguments, prefix=("prlimit", "--fsize=4096"))
        assert done.returncode == 74 and "dmesg" in done.stderr, done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name != "data"]


def test_ctrl_c_ends_the_work_at_once_without_a_word(made, tmp_path):
    (tmp_path / "long.txt").write_text(measure.read_text(None) * 100)
    for arguments in (("eval", made / "tiny.gguf", "--text", tmp_path / "long.txt"), ("convert", made / "encoder", tmp_path / "x")):
        words = [sys.executable, "-m", "appliance.cli", "models", *map(str, arguments)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
            wait_until(lambda p=process: b"tiny.gguf" in Path(f"/proc/{p.pid}/maps").read_bytes() or list(tmp_path.glob(".x.*")))
            process.send_signal(signal.SIGINT)
            said, told = process.communicate(timeout=30)
        assert (process.returncode, said, told) == (130, "", "")
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == ["long.txt"]
