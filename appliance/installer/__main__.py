"""What install.sh calls with a bundle: `python -m appliance.installer BUNDLE [ACTION] [options]`. Standard library and `cryptography` only."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from appliance.bundle.archive import fingerprint, opened
from appliance.bundle.signing import read_public
from appliance.errors import ApplianceError
from appliance.installer import box
from appliance.installer.host import Host
from appliance.installer.layout import Layout


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(prog="install.sh", description="Installs the appliance from its bundle, or a newer version beside the one that runs.", allow_abbrev=False)
    made.add_argument("bundle", type=Path, help=argparse.SUPPRESS)
    made.add_argument("action", nargs="?", default="install", choices=("install", "upgrade", "repair", "verify"), help="install (also: change to another version), repair, or verify and change nothing")
    made.add_argument("--host", default="0.0.0.0", help="address to listen on (default: every one)")
    made.add_argument("--port", type=int, default=8443, help="port to listen on (default: %(default)s)")
    made.add_argument("--no-tls", action="store_true", help="HTTP instead of HTTPS with a certificate of the box's own")
    made.add_argument("--name", action="append", default=[], metavar="NAME", help="domain name under which people open the pages, such as box.example.org; repeatable")
    made.add_argument("--key", type=Path, default=None, metavar="FILE", help="public key of the bundle's maker; default: the one that is known on this machine, or the bundle's own")
    made.add_argument("--allow-older", action="store_true", help="install a version older than the one that is installed")
    made.add_argument("--offline", action="store_true", help="touch no network; a bundle never does")
    made.add_argument("--user", action="store_true", help="only an environment beside the unpacked bundle, for who runs this; no root, no service")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Do it; returns the exit code."""
    arguments = parser().parse_args(argv)
    layout = Layout()
    host = Host(layout)
    try:
        with opened(arguments.bundle) as bundle:
            key = read_public(arguments.key) if arguments.key else ""
            if arguments.action == "verify":
                bundle.check_signature(key)
                bundle.check_files()
                _tell(f"the bundle is whole: version {bundle.manifest.version}, signed with {fingerprint(bundle.key)}")
            elif arguments.user:
                box.for_user(bundle, host, key, _tell)
            elif arguments.action == "repair":
                box.repair(layout, host, _tell, bundle)
            else:
                box.install(bundle, layout, host, box.Wishes(arguments.host, arguments.port, not arguments.no_tls, tuple(arguments.name), key, arguments.allow_older), _tell)
    except ApplianceError as error:
        print(f"install.sh: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("install.sh: interrupted; run it again to finish.", file=sys.stderr)
        return 130
    return 0


def _tell(words: str) -> None:
    print(f"✓ {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
