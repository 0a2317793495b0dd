"""The chat page, as people use it."""

from __future__ import annotations

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from sizes import NARROW, WIDE

HOSTILE = [
    "<img src=x onerror=alert(1)><script>alert(2)</script>",
    "[click](javascript:alert(1)) ![p](https://example.org/p.png) <https://example.org>",
    "\u202egnp.exe \u0000\u0007\ufeff &lt;b&gt; </div></article>",
    "| a | b |\n|---|---|\n| <svg onload=alert(1)> | `</code><script>` |",
]


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question", exact=True).fill(question)
    page.get_by_label("Question", exact=True).press("Enter")


def answers(page: Page):
    return page.locator(".assistant")


def settled(page: Page) -> None:
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


def test_a_question_is_answered_and_kept_over_a_reload(address_of, open_page):
    page = open_page(address_of() + "/")
    expect(page.get_by_text("leaves it for nowhere")).to_be_visible()
    ask(page, "hello there")
    expect(answers(page).locator(".text")).to_have_text("echo: hello there")
    expect(answers(page).locator(".foot")).to_contain_text(re.compile(r"first token after \d"))
    page.reload()
    expect(answers(page).locator(".text")).to_have_text("echo: hello there")
    expect(page.get_by_role("button", name="hello there", exact=True)).to_have_attribute("aria-current", "true")


def test_stop_keeps_what_was_written_and_regenerate_asks_again(address_of, open_page):
    page = open_page(address_of(step_s=0.02, context_tokens=4096) + "/")
    ask(page, "!long")
    expect(answers(page).locator(".text")).to_contain_text("echo")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(answers(page).locator(".foot")).to_contain_text("Stopped.")
    assert answers(page).locator(".text").inner_text().startswith("echo")
    settled(page)
    page.get_by_role("button", name="Try again").click()
    page.keyboard.press("Escape")
    expect(answers(page)).to_have_count(1)
    expect(answers(page).locator(".foot")).to_contain_text("Stopped.")


def test_an_edited_question_takes_the_place_of_what_came_after_it(address_of, open_page):
    page = open_page(address_of() + "/")
    ask(page, "one")
    expect(answers(page)).to_have_count(1)
    settled(page)
    ask(page, "two")
    expect(answers(page)).to_have_count(2)
    settled(page)
    page.locator(".user").first.get_by_role("button", name="Edit").click()
    page.get_by_label("The question, changed").fill("three")
    page.get_by_role("button", name="Send", exact=True).first.click()
    expect(page.locator(".user .text")).to_have_text(["three"])
    expect(answers(page).locator(".text")).to_have_text(["echo: three"])


def test_an_answer_from_memory_says_so_and_can_be_had_anew(address_of, open_page, tmp_path):
    page = open_page(address_of(remember=tmp_path) + "/")
    ask(page, "what is new")
    settled(page)
    expect(answers(page).locator(".badge")).to_have_count(0)
    page.get_by_role("button", name="New conversation", exact=True).first.click()
    ask(page, "what is new")
    expect(answers(page).locator(".badge")).to_have_text(re.compile(r"from memory, \d+ s old"))
    page.get_by_role("button", name="Answer anew").click()
    settled(page)
    expect(answers(page).locator(".badge")).to_have_count(0)
    expect(answers(page).locator(".text")).to_have_text("echo: what is new")


def test_options_go_along_and_belong_to_their_conversation(address_of, open_page):
    page = open_page(address_of() + "/")
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Style").select_option("precise")
    page.get_by_label("System prompt").fill("be brief")
    page.get_by_label("Longest answer").fill("4")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "hello")
    body = sent.value.post_data_json
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0, 4, "fake")
    expect(answers(page).locator(".foot")).to_contain_text("Cut at the longest answer")
    page.get_by_role("button", name="New conversation", exact=True).first.click()
    expect(page.get_by_label("System prompt")).to_have_value("")
    expect(page.get_by_label("Style")).to_have_value("balanced")


def test_a_conversation_that_is_left_goes_on_and_one_that_is_deleted_stays_so(address_of, open_page):
    page = open_page(address_of(step_s=0.02, context_tokens=4096) + "/")
    ask(page, "!long one")
    expect(answers(page).locator(".text")).to_contain_text("echo")
    page.get_by_role("button", name="New conversation", exact=True).first.click()
    expect(answers(page)).to_have_count(0)
    page.get_by_role("button", name="!long one", exact=True).click()
    before = len(answers(page).locator(".text").inner_text())
    expect(answers(page).locator(".text")).to_have_text(re.compile(rf"^.{{{before + 20},}}", re.S))
    page.get_by_role("button", name="Delete !long one").click()
    page.get_by_role("button", name="Really?").click()
    settled(page)
    page.reload()
    settled(page)
    expect(page.get_by_role("button", name="!long one", exact=True)).to_have_count(0)


def test_conversations_are_exported_deleted_and_imported(address_of, open_page, tmp_path):
    page = open_page(address_of() + "/")
    ask(page, "keep me")
    settled(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    path = tmp_path / "conversations.json"
    download.value.save_as(path)
    assert json.loads(path.read_text())["conversations"][0]["messages"][1]["content"] == "echo: keep me"
    page.get_by_role("button", name="Delete all").click()
    expect(answers(page)).to_have_count(1)  # the first click only asks
    page.get_by_role("button", name="Really?").click()
    expect(answers(page)).to_have_count(0)
    page.locator("#file").set_input_files(path)
    page.get_by_role("button", name="keep me", exact=True).click()
    expect(answers(page).locator(".text")).to_have_text("echo: keep me")
    page.locator("#file").set_input_files({"name": "x.json", "mimeType": "application/json", "buffer": b'{"format": "appliance-chat", "conversations": [{"id": 1}]}'})
    expect(page.get_by_role("status")).to_contain_text("nothing was imported")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_answer_is_text(address_of, open_page, text):
    page = open_page(address_of() + "/", allowed="400" if "\0" in text else "")  # NUL is refused, in words
    page.on("dialog", lambda dialog: pytest.fail("a script of the answer ran"))
    page.get_by_label("Question", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()
    settled(page)
    assert page.locator(".said :is(img, script, svg, iframe)").count() == 0
    assert page.locator(".said a[href^='javascript']").count() == 0
    assert text.splitlines()[-1].replace("\x00", "\ufffd")[:5] in page.locator(".user .text").inner_text().replace("\x00", "\ufffd")


def rendered(page: Page, text: str) -> str:
    """The HTML that an answer of this text becomes; written in pieces, as it streams in."""
    return page.evaluate(
        """async (text) => {
            const { update } = await import("/static/markdown.js");
            const box = document.createElement("div"), whole = document.createElement("div");
            for (let at = 0; at <= text.length; at += 7) update(box, text.slice(0, at));
            update(box, text);
            update(whole, text);
            if (box.innerHTML !== whole.innerHTML) throw new Error("written in pieces it is another");
            return box.innerHTML.replaceAll(' class="codeblock"', "").replaceAll(' tabindex="0"', "").replaceAll('<button type="button" data-copy="">Copy</button>', "");
        }""",
        text,
    )


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **b** *c* `d*e*` ~~f~~", "<p>a <strong>b</strong> <em>c</em> <code>d*e*</code> <s>f</s></p>"),
        ("# H\ntext\n\nnext", "<h3>H</h3><p>text</p><p>next</p>"),
        ("```py\nx = 1\n\n# no heading\n```\nafter", "<div><pre><code>x = 1\n\n# no heading</code></pre></div><p>after</p>"),
        ("- a\n- b\n  - c\n\n1. d\n2. e", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><ol start=\"1\"><li>d</li><li>e</li></ol>"),
        ("3. x\n   ```\n   y\n   ```\n4. z", "<ol start=\"3\"><li>x<div><pre><code>y</code></pre></div></li><li>z</li></ol>"),
        ("> q\n> r", "<blockquote><p>q\nr</p></blockquote>"),
        ("snake_case_name 2*3*4 \\*x\\*", "<p>snake_case_name 2<em>3</em>4 *x*</p>"),
        ("<b>x</b> &amp;", "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp;</p>"),
        ("[x](javascript:alert(1))", "<p>x (javascript:alert(1))</p>"),
        ("see https://a.example/b.", '<p>see <a href="https://a.example/b" rel="noopener noreferrer nofollow" target="_blank">https://a.example/b</a>.</p>'),
    ],
)
def test_markdown_becomes_what_it_means(plain_page, text, html):
    found = rendered(plain_page, text)
    assert re.sub(r"(</?(?:ul|ol|li)[^>]*>)\s+", r"\1", found) == html or found == html


def test_a_table_has_heads_and_cells(plain_page):
    html = rendered(plain_page, "| a | b |\n|---|:-:|\n| 1 | x\\|y |\n| 2 |")
    assert '<th scope="col">a</th>' in html and "<td>x|y</td>" in html and html.count("<tr>") == 3


def test_nothing_that_can_be_written_takes_long_or_fails(plain_page):
    for nasty in ("*" * 5000, "[" * 5000, "`" * 5000, "_a" * 3000, "> " * 3000, "- " * 3000, "|" * 5000 + "\n" + "|-" * 2000, "**a" * 2000, "[a](" * 2000, "x" + "`" * 19000, "`a``b" * 3000):
        took = plain_page.evaluate(
            'async (text) => { const { update } = await import("/static/markdown.js"); const t = performance.now();'
            ' update(document.createElement("div"), text); return performance.now() - t; }',
            nasty,
        )
        assert took < 2000, nasty[:10]


@pytest.fixture(scope="module")
def plain_page(browser):
    """A page of the service, to run its modules in."""
    from in_process import Service, on_a_socket

    service = Service()
    with on_a_socket(service) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        yield page
    service.stop()


def test_a_key_is_asked_for_and_kept(address_of, open_page):
    page = open_page(address_of(api_key=("sesame",)) + "/", allowed="401")
    expect(page.get_by_label("This service needs an API key")).to_be_visible()
    page.get_by_label("This service needs an API key").fill("sesame")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_label("This service needs an API key")).to_be_hidden()
    ask(page, "hello")
    expect(answers(page).locator(".text")).to_have_text("echo: hello")


def test_an_error_says_what_to_do_and_the_question_can_be_asked_again(address_of, open_page):
    page = open_page(address_of(context_tokens=64) + "/", allowed="400")
    ask(page, "much " * 30)
    expect(answers(page).locator(".problem")).to_contain_text("64")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_who_waits_in_line_sees_the_line(address_of, open_page):
    page = open_page(address_of(sequences=1) + "/")
    admission = address_of.service.pipeline.engines["fake"].admission
    others = [admission.enter("others") for _ in range(3)]
    ask(page, "hello")
    expect(page.get_by_role("status")).to_contain_text("In line, 0 before this one, about")
    for place in others:
        admission.leave(place)
    expect(answers(page).locator(".text")).to_have_text("echo: hello")


def test_a_model_that_loads_is_asked_again(address_of, open_page):
    address = address_of(loaded=False)
    page = open_page(address + "/", allowed="503")
    ask(page, "hello")
    address_of.service.gate.set()
    expect(answers(page).locator(".text")).to_have_text("echo: hello", timeout=60_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_it_fits_and_everybody_can_use_it(address_of, open_page, screenshot, scheme, size):
    page = open_page(address_of(context_tokens=4096) + "/", color_scheme=scheme, viewport=size)
    ask(page, "Name three things: **fast**, `plain`, and a_very_" + "long_" * 40 + "word")
    settled(page)
    expect(answers(page)).to_have_count(1)
    screenshot(page, f"chat-{scheme}-{size['width']}")
    page.get_by_role("button", name="Options").click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    if size is NARROW:
        page.get_by_role("button", name="Conversations").click()
        expect(page.get_by_role("button", name="New conversation", exact=True).first).to_be_visible()
    found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
    assert not found, json.dumps(found)[:2000]


def test_it_can_be_used_by_keyboard_alone(address_of, open_page):
    page = open_page(address_of() + "/")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_enabled()
    page.keyboard.type("hello")
    page.keyboard.press("Enter")
    expect(answers(page).locator(".text")).to_have_text("echo: hello")
    page.keyboard.type("again")  # the question has kept the focus
    page.keyboard.press("Shift+Enter")
    expect(page.get_by_label("Question", exact=True)).to_have_value("again\n")


def test_the_page_is_small_and_asks_nobody_else(address_of, open_page):
    address = address_of()
    page = open_page(address + "/livez", allowed="404")  # the icon, which only pages name
    weights: list[int] = []
    page.on("response", lambda response: weights.append(len(response.body())))
    page.goto(address + "/")
    page.wait_for_load_state("networkidle")
    assert len(weights) >= 6 and sum(weights) < 150_000
    policy = page.evaluate("fetch('/').then(r => r.headers.get('content-security-policy'))")
    assert "default-src 'none'" in policy and "unsafe" not in policy
