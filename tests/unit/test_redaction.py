"""What the archive for helpers leaves out, line by line."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.doctor.redaction import GONE, Redactor
from appliance.logs import _Json, _Text, logging

RED = Redactor(["Ann", "Bartholomew O'Neill", "lab (upstairs)", "Jürgen", "sésame", "", " "])
STAMP = "2026-01-02T03:04:05"


@pytest.mark.parametrize(("words", "left"), [
    ("Ann asked ann about Anna.", f"{GONE} asked {GONE} about Anna."),
    ("by Bartholomew O'Neill, in lab (upstairs)", f"by {GONE}, in {GONE}"),
    ("J\\u00fcrgen", GONE),
    ("key ak-Ab3_xyz-9876543210 used", f"key {GONE} used"),
    ("token q3Vb8ZtR1mN5cX7wL9pK2dF4gH6jS0aYq3", f"token {GONE}"),
    ("sha256 " + "0a1b" * 16, "sha256 " + "0a1b" * 16),
    ("qwen2.5-0.5b-instruct-q4_0 and smollm2-360m-instruct-q4_k_m-imatrix", "qwen2.5-0.5b-instruct-q4_0 and smollm2-360m-instruct-q4_k_m-imatrix"),
    ("from 192.168.17.23 to 127.0.0.1, 0.0.0.0", "from 192.168.x.x to 127.0.0.1, 0.0.0.0"),
    ("from fe80::1a2b, 2001:db8:1:2:3:4:5:6, ::1 at 10:20:30", "from fe80:x, 2001:x, ::1 at 10:20:30"),
    ("/home/gundula/models/a.gguf and /Users/g/x", f"/home/{GONE}/models/a.gguf and /Users/{GONE}/x"),
    ("mail to a.b@clinic.example", f"mail to {GONE}"),
])  # fmt: skip
def test_a_text_loses_what_is_private(words, left):
    assert RED.text(words) == left


@pytest.mark.parametrize(("line", "left"), [
    (f"{STAMP} info    request id=x route=/v1/models status=200 principal=\"Some Body\" duration_ms=3", f"{STAMP} info    request id={GONE} route=/v1/models status=200 principal={GONE} duration_ms=3"),
    (f"{STAMP} warning The engine's child said 'some words' and \"more \\\" words\"; it's over.", f"{STAMP} warning The engine's child said {GONE} and {GONE}; it's over."),
    (f"{STAMP} warning open /admin/first?code=ABCD-EFGH-IJKL in a browser.", f"{STAMP} warning open /admin/first?code={GONE} in a browser."),
    ('  File "/home/x/appliance/db/writer.py", line 7, in _run', '  File "writer.py", line 7, in _run'),
    ("ValueError: Where do zebras sleep?", "ValueError"),
    ("sqlite3.OperationalError", "sqlite3.OperationalError"),
    ("    raise ValueError(words)", None),
    ("llama_model_loader: some words", None),
    ("{}", None),
    ("[1]", None),
    ('{"time": 1.5, "level": "info", "message": "prompt", "prompts": ["zebras"], "status": 3}', "1.500 info    prompt status=3"),
])  # fmt: skip
def test_only_lines_of_ours_are_kept_without_what_others_wrote(line, left):
    assert RED.line(line) == left


def test_gaps_are_counted():
    assert RED.lines(["x", "y", f"{STAMP} info    Hello.", "z"]) == ["(2 lines left out)", f"{STAMP} info    Hello.", "(1 lines left out)"]


def test_values_are_redacted_and_names_of_fields_stay():
    assert RED.values({"Ann": ["Ann", {"x": ("Ann", 3, None)}]}) == {"Ann": [GONE, {"x": [GONE, 3, None]}]}


NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name.strip() and name.isprintable())


@given(name=NAMES, form=st.sampled_from([_Text, _Json]), how=st.sampled_from(["quoted", "field", "fault"]))
@example(name="a' \"b", form=_Text, how="quoted")
@example(name="it's", form=_Text, how="quoted")
@example(name="a\\", form=_Text, how="quoted")
def test_a_name_that_nobody_knows_any_more_is_not_in_a_line_of_the_log(name, form, how):
    mark = f"Zaphod{name}Zaphod"
    values = {"quoted": (f"The engine's {mark!r} signed in; it's all.", {}), "field": ("request", {"principal": mark}), "fault": (f"janitor: {ValueError(mark)!r}", {})}
    message, fields = values[how]
    record = logging.makeLogRecord({"levelno": 20, "levelname": "INFO", "msg": message, "fields": fields})
    for line in form().format(record).split("\n"):
        shown = Redactor([]).line(line)
        assert shown and "Zaphod" not in shown, shown


@given(st.text(max_size=200))
def test_no_line_is_too_odd(line):
    for found in (RED.line(line), RED.line(f"{STAMP} info {line}"), json.dumps(RED.values({"x": line}))):
        assert found is None or not re.search(r"\bAnn\b", found)
