"""The whole of it: install, change for another version, mend, remove. Everything may be killed at any moment and run again."""

from __future__ import annotations

import base64
import fcntl
import json
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle.archive import SCRIPT_BYTES, Bundle, fingerprint
from appliance.errors import ApplianceError, BadBundle, StepFailed
from appliance.installer import change, preflight, release
from appliance.installer.change import Tell, storing
from appliance.installer.host import Host
from appliance.installer.layout import UNIT, USER, Layout
from appliance.storage import write_atomically

ADMIN, FIRST_KEY = "admin", "first"
TRIAL = ".appliance-trial."
CONFIG = """\
# Written when the appliance was installed; yours from now on. Every setting: appliance serve --help
# After a change: systemctl reload appliance (keys, limits, logging) or systemctl restart appliance.
host = "{host}"
port = {port}
{tls}{names}"""


@dataclass(frozen=True, slots=True)
class Wishes:
    """Of who installs. host, port: where to listen, for a config.toml that is written; tls: with the box's own certificate; names: domain
    names under which people open the pages; key: the public key that the bundle must be signed with, '' for the one that is known or that it has; allow_older: go back to an older version."""

    host: str = "0.0.0.0"
    port: int = 8443
    tls: bool = True
    names: tuple[str, ...] = ()
    key: str = ""
    allow_older: bool = False


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """One installer at a time. Raises ApplianceError while another is at work."""
    with storing("Locking"):
        file = (layout.root / "run/appliance-install.lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ApplianceError("Another installation is at work.", remedy="Wait until it has ended.") from None
        yield


def install(bundle: Bundle, layout: Layout, host: Host, wishes: Wishes, tell: Tell) -> None:
    """A fresh box, a newer version, or the same once more. Raises NotReady, BadBundle, StepFailed, StorageFailed; the service that ran
    before still runs then. Of a first installation nothing is left, unless all went well but the service's own start."""
    manifest = bundle.manifest
    current, port = layout.installed(layout.current), wishes.port if not (layout.config / "config.toml").exists() else host.port()
    size = sum(member.size for member in manifest.members.values())
    preflight.check(preflight.read_machine(layout, port), manifest, size, current, port, wishes.allow_older)
    with locked(layout):
        trusted = wishes.key or _trusted(layout)
        bundle.check_signature(trusted)
        tell(f"signed with {fingerprint(bundle.key)}{'' if trusted else ', which this box trusts from now on'}")
        change.finish(layout, host, tell)
        _sweep(layout)
        ours = [] if current else [path for path in (layout.config, layout.data) if not path.exists()]
        had_user = host.has_user()
        try:
            kept = (layout.config / "config.toml").exists()
            _install(bundle, layout, host, wishes, tell)
            if kept and wishes != Wishes(key=wishes.key, allow_older=wishes.allow_older):
                tell(f"{layout.config / 'config.toml'} was there already and stays as it is: change host, port, tls and names there, then systemctl restart appliance")
        except BaseException:
            if not current and not layout.installed(layout.current):
                _remove_program(layout, host)
                for path in ours:
                    shutil.rmtree(path, ignore_errors=True)
                if not had_user:
                    host.remove_user()
            elif not (layout.release(manifest.version) / release.STAMP).exists():
                shutil.rmtree(layout.release(manifest.version), ignore_errors=True)
            raise


def _install(bundle: Bundle, layout: Layout, host: Host, wishes: Wishes, tell: Tell) -> None:
    version = bundle.manifest.version
    with storing(f"Writing into {layout.opt}"):
        folder = release.unpack(bundle, layout)
    tell("every file unpacked and checked")
    release.make_environment(folder, host)
    tell("environment made")
    with storing("Making the service's user and folders"):
        _make_places(folder, layout, host, wishes)
        _add_models(folder, layout, host)
    _try_out(folder, layout, host)
    tell("the new version answers on a copy of the data")
    current = layout.installed(layout.current)
    if current and current != version:
        change.change(layout, host, version, tell)
    else:
        _first_people(folder, layout, host, tell)
        change.put_units(layout, version, host)
        layout.point(layout.current, version)
        host.start()
    for unit in [UNIT, *(path.name for path in change.our_units(layout) if path.suffix == ".timer")]:
        host.systemctl("enable", *(("--now",) if unit.endswith(".timer") else ()), unit)
    _add_answers(folder, layout, host, tell)
    if not current and layout.setting("tls", "off") == "own":
        shown = json.loads(host.run(folder / ".venv/bin/appliance", "tls", "show", "--json", "--data-dir", layout.data, as_user=True))
        tell(f"browsers warn until they are told to trust this box's ca.crt (see /help there); its fingerprint, SHA-256:\n    {shown['ca']['sha256']}")
    with storing(f"Writing {layout.key}"):
        write_atomically(layout.key, f"{bundle.key}\n".encode())
    release.remove_old(layout)
    tell(f"version {version} runs")


def for_user(bundle: Bundle, host: Host, key: str, tell: Tell) -> None:
    """An environment beside an unpacked bundle, for who has no root. Raises ApplianceError, BadBundle, StepFailed."""
    if not bundle.path.is_dir():
        raise ApplianceError("For one user the bundle is unpacked first.", remedy=f"tail -c +{SCRIPT_BYTES + 1} {bundle.path.name} | tar x; ./install.sh --user")
    bundle.check_signature(key)
    bundle.check_files()
    tell("every file checked")
    release.make_environment(bundle.path.absolute(), host)
    tell(f"start it with: {bundle.path / '.venv/bin/appliance'} serve")


def _trusted(layout: Layout) -> str:
    try:
        return layout.key.read_text("ascii").strip()
    except OSError:
        return ""
    except ValueError:
        raise BadBundle(f"{layout.key} holds no key.", remedy="Give the maker's public key with --key.") from None


def _make_places(folder: Path, layout: Layout, host: Host, wishes: Wishes) -> None:
    host.make_user(folder / "systemd/appliance.sysusers.conf")
    for place in (layout.config, layout.data):
        place.mkdir(parents=True, exist_ok=True, mode=0o750)
    place, file = layout.config, layout.config / "config.toml"
    if not file.exists():
        write_atomically(file, CONFIG.format(host=wishes.host, port=wishes.port, tls='tls = "own"\n' if wishes.tls else "", names=f"names = {json.dumps(wishes.names)}\n" if wishes.names else "").encode())
    shutil.chown(layout.data, USER, USER)
    shutil.chown(place, "root", USER)


def _add_models(folder: Path, layout: Layout, host: Host) -> None:
    """The models that the bundle carries besides the appliance's own, into the catalog. One that is there stays as it is."""
    for source in sorted((folder / "models").glob("*")):
        host.as_service(folder, "add-model", source, layout.data / "models")


def _add_answers(folder: Path, layout: Layout, host: Host, tell: Tell) -> None:
    """The reviewed answers that the bundle carries, once."""
    done = folder / "answers.done"
    for path in sorted(folder.glob("answers.*")):
        if not done.exists():
            tell(host.run(folder / ".venv/bin/appliance", "cache", "import", path, "--data-dir", layout.data, as_user=True).strip())
            write_atomically(done, b"")


def _try_out(folder: Path, layout: Layout, host: Host) -> None:
    """The version by itself, on a copy of the databases, before anything is changed for it. Raises StepFailed."""
    with tempfile.TemporaryDirectory(dir=layout.data.parent, prefix=TRIAL) as scratch:
        trial = Path(scratch) / "data"
        Path(scratch).chmod(0o711)
        change.copy_databases(layout, host, trial, folder)
        host.run(folder / ".venv/bin/appliance", "doctor", "--self-test", "--copy", trial, as_user=True, timeout_s=300)


def _first_people(folder: Path, layout: Layout, host: Host, tell: Tell) -> None:
    """An admin and a key, told once. Who was killed before telling tells others the next time."""
    told = layout.config / ".told"  # stays as long as the settings do: who installs again has a password
    if told.exists():
        return

    def command(*words: str, given: str = "") -> str:
        return host.run(folder / ".venv/bin/appliance", *words, "--data-dir", layout.data, as_user=True, words=given)

    password = "-".join(base64.b32encode(secrets.token_bytes(15)).decode().lower()[at : at + 4] for at in range(0, 20, 4))
    names = {row["name"] for row in json.loads(command("people", "list", "--json"))}
    command("people", *(("password", ADMIN) if ADMIN in names else ("add", ADMIN, "--role", "admin")), "--password-file", "-", given=password)
    keys = json.loads(command("keys", "list", "--json"))
    for row in keys:
        if row["name"].startswith(FIRST_KEY) and not row["revoked"]:
            command("keys", "revoke", str(row["id"]))
    key = command("keys", "make", f"{FIRST_KEY}-{len(keys) + 1}" if keys else FIRST_KEY).strip()
    scheme = "https" if layout.setting("tls", "off") == "own" or layout.setting("tls_cert", "") else "http"
    tell(
        f"this is shown once:\n\n    admin page   {scheme}://{_address()}:{host.port()}/admin\n    name         {ADMIN}\n    password     {password}\n"
        f"    API          {scheme}://{_address()}:{host.port()}/v1\n    API key      {key}\n"
    )
    write_atomically(told, b"")


def _address() -> str:
    """The address by which others most likely reach this machine; its name where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))  # nothing is sent: the kernel only chooses the way
            return one.getsockname()[0]
        except OSError:
            return socket.gethostname()


def repair(layout: Layout, host: Host, tell: Tell, bundle: Bundle | None = None) -> None:
    """The version that is installed as its bundle had it, from the wheels that were kept or from the bundle. Settings and data stay as
    they are. Raises ApplianceError, StepFailed."""
    with locked(layout):
        change.finish(layout, host, tell)
        version = layout.installed(layout.current)
        if not version:
            raise ApplianceError("Nothing is installed.", remedy="Install from a bundle: sh FILE")
        folder = layout.release(version)
        if bundle:
            if bundle.manifest.version != version:
                raise ApplianceError(f"Version {version} is installed; the bundle has {bundle.manifest.version}.", remedy=f"Repair with the bundle of {version}, or install this one.")
            bundle.check_signature(_trusted(layout))
            bundle.check_files()  # before anything is removed for it
            (folder / release.STAMP).unlink(missing_ok=True)
            with storing(f"Writing into {layout.opt}"):
                release.unpack(bundle, layout)
        elif broken := release.damaged(layout, version):
            raise ApplianceError(f"{len(broken)} files of version {version} are damaged, {broken[0]} for one.", remedy=f"Use the bundle of that version: sh appliance-{version}-*.run repair")
        tell("every file is as the bundle had it")
        (folder / release.STAMP).unlink(missing_ok=True)
        release.make_environment(folder, host)
        tell("environment made anew")
        _make_places(folder, layout, host, Wishes())
        change.put_units(layout, version, host)
        # What a command left there that ran as root. GNU chown goes down folders by their descriptors and follows no links.
        host.run("chown", "--recursive", "--no-dereference", "-P", f"{USER}:{USER}", layout.data)
        host.systemctl("enable", UNIT)
        host.start()
        tell(f"version {version} runs")


def uninstall(layout: Layout, host: Host, purge: bool, tell: Tell) -> None:
    """Remove the program; with purge its settings, its data and its user too. Safe where parts are gone already."""
    with locked(layout):
        for path in change.our_units(layout):
            try:
                host.systemctl("disable", "--now", path.name)
            except StepFailed:
                pass  # it never was enabled
        host.stop()
        with storing("Removing"):
            _remove_program(layout, host)
            tell("program and units removed")
            if purge:
                _purge(layout, host)
                tell("settings, data and user removed")
            else:
                tell(f"settings stay in {layout.config}, data in {layout.data}; --purge removes them too")


def _remove_program(layout: Layout, host: Host) -> None:
    for path in [*change.our_units(layout), layout.local / "sysusers.d/appliance.conf", layout.local / "tmpfiles.d/appliance.conf", layout.command]:
        path.unlink(missing_ok=True)
    host.reload()
    shutil.rmtree(layout.opt, ignore_errors=True)


def _purge(layout: Layout, host: Host) -> None:
    data = layout.data
    beside = [*data.parent.glob(f"{data.name}.before-restore-*"), *data.parent.glob(f"{data.name}.restoring*")]
    drop_ins = (layout.root / "etc/systemd/system").glob("appliance*.d")
    for folder in (layout.config, data, layout.before, layout.root / "run/appliance", *beside, *drop_ins):
        shutil.rmtree(folder, ignore_errors=True)
    for stamp in (layout.root / "var/lib/systemd/timers").glob("stamp-appliance*"):  # when systemd's timers ran last
        stamp.unlink()
    _sweep(layout)
    host.remove_user()


def _sweep(layout: Layout) -> None:
    """What killed runs left beside the data."""
    for folder in layout.data.parent.glob(f"{TRIAL}*"):
        shutil.rmtree(folder, ignore_errors=True)
