"""Which of two forms of a model is served: measured once, remembered, and said in words."""

import json
from dataclasses import replace

import pytest

from appliance import catalog
from appliance.config import load_config
from appliance.errors import ConfigError, Draining, ModelFileError
from appliance.trials import Trials, fastest, in_words

RATES = {"llama": {"prompt": 400.0, "1": 36.0, "4": 57.0, "8": 53.0}, "onnx": {"prompt": 300.0, "1": 33.0, "4": 88.0, "8": 104.0}}


def test_rates_are_measured_once_for_a_model_and_a_machine(tmp_path):
    asked = []

    def engines(*names):
        return {name: lambda name=name: asked.append(name) or RATES[name] for name in names}

    path = tmp_path / "data" / "engines.json"
    assert Trials(path).rates("a", engines("llama", "onnx")) == RATES
    assert Trials(path).rates("a", engines("llama", "onnx")) == RATES and asked == ["llama", "onnx"]
    Trials(path).rates("b", engines("llama", "onnx"))
    assert len(asked) == 4 and json.loads(path.read_text())["rates"].keys() == {"a", "b"}
    path.write_text('{"rates": {"a": 3}}')
    assert Trials(path).rates("a", engines("llama", "onnx")) == RATES


def test_an_engine_that_cannot_serve_the_model_loses_and_a_stop_is_no_result(tmp_path):
    def refused():
        raise ModelFileError("no")

    def stopped():
        raise Draining("stop")

    rates = Trials(tmp_path / "e.json").rates("a", {"llama": refused, "onnx": lambda: RATES["onnx"]})
    assert rates == {"llama": {}, "onnx": RATES["onnx"]} and fastest(rates) == "onnx"
    assert not (tmp_path / "e.json").exists(), "what fails today may be mended tomorrow"
    Trials(tmp_path / "e.json").rates("a", {"llama": lambda: RATES["llama"], "onnx": lambda: RATES["onnx"]})
    assert fastest({"llama": {}, "onnx": {}}) == "llama", "its own error is then the one that is told"
    with pytest.raises(Draining):
        Trials(tmp_path / "e.json").rates("b", {"llama": stopped, "onnx": lambda: RATES["onnx"]})
    assert "b" not in json.loads((tmp_path / "e.json").read_text())["rates"]


@pytest.mark.parametrize("rate", [-5, 0, 1e999, "5", None, [1], True])
def test_a_remembered_rate_that_cannot_be_is_measured_again(tmp_path, rate):
    path = tmp_path / "e.json"
    path.write_text(json.dumps({"rates": {"a": {"llama": {"1": rate}, "onnx": {"1": 5.0}}}}))
    assert Trials(path).rates("a", {name: lambda name=name: RATES[name] for name in RATES}) == RATES


def test_the_mean_over_the_loads_decides_and_prompts_do_not():
    assert fastest(RATES) == "onnx"
    assert fastest({"llama": {"prompt": 1.0, "1": 36.0}, "onnx": {"prompt": 99.0, "1": 33.0}}) == "llama"
    assert in_words(RATES, "onnx") == "onnx: 104 tokens/s with 8, 88 with 4, 33 with 1 at once (llama: 53 with 8, 57 with 4, 36 with 1)"


def entry(tmp_path, **settings):
    (found,) = catalog.entries(load_config({"model": [str(tmp_path / "x.gguf")], **settings}, {}))
    return found


def test_a_gguf_file_may_have_its_onnx_form_beside_it(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert (entry(tmp_path).engine, entry(tmp_path).twin) == ("llama", None)
    with pytest.raises(ConfigError, match="no ONNX form of it at .*x-onnx") as missing:
        entry(tmp_path, engine=["onnx"])
    assert f"models convert {tmp_path / 'x.gguf'} {tmp_path / 'x-onnx'} --to onnx" in missing.value.remedy
    (tmp_path / "x-onnx").mkdir()
    (tmp_path / "x-onnx" / "model.onnx").write_bytes(b"")
    both = entry(tmp_path)
    assert both.engine == "auto" and (both.twin.name, both.twin.path, both.twin.engine) == ("x", tmp_path / "x-onnx", "onnx")
    assert (entry(tmp_path, engine=["llama"]).engine, entry(tmp_path, engine=["llama"]).twin) == ("llama", None)
    assert entry(tmp_path, engine=["onnx"]) == replace(both.twin, form_of=tmp_path / "x.gguf")


def test_each_model_may_have_its_own_engine(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}-onnx").mkdir()
        (tmp_path / f"{name}-onnx" / "model.onnx").write_bytes(b"")
    models = [str(tmp_path / name) for name in ("a.gguf", "b.gguf", "a-onnx")]
    found = catalog.entries(load_config({"model": models, "engine": ["llama", "auto"]}, {}))
    assert [e.engine for e in found] == ["llama", "auto", "onnx"]
    with pytest.raises(ConfigError, match="llama.cpp serves GGUF files"):
        catalog.entries(load_config({"model": models, "engine": ["llama"]}, {}))
    with pytest.raises(ConfigError, match="engine = 'fast' is not one of auto, llama, onnx, fake"):
        load_config({"engine": "fast"}, {})
