"""Settings: where they come from, and how mistakes are told."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import config as config_module
from appliance.config import BY_NAME, SETTINGS, convert, data_dir, is_loopback, load_config, settings_markdown
from appliance.errors import ConfigError


@pytest.fixture(autouse=True)
def no_system_file(tmp_path, monkeypatch):
    """The machine's own configuration is not part of these tests."""
    monkeypatch.setattr(config_module, "SYSTEM_CONFIG", tmp_path / "etc" / "config.toml")


def write(path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def mistakes(**given) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(**({"env": {}} | given))
    assert caught.value.exit_code == 78
    return str(caught.value).split("\n")


def test_defaults_are_complete_and_valid():
    config = load_config(env={})
    for setting in SETTINGS:
        value = getattr(config, setting.name)
        assert value == setting.default and config.sources[setting.name] == "default"
        if value not in (None, ()):
            assert convert(setting, value) == value, "a default must be allowed"


def test_flags_go_before_environment_before_file_before_default(tmp_path):
    file = write(tmp_path / "a.toml", 'port = 1\nparallel = 2\nctx-size = 100\n')
    config = load_config({"port": 3}, {"APPLIANCE_PORT": "2", "APPLIANCE_PARALLEL": "5"}, file)
    assert (config.port, config.parallel, config.ctx_size, config.threads) == (3, 5, 100, 0)
    assert [config.sources[n] for n in ("port", "parallel", "ctx_size", "threads")] == ["flag", "environment", str(file), "default"]


def test_files_in_conf_d_win_in_the_order_of_their_names(tmp_path):
    main = write(tmp_path / "config.toml", "port = 1\nparallel = 1\nthreads = 1")
    write(tmp_path / "conf.d" / "20.toml", "port = 20\nparallel = 20")
    write(tmp_path / "conf.d" / "10.toml", "port = 10\nthreads = 10")
    write(tmp_path / "conf.d" / "30.toml.bak", "port = 30")
    config = load_config(env={"APPLIANCE_CONFIG": str(main)})
    assert (config.port, config.parallel, config.threads) == (20, 20, 10)


def test_the_system_file_is_read_where_it_exists(tmp_path):
    write(tmp_path / "etc" / "config.toml", "port = 77")
    assert load_config(env={}).port == 77
    other = write(tmp_path / "other.toml", "port = 78")
    assert load_config({"config": str(other)}, env={}).port == 78


def test_a_folder_that_may_not_be_looked_into_is_no_traceback(monkeypatch):
    def refused(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.stat", refused)
    assert load_config(env={}).port == 8080


def test_a_named_file_that_is_missing_is_a_mistake(tmp_path):
    assert mistakes(file=tmp_path / "no.toml") == [f"Configuration file {tmp_path / 'no.toml'} does not exist."]


def test_a_file_that_is_no_toml_is_a_mistake(tmp_path):
    (line,) = mistakes(file=write(tmp_path / "a.toml", "port = = 3"))
    assert "cannot be read as TOML" in line and "a.toml" in line
    (tmp_path / "b.toml").write_bytes(b'host = "\xff"')
    assert "cannot be read as TOML" in mistakes(file=tmp_path / "b.toml")[0]


@pytest.mark.parametrize(("key", "meant"), [("prot", "port"), ("ctx_siez", "ctx_size"), ("api-key-flie", "api_key_file")])
def test_an_unknown_key_is_answered_with_did_you_mean(tmp_path, key, meant):
    (line,) = mistakes(file=write(tmp_path / "a.toml", f"{key} = 1"))
    assert repr(key) in line and line.endswith(f"Did you mean {meant}?")


def test_an_unknown_key_like_nothing_is_just_named(tmp_path):
    (line,) = mistakes(file=write(tmp_path / "a.toml", "zzzzzzzz = 1"))
    assert "zzzzzzzz" in line and "mean" not in line


def test_all_mistakes_are_told_at_once(tmp_path):
    main = write(tmp_path / "config.toml", 'prot = 1\nparallel = "many"')
    write(tmp_path / "conf.d" / "x.toml", "stall_ms = 1")
    lines = mistakes(flags={"port": "high"}, env={"APPLIANCE_LOG_LEVEL": "loud", "APPLIANCE_MLOCK": "maybe"}, file=main)
    text = "\n".join(lines)
    assert len(lines) == 6
    for word in ("prot", "parallel", "stall_ms", "--port", "log_level", "mlock", "environment", "x.toml"):
        assert word in text


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("port", "70000"), ("port", -1), ("port", 80.5), ("port", True), ("port", "8_0x"), ("port", ""), ("port", [80]),
        ("stall_ms", 19), ("request_timeout_s", "nan"), ("request_timeout_s", "inf"), ("request_timeout_s", -0.1),
        ("request_timeout_s", 10**400), ("request_timeout_s", True), ("mlock", 2), ("mlock", "maybe"), ("mlock", ["true"]),
        ("host", 127), ("host", "a\0b"), ("log_level", "INFO"), ("cache_type_k", "q5_0"), ("model", [1]), ("model", True),
        ("data_dir", 7), ("data_dir", "a\0b"), ("parallel", 0), ("parallel", "9" * 5000),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_or_range_is_refused_by_name(name, raw):
    with pytest.raises(ConfigError) as caught:
        convert(BY_NAME[name], raw)
    assert name in str(caught.value) and caught.value.param == name


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("port", "80", 80), ("port", 0, 0), ("port", 65535, 65535), ("mlock", "YES", True), ("mlock", "off", False),
        ("mlock", False, False), ("request_timeout_s", 5, 5.0), ("model", "a.gguf, b.gguf", ("a.gguf", "b.gguf")),
        ("model", ["a,b.gguf"], ("a,b.gguf",)), ("model", "", ()), ("data_dir", "", None), ("log_level", "debug", "debug"),
    ],
)  # fmt: skip
def test_text_and_toml_values_become_the_settings_type(name, raw, value):
    result = convert(BY_NAME[name], raw)
    assert result == value and type(result) is type(value)


@given(st.sampled_from(SETTINGS), st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text())))
def test_whatever_is_given_a_setting_is_converted_or_refused_in_words(setting, raw):
    try:
        value = convert(setting, raw)
    except ConfigError as error:
        assert setting.name in str(error)
    else:
        assert convert(setting, value) == value if value is not None else setting.kind == "path"


# -- keys and addresses --------------------------------------------------------------------------------------------


def test_other_machines_are_not_served_without_a_key(tmp_path):
    (line,) = mistakes(flags={"host": "0.0.0.0"})
    assert "--api-key-file" in line and "--allow-anonymous" in line
    assert load_config({"host": "0.0.0.0", "allow_anonymous": True}, {}).host == "0.0.0.0"
    assert load_config({"host": "0.0.0.0", "api_key": ["k"]}, {}).api_key == ("k",)
    keys = write(tmp_path / "keys", "k")
    assert load_config({"host": "::", "api_key_file": str(keys)}, {}).api_key_file == keys
    assert mistakes(flags={"host": "0.0.0.0", "api_key": [""]}), "an empty key is none"


def test_keys_of_the_data_folder_are_keys_too(tmp_path):
    asked = []
    load_config({"host": "0.0.0.0", "data_dir": str(tmp_path)}, {}, has_keys=lambda folder: bool(asked.append(folder)) or True)
    assert asked == [tmp_path]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST", "0:0:0:0:0:0:0:1"])
def test_loopback_addresses_are_known(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "127.example.com", "127.0.0.1.example.com", "", "box", "::2"])
def test_everything_else_is_reachable_by_others(host):
    assert not is_loopback(host)


def test_secrets_are_masked_wherever_settings_are_shown():
    config = load_config({"api_key": ["geheim", "secret"]}, {})
    assert config.shown()["api_key"] == ["***", "***"]
    assert "geheim" not in str(config.shown())
    assert load_config(env={}).shown()["api_key"] == []
    with pytest.raises(ConfigError) as caught:
        convert(BY_NAME["api_key"], ["geheim", 4711])
    assert "geheim" not in str(caught.value) and "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"tls_cert": __file__}, "go together"),
        ({"tls": "own", "tls_cert": __file__, "tls_key": __file__}, "set one of them"),
        ({"api_key_file": "/no/such/file"}, "/no/such/file cannot be read"),
        ({"cache_type_v": "q8_0", "flash_attn": "off"}, "flash attention"),
        ({"alias": ["a"]}, "1 aliases for 0 models"),
        ({"kv_size": 100, "ctx_size": 200}, "kv_size = 100"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(flags, word):
    assert any(word in line for line in mistakes(flags=flags))


def test_a_config_cannot_be_changed_and_has_no_other_attributes():
    config = load_config(env={})
    with pytest.raises(AttributeError):
        config.port = 1
    with pytest.raises(AttributeError):
        config.no_such_setting  # noqa: B018


def test_variables_that_are_no_settings_and_empty_ones_are_left_alone():
    assert load_config(env={"APPLIANCE_WHEELS": "x", "APPLIANCE_PORT": "", "PORT": "1"}).port == 8080


def test_the_data_folder_is_the_users_unless_set(monkeypatch, tmp_path):
    monkeypatch.setattr(config_module, "SYSTEM_DATA", tmp_path / "nowhere")
    assert str(data_dir(load_config({"data_dir": "~/x"}, {}))) == os.path.expanduser("~/x")
    assert str(data_dir(load_config({"data_dir": str(tmp_path)}, {}))) == str(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert data_dir(load_config(env={})) == tmp_path / "appliance"
    monkeypatch.setattr(config_module, "SYSTEM_DATA", tmp_path)
    assert data_dir(load_config(env={})) == tmp_path


def test_the_generated_table_mentions_every_setting_flag_and_choice():
    table = settings_markdown()
    assert len(table.splitlines()) == len(SETTINGS) + 2
    for setting in SETTINGS:
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{setting.name}` |")]
        assert row.count("|") == 5, "a stray bar breaks the table"
        for text in (setting.help, setting.flag, *setting.flags, *setting.choices):
            assert text in row


def test_no_two_settings_share_a_name_or_a_flag():
    flags = [flag for s in SETTINGS for flag in (s.flag, *s.flags)]
    assert len(set(flags)) == len(flags) and len(BY_NAME) == len(SETTINGS)


def test_what_the_page_may_not_change_does_not_count_in_the_file_that_it_writes(tmp_path):
    """The service owns that file, and root's commands read it."""
    (tmp_path / "settings.toml").write_text('host = "0.0.0.0"\nallow_anonymous = true\ndata_dir = "/etc/cron.d"\nqueue_size = 5\n')
    config = load_config({"data_dir": str(tmp_path)}, {})
    assert (config.host, config.allow_anonymous, config.data_dir, config.queue_size) == ("127.0.0.1", False, tmp_path, 5)
