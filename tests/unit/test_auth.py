"""Keys and principals."""

from __future__ import annotations

import pytest

from appliance.auth import ANONYMOUS, Auth, Principal
from appliance.config import load_config
from appliance.errors import AuthenticationFailed, ConfigError


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
