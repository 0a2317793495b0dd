"""The box's own certificate: who may sign what, when it is renewed, and what new connections are shown. Handshakes are in memory."""

from __future__ import annotations

import json
import os
import ssl
import stat
import time
from pathlib import Path

import pytest

from appliance import storage, tls
from appliance.certificates import Authority, Facts, facts, is_private, plain
from appliance.cli import main
from appliance.config import Config, load_config
from appliance.errors import ApplianceError, ConfigError, InvalidRequest, NotFound
from appliance.tls_context import LOOK_EVERY_S, SERVER, Tls, context_of

NOW = time.time()  # OpenSSL asks no other clock
DAY_S = 86400.0
PRESENT = ("box", "box.local", "localhost", "127.0.0.1", "192.168.1.5")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With an authority and a certificate of it."""
    tls.make(tmp_path / "tls", ["box.example.org"], NOW, present=PRESENT)
    return tmp_path / "tls"


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost") -> ssl.SSLObject:
    """A handshake without a socket; the client's side of it. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(down, up, server_hostname=name)
    ours = server.wrap_bio(up, down, server_side=True)
    for side in (theirs, ours, theirs, ours, theirs):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    assert theirs.version() == ours.version()
    return theirs


def trusting(ca: bytes) -> ssl.SSLContext:
    client = ssl.create_default_context(cadata=ca.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    return client


def seen(folder: Path) -> Facts:
    return facts((folder / SERVER).read_bytes())


# -- what is signed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PRESENT, "box.example.org"])
def test_a_client_that_trusts_the_authority_accepts_each_name(folder, name):
    server, client = context_of(folder / SERVER, folder / SERVER), trusting((folder / "ca.crt").read_bytes())
    assert ("commonName", "box") in shake(server, client, name).getpeercert()["subject"][0]


def test_a_name_the_certificate_is_not_for_is_refused(folder):
    server, client = context_of(folder / SERVER, folder / SERVER), trusting((folder / "ca.crt").read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(server, client, "other.local")


@pytest.mark.parametrize("name", ["bank.example.com", "example.org", "8.8.8.8", "2001:db8::1"])
def test_clients_refuse_what_the_authority_signs_for_strangers(folder, tmp_path, name):
    authority = tls.read_authority(folder)
    assert not authority.allows(name)
    stolen = tmp_path / "stolen.pem"
    stolen.write_bytes(authority.issue([name], NOW))
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shake(context_of(stolen, stolen), trusting(authority.public_pem()), name)


def test_the_authority_cannot_make_another_one_and_lives_for_ten_years(folder):
    from cryptography import x509

    found = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert 3640 < tls.summary(folder, NOW)["ca"]["ends_in_days"] <= 3650
    assert 390 < tls.summary(folder, NOW)["ends_in_days"] <= 397


def test_a_certificate_ends_with_its_authority():
    authority = Authority.make("a", {"local"}, ["box"], NOW)
    assert facts(authority.issue(["box"], NOW + 3600 * DAY_S)).ends == authority.facts.ends


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_tls_1_2_and_1_3_are_spoken(folder, version):
    client = trusting((folder / "ca.crt").read_bytes())
    client.minimum_version = client.maximum_version = ssl.TLSVersion[version.replace(".", "_")]
    assert shake(context_of(folder / SERVER, folder / SERVER), client).version() == version


def test_a_client_that_speaks_tls_1_1_only_is_refused(folder):
    server, client = context_of(folder / SERVER, folder / SERVER), trusting((folder / "ca.crt").read_bytes())
    with pytest.warns(DeprecationWarning):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    for context in (client, server):
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # they could, if the version were allowed
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        shake(server, client)
    with pytest.warns(DeprecationWarning):
        server.minimum_version = ssl.TLSVersion.TLSv1_1
    assert shake(server, client).version() == "TLSv1.1"


def test_http_1_1_is_agreed_on(folder):
    client = trusting((folder / "ca.crt").read_bytes())
    client.set_alpn_protocols(["h2", "http/1.1"])
    assert shake(context_of(folder / SERVER, folder / SERVER), client).selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize(("name", "as_written"), [("Box.Local.", "box.local"), ("fd00::0001", "fd00::1"), ("müller.lan", "xn--mller-kva.lan"), ("a_b", "a_b")])
def test_names_are_brought_into_one_form(name, as_written):
    assert plain(name) == as_written


@pytest.mark.parametrize("name", ["", "a b", "-a", "a..b", "*.local", "a" * 64, "a." * 130, "http://box", "box:80", "ü" * 60])
def test_what_is_no_name_is_refused(name, tmp_path):
    with pytest.raises(InvalidRequest, match="neither a domain name nor an address"):
        tls.make(tmp_path, [name], NOW, present=PRESENT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("address", "private"), [("10.1.2.3", True), ("fd00::1", True), ("fe80::1%eth0", False), ("8.8.8.8", False), ("box", False)])
def test_private_addresses_are_told_from_others(address, private):
    assert is_private(address) == private


def test_the_box_knows_its_names_and_only_its_private_addresses(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Box7.example.org")
    found = tls.box_names()
    assert found[:6] == ["box7.example.org", "box7", "box7.local", "localhost", "127.0.0.1", "::1"]
    assert all(map(is_private, found[4:]))


# -- files --------------------------------------------------------------------------------------------------------------------


def test_keys_are_the_owners_alone(folder):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"ca.pem": 0o600, "server.pem": 0o600, "ca.crt": 0o644}


def test_what_root_writes_belongs_to_the_service(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda number, user, group: given.append((user, group)))
    storage.write_atomically(tmp_path / "key", b"x", secret=True)
    storage.write_atomically(tmp_path / "open", b"x")
    found = os.stat(tmp_path)
    assert given == [(found.st_uid, found.st_gid)] * 2


def test_making_again_changes_nothing(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert tls.make(folder, ["box.example.org"], NOW, present=PRESENT) == "All was there already."
    (folder / "ca.crt").unlink()
    tls.make(folder, [], NOW, present=PRESENT)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_name_the_authority_was_not_made_for_needs_another_one(folder):
    before = (folder / "ca.pem").read_bytes()
    with pytest.raises(InvalidRequest, match="not made for other.example.org") as caught:
        tls.make(folder, ["other.example.org"], NOW, present=PRESENT)
    assert "--replace" in caught.value.remedy and (folder / "ca.pem").read_bytes() == before
    with pytest.raises(InvalidRequest, match="the setting `names`"):
        tls.make(folder, ["chat.lan"], NOW, present=PRESENT)
    tls.make(folder, ["other.example.org", "203.0.113.7"], NOW, replace=True, present=PRESENT)
    assert {"other.example.org", "203.0.113.7"} <= set(seen(folder).names)
    assert (folder / "ca.pem").read_bytes() != before and tls.renew(folder, (), NOW, present=PRESENT) == ""


@pytest.mark.parametrize(
    ("later_s", "names", "present", "reason"),
    [
        (0, (), PRESENT, ""),
        (360 * DAY_S, (), PRESENT, ""),
        (370 * DAY_S, (), PRESENT, "ends on"),
        (500 * DAY_S, (), PRESENT, "ends on"),
        (-3 * DAY_S + 2 * DAY_S, (), PRESENT, ""),
        (0, (), (*PRESENT, "10.0.0.9"), "is not for 10.0.0.9"),
        (0, ("new.lan",), PRESENT, "is not for new.lan"),
        (0, ("bank.example.com",), PRESENT, ""),
        (0, (), PRESENT[:3], ""),
    ],
)
def test_a_certificate_is_renewed_when_it_is_due(folder, later_s, names, present, reason):
    before, authority = seen(folder), (folder / "ca.pem").read_bytes()
    told = tls.renew(folder, names, NOW + later_s, present=present)
    assert reason in told and bool(told) == bool(reason)
    assert (seen(folder) == before) == (not reason) and (folder / "ca.pem").read_bytes() == authority
    assert "box.example.org" in seen(folder).names
    assert tls.renew(folder, names, NOW + later_s, present=present) == "", "once is enough"


def test_near_the_authoritys_end_it_is_not_renewed_again_and_again(folder):
    end = tls.read_authority(folder).facts.ends
    assert tls.renew(folder, (), end - 20 * DAY_S, present=PRESENT)
    for days in (19, 10, 1):
        assert tls.renew(folder, (), end - days * DAY_S, present=PRESENT) == ""


@pytest.mark.parametrize("clock", [0.0, NOW + 4000 * DAY_S], ids=["long ago", "far ahead"])
def test_a_wrong_clock_does_not_cost_the_authority(folder, clock):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match="the clock says") as caught:
        tls.renew(folder, (), clock, present=PRESENT)
    assert "Set the clock" in caught.value.remedy
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("damage", [b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_damaged_certificate_is_made_anew_and_a_damaged_authority_is_not(folder, damage):
    (folder / SERVER).write_bytes(damage)
    assert "damaged" in tls.renew(folder, (), NOW, present=PRESENT)
    (folder / "ca.pem").write_bytes(damage)
    for work in (tls.renew, tls.make):
        with pytest.raises(ConfigError, match="no authority of ours") as caught:
            work(folder, (), NOW, present=PRESENT)
        assert "backup" in caught.value.remedy
    assert (folder / "ca.pem").read_bytes() == damage


def test_a_pair_that_is_none_is_no_authority(folder, tmp_path):
    tls.make(tmp_path / "other", [], NOW, present=PRESENT)
    key = (folder / "ca.pem").read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]
    (folder / "ca.pem").write_bytes(key + (tmp_path / "other" / "ca.crt").read_bytes())
    with pytest.raises(ConfigError, match="not a pair"):
        tls.read_authority(folder)


def test_what_another_authority_signed_is_made_anew(folder, tmp_path):
    tls.make(tmp_path / "other", [], NOW, present=PRESENT)
    (tmp_path / "other" / SERVER).replace(folder / SERVER)
    assert "another authority" in tls.renew(folder, (), NOW, present=PRESENT)


def test_without_an_authority_there_is_nothing_to_renew_or_to_tell(tmp_path):
    assert tls.summary(tmp_path / "none") is None
    with pytest.raises(NotFound):
        tls.renew(tmp_path, (), NOW)


# -- a running service --------------------------------------------------------------------------------------------------------


class Running:
    """A Tls with a clock and a log of its own."""

    def __init__(self, **settings: object) -> None:
        self.now, self.log = NOW, []
        self.tls = Tls(self.configured(**settings), lambda level, words: self.log.append((level, words)), lambda: self.now)
        self.tls.open()

    @staticmethod
    def configured(**settings: object) -> Config:
        return load_config(settings, {"APPLIANCE_DATA_DIR": os.environ["APPLIANCE_DATA_DIR"]})

    def tick(self, later_s: float = LOOK_EVERY_S) -> ssl.SSLContext | None:
        self.now += later_s
        self.tls.tick()
        return self.tls.context

    def shown(self) -> bytes:
        """What a client gets to see."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        return shake(self.tls.context, client).getpeercert(binary_form=True)


def test_without_tls_nothing_is_made_and_nothing_shown():
    running = Running()
    assert running.tick() is None and running.tls.ca is None and not running.tls.folder.exists()
    assert running.tls.summary() == {"mode": "off", "trouble": []} and not list(running.tls.gauges())


def test_the_first_start_makes_all_and_the_next_one_keeps_it():
    first, second = Running(tls="own"), Running(tls="own")
    assert len(first.log) == 1 and "A new authority" in first.log[0][1] and second.log == []
    assert first.shown() == second.shown()
    shake(first.tls.context, trusting(first.tls.ca))
    summary = first.tls.summary()
    assert summary["mode"] == "own" and summary["ca"]["sha256"] != summary["sha256"] and "localhost" in summary["names"]
    assert [value for _, _, [(_, value)] in first.tls.gauges()] == [summary["ends"]]


def test_it_renews_itself_and_open_connections_keep_theirs():
    running = Running(tls="own")
    before, context = running.shown(), running.tls.context
    assert running.tick() is context and running.shown() == before
    running.tick(370 * DAY_S)
    assert running.tls.context is not context and running.shown() != before
    assert [level for level, _ in running.log] == ["info", "info", "info"] and "renewed" in running.log[1][1]
    assert running.tls.summary()["ends_in_days"] > 390


def test_it_takes_over_what_a_command_made():
    running = Running(tls="own")
    before = running.shown()
    tls.renew(running.tls.folder, (), NOW, always=True)
    running.tick(0.1)
    assert running.shown() == before, "it does not look all the time"
    running.tick()
    assert running.shown() != before
    tls.make(running.tls.folder, ["box.example.org"], NOW, replace=True)
    running.tick()
    shake(running.tls.context, trusting((running.tls.folder / "ca.crt").read_bytes()), "box.example.org")
    assert running.tls.ca == (running.tls.folder / "ca.crt").read_bytes()


def test_names_of_a_reload_are_taken_over_where_the_authority_may_sign_them():
    running = Running(tls="own")
    running.tls.reload(running.configured(tls="own", names="chat.lan,chat.example.com"))
    summary = running.tls.summary()
    assert "chat.lan" in summary["names"] and "chat.example.com" not in summary["names"]
    assert len(summary["trouble"]) == 1 and "chat.example.com" in summary["trouble"][0] and "--replace" in summary["trouble"][0]
    running.tick()
    running.tick()
    assert [words for level, words in running.log if level == "warning"] == summary["trouble"], "told once"


def test_a_service_with_a_certificate_starts_although_it_cannot_be_renewed():
    running = Running(tls="own")
    tls.make(running.tls.folder, [], 0.0, replace=True)  # made when the clock had not been set
    again = Running(tls="own")
    assert "Set the clock" in again.tls.summary()["trouble"][0]


def test_the_sites_files_are_read_again_when_they_change_and_a_wrong_pair_is_told(tmp_path):
    for name in "ab":
        tls.make(tmp_path / name, [], NOW, present=PRESENT)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    pairs = [(tmp_path / name / SERVER).read_bytes().partition(b"-----BEGIN CERT") for name in "ab"]
    certificates, keys = [begin + rest for _, begin, rest in pairs], [pair[0] for pair in pairs]
    cert.write_bytes(certificates[0])
    key.write_bytes(keys[0])
    running = Running(tls_cert=str(cert), tls_key=str(key))
    before = running.shown()
    assert running.tls.summary()["mode"] == "files" and running.tls.ca is None
    cert.write_bytes(certificates[1])
    running.tick()
    running.tick()
    assert running.shown() == before
    assert [level for level, _ in running.log] == ["error"] and "does not belong to the certificate" in running.log[0][1]
    assert running.tls.summary()["trouble"] == [running.log[0][1]]
    key.write_bytes(keys[1])
    running.tick()
    assert running.shown() == ssl.PEM_cert_to_DER_cert(certificates[1].decode()) and running.tls.summary()["trouble"] == []
    cert.unlink()
    running.tick()
    assert running.shown() != before and "No such file" in running.log[-1][1]


@pytest.mark.parametrize("wrong", ["not a pair", "no PEM", "a passphrase"])
def test_files_that_cannot_be_used_are_refused_at_the_start(tmp_path, wrong):
    from cryptography.hazmat.primitives import serialization

    for name in "ab":
        tls.make(tmp_path / name, [], NOW, present=PRESENT)
    cert, key = tmp_path / "a" / SERVER, tmp_path / "key.pem"
    pem = (tmp_path / ("b" if wrong == "not a pair" else "a") / SERVER).read_bytes()
    if wrong == "a passphrase":
        secret = serialization.BestAvailableEncryption(b"x")
        pem = serialization.load_pem_private_key(pem, None).private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    key.write_bytes(b"rubbish" if wrong == "no PEM" else pem)
    with pytest.raises(ConfigError, match="cannot be used for TLS") as caught:
        Running(tls_cert=str(cert), tls_key=str(key))
    assert ("does not belong" in str(caught.value)) == (wrong == "not a pair")


def test_a_folder_that_cannot_be_written_is_told_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ApplianceError, match="Making|Reading"):
        tls.make(tmp_path / "file" / "tls", [], NOW, present=PRESENT)


# -- the commands -------------------------------------------------------------------------------------------------------------


def run(*words: str) -> int:
    return main(["tls", *words])


def test_the_commands_make_show_and_renew(capsys):
    assert run("show") == 64 and "`appliance tls make` makes one" in capsys.readouterr().err
    assert run("renew") == 64 and "There is no authority" in capsys.readouterr().err
    assert run("make", "--name", "box.example.org") == 0
    assert "A new authority" in capsys.readouterr().out
    shown = []
    for words in (["show"], ["renew"], ["show"]):
        assert run(*words, "--json") == 0
        shown.append(json.loads(capsys.readouterr().out))
    assert shown[0]["sha256"] != shown[1]["sha256"] == shown[2]["sha256"] and shown[0]["ca"] == shown[2]["ca"]
    assert run("show") == 0
    told = capsys.readouterr().out
    assert all(words in told for words in ("box.example.org", shown[2]["sha256"], shown[2]["ca"]["sha256"], shown[2]["ca"]["path"], "in 39"))


def test_the_names_of_the_configuration_belong_to_a_new_authority(capsys, monkeypatch):
    monkeypatch.setenv("APPLIANCE_NAMES", "chat.example.com")
    assert run("make", "--json") == 0
    assert "chat.example.com" in json.loads(capsys.readouterr().out)["names"]
    assert run("make", "--name", "other.example.com") == 64 and "--replace" in capsys.readouterr().err
    assert run("make", "--name", "other.example.com", "--replace", "--json") == 0
    assert {"chat.example.com", "other.example.com"} <= set(json.loads(capsys.readouterr().out)["names"])


def test_the_sites_own_certificate_is_shown_where_it_is_the_one(capsys, monkeypatch, folder):
    for name in ("CERT", "KEY"):
        monkeypatch.setenv(f"APPLIANCE_TLS_{name}", str(folder / SERVER))
    assert run("show", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == str(folder / SERVER) and "ca" not in told
