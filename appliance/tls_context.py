"""What a new TLS connection is shown: the box's own certificate, renewed by itself, or the site's files, read again when they change.

Connections that are open keep what they began with. What `tls` needs costs 70 ms and 19 MB, so it is imported where TLS is on.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.clock import Clock, utc_date
from appliance.config import Config, data_dir
from appliance.errors import ApplianceError, ConfigError
from appliance.metrics import Gauge
from appliance.storage import in_words

if TYPE_CHECKING:
    from appliance.certificates import Facts

FOLDER, SERVER = "tls", "server.pem"
"""In the data folder: the folder of the box's own certificate, and in it the key and the certificate that are shown."""
LOOK_EVERY_S = 5.0


def mode(config: Config) -> str:
    """off, own (the box's own certificate) or files (the site's)."""
    return "files" if config.tls_cert else config.tls


def context_of(certificate: Path, key: Path) -> ssl.SSLContext:
    """For servers: TLS 1.2 and newer with Python's ciphers, and HTTP/1.1. Raises ConfigError for files that cannot be read or are no pair."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # without it OpenSSL asks on the terminal
    except ssl.SSLError as error:
        pair = error.reason == "KEY_VALUES_MISMATCH"
        why = "the key does not belong to the certificate" if pair else "one of them is no PEM file, or the key has a passphrase"
        raise ConfigError(f"{certificate} and {key} cannot be used for TLS: {why}.", remedy="Name a certificate chain and its key, both as PEM.") from None
    except OSError as error:
        raise in_words(error, f"Reading {certificate} and {key}") from None
    return context


@dataclass(frozen=True, slots=True)
class _Shown:
    """What new connections get. files: how they looked when they were read."""

    context: ssl.SSLContext
    files: tuple
    facts: Facts
    ca: bytes | None


class Tls:
    """`open` first, which makes `context`; then `tick` and `reload` from any thread."""

    def __init__(self, config: Config, log: Callable[[str, str], None], clock: Clock = time.time) -> None:
        """Opens no file. clock: Unix seconds."""
        self.mode = mode(config)
        self.folder = data_dir(config) / FOLDER
        self._config, self._log, self._clock = config, log, clock
        self._looking = threading.Lock()
        self._looked = 0.0
        self._shown: _Shown | None = None
        self._trouble: list[str] = []

    @property
    def files(self) -> tuple[Path, Path]:
        """The certificate and its key."""
        own = self.folder / SERVER
        return (own, own) if self.mode == "own" else (self._config.tls_cert, self._config.tls_key)

    @property
    def context(self) -> ssl.SSLContext | None:
        """For the next connection; None without TLS."""
        return self._shown.context if self._shown else None

    @property
    def ca(self) -> bytes | None:
        """The certificate of the box's own authority as PEM: clients need it, and anybody may have it."""
        return self._shown.ca if self._shown else None

    def open(self) -> None:
        """Make what is missing, and load it. Raises ConfigError, StorageFailed, PermissionDenied."""
        if self.mode == "own":
            from appliance import tls

            if tls.read_authority(self.folder) is None:
                names = [name for name in self._config.names if tls.plain_or_none(name)]
                self._log("info", f"{tls.make(self.folder, names, self._clock())} Programs need {self.folder / tls.CA_FOR_CLIENTS}.")
        if self.mode != "off":
            with self._looking:
                self._tell("warning", self._look())

    def tick(self) -> None:
        """Now and then: renew what is due, and take over what has changed. What fails is told once; then all stays as it was."""
        if self.mode == "off" or abs(self._clock() - self._looked) < LOOK_EVERY_S:
            return
        with self._looking:
            try:
                self._tell("warning", self._look())
            except ApplianceError as error:
                self._tell("error", [f"The TLS certificate stays as it was: {error}"])

    def reload(self, config: Config) -> None:
        """Take over the names or files of another configuration. To switch TLS on or off needs a restart."""
        if mode(config) == self.mode:
            self._config, self._looked = config, 0.0
            self.tick()

    def summary(self) -> dict[str, Any]:
        """`mode`, what is wrong as `trouble`, and `tls.described` of what new connections get, with the authority's as `ca`."""
        found: dict[str, Any] = {"mode": self.mode, "trouble": list(self._trouble)}
        if self._shown:
            from appliance import tls

            found |= tls.described(self.files[0], self._shown.facts, self._clock())
            if self._shown.ca:
                found["ca"] = tls.described(self.folder / tls.CA_FOR_CLIENTS, tls.facts(self._shown.ca), self._clock())
        return found

    def gauges(self) -> Iterator[Gauge]:
        """For the metrics."""
        if self._shown:
            yield "appliance_tls_certificate_ends_seconds", "When the TLS certificate ends, in Unix time.", [({}, self._shown.facts.ends)]

    def _look(self) -> list[str]:
        """Renew and load; what is wrong although there is a certificate. Raises ApplianceError where there is none to be had."""
        from appliance import tls

        self._looked = self._clock()
        ca, trouble = None, []
        if self.mode == "own":
            try:
                reason = tls.renew(self.folder, self._config.names, self._clock())
                if reason and self._shown:
                    self._log("info", f"The TLS certificate was renewed: {reason}.")
            except ApplianceError as error:
                trouble.append(str(error))
            authority = tls.read_authority(self.folder)
            ca = authority.public_pem() if authority else None
            if authority and (names := tls.refused(authority, [*tls.box_names(), *self._config.names])):
                trouble.append(f"The TLS certificate is not for {', '.join(names)}, because its authority was not made for that. If need be, {tls.REPLACE}.")
        certificate, key = self.files
        files = (certificate, key, *_stamp(certificate), *_stamp(key))
        if self._shown is None or (self._shown.files, self._shown.ca) != (files, ca):
            before, self._shown = self._shown, _Shown(context_of(certificate, key), files, tls.read_facts(certificate), ca)
            if before:
                self._log("info", f"New connections get a TLS certificate that ends on {utc_date(self._shown.facts.ends)}.")
        return trouble

    def _tell(self, level: str, trouble: list[str]) -> None:
        for words in trouble:
            if words not in self._trouble:
                self._log(level, words)
        self._trouble = trouble


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise in_words(error, f"Reading {path}") from None
    return found.st_mtime_ns, found.st_size, found.st_ino
