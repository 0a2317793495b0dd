"""Adding models: from a file, a folder, a hub; what is refused; and that nothing half-done is ever in place."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import tiny_model
from hub_server import COMMIT, TOKEN, Hub, serving_hub

from appliance import catalog, manifest
from appliance.cli import main
from appliance.cli.progress import Bar
from appliance.clock import FakeClock
from appliance.errors import InvalidRequest, ModelFileError, ModelFileMissing
from appliance.intake import add, facts, local, place

REPO = "people/tiny-GGUF"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return tiny_model.write_random(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture(autouse=True)
def no_other_models(tmp_path, monkeypatch):
    monkeypatch.setenv("APPLIANCE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(catalog, "shipped_folder", lambda: tmp_path / "shipped")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def models(tmp_path) -> Path:
    return tmp_path / "data" / "models"


@pytest.fixture
def source(tmp_path, whole) -> Path:
    path = tmp_path / "from" / "tiny.Q8 0.gguf"
    path.parent.mkdir()
    path.write_bytes(whole)
    return path


@pytest.fixture
def run(capsys):
    """A command: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["models", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def left(models: Path) -> list[str]:
    """What is in the models folder beside the models."""
    return sorted(child.name for child in models.iterdir() if child.name.startswith(".")) if models.is_dir() else []


# -- files and folders -----------------------------------------------------------------------------


def test_a_file_with_another_hash_than_expected_is_not_added(run, models, source, whole):
    right = hashlib.sha256(whole).hexdigest()
    code, _, told = run("add", str(source), "--sha256", "0" * 64)
    assert code == 65 and right in told and not list(models.iterdir())
    assert run("add", str(source), "--sha256", right.upper())[0] == 0


def test_a_model_that_is_served_beside_the_default_is_not_removed(run, models, source):
    for name in ("one", "two"):
        run("add", str(source), "--name", name)
    (models / "default").write_text("one\ntwo\n")
    code, _, told = run("remove", "two", "--yes")
    assert code == 64 and "Unload it first" in told and (models / "two").is_dir()
    assert run("use", "two", "--uncertified")[0] == 0
    assert (models / "default").read_text() == "two\n"
    assert run("remove", "one", "--yes")[0] == 0


def test_a_file_is_copied_described_and_remembered(run, models, source, whole):
    code, said, _ = run("add", str(source), "--alias", "little", "--licence", "MIT")
    assert code == 0 and "Added tiny.Q8-0: llama, gguf F32" in said
    paper = manifest.read(models / "tiny.Q8-0" / "manifest.toml")
    assert (paper.family, paper.task, paper.context_tokens, paper.licence, paper.aliases) == ("llama", "generate", 256, "MIT", ("little",))
    assert paper.description == "tiny gpt2 f32" and paper.provenance.source == "file:tiny.Q8 0.gguf"
    assert paper.files == (manifest.ModelFile(source.name, hashlib.sha256(whole).hexdigest(), len(whole)),)
    assert (models / "tiny.Q8-0" / source.name).read_bytes() == whole
    assert left(models) == []
    remembered = json.loads((models.parent / "hashes.json").read_text())["files"]
    assert [row["sha256"] for row in remembered.values()] == [paper.files[0].sha256]


@pytest.mark.parametrize("size", [0, 10, 1000, -1])
def test_a_file_that_is_cut_off_is_refused_before_anything_is_made(run, models, source, whole, size):
    source.write_bytes(whole[:size])
    code, _, said = run("add", str(source))
    assert code == 65 and "tiny.Q8 0.gguf" in said and not models.exists()


def test_a_lora_and_a_vision_encoder_are_no_models(tmp_path, run, models):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    tiny_model._finish(writer)
    code, _, said = run("add", str(tmp_path / "lora.gguf"))
    assert code == 65 and "adapter" in said and left(models) == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--name", "a/b"], "letters, digits"),
        (["--name", "default"], "whichever model is the default"),
        (["--name", "there"], "already has a model 'there'"),
        (["--name", "two"], "already has a model 'two'"),
        (["--name", "new", "--alias", "there"], "Choose another --alias"),
        (["--name", "new", "--alias", "new"], "given twice"),
    ],
)
def test_a_name_that_cannot_be_taken_is_refused_with_what_to_do(run, source, models, flags, told):
    assert run("add", str(source), "--name", "there", "--alias", "two")[0] == 0
    code, _, said = run("add", str(source), *flags)
    assert code == 64 and told in said and ("--name" in said or "--alias" in said or "Leave one out" in said)
    assert sorted(path.name for path in models.iterdir()) == ["there"]


def test_a_full_disk_is_told_before_the_copy(run, source, monkeypatch, models, whole):
    monkeypatch.setattr(add.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, int(len(whole) * 1.04)))
    code, _, said = run("add", str(source))
    assert code == 74 and "of free space" in said and "--data-dir" in said and left(models) == []
    monkeypatch.setattr(add.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, int(len(whole) * 1.06)))
    assert run("add", str(source))[0] == 0


def test_a_disk_that_fills_up_in_mid_copy_leaves_a_part_to_go_on_from(run, source, monkeypatch, models, whole):
    real = local._write_all

    def write(file, data):
        real(file, data[:5000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local, "_write_all", write)
    code, _, said = run("add", str(source), "--name", "x")
    assert code == 74 and "the disk is full" in said and "goes on where it stopped" in said
    assert left(models) == [".incoming-x"] and place.unfinished(models) == {"x": 5000}
    assert "x: not complete (5.0 kB)" in run("list")[1]
    monkeypatch.undo()


@pytest.mark.parametrize("before", [b"", b"GGUF", b"something else entirely" * 1000])
def test_a_copy_goes_on_behind_what_is_there_and_only_where_it_is_right(tmp_path, source, whole, before):
    for part in (before, whole[:100_000], whole, whole + b"more", whole[:50_000] + b"\0" * 50_000):
        target, done = tmp_path / "target", []
        target.write_bytes(part)
        assert local.copy(source, target, done.append) == hashlib.sha256(whole).hexdigest()
        assert target.read_bytes() == whole and sum(done) == len(whole)


def test_a_source_that_grows_meanwhile_is_refused(tmp_path, source):
    def grow(_: int) -> None:
        with source.open("ab") as file:
            file.write(b"x")

    with pytest.raises(ModelFileError, match="was changed while it was copied"):
        local.copy(source, tmp_path / "target", grow)


def test_a_folder_that_may_not_be_written_is_told(run, source, monkeypatch, models):
    models.mkdir(parents=True)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(place.os, "open", refuse)
    code, _, said = run("add", str(source))
    assert code == 77 and "is not allowed" in said and "as the user whom the folder belongs to" in said


def test_leftovers_of_another_try_are_not_taken_into_the_model(run, source, models):
    (models / ".incoming-x" / "deep").mkdir(parents=True)
    (models / ".incoming-x" / "deep" / "old.gguf").write_bytes(b"old")
    (models / ".trash-1-y" / "z").mkdir(parents=True)
    assert run("add", str(source), "--name", "x")[0] == 0
    assert sorted(path.name for path in (models / "x").rglob("*")) == ["manifest.toml", source.name]
    assert left(models) == []


def test_two_commands_do_not_add_the_same_name_at_once(run, source, models):
    models.mkdir(parents=True)
    with place.lock(models, "x"):
        code, _, said = run("add", str(source), "--name", "x")
        assert code == 69 and "adding x just now" in said
        assert run("add", str(source), "--name", "y")[0] == 0
    assert run("add", str(source), "--name", "x")[0] == 0 and left(models) == []


def test_a_folder_with_a_manifest_is_taken_with_it_and_checked_against_it(run, source, models, tmp_path):
    assert run("add", str(source), "--name", "x", "--licence", "MIT")[0] == 0
    (models / "x" / "README.md").write_text("card")
    assert run("add", str(models / "x"), "--name", "again")[0] == 0
    paper = manifest.read(models / "again" / "manifest.toml")
    assert (paper.name, paper.licence, paper.provenance.source) == ("again", "MIT", "file:tiny.Q8 0.gguf")
    assert (models / "again" / "README.md").read_text() == "card"
    broken = tmp_path / "broken"
    shutil.copytree(models / "x", broken)
    with (broken / source.name).open("r+b") as file:
        file.write(b"XGUF")
    code, _, said = run("add", str(broken), "--name", "third")
    assert code == 65 and "was expected" in said and not (models / "third").exists() and left(models) == []


def test_an_onnx_folder_is_taken_whole_without_its_checkpoint(run, tmp_path, models):
    home = tmp_path / "MiniLM l6"
    (home / "onnx").mkdir(parents=True)
    (home / ".cache").mkdir()
    for name, data in {
        "onnx/model_int8.onnx": b"onnx", "tokenizer.json": b"{}", "model.safetensors": b"heavy", ".cache/x": b"", "LICENSE": b"Apache",
        "config.json": json.dumps({"model_type": "bert", "architectures": ["BertModel"], "max_position_embeddings": 512}).encode(),
    }.items():  # fmt: skip
        (home / name).write_bytes(data)
    code, said, _ = run("add", str(home))
    assert code == 0 and "Added MiniLM-l6: bert, onnx int8" in said
    paper = manifest.read(models / "MiniLM-l6" / "manifest.toml")
    assert [file.path for file in paper.files] == ["onnx/model_int8.onnx", "LICENSE", "config.json", "tokenizer.json"]
    assert (paper.task, paper.context_tokens, paper.main.path) == ("embed", 512, "onnx/model_int8.onnx")


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (["a.gguf", "x.txt", "LICENSE", "README.md"], "", ("a.gguf", "LICENSE", "README.md")),
        (["a.gguf", "b.gguf"], "b.gguf", ("b.gguf",)),
        (["a-00002-of-00002.gguf", "a-00001-of-00002.gguf"], "", ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf")),
        (["model.onnx", "model_q4.onnx", "model_q4.onnx_data", "model.onnx_data", "t.json"], "", ("model.onnx", "model.onnx_data", "t.json")),
        (["model.onnx", "model_q4.onnx", "model_q4.onnx.data"], "model_q4.onnx", ("model_q4.onnx", "model_q4.onnx.data")),
    ],
)
def test_the_files_of_one_model_are_chosen(names, wanted, chosen):
    assert facts.choose_files(names, wanted, "there") == chosen


@pytest.mark.parametrize(
    ("names", "wanted", "error", "told"),
    [
        (["a.gguf", "b.gguf"], "", InvalidRequest, "2 models: a.gguf, b.gguf"),
        (["model.safetensors"], "", ModelFileError, "only a checkpoint"),
        ([], "", ModelFileError, "no GGUF and no ONNX"),
        (["a.gguf"], "b.guff", ModelFileMissing, "Did you mean a.gguf|There are"),
        (["a.gguf", "t.json"], "t.json", InvalidRequest, "neither"),
        (["a-00001-of-00003.gguf"], "", ModelFileMissing, "lacks 2 of the model's 3 parts"),
    ],
)
def test_what_cannot_be_chosen_is_told(names, wanted, error, told):
    with pytest.raises(error, match=told):
        facts.choose_files(names, wanted, "there")


def test_names_are_made_fit():
    made = [facts.name_from(text) for text in ("dir/Qwen 2.5.Q4_0.gguf", "a-00001-of-00002.gguf", "ü.gguf", "..", "default.gguf", "x" * 99)]
    assert made == ["Qwen-2.5.Q4_0", "a", "model", "model", "model", "x" * 64]


# -- use and remove --------------------------------------------------------------------------------


def test_use_takes_only_a_model_that_is_intact(run, source, models):
    run("add", str(source), "--name", "x")
    assert run("use", "x", "--uncertified")[0] == 0 and (models / "default").read_text() == "x\n"
    with (models / "x" / source.name).open("r+b") as file:
        file.write(b"XGUF")
    code, _, said = run("use", "x", "--uncertified")
    assert code == 65 and "SHA-256" in said


def test_remove_asks_and_keeps_the_default_and_what_was_shipped(run, source, models, tmp_path):
    run("add", str(source), "--name", "x")
    run("add", str(source), "--name", "y")
    run("use", "x", "--uncertified")
    shutil.copytree(models / "x", tmp_path / "shipped" / "z")
    paper = tmp_path / "shipped" / "z" / "manifest.toml"
    paper.write_text(paper.read_text().replace('name = "x"', 'name = "z"'))
    for name, told in (("x", "is the default"), ("z", "came with the appliance")):
        code, _, said = run("remove", name, "--yes")
        assert code == 64 and told in said and "--force" in said
    code, _, said = run("remove", "y")
    assert code == 64 and "--yes" in said and (models / "y").exists()
    assert run("remove", "y", "--yes")[0] == 0
    assert run("remove", "x", "--yes", "--force")[0] == 0
    assert list(models.iterdir()) == []
    assert run("remove", "z", "--yes", "--force")[0] == 0 and not paper.exists()
    assert run("remove", "z", "--yes")[0] == 64


def test_a_removed_model_is_gone_at_once_even_if_deleting_fails(run, source, models, monkeypatch):
    run("add", str(source), "--name", "x")

    def fail(path, **_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(place.shutil, "rmtree", fail)
        assert run("remove", "x", "--yes")[0] == 74
    assert json.loads(run("list", "--json")[1])["models"] == []
    assert run("add", str(source), "--name", "x")[0] == 0 and left(models) == []


def test_what_an_interrupted_add_left_can_be_removed(run, models):
    (models / ".incoming-x").mkdir(parents=True)
    (models / ".incoming-x" / "a.gguf").write_bytes(b"part")
    assert run("remove", "x", "--yes")[0] == 0 and left(models) == []


# -- the hub ---------------------------------------------------------------------------------------


@pytest.fixture
def hub(whole, monkeypatch):
    with serving_hub(Hub({REPO: {"tiny.gguf": whole, "LICENSE": b"MIT License\n", "README.md": b"# tiny\n", "config.json": b"{}"}})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
        # The library keeps its connections for the next call of the process; version 1 and later can close them.
        (huggingface_hub.close_session if hasattr(huggingface_hub, "close_session") else huggingface_hub.utils.reset_sessions)()
        gc.collect()


def test_a_repository_with_one_model_is_fetched_at_its_commit_with_licence_and_card(run, hub, models, whole):
    code, said, _ = run("add", f"hf:{REPO}")
    assert code == 0 and "Added tiny: llama" in said
    paper = manifest.read(models / "tiny" / "manifest.toml")
    assert (paper.licence, paper.provenance.source, paper.provenance.revision) == ("mit", f"hf:{REPO}:tiny.gguf", COMMIT)
    assert paper.provenance.url == f"{hub.url}/{REPO}/resolve/{COMMIT}/tiny.gguf"
    assert [file.path for file in paper.files] == ["tiny.gguf", "LICENSE", "README.md"]
    assert (models / "tiny" / "tiny.gguf").read_bytes() == whole and left(models) == []
    assert paper.created_by == f"appliance models add hf:{REPO}"


def test_the_token_goes_to_the_hub_and_not_to_its_cdn(run, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.private.add(REPO)
    assert run("add", f"hf:{REPO}:tiny.gguf@v1")[0] == 0
    seen = {where.split("/")[1] for _, where, headers in hub.requests if "authorization" in headers}
    assert "cdn" not in seen and any(where.startswith("/cdn") for _, where, _ in hub.requests)
    assert {headers.get("authorization") for _, where, headers in hub.requests if not where.startswith("/cdn")} == {f"Bearer {TOKEN}"}


def test_a_connection_cut_in_mid_file_is_taken_up_where_it_broke(run, hub, models, whole):
    hub.cuts = [300_000, -1]
    code, _, said = run("add", f"hf:{REPO}")
    assert code == 0, said
    ranges = [headers.get("range") for headers in hub.gets("/cdn/" + REPO + "/tiny.gguf")]
    assert ranges == [None, f"bytes={1 << 18}-"]
    assert (models / "tiny" / "tiny.gguf").read_bytes() == whole


def part_of(models: Path, data: bytes) -> None:
    """What a killed download left."""
    (models / ".incoming-tiny").mkdir(parents=True)
    (models / ".incoming-tiny" / "tiny.gguf").write_bytes(data)


def test_the_next_try_fetches_only_the_rest(run, hub, models, whole):
    part_of(models, whole[:200_000])
    assert run("add", f"hf:{REPO}")[0] == 0
    assert [headers.get("range") for headers in hub.gets("/tiny.gguf") if "range" in headers][-1] == "bytes=200000-"
    assert (models / "tiny" / "tiny.gguf").read_bytes() == whole


@pytest.mark.parametrize("kind", ["garbage", "longer", "complete", "no ranges"])
def test_a_part_that_does_not_fit_is_fetched_again(run, hub, models, whole, kind):
    part_of(models, {"garbage": b"\0" * 200_000, "longer": whole + b"x", "complete": whole, "no ranges": whole[:9000]}[kind])
    hub.ignore_ranges = kind == "no ranges"
    code, _, said = run("add", f"hf:{REPO}")
    assert code == 0, said
    assert (models / "tiny" / "tiny.gguf").read_bytes() == whole
    assert (hub.gets("/tiny.gguf") == []) == (kind == "complete")


def test_a_disk_that_fills_up_in_mid_download_is_not_the_networks_fault(run, hub, models, monkeypatch):
    from appliance.intake.hub import _Counted

    real = _Counted.write

    def write(self, data):
        if self.at:
            raise OSError(28, "No space left on device")
        return real(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(_Counted, "write", write)
        code, _, said = run("add", f"hf:{REPO}")
    assert code == 74 and "the disk is full" in said and place.unfinished(models) == {"tiny": 1 << 18}
    assert run("add", f"hf:{REPO}")[0] == 0


def test_bytes_that_differ_from_the_hubs_hash_are_thrown_away(run, hub, models):
    hub.damage = True
    code, _, said = run("add", f"hf:{REPO}")
    assert code == 65 and "did not come as the hub lists it" in said and "was expected" in said
    assert left(models) == []


def test_an_etag_that_contradicts_the_list_is_refused_before_the_download(run, hub, models):
    hub.etag = "0" * 64
    code, _, said = run("add", f"hf:{REPO}")
    assert code == 65 and "contradicts itself" in said and hub.gets("/tiny.gguf") == [] and left(models) == []


def test_a_small_file_is_checked_against_gits_hash(run, hub, whole, monkeypatch):
    hub.large_bytes = 1 << 40
    monkeypatch.setattr("hub_server.git_blob", lambda data: "ab" * 20)
    code, _, said = run("add", f"hf:{REPO}")
    assert code == 65 and "git blob " + "ab" * 20 in said


def test_a_mirror_without_hashes_is_believed(run, hub, models, whole):
    hub.bare = True
    assert run("add", f"hf:{REPO}")[0] == 0
    assert (models / "tiny" / "tiny.gguf").read_bytes() == whole


@pytest.mark.parametrize(
    ("address", "code", "told"),
    [
        ("hf:people/nothing", 77, "there is none, or it is private"),
        (f"hf:{REPO}:tinny.gguf", 66, "Did you mean tiny.gguf?"),
        (f"hf:{REPO}:tiny.gguf@v7", 66, "no revision 'v7'"),
        (f"hf:{REPO}:config.json", 64, "neither a GGUF nor an ONNX file"),
        ("hf:people", 64, "hf:owner/name"),
        ("hf:-a/--b", 64, "cannot be the name of a repository"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(run, hub, models, address, code, told):
    found, _, said = run("add", address)
    assert (found, left(models)) == (code, []) and told in said and "Traceback" not in said


def test_gated_private_and_a_wrong_token_are_told_apart(run, hub, models, monkeypatch):
    hub.gated.add(REPO)
    code, _, said = run("add", f"hf:{REPO}")
    assert code == 77 and "is gated" in said and "HF_TOKEN" in said and left(models) == []
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, said = run("add", f"hf:{REPO}")
    assert code == 77 and "refuses" in said and "HTTP 401" in said and "hf_wrong" not in said
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert run("add", "hf:people/nothing")[0] == 66
    assert run("add", f"hf:{REPO}")[0] == 0


def test_a_hub_with_a_fault_and_no_hub_at_all_are_unavailable(run, hub, monkeypatch):
    hub.status = 503
    code, _, said = run("add", f"hf:{REPO}")
    assert code == 69 and "HTTP 503" in said
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, said = run("add", f"hf:{REPO}")
    assert code == 69 and "HF_ENDPOINT" in said and "Traceback" not in said


def test_offline_asks_nobody(run, hub):
    code, _, said = run("add", f"hf:{REPO}", "--offline")
    assert code == 78 and "offline" in said and len(said.splitlines()) == 1 and hub.requests == []


def test_without_the_library_the_extra_is_named(run, hub, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    code, _, said = run("add", f"hf:{REPO}")
    assert code == 69 and "./install.sh --user --extra factory" in said


# -- the bar ---------------------------------------------------------------------------------------


class Screen:
    """A terminal, or not."""

    def __init__(self, live: bool) -> None:
        self.live, self.text = live, ""

    def isatty(self) -> bool:
        return self.live

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_the_bar_is_one_line_on_a_terminal_and_nothing_elsewhere():
    for live in (True, False):
        screen, clock = Screen(live), FakeClock()
        with Bar("tiny", 1000, file=screen, clock=clock) as bar:
            for _ in range(10):
                clock.advance(0.25)
                bar(100)
        if live:
            assert screen.text.count("\n") == 1 and screen.text.startswith("\rtiny [##......") and "100% of 1.0 kB, 400 bytes/s" in screen.text
        else:
            assert screen.text == ""
