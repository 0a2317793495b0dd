"""Prompts for a teacher: three kinds of file, mistakes told with their lines, duplicates dropped in any script."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import InvalidRequest
from appliance.factory import prompts
from appliance.factory.prompts import Prompt


def file(tmp_path, name: str, text: str | bytes):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path, **how) -> str:
    with pytest.raises(InvalidRequest) as raised:
        prompts.read(path, **how)
    return str(raised.value)


def test_a_text_file_has_one_prompt_a_line_and_says_the_same_thing_once(tmp_path):
    path = file(tmp_path, "p.txt", "\ufeffHow do I stop it?\r\n\n  how do I STOP it \nIs it C++?\nIs it C?\n日本語ですか\nהאם זה עובד\n")
    assert [p.question for p in prompts.read(path)] == ["How do I stop it?", "Is it C++?", "Is it C?", "日本語ですか", "האם זה עובד"]


def test_rows_hold_a_prompt_or_a_system_and_a_user_message(tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why\u2028so?"}]
    lines = [json.dumps({"prompt": " a ", "id": 7}), json.dumps({"messages": messages}, ensure_ascii=False)]
    found = prompts.read(file(tmp_path, "p.jsonl", "\n".join(lines)))
    assert found == [Prompt("a"), Prompt("Why\u2028so?", "Be brief.")]
    assert found[1].messages == messages and [prompts.from_row(p.row) for p in found] == found


def test_every_wrong_row_is_told_with_its_line(tmp_path):
    rows = ['{"prompt": "ok"}', '{"prompt": "  "}', "{broken", "[]", '{"prompt": 3}', '{"prompt": "\\ud800"}']
    rows += ['{"prompt": "a", "messages": []}', '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}']
    words = refused(file(tmp_path, "p.jsonl", "\n".join([*rows, "[" * 100_000])))
    assert "p.jsonl: line 2: the prompt is no prompt: it is empty" in words and "line 3: not JSON" in words
    assert all(f"line {number}:" in words for number in range(2, 10)) and "line 1:" not in words
    assert "no conversations" in words and "nested too deeply" in words


def test_nothing_to_ask_and_what_is_no_text_is_refused(tmp_path):
    assert "holds no prompt" in refused(file(tmp_path, "p.txt", "\n \n"))
    assert "holds no prompt" in refused(file(tmp_path, "p.jsonl", ""))
    assert "line 2 is not UTF-8" in refused(file(tmp_path, "p.txt", b"good\nb\xff\n"))
    assert "There is no file" in refused(tmp_path / "gone.txt")
    assert "line 2: it has a character that is none" in refused(file(tmp_path, "p.txt", "good\na\0b\n"))


TEMPLATES = 'templates = ["How do I {verb} the {thing}?", "What is {{x}}?"]\n[values]\nverb = ["start", "stop"]\nthing = ["service", "engine", "box"]\n'


def test_templates_are_expanded_in_all_combinations(tmp_path):
    found = [p.question for p in prompts.read(file(tmp_path, "p.toml", TEMPLATES))]
    assert len(found) == 7 and found[:2] == ["How do I start the service?", "How do I start the engine?"] and found[-1] == "What is {x}?"


def test_too_many_combinations_give_the_same_sample_for_the_same_seed(tmp_path):
    path = file(tmp_path, "p.toml", TEMPLATES)
    whole, some = prompts.read(path), prompts.read(path, limit=4, seed=5)
    assert len(some) == 4 and set(some) < set(whole) and some == prompts.read(path, limit=4, seed=5)
    assert any(prompts.read(path, limit=4, seed=seed) != some for seed in range(5))
    many = "\n".join(f"v{n} = {json.dumps([f'w{i}' for i in range(100)])}" for n in range(12))
    text = f'templates = ["{" ".join(f"{{v{n}}}" for n in range(12))}"]\n[values]\n{many}\n'
    assert len(prompts.read(file(tmp_path, "huge.toml", text), limit=50)) == 50, "10**24 combinations"


def test_all_mistakes_in_templates_are_told_at_once(tmp_path):
    words = refused(file(tmp_path, "p.toml", 'templates = ["a {vreb}", "b {x!r}", "c {"]\ntemplate = 1\n[values]\nverb = ["x"]\nempty = []\n'))
    assert "Did you mean verb?" in words and "has to be a plain name" in words and "template 3" in words
    assert "Did you mean templates?" in words and "values.empty has to be a list" in words and "values.verb is used by no template" in words
    assert "not TOML" in refused(file(tmp_path, "q.toml", "templates = ["))
    assert "list of texts" in refused(file(tmp_path, "r.toml", ""))


@given(st.text(max_size=40))
def test_normalising_is_idempotent_and_blind_to_case_space_and_question_marks(text):
    once = prompts.normalise(text)
    assert prompts.normalise(once) == once
    if prompts.words_of(text):
        assert prompts.normalise(f"  {text} ?") == once
