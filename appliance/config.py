"""One table of settings; flags, environment, files, CLI help, the docs and the settings page all come from it.

Precedence: flags > environment (`APPLIANCE_` + name) > what was changed in the admin page > files > defaults. Files are TOML: the main
file, then `conf.d/*.toml` beside it in name order, later ones win. All mistakes are reported at once. The result is frozen.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from appliance.errors import ConfigError

ENV_PREFIX = "APPLIANCE_"
SAVED_FILE = "settings.toml"
"""In the data folder: what was changed in the admin page. Stronger than the configuration files, weaker than the environment and flags."""
SYSTEM_CONFIG = Path("/etc/appliance/config.toml")
SYSTEM_DATA = Path("/var/lib/appliance")
Kind = Literal["str", "int", "float", "percent", "bool", "list", "path", "choice"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `unit` is shown in help; minimum/maximum are inclusive; `secret` is masked everywhere."""

    name: str
    kind: Kind
    default: Any
    help: str
    group: str
    unit: str = ""
    flags: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    secret: bool = False
    reload: bool = False

    @property
    def flag(self) -> str:
        """The long flag, e.g. `--ctx-size`."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment variable, e.g. `APPLIANCE_CTX_SIZE`."""
        return ENV_PREFIX + self.name.upper()


KV_TYPES = ("f16", "q8_0", "q4_0")

SETTINGS: tuple[Setting, ...] = (
    Setting("model", "list", (), "GGUF file, folder with an ONNX model, or model of the catalog, to serve; may be given several times. Default: the catalog's default.", "models", flags=("-m",)),
    Setting("alias", "list", (), "Name a model is served under, in the order of --model. Default: the file's name.", "models"),
    Setting("embedder", "str", "minilm-l6-int8", "Model of the catalog for embeddings that is served beside the others, from the first request that needs it; `none` for no such model.", "models"),
    Setting("ctx_size", "int", 4096, "Context of one request: prompt and answer together. 0: what the model was trained for.", "models", "tokens", ("-c",), minimum=0, maximum=1_048_576),
    Setting("parallel", "int", 8, "Sequences a model works on at the same time.", "models", "sequences", ("-np",), minimum=1, maximum=128),
    Setting("kv_size", "int", 0, "KV cache of a model, shared by its sequences and the prefixes it remembers. 0: ctx_size x parallel.", "models", "tokens", minimum=0),
    Setting("cache_type_k", "choice", "f16", "Number type of the KV cache's keys.", "models", flags=("-ctk",), choices=KV_TYPES),
    Setting("cache_type_v", "choice", "f16", "Number type of the KV cache's values; the quantized ones need flash attention.", "models", flags=("-ctv",), choices=KV_TYPES),
    Setting("flash_attn", "choice", "auto", "Flash attention; `auto` measures which kernel is faster here when a model is loaded.", "models", flags=("-fa",), choices=("auto", "on", "off")),
    Setting("prefix_cache_mb", "int", 256, "Memory for prefixes that no longer fit the KV cache; 0 keeps none.", "models", "MB", minimum=0, maximum=1_000_000),
    Setting("mlock", "bool", False, "Lock the weights in memory.", "models"),
    Setting("host", "str", "127.0.0.1", "Address to listen on. Anything but loopback needs an API key or --allow-anonymous.", "network"),
    Setting("port", "int", 8080, "Port to listen on; 0 takes a free one.", "network", minimum=0, maximum=65535),
    Setting("names", "list", (), "Domain names under which people open the pages, such as box.example.org, where they are neither an address nor a local name. Pages under other names are refused. The box's own certificate is for them as well.", "network", reload=True),
    Setting("api_key", "list", (), "Key that clients must send. Seen in the process list: better use --api-key-file.", "network", secret=True),
    Setting("api_key_file", "path", None, "File with one key a line; lines may read NAME:KEY.", "network"),
    Setting("allow_anonymous", "bool", False, "Serve other machines without any key.", "network"),
    Setting("tls", "choice", "off", "HTTPS: `own` with a certificate that the box makes and renews itself; with one of yours set tls_cert and tls_key instead.", "network", choices=("off", "own")),
    Setting("tls_cert", "path", None, "TLS certificate chain (PEM); read again when the file changes.", "network"),
    Setting("tls_key", "path", None, "TLS private key (PEM).", "network"),
    Setting("max_body_bytes", "int", 8 * 1024 * 1024, "Largest request body.", "network", "bytes", minimum=1024),
    Setting("threads", "int", 0, "Threads of each engine that generates. 0: one for each physical core this process may use.", "cpu", "threads", ("-t",), minimum=0, maximum=1024),
    Setting("cpus", "str", "", "CPUs for the engines, such as 0-3,8. Empty: chosen from the machine's topology.", "cpu"),
    Setting("batch_size", "int", 512, "Most prompt tokens computed in one step.", "cpu", "tokens", ("-b",), minimum=8, maximum=8192),
    Setting("stall_ms", "int", 240, "Longest step allowed while answers are streaming; long prompts are cut to fit.", "cpu", "ms", minimum=20, maximum=10_000),
    Setting("queue_size", "int", 64, "Requests that may wait before new ones are refused with 429.", "limits", "requests", minimum=0, maximum=10_000, reload=True),
    Setting("request_timeout_s", "float", 600.0, "Longest time for a request, waiting included; 0 for no limit.", "limits", "s", minimum=0, reload=True),
    Setting("max_tokens", "int", 0, "Answer length when the request names none. 0: up to the end of the context.", "limits", "tokens", minimum=0, reload=True),
    Setting("max_choices", "int", 16, "Most sequences one request may ask for (prompts x n).", "limits", "sequences", minimum=1, maximum=128, reload=True),
    Setting("hang_timeout_s", "float", 60.0, "An engine that has work and completes no step for this long is killed and started again.", "limits", "s", minimum=1),
    Setting("load_timeout_s", "float", 600.0, "Longest time for loading a model.", "limits", "s", minimum=1),
    Setting("drain_s", "float", 20.0, "Time running answers get when the service stops.", "limits", "s", minimum=0),
    Setting("no_cache", "bool", False, "Compute every answer; remember none.", "cache"),
    Setting("exact_only", "bool", False, "Answer only equal requests from memory, not those of the same meaning.", "cache"),
    Setting("max_wrong_hits", "percent", 1.0, "Share of answers to similar questions that may be wrong. How sure the cache has to be follows from it.", "cache", "%", minimum=0, maximum=50, reload=True),
    Setting("cache_audit", "percent", 5.0, "Share of answers to similar questions that are computed again in idle time, to see whether they were right; of the first 20 a day all are. 0: none.", "cache", "%", minimum=0, maximum=100),
    Setting("pair_verifier", "str", "pair-verifier-int8", "Model of the catalog that judges whether two questions mean the same; `none` for no such model: then only equal requests are answered from memory.", "cache"),
    Setting("cache_ttl_s", "float", 0.0, "Time an answer is remembered when the request names none; 0 for as long as there is room.", "cache", "s", minimum=0),
    Setting("cache_entries", "int", 200_000, "Most answers remembered; the least valuable ones make room.", "cache", "answers", minimum=1, maximum=10_000_000),
    Setting("cache_mb", "int", 2000, "Most space for remembered answers on the disk.", "cache", "MB", minimum=1, maximum=1_000_000),
    Setting("cache_share", "list", (), "NAME:NAMESPACE, so that the key of that name shares its remembered answers with all others of the namespace. Each key has its own otherwise.", "cache"),
    Setting("cache_exclude", "list", (), "Name of a key or of a model whose answers are never remembered.", "cache"),
    Setting("cache_epoch", "str", "", "Any word. With another one no answer of before is found: for when the facts behind them have changed.", "cache"),
    Setting("config", "path", None, f"Configuration file. Default: {SYSTEM_CONFIG} where it exists.", "service"),
    Setting("data_dir", "path", None, f"Folder for everything that is kept. Default: {SYSTEM_DATA} for the service, ~/.local/share/appliance for a user.", "service"),
    Setting("backup_dir", "path", None, "Folder for backups, such as one on a stick or a mounted share; it must be there, and be this box's alone. Default: `backups` in the data folder.", "service"),
    Setting("backup_passphrase_file", "path", None, "File with a passphrase: backups are encrypted with it, and then hold keys and secrets too.", "service"),
    Setting("backup_keep_daily", "int", 7, "Days of which the newest backup is kept.", "service", "days", minimum=1, maximum=10_000),
    Setting("backup_keep_weekly", "int", 4, "Weeks of which the newest backup is kept.", "service", "weeks", minimum=0, maximum=10_000),
    Setting("backup_keep_monthly", "int", 6, "Months of which the newest backup is kept.", "service", "months", minimum=0, maximum=10_000),
    Setting("offline", "bool", False, "Never open a connection to another machine.", "service"),
    Setting("log_level", "choice", "info", "How much is logged.", "service", choices=("debug", "info", "warning", "error"), reload=True),
    Setting("log_format", "choice", "text", "Shape of the log lines on stderr.", "service", choices=("text", "json")),
    Setting("log_prompts", "bool", False, "Write prompts into the log. They may be private.", "service", reload=True),
    Setting("engine", "list", ("auto",), "Engine that runs a model, one for all or one for each in the order of --model. `auto`: whichever can, and where a GGUF file X.gguf has its ONNX form beside it (X-onnx), the one measured to be faster here; `fake` answers from a script, for tests and demonstrations.", "service", choices=("auto", "llama", "onnx", "fake")),
)

BY_NAME: dict[str, Setting] = {s.name: s for s in SETTINGS}
FROM_A_SHELL = frozenset({"host", "port", "names", "tls", "tls_cert", "tls_key", "data_dir", "config", "api_key", "api_key_file", "allow_anonymous", "model", "alias", "engine", "backup_passphrase_file"})
"""A mistake in one of these could keep everybody out of the page that mends it, or let the page read any file as a passphrase."""
CHANGEABLE = tuple(setting for setting in SETTINGS if setting.name not in FROM_A_SHELL and not setting.secret)
"""Those that the page may change. What else stands in the file that the page writes does not count: the service owns that file, and root's
commands read it too."""


@dataclass(frozen=True)
class Config:
    """Every setting's value, as an attribute of the setting's name, and where each came from (`sources`)."""

    values: Mapping[str, Any]
    sources: Mapping[str, str] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def shown(self) -> dict[str, Any]:
        """All values for logs and pages, secrets masked."""
        return {s.name: _mask(s, self.values[s.name]) for s in SETTINGS}


def _mask(setting: Setting, value: Any) -> Any:
    if not setting.secret or not value:
        return list(value) if isinstance(value, tuple) else (str(value) if isinstance(value, Path) else value)
    return ["***"] * len(value) if isinstance(value, tuple) else "***"


def convert(setting: Setting, raw: Any) -> Any:
    """Turn text or a TOML value into the setting's type and check its range. Raises ConfigError naming all of it."""
    try:
        value = _typed(setting, raw)
    except (TypeError, ValueError, OverflowError):
        kind = "one of " + ", ".join(setting.choices) if setting.choices else _KIND_WORDS[setting.kind]
        shown = "***" if setting.secret else repr(raw)
        raise ConfigError(f"{setting.name} = {shown} is not {kind}.", param=setting.name) from None
    if setting.minimum is not None and value is not None and value < setting.minimum:
        raise ConfigError(f"{setting.name} = {raw} is below the smallest allowed, {setting.minimum:g}.", param=setting.name)
    if setting.maximum is not None and value is not None and value > setting.maximum:
        raise ConfigError(f"{setting.name} = {raw} is above the largest allowed, {setting.maximum:g}.", param=setting.name)
    return value


_KIND_WORDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "percent": "a share such as 1%",
    "bool": "true or false",
    "list": "a text or a list of texts",
    "path": "a path",
}
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def _typed(setting: Setting, raw: Any) -> Any:
    kind = setting.kind
    if kind == "bool":
        if isinstance(raw, bool):
            return raw
        word = str(raw).strip().lower()
        if word not in _TRUE | _FALSE:
            raise ValueError
        return word in _TRUE
    if isinstance(raw, bool):
        raise TypeError
    if kind == "percent":
        raw, kind = str(raw).strip().removesuffix("%"), "float"
    if kind == "int":
        if isinstance(raw, float):
            raise TypeError
        return int(raw)
    if kind == "float":
        number = float(raw)
        if number != number or number in (float("inf"), float("-inf")):
            raise ValueError
        return number
    if kind == "list":
        items = raw if isinstance(raw, (list, tuple)) else [part.strip() for part in str(raw).split(",")]
        if not all(isinstance(item, str) for item in items):
            raise TypeError
        if setting.choices and not set(items) <= {*setting.choices, ""}:
            raise ValueError
        return tuple(item for item in items if item) or setting.default
    if not isinstance(raw, (str, Path)) or "\0" in str(raw):
        raise TypeError
    if kind == "path":
        return Path(raw).expanduser() if str(raw) else None
    if kind == "choice" and raw not in setting.choices:
        raise ValueError
    return raw


def load_config(
    flags: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    file: Path | None = None,
    has_keys: Callable[[Path], bool] = lambda folder: False,
) -> Config:
    """Merge flags, environment and files. `file` overrides where the main file is looked for. has_keys: whether there are keys in a data
    folder, which count as the configuration's own do where the service listens to other machines.

    Raises ConfigError that lists every mistake found, one a line.
    """
    env = os.environ if env is None else env
    flags = {k: v for k, v in (flags or {}).items() if v is not None}
    mistakes: list[str] = []
    layers: list[tuple[str, dict[str, Any]]] = [("default", {s.name: s.default for s in SETTINGS})]
    chosen = file or flags.get("config") or env.get(ENV_PREFIX + "CONFIG")
    for path in _files(Path(chosen) if chosen else None, mistakes):
        layers.append((str(path), _read_file(path, mistakes)))
    environment = _read_env(env, mistakes)
    saved = data_dir(Config({"data_dir": _first_path("data_dir", flags, environment, *(layer for _, layer in reversed(layers[1:])))})) / SAVED_FILE
    if os.path.isfile(saved):
        may = {setting.name for setting in CHANGEABLE}
        layers.append((str(saved), {name: value for name, value in _read_file(saved, mistakes).items() if name in may}))
    layers.append(("environment", environment))
    layers.append(("flag", dict(flags)))

    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, layer in layers:
        for name, raw in layer.items():
            try:
                values[name] = raw if source == "default" else convert(BY_NAME[name], raw)
                sources[name] = source
            except ConfigError as error:
                mistakes.append(f"{source}: {error}" if source != "flag" else f"{BY_NAME[name].flag}: {error}")
    if not mistakes:
        mistakes += _conflicts(values, has_keys)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return Config(values, sources)


def load_for_work(flags: Mapping[str, Any]) -> Config:
    """As `load_config`, for a command that serves nobody: where the service listens, and whether it has a key, is nothing to it."""
    return load_config(flags, has_keys=lambda folder: True)


def _first_path(name: str, *layers: Mapping[str, Any]) -> Path | None:
    """The strongest layer's value, where it is one; a mistake in it is told later."""
    found = next((layer[name] for layer in layers if layer.get(name)), None)
    return Path(found).expanduser() if isinstance(found, (str, Path)) and "\0" not in str(found) else None


def _files(chosen: Path | None, mistakes: list[str]) -> list[Path]:
    # os.path: a folder we may not look into is no reason for a traceback, pathlib would raise.
    if chosen is None and not os.path.exists(SYSTEM_CONFIG):
        return []
    main = chosen or SYSTEM_CONFIG
    if not os.path.isfile(main):
        mistakes.append(f"Configuration file {main} does not exist.")
        return []
    return [main, *sorted((main.parent / "conf.d").glob("*.toml"))]


def _read_file(path: Path, mistakes: list[str]) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        mistakes.append(f"{path}: cannot be read as TOML: {error}")
        return {}
    return _known(data, str(path), mistakes)


def _read_env(env: Mapping[str, str], mistakes: list[str]) -> dict[str, Any]:
    # APPLIANCE_API_KEY_FILE is a setting of its own; variables of the test and install scripts share the prefix.
    known = {s.env: s.name for s in SETTINGS}
    return {known[key]: value for key, value in env.items() if key in known and value != ""}


def _known(data: Mapping[str, Any], where: str, mistakes: list[str]) -> dict[str, Any]:
    found = {}
    for key, value in data.items():
        name = key.replace("-", "_")
        if name in BY_NAME:
            found[name] = value
            continue
        close = difflib.get_close_matches(name, BY_NAME, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        mistakes.append(f"{where}: there is no setting {key!r}.{hint}")
    return found


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"  # any other name, 127.example.com too, may be anybody's address


def needs_key(config: Config, host: str) -> bool:
    """Whether nobody may be served without a key there: other machines are never by default."""
    return not (is_loopback(host) or config.allow_anonymous)


def _conflicts(values: Mapping[str, Any], has_keys: Callable[[Path], bool]) -> list[str]:
    """Mistakes that concern several settings together."""
    found, config = [], Config(values)
    if needs_key(config, config.host) and not (config.api_key or config.api_key_file or has_keys(data_dir(config))):
        found.append(
            f"host = {values['host']} serves other machines but no API key is set. "
            "Make one at /admin/access first, set --api-key-file, or --allow-anonymous if everybody may use it."
        )
    if bool(values["tls_cert"]) != bool(values["tls_key"]):
        found.append("tls_cert and tls_key go together; only one of them is set.")
    if values["tls_cert"] and values["tls"] == "own":
        found.append("tls = own makes a certificate, and tls_cert names one: set one of them.")
    for name in ("tls_cert", "tls_key", "api_key_file"):
        if values[name] and not os.access(values[name], os.R_OK):
            found.append(f"{name} = {values[name]} cannot be read.")
    if values["cache_type_v"] != "f16" and values["flash_attn"] == "off":
        found.append(f"cache_type_v = {values['cache_type_v']} needs flash attention, but flash_attn is off.")
    if len(values["alias"]) > len(values["model"]):
        found.append(f"{len(values['alias'])} aliases for {len(values['model'])} models.")
    if values["kv_size"] and values["ctx_size"] > values["kv_size"]:
        found.append(f"ctx_size = {values['ctx_size']} is larger than kv_size = {values['kv_size']}: no request of that length could ever run.")
    return found


def data_dir(config: Config) -> Path:
    """The data folder: as set, else the system's when we may write there, else the user's."""
    if config.data_dir:
        return config.data_dir
    if os.access(SYSTEM_DATA, os.W_OK):
        return SYSTEM_DATA
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "appliance"


def settings_markdown() -> str:
    """The settings table for the README, generated so that it cannot drift."""
    rows = ["| setting | flags | default | what it does |", "|---|---|---|---|"]
    for s in SETTINGS:
        usual = ", ".join(s.default) if isinstance(s.default, tuple) else s.default
        default = {"bool": "off", "path": "none"}.get(s.kind, usual if usual != "" else "none")
        unit = f" {s.unit}" if s.unit and s.kind in ("int", "float", "percent") else ""
        choices = f" One of {', '.join(s.choices)}." if s.choices else ""
        rows.append(f"| `{s.name}` | {' '.join(f'`{f}`' for f in (*s.flags, s.flag))} | {default}{unit} | {s.help}{choices} |")
    return "\n".join(rows)
