"""What the commands of `appliance backup` do."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from appliance.backup import create, restore, shelf
from appliance.backup.contents import CONFIGURATION, Wishes
from appliance.backup.shelf import Backup
from appliance.cli import version
from appliance.cli.audit import noted
from appliance.cli.progress import Bar
from appliance.clock import utc_date
from appliance.config import Config, data_dir, load_for_work
from appliance.errors import BadBackup, ConfigError, InvalidRequest
from appliance.intake.add import in_units


def _config(arguments: argparse.Namespace) -> Config:
    return load_for_work({name: getattr(arguments, name) for name in arguments.settings})


def _path(config: Config, file: str) -> Path:
    """A file that is named by its path, or by its name in the folder of backups. Raises NotFound."""
    return Path(file) if os.sep in file or os.path.isfile(file) else shelf.find(shelf.folder_of(config), file).path


def _reading(path: Path) -> Bar:
    return Bar(path.name, 2 * path.stat().st_size if path.is_file() else 0)  # as a whole, then what is in it


def _warn(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def run_create(arguments: argparse.Namespace) -> int:
    """One line: what was made."""
    config = _config(arguments)
    with Bar("backup", 0) as bar:

        def begun(total: int) -> Bar:
            bar.total = total
            return bar

        made = create.create(config, Wishes(arguments.models, arguments.cache, arguments.secrets), version(), time.time(), begun, _warn)
    noted(config, "backup.make", made.name, models=arguments.models, cache=arguments.cache, secrets=arguments.secrets)
    if arguments.json:
        print(json.dumps(_as_json(made), indent=2))
    else:
        print(f"{made.path} ({in_units(made.size)}{', encrypted' if made.encrypted else ''}) is made and checked.")
        if not made.encrypted:
            _warn("It is not encrypted (backup_passphrase_file): whoever has it can read all reviewed answers. Passwords and keys are in it as digests.")
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """A line a backup, the newest first."""
    config = _config(arguments)
    found = shelf.all_of(shelf.folder_of(config))
    if arguments.json:
        print(json.dumps([_as_json(one) for one in found], indent=2))
        return 0
    for one in found:
        print(f"{one.name}  {in_units(one.size):>9}  {_age(time.time() - one.made)} old, {_state(one)}")
    if not found:
        print("There is no backup yet. Make one: appliance backup create")
    return 0


def _as_json(one: Backup) -> dict[str, Any]:
    return {"name": one.name, "path": str(one.path), "made": one.made, "size_bytes": one.size, "encrypted": one.encrypted, "checked": one.checked, "fault": one.fault or None}


def _age(seconds: float) -> str:
    return f"{seconds / 86_400:.0f} days" if seconds >= 2 * 86_400 else f"{max(0.0, seconds) / 3600:.1f} hours"


def _state(one: Backup) -> str:
    if one.fault:
        return f"not good: {one.fault}"
    return "never checked here" if one.checked is None else f"checked {_age(time.time() - one.checked)} ago"


def run_verify(arguments: argparse.Namespace) -> int:
    """A line a backup."""
    config, worst = _config(arguments), 0
    paths = [_path(config, file) for file in arguments.file] or [one.path for one in shelf.all_of(shelf.folder_of(config))]
    if not paths:
        raise InvalidRequest("There is no backup to check.", remedy="Make one: appliance backup create")
    for path in paths:
        try:
            with _reading(path) as bar:
                paper = create.verify(path, config, time.time(), bar)
        except (BadBackup, ConfigError) as error:
            print(f"appliance: {error}", file=sys.stderr)
            worst = error.exit_code
            continue
        print(f"{path.name}: good. {len(paper.entries)} files, {in_units(paper.size)}, of version {paper.version} on {paper.host}.")
    return worst


def run_restore(arguments: argparse.Namespace) -> int:
    """What was restored, where the former data are, and what is left to do."""
    config = _config(arguments)
    folder = arguments.into or data_dir(config)
    if restore.finish(folder, Path(arguments.file).name):
        print(f"{folder} is restored: an earlier restore of this backup was interrupted, and what was left of it is done.")
        return 0
    path = _path(config, arguments.file)
    with _reading(path) as bar:
        done = restore.restore(path, folder, shelf.passphrase(config), version(), time.time(), bar)
    print(f"{done.folder} is restored from {path.name}, made on {utc_date(done.made)}. Keys and passwords are as they were then: revoke again what was revoked since.")
    if not arguments.into:
        noted(config, "backup.restore", path.name, made=utc_date(done.made))
    if done.former:
        print(f"What was there before lies in {done.former}. Delete it when all is well.")
    if (done.folder / CONFIGURATION).is_dir():
        print(f"The configuration of the backup lies in {done.folder / CONFIGURATION}; compare it with yours and put it where it belongs.")
    for name in done.missing:
        print(f"The model {name} has no weights here: add it again (appliance models add).")
    return 0


def run_prune(arguments: argparse.Namespace) -> int:
    """A line a deleted backup."""
    config = _config(arguments)
    keep = (config.backup_keep_daily, config.backup_keep_weekly, config.backup_keep_monthly)
    gone = shelf.prune(shelf.folder_of(config), *keep, time.time())
    for one in gone:
        noted(config, "backup.remove", one.name)
        print(f"{one.name} is deleted.")
    if not gone:
        print("No backup is old enough to go.")
    return 0
