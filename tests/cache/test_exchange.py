"""Reviewed answers from files and back."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cache import exchange
from appliance.cache.reviewed import LIVE, Reviewed
from appliance.errors import InvalidRequest

WHO = {"owner": "Ann", "namespace": "everybody"}


def test_a_spreadsheet_with_only_questions_and_answers_will_do():
    [one, two] = exchange.read("\ufeffQuestion;Answer\r\nWann öffnen Sie?;\"Um 8;\nsamstags um 9\"\r\nWo?;Hier\r\n", "csv", **WHO)
    assert (one.questions, one.answer, one.owner, one.namespace) == (["Wann öffnen Sie?"], "Um 8;\nsamstags um 9", "Ann", "everybody")
    assert two.expires is None and two.tags == []


def test_phrasings_tags_owner_and_end_are_read_from_both_forms():
    csv = 'question,answer,owner,source,expires,namespace,tags,phrasings\nq,a,Bob,manual,2027-03-31,of:x,"t1\nt2","q2\nq3"\n'
    line = '{"questions": ["q", "q2", "q3"], "answer": "a", "owner": "Bob", "source": "manual", "expires": "2027-03-31", "namespace": "of:x", "tags": ["t1", "t2"]}'
    [one], [two] = exchange.read(csv, "csv", **WHO), exchange.read(line, "jsonl", **WHO)
    assert one == two and one.questions == ["q", "q2", "q3"] and one.owner == "Bob"
    assert one.expires == 1_806_537_600.0  # the first moment of April


@pytest.mark.parametrize(
    "text, form, words",
    [
        ("", "csv", "no column 'question'"), ("question,reply\nq,a\n", "csv", "no column 'answer'"), ("question,answer\n", "csv", "no answers"),
        ("question,answer,colour\nq,a,b\n", "csv", "'colour'"), ("question,answer\nq,a,b\n", "csv", "more cells"),
        ("question,answer\n,a\nq,\n", "csv", "line 2: the question is empty; line 3: the answer is empty"),
        ('question,answer\nq,"a\n', "csv", "cannot be read"), ("question,answer,expires\nq,a,soon\n", "csv", "2027-03-31"),
        ("question,answer\nWhere?,a\nwhere?,b\n", "csv", "answered in line 2 already"),
        ("{", "jsonl", "Line 1 is not JSON"), ("[]", "jsonl", "no JSON object"), ('{"question": "q"}', "jsonl", "the answer is missing"),
        ('{"question": 3, "answer": "a"}', "jsonl", "must be a text"), ('{"questions": "q", "answer": "a"}', "jsonl", "must be a list"),
        ('{"question": "q", "answer": "a", "colour": 1}', "jsonl", "'colour'"), ('{"question": "\\ud800", "answer": "a"}', "jsonl", "characters that are none"),
        ('{"question": "q", "answer": "' + "x" * 20001 + '"}', "jsonl", "the limit is 20000"),
    ],
)  # fmt: skip
def test_a_file_with_a_mistake_is_refused_with_its_line(text, form, words):
    with pytest.raises(InvalidRequest, match=words.replace("'", ".")):
        exchange.read(text, form, **WHO)


def test_an_answer_nobody_answers_for_is_refused():
    with pytest.raises(InvalidRequest, match="--owner"):
        exchange.read("question,answer\nq,a\n", "csv", owner="", namespace="n")


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20).map(str.strip).filter(bool)


@given(st.lists(TEXTS, min_size=1, max_size=3, unique_by=str.casefold), TEXTS, TEXTS, TEXTS, st.sampled_from([None, 1_806_537_600.0]), st.sampled_from(["csv", "jsonl"]))
def test_what_is_written_is_read_again(questions, answer, owner, tag, expires, form):
    row = Reviewed(1, "of:x", b"", answer, owner, "book", 1.7e9, expires, LIVE, 0, f"[{__import__('json').dumps(tag)}]")
    if len({" ".join(question.split()).casefold() for question in questions}) < len(questions):
        return
    [found] = exchange.read(exchange.write([(row, questions)], form), form, owner="", namespace="")
    assert (list(found.questions), found.answer, found.owner, found.expires, list(found.tags)) == (questions, answer, owner, expires, [tag])


def test_no_cell_is_a_formula_for_a_spreadsheet_and_all_come_back_as_they_were():
    words = ["=1+1", "+1", "-1", "@sum", "'=1+1", "''@x", " =1", "\uff1d1", "it's", "'quoted'", "plain"]
    rows = [(Reviewed(number, "of:x", b"", f"{word}!", word, word, 1.7e9, None, LIVE, 0, "[]"), [f"{word} {number}", f"{word} again {number}"]) for number, word in enumerate(words)]
    text = exchange.write(rows, "csv")
    for line in list(csv.reader(io.StringIO(text)))[1:]:
        assert not any(cell.lstrip()[:1] in tuple("=+-@\uff1d") for cell in line if cell), line
    found = exchange.read(text, "csv", owner="", namespace="")
    assert [(new.answer, new.owner, list(new.questions)) for new in found] == [(row.answer.strip(), row.owner.strip(), [" ".join(q.split()) for q in asked]) for row, asked in rows]
