"""What the commands of `appliance cache` do."""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from appliance.cache import answers, exchange, reviewed
from appliance.cache.answers import Selection
from appliance.cache.service import ANSWERS_FILE, STATE_FILE
from appliance.cli.audit import noted
from appliance.clock import utc_date
from appliance.config import Config, data_dir, load_for_work
from appliance.data_folder import served
from appliance.db.connection import Readers
from appliance.db.migrations import Schema
from appliance.db.writer import Writer
from appliance.errors import InvalidRequest, NotFound, Unavailable, from_wire
from appliance.storage import in_words, write_atomically

WAIT_S = 30.0
FILES: dict[str, tuple[str, Schema, bool]] = {
    "answers": (ANSWERS_FILE, answers.SCHEMA, False),
    "state": (STATE_FILE, reviewed.SCHEMA, True),
}


# -- files -----------------------------------------------------------------------------------------------------------------


def _config(arguments: argparse.Namespace) -> Config:
    return load_for_work({"data_dir": arguments.data_dir, "config": arguments.config})


def _folder(arguments: argparse.Namespace) -> Path:
    return data_dir(_config(arguments))


@contextmanager
def _reading(arguments: argparse.Namespace, which: str) -> Iterator[Database]:
    name, _, precious = FILES[which]
    path = _folder(arguments) / name
    if not path.exists():
        raise NotFound(f"Nothing is remembered in {path.parent}: there is no {name}.", remedy="Name the service's data folder with --data-dir.")
    readers = Readers(path, precious=precious)
    try:
        with readers.reading() as db:
            yield db
    finally:
        readers.close()


def _written(arguments: argparse.Namespace, which: str, work: Callable[[Database], Any], make: bool = False) -> Any:
    """Run a work in the file; make: a new one where there is none."""
    name, schema, precious = FILES[which]
    folder = _folder(arguments)
    if not make and not (folder / name).exists():
        raise NotFound(f"Nothing is remembered in {folder}: there is no {name}.", remedy="Name the service's data folder with --data-dir.")
    with served(folder), Writer(folder / name, schema, precious=precious, log=lambda level, words: print(words, file=sys.stderr)) as writer:
        return writer.do(work, WAIT_S)


def _selection(arguments: argparse.Namespace, text: str | None) -> Selection:
    days = arguments.older_than_days
    return Selection(arguments.namespace, arguments.model, arguments.tag, None if days is None else days * 86400, text, tuple(arguments.number))


# -- what is remembered ----------------------------------------------------------------------------------------------------


def run_stats(arguments: argparse.Namespace) -> int:
    """Numbers of both files."""
    found: dict[str, Any] = {}
    for which, summary in (("answers", answers.totals), ("state", reviewed.summary)):
        with _reading(arguments, which) as db:
            found |= summary(db)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{found['answers']} answers, {found['bytes'] / 1e6:.1f} MB; used {found['hits']} times, which saved {found['saved_s']:.0f} s of computing")
    for name, words in (("namespace", "namespace"), ("model_name", "model"), ("state", "state")):
        for key, count in found[f"by_{name}"].items():
            print(f"  {words} {key}: {count}")
    print(f"{found['reviewed'].get(reviewed.LIVE, 0)} reviewed answers to {found['phrasings']} questions, {found['reviewed'].get(reviewed.REJECTED, 0)} rejected")
    verdicts = found["verdicts"]
    print(f"Answers to similar questions that were judged: {verdicts.get('right', 0)} right, {verdicts.get('wrong', 0)} wrong")
    return 0


def run_search(arguments: argparse.Namespace) -> int:
    """A line an answer."""
    with _reading(arguments, "answers") as db:
        rows = answers.search(db, _selection(arguments, arguments.text), time.time(), arguments.most)
    if arguments.json:
        print(json.dumps([_as_json(row) for row in rows], indent=2))
        return 0
    for row in rows:
        print(_line(row))
    if not rows:
        print("No remembered answer fits.")
    return 0


def _as_json(row: answers.Remembered) -> dict[str, Any]:
    names = ("id", "namespace", "model_name", "question", "answer", "created", "expires", "hits", "state")
    return {name: getattr(row, name) for name in names} | {"tags": json.loads(row.tags)}


def _line(row: answers.Remembered) -> str:
    state = "" if row.state == answers.LIVE else f", {row.state}"
    return f"{row.id}  {_short(row.question)}\n    {_short(row.answer)}\n    {row.namespace}, {row.model_name}, {utc_date(row.created)}, used {row.hits} times{state}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else text[:99] + "…"


def run_purge(arguments: argparse.Namespace) -> int:
    """Says how many it would be and asks, unless told not to."""
    which = _selection(arguments, arguments.text)
    if which == Selection() and not arguments.all:
        raise InvalidRequest("Nothing was chosen.", remedy="Name what to forget (--text, --model, --namespace, --tag, --older-than-days, --number), or --all.")
    if not arguments.yes:
        with _reading(arguments, "answers") as db:
            sql, values = which.where(time.time())
            count = db.execute(f"SELECT count(*) FROM answers WHERE {sql}", values).fetchone()[0]
        if not sys.stdin.isatty():
            raise InvalidRequest(f"{count} answers would be forgotten.", remedy="Add --yes to do it.")
        if input(f"Forget {count} answers? [y/N] ").strip().lower() not in ("y", "yes"):
            return 0
    gone = _written(arguments, "answers", lambda db: len(answers.purge(db, which, time.time())))
    chosen = {name: value for name, value in asdict(which).items() if value and name != "text"}  # somebody's words
    noted(_config(arguments), "cache.purge", removed=gone, words=which.text is not None, **chosen)
    print(f"{gone} answers are forgotten.")
    return 0


def run_rebuild(arguments: argparse.Namespace) -> int:
    """Another name for the file makes every index of it stale."""
    _written(arguments, "answers", lambda db: answers.rename(db))
    noted(_config(arguments), "cache.rebuild")
    print("The index is made anew when the service starts, and within a second where it runs.")
    return 0


def run_explain(arguments: argparse.Namespace) -> int:
    """What the service says, in lines."""
    messages = [{"role": "system", "content": arguments.system}] if arguments.system else []
    body = {"model": arguments.model, "temperature": arguments.temperature, "messages": [*messages, {"role": "user", "content": arguments.question}]}
    found = _ask(arguments, "/v1/cache/explain", body)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{found['outcome']}{' (' + found['tier'] + ')' if found.get('tier') else ''}{': ' + found['why'] if found['why'] else ''}")
    if "threshold" in found:
        sure = "answers to similar questions are off" if found["threshold"] is None else f"a similar question must be the same with probability {found['threshold']}"
        print(f"namespace {found['namespace']}; {sure}")
    for candidate in found["candidates"]:
        score = "not asked" if candidate["score"] is None else f"{candidate['score']:.4f}"
        print(f"\n{candidate['source']} {candidate['number']}: {_short(candidate['question'])}\n  cosine {candidate['cosine']:.3f}, verifier {score}")
        for verdict in candidate["verdicts"]:
            if not verdict["passed"]:
                print(f"  gate {verdict['gate']}: {verdict['reason']}")
        print(f"  {candidate['why'] or 'nothing tells it apart'}")
    return 0


def _ask(arguments: argparse.Namespace, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if arguments.api_key_file:
        try:
            line = next(line.strip() for line in arguments.api_key_file.read_text("utf-8-sig").splitlines() if line.strip() and not line.startswith("#"))
        except OSError as error:
            raise in_words(error, f"Reading {arguments.api_key_file}") from None
        except StopIteration:
            raise InvalidRequest(f"{arguments.api_key_file} holds no key.") from None
        headers["Authorization"] = f"Bearer {line.rpartition(':')[2].strip()}"
    request = urllib.request.Request(arguments.url.rstrip("/") + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            told = json.load(error)["error"]
        except (ValueError, KeyError, TypeError):
            raise Unavailable(f"{arguments.url} answers {error.code} and is no appliance.") from None
        raise from_wire({"code": told["code"], "message": told["message"]}) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(f"No service answers at {arguments.url}: {reason}.", remedy="Start it, or name its address with --url.") from None


# -- reviewed answers ------------------------------------------------------------------------------------------------------


def run_import(arguments: argparse.Namespace) -> int:
    """Everything in one transaction."""
    form = _form(arguments.file)
    try:
        text = arguments.file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{arguments.file} is not UTF-8: byte {error.start}.", remedy="Save it as UTF-8.") from None
    except OSError as error:
        raise in_words(error, f"Reading {arguments.file}") from None
    new = exchange.read(text, form, owner=arguments.owner, namespace=arguments.namespace)
    now = time.time()
    _written(arguments, "state", lambda db: [reviewed.put(db, each, now) for each in new], make=True)
    noted(_config(arguments), "answer.import", answers=len(new))
    print(f"{len(new)} reviewed answers to {sum(len(each.questions) for each in new)} questions were taken over.")
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """Live answers only."""
    form = _form(arguments.file)
    with _reading(arguments, "state") as db:
        rows = reviewed.every(db, arguments.namespace)
    text = exchange.write(rows, form)
    try:
        write_atomically(arguments.file, text.encode())
    except OSError as error:
        raise in_words(error, f"Writing {arguments.file}") from None
    noted(_config(arguments), "answer.export", form)
    print(f"{sum(row.state == reviewed.LIVE for row, _ in rows)} reviewed answers were written to {arguments.file}.")
    return 0


def _form(path: Path) -> str:
    form = path.suffix.lower().removeprefix(".")
    if form not in ("csv", "jsonl"):
        raise InvalidRequest(f"{path} is neither .csv nor .jsonl.", param="file", remedy="Name the file by what it holds.")
    return form


def run_review_list(arguments: argparse.Namespace) -> int:
    """All reviewed answers."""
    with _reading(arguments, "state") as db:
        rows = reviewed.every(db)
    if arguments.json:
        names = ("id", "namespace", "answer", "owner", "source", "reviewed", "expires", "state", "hits")
        print(json.dumps([{name: getattr(row, name) for name in names} | {"questions": questions} for row, questions in rows], indent=2))
        return 0
    for row, questions in rows:
        expires = f", up to {utc_date(row.expires - 1)}" if row.expires is not None else ""
        print(f"{row.id}  {_short(' | '.join(questions))}\n    {_short(row.answer)}\n    {row.namespace}, {row.owner}, {utc_date(row.reviewed)}{expires}, {row.state}, used {row.hits} times")
    if not rows:
        print("There are no reviewed answers. `appliance cache import FILE` brings some, `appliance cache review approve` makes them.")
    return 0


def run_review_queue(arguments: argparse.Namespace) -> int:
    """What is worth a person's look."""
    with _reading(arguments, "answers") as db:
        rows = answers.search(db, Selection(), time.time(), arguments.most)
        near = answers.near_misses(db, arguments.most)
    if arguments.json:
        missed = [{"asked": one.asked, "remembered": one.remembered, "cosine": one.cosine, "score": one.score, "why": one.why} for one in near]
        print(json.dumps({"unreviewed": [_as_json(row) for row in rows], "near_misses": missed}, indent=2))
        return 0
    print("Most used, not reviewed:")
    for row in rows:
        print(_line(row))
    print("\nNearly answered:")
    for one in near:
        print(f"  {_short(one.asked)}\n    nearest: {_short(one.remembered)} (cosine {one.cosine:.3f}; {one.why})")
    return 0


def run_review_approve(arguments: argparse.Namespace) -> int:
    """The generated answer, or other words for it, in a person's name."""
    with _reading(arguments, "answers") as db:
        row = answers.by_number(db, [arguments.number]).get(arguments.number)
        request = answers.request_of(db, arguments.number)
    if row is None or request is None:
        raise NotFound(f"There is no remembered answer {arguments.number}.", remedy="`appliance cache search` shows them.")
    messages = request["prompt"].get("messages")
    context = reviewed.context_in(messages) if messages else None
    if context is None:
        raise InvalidRequest(f"Answer {arguments.number} was not given to a question in a conversation.", remedy="Write it with `appliance cache import`.")
    expires = exchange.last_moment(arguments.expires) if arguments.expires else None
    answer = arguments.answer if arguments.answer is not None else row.answer
    new = reviewed.NewReviewed(row.namespace, [row.question], answer, arguments.owner, arguments.source, expires, context, json.loads(row.tags))
    number = _written(arguments, "state", lambda db: reviewed.put(db, new, time.time()), make=True)
    noted(_config(arguments), "answer.approve", f"answer {number}", of=arguments.number, owner=arguments.owner)
    print(f"Reviewed answer {number}: {_short(row.question)}")
    return 0


def run_review_edit(arguments: argparse.Namespace) -> int:
    """New words, more phrasings, or both."""
    if arguments.answer is None and not arguments.phrasing:
        raise InvalidRequest("Nothing is to be changed.", remedy="Give --answer or --phrasing.")

    def work(db: Database) -> None:
        reviewed.get(db, arguments.number)
        if arguments.answer is not None:
            reviewed.rewrite(db, arguments.number, arguments.answer, arguments.owner, time.time())
        for question in arguments.phrasing:
            reviewed.add_phrasing(db, arguments.number, question)

    _written(arguments, "state", work)
    noted(_config(arguments), "answer.change", f"answer {arguments.number}", words=arguments.answer is not None, phrasings=len(arguments.phrasing), owner=arguments.owner)
    print(f"Reviewed answer {arguments.number} is changed.")
    return 0


def run_review_end(arguments: argparse.Namespace) -> int:
    """reject, expire or remove."""
    number, now = arguments.number, time.time()
    works: dict[str, Callable[[Database], None]] = {
        "reject": lambda db: reviewed.set_state(db, number, reviewed.REJECTED, arguments.owner, now),
        "expire": lambda db: reviewed.expire(db, number, now),
        "remove": lambda db: reviewed.remove(db, number),
    }
    _written(arguments, "state", works[arguments.step])
    done = "answer.remove" if arguments.step == "remove" else "answer.change"
    noted(_config(arguments), done, f"answer {number}", step=arguments.step, owner=arguments.owner)
    print(f"Reviewed answer {number}: {arguments.step} done.")
    return 0


