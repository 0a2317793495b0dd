"""GGUF files and ONNX folders measured side by side, each in a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import llama_cpp as lib
import numpy as np
import pytest
import tiny_model
from real_engine import present

from appliance.cli.measure import GENERATOR, kind_of, read_text
from appliance.cli.workbench import Subject
from appliance.errors import InvalidRequest
from appliance.factory import convert_decoder, evaluate
from appliance.factory.prompts import Prompt
from appliance.factory.teacher import GgufTeacher

TEXT = read_text(None)
POSITIONS = 500
LLAMAS_OWN = {"as served": {}, "plain weights": {"repacked": False}, "flash attention": {"flash_attn": "on"}}
"""Ways of llama.cpp to compute the same file."""


@pytest.fixture(autouse=True)
def one_cpu() -> Iterator[None]:
    """Where others compute, threads would only wait for each other."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def both(model, model_folder):
    """A GGUF file by its name, and the same as ONNX."""

    def made(name: str) -> tuple[Path, Path]:
        folder = model_folder / f"{name}-onnx"
        if not folder.exists():
            convert_decoder.convert(model(name), folder)
        return model(name), folder

    return made


def text_for(path: Path, context: int) -> str:
    """As much of the text as gives POSITIONS and a few."""
    with evaluate.Apart(path, context) as opened:
        tokens = len(opened.backend.tokenize(TEXT, add_special=True, parse_special=False))
    windows = POSITIONS // (context // 2 - 1) + 1
    return TEXT[: int(len(TEXT) * min(1.0, (windows + 0.5) * context / tokens))]


def by_llama(path: Path, text: str, context: int, patch, *, repacked: bool = True, flash_attn: str = "off") -> np.ndarray:
    """Log probabilities at all positions that count [positions, vocabulary]."""
    usual = lib.llama_model_default_params

    def params() -> lib.llama_model_params:
        found = usual()
        found.use_extra_bufts = repacked
        return found

    with patch.context() as patched:
        patched.setattr(lib, "llama_model_default_params", params)
        with evaluate.Apart(path, context, flash_attn=flash_attn) as opened:
            cut = opened.call(evaluate.windows, opened.backend, text, context)
            return np.array([row for window in cut for _, row in opened.each(evaluate.log_probabilities(opened.backend, window))])


def kl(first: np.ndarray, second: np.ndarray) -> float:
    return float((np.exp(first) * (first - second)).sum(axis=1).mean())


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
def test_a_converted_model_is_as_near_to_its_gguf_as_llama_cpps_own_kernels_are_to_each_other(both, kind, monkeypatch):
    """All round activations to 8 bits; whatever comes before in a last place, such as an attention that rounds its sums to 16
    bits, rounds some of them the other way. So flash attention, on or off, is the measure; weights repacked or not leave
    attention as it is, bit by bit, and what they change is several times less."""
    real = f"tinystories-{kind}"
    for name, context, least in (("tiny-bpe-" + kind, 256, 0.94), *([(real, 512, 0.97)] if real in present() else [])):
        path, folder = both(name)
        text = text_for(path, context)
        score = evaluate.score(folder, text, context=context, reference=path)
        first, *others = (by_llama(path, text, context, monkeypatch, **how) for how in LLAMAS_OWN.values())
        among_themselves = [kl(first, other) for other in others]
        told = f"{name}: KL {score.kl:.6f}, top-1 {score.top1:.4f}; llama.cpp {among_themselves}"
        assert score.positions == len(first) >= POSITIONS
        assert score.top1 >= least, told
        assert score.kl <= 3 * max(among_themselves), told


def test_either_may_be_the_reference_and_neither_disturbs_the_other(both):
    gguf, onnx = both("tiny-bpe-f32")
    text = text_for(gguf, 128)
    scores = [evaluate.score(path, text, context=128, reference=other) for path, other in ((gguf, onnx), (onnx, gguf), (onnx, onnx), (gguf, onnx))]
    first, second, itself, again = scores
    assert [score.name for score in scores] == [gguf.name, onnx.name, onnx.name, gguf.name]
    assert first.positions == second.positions >= POSITIONS
    for score in (first, second, again):
        assert score.kl < 1e-4 and score.top1 > 0.98, "one of them computed nonsense"
    assert itself.kl == 0 and itself.top1 == 1 and itself.perplexity == second.perplexity
    assert first.perplexity == pytest.approx(second.perplexity, rel=1e-3)
    assert second.size_bytes == sum(path.stat().st_size for path in onnx.glob("model.onnx*"))
    assert all(score.tokens_per_s_1 > 0 and score.tokens_per_s_8 > 0 for score in scores)
    table = evaluate.table(scores[:2]).splitlines()
    assert table[0].startswith("| model | size MB |") and [row.split()[1] for row in table[2:]] == [gguf.name, onnx.name]


def test_models_with_other_vocabularies_are_not_compared(both):
    with pytest.raises(InvalidRequest, match="different vocabularies"):
        evaluate.score(both("tiny-bpe-f32")[0], TEXT, context=128, reference=both("tiny-spm-q4_0")[1])


def test_an_onnx_folder_answers_as_the_gguf_does(tmp_path):
    convert_decoder.convert(tiny_model.write_parrot(tmp_path / "parrot.gguf", "Hey, guv"), tmp_path / "parrot")
    for path in (tmp_path / "parrot.gguf", tmp_path / "parrot"):
        teacher = GgufTeacher(path)
        try:
            assert teacher.answer(Prompt("Who?")).text == "Hey, guv"
        finally:
            teacher.close()


def test_a_folder_of_onnxruntime_genai_is_a_text_generator_without_a_config(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    (tmp_path / "genai_config.json").write_text("{}")
    assert kind_of(Subject("m", tmp_path, tmp_path / "model.onnx")) == GENERATOR
