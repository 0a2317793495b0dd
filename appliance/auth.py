"""Keys: from a request's headers to a principal. Keys are compared as hashes, so a lookup's time tells nothing."""

from __future__ import annotations

import copy
import hashlib
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from appliance.access.limits import Limits
from appliance.access.people import Key, Role
from appliance.config import Config
from appliance.errors import AuthenticationFailed, ConfigError, PermissionDenied

PRIVATE_ENDINGS = (".localhost", ".local", ".lan", ".internal", ".home.arpa")
"""Names that no public domain can have (RFC 6761, 6762, 8375; .lan and .internal by custom and by ICANN's word)."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking. `name` is what logs, limits and cache namespaces go by; it is never the key."""

    name: str
    role: Role = "user"
    limits: Limits = Limits()


ANONYMOUS = Principal("anonymous")


def sent_key(headers: Mapping[str, str]) -> str:
    """The key of `Authorization: Bearer` or `x-api-key`, '' where none was sent."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class Auth:
    """An immutable snapshot of the keys; replaced as a whole on reload."""

    def __init__(self, keys: Mapping[str, str], host: str = "", names: Iterable[str] = ()) -> None:
        """keys: principal name by key. Without any, everybody is anonymous but the web pages of others. names: others that this service is
        known by.

        host: the name the service listens on, which its own pages may be opened under.
        """
        self._names = {host.lower(), socket.gethostname().lower(), *(name.lower() for name in names)}
        self._closed = False
        self._principals = self._configured = {_digest(key): Principal(name) for key, name in keys.items()}

    @classmethod
    def from_config(cls, config: Config) -> Auth:
        """Keys from api_key and api_key_file. Raises ConfigError for a file that cannot be used."""
        keys = {key: f"key-{number}" for number, key in enumerate(config.api_key, 1)}
        if config.api_key_file:
            keys.update(_read_keys(config.api_key_file))
        return cls(keys, config.host, config.names)

    def with_made(self, made: Mapping[bytes, Key], closed: bool) -> Auth:
        """The same configured keys, with these that were made in the admin page, by the SHA-256 of the key. closed: without any key nobody
        gets in."""
        found = copy.copy(self)
        found._principals = {digest: Principal(key.name, key.role, key.limits) for digest, key in made.items()} | self._configured
        found._closed = closed
        return found

    def configured(self, name: str) -> bool:
        """Whether a key of that name stands in the configuration."""
        return name in {principal.name for principal in self._configured.values()}

    @property
    def required(self) -> bool:
        """Whether a key must be sent."""
        return bool(self._principals) or self._closed

    def identify(self, headers: Mapping[str, str]) -> Principal:
        """The principal of `Authorization: Bearer` or `x-api-key`. Raises AuthenticationFailed or PermissionDenied."""
        if not self.required:
            self._refuse_foreign_pages(headers)
            return ANONYMOUS
        key = sent_key(headers)
        principal = self._principals.get(_digest(key)) if key else None
        if principal is None:
            raise AuthenticationFailed(
                "This service needs a valid API key.",
                remedy="Send it as `Authorization: Bearer KEY`; your administrator hands keys out.",
            )
        return principal

    def _refuse_foreign_pages(self, headers: Mapping[str, str]) -> None:
        """Where no key is needed, any web page could use the service through the browser of somebody who can reach it.

        Browsers tell with `Origin` which page asks. It must be one of ours, under a name that cannot be a stranger's
        domain which was made to resolve to this machine. Programs send no Origin; installed apps have a scheme of
        their own.
        """
        site, origin, host = headers.get("Sec-Fetch-Site"), headers.get("Origin"), headers.get("Host", "")
        scheme, _, page = (origin or "").partition("://")
        web = origin == "null" or scheme in ("http", "https")
        if site == "cross-site" and (web or not origin) or web and (page != host or not self.is_ours(host)):
            raise PermissionDenied(
                f"Without an API key, web pages of other sites ({(origin or 'unknown')[:100]}) may not use this service.",
                remedy="Open the page by the machine's IP address or local name, or set an API key.",
            )

    def is_ours(self, host: str) -> bool:
        """Whether a Host header names this machine by a name that no stranger's domain can have, so that no page of theirs can be made to
        look like one of ours."""
        try:
            name = (urlsplit("//" + host).hostname or "").rstrip(".")
        except ValueError:
            return False
        if not name:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return "." not in name or name in self._names or name.endswith(PRIVATE_ENDINGS)
        return True


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
