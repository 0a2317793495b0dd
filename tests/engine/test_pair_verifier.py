"""The pair verifier's recipe on a network of a few thousand weights: every phase, and the paper at its end."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from fakes import ROOT

from appliance import catalog, integrity
from appliance.errors import InvalidRequest
from appliance.factory import pair_verifier, verifier_papers
from appliance.factory.question_pairs import Labelled
from appliance.factory.verifier import calibrate

LETTERS = "abcdefghijklmnopqrstuvwxyz"

pytestmark = pytest.mark.apart


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(work folder, report) of a training of three steps."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("verifier")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *[f"##{letter}" for letter in LETTERS], "how", "the", "is"]
    (folder / "vocab.txt").write_text("\n".join(words))
    weights = folder / "weights"
    BertModel(BertConfig(vocab_size=len(words), hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)).save_pretrained(weights)
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(weights)
    pairs = folder / "pairs.jsonl"
    rows = [{"a": f"how is the {a}", "b": f"{b} {a}", "same": int(b == "how is")} for a in LETTERS for b in ("how is", "the is")]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = folder / "data"
    data.mkdir()
    for path in (ROOT / "models" / "pair-verifier-int8" / "data").glob("*.toml"):
        shutil.copyfile(path, data / path.name)
    groups = [{"same": [f"open {n} please", f"how to open {n}"], "other": [f"how to close {n}", f"how to open {n + 1}"]} for n in range(20)]
    (data / "written-x.jsonl").write_text("".join(json.dumps(group) + "\n" for group in groups))
    before, pair_verifier.GENERATED = pair_verifier.GENERATED, 60
    try:
        report = pair_verifier.make(weights, pairs, folder / "work", data, replace(pair_verifier.TRAINING, steps=3, batch=8, save_every=2))
    finally:
        pair_verifier.GENERATED = before
    return folder / "work", report


def test_the_report_says_what_was_learned_from_and_measured(made):
    work, report = made
    assert json.loads((work / "report.json").read_text())["int8"] == report["int8"]
    assert report["generated"] == 60 and report["real"] > 20 and set(report["int8"]) == set(report["float32"]) == {"real", "written"}
    assert {"0.8", "0.9", "0.95"} == set(report["int8"]["written"]["with_gates"])
    assert all(0.0005 <= row["wrong"] <= 1 and 0 <= row["hits"] <= 1 for row in report["wrong_hits"].values())


def test_what_the_gate_refuses_is_not_written(made, tmp_path):
    work, report = made
    poor = report | {"wrong_hits": {"0.9": {"hits": 0.9, "wrong": 0.02}, "0.99": {"hits": 0.1, "wrong": 0.001}}}
    with pytest.raises(InvalidRequest, match="not shipped"):
        verifier_papers.write(work / "model", tmp_path / "pair-verifier-int8", poor)
    assert not (tmp_path / "pair-verifier-int8").exists()


def test_what_it_lets_through_is_a_model_of_the_catalog(made, tmp_path):
    work, report = made
    good = report | {"wrong_hits": {"0.9": {"hits": 0.9, "wrong": 0.009}}}
    folder = tmp_path / "pair-verifier-int8"
    (folder / "data").mkdir(parents=True)
    verifier_papers.write(work / "model", folder, good)
    model = catalog.CatalogModel(folder.name, folder, True, catalog.manifest.read(folder / "manifest.toml"))
    integrity.check(folder, model.readable(), integrity.HashCache(None))
    assert model.readable().task == "rerank" and (folder / "data").is_dir()
    assert json.loads((folder / "calibration.json").read_text()) == {"wrong_hits": {"0.9": 0.009}}
    assert "90.0%" in (folder / "README.md").read_text()


def test_calibration_finds_the_weighing_that_made_the_labels():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (20_000, 2)).astype(np.float32)
    same = rng.random(20_000) < 1 / (1 + np.exp(-(logits @ [0.5, 0.2] - 1)))
    found = calibrate(logits, same)
    assert found.by == pytest.approx((0.5, 0.2), abs=0.03) and found.plus == pytest.approx(-1, abs=0.06)


def test_wrong_hits_are_a_share_of_hits_where_half_are_opposites():
    pairs = [Labelled("a", "b", True)] * 50 + [Labelled("a", "c", False)] * 200
    scores = np.array([0.95] * 40 + [0.5] * 10 + [0.95] * 20 + [0.1] * 180)
    found = pair_verifier.wrong_hits(scores, pairs, np.ones(250, bool))
    assert found["0.9"] == {"hits": 0.8, "wrong": pytest.approx(0.1 / 0.9)}
    refused = pair_verifier.wrong_hits(scores, pairs, np.array([True] * 50 + [False] * 200))
    assert refused["0.9"] == {"hits": 0.8, "wrong": pair_verifier.FEWEST_WRONG}
