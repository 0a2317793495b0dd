"""The command line: `appliance COMMAND`. One file for each command group; exit codes are those of sysexits.h."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from appliance.errors import ApplianceError, InvalidRequest


class Parser(argparse.ArgumentParser):
    """argparse with exit code 64 and suggestions for misspelt flags."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        """A command's own parser refuses what it does not know: the one above knows none of its flags to suggest."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            # Values are left out: behind a misspelt --api-key stands a secret, and stderr ends up in a journal.
            flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
            self.error(f"unrecognized arguments: {' '.join(flags or unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Usage errors: one sentence, what to do, exit 64."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        flags = [flag for action in self._actions for flag in action.option_strings]
        close = difflib.get_close_matches(unknown[0].partition("=")[0], flags, n=1) if unknown else []
        hint = f" Did you mean {close[0]}?" if close else ""
        self.exit(InvalidRequest.exit_code, f"{self.prog}: {message}.{hint}\nSee `{self.prog} --help`.\n")


def build_parser() -> Parser:
    """The whole command line."""
    from appliance.cli import audit, backup, bundle, cache, doctor, installed, machine, models, people, serve, tls

    parser = Parser(prog="appliance", description="An AI service for the people on your network, on a box without a GPU.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"appliance {version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    serve.add(commands)
    models.add(commands)
    cache.add(commands)
    audit.add(commands)
    backup.add(commands)
    people.add(commands)
    machine.add(commands)
    doctor.add(commands)
    tls.add(commands)
    bundle.add(commands)
    installed.add(commands)
    return parser


def version() -> str:
    """The installed version, which comes from CHANGELOG.md."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("appliance")
    except PackageNotFoundError:
        return "unknown (not installed)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Errors are one sentence on stderr, never a traceback."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if not arguments.command:
        parser.print_help()
        return InvalidRequest.exit_code
    try:
        return arguments.run(arguments)
    except ApplianceError as error:
        print(f"appliance: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 74
