"""Hashes that are remembered, and files that are not what they were."""

from __future__ import annotations

import hashlib
import json
import os
import threading

import pytest

from appliance import integrity
from appliance.errors import Draining, ModelFileError, ModelFileMissing
from appliance.integrity import HashCache, check
from appliance.manifest import Manifest, ModelFile, Provenance

WEIGHTS = bytes(range(256)) * 8192


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def model_in(base):
    folder = base / "m"
    folder.mkdir()
    (folder / "m.gguf").write_bytes(WEIGHTS)
    (folder / "README.md").write_bytes(b"card")
    return folder


@pytest.fixture
def folder(tmp_path):
    """A model to change. It is so new that reading it begins with a pause."""
    return model_in(tmp_path)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A model that no test changes."""
    return model_in(tmp_path_factory.mktemp("untouched"))


@pytest.fixture
def hashes(tmp_path):
    return HashCache(tmp_path / "hashes.json")


PAPER = Manifest(
    name="m", family="llama", format="gguf", task="generate", quantization="F32", context_tokens=1, licence="MIT",
    provenance=Provenance(source="hf:o/n"),
    files=(ModelFile("m.gguf", sha(WEIGHTS), len(WEIGHTS)), ModelFile("README.md", sha(b"card"), 4)),
)  # fmt: skip


@pytest.fixture
def reads(monkeypatch):
    """The paths that are really read."""
    seen, real = [], integrity._read_sha256
    monkeypatch.setattr(integrity, "_read_sha256", lambda path, *rest: seen.append(os.path.basename(path)) or real(path, *rest))
    return seen


def test_files_are_read_once_and_then_remembered_also_by_the_next_process(untouched, hashes, reads, tmp_path):
    check(untouched, PAPER, hashes)
    assert reads == ["m.gguf", "README.md"]
    check(untouched, PAPER, hashes)
    check(untouched, PAPER, HashCache(tmp_path / "hashes.json"))
    assert len(reads) == 2
    check(untouched, PAPER, hashes, full=True)
    assert len(reads) == 4


def test_one_flipped_bit_is_refused_with_the_file_both_hashes_and_what_to_do(folder, hashes):
    check(folder, PAPER, hashes)
    flipped = bytearray(WEIGHTS)
    flipped[1_000_000] ^= 1
    (folder / "m.gguf").write_bytes(flipped)
    with pytest.raises(ModelFileError) as caught:
        check(folder, PAPER, hashes)
    for words in ("m.gguf", sha(WEIGHTS), sha(bytes(flipped)), "add it again", "hf:o/n"):
        assert words in str(caught.value)
    assert caught.value.exit_code == 65


def test_a_file_swapped_for_one_of_the_same_size_and_date_is_seen(folder, hashes):
    check(folder, PAPER, hashes)
    before = os.stat(folder / "m.gguf")
    other = folder / "other"
    other.write_bytes(bytes(len(WEIGHTS)))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, folder / "m.gguf")
    with pytest.raises(ModelFileError, match="was expected"):
        check(folder, PAPER, hashes)


def test_a_file_written_in_place_with_its_old_date_is_seen(folder, hashes):
    check(folder, PAPER, hashes)
    before = os.stat(folder / "m.gguf")
    with (folder / "m.gguf").open("r+b") as file:
        file.write(b"\xff")
    os.utime(folder / "m.gguf", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(folder / "m.gguf")
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    with pytest.raises(ModelFileError):
        check(folder, PAPER, hashes)


def test_a_write_right_after_the_reading_is_seen_though_file_times_are_coarse(folder, hashes, monkeypatch):
    exact, tick_ns = integrity._identity, 10_000_000

    def coarse(found):  # Linux before 6.13; later ones give a file that was looked at an exact time
        size, mtime, ctime, *rest = exact(found)
        return [size, mtime - mtime % tick_ns, ctime - ctime % tick_ns, *rest]

    def write(data):
        with (folder / "README.md").open("r+b") as file:
            file.write(data)

    monkeypatch.setattr(integrity, "_identity", coarse)
    for number in range(3):
        write(b"card")
        hashes.sha256(folder / "README.md", full=number == 0)
        write(b"curd")
        assert hashes.sha256(folder / "README.md")[0] == sha(b"curd")


@pytest.mark.parametrize("size", [0, len(WEIGHTS) - 1, len(WEIGHTS) + 1])
def test_another_size_is_refused_without_reading(folder, hashes, reads, size):
    os.truncate(folder / "m.gguf", size)
    with pytest.raises(ModelFileError, match=f"{len(WEIGHTS)} bytes were expected, {size} were found"):
        check(folder, PAPER, hashes)
    assert reads == []


def test_a_missing_file_is_missing_and_a_folder_or_pipe_is_no_file(folder, hashes):
    (folder / "README.md").unlink()
    with pytest.raises(ModelFileMissing) as caught:
        check(folder, PAPER, hashes)
    assert caught.value.exit_code == 66
    os.mkfifo(folder / "README.md")
    with pytest.raises(ModelFileError, match="not a regular file"):
        check(folder, PAPER, hashes)


def test_a_link_out_of_the_folder_is_refused_and_a_link_to_the_folder_is_not(folder, hashes, tmp_path):
    (tmp_path / "linked").symlink_to(folder)
    check(tmp_path / "linked", PAPER, hashes)
    (folder / "README.md").rename(tmp_path / "README.md")
    (folder / "README.md").symlink_to(tmp_path / "README.md")
    with pytest.raises(ModelFileError, match="leaves the model's folder"):
        check(folder, PAPER, hashes)


def test_a_wrong_remembered_hash_refuses_nobody(untouched, hashes, tmp_path):
    hashes.remember(untouched / "m.gguf", "00" * 32)
    check(untouched, PAPER, hashes)
    assert "00" * 32 not in (tmp_path / "hashes.json").read_text()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": []}', '{"files": {"a": 3}}', '{"files": {"KEY": {"identity": [1], "sha256": "x"}}}'])
def test_a_damaged_memory_is_no_memory(untouched, tmp_path, text):
    (tmp_path / "hashes.json").write_text(text.replace("KEY", str(untouched / "m.gguf")))
    check(untouched, PAPER, HashCache(tmp_path / "hashes.json"))
    assert len(json.loads((tmp_path / "hashes.json").read_text())["files"]) == 2


def test_a_data_folder_that_cannot_be_made_is_no_reason_to_refuse(untouched, tmp_path, reads):
    (tmp_path / "file").write_text("")
    hashes = HashCache(tmp_path / "file" / "hashes.json")
    check(untouched, PAPER, hashes)
    check(untouched, PAPER, hashes)
    assert len(reads) == 2, "it is remembered in memory"


def test_files_that_are_gone_are_forgotten(folder, hashes, tmp_path):
    check(folder, PAPER, hashes)
    (folder / "m.gguf").unlink()
    hashes.remember(folder / "README.md", sha(b"card"))
    assert list(json.loads((tmp_path / "hashes.json").read_text())["files"]) == [str(folder / "README.md")]


def test_progress_adds_up_also_when_nothing_is_read(untouched, hashes):
    for _ in range(2):
        done = []
        check(untouched, PAPER, hashes, progress=done.append)
        assert sum(done) == PAPER.size_bytes


def test_a_service_that_stops_does_not_wait_for_a_large_file(untouched, hashes):
    with pytest.raises(Draining):
        check(untouched, PAPER, hashes, stopping=lambda: True)


def test_a_file_that_is_written_while_it_is_read_is_not_remembered(folder, hashes, tmp_path):
    def write(_: int) -> None:
        with (folder / "m.gguf").open("ab") as file:
            file.write(b"x")

    with pytest.raises(ModelFileError, match="was changed while it was read"):
        hashes.sha256(folder / "m.gguf", progress=write)
    assert not (tmp_path / "hashes.json").exists()


def test_many_threads_share_one_memory(untouched, hashes):
    failed = []

    def work() -> None:
        try:
            check(untouched, PAPER, hashes)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
