"""People, passwords and sessions."""

from __future__ import annotations

import pytest

from appliance.access import people, service
from appliance.access.limits import Limits
from appliance.access.service import Access
from appliance.access.throttle import FREE, Throttle
from appliance.db.migrations import Schema
from appliance.db.writer import Writer
from appliance.errors import AuthenticationFailed, InvalidRequest, PermissionDenied, TooManyTries

PASSWORD = "correct horse battery"


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def access(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(service, "generate_password_hash", lambda password: service.people.digest_of(password).hex())
    monkeypatch.setattr(service, "check_password_hash", lambda known, password: known == service.people.digest_of(password).hex())
    made = Access(tmp_path, lambda level, words: None, now=clock)
    made.open()
    yield made
    made.close()


def first(access: Access) -> str:
    return access.make_first(access.code, "Ann", PASSWORD, "10.0.0.1", "a browser")[0]


def test_the_first_person_needs_the_code_of_the_log_and_is_the_only_first_one(access):
    with pytest.raises(PermissionDenied, match="not the code"):
        access.make_first("AAAA-BBBB-CCCC", "Eve", PASSWORD, "10.0.0.9", "")
    code = access.code
    token, session = access.make_first(code.lower(), " Ann ", PASSWORD, "10.0.0.1", "a browser")
    assert (session.person.name, session.person.role) == ("Ann", "admin")
    assert access.signed_in(token).session.person.name == "Ann"
    with pytest.raises(PermissionDenied, match="there already"):
        access.make_first(code, "Eve", PASSWORD, "10.0.0.9", "")


def test_a_box_that_has_people_has_no_code(access, tmp_path):
    first(access)
    again = Access(tmp_path, lambda level, words: None)
    again.open()
    assert again.code == ""
    again.close()


def test_real_passwords_are_stored_as_scrypt_hashes(tmp_path):
    access = Access(tmp_path, lambda level, words: None)
    access.open()
    try:
        first(access)
        access.sign_in("ann", PASSWORD, "10.0.0.1", "")
        with pytest.raises(AuthenticationFailed):
            access.sign_in("ann", "another one here", "10.0.0.1", "")
        with pytest.raises(AuthenticationFailed):
            access.sign_in("nobody", PASSWORD, "10.0.0.1", "")
    finally:
        access.close()
    kept = (tmp_path / service.FILE).read_bytes()
    assert b"scrypt:" in kept and PASSWORD.encode() not in kept


@pytest.mark.parametrize("name, password", [("", PASSWORD), ("x" * 65, PASSWORD), ("a\nb", PASSWORD), ("Bob", "short"), ("Bob", "x" * 1001)])
def test_bad_names_and_passwords_are_refused(access, name, password):
    with pytest.raises(InvalidRequest):
        access.add(name, "user", password)


def test_names_differ_by_more_than_their_case(access):
    access.add("Ann", "admin", PASSWORD)
    with pytest.raises(InvalidRequest, match="already"):
        access.add("ANN", "user", PASSWORD)


def test_a_session_ends_when_it_is_not_used_and_after_its_time(access, clock):
    token = first(access)
    for _ in range(3):
        clock.time += service.IDLE_S - 1
        signed = access.signed_in(token)
        token = signed.token or token
    clock.time += service.IDLE_S + 1
    assert access.signed_in(token) is None
    token, _ = access.sign_in("Ann", PASSWORD, "10.0.0.1", "")
    began = clock.time
    while clock.time - began < service.LONGEST_S - 1000:
        clock.time += 900
        signed = access.signed_in(token)
        token = signed.token or token
    clock.time = began + service.LONGEST_S + 1
    assert access.signed_in(token) is None and access.signed_in("made up") is None


def test_a_token_is_exchanged_and_the_old_one_is_good_for_a_moment(access, clock):
    token = first(access)
    assert access.signed_in(token).token is None
    clock.time += service.RENEW_S + 1
    fresh = access.signed_in(token).token
    assert fresh and access.signed_in(fresh).token is None
    assert access.signed_in(token).token is None, "a request that was sent before"


def test_a_copy_of_an_old_token_ends_the_session(access, clock):
    token = first(access)
    clock.time += service.RENEW_S + 1
    fresh = access.signed_in(token).token
    clock.time += service.GRACE_S + 1
    assert access.signed_in(token) is None and access.signed_in(fresh) is None


def test_signing_out_and_another_password_end_sessions(access, clock):
    token = first(access)
    clock.time += service.RENEW_S + 1
    fresh = access.signed_in(token).token
    access.sign_out(token)  # sent before the new token arrived
    assert access.signed_in(fresh) is None
    one, session = access.sign_in("Ann", PASSWORD, "10.0.0.1", "")
    access.change(session.person.id, None, "a new one, longer", "Bob")
    assert access.signed_in(one) is None
    access.sign_in("Ann", "a new one, longer", "10.0.0.1", "")


def test_nobody_gets_in_with_a_password_that_is_being_changed(access, monkeypatch):
    first(access)
    right = access._right

    def slow(known, password):
        found = right(known, password)
        access.change(access.everybody()[0].id, None, "a new one, longer", "Bob")
        return found

    monkeypatch.setattr(access, "_right", slow)
    with pytest.raises(AuthenticationFailed, match="changed"):
        access.sign_in("Ann", PASSWORD, "10.0.0.1", "")


def test_guessing_gets_slow_for_an_address_and_never_keeps_the_owner_out(access, clock):
    first(access)
    for number in range(FREE):
        with pytest.raises(AuthenticationFailed):
            access.sign_in(f"name {number}", PASSWORD, "10.0.9.9", "")
    with pytest.raises(TooManyTries) as refused:
        access.sign_in("Ann", PASSWORD, "10.0.9.9", "")
    assert refused.value.retry_after_s and refused.value.status == 429
    for number in range(40):  # a crowd of addresses
        with pytest.raises((AuthenticationFailed, TooManyTries)):
            access.sign_in("Ann", f"guess number {number}", f"10.0.{number}.1", "")
        clock.time += 4
    clock.time += service.LONGEST_BY_NAME_S
    access.sign_in("ann", PASSWORD, "10.0.0.1", "")


def test_the_addresses_of_one_ipv6_network_are_one(access):
    first(access)
    for number in range(FREE):
        with pytest.raises(AuthenticationFailed):
            access.sign_in(f"name {number}", PASSWORD, f"fd00::{number}", "")
    with pytest.raises(TooManyTries):
        access.sign_in("Ann", PASSWORD, "fd00::ffff", "")
    access.sign_in("Ann", PASSWORD, "fd00:0:0:1::1", "")


def test_a_crowd_that_signs_in_hashes_two_at_a_time(access, monkeypatch):
    first(access)
    monkeypatch.setattr(service, "HASH_WAIT_S", 0.01)
    with access._hashing(), access._hashing(), pytest.raises(TooManyTries, match="at once"):
        access.sign_in("Ann", PASSWORD, "10.0.0.1", "")
    access.sign_in("Ann", PASSWORD, "10.0.0.1", "")


def test_a_box_that_had_keys_does_not_open_by_itself(access, tmp_path):
    assert access.key_digests() == ({}, False)
    number, key = access.make_key("till", "Ann")
    [(digest, kept)], needed = access.key_digests()[0].items(), access.key_digests()[1]
    assert (digest, kept.name, needed) == (people.digest_of(key), "till", True)
    access.revoke_key(number, "Ann")
    assert access.key_digests() == ({}, True)
    assert Access(tmp_path, lambda level, words: None).key_digests() == ({}, True), "a file that is not open"
    access.open_to_all("Ann")
    assert access.key_digests() == ({}, False)
    for name in ("a/b", "anonymous", ""):
        with pytest.raises(InvalidRequest):
            access.make_key(name, "Ann")


def test_keys_are_found_before_the_file_is_open_and_a_file_that_cannot_be_read_counts(access, tmp_path):
    assert not service.has_keys(tmp_path / "nowhere") and not service.has_keys(tmp_path)
    number, _ = access.make_key("till", "Ann")
    assert service.has_keys(tmp_path)
    access.revoke_key(number, "Ann")
    assert service.has_keys(tmp_path), "else nobody could make another key in the admin page"
    access.open_to_all("Ann")
    assert not service.has_keys(tmp_path)
    broken, first = tmp_path / "broken", tmp_path / "first"
    for folder in (broken, first):
        folder.mkdir()
    (broken / service.FILE).write_text("no database, but something else that is long enough to be taken for one" * 20)
    assert service.has_keys(broken)
    Writer(first / service.FILE, Schema("access", people.SCHEMA.migrations[:1]), precious=True, log=lambda level, words: None).close()
    assert not service.has_keys(first), "a file from before there were keys"


def test_a_file_of_the_first_version_keeps_its_keys_and_gets_limits_for_them(tmp_path):
    old = Schema("access", people.SCHEMA.migrations[:2])
    with Writer(tmp_path / service.FILE, old, precious=True, log=lambda level, words: None) as writer:
        writer.do(lambda db: db.execute("INSERT INTO keys (name, digest, hint, made_by, created) VALUES ('till', ?, 'ak-', 'Ann', 1)", [b"x"]).rowcount, 5)
        writer.do(lambda db: people.add(db, "Bob", "metrics", "hash", 1.0), 5)
    access = Access(tmp_path, lambda level, words: None)
    access.open()
    try:
        [key] = access.keys()
        assert (key.name, key.role, key.limits) == ("till", "user", Limits())
        access.change_key(key.id, "metrics", {"at_once": 2, "models": ("a", "b")}, "Ann")
        access.change_key(key.id, None, {"expires": 5.0}, "Ann")
        [key] = access.keys()
        assert (key.role, key.limits) == ("metrics", Limits(at_once=2, models=("a", "b"), expires=5.0))
        assert access.everybody()[0].role == "user", "metrics is a role of keys"
    finally:
        access.close()


def test_pauses_double_up_to_a_limit_and_wrong_tries_are_forgotten(clock):
    throttle = Throttle(clock)
    pauses = []
    for _ in range(20):
        throttle.failed("x")
        pauses.append(throttle.pause_s("x", "y"))
        clock.time += pauses[-1]
    assert pauses[: FREE - 1] == [0.0] * (FREE - 1) and pauses[FREE - 1 : FREE + 3] == [2.0, 4.0, 8.0, 16.0] and max(pauses) == 900.0
    clock.time += 4000
    throttle.failed("x")
    assert throttle.pause_s("x") == 0.0


def test_sessions_that_are_over_are_removed(access, clock):
    first(access)
    clock.time += service.IDLE_S + 1
    access.tick()
    access._writer.do(lambda db: None, 5)
    with access._readers.reading() as db:
        assert db.execute("SELECT count(*) FROM sessions").fetchone()[0] == 0
    assert people.ROLES[0] == "admin"


def test_an_ipv4_client_of_a_socket_for_both_is_itself():
    from appliance.access.service import _network

    assert _network("::ffff:10.0.0.5") == _network("10.0.0.5") != _network("::ffff:10.0.0.6")
    assert _network("2001:db8::1") == _network("2001:db8::2")
