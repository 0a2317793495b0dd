"""ONNX decoders and encoders in a running service: the same API, the faster of two forms, and bad folders beside good models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_model
from served import command

from appliance.factory import convert_decoder

SAID = "The box is fin"  # no byte twice after the line end: see write_parrot


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """A model that says SAID, as X.gguf and X-onnx."""
    folder = tmp_path_factory.mktemp("both")
    said = "".join(dict.fromkeys(SAID))
    tiny_model.write_parrot(folder / "parrot.gguf", said)
    convert_decoder.convert(folder / "parrot.gguf", folder / "parrot-onnx")
    return folder


def test_an_onnx_decoder_answers_as_its_gguf_file_does(running_server, both):
    texts = {}
    for form in ("parrot.gguf", "parrot-onnx"):
        server = running_server("--model", str(both / form), "--engine", "llama" if form.endswith("gguf") else "auto", "--alias", "p")
        answer = server.chat("hi", max_tokens=20)
        with_stream = server.stream("hi", max_tokens=20).rest()
        assert with_stream.text == answer.text and with_stream.done
        texts[form] = answer.text, answer.json["usage"] | {"prompt_tokens_details": None}, answer.json["choices"][0]["finish_reason"]
        assert server.get("/v1/models").json["data"][0]["meta"]["backend"] == ("llama.cpp" if form.endswith("gguf") else "onnxruntime")
        server.stop()
    assert texts["parrot.gguf"] == texts["parrot-onnx"] and texts["parrot.gguf"][0] == "".join(dict.fromkeys(SAID))


def test_of_two_forms_the_faster_one_is_measured_once_and_served(running_server, both, tmp_path):
    flags = ("--model", str(both / "parrot.gguf"), "--data-dir", str(tmp_path / "data"))
    server = running_server(*flags)
    assert server.chat("hi", max_tokens=20).text == "".join(dict.fromkeys(SAID))
    assert "parrot is served by " in server.log
    (rates,) = json.loads((tmp_path / "data" / "engines.json").read_text())["rates"].values()
    assert rates.keys() == {"llama", "onnx"} and all(rate > 0 for found in rates.values() for rate in found.values())
    server.stop()
    path = tmp_path / "data" / "engines.json"
    forged = json.loads(path.read_text())
    (key,) = forged["rates"]
    for winner in ("llama", "onnx"):
        forged["rates"][key] = {name: {"1": 9.0 if name == winner else 1.0} for name in ("llama", "onnx")}
        path.write_text(json.dumps(forged))
        server = running_server(*flags)
        server.wait_healthy()
        assert f"parrot is served by {winner}: 9 tokens/s with 1 at once" in server.log, "what is remembered is not measured again"
        server.stop()


def test_a_bad_onnx_folder_is_refused_in_words_and_the_others_go_on(running_server, both, tmp_path):
    bad = tmp_path / "cut-onnx"
    shutil.copytree(both / "parrot-onnx", bad)
    data = bad / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:1000])
    server = running_server("--model", str(both / "parrot.gguf"), "--model", str(bad), "--engine", "llama", "--engine", "auto", healthy=False)
    assert server.chat("hi", model="parrot", max_tokens=20).text == "".join(dict.fromkeys(SAID))
    answer = server.chat("hi", model="cut-onnx")
    assert answer.status == 503 and "cut off or damaged" in answer.error["message"] + str(answer.json), answer.json
    assert server.request("POST", "/v1/embeddings", {"input": "still here", "model": "minilm-l6-int8"}).status == 200


def test_an_onnx_form_of_another_model_or_of_no_numbers_is_never_taken_for_it(running_server, both, tmp_path):
    other = tiny_model.write_parrot(tmp_path / "other.gguf", "abc")
    shutil.copytree(both / "parrot-onnx", tmp_path / "other-onnx")
    server = running_server("--model", str(other))
    assert server.chat("hi", max_tokens=20).text == "abc"
    assert "other-onnx was made of another file than" in server.log
    server.stop()
    refused = command("serve", "--model", str(other), "--engine", "onnx", "--port", "0")
    assert refused.returncode == 65 and "was made of another file" in refused.stderr, refused.stderr
    shutil.rmtree(tmp_path / "other-onnx")
    convert_decoder.convert(other, tmp_path / "other-onnx")
    data = tmp_path / "other-onnx" / "model.onnx.data"
    data.write_bytes(b"\xff" * data.stat().st_size)  # not one number
    server = running_server("--model", str(other))
    assert server.chat("hi", max_tokens=20).text == "abc"
    assert "computes values that are no numbers" in server.log


def test_another_files_onnx_form_may_stand_for_a_model_where_that_was_said(running_server, both, tmp_path):
    (tmp_path / "small.gguf").write_bytes((both / "parrot.gguf").read_bytes())
    with (tmp_path / "small.gguf").open("ab") as file:
        file.write(b"\0")  # the same model in another file
    convert_decoder.convert(both / "parrot.gguf", tmp_path / "small-onnx", stands_for=tmp_path / "small.gguf")
    server = running_server("--model", str(tmp_path / "small.gguf"))
    server.wait_healthy()
    assert "small is served by " in server.log and "tokens/s" in server.log
