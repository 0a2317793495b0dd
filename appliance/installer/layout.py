"""Where everything of an installed appliance lies."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.bundle.archive import MANIFEST, Manifest, parse_manifest
from appliance.storage import sync_folder, write_atomically

USER = "appliance"
UNIT = "appliance.service"


@dataclass(frozen=True)
class Layout:
    """Paths of a box whose root folder is `root`. See CONVENTIONS in README.md, "Where things lie"."""

    root: Path = Path("/")

    @property
    def opt(self) -> Path:
        """What comes from bundles; all of it can be made again from one."""
        return self.root / "opt/appliance"

    @property
    def current(self) -> Path:
        """The link to the version that runs."""
        return self.opt / "current"

    @property
    def previous(self) -> Path:
        """The link to the version of before."""
        return self.opt / "previous"

    @property
    def switching(self) -> Path:
        """There while the service changes from one version to another."""
        return self.opt / "switching.json"

    @property
    def config(self) -> Path:
        """The owner's settings."""
        return self.root / "etc/appliance"

    @property
    def data(self) -> Path:
        """The service's data."""
        return Path(self.setting("data_dir", "") or self.root / "var/lib/appliance")

    @property
    def before(self) -> Path:
        """Databases as they were before a version came; only root looks in there."""
        return self.root / "var/lib/appliance-before"

    @property
    def key(self) -> Path:
        """The public key that bundles must be signed with."""
        return self.config / "bundle.pub"

    @property
    def command(self) -> Path:
        """What people call."""
        return self.root / "usr/local/bin/appliance"

    @property
    def local(self) -> Path:
        """Units and what belongs to them: above what packages bring, below what the owner writes in /etc."""
        return self.root / "usr/local/lib"

    def setting(self, name: str, usual: Any) -> Any:
        """What the owner's files say of a setting; a file that cannot be read says nothing: the service itself tells what is wrong with it."""
        found = usual
        for path in (self.config / "config.toml", *sorted(self.config.glob("conf.d/*.toml"))):
            try:
                found = tomllib.loads(path.read_text("utf-8")).get(name, found)
            except (OSError, ValueError):
                continue
        return found

    def release(self, version: str) -> Path:
        """The folder of a version."""
        return self.opt / "releases" / version

    def installed(self, link: Path) -> str:
        """The version that a link means, '' for none."""
        try:
            return Path(os.readlink(link)).name
        except OSError:
            return ""

    def complete(self) -> list[str]:
        """The versions that are there in full."""
        return sorted(path.parent.name for path in self.opt.glob("releases/*/complete"))

    def manifest(self, version: str) -> Manifest:
        """What the bundle of an installed version said of itself. Raises BadBundle, OSError."""
        return parse_manifest((self.release(version) / MANIFEST).read_bytes())

    def point(self, link: Path, version: str) -> None:
        """Make a link mean a version, at once for everybody who follows it."""
        draft = link.with_name(f".{link.name}.new")
        draft.unlink(missing_ok=True)
        draft.symlink_to(Path("releases") / version)
        draft.replace(link)
        sync_folder(link.parent)

    def read_switching(self) -> dict[str, str]:
        """{from, to, before} of a change that was not finished, {} for none."""
        try:
            found = json.loads(self.switching.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}

    def write_switching(self, **names: str) -> None:
        """Note down a change that begins."""
        write_atomically(self.switching, json.dumps(names).encode())

