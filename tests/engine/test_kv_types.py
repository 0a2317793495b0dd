"""Number types of the KV cache and flash attention: all combinations that exist load and compute the same thing."""

from __future__ import annotations

import numpy as np
import pytest
from real_engine import RealDrive, opened, present, teacher_forced, words

from appliance.errors import ModelFileError

COMBINATIONS = [(k, v, f) for k in ("f16", "q8_0", "q4_0") for v in ("f16", "q8_0", "q4_0") for f in ("auto", "on", "off")
                if v == "f16" or f != "off"]  # fmt: skip
AGREEMENT = {"f16": 0.97, "q8_0": 0.85, "q4_0": 0.4}
"""Share of positions whose best token is the one of an exact cache. By chance it would be 0.004."""


@pytest.mark.parametrize(("type_k", "type_v", "flash"), COMBINATIONS)
def test_every_kv_type_computes_nearly_what_f16_computes(model, type_k, type_v, flash):
    path = model("tiny-bpe-f32")
    with opened(path, flash_attn="off") as backend:
        tokens = backend.tokenize(words(3, 60), add_special=True, parse_special=False)
        exact = teacher_forced(backend, tokens).argmax(axis=1)
    with opened(path, type_k=type_k, type_v=type_v, flash_attn=flash) as backend:
        agreement = np.mean(teacher_forced(backend, tokens).argmax(axis=1) == exact)
        expected_bytes = {"f16": 64, "q8_0": 34, "q4_0": 18}
        assert backend.info.kv_bytes == 4 * 256 * 2 * (expected_bytes[type_k] + expected_bytes[type_v])
        drive = RealDrive(backend, store_bytes=1_000_000)
        answers = [drive.answer(words(4, 40), max_tokens=20), drive.answer(words(4, 40) + " the", max_tokens=20)]
    assert agreement >= min(AGREEMENT[type_k], AGREEMENT[type_v])
    assert all(answers)


def test_quantized_values_without_flash_attention_are_refused_in_words(model):
    with pytest.raises(ModelFileError, match="context"), opened(model("tiny-bpe-f32"), type_v="q8_0", flash_attn="off"):
        pass


if "stories" in present():  # else there is nothing to test, and nothing to be skipped

    @pytest.mark.parametrize("type_k", ["q8_0", "q4_0"])
    def test_heads_too_small_for_a_quantized_cache_are_refused_in_words(model, type_k):
        # stories260K has heads of 8 numbers, a quantized block has 32. Without flash attention a block may span heads.
        with pytest.raises(ModelFileError, match="cache types"), opened(model("stories"), type_k=type_k, flash_attn="on"):
            pass


@pytest.mark.parametrize("sequences", [1, 3, 16])
def test_the_kv_space_is_what_was_asked_for(model, sequences):
    with opened(model("tiny-bpe-f32"), sequences=sequences, context_tokens=100) as backend:
        info = backend.info
        assert (info.context_tokens, info.kv_tokens, info.trained_context_tokens) == (100, 100 * sequences, 256)
        tokens = backend.tokenize(words(1, 200), add_special=True, parse_special=False)[:99]
        drive = RealDrive(backend, batch_tokens=64)
        ids = [drive.generate(tokens[i:] + tokens[:i]) for i in range(sequences)]
        drive.run()
    assert all(sum(drive.ended[i][1:3]) == 100 for i in ids)


def test_settings_smaller_than_the_model_needs_are_not_fatal(model):
    with opened(model("tiny-bpe-f32"), context_tokens=8, sequences=1, batch_tokens=8) as backend:
        drive = RealDrive(backend, batch_tokens=8)
        assert drive.answer([3, 4, 5], max_tokens=50) is not None
        request_id = next(iter(drive.ended))
        assert sum(drive.ended[request_id][1:3]) == 8
