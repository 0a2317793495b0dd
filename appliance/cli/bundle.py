"""`appliance bundle`: one file with everything for boxes that have no network.

`build` needs a checkout of the project and, once, a package index; the other commands need nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.errors import InvalidRequest


def add(commands: Any) -> None:
    """Declare the commands."""
    parser = commands.add_parser("bundle", help="build and check the file that installs a box without a network", description=__doc__, allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", parser_class=type(parser))

    def action(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        made.set_defaults(run=run)
        return made

    made = action("keygen", run_keygen, "make the keys that bundles are signed with")
    made.add_argument("key", type=Path, metavar="FILE", help="for the private key; the public one goes to FILE.pub")
    made = action("build", run_build, "build a bundle from this checkout")
    made.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="such as appliance-1.2.3-x86_64.run")
    made.add_argument("--key", type=Path, required=True, metavar="FILE", help="private key to sign with")
    made.add_argument("--arch", default=platform.machine(), metavar="ARCH", help="x86_64 or aarch64 (default: %(default)s)")
    made.add_argument("--python", action="append", metavar="VERSION", help=f"Python of the boxes, repeatable (default: {_python()}; Debian 12 has 3.11)")
    made.add_argument("--llama-wheel", default="portable", metavar="FILE", help="llama-cpp-python for the boxes: a wheel, `native` for this machine's, or `portable`, compiled here for every CPU (default)")
    made.add_argument("--wheels", type=Path, default=None, metavar="FOLDER", help="take packages from this folder instead of a package index")
    made.add_argument("--models", action="append", type=Path, default=[], metavar="FOLDER", help="a model's folder to carry, besides the models that come with the appliance; repeatable")
    made.add_argument("--answers", type=Path, default=None, metavar="FILE", help="reviewed answers to carry, from `appliance cache export`")
    made.add_argument("--since", type=Path, default=None, metavar="BUNDLE", help="leave out what boxes with this bundle have already")
    made = action("verify", run_verify, "check the signature and every byte of a bundle")
    made.add_argument("bundle", type=Path, metavar="BUNDLE")
    made.add_argument("--key", type=Path, default=None, metavar="FILE", help="public key that it must be signed with; default: any")
    made = action("list", run_list, "show what a bundle is and holds")
    made.add_argument("bundle", type=Path, metavar="BUNDLE")
    made.add_argument("--json", action="store_true", help="print JSON")
    made = action("diff", run_diff, "show what differs between two bundles")
    made.add_argument("old", type=Path, metavar="OLD")
    made.add_argument("new", type=Path, metavar="NEW")
    made.add_argument("--json", action="store_true", help="print JSON")


def _python() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def run_keygen(arguments: argparse.Namespace) -> int:
    """Write the keys."""
    from appliance.bundle import signing

    print(f"Public key in {signing.public_path(arguments.key)}, fingerprint {signing.make_keys(arguments.key)}.")
    print(f"Keep {arguments.key} where only those who may release can read it: boxes take no upgrade from anybody else.")
    return 0


def run_build(arguments: argparse.Namespace) -> int:
    """Build."""
    from appliance.bundle import build, wheels
    from appliance.bundle.archive import fingerprint, opened

    checkout, cache = Path(__file__).resolve().parents[2], wheels.wheel_cache()
    build.version_of(checkout)
    if arguments.llama_wheel in ("portable", "native"):
        if arguments.arch != platform.machine():
            raise InvalidRequest(
                f"llama.cpp for {arguments.arch} cannot be compiled on {platform.machine()} by this command.", param="llama_wheel",
                remedy=f"Compile it on a machine of that kind: `appliance bundle build` there leaves it in {cache}; name it with --llama-wheel.",
            )  # fmt: skip
        llama = wheels.portable_llama(checkout, cache, _tell) if arguments.llama_wheel == "portable" else wheels.native_llama(cache)
    else:
        llama = Path(arguments.llama_wheel)
        if wheels.read_wheel(llama).name.replace("_", "-") != wheels.LLAMA:
            raise InvalidRequest(f"{llama} is not a wheel of {wheels.LLAMA}.", param="llama_wheel")
    since = None
    if arguments.since:
        with opened(arguments.since) as old:
            since = old.manifest
    order = build.Order(
        checkout, arguments.key, arguments.arch, tuple(arguments.python or [_python()]), llama, arguments.wheels, tuple(arguments.models), arguments.answers, since,
    )  # fmt: skip
    made = build.build(order, arguments.output.absolute(), _tell)
    with opened(arguments.output) as bundle:
        key = fingerprint(bundle.key)
    size = arguments.output.stat().st_size / 1e6
    print(f"{arguments.output}: version {made.version} for {made.arch}, {size:.0f} MB, signed with {key}.")
    print(f"Carry it to the box and run, as root: sh {arguments.output.name}")
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Check. Raises BadBundle."""
    from appliance.bundle.archive import fingerprint
    from appliance.bundle.signing import read_public

    with _opened(arguments.bundle) as bundle:
        bundle.check_signature(read_public(arguments.key) if arguments.key else "")
        bundle.check_files()
        print(f"{arguments.bundle} is whole: version {bundle.manifest.version} for {bundle.manifest.arch}, signed with {fingerprint(bundle.key)}.")
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """Show."""
    from appliance.bundle.archive import fingerprint

    with _opened(arguments.bundle) as bundle:
        manifest, key = bundle.manifest, fingerprint(bundle.key)
    if arguments.json:
        print(json.dumps({**json.loads(manifest.raw), "key": key}, indent=1))
        return 0
    print(f"version {manifest.version} for {manifest.arch}, Python {', '.join(manifest.pythons)}, glibc {manifest.glibc} or newer, {manifest.cpu} kernels")
    print(f"made {manifest.made}, signed with {key}{f', needs {manifest.since} installed' if manifest.since else ''}")
    for member in sorted(manifest.members.values(), key=lambda member: -member.size):
        print(f"{member.size:>13,}  {member.name}{'' if member.carried else '  (on the box already)'}")
    return 0


def run_diff(arguments: argparse.Namespace) -> int:
    """Compare."""
    from appliance.bundle.build import differences

    with _opened(arguments.old) as old, _opened(arguments.new) as new:
        found = differences(old.manifest, new.manifest)
        versions = (old.manifest.version, new.manifest.version)
    if arguments.json:
        print(json.dumps({"versions": versions, **found}, indent=1))
        return 0
    print(f"from version {versions[0]} to {versions[1]}")
    for what, names in found.items():
        for name in names:
            print(f"{what:>8}  {name}")
    return 0


def _tell(words: str) -> None:
    print(f"… {words}", file=sys.stderr, flush=True)


def _opened(path: Path) -> Any:
    from appliance.bundle.archive import opened

    if not path.exists():
        raise InvalidRequest(f"There is no bundle at {path}.", param="bundle", remedy="Check the path, and whether the stick is mounted.")
    return opened(path)
