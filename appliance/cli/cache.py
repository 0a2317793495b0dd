"""`appliance cache`: what is remembered, why a question hits or misses, and the answers that people review.

Works on the files in the data folder, whether the service runs or not; `explain` asks the running service. What the commands do
is in `cache_work`, which is loaded when one is run: the help of the program waits for no library.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.cache.policy import EVERYBODY
from appliance.cli.serve import add_flag
from appliance.config import BY_NAME
from appliance.errors import InvalidRequest

SHOWN = 20


def add(commands: Any) -> None:
    """Declare the commands."""
    parser = commands.add_parser("cache", help="see, explain and review remembered answers", description=__doc__, allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", parser_class=type(parser))

    def action(name: str, run: Callable[[argparse.Namespace], int], help_text: str, of: Any = actions) -> argparse.ArgumentParser:
        made = of.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.", allow_abbrev=False)
        for setting in ("data_dir", "config"):
            add_flag(made, BY_NAME[setting])
        made.set_defaults(run=run)
        return made

    made = action("stats", _later("run_stats"), "show how much is remembered and what it saved")
    made.add_argument("--json", action="store_true", help="print JSON")
    made = action("search", _later("run_search"), "find remembered answers by words, model, namespace, tag or age")
    made.add_argument("text", metavar="TEXT", nargs="?", help="part of a question or an answer")
    _add_selection(made)
    made.add_argument("--most", type=int, default=SHOWN, metavar="N", help=f"show at most so many (default: {SHOWN})")
    made.add_argument("--json", action="store_true", help="print JSON")
    made = action("explain", _later("run_explain"), "show why the running service would answer a question from memory, or not")
    made.add_argument("question", metavar="QUESTION")
    made.add_argument("--model", default=None, metavar="NAME", help="the served model; default: the first one")
    made.add_argument("--system", default=None, metavar="TEXT", help="a system prompt")
    made.add_argument("--temperature", type=float, default=None, metavar="T", help="as the requests have it")
    made.add_argument("--url", default="http://127.0.0.1:8080", metavar="URL", help="of the service (default: %(default)s)")
    made.add_argument("--api-key-file", type=Path, default=None, metavar="FILE", help="file with the key to ask with: its answers are looked at")
    made.add_argument("--json", action="store_true", help="print JSON")
    made = action("purge", _later("run_purge"), "forget remembered answers")
    made.add_argument("--text", metavar="TEXT", help="those with this in the question or the answer")
    _add_selection(made)
    made.add_argument("--all", action="store_true", help="all of them")
    made.add_argument("--yes", action="store_true", help="do not ask")
    action("rebuild", _later("run_rebuild"), "have the index made anew from what is remembered")
    made = action("import", _later("run_import"), "take over reviewed answers from a CSV or JSONL file, all or none")
    made.add_argument("file", type=Path, metavar="FILE")
    made.add_argument("--owner", default="", metavar="NAME", help="who answers for those that name nobody")
    made.add_argument("--namespace", default=EVERYBODY, metavar="NAME", help="for those that name none (default: %(default)s)")
    made = action("export", _later("run_export"), "write the reviewed answers to a CSV or JSONL file")
    made.add_argument("file", type=Path, metavar="FILE")
    made.add_argument("--namespace", default=None, metavar="NAME", help="only those of this namespace")
    _add_review(action, action("review", lambda arguments: _no_action(review), "list, approve, edit, reject, expire or remove reviewed answers"))
    review = actions.choices["review"]
    parser.set_defaults(run=lambda arguments: _no_action(parser))


def _add_selection(made: argparse.ArgumentParser) -> None:
    made.add_argument("--model", metavar="NAME", help="of this model")
    made.add_argument("--namespace", metavar="NAME", help="of this namespace, such as of:anonymous")
    made.add_argument("--tag", metavar="TAG", help="with this tag")
    made.add_argument("--older-than-days", type=float, metavar="DAYS", help="made longer ago than this")
    made.add_argument("--number", type=int, action="append", default=[], metavar="N", help="this one; may be given several times")


def _add_review(action: Callable[..., argparse.ArgumentParser], review: argparse.ArgumentParser) -> None:
    steps = review.add_subparsers(dest="step", metavar="STEP", parser_class=type(review))
    made = action("list", _later("run_review_list"), "show reviewed answers", steps)
    made.add_argument("--json", action="store_true", help="print JSON")
    made = action("queue", _later("run_review_queue"), "show the most used answers nobody has reviewed, and questions that nearly had an answer", steps)
    made.add_argument("--most", type=int, default=SHOWN, metavar="N", help=f"show at most so many of each (default: {SHOWN})")
    made.add_argument("--json", action="store_true", help="print JSON")
    made = action("approve", _later("run_review_approve"), "make a remembered answer a reviewed one", steps)
    made.add_argument("number", type=int, metavar="N", help="its number, as search and queue show it")
    made.add_argument("--owner", required=True, metavar="NAME", help="who answers for it")
    made.add_argument("--answer", metavar="TEXT", help="with these words instead")
    made.add_argument("--source", default="", metavar="TEXT", help="where it is from")
    made.add_argument("--expires", metavar="DAY", help="given out up to this day, such as 2027-03-31")
    made = action("edit", _later("run_review_edit"), "change a reviewed answer, or add a phrasing", steps)
    made.add_argument("number", type=int, metavar="N")
    made.add_argument("--owner", required=True, metavar="NAME", help="who answers for it now")
    made.add_argument("--answer", metavar="TEXT", help="its new words")
    made.add_argument("--phrasing", action="append", default=[], metavar="TEXT", help="another question it answers; may be given several times")
    for name, help_text in (("reject", "keep a reviewed answer, but give it out no more"), ("expire", "let a reviewed answer run out today"), ("remove", "forget a reviewed answer")):
        made = action(name, _later("run_review_end"), help_text, steps)
        made.add_argument("number", type=int, metavar="N")
        made.add_argument("--owner", required=True, metavar="NAME", help="in whose name")


def _later(name: str) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        from appliance.cli import cache_work

        return getattr(cache_work, name)(arguments)

    return run


def _no_action(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return InvalidRequest.exit_code
