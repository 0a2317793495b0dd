"""`appliance doctor`: what is wrong with this box, why it matters, and what to do."""

from __future__ import annotations

import argparse
from typing import Any

from appliance.cli.serve import add_flag
from appliance.config import BY_NAME


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "doctor",
        help="say what is wrong with this box and what to do",
        description="Look at the configuration, the machine, the log and the databases; change nothing. Ends with 0, or with "
        "69 where there is a problem; warnings and notes are none.",
        allow_abbrev=False,
    )
    for name in ("data_dir", "config"):
        add_flag(parser, BY_NAME[name])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--bundle", metavar="FILE", help="write an archive (tar.gz) for whoever helps: without names, keys, questions and answers")
    parser.add_argument(
        "--self-test", nargs="?", const="starter", choices=("starter", "fake"),
        help="instead, start a service beside everything, with the small model of the box or a scripted engine, and ask it a question; ends with 0, or with 70",
    )  # fmt: skip
    parser.add_argument("--copy", metavar="FOLDER", help="with --self-test: a copy of a data folder to work with; it is changed")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Examine the box, or do what was asked for instead."""
    from appliance.cli import doctor_work

    return doctor_work.run(arguments)
