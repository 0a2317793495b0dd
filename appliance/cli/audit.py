"""`appliance audit`: who did what to the box, and whether somebody tampered with that. `appliance forget`: what is kept under a name.

Both work on the files in the data folder, whether the service runs or not.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.cli.serve import add_flag
from appliance.config import BY_NAME, Config, data_dir, load_for_work
from appliance.errors import AuditLogBroken, InvalidRequest, NotFound

if TYPE_CHECKING:
    from appliance.trail.entries import By
    from appliance.trail.log import Trail

SHOWN = 100


def add(commands: Any) -> None:
    """Declare the commands. What they need is loaded when one is run: the help of the program waits for no library."""
    parser = commands.add_parser("audit", help="see and verify who did what to the box", description=__doc__, allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", parser_class=type(parser))
    made = actions.add_parser("list", help="show entries, the newest last", description="Show entries, the newest last.", allow_abbrev=False)
    made.add_argument("--since", metavar="DAY", help="from then on, such as 2027-03-31 or 2027-03-31T08:00 (UTC)")
    made.add_argument("--who", default="", metavar="NAME", help="a person's name, service, command, or 'key NAME'")
    made.add_argument("--action", default="", metavar="ACTION", dest="wanted", help="such as key.revoke, or key for all of keys")
    made.add_argument("--most", type=int, default=SHOWN, metavar="N", help=f"show at most so many (default: {SHOWN})")
    made.set_defaults(run=run_list)
    _add_common(made)
    words = "find what was changed, removed, inserted or moved since it was written"
    made = actions.add_parser("verify", help=words, description=f"{words[0].upper()}{words[1:]}.", allow_abbrev=False)
    made.add_argument("--head", default=None, metavar="NUMBER:HASH", help="an end of the log that was noted elsewhere, such as in the log of the service: it must be there")
    made.add_argument("--from", type=int, default=1, metavar="N", dest="first", help="leave out the entries before this one, where a fault among them is known")
    made.set_defaults(run=run_verify)
    _add_common(made)
    parser.set_defaults(run=lambda arguments: _no_action(parser))
    words = "remove what is kept under the name of a person or key"
    made = commands.add_parser("forget", help=words, description=f"{words[0].upper()}{words[1:]}.", allow_abbrev=False)
    made.add_argument("name", metavar="NAME")
    made.add_argument("--account", action="store_true", help="the account or the key as well, and the name in the audit log")
    made.add_argument("--yes", action="store_true", help="do not ask")
    made.set_defaults(run=run_forget)
    _add_common(made)


def _add_common(made: argparse.ArgumentParser) -> None:
    made.add_argument("--json", action="store_true", help="print JSON")
    for setting in ("data_dir", "config"):
        add_flag(made, BY_NAME[setting])


def _no_action(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return InvalidRequest.exit_code


def _config(arguments: argparse.Namespace) -> Config:
    return load_for_work({"data_dir": arguments.data_dir, "config": arguments.config})


def _told(level: str, words: str) -> None:
    print(words, file=sys.stderr)


# -- for other commands ----------------------------------------------------------------------------------------------------


def noted(config: Config, action: str, object: object = "", **detail: Any) -> None:
    """Write down that a command did something; as `trail.log` has it. A folder that is another user's and has no log yet gets none: it would be
    of the wrong owner."""
    from appliance.trail.log import FILE, Trail

    folder = data_dir(config)
    if not (folder / FILE).exists() and not (folder.exists() and folder.stat().st_uid == os.geteuid()):
        return
    trail = Trail(folder, _told)
    _open(trail)
    trail.note(acting(), action, str(object), **detail)
    trail.close()


def acting() -> By:
    """The system's user, and where it is known the one behind sudo."""
    from appliance.trail.entries import By

    try:
        name = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's number without a name
        name = str(os.getuid())
    return By("command", name)


def _open(trail: Trail) -> None:
    """A log that cannot be opened refuses nothing: each entry that is lacking is told."""
    from appliance.errors import ApplianceError

    try:
        trail.open()
    except (ApplianceError, OSError) as error:
        _told("error", f"appliance: {error}")


# -- the commands ----------------------------------------------------------------------------------------------------------


def run_list(arguments: argparse.Namespace) -> int:
    """A line an entry."""
    from appliance.db.connection import open_for_reading
    from appliance.trail import entries

    since = None
    if arguments.since:
        try:
            since = datetime.fromisoformat(arguments.since)
        except ValueError:
            raise InvalidRequest(f"--since takes a day such as 2027-03-31, not {arguments.since!r}.", param="since") from None
        since = (since if since.tzinfo else since.replace(tzinfo=UTC)).timestamp()
    db = open_for_reading(_existing(arguments))
    try:
        found = entries.search(db, entries.Wish(arguments.who, arguments.wanted, since), arguments.most)[::-1]
    finally:
        db.close()
    if arguments.json:
        print(json.dumps([asdict(entry) | {"by": entry.by} for entry in found], indent=2))
        return 0
    for entry in found:
        at = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        line = f"{entry.number}  {at}  {entry.by}{f' at {entry.address}' if entry.address else ''}  {entry.action}  {entry.object}"
        detail = json.dumps(entry.detail, ensure_ascii=False) if entry.detail else ""
        print("".join(c if c.isprintable() else "\ufffd" for c in f"{line}  {detail}".rstrip()))
    if not found:
        print("No entry fits.")
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Raises AuditLogBroken with the first fault."""
    from appliance.db.connection import open_for_reading
    from appliance.trail import entries
    from appliance.trail.log import parse_head, read_head

    path = _existing(arguments)
    head = read_head(path.parent)  # before the log is looked at: what comes meanwhile is no fault
    try:
        noted_head = parse_head(arguments.head) if arguments.head else None
    except ValueError:
        raise InvalidRequest(f"--head takes NUMBER:HASH, not {arguments.head!r}.", param="head", remedy="The log of the service has such a line for each day.") from None
    db = open_for_reading(path)
    try:
        count, fault = entries.verify(db, head, arguments.first)
        last = entries.last(db)
        if fault is None and noted_head and not entries.holds(db, noted_head):
            fault = entries.Fault(noted_head.number, "it is not the one that was noted: the log was cut off or written anew since")
    finally:
        db.close()
    if arguments.json:
        print(json.dumps({"good": fault is None, "entries": count, "fault": asdict(fault) if fault else None, "head": f"{last.number}:{last.hash}"}, indent=2))
        return AuditLogBroken.exit_code if fault else 0
    if fault:
        raise AuditLogBroken(f"Entry {fault.number} of {path}: {fault.why}.", remedy="Compare with a backup, and with the lines `The audit log ends with` in the log of the service.")
    print(f"All {count} entries are as they were written. The log ends with {last.number}:{last.hash}")
    return 0


def _existing(arguments: argparse.Namespace) -> Path:
    from appliance.trail.log import FILE, read_head

    path = data_dir(_config(arguments)) / FILE
    if not path.exists():
        if head := read_head(path.parent):
            raise AuditLogBroken(f"{path} is gone; its last entry was {head.number}:{head.hash}.", remedy="Put back the newest backup of it.")
        raise NotFound(f"There is no audit log in {path.parent}.", remedy="Name the service's data folder with --data-dir.")
    return path


def run_forget(arguments: argparse.Namespace) -> int:
    """Says what was removed, and what still has the name."""
    from appliance.trail.forget import forget
    from appliance.trail.log import Trail

    config = _config(arguments)
    folder = data_dir(config)
    if not folder.is_dir():
        raise NotFound(f"There is no data folder {folder}.", remedy="Name the service's with --data-dir.")
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise InvalidRequest(f"Everything kept under the name {arguments.name!r} would be removed.", remedy="Add --yes to do it.")
        if input(f"Remove everything kept under the name {arguments.name!r}? [y/N] ").strip().lower() not in ("y", "yes"):
            return 0
    trail = Trail(folder, _told)
    try:
        trail.open()
        found = forget(config, arguments.name, trail, acting(), _told, account=arguments.account)
    finally:
        trail.close()
    if arguments.json:
        print(json.dumps(asdict(found), indent=2))
        return 0
    for what, count in found.removed.items():
        print(f"{count} {what} removed")
    print("\n".join(found.stays))
    return 0
