"""`appliance people` and `appliance keys`: for the one who cannot sign in any more, and for scripts."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from appliance.access.service import Access
from appliance.cli import main

PASSWORD = "correct horse battery staple"


@pytest.fixture
def run(capsys, monkeypatch, quick):
    def command(*words: str, given: str = "") -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        code = main(words)
        said = capsys.readouterr()
        return code, said.out + said.err

    return command


@pytest.fixture
def quick(monkeypatch):
    """A hash of one round, so that the tests do not wait for it."""
    from werkzeug.security import generate_password_hash

    monkeypatch.setattr("appliance.access.service.generate_password_hash", lambda password: generate_password_hash(password, "pbkdf2:sha256:1"))


def access() -> Access:
    found = Access(Path(os.environ["APPLIANCE_DATA_DIR"]), lambda level, words: None)
    found.open()
    return found


def test_people_are_added_given_other_passwords_and_removed(run):
    assert run("people", "list") == (0, "Nobody may sign in yet.\n")
    assert run("people", "add", "Ann", "--password-file", "-", given=f"{PASSWORD}\n")[0] == 0
    assert run("people", "add", "Bob", "--role", "reviewer", "--password-file", "-", given=PASSWORD)[0] == 0
    assert {(row["name"], row["role"]) for row in json.loads(run("people", "list", "--json")[1])} == {("Ann", "admin"), ("Bob", "reviewer")}
    assert run("people", "password", "ann", "--password-file", "-", given="another long one")[0] == 0
    one = access()
    try:
        assert one.sign_in("Ann", "another long one", "127.0.0.1", "")[1].person.role == "admin"
    finally:
        one.close()
    assert run("people", "remove", "Bob") == (0, "Bob may sign in no more.\n")
    assert "Bob" not in run("people", "list")[1]


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        (("people", "add", "Eve", "--role", "queen", "--password-file", "-"), PASSWORD, "There is no role 'queen'"),
        (("people", "add", "Eve", "--password-file", "-"), "short", "10 to 1000 characters"),
        (("people", "add", "Eve", "--password-file", "/nowhere"), "", "/nowhere cannot be read"),
        (("people", "password", "Nobody", "--password-file", "-"), PASSWORD, "Nobody is called 'Nobody'"),
        (("people", "remove", "Nobody"), "", "Nobody is called 'Nobody'"),
        (("keys", "make", "a/b"), "", "A key cannot be named 'a/b'"),
        (("keys", "revoke", "99"), "", "99"),
    ],
)
def test_mistakes_are_told_and_change_nothing(run, words, given, said):
    code, words = run(*words, given=given)
    assert code == 64 and said in words
    assert json.loads(run("people", "list", "--json")[1]) == [] == json.loads(run("keys", "list", "--json")[1])


def test_a_key_is_printed_alone_once_and_revoked(run):
    code, key = run("keys", "make", "till")
    assert code == 0 and key.startswith("ak-") and len(key.split()) == 1
    assert key.strip() not in run("keys", "list")[1] and "till" in run("keys", "list")[1]
    one = access()
    try:
        assert [name for name in one.key_digests()[0].values()]
    finally:
        one.close()
    assert run("keys", "revoke", "1")[0] == 0
    assert json.loads(run("keys", "list", "--json")[1])[0]["revoked"]


def test_what_the_commands_do_stands_in_the_audit_log(run):
    run("people", "add", "Ann", "--password-file", "-", given=PASSWORD)
    run("keys", "make", "till")
    run("keys", "revoke", "1")
    found = json.loads(run("audit", "list", "--json")[1])
    rows = found if isinstance(found, list) else found["entries"]
    assert {row["action"] for row in rows} >= {"person.add", "key.make", "key.revoke"}
