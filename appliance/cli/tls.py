"""`appliance tls`: the box's own certificate. A running service takes up by itself what these commands make."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from appliance.cli.serve import add_flag
from appliance.clock import utc_date
from appliance.config import BY_NAME, Config, data_dir, load_for_work
from appliance.errors import InvalidRequest, NotFound
from appliance.tls_context import FOLDER, mode


def add(commands: Any) -> None:
    """Declare the commands."""
    parser = commands.add_parser("tls", help="see, make and renew the box's own certificate", description=__doc__, allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", parser_class=type(parser))

    def action(name: str, run: Callable[[argparse.Namespace], int], help_text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.", allow_abbrev=False)
        for setting in ("data_dir", "config"):
            add_flag(made, BY_NAME[setting])
        made.add_argument("--json", action="store_true", help="print JSON")
        made.set_defaults(run=run)
        return made

    action("show", run_show, "show the names, the end and the fingerprint of the certificate, and where its authority lies")
    made = action("make", run_make, "make an authority and a certificate where there are none")
    made.add_argument("--name", action="append", default=[], metavar="NAME", help="domain name or address that the box has besides its own and private ones; may be given several times")
    made.add_argument("--replace", action="store_true", help="make a new authority; every client needs its ca.crt again")
    action("renew", run_renew, "make a new certificate of the same authority")
    parser.set_defaults(run=lambda arguments: _no_action(parser))


def run_show(arguments: argparse.Namespace) -> int:
    """Print what is there. Raises NotFound."""
    return _show(arguments, _configuration(arguments), "")


def run_make(arguments: argparse.Namespace) -> int:
    """Make what is missing and print it."""
    from appliance import tls

    config = _configuration(arguments)
    folder = data_dir(config) / FOLDER
    new = arguments.replace or tls.read_authority(folder) is None
    done = tls.make(folder, [*arguments.name, *(config.names if new else ())], time.time(), replace=arguments.replace)
    return _show(arguments, config, done)


def run_renew(arguments: argparse.Namespace) -> int:
    """Make a new certificate and print it."""
    from appliance import tls

    config = _configuration(arguments)
    tls.renew(data_dir(config) / FOLDER, config.names, time.time(), always=True)
    return _show(arguments, config, "A new certificate was made.")


def _configuration(arguments: argparse.Namespace) -> Config:
    return load_for_work({"data_dir": arguments.data_dir, "config": arguments.config})


def _show(arguments: argparse.Namespace, config: Config, done: str) -> int:
    from appliance import tls

    folder = data_dir(config) / FOLDER
    if mode(config) == "files" and not done:
        found: dict[str, Any] | None = tls.described(config.tls_cert, tls.read_facts(config.tls_cert), time.time())
    else:
        found = tls.summary(folder)
    if found is None:
        raise NotFound(f"There is no certificate in {folder}.", remedy="`appliance tls make` makes one, and so does the service with --tls own.")
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    if done:
        print(done)
    rows = [("certificate", found["path"]), ("for", ", ".join(found["names"])), *_rows(found)]
    if "ca" in found:
        rows += [("authority", found["ca"]["path"]), *_rows(found["ca"])]
    print("\n".join(f"{name:12} {value}" for name, value in rows))
    return 0


def _no_action(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return InvalidRequest.exit_code


def _rows(found: dict[str, Any]) -> list[tuple[str, Any]]:
    return [("  ends", f"{utc_date(found['ends'])}, in {found['ends_in_days']} days"), ("  SHA-256", found["sha256"])]
