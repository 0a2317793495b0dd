"""The folder of backups: what lies there, what was found when it was read, and what may go."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance.backup import archive
from appliance.backup.contents import BACKUPS
from appliance.config import Config, data_dir
from appliance.data_folder import give_to_owner
from appliance.errors import ApplianceError, BadBackup, ConfigError, NotFound, StorageFailed
from appliance.storage import in_words, write_atomically

STAMP = "%Y%m%dT%H%M%SZ"
NAME = re.compile(r"appliance-(\d{8}T\d{6}Z)\.tar\.gz(\.sealed)?")
CHECKED = "checked.json"
"""What was found when a backup was last read, by its name. May be deleted."""
CREDENTIAL = "backup-passphrase"
"""Of systemd: LoadCredential=backup-passphrase:FILE."""
MOST_PASSPHRASE_BYTES = 4096
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that lies there. made, checked: Unix seconds. fault: what was wrong when it was checked."""

    path: Path
    made: float
    size: int
    encrypted: bool
    checked: float | None = None
    fault: str = ""

    @property
    def name(self) -> str:
        """Of the file."""
        return self.path.name


def name_of(made: float, encrypted: bool) -> str:
    """The file name of a backup that was made at this time (Unix seconds)."""
    return f"appliance-{time.strftime(STAMP, time.gmtime(made))}.tar.gz{'.sealed' if encrypted else ''}"


def folder_of(config: Config, *, make: bool = False) -> Path:
    """Where backups lie; the default folder may not exist yet, unless it is to be made. Raises StorageFailed where a folder that was set is not there: a stick that is not plugged in is not replaced by an
    empty folder of its name."""
    folder = config.backup_dir or data_dir(config) / BACKUPS
    if config.backup_dir and not os.path.isdir(folder):
        raise StorageFailed(f"There is no folder {folder} for backups (backup_dir).", remedy="Plug in the stick, mount the share, or make the folder.")
    try:
        if make and config.backup_dir is None and folder.parent.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
            give_to_owner(folder, folder.parent)
    except OSError as error:
        raise in_words(error, f"Making {folder}") from None
    return folder


def passphrase(config: Config) -> bytes | None:
    """From backup_passphrase_file, else from systemd's credential; None where there is neither. A line end does not count. Raises ConfigError."""
    path = config.backup_passphrase_file
    if path is None and (credentials := os.environ.get("CREDENTIALS_DIRECTORY")) and (Path(credentials) / CREDENTIAL).is_file():
        path = Path(credentials) / CREDENTIAL
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            found = file.read(MOST_PASSPHRASE_BYTES + 1).rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(f"backup_passphrase_file = {path} cannot be read: {error.strerror}.", param="backup_passphrase_file") from None
    if not 8 <= len(found) <= MOST_PASSPHRASE_BYTES:
        raise ConfigError(f"The passphrase in {path} has {len(found)} bytes; it must have 8 to {MOST_PASSPHRASE_BYTES}.", param="backup_passphrase_file")
    return found


def all_of(folder: Path) -> list[Backup]:
    """The newest first; none where there is no such folder. Raises StorageFailed."""
    found, known = [], _checks(folder)
    try:
        for path in folder.iterdir() if folder.is_dir() else ():
            if fits := NAME.fullmatch(path.name):
                made = datetime.strptime(fits[1], STAMP).replace(tzinfo=UTC).timestamp()
                size = path.stat().st_size
                check = known.get(path.name, {})
                fault = check.get("fault", "") if check.get("size", size) == size else "its size is not what it was when it was checked"
                found.append(Backup(path, made, size, bool(fits[2]), check.get("at"), fault))
    except OSError as error:
        raise in_words(error, f"Reading {folder}") from None
    return sorted(found, key=lambda one: (one.made, one.name), reverse=True)


def newest(config: Config) -> Backup | None:
    """The newest backup in which no fault was found. Reads names and sizes only; never raises."""
    try:
        return next((one for one in all_of(config.backup_dir or data_dir(config) / BACKUPS) if not one.fault and one.made < time.time() + DAY_S), None)
    except ApplianceError:
        return None


def find(folder: Path, name: str) -> Backup:
    """Raises NotFound, StorageFailed."""
    for one in all_of(folder):
        if one.name == name:
            return one
    raise NotFound(f"There is no backup {name[:100]!r} in {folder}.", remedy="`appliance backup list` shows what there is.")


def remove(folder: Path, name: str) -> None:
    """Delete a backup. Raises NotFound, StorageFailed."""
    path = find(folder, name).path
    try:
        path.unlink()
    except OSError as error:
        raise in_words(error, f"Deleting {path}") from None


def note_check(folder: Path, name: str, now: float, fault: str = "") -> None:
    """Write down what was found. That it cannot be is no reason to stop."""
    try:
        names = {one.name: one.size for one in all_of(folder)}
        checks = {other: check for other, check in _checks(folder).items() if other in names}
        if name not in names:
            return  # it lies elsewhere
        checks[name] = {"at": now, "fault": fault, "size": names[name]}
        write_atomically(folder / CHECKED, json.dumps(checks).encode())
    except (OSError, ApplianceError):
        pass  # on a stick that is read-only


def _checks(folder: Path) -> dict[str, dict]:
    try:
        found = json.loads((folder / CHECKED).read_text("utf-8"))
        return {name: check for name, check in found.items() if isinstance(check, dict)}
    except (OSError, ValueError, AttributeError):
        return {}


# -- what may go ---------------------------------------------------------------------------------------------------------------


def kept(made: Iterable[float], daily: int, weekly: int, monthly: int) -> set[float]:
    """Of the times of backups (Unix seconds, UTC) those to keep: the newest of each of the last so many days, ISO weeks and months that have
    any. The newest of all is always among them."""
    newest_first = sorted(made, reverse=True)
    keep = set(newest_first[:1])
    for most, form in ((daily, "%Y-%m-%d"), (weekly, "%G-%V"), (monthly, "%Y-%m")):
        seen: dict[str, float] = {}
        for at in newest_first:
            seen.setdefault(time.strftime(form, time.gmtime(at)), at)
        keep |= set(list(seen.values())[:most])
    return keep


def prune(folder: Path, daily: int, weekly: int, monthly: int, now: float) -> list[Backup]:
    """Delete what need not be kept; returns that. Reads those that stay until one of them is whole; where none is, nothing goes. Raises
    BadBackup then, StorageFailed."""
    there = [one for one in all_of(folder) if one.made < now + DAY_S]  # one of a day to come was made while the clock was wrong: a person decides
    keep = kept((one.made for one in there), daily, weekly, monthly)
    gone = [one for one in there if one.made not in keep]
    if gone and not any(_is_whole(folder, one, now) for one in there if one.made in keep):
        raise BadBackup("None of the backups that would stay is whole, so none was deleted.", remedy="Make a new one: appliance backup create.")
    for one in gone:
        remove(folder, one.name)
    return gone


def _is_whole(folder: Path, one: Backup, now: float) -> bool:
    try:
        archive.check_whole(one.path)
    except ApplianceError as error:
        note_check(folder, one.name, now, str(error))
        return False
    return not one.fault
