"""The starter's whole way in small: read, write, export, quantize, ask; and the shipped starter's papers."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import pytest
import torch
import transformers

from appliance import manifest
from appliance.catalog import shipped_folder
from appliance.errors import InvalidRequest
from appliance.factory import certify, questions, starter, starter_lessons, starter_papers, tutor, words

pytestmark = pytest.mark.engine
EMBEDDER = shipped_folder() / "minilm-l6-int8"
ANSWERS = {"stop": "Press Ctrl-C.", "add": "Put the file into the models folder.", "cost": "It is free."}
PATTERNS = {
    "stop": "(how do I|how to|please) (stop|end|halt) (it|the box)",
    "add": "(how do I|how to|please) (add|install|bring in) (a|another) model",
    "cost": "(what is the|tell me the) (price|cost) [of it]",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three intents and the refusal."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"id": i, "topic": i, "answer": a, "questions": [f"{i} it"], "patterns": [PATTERNS[i]], "held_out": [f"{i} it now"]}
        for i, a in ANSWERS.items()
    ]
    rows.append({"id": "unknown", "topic": "x", "answer": "I do not know.", "questions": ["paint a fish", "who won", "please paint", "paint the fish"], "held_out": ["please paint a fish"]})
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tutor that knows nothing yet, with the words of the shipped embedder."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=30522)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(EMBEDDER / name, folder / name)
    return folder


def test_the_whole_way_gives_files_that_answer_and_a_report(data, weights, tmp_path, capfd):
    shape = replace(starter.SHAPE, vocabulary=400, layers=1, ffn=128, context=160)
    reading = tuple(replace(recipe, steps=steps, batch=16, warmup=5, dropout=0.0) for recipe, steps in zip(starter.READING, (40, 10, 10, 10), strict=True))
    speaking = replace(starter.SPEAKING, steps=60, batch=16, warmup=5, learning_rate=1e-3)
    tutoring = replace(starter_lessons.TUTORING, steps=60, batch=16, warmup=5, learning_rate=1e-2)
    course = starter.Course(weights, tutoring, 300, reading, speaking)
    report = starter.make(data, tmp_path / "out", EMBEDDER, shape, course)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(json.dumps(report))
    assert set(report["files"]) == {"starter-f32.gguf", "starter-q8_0.gguf", "starter-q4_0.gguf"}
    for name in ("starter-f32.gguf", "starter-q8_0.gguf"):
        figures = report["files"][name]
        assert figures["in_scope"] == 1.0 and figures["questions"] == {"in_scope": 3, "out_of_scope": 1}, figures["wrong"]
    assert report["onnx"]["in_scope"] == 1.0, report["onnx"]["wrong"]
    sizes = [figures["size_bytes"] for figures in report["files"].values()]
    assert sizes == sorted(sizes, reverse=True)
    told = capfd.readouterr().err
    assert "the tutor names {'in_scope': 1.0, 'out_of_scope': 1.0}" in told and "reading 1: step 40 of 40" in told
    assert starter.make(data, tmp_path / "out", EMBEDDER, shape, course)["files"] == report["files"]
    told = capfd.readouterr().err
    assert not any(what in told for what in ("tutoring:", "marking:", "reading 1:", "reading 2:", "speaking:")), "nothing is trained twice"
    starter.ship(tmp_path / "out", tmp_path / "models", report)
    for name in ("starter", "starter-onnx"):
        folder = tmp_path / "models" / name
        paper = manifest.read(folder / "manifest.toml")
        assert paper.name == name and certify.certified(folder, paper.main.sha256, json.loads((folder / "report.json").read_text())["cpu"]) is None
        if name == "starter-onnx":
            assert certify.sha256(tmp_path / "models" / "starter" / "starter.gguf") in json.loads((folder / "source.json").read_text())["sha256"]
        assert f"| {report['files']['starter-f32.gguf']['in_scope']:.1%} |" in (folder / "README.md").read_text()


def test_a_starter_that_answers_too_little_is_not_shipped(tmp_path):
    def figures(in_scope, size):
        return {"in_scope": in_scope, "out_of_scope": 0.9, "size_bytes": size}

    files = {"starter-f32.gguf": figures(0.9, 9), "starter-q8_0.gguf": figures(0.9, 5), "starter-q4_0.gguf": figures(0.87, 3)}
    assert starter_papers.choose({"files": files}) == "starter-q8_0.gguf"
    files["starter-q8_0.gguf"] = figures(0.84, 5)
    with pytest.raises(InvalidRequest) as refused:
        starter_papers.choose({"files": files})
    assert "starter-q4_0.gguf: max_lost_in_scope 0.0300 (limit 0.02)" in str(refused.value) and "min_in_scope 0.8400" in str(refused.value)


def test_an_answer_in_other_words_counts_a_garbled_one_does_not():
    pairs = [questions.Pair("q", "Press Ctrl-C to stop the service.", "stop")] * 2 + [questions.Pair("w", "No idea.", questions.UNKNOWN)]
    answers = ["To stop the service, press Ctrl-C.", "Press the free models.", "Press Ctrl-C."]
    figures = starter.judge(pairs, answers, starter.Runner(EMBEDDER).embed)
    assert (figures["in_scope"], figures["exact"], figures["out_of_scope"]) == (0.5, 0.0, 0.0)
    assert [row["answer"] for row in figures["wrong"]] == answers[1:]


def test_words_begin_near_words_of_like_meaning():
    tokenizer = words.learn([f" {w}" for w in ("erase", "delete", "banana", "weather")] * 9, 300)
    student = starter.Student(replace(starter.SHAPE, vocabulary=300, layers=1))
    starter.place_words(student, tokenizer, starter.Runner(EMBEDDER).embed)

    def place(word):
        [token] = tokenizer.encode(f" {word}").ids
        return student.embedding.weight[token].detach()

    def near(a, b):
        return float(starter.torch.nn.functional.cosine_similarity(place(a), place(b), dim=0))

    assert near("erase", "delete") > max(near("erase", "banana"), near("delete", "weather")) + 0.1


def test_the_data_is_sound_and_large_enough():
    intents = questions.read(shipped_folder() / "starter" / "data")
    trained = {questions.normalise(pair.question) for pair in questions.written(intents)}
    tested = questions.held_out(intents)
    assert len(trained) >= 3000 and len(tested) >= 500
    assert trained.isdisjoint(questions.normalise(pair.question) for pair in tested)
    assert sum(pair.intent == questions.UNKNOWN for pair in tested) >= 100
    rng = random.Random(1)
    examples = questions.Examples(intents, starter.REFUSAL_SHARE)
    tokens = [len(pair.question) for pair in (examples.draw(rng) for _ in range(500))]
    assert max(tokens) < 250


def test_texts_for_the_tutor_are_of_every_kind_and_never_a_held_out_question(data):
    intents = questions.read(data)
    near = {"it": ["server"], "model": ["machine"], "fish": ["trout"]}
    texts = tutor.Texts(intents, questions.Examples(intents, 0.1), near).make(150, random.Random(1))
    assert len(set(texts)) == 150
    secret = {questions.normalise(pair.question) for pair in questions.held_out(intents)}
    assert not secret & {questions.normalise(text) for text in texts}
    assert any("server" in text or "machine" in text for text in texts) and any(set(text.split()) <= near.keys() for text in texts)


def test_a_vague_question_has_several_right_answers(tmp_path):
    rows = [
        {"id": "fast", "topic": "t", "answer": "Use Q4_0.", "questions": ["speed"], "held_out": ["it is slow"], "also": {"it is slow": ["small"]}},
        {"id": "small", "topic": "t", "answer": "Take a smaller model.", "questions": ["size"]},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    (pair,) = questions.held_out(questions.read(tmp_path))
    assert pair.right == ("Use Q4_0.", "Take a smaller model.")
    figures = [starter.judge([pair], [answer]) for answer in ("take a smaller model", "use q4_0!", "Buy it.")]
    assert [(f["in_scope"], f["exact"]) for f in figures] == [(1.0, 0.0), (1.0, 1.0), (0.0, 0.0)]
    for also in ({"it is slow": ["none"]}, {"speed": ["small"]}):
        path.write_text("\n".join(map(json.dumps, [rows[0] | {"also": also}, rows[1]])))
        with pytest.raises(InvalidRequest, match="also: .* is not held out there, or names an intent that is not there"):
            questions.read(tmp_path)
