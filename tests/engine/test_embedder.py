"""The embedder that comes with the appliance: it knows what means the same, and its papers are about this very file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes import ROOT

from appliance import integrity, manifest
from appliance.factory import certify, embedder
from appliance.factory.evaluate_onnx import Runner, longest_of

pytestmark = pytest.mark.engine
FOLDER = ROOT / "models" / embedder.NAME
ALIKE = [
    ("How do I restart the server?", "What is the way to start the service again?"),
    ("My disk is full, what can I delete?", "There is no space left on the drive."),
    ("How can I add a new user?", "I want to create an account for somebody."),
    ("Which models can I use?", "What language models are available?"),
    ("The answers come very slowly.", "Why does it take so long to reply?"),
    ("Can you make a backup?", "How do I save a copy of all my data?"),
]


@pytest.fixture(scope="module")
def runner() -> Runner:
    """The shipped model, opened once."""
    return Runner(FOLDER, threads=1)


def test_sentences_that_mean_the_same_are_nearer_than_strangers(runner):
    left, right = (np.concatenate([runner.embed([pair[side]]) for pair in ALIKE]) for side in (0, 1))
    assert left.shape == (len(ALIKE), 384)
    assert np.allclose(np.linalg.norm(left, axis=1), 1, atol=1e-5)
    near = left @ right.T
    assert (near.argmax(axis=1) == np.arange(len(ALIKE))).all() and (near.argmax(axis=0) == np.arange(len(ALIKE))).all()
    strangers = near[~np.eye(len(ALIKE), dtype=bool)]
    assert np.diag(near).mean() > strangers.mean() + 0.3


def test_a_long_text_is_cut_where_the_model_ends(runner):
    longest = longest_of(FOLDER, runner.config)
    assert manifest.read(FOLDER / "manifest.toml").context_tokens == longest == 256
    _, mask = runner.run(["word " * 1000])
    assert mask.shape == (1, longest)


def test_manifest_report_card_and_certificate_are_about_this_file():
    paper = manifest.read(FOLDER / "manifest.toml")
    integrity.check(FOLDER, paper, integrity.HashCache(None), full=True)
    assert (paper.name, paper.task, paper.format, paper.licence) == (embedder.NAME, "embed", "onnx", "apache-2.0")
    report = json.loads((FOLDER / "report.json").read_text("utf-8"))
    assert report["model_sha256"] == paper.main.sha256 and report["weights_sha256"] == embedder.WEIGHTS_SHA256
    assert (FOLDER / "README.md").read_text("utf-8") == embedder.card(report, paper.context_tokens)
    assert "TERMS AND CONDITIONS" in (FOLDER / "LICENSE").read_text("utf-8")
    certificate = json.loads((FOLDER / certify.CERTIFICATE).read_text("utf-8"))
    assert certify.certified(FOLDER, paper.main.sha256, report["cpu"]) is None
    assert certificate["measured"]["cosine"] == report["score"]["mean_cosine"]
    assert [(v["name"], v["passed"]) for v in certificate["verdicts"]] == [("min_cosine", True)]


def test_the_report_reaches_what_was_asked_of_the_model():
    report = json.loads((FOLDER / "report.json").read_text("utf-8"))
    score = report["score"]
    assert score["sentences"] == 1000 and score["mean_cosine"] >= 0.97
    assert score["costs"]["size_ratio"] <= 1 / 3.5
    assert score["costs"]["candidate_bytes"] == (FOLDER / "model.onnx").stat().st_size
    assert all(speed["ratio"] > 1 for speed in score["speed"])
