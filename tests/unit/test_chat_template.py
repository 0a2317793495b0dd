"""A model's chat template is foreign code: what it may do, and how its failures are told."""

from __future__ import annotations

import datetime
import json
import resource
import signal

import pytest

from appliance.engine import chat_template
from appliance.engine.chat_template import ChatTemplate
from appliance.errors import InvalidRequest, TemplateFailed

HELLO = [{"role": "user", "content": "hello"}]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def render(source: str, messages=HELLO) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages)


def failure(source: str, messages=HELLO) -> str:
    template = ChatTemplate(source)  # never fails here
    with pytest.raises(TemplateFailed) as caught:
        template.render(messages)
    assert caught.value.status == 400 and caught.value.param == "messages"
    assert "chat template" in str(caught.value)
    return str(caught.value)


def test_a_usual_template_gives_the_usual_prompt():
    turns = [{"role": "system", "content": "Be kind."}, *HELLO]
    assert render(CHATML, turns) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_special_tokens_and_blocks_are_as_hugging_face_has_them():
    assert render("{{ bos_token }}\n  {% if true %}\nx\n  {% endif %}\n{{ eos_token }}") == "<s>\nx\n</s>"
    assert render("{% if tools %}tools{% else %}none{% endif %}{% if documents %}d{% endif %}") == "none"


def test_text_is_not_escaped():
    assert render("{{ messages[0].content }}", [{"role": "user", "content": "<b>&'\N{EURO SIGN}"}]) == "<b>&'\N{EURO SIGN}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__globals__['datetime'] }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ namespace().__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'content': 'changed'}) }}",
        "{{ messages.pop() }}",
        "{{ range(10**9)|list }}",
        "{% for i in range(100001) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_what_reaches_out_of_the_sandbox_is_refused(source):
    messages = [dict(HELLO[0])]
    failure(source, messages)
    assert messages == HELLO


HIDDEN = ["messages.__class__", "''|attr('__class__')", "raise_exception.__globals__", "'{x.__class__}'.format_map({'x': 1})"]


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_hidden_is_undefined_and_prints_nothing(name):
    assert render("{{ " + name + " }}") == ""


def test_a_template_may_refuse_with_its_own_words():
    words = failure("{{ raise_exception('Roles must alternate') }}")
    assert words.endswith("refused these messages: Roles must alternate")


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("line one\n{% if %}", "line 2"),
        ("{% for x in y %}", "broken"),
        ("{{ messages|no_such_filter }}", "no_such_filter"),
        ("{% if messages is no_such_test %}{% endif %}", "no_such_test"),
        ("{{ no_such_function() }}", "no_such_function"),
        ("{{ messages[0].content.nothing.more }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ " + "(" * 3000 + ")" * 3000 + " }}", "broken"),
    ],
)
def test_a_template_that_is_broken_fails_when_used_and_says_why(source, word):
    assert word in failure(source)


def test_tojson_is_hugging_faces():
    tool = [{"role": "user", "content": {"b": "<\N{EURO SIGN}>", "a": [1, None]}}]
    assert render("{{ messages[0].content|tojson }}", tool) == '{"b": "<\N{EURO SIGN}>", "a": [1, null]}'
    assert render("{{ messages[0].content|tojson(indent=2) }}", tool) == json.dumps(tool[0]["content"], indent=2, ensure_ascii=False)
    assert render("{{ {'b': 1, 'a': '\N{EURO SIGN}'}|tojson(ensure_ascii=True, sort_keys=true, separators=(',', ':')) }}") == (
        '{"a":"\\u20ac","b":1}'
    )


def test_strftime_now_gives_todays_date():
    before = datetime.date.today()
    rendered = render("{{ strftime_now('%Y-%m-%d') }}")
    assert rendered in (before.isoformat(), datetime.date.today().isoformat())


def test_loop_controls_work():
    assert render("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "023"


def test_rendering_one_request_leaves_nothing_for_the_next():
    template = ChatTemplate("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}")
    assert [template.render(HELLO * n) for n in (1, 2, 1)] == ["1", "2", "1"]


def test_a_model_without_a_template_says_what_to_use_instead():
    error = ChatTemplate.missing("tiny")
    assert isinstance(error, InvalidRequest) and "/v1/completions" in str(error) and "tiny" in str(error)


BOMBS = {
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a power of a power": "{{ 2 ** (10 ** 30) }}",
    "squares of squares": "{% set n = namespace(n=3) %}{% for a in range(60) %}{% set n.n = n.n * n.n %}{% endfor %}{{ n.n }}",
    "a long text": "{{ 'x' * 10 ** 10 }}",
    "a text that doubles": "{% set n = namespace(s='x') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "a wide number": "{{ '%1000000000d' % 1 }}",
    "a wide format": "{{ '{:1000000000}'.format(1) }}",
    "a wide centre, a constant": "{{ 'x'|center(1000000000) }}",
    "an indent": "{{ messages|tojson(indent=1000000000) }}",
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "filler text, a constant": "{{ lipsum(1000000000) }}",
    "a long refusal": "{{ raise_exception('x' * 1000000) }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_cannot_eat_the_machine(name, monkeypatch):
    monkeypatch.setattr(chat_template, "RENDER_LIMIT_S", 0.1)
    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGALRM)
    with pytest.raises(TemplateFailed) as caught:
        ChatTemplate(BOMBS[name]).render([{"role": "user", "content": "hi"}])
    assert len(str(caught.value)) < 1000
    assert before == (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGALRM))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_template_may_still_calculate():
    source = "{{ 2 ** 10 * 3 }} {{ 'ab' * 2 }} {{ 3 * 'c' }} {{ 2.5 ** 2 }} {{ (-2) ** -1 }} {{ 0 ** 0 }}"
    assert ChatTemplate(source).render([]) == "3072 abab ccc 6.25 -0.5 1"
