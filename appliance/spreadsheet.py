"""CSV for spreadsheets, which take a cell that begins like a formula for one: what somebody wrote would then run on the reader's machine."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

# https://owasp.org/www-community/attacks/CSV_Injection; the last four are the wide forms that some input methods write.
FORMULA = re.compile(r"'*[\s\0]*[=+\-@\uff1d\uff0b\uff0d\uff20]")
MARK = "'"
"""Before a cell, it says that what follows is text."""


def harmless(cell: str) -> str:
    """The cell with a mark where it could be taken for a formula."""
    return MARK + cell if FORMULA.match(cell) else cell


def as_written(cell: str) -> str:
    """Takes the mark of `harmless` off again."""
    return cell[1:] if cell.startswith(MARK) and FORMULA.match(cell) else cell


def table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV file with a header. Texts are made harmless; numbers are numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([harmless(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return out.getvalue()
