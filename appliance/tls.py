"""The box's own certificate: a folder with an authority (CA) and what it signed, made and renewed without any other machine.

`ca.pem` and `server.pem` are each a key with its certificate in one file, so that both change together; `ca.crt` is the authority's
certificate for clients. Written whole or not at all, so a command and the service may be at it at the same time. Times are Unix seconds.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import psutil

from appliance.auth import PRIVATE_ENDINGS
from appliance.certificates import SERVER_DAYS, Authority, Facts, facts, is_private, plain
from appliance.clock import utc_date
from appliance.errors import ConfigError, InvalidRequest, NotFound
from appliance.storage import in_words, write_atomically
from appliance.tls_context import SERVER

CA, CA_FOR_CLIENTS = "ca.pem", "ca.crt"
DOMAINS = frozenset(ending.strip(".") for ending in PRIVATE_ENDINGS)
"""Every authority may sign what ends with these: nobody has such a name on the internet."""
DAY_S = 86400.0
RENEW_S = 30 * DAY_S
GAIN_S = 2 * DAY_S
"""A certificate that would end hardly later than the one there is, because the authority ends, is not worth making."""
REPLACE = "`appliance tls make --replace` makes a new one, whose ca.crt every client needs again"


def box_names() -> list[str]:
    """The names and private addresses by which clients reach this machine, the host's name first."""
    host = socket.gethostname()
    short = host.partition(".")[0]
    names = [name for word in (host, short, f"{short}.local", "localhost") if (name := plain_or_none(word))]
    return list(dict.fromkeys([*names, "127.0.0.1", "::1", *sorted(_interface_addresses())]))


def _interface_addresses() -> set[str]:
    try:
        interfaces = psutil.net_if_addrs()
    except OSError:  # a sandbox without AF_NETLINK
        return set()
    return {address for found in interfaces.values() for _, address, *_ in found if is_private(address)}


def plain_or_none(name: str) -> str | None:
    """As `plain`; None for what is neither a domain name nor an address."""
    try:
        return plain(name)
    except ValueError:
        return None


def make(folder: Path, names: Collection[str], now: float, *, replace: bool = False, present: Collection[str] = ()) -> str:
    """An authority where there is none, and a certificate for the box's names (`present`, or `box_names`) and these. What was done, in words.

    replace: a new authority, which every client must be given again. Raises InvalidRequest for a name that is none or that the
    authority was not made for, ConfigError, StorageFailed, PermissionDenied.
    """
    present = present or box_names()
    wanted = []
    for name in names:
        wanted.append(plain_or_none(name) or "")
        if not wanted[-1]:
            raise InvalidRequest(f"{name[:100]!r} is neither a domain name nor an address.", remedy="Write it as clients do, such as box.example.org.")
    authority = None if replace else read_authority(folder)
    if authority:
        if strange := sorted(set(wanted) - authority.named()):
            remedy = f"{REPLACE}." if refused(authority, strange) else "It may sign that all the same: write it into the setting `names`."
            raise InvalidRequest(f"The authority in {folder} was not made for {', '.join(strange)}.", remedy=remedy)
        reason = renew(folder, (), now, present=present)
        done = f"There was an authority already; the certificate was made: {reason}." if reason else "All was there already."
    else:
        hosts = [name for name in present if not is_private(name)]
        authority = Authority.make(f"appliance CA of {hosts[0]}, {utc_date(now)}", DOMAINS, [*hosts, *wanted], now)
        _make_folder(folder)
        _write(folder / CA, authority.pem(), secret=True)
        renew(folder, (), now, present=present)
        done = "A new authority and a certificate were made."
    if _read(folder / CA_FOR_CLIENTS) != authority.public_pem():
        _write(folder / CA_FOR_CLIENTS, authority.public_pem())
    return done


def renew(folder: Path, names: Collection[str], now: float, *, always: bool = False, present: Collection[str] = ()) -> str:
    """A new certificate where one is due; the reason, or "". Names that the authority may not sign are left out: see `refused`.

    Raises NotFound where there is no authority, ConfigError for one that is damaged or not valid now, StorageFailed, PermissionDenied.
    """
    authority = read_authority(folder)
    if authority is None:
        raise NotFound(f"There is no authority in {folder}.", remedy="`appliance tls make` makes one.")
    known = filter(None, map(plain_or_none, [*(present or box_names()), *names, *sorted(authority.named() - DOMAINS)]))
    wanted = [name for name in dict.fromkeys(known) if authority.allows(name)]
    reason = "it was asked for" if always else _reason(_read(folder / SERVER), authority, wanted, now)
    if reason and not authority.facts.begins <= now < authority.facts.ends:
        begins, ends = utc_date(authority.facts.begins), utc_date(authority.facts.ends)
        raise ConfigError(
            f"No certificate was made ({reason}): the authority in {folder} is good from {begins} to {ends}, and the clock says {utc_date(now)}.",
            remedy=f"Set the clock. If it is right, {REPLACE}.",
        )
    if reason:
        _write(folder / SERVER, authority.issue(wanted, now), secret=True)
    return reason


def refused(authority: Authority, names: Iterable[str]) -> list[str]:
    """Those of these names that clients would not accept from the authority."""
    return [name for name in names if not (found := plain_or_none(name)) or not authority.allows(found)]


def read_authority(folder: Path) -> Authority | None:
    """The box's own authority, where there is one. Raises ConfigError, StorageFailed, PermissionDenied."""
    pem = _read(folder / CA)
    try:
        return Authority.read(pem) if pem is not None else None
    except ValueError as error:
        words = f"{folder / CA} is no authority of ours: {error}."
        raise ConfigError(words, remedy=f"Put it back from a backup, or: {REPLACE}.") from None


def read_facts(path: Path) -> Facts:
    """What the first certificate in a file says. Raises ConfigError, StorageFailed, PermissionDenied."""
    try:
        return facts(_read(path) or b"")
    except ValueError:
        raise ConfigError(f"{path} holds no certificate.", remedy="It must be a PEM file.") from None


def described(path: Path, found: Facts, now: float) -> dict[str, Any]:
    """A certificate in plain values."""
    begins, ends, days = int(found.begins), int(found.ends), int((found.ends - now) // DAY_S)
    return {"path": str(path), "names": list(found.names), "begins": begins, "ends": ends, "ends_in_days": days, "sha256": found.sha256}


def summary(folder: Path, now: float | None = None) -> dict[str, Any] | None:
    """The box's own certificate as `described`, with the authority's as `ca`; None where there is none. Raises ConfigError for
    damaged files, StorageFailed, PermissionDenied."""
    now = time.time() if now is None else now
    authority = read_authority(folder)
    if authority is None or not (folder / SERVER).exists():
        return None
    found = described(folder / SERVER, read_facts(folder / SERVER), now)
    return found | {"ca": described(folder / CA_FOR_CLIENTS, authority.facts, now)}


def _reason(pem: bytes | None, authority: Authority, wanted: list[str], now: float) -> str:
    """Why a certificate is due, or ""."""
    if pem is None:
        return "there was none"
    try:
        shown = facts(pem)
    except ValueError:
        return "the old one is damaged"
    if not authority.signed(pem):
        return "another authority signed the old one"
    if missing := [name for name in wanted if name not in shown.names]:
        return f"the old one is not for {', '.join(missing)}"
    if now < shown.begins:
        return f"the old one begins on {utc_date(shown.begins)}"
    if shown.ends - now < RENEW_S and min(now + SERVER_DAYS * DAY_S, authority.facts.ends) - shown.ends > GAIN_S:
        return f"the old one ends on {utc_date(shown.ends)}"
    return ""


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            owner = os.stat(folder.parent)
            os.chown(folder, owner.st_uid, owner.st_gid)  # the service may be another user
    except OSError as error:
        raise in_words(error, f"Making {folder}") from None


def _write(path: Path, data: bytes, secret: bool = False) -> None:
    try:
        write_atomically(path, data, secret=secret)
    except OSError as error:
        raise in_words(error, f"Writing {path}") from None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise in_words(error, f"Reading {path}") from None
