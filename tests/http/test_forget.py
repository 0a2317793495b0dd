"""Forgetting a person and a key: afterwards no file of the data folder has the name, or what was asked with it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from in_process import OURS, PASSWORD, administrator

from appliance.cache import answers, reviewed
from appliance.cli import main
from appliance.trail.entries import Wish

NAME, WORD, ELSE = "Zelda Quist", "quokka", "wombat"


def post(client, path, **body):
    return client.post(f"/admin/api/{path}", json=body, headers=OURS)


class Folder:
    """A data folder in use, by Zelda and by others."""

    def __init__(self, make_service) -> None:
        self.path = Path(os.environ["APPLIANCE_DATA_DIR"])
        self.service = service = make_service(people=True, remember=self.path)
        self.ann = administrator(service)
        self.number = post(self.ann, "people", name=NAME, role="admin", password=PASSWORD).get_json()["person"]
        self.zelda = service.client
        self.zelda.environ_base |= {"REMOTE_ADDR": "192.0.2.77", "HTTP_USER_AGENT": "Zelda Quist's phone"}
        self.zelda.post("/admin/sign-in", data={"name": NAME, "password": PASSWORD}, headers=OURS)
        self.bearer = {name: {"Authorization": f"Bearer {post(self.zelda, 'keys', name=name).get_json()['key']}"} for name in (NAME, "till")}
        for name, word in ((NAME, WORD), ("till", ELSE)):
            assert self.ask(word, name).headers["x-cache"] == "miss"
        cache = service.cache
        for namespace, word in ((f"of:{NAME}", WORD), (f"of:{NAME}/inner", WORD), ("of:till", ELSE)):
            cache.write("answers", lambda db, n=namespace, w=word: answers.note_near(db, answers.Near(n, f"a {w}", f"the {w}", 0.9, 0.5, w, 0.0)))
            cache.judge(reviewed.Verdict(namespace, None, f"a {word}", f"the {word}", 0.9, reviewed.WRONG, NAME))
        post(self.zelda, "reviewed", questions=[f"where is the {WORD}"], answer=f"the {WORD} is here", namespace=f"of:{NAME}")
        post(self.zelda, "reviewed", questions=[f"where is the {ELSE}"], answer=f"the {ELSE} is here")
        cache.tick()
        cache._save()
        job = service.jobs.submit(f"For {NAME}", NAME, lambda folder: [["models", "list"]])
        service.jobs._end(service.jobs.find(job.number), "done", "")
        service.usage._flush()
        post(self.zelda, "settings", cache_exclude=["somebody"])
        post(self.zelda, "settings", queue_size=9)

    def ask(self, word: str, name: str):
        body = {"messages": [{"role": "user", "content": f"may the {word} stay"}]}
        answer = self.service.client.post("/v1/chat/completions", json=body, headers=self.bearer[name])
        self.service.cache._answers.do(lambda db: None, 5)
        return answer

    def files_with(self, *words: str) -> dict[str, list[str]]:
        """Files by word, in whatever case; also what SQLite keeps beside its files."""
        files = {str(path.relative_to(self.path)): path.read_bytes().lower() for path in self.path.rglob("*") if path.is_file()}
        return {word: found for word in words if (found := [name for name, data in files.items() if word.lower().encode() in data])}


@pytest.fixture
def folder(make_service):
    return Folder(make_service)


def test_no_file_has_the_name_or_the_words_any_more(folder):
    before = folder.files_with(NAME, WORD, "192.0.2.77")
    assert {file.removesuffix("-wal") for file in before[NAME]} >= {"access.db", "audit.db", "cache.db", "state.db", "usage.db", "jobs/1/job.json"}
    assert any("cache.db" in file for file in before[WORD]) and before["192.0.2.77"]
    done = post(folder.ann, "forget", name=NAME.upper(), account=True)
    assert done.status_code == 200, done.text
    found = done.get_json()
    assert found["removed"] == {
        "sessions": 1, "accounts": 1, "keys": 1, "remembered answers": 1, "near misses": 2, "reviewed answers": 1, "verdicts": 3, "hours of usage": 1, "jobs": 1,
        "names in the audit log": 3,  # hers, her address, and a namespace in a detail
    }  # fmt: skip
    assert any("Backups" in words for words in found["stays"]) and len(found["stays"]) == 2
    assert folder.files_with(NAME, WORD, "192.0.2.77", "quist") == {}, "while the service runs"
    assert folder.files_with(ELSE, "till"), "others keep theirs"
    assert folder.ask(ELSE, "till").headers["x-cache"] == "hit" and folder.ask(ELSE, NAME).status_code == 401
    assert folder.zelda.get("/admin/api/now").status_code == 401
    assert post(folder.ann, "audit/verify").get_json()["good"]
    assert folder.ann.get("/admin/api/access").get_json()["key_required"] and NAME not in folder.ann.get("/admin/access").text
    folder.service.cache.tick()
    folder.service.stop()
    assert folder.files_with(NAME, WORD, "192.0.2.77", "quist") == {}, "and when it is stopped"


def test_a_forgotten_name_can_be_had_again_and_has_nothing_of_before(folder):
    post(folder.ann, "forget", name=NAME, account=True)
    folder.bearer[NAME] = {"Authorization": f"Bearer {post(folder.ann, 'keys', name=NAME).get_json()['key']}"}
    assert folder.ask(WORD, NAME).headers["x-cache"] == "miss"
    hers = folder.service.trail.search(Wish(who=NAME))
    assert hers == []


def test_an_account_that_is_not_to_go_stays_with_its_name_in_the_log(folder):
    found = post(folder.ann, "forget", name=NAME).get_json()
    assert found["removed"]["remembered answers"] == 1 and found["removed"]["names in the audit log"] == 0 and "accounts" not in found["removed"]
    assert "stays" in found["stays"][0]
    assert folder.files_with(WORD) == {} and folder.service.trail.search(Wish(who=NAME))
    assert folder.ask(WORD, NAME).headers["x-cache"] == "miss", "the key is good still"
    assert folder.service.trail.search(Wish(), 1)[0].action == "person.forget" and folder.service.trail.verify()[1] is None


def test_the_last_administrator_is_not_forgotten_and_nothing_is_changed(folder):
    post(folder.ann, "forget", name=NAME, account=True)
    cached = folder.service.cache.reading("answers")
    refused = post(folder.ann, "forget", name="ann", account=True)
    assert refused.status_code == 400 and "last administrator" in refused.get_json()["error"]["message"]
    assert folder.ann.get("/admin/api/now").status_code == 200, "the session is there as well"
    with cached as db:
        assert db.execute("SELECT count(*) FROM answers").fetchone()[0] == 1


@pytest.mark.parametrize("name", ["", "   ", "cache", "everybody", "a\nb", "x" * 65, 7])
def test_what_is_no_name_of_a_person_or_key_is_refused_in_words(folder, name):
    assert post(folder.ann, "forget", name=name, account=True).status_code == 400


def test_a_name_nobody_has_removes_nothing(folder):
    found = post(folder.ann, "forget", name="nobody", account=True).get_json()
    assert not any(found["removed"].values())
    assert folder.files_with(NAME, WORD).keys() == {NAME, WORD}


def test_the_command_does_the_same_beside_the_running_service(folder, capsys):
    assert main(["forget", NAME]) == 64 and "--yes" in capsys.readouterr().err
    assert folder.files_with(NAME)
    assert main(["forget", NAME, "--account", "--yes"]) == 0
    out = capsys.readouterr().out
    assert "1 remembered answers removed" in out and "1 accounts removed" in out and "Backups" in out
    assert folder.files_with(NAME, WORD, "192.0.2.77") == {}
    folder.service.renew_auth()
    assert folder.ask(ELSE, "till").headers["x-cache"] == "hit" and folder.ask(WORD, NAME).status_code == 401
    told = folder.service.trail.search(Wish(), 1)[0]
    assert told.kind == "command" and told.action == "person.forget" and told.detail["removed"]["sessions"] == 1
    assert main(["audit", "verify"]) == 0


def test_settings_that_have_the_name_are_told(folder):
    post(folder.ann, "settings", cache_exclude=[NAME], cache_share=[f"{NAME}:zoo"])
    found = post(folder.ann, "forget", name=NAME, account=True).get_json()
    assert any("settings.toml names it" in words for words in found["stays"])
    assert any("namespace 'zoo'" in words for words in found["stays"])
    assert set(folder.files_with(NAME)[NAME]) == {"settings.toml"}


def test_vectors_go_with_their_answers(folder):
    vector = np.linspace(1, 2, 384).astype(np.float32)
    cache = folder.service.cache
    number = cache._answers.do(lambda db: db.execute("SELECT id FROM answers WHERE namespace = ?", [f"of:{NAME}"]).fetchone()[0], 5)
    cache._answers.do(lambda db: answers.set_vector(db, number, vector), 5)
    cache.tick()
    cache._save()
    bits = vector.astype(np.float16).tobytes()

    def holding():
        return [path.name for path in folder.path.rglob("*") if path.is_file() and bits in path.read_bytes()]

    assert holding() and list(folder.path.glob("cache.index/*"))
    post(folder.ann, "forget", name=NAME, account=True)
    assert holding() == [] and not list(folder.path.glob("cache.index/*"))
