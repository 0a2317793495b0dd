"""Files that are no model, or half a model: refused in words, or a death that is put into words; never ours."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny_model
from fakes import ROOT
from real_engine import opened

from appliance.engine.channel import ChannelClosed
from appliance.engine.child import Child, Death
from appliance.engine.messages import Booting, Generate, Ready, Refused
from appliance.engine.worker import WorkerSettings
from appliance.errors import ModelFileError, ModelFileMissing


def load_each(paths: list[Path]) -> list[dict[str, Any]]:
    """What came of loading each file; see load_each.py."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "load_each.py")],
        input="".join(json.dumps(str(path)) + "\n" for path in paths),
        capture_output=True, text=True, timeout=100, cwd=ROOT,
        env={**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(paths)
    faults = {str(p): o["fault"] for p, o in zip(paths, outcomes, strict=True) if "fault" in o}
    assert not faults, "\n".join(f"{path}: {words}" for path, words in faults.items())
    return outcomes


def boot(path: Path, **settings: Any) -> tuple[Any, Death | None, int]:
    """Start a real engine child on a file: (its last message but progress, its death, its exit code)."""
    values = dict(engine="llama", name="m", path=str(path), context_tokens=0, sequences=1, kv_tokens=0, threads=1, cpus=(),
                  batch_tokens=64, stall_s=0.2, store_bytes=0)  # fmt: skip
    child = Child(WorkerSettings(**(values | settings)), {})
    last: Any = None
    try:
        while not isinstance(last, Ready):
            message = child.channel.receive(30.0)
            assert message is not None, "the child says nothing"
            if not isinstance(message, Booting):
                last = message
        child.channel.send(Generate("g", {"tokens": [1]}, {"temperature": 0}, max_tokens=1))
        while not isinstance(last, Refused) and not (frame := child.channel.receive(30.0)).ended:
            last = frame
        child.kill()
    except ChannelClosed:
        pass
    code = child.bury()
    return last, child.explain(code), code


@pytest.fixture
def damaged(model: Callable[[str], Path], tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Writes a file and names it."""

    def write(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def test_a_file_cut_off_anywhere_is_refused(model, damaged):
    whole = model("tiny-bpe-f32").read_bytes()
    weights = gguf.GGUFReader(model("tiny-bpe-f32")).data_offset
    lengths = [0, 1, 3, 4, 5, 8, 15, 16, 23, 24, 25, 31, 32, 50, *range(60, weights, 131), weights - 1, weights, weights + 1]
    lengths += [weights + (len(whole) - weights) * part // 7 for part in range(1, 7)] + [len(whole) - 33, len(whole) - 1]
    outcomes = load_each([damaged(f"cut{n}.gguf", whole[:n]) for n in lengths])
    for length, outcome in zip(lengths, outcomes, strict=True):
        assert outcome.get("refused") == "ModelFileError", f"cut to {length} bytes: {outcome}"
        assert f"cut{length}.gguf" in outcome["words"] and "ownload it again" in outcome["words"]


def test_one_flipped_bit_before_the_weights_is_refused_or_survived(model, damaged):
    whole = model("tiny-bpe-f32").read_bytes()
    weights = gguf.GGUFReader(model("tiny-bpe-f32")).data_offset
    draw = random.Random(4)
    paths = []
    for at in [*range(64), *(draw.randrange(64, weights) for _ in range(120))]:
        data = bytearray(whole)
        data[at] ^= 1 << draw.randrange(8)
        paths.append(damaged(f"flip{at}.gguf", bytes(data)))
    outcomes = load_each(paths)
    told = [outcome for outcome in outcomes if "refused" in outcome]
    assert len(told) > len(paths) / 2 and all(len(outcome["words"]) > 40 for outcome in told)
    # A letter in a name is no damage; and for some damage llama.cpp's only answer is abort(), which is why models are
    # loaded in a child. It must not do anything worse.
    dead = [outcome["died"] for outcome in outcomes if "died" in outcome]
    assert all(signal == -6 for signal in dead) and len(dead) < len(paths) / 10, dead


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.gguf", b"", "is not a GGUF file"),
        ("text.gguf", b"Once upon a time there was a model.\n" * 99, "is not a GGUF file: it begins with b'Once'"),
        ("zeros.gguf", bytes(4096), "is not a GGUF file"),
        ("ggml.gguf", b"lmgg" + bytes(4096), "is not a GGUF file"),
        ("version.gguf", b"GGUF\x63\x00\x00\x00" + bytes(4096), "version 99"),
        ("big_endian.gguf", b"GGUF\x00\x00\x00\x03" + bytes(4096), "version"),
        ("no_tensors.gguf", b"GGUF\x03\x00\x00\x00" + bytes(4096), "cannot be loaded"),
    ],
)
def test_what_is_no_model_is_refused_by_a_real_child(damaged, name, data, words):
    message, death, code = boot(damaged(name, data))
    assert isinstance(message, Refused) and code == 65
    assert message.error["code"] == "bad_model" and words in message.error["message"] and message.error["remedy"]
    assert name in message.error["message"] and death.words


def test_a_half_downloaded_model_is_refused_by_a_real_child(model, damaged):
    message, _, code = boot(damaged("half.gguf", model("tiny-bpe-f32").read_bytes()[:200_000]))
    assert isinstance(message, Refused) and code == 65
    assert "not within the file bounds" in message.error["message"] and "download" in message.error["remedy"]


def test_a_whole_model_answers_in_a_real_child(model):
    message, death, code = boot(model("tiny-bpe-f32"))
    assert not isinstance(message, Refused) and message is not None
    assert code == -9 and death.cause == "stopped"


@pytest.mark.parametrize("batch_tokens", [8, 16, 512])
def test_every_batch_size_that_the_settings_allow_boots(model, batch_tokens):
    message, _, _ = boot(model("tiny-bpe-f32"), batch_tokens=batch_tokens)
    assert not isinstance(message, Refused) and message is not None, message


def test_a_file_that_makes_llama_cpp_abort_is_a_crash_in_words(model, damaged):
    data = model("tiny-bpe-f32").read_bytes()
    letter = data.index(b"\x01\x00\x00\x00\x00\x00\x00\x00b")
    twice = data[: letter + 8] + b"a" + data[letter + 9 :]  # two tokens of the same text
    message, death, code = boot(damaged("twice.gguf", twice))
    assert message is None and code == -6
    assert death.cause == "crash" and "SIGABRT" in death.words


def test_a_model_that_can_only_embed_and_would_abort_llama_cpp_is_refused(tmp_path):
    message, death, code = boot(tiny_model.write_encoder(tmp_path / "encoder.gguf"))
    assert isinstance(message, Refused) and code == 65, death
    assert "lacks the token that separates texts" in message.error["message"]


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(ModelFileMissing, match="no model file at .*gone.gguf") as missing, opened(tmp_path / "gone.gguf"):
        pass
    with pytest.raises(ModelFileError, match="is a folder") as folder, opened(tmp_path):
        pass
    assert (missing.value.exit_code, folder.value.exit_code) == (66, 65)


def test_a_broken_chat_template_leaves_completions_working(model, damaged):
    path = model("tiny-bpe-f32")
    data = path.read_bytes().replace(b"{% endif %}", b"{% endof %}")
    message, _, _ = boot(damaged("template.gguf", data))
    assert message is not None and not isinstance(message, Refused)
