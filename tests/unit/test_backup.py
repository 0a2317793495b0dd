"""Backups: what is in them, that nothing damaged or newer is restored, and that nothing is lost on the way."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from fakes import python
from hypothesis import given
from hypothesis import strategies as st

from appliance import manifest
from appliance.access import people
from appliance.access.service import Access
from appliance.backup import archive, contents, create, encryption, restore, shelf
from appliance.backup.contents import Member, Wishes
from appliance.cache import reviewed
from appliance.cache.reviewed import NewReviewed
from appliance.cli import main
from appliance.config import load_config
from appliance.data_folder import COMPLETE, finish_switch, restoring, served
from appliance.db.connection import Readers
from appliance.db.writer import Writer
from appliance.errors import ApplianceError, BadBackup, ConfigError, InUse, NotFound, PermissionDenied, StorageFailed
from appliance.jobs import Job

NOW, DAY_S = 1_790_000_000.0, 86_400.0
VERSION = "0.1.0"
PASSPHRASE = b"four words that nobody guesses"
CHEAP = (4, 8, 1)
ANSWER = "From 8 to 17."


@pytest.fixture(autouse=True)
def cheap_passphrases(monkeypatch):
    """That real ones cost 64 MB is shown once."""
    monkeypatch.setattr(encryption.Sealing.__init__, "__kwdefaults__", {"cost": CHEAP})


class Box:
    """A data folder with a key, a person's answer, settings and a model; `config` is what its service would have."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.settings = {"data_dir": folder, **settings}
        access = Access(folder, lambda level, words: None)
        access.open()
        _, self.key = access.make_key("till", "Ann")
        access.close()
        self.write("When is the lab open?", ANSWER)
        (folder / "settings.toml").write_text("queue_size = 7\n")
        (folder / "hashes.json").write_text("{}")
        self.model("small", b"weights" * 999)

    @property
    def config(self):
        return load_config(self.settings, {})

    def write(self, question: str, answer: str) -> None:
        with Writer(self.folder / "state.db", reviewed.SCHEMA, precious=True, log=lambda level, words: None) as writer:
            writer.do(lambda db: reviewed.put(db, NewReviewed("everybody", [question], answer, "Ann"), NOW), 10)

    def model(self, name: str, weights: bytes) -> None:
        folder = self.folder / "models" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.gguf").write_bytes(weights)
        (folder / "certificate.json").write_text('{"date": "today"}')
        file = manifest.ModelFile(f"{name}.gguf", hashlib.sha256(weights).hexdigest(), len(weights))
        manifest.save(manifest.Manifest(name, "llama", "gguf", "generate", "Q4_0", 64, "MIT", (file,)), folder)

    def backup(self, at: float = NOW, **wishes: bool) -> shelf.Backup:
        return create.create(self.config, Wishes(**wishes), VERSION, at)

    def restore(self, path: Path, folder: Path | None = None, **more) -> restore.Restored:
        values = {"words": None, "version": VERSION, "now": NOW} | more
        return restore.restore(path, folder or self.folder, *values.values())


@pytest.fixture
def box(tmp_path) -> Box:
    return Box(tmp_path / "data")


@pytest.fixture
def sealed(tmp_path) -> Box:
    (tmp_path / "passphrase").write_bytes(PASSPHRASE + b"\n")
    return Box(tmp_path / "data", backup_passphrase_file=tmp_path / "passphrase")


def answers(folder: Path) -> dict[str, str]:
    readers = Readers(folder / "state.db", precious=True)
    with readers.reading() as db:
        found = {question: one.answer for one, questions in reviewed.every(db) for question in questions}
    readers.close()
    return found


def keys(folder: Path) -> set[bytes]:
    readers = Readers(folder / "access.db", precious=True)
    with readers.reading() as db:
        found = set(people.key_digests(db))
    readers.close()
    return found


def tree(folder: Path) -> dict[str, str]:
    """Every file with its digest, but what SQLite has beside its files and the place for copies."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }  # fmt: skip


@contextmanager
def untouched(box: Box) -> Iterator[None]:
    """Nothing in the data folder or beside it is changed."""
    before, beside = tree(box.folder), sorted(box.folder.parent.iterdir())
    yield
    assert tree(box.folder) == before and sorted(box.folder.parent.iterdir()) == beside


def one_sentence(error: ApplianceError) -> str:
    assert error.message.count("\n") == 0 and error.message.endswith(".") and error.message[0] != " "
    return str(error)


# -- what is in one ------------------------------------------------------------------------------------------------------------


def names(path: Path, words: bytes | None = None) -> list[str]:
    return [entry.name for entry in archive.read_manifest(path, words).entries]


def test_a_backup_comes_back_with_keys_answers_settings_and_the_models_papers(box, tmp_path):
    made = box.backup()
    assert made.path == box.folder / "backups" / "appliance-20260921T141320Z.tar.gz" and made.path.stat().st_mode & 0o777 == 0o600
    assert names(made.path) == ["access.db", "state.db", "settings.toml", "models/small/certificate.json", "models/small/manifest.toml"]
    done = box.restore(made.path, tmp_path / "other" / "new")
    new = tmp_path / "other" / "new"
    assert done == restore.Restored(new, NOW, None, ["small"]) and answers(new) == {"When is the lab open?": ANSWER}
    assert keys(new) == {people.digest_of(box.key)} and (new / "settings.toml").read_text() == "queue_size = 7\n"
    assert (new / "access.db").stat().st_mode & 0o777 == 0o600


def test_weights_and_generated_answers_come_along_when_they_are_wanted(box, tmp_path):
    (box.folder / "cache.db").write_bytes((box.folder / "state.db").read_bytes())
    made = box.backup(models=True, cache=True)
    assert {"cache.db", "models/small/small.gguf"} <= set(names(made.path))
    assert box.restore(made.path, tmp_path / "new").missing == []
    assert tree(tmp_path / "new" / "models") == tree(box.folder / "models")


def test_secrets_come_along_only_when_it_is_encrypted_or_they_are_wanted(box, sealed_config, tmp_path):
    box.settings |= sealed_config
    path = box.backup().path
    assert "from-backup/config.toml" in names(path) and not [name for name in names(path) if "tls/" in name or "keys.txt" in name]
    box.restore(path, tmp_path / "new")
    text = (tmp_path / "new" / "from-backup" / "config.toml").read_text()
    assert "key-of-the-config" not in text and "drain_s = 5" in text
    wanted = box.backup(NOW + 1, secrets=True).path
    box.settings["backup_passphrase_file"] = tmp_path / "passphrase"
    encrypted = box.backup(NOW + 2).path
    for there in (names(wanted), names(encrypted, PASSPHRASE)):
        assert {"tls/key.pem", "from-backup/config.toml", "from-backup/api_key_file/keys.txt"} <= set(there)
    assert b"state.db" not in encrypted.read_bytes() and b"manifest" not in encrypted.read_bytes()


@pytest.fixture
def sealed_config(box, tmp_path) -> dict[str, Path]:
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    (tmp_path / "keys.txt").write_text("till:key-of-the-file\n")
    (tmp_path / "config.toml").write_text(f'# mine\napi-key = ["key-of-the-config"]\ndrain_s = 5\napi_key_file = "{tmp_path / "keys.txt"}"\n')
    (box.folder / "tls").mkdir()
    (box.folder / "tls" / "key.pem").write_text("secret key")
    return {"config": tmp_path / "config.toml"}


def test_tar_reads_what_is_not_encrypted(box, tmp_path):
    path = box.backup().path
    listed = subprocess.run(["tar", "-tzf", str(path)], capture_output=True, text=True, timeout=20)
    assert listed.stdout.split() == ["manifest.json", *names(path)] and not listed.stderr


def test_a_backup_of_much_needs_little_memory(box, tmp_path):
    size = 48 << 20
    folder = box.folder / "models" / "large"
    folder.mkdir()
    with (folder / "large.gguf").open("wb") as file:
        file.truncate(size)
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    box.settings["backup_passphrase_file"] = tmp_path / "passphrase"
    tracemalloc.start()
    try:
        path = box.backup(models=True).path
        box.restore(path, tmp_path / "new", words=PASSPHRASE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20 and (tmp_path / "new" / "models" / "large" / "large.gguf").stat().st_size == size


def test_every_listed_backup_was_read_back_and_a_check_is_remembered(box):
    made = box.backup()
    assert made.checked and not made.fault
    data = bytearray(made.path.read_bytes())
    data[300] ^= 1
    made.path.write_bytes(data)
    with pytest.raises(BadBackup, match="is damaged"):
        create.verify(made.path, box.config, NOW + 60)
    (found,) = shelf.all_of(made.path.parent)
    assert "is damaged" in found.fault and found.checked == NOW + 60 and shelf.newest(box.config) is None


def test_a_damaged_database_is_found_before_the_backup_has_its_name(box):
    good = box.backup()
    data = bytearray((box.folder / "state.db").read_bytes())
    data[4096 * 3:4096 * 3 + 64] = os.urandom(64)
    (box.folder / "state.db").write_bytes(data)
    with pytest.raises(StorageFailed, match=r"state\.db is damaged"):
        box.backup(NOW + 1)
    assert shelf.all_of(good.path.parent) == [good] and not list(good.path.parent.glob(".*part"))


def test_a_damaged_file_that_is_not_precious_is_left_out_and_told(box):
    (box.folder / "usage.db").write_bytes(b"rubbish" * 999)
    told = []
    made = create.create(box.config, Wishes(), VERSION, NOW, tell=told.append)
    assert "usage.db" not in names(made.path) and "state.db" in names(made.path)
    assert len(told) == 1 and "usage.db is not in the backup" in told[0] and "damaged" in told[0]


# -- what is refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["box", "sealed"])
def test_a_flipped_byte_anywhere_is_noticed_and_nothing_is_restored(kind, request, tmp_path):
    box = request.getfixturevalue(kind)
    path, bad = box.backup().path, tmp_path / "bad"
    good = path.read_bytes()
    archive.check_whole(path)
    for at in range(0, len(good), 3):
        bad.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1:])
        with pytest.raises(BadBackup) as caught:
            archive.check_whole(bad)
        assert one_sentence(caught.value)
    for size in (0, 1, archive.SEAL_BYTES, len(good) // 2, len(good) - 1):
        bad.write_bytes(good[:size])
        with pytest.raises(BadBackup):
            archive.check_whole(bad)
    with untouched(box), pytest.raises(BadBackup):
        box.restore(bad, words=PASSPHRASE)


def forged(path: Path, paper: archive.Manifest, members: list[Member]) -> Path:
    """A backup with a right seal, whatever is in it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for member in [Member(archive.MANIFEST, data=json.dumps(asdict(paper)).encode()), *members]:
            info = tarfile.TarInfo(member.name)
            info.size = len(member.data)
            tar.addfile(info, io.BytesIO(member.data))
    data = packed.getvalue()
    path.write_bytes(data + archive._SEAL_HEAD + hashlib.sha256(data).digest() + archive._SEAL_END)
    return path


SETTINGS_FILE = [Member("settings.toml", data=b"queue_size = 9\n")]


def paper_of(members: list[Member], **other: object) -> archive.Manifest:
    return replace(archive.Manifest(NOW, VERSION, "box", {}, archive.described(members)), **other)


@pytest.mark.parametrize(("paper", "members", "words"), [
    (paper_of([*SETTINGS_FILE, Member("b", data=b"b")]), SETTINGS_FILE, "b is missing"),
    (paper_of(SETTINGS_FILE), [], "settings.toml is missing"),
    (paper_of(SETTINGS_FILE), [*SETTINGS_FILE, Member("b", data=b"b")], "b is not in its manifest"),
    (paper_of(SETTINGS_FILE), [Member("settings.toml", data=b"queue_size = 8\n")], "is not what its manifest says"),
    (paper_of([Member("../x", data=b"b")]), [Member("../x", data=b"b")], "no name for a file"),
    (paper_of([Member("/x", data=b"b")]), [Member("/x", data=b"b")], "no name for a file"),
    (paper_of(SETTINGS_FILE * 2), SETTINGS_FILE * 2, "is there twice"),
    (paper_of(SETTINGS_FILE, version="0.2.0"), SETTINGS_FILE, "was made by version 0.2.0"),
    (paper_of(SETTINGS_FILE, version="10.0.0"), SETTINGS_FILE, "was made by version 10.0.0"),
    (paper_of(SETTINGS_FILE, format=2), SETTINGS_FILE, "is of another form"),
    (paper_of(SETTINGS_FILE, schemas={"state.db": ["from the future"]}), SETTINGS_FILE, "newer version"),
    (paper_of(SETTINGS_FILE, schemas={"dreams.db": []}), SETTINGS_FILE, "dreams.db, which this version does not know"),
])  # fmt: skip
def test_what_is_incomplete_forged_or_newer_is_refused_in_one_sentence_and_nothing_is_changed(box, tmp_path, paper, members, words):
    path = forged(tmp_path / "forged.tar.gz", paper, members)
    with untouched(box), pytest.raises(BadBackup) as caught:
        box.restore(path)
    assert words in one_sentence(caught.value)


def test_an_older_schema_is_restored_and_brought_up_to_date_by_the_next_start(box, tmp_path):
    older = replace(people.SCHEMA, migrations=people.SCHEMA.migrations[:1])
    folder = tmp_path / "older"
    with Writer(folder / "access.db", older, precious=True, log=lambda level, words: None):
        pass
    old = Box.__new__(Box)
    old.folder, old.settings = folder, {"data_dir": folder}
    box.restore(old.backup().path)
    access = Access(box.folder, lambda level, words: None)
    access.open()
    assert access.keys() == []
    access.close()


def test_a_passphrase_is_needed_and_must_be_the_right_one(sealed, tmp_path):
    path = sealed.backup().path
    assert path.name.endswith(".tar.gz.sealed")
    for words, said in ((None, "is encrypted"), (b"another one", "not the one with which")):
        with untouched(sealed), pytest.raises(ConfigError, match=said) as caught:
            sealed.restore(path, words=words)
        assert "--backup-passphrase-file" in str(caught.value)
    sealed.restore(path, tmp_path / "new", words=PASSPHRASE)
    assert answers(tmp_path / "new") == {"When is the lab open?": ANSWER}


def test_a_passphrase_comes_from_a_file_or_from_systemd_and_a_short_one_is_refused(box, tmp_path, monkeypatch):
    assert shelf.passphrase(box.config) is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert shelf.passphrase(box.config) is None
    (tmp_path / shelf.CREDENTIAL).write_bytes(PASSPHRASE + b"\r\n")
    assert shelf.passphrase(box.config) == PASSPHRASE
    for content, said in ((b"short\n", "5 bytes"), (b"x" * 5000, "8 to 4096")):
        (tmp_path / "mine").write_bytes(content)
        box.settings["backup_passphrase_file"] = tmp_path / "mine"
        with pytest.raises(ConfigError, match=said):
            shelf.passphrase(box.config)
    box.settings["backup_passphrase_file"] = tmp_path / "nowhere"
    with pytest.raises(ConfigError, match="cannot be read"):
        box.backup()


@pytest.mark.parametrize("size", [0, 1, encryption.CHUNK - 1, encryption.CHUNK, encryption.CHUNK + 1, 3 * encryption.CHUNK])
def test_an_encrypted_stream_opens_as_it_was_and_no_part_of_it_can_be_cut_moved_or_changed(size):
    data, out = os.urandom(size), io.BytesIO()
    sealing = encryption.Sealing(out, PASSPHRASE)
    for start in range(0, size, 50_000):
        sealing.write(data[start:start + 50_000])
    sealing.finish()
    stream = out.getvalue()

    def opened(source: bytes) -> bytes:
        opening = encryption.Opening(io.BytesIO(source), PASSPHRASE)
        return b"".join(iter(lambda: opening.read(10_000), b""))

    assert opened(stream) == data
    head, step = encryption.HEADER, encryption.CHUNK + encryption.TAG
    chunks = [stream[at:at + step] for at in range(head, len(stream), step)]
    wrong = [stream[:-1], stream + b"x", stream[:head] + b"".join(chunks[:-1]), stream[:head] + b"".join(chunks + chunks[-1:])]
    wrong += [stream[:head] + b"".join([chunks[1], chunks[0], *chunks[2:]])] if len(chunks) > 1 else []
    wrong += [stream[:at] + bytes([stream[at] ^ 1]) + stream[at + 1:] for at in (0, 17, 30, 45, head, len(stream) - 1)]
    for source in wrong:
        with pytest.raises((BadBackup, ConfigError)):
            opened(source)


def test_each_guess_of_a_passphrase_is_dear():
    began = time.process_time()
    encryption._keys(PASSPHRASE, bytes(16), encryption.COST)
    assert time.process_time() - began > 0.05 and 128 * 8 * 2 ** encryption.COST[0] >= 64_000_000


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Of 32 kB: a filesystem of its own where that may be, else a limit on the size of files."""
    mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(folder)], capture_output=True).returncode == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 10, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_leaves_no_half_a_backup(box, tmp_path):
    (tmp_path / "stick").mkdir()
    box.settings["backup_dir"] = tmp_path / "stick"
    box.model("larger", os.urandom(200_000))
    with full_disk(tmp_path / "stick"):
        with pytest.raises(StorageFailed) as caught:
            box.backup(models=True)
        assert "full" in one_sentence(caught.value) or "too large" in one_sentence(caught.value)
        assert list((tmp_path / "stick").iterdir()) == []
    assert not list((box.folder / contents.WORK).iterdir())


def test_a_restore_onto_a_full_disk_changes_nothing(box, tmp_path):
    box.model("larger", os.urandom(200_000))
    path = box.backup(models=True).path
    (tmp_path / "disk").mkdir()
    with full_disk(tmp_path / "disk"):
        with pytest.raises(StorageFailed):
            box.restore(path, tmp_path / "disk" / "new")
        assert list((tmp_path / "disk").iterdir()) == []


def test_a_missing_stick_is_told_and_not_replaced_by_a_folder(box, tmp_path):
    box.settings["backup_dir"] = tmp_path / "stick" / "backups"
    with pytest.raises(StorageFailed, match="There is no folder") as caught:
        box.backup()
    assert "Plug in" in str(caught.value) and not (tmp_path / "stick").exists()


def test_an_empty_folder_has_nothing_to_back_up(tmp_path):
    with pytest.raises(NotFound, match="nothing to back up"):
        create.create(load_config({"data_dir": tmp_path}, {}), Wishes(), VERSION, NOW)


def test_only_one_backup_is_made_at_a_time(box):
    with create.workplace(box.folder), pytest.raises(InUse, match="Another backup"):
        box.backup()


# -- what may go ---------------------------------------------------------------------------------------------------------------


def test_a_year_of_nights_leaves_days_weeks_and_months():
    nights = [NOW + day * DAY_S for day in range(365)]
    keep = sorted(shelf.kept(nights, 7, 4, 6))
    assert keep[-7:] == nights[-7:] and 14 <= len(keep) <= 17 and nights[-1] - keep[0] > 5 * 28 * DAY_S


@given(st.lists(st.integers(0, 800 * 86_400).map(float), unique=True), *(st.integers(0, 9) for _ in range(3)))
def test_the_newest_is_always_kept_and_never_more_than_asked_for(made, daily, weekly, monthly):
    keep = shelf.kept(made, daily, weekly, monthly)
    assert keep <= set(made) and len(keep) <= max(1, daily + weekly + monthly)
    assert not made or max(made) in keep
    assert shelf.kept(keep, daily, weekly, monthly) == keep, "pruning again takes nothing more"


def test_pruning_never_takes_the_last_good_one(box):
    made = [box.backup(NOW + day * DAY_S) for day in range(4)]
    folder = made[0].path.parent
    for one in made[2:]:
        one.path.write_bytes(one.path.read_bytes()[:-1])
    with pytest.raises(BadBackup, match="none was deleted"):
        shelf.prune(folder, 2, 0, 0, NOW + 4 * DAY_S)
    assert len(shelf.all_of(folder)) == 4
    assert [one.name for one in shelf.prune(folder, 3, 0, 0, NOW + 4 * DAY_S)] == [made[0].name], "one good one stays"


def test_a_backup_of_a_day_to_come_neither_counts_nor_pushes_others_out(box):
    wrong = box.backup(NOW + 400 * DAY_S)
    right = [box.backup(NOW + day * DAY_S) for day in range(3)]
    gone = shelf.prune(wrong.path.parent, 2, 0, 0, NOW + 2 * DAY_S)
    assert [one.name for one in gone] == [right[0].name] and wrong.path.exists()


@pytest.mark.parametrize("name", ["models", "backups", "tls", "audit.db", "models/one"])
def test_a_link_in_the_data_folder_stops_a_restore(box, tmp_path, name):
    """Whoever is in the service could lead root to files that are not the service's."""
    path = box.backup().path
    kept = path.rename(tmp_path / path.name)
    target = box.folder / name
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    target.parent.mkdir(exist_ok=True)
    target.symlink_to("/etc")
    before = tree(box.folder)
    with pytest.raises(StorageFailed, match="is a link"):
        box.restore(kept)
    assert tree(box.folder) == before


# -- putting it back -----------------------------------------------------------------------------------------------------------


def test_the_former_data_are_kept_beside_and_the_models_and_backups_stay(box, tmp_path):
    box.model("gone", b"gone")
    path = box.backup().path
    shutil.rmtree(box.folder / "models" / "gone")
    (box.folder / "tls").mkdir()
    (box.folder / "tls" / "key.pem").write_text("of this box")
    box.write("What came later?", "This.")
    before = tree(box.folder)
    done = box.restore(path)
    assert done.former == box.folder.with_name("data.before-restore-20260921T141320Z") and done.missing == ["gone"]
    assert {name: digest for name, digest in tree(done.former).items()} == before
    assert answers(box.folder) == {"When is the lab open?": ANSWER} and "What came later?" in answers(done.former)
    assert (box.folder / "tls" / "key.pem").read_text() == "of this box"
    assert (box.folder / "models" / "small" / "small.gguf").read_bytes() == b"weights" * 999
    assert [one.name for one in shelf.all_of(box.folder / "backups")] == [path.name]
    again = box.restore(box.folder / "backups" / path.name)
    assert again.former.name.endswith("Z-2") and not restoring(box.folder).exists()


def test_nothing_is_restored_under_a_running_service_and_none_starts_during_a_restore(box):
    path = box.backup().path
    with served(box.folder), untouched(box):
        with pytest.raises(InUse, match="A service works with") as caught:
            box.restore(path)
        assert "systemctl stop" in str(caught.value)
    with restore._alone(box.folder), pytest.raises(InUse, match="being restored"), served(box.folder):
        pass


def test_nothing_is_restored_under_a_job_that_goes_on_without_its_service(box):
    path = box.backup().path
    folder = box.folder / "jobs" / "1"
    folder.mkdir(parents=True)
    job = Job(1, "Convert", "Ann", (), NOW, "running", pid=os.getpid(), born=psutil.Process().create_time())
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    with untouched(box), pytest.raises(InUse, match="The job 'Convert' still works"):
        box.restore(path)
    (folder / "job.json").write_text(json.dumps(asdict(replace(job, born=1.0))))
    assert box.restore(path).former


def test_what_was_interrupted_between_its_last_steps_is_finished_by_the_next_restore_or_start(box):
    path = box.backup().path
    def start(folder: Path, name: str) -> None:
        with served(folder):
            pass

    for finish in (restore.finish, start):
        done = box.restore(path)
        box.folder.rename(restoring(box.folder))
        finish(box.folder, path.name)
        assert (box.folder / COMPLETE).is_file() and not restoring(box.folder).exists()
        assert answers(box.folder) == answers(done.former)
    restoring(box.folder).mkdir()
    (restoring(box.folder) / COMPLETE).write_text("{}")  # killed before the first rename
    with pytest.raises(BadBackup):
        box.restore(box.folder / "settings.toml")
    assert not restoring(box.folder).exists(), "what was not put in place is not put there later"
    restoring(box.folder).mkdir()
    box.folder.rename(box.folder.with_name("away"))
    assert not finish_switch(box.folder), "what is not complete takes nobody's place"


def test_a_folder_that_cannot_be_replaced_is_told_before_anything_is_done(box, monkeypatch):
    path = box.backup().path
    monkeypatch.setattr(os.path, "ismount", lambda folder: str(folder) == str(box.folder))
    with untouched(box), pytest.raises(StorageFailed, match="mount point") as caught:
        box.restore(path)
    assert "--into" in str(caught.value)


def test_the_commands_say_what_they_did_and_what_is_wrong(box, capsys):
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["backup", words[0], f"--data-dir={box.folder}", *words[1:]])
        return code, *capsys.readouterr()

    assert run("list") == (0, "There is no backup yet. Make one: appliance backup create\n", "") and not (box.folder / "backups").exists()
    code, said, warned = run("create", "--cache")
    assert code == 0 and "is made and checked" in said and "not encrypted" in warned
    (one,) = json.loads(run("list", "--json")[1])
    assert one["fault"] is None and one["name"] in run("list")[1]
    assert "good. 5 files" in run("verify")[1]
    code, said, _ = run("restore", one["name"])
    assert code == 0 and "before-restore" in said and "revoke again" in said and "small" not in said
    assert run("restore", "another") == (64, "", f"appliance: There is no backup 'another' in {box.folder / 'backups'}. `appliance backup list` shows what there is.\n")
    assert run("prune")[1] == "No backup is old enough to go.\n"
    box.folder.rename(restoring(box.folder))
    assert "was interrupted" in run("restore", one["name"])[1]
    Path(one["path"]).write_bytes(Path(one["path"]).read_bytes()[:-1])
    code, said, wrong = run("verify", one["name"])
    assert (code, said) == (65, "") and "its end is missing" in wrong and "Traceback" not in wrong
    assert "not good" in run("list")[1]


KILLS = """
import hashlib, json, os, random, signal, sys
from pathlib import Path
from appliance.backup import restore

folder, path = Path(os.environ["FOLDER"]), Path(os.environ["BACKUP"])
chance = random.Random(5)

def run(kill_at):
    # Kills this process when it is about to do what Python tells auditors as number kill_at: open, rename, mkdir, link, remove ...
    seen = []
    def audit(event, args):
        if event == "open" or event.startswith(("os.", "shutil.")):
            seen.append(event)
            if len(seen) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(audit)
    if not restore.finish(folder, path.name):
        restore.restore(path, folder, None, "0.1.0", 1_790_000_000.0 + (kill_at or 0))
    return seen

def forked(kill_at):
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write_end, json.dumps(run(kill_at)).encode())
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(1)
    os.close(write_end)
    with open(read_end, "rb") as told:
        words = told.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), json.loads(words) if words else []

def data_of(place):
    return hashlib.sha256((place / "state.db").read_bytes()).hexdigest()

code, events = forked(None)
assert code == 0, code
for beside in folder.parent.glob("*before-restore*"):
    beside.rename(beside.with_name("first"))
good = data_of(folder)
renames = [number for number, event in enumerate(events, 1) if event == "os.rename"]
moments = sorted({*renames, *(number + 1 for number in renames if number < len(events)), *chance.sample(range(1, len(events) + 1), 20)})
for number, moment in enumerate(moments):
    (folder / "state.db").write_bytes(b"former data %d" % number)
    former = data_of(folder)
    code, _ = forked(moment)
    assert code == -signal.SIGKILL, (moment, code)
    kept = [place for place in folder.parent.iterdir() if place.is_dir() and (place / "state.db").is_file() and data_of(place) == former]
    assert kept, f"the former data are lost at {moment}: {events[moment - 1]}"
    assert forked(None)[0] == 0
    assert data_of(folder) == good and not folder.with_name(folder.name + ".restoring").exists()
    assert [place for place in folder.parent.iterdir() if (place / "state.db").is_file() and data_of(place) == former], f"lost by the next run after {moment}"
print(json.dumps([len(moments), len(renames)]))
"""


@pytest.mark.process
def test_a_restore_killed_at_any_moment_is_finished_by_the_next_run_and_nothing_is_lost(box, tmp_path):
    kept = tmp_path / "stick.tar.gz"
    kept.write_bytes(box.backup(models=True).path.read_bytes())
    moments, renames = json.loads(python(KILLS, FOLDER=str(box.folder), BACKUP=str(kept)))
    assert moments >= 20 and renames == 2


@contextmanager
def as_nobody(*folders: Path) -> Iterator[None]:
    """Where root runs the tests: as a user who owns these folders and nothing else."""
    root = os.geteuid() == 0
    for folder in folders if root else ():
        for place, _, files in os.walk(folder):
            for path in (place, *(os.path.join(place, name) for name in files)):
                os.chown(path, 65534, 65534)
    if root:
        os.setegid(65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)


def test_who_may_not_replace_the_folder_is_told_to_be_root_and_what_root_restores_is_the_services(tmp_path):
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to other users
        parent = Path(place)
        parent.chmod(0o755)
        box = Box(parent / "data")
        path = box.backup().path
        parent.chmod(0o555)
        with as_nobody(box.folder):
            with pytest.raises(PermissionDenied, match="as root"):
                box.restore(path)
        parent.chmod(0o755)
        owner = box.folder.stat().st_uid
        box.restore(path)
        assert {found.stat().st_uid for found in (box.folder, *box.folder.rglob("*"))} == {owner}
        assert box.backup(NOW + 1).path.stat().st_uid == (box.folder / contents.WORK).stat().st_uid == owner
