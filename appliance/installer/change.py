"""From one version to another and back. Whenever this is interrupted, the service runs the one or the other, and the next run of the
installer finds a note (`Layout.switching`) and finishes.

What is new is made beside what runs. Then the databases are copied, the note is written, units and link are changed, and systemd is
told once to start the service again. A version that does not answer is left: link and units are put back, and the databases too if
the former version could not read them any more.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from appliance.errors import ApplianceError, StepFailed
from appliance.installer.host import Host
from appliance.installer.layout import UNIT, USER, Layout
from appliance.storage import in_words, sync_folder, write_atomically

Tell = Callable[[str], None]
STEPS = "steps.json"
FILLED_AGAIN = ("cache.db",)
KINDS = ("service", "slice", "timer")
WRAPPER = rf"""#!/bin/sh
# Commands that use the service's data run as its user: files of root in there would be in its way. They may read what root may, such as
# a file on a stick that root has mounted.
program=/opt/appliance/current/.venv/bin/appliance
case "${{1-}} ${{2-}}" in
    bundle\ * | doctor\ * | upgrade\ * | rollback\ * | repair\ * | uninstall\ * | "backup restore") exec "$program" "$@" ;;
esac
[ "$(id -u)" = 0 ] || exec "$program" "$@"
exec setpriv --reuid={USER} --regid={USER} --init-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search --reset-env -- "$program" "$@"
"""


@contextmanager
def storing(doing: str) -> Iterator[None]:
    """OSErrors in words."""
    try:
        yield
    except OSError as error:
        raise in_words(error, doing) from None


def put_units(layout: Layout, version: str, host: Host) -> None:
    """The units of a version, its users and folders, and the command. Raises StorageFailed."""
    source = layout.release(version) / "systemd"
    places = {path.name: layout.local / "systemd/system" / path.name for kind in KINDS for path in source.glob(f"*.{kind}")}
    places |= {f"appliance.{kind}.conf": layout.local / f"{kind}.d" / "appliance.conf" for kind in ("sysusers", "tmpfiles")}
    with storing("Writing the units"):
        for name, place in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, (source / name).read_bytes())
        for path in our_units(layout):
            if path.name not in places:
                path.unlink()
        layout.command.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(layout.command, WRAPPER.encode())
        layout.command.chmod(0o755)
    host.reload()


def our_units(layout: Layout) -> list[Path]:
    """The unit files that are there."""
    return [path for kind in KINDS for path in sorted((layout.local / "systemd/system").glob(f"appliance*.{kind}"))]


def copy_databases(data: Path, into: Path) -> None:
    """A consistent copy of each database of a data folder, whether the service runs or not, but of those that are filled again by
    themselves; and a note of which changes of their tables all of them have had. Raises StorageFailed."""
    try:
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True, mode=0o700)
        for path in sorted(data.glob("*.db")):
            if path.name not in FILLED_AGAIN:
                with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=30)) as source, closing(sqlite3.connect(into / path.name)) as target:
                    source.backup(target)
        write_atomically(into / STEPS, json.dumps({path.name: _steps(path) for path in data.glob("*.db")}).encode())
    except sqlite3.Error as error:
        raise StepFailed(f"The databases in {data} could not be copied: {error}.") from None
    except OSError as error:
        raise in_words(error, f"Copying the databases to {into}") from None


def _steps(path: Path) -> list[str]:
    """The changes of its tables that a database has had."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return [f"{kind}/{name}" for kind, name in db.execute("SELECT migration_set, name FROM _sqlite_migrations ORDER BY 1, 2")]
    except sqlite3.Error:
        return []


def ahead(data: Path, former: Path) -> list[str]:
    """Names of databases that a later version changed since the copies in `former` were made, so that the one before cannot read them."""
    try:
        known = json.loads((former / STEPS).read_bytes())
    except (OSError, ValueError):
        return []  # killed before the copies were complete, and so before the later version ran
    return [path.name for path in sorted(data.glob("*.db")) if path.name in known and not set(_steps(path)) <= set(known[path.name])]


def put_back_databases(data: Path, former: Path, names: list[str], aside: Path) -> None:
    """The copies in place of what a later version left, which is kept in `aside`. The service must not run."""
    with storing("Putting back the databases"):
        aside.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in names:
            for path in data.glob(f"{name}*"):
                path.replace(aside / path.name)
            if (former / name).exists():
                draft = data / f".{name}.new"
                shutil.copyfile(former / name, draft)
                shutil.chown(draft, USER, USER)
                draft.chmod(0o600)
                draft.replace(data / name)
        sync_folder(data)


def change(layout: Layout, host: Host, to: str, tell: Tell, older: list[str] | None = None) -> None:
    """The service runs version `to` afterwards, or the one of before and StepFailed is raised. older: databases to put back as they
    were before the version came that runs now."""
    came_from = layout.installed(layout.current)
    with storing(f"Writing {layout.switching}"):
        copy_databases(layout.data, layout.before / to)
        layout.write_switching(**{"from": came_from, "to": to})
    tell("databases copied")
    try:
        if older:
            _put_back(layout, host, came_from, older, tell)
        put_units(layout, to, host)
        layout.point(layout.current, to)
        host.start()
    except (ApplianceError, OSError) as error:
        go_back(layout, host, tell)
        raise StepFailed(f"Version {to} does not work here, and {came_from} runs again. {error}", remedy="Report this to who made the bundle.") from None
    _done(layout, came_from)


def _put_back(layout: Layout, host: Host, later: str, names: list[str], tell: Tell) -> None:
    """Databases as they were before version `later`. The service is stopped for it."""
    if host.live:
        host.systemctl("stop", UNIT)
    aside = layout.before / f"{later}-left"
    put_back_databases(layout.data, layout.before / later, names, aside)
    tell(f"databases as they were before {later} ({', '.join(names)}); what it left is in {aside}")


def go_back(layout: Layout, host: Host, tell: Tell) -> None:
    """Undo a change that was not finished. Raises StepFailed when the former version does not run either."""
    noted = layout.read_switching()
    former, later = noted["from"], noted["to"]
    put_units(layout, former, host)
    moved = layout.installed(layout.current) != former
    layout.point(layout.current, former)
    if moved and (names := ahead(layout.data, layout.before / later)):
        _put_back(layout, host, later, names, tell)
    if moved or not host.active():
        host.start()
    layout.switching.unlink()


def finish(layout: Layout, host: Host, tell: Tell) -> None:
    """What an interrupted change left to do."""
    noted = layout.read_switching()
    if not noted:
        layout.switching.unlink(missing_ok=True)
        return
    if layout.installed(layout.current) == noted["to"] and host.active():
        _done(layout, noted["from"])
        return
    tell(f"the interrupted change to {noted['to']} undone")
    go_back(layout, host, tell)


def _done(layout: Layout, came_from: str) -> None:
    layout.point(layout.previous, came_from)
    layout.switching.unlink()


def rollback(layout: Layout, host: Host, with_data: bool, tell: Tell) -> str:
    """To the version of before; returns it. Raises ApplianceError where there is none, or where it could not read the data.

    with_data: the databases that it could not read are put back as they were before the later version came."""
    current, former = layout.installed(layout.current), layout.installed(layout.previous)
    if not former or not (layout.release(former) / "complete").exists():
        raise ApplianceError("There is no version of before.", remedy="Install one from its bundle with --allow-older.")
    names = ahead(layout.data, layout.before / current)
    if names and not with_data:
        raise ApplianceError(
            f"Version {former} cannot read {', '.join(names)} as {current} left them.",
            remedy=f"`appliance rollback --with-data` puts them back as they were before {current} came; what was written since is kept aside.",
        )
    change(layout, host, former, tell, older=names)
    return former
