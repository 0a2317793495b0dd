"""`appliance backup`: keep what cannot be computed again, and put it back."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from appliance.cli.serve import add_flag
from appliance.config import BY_NAME
from appliance.errors import InvalidRequest

PLACE = ("data_dir", "config", "backup_dir")
SEALED = (*PLACE, "backup_passphrase_file")
KEPT = ("backup_keep_daily", "backup_keep_weekly", "backup_keep_monthly")


def add(commands: Any) -> None:
    """Declare the commands."""
    parser = commands.add_parser("backup", help="make, check, restore and prune backups", description=__doc__, allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", parser_class=type(parser))

    def action(name: str, help_text: str, settings: Sequence[str]) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.", allow_abbrev=False)
        for setting in settings:
            add_flag(made, BY_NAME[setting])
        made.set_defaults(run=_later(f"run_{name}"), settings=settings)
        return made

    made = action("create", "make a backup of keys, reviewed answers, settings and the models' papers; the service may run", SEALED)
    made.add_argument("--models", action="store_true", help="with the weights of the models in the data folder")
    made.add_argument("--cache", action="store_true", help="with the answers that were generated and are remembered")
    made.add_argument("--secrets", action="store_true", help="with keys and secrets, although it is not encrypted")
    made.add_argument("--json", action="store_true", help="print JSON")
    made = action("list", "show the backups that are there", PLACE)
    made.add_argument("--json", action="store_true", help="print JSON")
    made = action("verify", "read backups whole and check everything in them", SEALED)
    made.add_argument("file", metavar="FILE", nargs="*", help="a file, or the name of a backup; without it, all")
    made = action("restore", "put a backup in the place of the data folder, which is kept beside it; the service must be stopped", SEALED)
    made.add_argument("file", metavar="FILE", help="a file, or the name of a backup")
    made.add_argument("--into", type=Path, metavar="DIR", help="in the place of this folder instead")
    action("prune", "delete old backups, never the last good one", (*PLACE, *KEPT))
    parser.set_defaults(run=lambda arguments: _no_action(parser))


def _later(name: str) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        from appliance.cli import backup_work

        return getattr(backup_work, name)(arguments)

    return run


def _no_action(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return InvalidRequest.exit_code
