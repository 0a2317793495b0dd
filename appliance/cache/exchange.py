"""Reviewed answers as files: CSV for a spreadsheet, JSON lines for programs. A file is taken whole or not at all.

CSV has a header; `question` and `answer` must be there, `owner`, `source`, `expires` (YYYY-MM-DD), `namespace`, `tags` and
`phrasings` may be. Several phrasings or tags stand in one cell, a line each. A cell that a spreadsheet
would take for a formula has a ' before it, which is no part of it. A line of JSON has the same names, with lists for
`questions` (in place of question and phrasings) and `tags`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from appliance.cache.reviewed import LIVE, NewReviewed, Reviewed
from appliance.clock import utc_date
from appliance.errors import InvalidRequest
from appliance.spreadsheet import as_written, table

FIELDS = ("question", "answer", "owner", "source", "expires", "namespace", "tags", "phrasings")
MOST_CHARS = 20_000
MOST_MISTAKES = 20


def read(text: str, form: str, *, owner: str, namespace: str) -> list[NewReviewed]:
    """The answers in a file. form: "csv" or "jsonl". owner, namespace: where a row names none.

    Raises InvalidRequest that lists every mistake with its line.
    """
    rows = list(_csv_rows(text) if form == "csv" else _json_rows(text))
    found: list[NewReviewed] = []
    mistakes: list[str] = []
    for line, row in rows:
        try:
            found.append(_answer(row, owner, namespace))
        except (ValueError, TypeError, InvalidRequest) as error:
            mistakes.append(f"line {line}: {error}")
    seen: dict[tuple[str, str], int] = {}
    for (line, _), new in zip(rows, found, strict=False) if not mistakes else ():
        for question in new.questions:
            first = seen.setdefault((new.namespace, " ".join(question.split()).casefold()), line)
            if first != line:
                mistakes.append(f"line {line}: {question[:80]!r} is answered in line {first} already")
    if mistakes:
        more = f" ... and {len(mistakes) - MOST_MISTAKES} more." if len(mistakes) > MOST_MISTAKES else ""
        raise InvalidRequest("Nothing was imported. " + "; ".join(mistakes[:MOST_MISTAKES]) + "." + more, remedy="Correct the file and import it again.")
    if not found:
        raise InvalidRequest("The file holds no answers.")
    return found


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    head = text.partition("\n")[0]
    # Spreadsheets of countries with a decimal comma write semicolons.
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=";" if head.count(";") > head.count(",") else ",", strict=True)
    try:
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        for needed in ("question", "answer"):
            if needed not in names:
                raise InvalidRequest(f"The CSV file has no column {needed!r}.", remedy=f"Its first line names the columns: {', '.join(FIELDS)}.")
        for unknown in [name for name in names if name not in FIELDS]:
            raise InvalidRequest(f"The CSV file has a column {unknown!r}.", remedy=f"There are {', '.join(FIELDS)}.")
        reader.fieldnames = names
        for row in reader:
            if None in row:
                raise InvalidRequest(f"Line {reader.line_num} of the CSV file has more cells than there are columns.")
            row = {name: cell and as_written(cell) for name, cell in row.items()}
            lines = {name: [part.strip() for part in (row.get(name) or "").splitlines() if part.strip()] for name in ("tags", "phrasings")}
            yield reader.line_num, {**row, "tags": lines["tags"], "questions": [row["question"] or "", *lines["phrasings"]]}
    except csv.Error as error:
        raise InvalidRequest(f"Line {reader.line_num} of the CSV file cannot be read: {error}.") from None


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"Line {number} is not JSON: {error}.") from None
        if not isinstance(row, dict):
            raise InvalidRequest(f"Line {number} is no JSON object.", remedy='A line is {"questions": [...], "answer": ...}.')
        unknown = set(row) - {*FIELDS, "questions", "id", "reviewed_on", "state"}
        if unknown:
            raise InvalidRequest(f"Line {number} has a field {sorted(unknown)[0]!r}.", remedy=f"There are questions, {', '.join(FIELDS[1:-1])}.")
        yield number, {"questions": [row["question"]] if "question" in row else [], **row}


def _answer(row: Mapping[str, Any], owner: str, namespace: str) -> NewReviewed:
    questions = [_text(item, "a question") for item in _list(row.get("questions"), "questions")]
    if not questions or not all(questions):
        raise ValueError("the question is empty")
    return NewReviewed(
        namespace=_text(row.get("namespace") or namespace, "namespace"),
        questions=questions,
        answer=_full(_text(row.get("answer"), "the answer"), "the answer"),
        owner=_full(_text(row.get("owner") or owner, "owner"), "the owner (or name one with --owner)"),
        source=_text(row.get("source") or "", "source"),
        expires=_day(row.get("expires")),
        tags=[_text(item, "a tag") for item in _list(row.get("tags") or [], "tags")],
    )


def _list(value: Any, what: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{what} must be a list")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} is missing" if value is None else f"{what} must be a text")
    if len(value) > MOST_CHARS:
        raise ValueError(f"{what} has {len(value)} characters, the limit is {MOST_CHARS}")
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in value) or "\0" in value:
        raise ValueError(f"{what} holds characters that are none")
    return value.strip()


def _full(value: str, what: str) -> str:
    if not value:
        raise ValueError(f"{what} is empty")
    return value


def _day(value: Any) -> float | None:
    return None if value in (None, "") else last_moment(value)


def last_moment(day: Any) -> float:
    """The end of a day in UTC, in Unix seconds. Raises InvalidRequest."""
    try:
        return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() + 86400
    except (ValueError, TypeError, OverflowError):
        raise InvalidRequest(f"expires is {day!r}; write a day such as 2027-03-31", param="expires") from None


def write(rows: Iterable[tuple[Reviewed, list[str]]], form: str) -> str:
    """Live answers as a file that `read` takes. form: "csv" or "jsonl"."""
    kept = [(row, questions) for row, questions in rows if row.state == LIVE and questions]
    if form == "csv":
        return table(FIELDS, (
            [questions[0], row.answer, row.owner, row.source, _last_day(row), row.namespace, "\n".join(json.loads(row.tags)), "\n".join(questions[1:])]
            for row, questions in kept
        ))  # fmt: skip
    return "".join(
        json.dumps({
            "questions": questions, "answer": row.answer, "owner": row.owner, "source": row.source, "expires": _last_day(row),
            "namespace": row.namespace, "tags": json.loads(row.tags), "reviewed_on": utc_date(row.reviewed),
        }, ensure_ascii=False) + "\n"
        for row, questions in kept
    )  # fmt: skip


def _last_day(row: Reviewed) -> str:
    return "" if row.expires is None else utc_date(row.expires - 86400)
