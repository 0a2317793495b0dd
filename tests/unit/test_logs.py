"""What a log line looks like when others choose the words."""

from __future__ import annotations

import json
import logging
import sys

from appliance.logs import _Json, _Text


def record(message: str, exc_info=None, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("appliance", logging.INFO, "", 0, message, (), exc_info)
    made.fields = fields
    return made


def test_a_value_cannot_pass_for_other_fields():
    line = _Text().format(record("request", id="a status=200 principal=admin", status=401))
    assert line.endswith('id="a status=200 principal=admin" status=401')


def test_a_value_with_quotes_and_line_breaks_stays_one_value_on_one_line():
    line = _Text().format(record("request", id='a" b="c\nd\x1b[31m'))
    assert "\n" not in line and "\x1b" not in line
    assert json.loads(line.partition("id=")[2]) == 'a" b="c\\nd\\x1b[31m'


def test_a_traceback_holds_nothing_a_terminal_would_obey():
    for form in (_Text(), _Json()):
        try:
            raise ValueError("\x1b[2J")
        except ValueError:
            line = form.format(record("unexpected error", sys.exc_info()))
        assert "\x1b" not in line and "ValueError" in line
