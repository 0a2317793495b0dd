"""Keys: from a request's headers to a principal. Keys are compared as hashes, so a lookup's time tells nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.config import Config
from appliance.errors import AuthenticationFailed, ConfigError


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking. `name` is what logs, limits and cache namespaces go by; it is never the key."""

    name: str


ANONYMOUS = Principal("anonymous")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class Auth:
    """An immutable snapshot of the keys; replaced as a whole on reload."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """keys: principal name by key. Without any, everybody is anonymous."""
        self._principals = {_digest(key): Principal(name) for key, name in keys.items()}

    @classmethod
    def from_config(cls, config: Config) -> Auth:
        """Keys from api_key and api_key_file. Raises ConfigError for a file that cannot be used."""
        keys = {key: f"key-{number}" for number, key in enumerate(config.api_key, 1)}
        if config.api_key_file:
            keys.update(_read_keys(config.api_key_file))
        return cls(keys)

    @property
    def required(self) -> bool:
        """Whether a key must be sent."""
        return bool(self._principals)

    def identify(self, headers: Mapping[str, str]) -> Principal:
        """The principal of `Authorization: Bearer` or `x-api-key`. Raises AuthenticationFailed."""
        if not self._principals:
            return ANONYMOUS
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        principal = self._principals.get(_digest(key)) if key else None
        if principal is None:
            raise AuthenticationFailed(
                "This service needs a valid API key.",
                remedy="Send it as `Authorization: Bearer KEY`; your administrator hands keys out.",
            )
        return principal


def _read_keys(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()  # Windows editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"api_key_file {path} cannot be read: {error}", param="api_key_file") from None
    keys = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if line and not line.startswith("#"):
            name, colon, key = line.partition(":")
            name, key = (name.strip(), key.strip()) if colon else (f"file-{number}", line)
            if not name or not key:
                raise ConfigError(
                    f"api_key_file {path}, line {number}: a name or a key is missing.",
                    param="api_key_file",
                    remedy="A line reads KEY or NAME:KEY.",
                )
            keys[key] = name
    if not keys:
        raise ConfigError(f"api_key_file {path} holds no key.", param="api_key_file", remedy="Write one key a line.")
    return keys
