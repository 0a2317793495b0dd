"""The acceptance gate: what passes, what does not, and what a certificate is bound to."""

from __future__ import annotations

import json

import pytest

from appliance.errors import ConfigError, InvalidRequest
from appliance.factory import certify
from appliance.factory.certify import Golden, Limits, Measured

GOOD = Measured(perplexity_rise=0.01, kl=0.02, top1=0.97, tokens_per_s=40.0)


def limits(tmp_path, text: str):
    path = tmp_path / "limits.toml"
    path.write_text(text)
    return path


def test_every_limit_is_judged_and_the_border_passes():
    verdicts = certify.judge(Limits(0.01, 0.02, 0.97, 40.0), GOOD)
    assert [v.name for v in verdicts] == ["max_perplexity_rise", "max_kl", "min_top1", "min_tokens_per_s"]
    assert all(v.passed for v in verdicts)
    assert not any(v.passed for v in certify.judge(Limits(0.009, 0.019, 0.98, 41.0), GOOD))


def test_a_figure_that_was_not_measured_fails_its_limit():
    [verdict] = certify.judge(Limits(max_kl=1.0), Measured(None, None, None, 1.0))
    assert not verdict.passed and verdict.measured == "not measured"


def test_embedders_and_classifiers_have_limits_of_their_own(tmp_path):
    wanted = certify.read_limits(limits(tmp_path, "min_cosine = 0.97\nmin_accuracy = 0.9\n"))
    verdicts = certify.judge(wanted, Measured(cosine=0.97, accuracy=0.89))
    assert [(v.name, v.passed) for v in verdicts] == [("min_cosine", True), ("min_accuracy", False)]
    assert [v.measured for v in certify.judge(wanted, GOOD)] == ["not measured"] * 2
    [verdict] = certify.judge(Limits(min_tokens_per_s=1.0), Measured(cosine=1.0))
    assert not verdict.passed, "a speed that was not measured is not a good one"


def test_a_golden_prompt_must_be_answered_with_its_text():
    wanted = Limits(golden=(Golden("2+2?", "4"), Golden("hello", "hi")))
    verdicts = certify.judge(wanted, Measured(None, None, None, 1.0, ("It is 4.", "goodbye")))
    assert [v.passed for v in verdicts] == [True, False]


def test_all_mistakes_in_the_limits_are_told_at_once(tmp_path):
    path = limits(tmp_path, 'max_k = 1\nmin_top1 = "high"\n[[golden]]\nprompt = "a"\n')
    with pytest.raises(ConfigError) as raised:
        certify.read_limits(path)
    words = str(raised.value)
    assert "Did you mean max_kl?" in words and "min_top1 = 'high' is not a number" in words and "golden prompt 1" in words


def test_limits_are_read_with_their_golden_prompts(tmp_path):
    found = certify.read_limits(limits(tmp_path, 'max_kl = 1\n[[golden]]\nprompt = "a"\nmust_contain = "b"\n'))
    assert found == Limits(max_kl=1.0, golden=(Golden("a", "b"),))


def test_a_certificate_is_bound_to_the_file_and_the_processor(tmp_path):
    model = tmp_path / "m.gguf"
    model.write_bytes(b"weights")
    assert certify.certified(tmp_path, "", "cpu") == "it has no certificate"
    verdicts = certify.judge(Limits(max_kl=1.0), GOOD)
    certify.write_certificate(tmp_path, model, "cpu", GOOD, verdicts, "2026-11-22")
    assert certify.certified(tmp_path, certify.sha256(model), "cpu") is None
    assert "another processor" in str(certify.certified(tmp_path, certify.sha256(model), "other"))
    model.write_bytes(b"weightz")
    assert certify.certified(tmp_path, certify.sha256(model), "cpu") == "its certificate is for another file"
    (tmp_path / certify.CERTIFICATE).write_text(json.dumps([]))
    assert certify.certified(tmp_path, "", "cpu") == "its certificate cannot be read"


def test_a_certificate_of_an_onnx_model_is_bound_to_the_weights_beside_the_graph_too(tmp_path):
    graph, weights = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    graph.write_bytes(b"graph")
    weights.write_bytes(b"weights")
    certify.write_certificate(tmp_path, graph, "cpu", GOOD, certify.judge(Limits(max_kl=1.0), GOOD), "2026-11-22")
    assert certify.certified(tmp_path, certify.sha256(graph), "cpu") is None
    weights.write_bytes(b"weightz")
    assert certify.certified(tmp_path, certify.sha256(graph), "cpu") == "its certificate is for another file"
    weights.unlink()
    assert certify.certified(tmp_path, certify.sha256(graph), "cpu") == "its certificate is for another file"


def test_a_model_that_fails_gets_no_certificate_and_keeps_none_of_it(tmp_path):
    model = tmp_path / "m.gguf"
    model.write_bytes(b"weights")
    with pytest.raises(InvalidRequest) as raised:
        certify.write_certificate(tmp_path, model, "cpu", GOOD, certify.judge(Limits(max_kl=0.001), GOOD), "2026-11-22")
    assert "max_kl is 0.02, the limit is 0.001" in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]
