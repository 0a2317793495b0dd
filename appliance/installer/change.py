"""From one version to another and back. Whenever this is interrupted, the service runs the one or the other, and the next run of the
installer finds a note (`Layout.switching`) and finishes.

What is new is made beside what runs. Then the databases are copied, the note is written, units and link are changed, and systemd is
told once to start the service again. A version that does not answer is left: link and units are put back, and the databases too if
the former version could not read them any more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import ApplianceError, StepFailed
from appliance.installer.host import Host
from appliance.installer.layout import UNIT, USER, Layout
from appliance.storage import in_words, write_atomically

Tell = Callable[[str], None]
KINDS = ("service", "slice", "timer")
WRAPPER = rf"""#!/bin/sh
# Commands that use the service's data run as its user: files of root in there would be in its way, and links there could lead root
# astray. Those that take over a file may read what root may, such as one on a stick that root has mounted.
program=/opt/appliance/current/.venv/bin/appliance
more=--init-groups
case "${{1-}} ${{2-}}" in
    bundle\ * | upgrade\ * | rollback\ * | repair\ * | uninstall\ * | "backup restore") exec "$program" "$@" ;;
    "models add" | "models convert" | "cache import") more="$more --inh-caps=+dac_read_search --ambient-caps=+dac_read_search" ;;
    doctor\ *) more=--groups=systemd-journal ;;  # the service's log
esac
if [ "$(id -u)" != 0 ]; then
    case " $* " in  # anything else would quietly look at a folder of that user's
        "  " | *" --help "* | *" -h "* | *" --version "* | *" --data-dir"*) exec "$program" "$@" ;;
    esac
    echo "appliance: it needs root: sudo appliance $*" >&2
    exit 77
fi
exec setpriv --reuid={USER} --regid={USER} $more --reset-env -- env SUDO_USER="${{SUDO_USER-root}}" "$program" "$@"
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


def change(layout: Layout, host: Host, to: str, tell: Tell, older: list[str] | None = None) -> None:
    """The service runs version `to` afterwards, or the one of before and StepFailed is raised. older: databases to put back as they
    were before the version came that runs now."""
    came_from = layout.installed(layout.current)
    with storing(f"Writing {layout.switching}"):
        copy_databases(layout, host, _before_change(layout))
        layout.write_switching(**{"from": came_from, "to": to, "older": " ".join(older or [])})
    tell("databases copied")
    try:
        if older:
            _put_back(layout, host, layout.before / came_from, older, f"as they were before {came_from}", tell)
        put_units(layout, to, host)
        layout.point(layout.current, to)
        host.start()
    except (ApplianceError, OSError) as error:
        go_back(layout, host, tell)
        raise StepFailed(f"Version {to} does not work here, and {came_from} runs again. {error}", remedy="Report this to who made the bundle.") from None
    _done(layout, came_from, to)


def _before_change(layout: Layout) -> Path:
    """Copies of the databases from the moment before the change that goes on."""
    return layout.before / "change"


def copy_databases(layout: Layout, host: Host, into: Path, release: Path | None = None) -> None:
    """Copies of the databases in a new folder of the service's, as they are now. release: the version whose program does it, if not the
    one that runs. Raises StepFailed, OSError."""
    into.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(mode=0o700)
    shutil.chown(into, USER, USER)
    host.as_service(release or layout.release(layout.installed(layout.current)), "copy", layout.data, into)


def _ahead(layout: Layout, host: Host, former: Path) -> list[str]:
    return json.loads(host.as_service(layout.release(layout.installed(layout.current)), "ahead", layout.data, former)) if former.is_dir() else []


def _put_back(layout: Layout, host: Host, former: Path, names: list[str], words: str, tell: Tell) -> None:
    """The service is stopped for it, when all copies lie beside what they replace."""
    aside = next(path for path in (layout.before / f"left-{number}" for number in range(1, 10_000)) if not path.exists())
    aside.mkdir(mode=0o700)
    shutil.chown(aside, USER, USER)
    release = layout.release(layout.installed(layout.current))
    host.as_service(release, "ready", layout.data, former, *names)
    host.systemctl("stop", UNIT)
    host.as_service(release, "put-back", layout.data, aside, *names)
    tell(f"databases {words} ({', '.join(names)}); as they were last they are kept in {aside}")


def go_back(layout: Layout, host: Host, tell: Tell) -> None:
    """Undo a change that was not finished. Raises StepFailed when the former version does not run either."""
    noted = layout.read_switching()
    former, copies = noted["from"], _before_change(layout)
    names = sorted({*_ahead(layout, host, copies), *noted.get("older", "").split()})
    if names:
        _put_back(layout, host, copies, names, "as they were before the change", tell)
    put_units(layout, former, host)
    layout.point(layout.current, former)
    layout.switching.unlink()  # first: whoever comes next must be able to go on although the former version does not start
    host.start()


def finish(layout: Layout, host: Host, tell: Tell) -> str:
    """What an interrupted change left to do; the version that it led to, '' where there was none."""
    noted = layout.read_switching()
    if not noted:
        layout.switching.unlink(missing_ok=True)
        return ""
    if layout.installed(layout.current) == noted["to"]:
        try:
            host.start()  # the process that runs may still be the former version's
            _done(layout, noted["from"], noted["to"])
            tell(f"the interrupted change to {noted['to']} finished")
            return noted["to"]
        except StepFailed:
            pass
    tell(f"the interrupted change to {noted['to']} undone")
    go_back(layout, host, tell)
    return noted["from"]


def _done(layout: Layout, came_from: str, to: str) -> None:
    with storing(f"Writing into {layout.before}"):
        shutil.rmtree(layout.before / to, ignore_errors=True)
        if _before_change(layout).exists():
            _before_change(layout).rename(layout.before / to)
    layout.point(layout.previous, came_from)
    layout.switching.unlink()


def rollback(layout: Layout, host: Host, with_data: bool, tell: Tell) -> str:
    """To the version of before; returns it. Raises ApplianceError where there is none, or where it could not read the data.

    with_data: the databases that it could not read are put back as they were before the later version came."""
    current, former = layout.installed(layout.current), layout.installed(layout.previous)
    if not former or not (layout.release(former) / "complete").exists():
        raise ApplianceError("There is no version of before.", remedy="Install one from its bundle with --allow-older.")
    names = _ahead(layout, host, layout.before / current)
    if names and not with_data:
        raise ApplianceError(
            f"Version {former} cannot read {', '.join(names)} as {current} left them.",
            remedy=f"`appliance rollback --with-data` puts them back as they were before {current} came; what was written since is kept aside.",
        )
    change(layout, host, former, tell, older=names)
    return former
