"""People, passwords and sessions."""

from __future__ import annotations

import pytest

from appliance.access import people, service
from appliance.access.service import Access
from appliance.access.throttle import FREE, Throttle
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
    clock.time += service.GRACE_S + 1
    assert access.signed_in(token) is None and access.signed_in(fresh) is not None


def test_signing_out_and_another_password_end_sessions(access):
    token = first(access)
    access.sign_out(token)
    assert access.signed_in(token) is None
    one, session = access.sign_in("Ann", PASSWORD, "10.0.0.1", "")
    with pytest.raises(AuthenticationFailed):
        access.change_password(session.person, "wrong password", "a new one, longer")
    access.change_password(session.person, PASSWORD, "a new one, longer")
    assert access.signed_in(one) is None
    access.sign_in("Ann", "a new one, longer", "10.0.0.1", "")


def test_guessing_gets_slow_for_the_name_and_for_the_address(access, clock):
    first(access)
    for number in range(FREE):
        with pytest.raises(AuthenticationFailed):
            access.sign_in("Ann", f"guess number {number}", f"10.0.1.{number}", "")
    with pytest.raises(TooManyTries) as refused:
        access.sign_in("ann", PASSWORD, "10.0.0.1", "")
    assert refused.value.retry_after_s and refused.value.status == 429
    clock.time += refused.value.retry_after_s
    access.sign_in("Ann", PASSWORD, "10.0.0.1", "")
    for number in range(FREE):
        with pytest.raises(AuthenticationFailed):
            access.sign_in(f"name {number}", PASSWORD, "10.0.9.9", "")
    with pytest.raises(TooManyTries):
        access.sign_in("Ann", PASSWORD, "10.0.9.9", "")


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
