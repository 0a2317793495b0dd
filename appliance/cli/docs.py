"""`python -m appliance.cli.docs`: the parts of README.md that the program writes, so that they cannot drift.

A part lies between `<!-- generated: NAME -->` and `<!-- end: NAME -->`. `--write` fills in what changed,
`--check` only says what did. Line breaks inside a part do not count: versions of argparse fold usage lines
differently.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from appliance.cli import Parser, build_parser
from appliance.config import settings_markdown
from appliance.errors import BY_CODE

README = Path(__file__).parents[2] / "README.md"
WIDTH = 98
"""What argparse takes for a terminal of 100 columns."""
STALE, UNREADABLE = 65, 66
EXIT_CODES = {
    0: "done",
    64: "wrong usage: an unknown flag or command, or a name that cannot be taken",
    65: "the model file, the bundle or the backup is damaged, of another kind or not supported, the model does not reach its limits, or somebody changed the audit log",
    66: "there is no file at the path given",
    69: "no model could be kept running, a model hub or a teacher does not answer, a library is not installed, or `doctor` found a problem",
    70: "a fault inside the program; the log has the details",
    71: "the listening address cannot be had",
    74: "the output or a file could not be written: a closed pipe, a full disk",
    75: "somebody else works with the data folder, try again",
    77: "not allowed: the port needs privileges, a folder belongs to somebody else, or a model hub wants a token",
    78: "the configuration is wrong; every mistake is listed",
    130: "interrupted with Ctrl-C; a running service ends with 0",
}
"""The numbers of sysexits.h, in this program's words."""


def help_block() -> str:
    """`appliance --help` and the usage of each command, of one width whatever terminal this runs in."""
    parser = build_parser()
    others = commands(parser).values()
    for each in (parser, *others):
        each.formatter_class = partial(argparse.HelpFormatter, width=WIDTH)
    texts = [parser.format_help(), *(other.format_usage() for other in others)]
    return "```text\n" + "\n".join(texts).rstrip() + "\n```"


def commands(parser: argparse.ArgumentParser) -> dict[str, Parser]:
    """The commands of a parser by name, in the order they were declared; the ones below a command as "models add"."""
    found: dict[str, Parser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                found[name] = command
                found |= {f"{name} {inner}": other for inner, other in commands(command).items()}
    return found


def errors_table() -> str:
    """Every error code with its HTTP status, type, exit code and meaning."""
    rows = ["| code | status | type | exit code | meaning |", "|---|---|---|---|---|"]
    for code, kind in sorted(BY_CODE.items(), key=lambda item: (item[1].status, item[0])):
        meaning = first_sentence(kind.__doc__)
        rows.append(f"| `{code}` | {kind.status} | `{kind.type}` | {kind.exit_code} | {meaning} |")
    return "\n".join(rows)


def first_sentence(text: str | None) -> str:
    """A docstring up to its first full stop."""
    return re.split(r"(?<=\.)\s", " ".join((text or "").split()), maxsplit=1)[0]


def exit_codes_table() -> str:
    """Exit codes of the command line. Raises KeyError for an error whose exit code has no words here."""
    used = {kind.exit_code for kind in BY_CODE.values()}
    rows = ["| exit code | meaning |", "|---|---|"]
    return "\n".join(rows + [f"| {code} | {EXIT_CODES[code]} |" for code in sorted(used | EXIT_CODES.keys())])


PARTS: dict[str, Callable[[], str]] = {
    "help": help_block,
    "settings": settings_markdown,
    "errors": errors_table,
    "exit-codes": exit_codes_table,
}


def fill(text: str) -> tuple[str, list[str]]:
    """A README with its parts up to date, and a sentence for each part that was not."""
    stale = []
    for name, make in PARTS.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            stale.append(f"the markers {begin} and {end} are missing or not a pair")
            continue
        head, rest = text.split(begin)
        old, tail = rest.split(end)
        new = make()
        if old.split() != new.split():
            stale.append(f"the part {name} is stale")
            text = f"{head}{begin}\n{new}\n{end}{tail}"
    return text, stale


def main(argv: Sequence[str] | None = None, readme: Path = README) -> int:
    """Write or check the README's parts. Returns 0, or 65 when something is stale."""
    parser = Parser(prog="python -m appliance.cli.docs", description=__doc__.splitlines()[0])
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--write", action="store_true", help="fill in the parts that changed (the default)")
    choice.add_argument("--check", action="store_true", help="change nothing; exit 65 when a part is stale")
    arguments = parser.parse_args(argv)
    try:
        text = readme.read_text("utf-8")
    except OSError as error:
        print(f"{readme} cannot be read: {error.strerror}. Run this in a checkout.", file=sys.stderr)
        return UNREADABLE
    fresh, stale = fill(text)
    if fresh != text and not arguments.check:
        readme.write_text(fresh, "utf-8")
        print(f"{readme.name}: {'; '.join(stale)}: written.")
        _, stale = fill(fresh)
    if stale:
        print(f"{readme.name}: {'; '.join(stale)}. Run `make docs`.", file=sys.stderr)
    return STALE if stale else 0


if __name__ == "__main__":
    sys.exit(main())
