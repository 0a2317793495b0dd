"""`appliance upgrade`, `rollback`, `repair` and `uninstall`, on a box that was installed from a bundle. They need root."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from appliance.errors import InvalidRequest, PermissionDenied


def add(commands: Any) -> None:
    """Declare the commands."""
    made = commands.add_parser("upgrade", help="change to the version in a bundle", description="Change to the version in a bundle. The bundle is checked by the version that runs, with the key that it knows, before anything in it is run.", allow_abbrev=False)
    made.add_argument("bundle", type=Path, metavar="BUNDLE")
    made.add_argument("--allow-older", action="store_true", help="even if it is older")
    made.set_defaults(run=_upgrade)
    made = commands.add_parser("rollback", help="go back to the version before an upgrade", description="Go back to the version before an upgrade.", allow_abbrev=False)
    made.add_argument("--with-data", action="store_true", help="put databases back that the former version could not read any more")
    made.set_defaults(run=_rollback)
    made = commands.add_parser("repair", help="mend an installation; settings and data stay", description="Make an installation as its bundle had it; settings and data stay.", allow_abbrev=False)
    made.set_defaults(run=_repair)
    made = commands.add_parser("uninstall", help="remove the program; data stays", description="Remove the program. Settings and data stay.", allow_abbrev=False)
    made.add_argument("--purge", action="store_true", help="remove settings, data, backups and the service's user too")
    made.add_argument("--yes", action="store_true", help="do not ask")
    made.set_defaults(run=_uninstall)


def _box() -> tuple[Any, Any]:
    from appliance.installer.host import Host
    from appliance.installer.layout import Layout

    if os.geteuid():
        raise PermissionDenied("It needs root.", remedy="Run it with sudo.")
    layout = Layout()
    if not layout.installed(layout.current):
        raise InvalidRequest("The appliance is not installed on this machine as a service.", remedy="Install it from its bundle: sh FILE")
    return layout, Host(layout)


def _tell(words: str) -> None:
    print(f"✓ {words}", flush=True)


def _upgrade(arguments: argparse.Namespace) -> int:
    from appliance.bundle.archive import NEEDED_WHEELS, opened
    from appliance.bundle.signing import read_public

    layout, _ = _box()
    if not arguments.bundle.exists():
        raise InvalidRequest(f"There is no bundle at {arguments.bundle}.", param="bundle", remedy="Check the path, and whether the stick is mounted.")
    # Its own script is signed by nobody, and the file may be exchanged while we read: only what was checked here, and lies where only root
    # writes, is run. The installer checks the bundle again.
    with tempfile.TemporaryDirectory(prefix="appliance-upgrade-") as scratch, opened(arguments.bundle) as bundle:
        bundle.check_signature(read_public(layout.key))
        wheels = []
        for member, file in bundle.files(into=lambda member: (Path(scratch) / Path(member.name).name).open("wb") if member.name.startswith(NEEDED_WHEELS) else None):
            if file:
                file.close()
                wheels.append(Path(scratch) / Path(member.name).name)
        program = Path(scratch) / "program"
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(program, [name for name in packed.namelist() if not name.startswith(("appliance/models/", "appliance/web/"))])
        start = f"import sys; sys.dont_write_bytecode = True; sys.path.insert(0, {str(program)!r}); from appliance.installer.__main__ import main; sys.exit(main(sys.argv[1:]))"
        words = [str(arguments.bundle.absolute()), "upgrade", *(["--allow-older"] if arguments.allow_older else [])]
        return subprocess.run([getattr(sys, "_base_executable", sys.executable), "-I", "-c", start, *words]).returncode


def _rollback(arguments: argparse.Namespace) -> int:
    from appliance.installer import box, change

    layout, host = _box()
    with box.locked(layout):
        if finished := change.finish(layout, host, _tell):
            _tell(f"version {finished} runs; to go back from it run this again")
        else:
            _tell(f"version {change.rollback(layout, host, arguments.with_data, _tell)} runs")
    return 0


def _repair(arguments: argparse.Namespace) -> int:
    from appliance.installer import box

    box.repair(*_box(), _tell)
    return 0


def _uninstall(arguments: argparse.Namespace) -> int:
    from appliance.installer import box

    layout, host = _box()
    what = "the program, all settings, all data and all backups" if arguments.purge else "the program; settings and data stay"
    if not arguments.yes and input(f"This removes {what}. Type yes to go on: ").strip() != "yes":
        return 0
    box.uninstall(layout, host, arguments.purge, _tell)
    return 0
