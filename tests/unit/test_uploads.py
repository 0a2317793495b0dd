"""Files in pieces: in order, whole, and gone on with after a break."""

from __future__ import annotations

import pytest

from appliance import uploads as uploads_module
from appliance.errors import InvalidRequest, NotFound, StorageFailed
from appliance.uploads import KEPT_S, Uploads

DATA = bytes(range(256)) * 40


@pytest.fixture
def uploads(tmp_path):
    return Uploads(tmp_path / "uploads")


def test_pieces_make_a_file_and_a_break_is_gone_on_with(uploads, tmp_path):
    begun = uploads.begin("m.gguf", len(DATA))
    assert (begun.number, begun.received) == (1, 0)
    assert uploads.append(1, 0, DATA[:1000]).received == 1000
    later = Uploads(tmp_path / "uploads")  # the service was started anew
    assert later.begin("m.gguf", len(DATA)).received == 1000 and later.begin("m.gguf", 5).number == 2
    later.append(1, 1000, DATA[1000:])
    assert [upload.number for upload in later.unfinished()] == [1, 2]
    path = later.take(1, tmp_path)
    assert path.name == "m.gguf" and path.read_bytes() == DATA
    with pytest.raises(NotFound):
        later.find(1)


def test_a_piece_must_begin_where_the_last_one_ended(uploads):
    uploads.begin("m.gguf", 100)
    uploads.append(1, 0, DATA[:60])
    for offset, piece in ((0, DATA[:10]), (61, DATA[:10]), (-1, b"x"), (60, DATA[:41])):
        with pytest.raises(InvalidRequest, match="60 of 100 bytes"):
            uploads.append(1, offset, piece)
    assert uploads.find(1).received == 60


def test_what_is_not_whole_is_no_model(uploads, tmp_path):
    uploads.begin("m.gguf", 100)
    with pytest.raises(InvalidRequest, match="0 of 100"):
        uploads.take(1, tmp_path)
    assert list(tmp_path.glob("*.gguf")) == []


@pytest.mark.parametrize("name", ["m.exe", "../m.gguf", "a/b.gguf", ".gguf", "-m.gguf", "m.gguf\n", "", "ü.gguf", "x" * 130 + ".gguf"])
def test_only_plain_names_of_models_are_taken(uploads, name):
    with pytest.raises(InvalidRequest, match="not the name"):
        uploads.begin(name, 10)


def test_there_must_be_room_for_it_before_it_comes(uploads, monkeypatch):
    with pytest.raises(StorageFailed, match="are free"):
        uploads.begin("m.gguf", 10**15)
    with pytest.raises(InvalidRequest, match="empty"):
        uploads.begin("m.gguf", 0)


def test_a_full_disk_loses_no_piece_that_was_there(uploads, monkeypatch):
    uploads.begin("m.gguf", 100)
    uploads.append(1, 0, DATA[:50])

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[:7])
            self.file.flush()
            raise OSError(28, "No space left on device")

    opened = uploads_module.Path.open
    monkeypatch.setattr(uploads_module.Path, "open", lambda path, mode="r", **more: Full(opened(path, mode)) if mode == "ab" else opened(path, mode, **more))
    with pytest.raises(StorageFailed, match="disk is full"):
        uploads.append(1, 50, DATA[50:100])
    monkeypatch.undo()
    assert uploads.find(1).received == 50


def test_what_broke_off_long_ago_is_forgotten(tmp_path):
    time = [10**12]
    uploads = Uploads(tmp_path / "uploads", now=lambda: time[0])
    uploads.tick()  # nothing is there yet
    uploads.begin("m.gguf", 100)
    time[0] = uploads._part(1).stat().st_mtime + KEPT_S - 1
    uploads.tick()
    assert uploads.find(1)
    time[0] += 2
    uploads.tick()
    with pytest.raises(NotFound):
        uploads.drop(1)
