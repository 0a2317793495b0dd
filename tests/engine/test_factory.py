"""Quantizing and measuring with real GGUF files that the tests write."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_model

from appliance.engine.backend import Piece
from appliance.errors import InvalidRequest, ModelFileError
from appliance.factory import chart, evaluate, quantize

pytestmark = pytest.mark.engine
TEXT = "The box answers questions. It keeps what it learned, and it forgets what it must. " * 40


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A random model with f16 weights."""
    path = tmp_path_factory.mktemp("factory") / "original.gguf"
    tiny_model.write_random(path, kind="f16")
    return path


def test_perplexity_is_that_of_teacher_forcing_over_the_second_half_of_each_window(original):
    backend = evaluate.load(original, 64, threads=1)
    cut = evaluate.windows(backend, TEXT, 64)[:3]
    found = [-row[window[at + 1]] for window in cut for at, row in evaluate.log_probabilities(backend, window)]
    expected = []
    for window in cut:
        for at in range(32, 63):
            backend.trim(0, 0)
            [row] = backend.decode([Piece(0, 0, window[: at + 1].tolist(), "last")])
            wide = row.astype(np.float64)
            expected.append(math.log(np.exp(wide - wide.max()).sum()) + wide.max() - wide[window[at + 1]])
    backend.close()
    assert len(found) == len(expected) == 3 * 31
    assert np.allclose(found, expected, atol=2e-2)


def test_a_file_agrees_with_itself_and_a_coarser_one_less(original, tmp_path):
    small = tmp_path / "q4.gguf"
    quantize.quantize(original, small, "Q4_0")
    same, coarse = (evaluate.score(p, TEXT, context=64, reference=original) for p in (original, small))
    assert same.kl == pytest.approx(0.0, abs=1e-6) and same.top1 == 1.0
    assert coarse.kl is not None and coarse.kl > same.kl and coarse.size_bytes < same.size_bytes
    assert coarse.tokens_per_s_8 > 0 and coarse.positions == same.positions
    assert evaluate.table([same, coarse]).count("\n") == 3
    picture = chart.svg([same, coarse])
    assert picture.count("<circle") == 2 and "q4.gguf" in picture


def test_the_output_tensor_can_be_kept_finer(original, tmp_path):
    plain, finer = tmp_path / "plain.gguf", tmp_path / "finer.gguf"
    quantize.quantize(original, plain, "Q4_0", output="Q4_0")
    quantize.quantize(original, finer, "Q4_0", output="F16")
    assert finer.stat().st_size > plain.stat().st_size


def test_what_cannot_be_quantized_is_told_and_leaves_nothing(original, tmp_path):
    text = tmp_path / "notes.gguf"
    text.write_text("no model")
    with pytest.raises(ModelFileError):
        quantize.quantize(text, tmp_path / "out.gguf", "Q4_0")
    with pytest.raises(InvalidRequest) as raised:
        quantize.quantize(original, tmp_path / "out.gguf", "Q3")
    assert "Q4_K_M" in str(raised.value)
    (tmp_path / "there.gguf").write_bytes(b"precious")
    with pytest.raises(InvalidRequest):
        quantize.quantize(original, tmp_path / "there.gguf", "Q4_0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.gguf", "there.gguf"]


def test_a_short_text_is_refused_with_the_number_of_tokens(original):
    with pytest.raises(InvalidRequest) as raised:
        evaluate.score(original, "too short", context=64)
    assert "128 are needed" in str(raised.value)
