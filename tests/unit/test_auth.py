"""Keys and principals."""

from __future__ import annotations

import pytest

from appliance.auth import ANONYMOUS, Auth, Principal
from appliance.config import load_config
from appliance.errors import AuthenticationFailed, ConfigError, PermissionDenied


def from_file(tmp_path, text: str, **flags) -> Auth:
    path = tmp_path / "keys"
    path.write_bytes(text.encode())
    return Auth.from_config(load_config({"api_key_file": str(path), **flags}, {}))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_without_keys_everybody_is_anonymous():
    auth = Auth.from_config(load_config(env={}))
    assert not auth.required and auth.identify({}) == auth.identify(bearer("anything")) == ANONYMOUS


@pytest.mark.parametrize("headers", [bearer("k1"), {"Authorization": "bearer   k1 "}, {"x-api-key": "k1"},
                                     {"Authorization": "Basic abc", "x-api-key": "k1"}])  # fmt: skip
def test_a_known_key_names_its_principal(headers):
    assert Auth({"k1": "alice"}).identify(headers) == Principal("alice")


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("k2"), bearer(""), bearer("K1"), {"Authorization": "k1"}, {"Authorization": "Basic k1"}, {"x-api-key": ""},
     bearer("k1\ud800"), {"Authorization": "Bearer"}, bearer("k1") | {"Authorization": "Bearer no", "x-api-key": "k1"}],
)  # fmt: skip
def test_everything_else_is_refused_with_the_same_words(headers):
    with pytest.raises(AuthenticationFailed) as caught:
        Auth({"k1": "alice"}).identify(headers)
    with pytest.raises(AuthenticationFailed) as other:
        Auth({"k1": "alice"}).identify({})
    assert str(caught.value) == str(other.value) and "k1" not in str(caught.value)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


def test_a_file_holds_one_key_a_line_with_or_without_a_name(tmp_path):
    auth = from_file(tmp_path, "# ours\n\n alice : sk-1 \nsk-2\r\nbob:with:colon\n")
    assert auth.identify(bearer("sk-1")).name == "alice"
    assert auth.identify(bearer("with:colon")).name == "bob"
    assert auth.identify(bearer("sk-2")).name == "file-4"
    with pytest.raises(AuthenticationFailed):
        auth.identify(bearer("# ours"))


def test_a_file_from_windows_works(tmp_path):
    assert from_file(tmp_path, "\ufeffsk-1\r\n").identify(bearer("sk-1")).name == "file-1"


def test_two_keys_without_a_name_are_two_principals(tmp_path):
    auth = from_file(tmp_path, "sk-1\nsk-2", api_key=["flag-1", "flag-2"])
    names = {auth.identify(bearer(key)).name for key in ("sk-1", "sk-2", "flag-1", "flag-2")}
    assert len(names) == 4


@pytest.mark.parametrize("text", ["", "# only words\n\n", "alice:\n", ":key\n", ":\n"])
def test_a_file_without_a_usable_key_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="api_key_file"):
        from_file(tmp_path, text)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "keys"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        Auth.from_config(load_config({"api_key_file": str(path)}, {}))
    with pytest.raises(ConfigError, match="cannot be read"):
        Auth.from_config(load_config({"api_key_file": str(tmp_path)}, {}))


def test_keys_are_not_kept_in_clear():
    auth = Auth({"geheim": "alice"})
    assert "geheim" not in repr(vars(auth))


OWN = [{}, {"Host": "evil.example"}, {"Host": "localhost:8080", "Origin": "http://localhost:8080"},
       {"Host": "192.168.1.7:8080", "Origin": "http://192.168.1.7:8080", "Sec-Fetch-Site": "same-origin"},
       {"Host": "[::1]:8080", "Origin": "http://[::1]:8080"}, {"Host": "box", "Origin": "http://box"},
       {"Host": "box.local:8080", "Origin": "http://box.local:8080"}, {"Host": "ai.example.org", "Origin": "https://ai.example.org"},
       {"Host": "localhost:8080", "Origin": "app://notes.example"}]  # fmt: skip
FOREIGN = [{"Host": "127.0.0.1:8080", "Origin": "https://evil.example"}, {"Host": "localhost:8080", "Origin": "null"},
           {"Host": "localhost:8080", "Origin": "http://localhost:3000"}, {"Host": "127.0.0.1:8080", "Sec-Fetch-Site": "cross-site"},
           {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"},  # DNS rebinding
           {"Host": "1.2.3.4.evil.example", "Origin": "http://1.2.3.4.evil.example"}, {"Origin": "http://"},
           {"Host": "[", "Origin": "http://["}, {"Host": "evil.example.", "Origin": "http://evil.example."}]  # fmt: skip


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_programs_and_own_pages_need_no_key_where_none_is_set(headers):
    assert Auth({}, "ai.example.org").identify(headers) == ANONYMOUS


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_web_pages_of_others_may_not_use_a_service_without_keys(headers):
    with pytest.raises(PermissionDenied, match="API key"):
        Auth({}, "ai.example.org").identify(headers)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_with_a_key_it_does_not_matter_which_page_asks(headers):
    assert Auth({"k1": "alice"}).identify(headers | bearer("k1")) == Principal("alice")
