"""The admin pages, as the person uses them who runs the box."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from in_process import Service, on_a_socket
from playwright.sync_api import Page, expect
from sizes import NARROW, WIDE

from appliance.backup.contents import Wishes
from appliance.backup.create import create
from appliance.backup.shelf import all_of, note_check
from appliance.cache.answers import Near, note_near
from appliance.cache.desk import Desk
from appliance.cache.policy import EVERYBODY
from appliance.cache.reviewed import WRONG, Verdict
from appliance.doctor.findings import Finding
from appliance.history import History
from appliance.http.signing import COOKIE
from appliance.trail.entries import By

PASSWORD = "correct horse battery"

WORD = "Donaudampfschifffahrtsgesellschaftskapitaen" * 4
"""What no line can be broken in."""
CODE = "\n\n```python\ndef opening(day):\n    return {" + ", ".join(f'"{hour}:00": "the lab is open"' for hour in range(8, 18)) + "}\n```\n"
LONG_MODEL, HOSTILE_MODEL = "smollm2-360m-instruct-q4_k_m-imatrix-" + "2025" * 12, "<script>alert(1)</script>" + "x" * 60
LONG_NAME, KEY = "Ann-" + "a" * 60, "till-" + "k" * 59

PAGES: dict[str, tuple[str, ...]] = {
    "/admin": ("h2:text-is('Engines')", f"th:text-is('{LONG_MODEL}')", f"th:text-is('{HOSTILE_MODEL}')", "[data-live=waiting]:text-is('1')", ".notice:has-text('restarted')", "[data-live=table] td"),
    "/admin/models": ("summary", "h2:text-is('Add a model')", "#upload", "button:text-is('Compare')"),
    "/admin/system": ("h1:text-is('System')", "dl.facts", "summary:has-text('Problem: ')", "a:text-is('an archive for whoever helps')", "h2:text-is('Backups')", "[aria-label=Backups] td .problem", "button:text-is('Make a backup now')", "#filter", "#log"),
    "/admin/jobs": ("h1:text-is('Jobs')", f"a:has-text('{WORD}')"),
    "/admin/jobs/1": (f"h2:has-text('{WORD}')", f"#log:has-text('{WORD}')", "button:text-is('Cancel')"),
    "/admin/answers": ("input[type=search]", f"summary:has-text('{WORD}')", "button:text-is('Approve')", "[aria-label='Nearly answered from memory'] td", "[aria-label='Found wrong'] td", "summary:has-text('rejected')", "button:text-is('Reject')", "#purge button"),
    "/admin/access": ("h2:text-is('API keys')", f"th:text-is('{KEY}')", "td:has-text('revoked on')", "button:text-is('Revoke')", "h2:text-is('People')", f"summary:has-text('{LONG_NAME}')", "summary:has-text('reviewer')", "button:text-is('Add')"),
    "/admin/audit": ("h1:text-is('Audit')", "#filter select", f"th:text-is('{LONG_NAME}')", f"td:has-text('{WORD}')", "a:text-is('CSV')", "button:text-is('Verify')"),
    "/admin/settings": ("h2", "summary:has-text('queue_size')", "form.setting input", "form.setting select", "form.setting button"),
    "/admin/sign-in": ("h1:text-is('Sign in')", "#name", "#password", "button:text-is('Sign in')"),
    "/help": ("h1:text-is('Help')", "h2:text-is('Running the box')", "pre", "th:text-is('What to do')"),
    "/admin/first": ("h1:text-is('This box is new')", "#code", "#name", "#password", "button:text-is('Begin')"),
}
"""Every page and what must be on it, as Playwright's selectors; the tests below go through all of them."""
SIGNED_OUT = ("/admin/sign-in", "/help", "/admin/first")

TOO_WIDE = """() => [...document.body.querySelectorAll("*")].filter((node) => {
  for (let box = node.parentElement; box; box = box.parentElement) if (getComputedStyle(box).overflowX !== "visible") return false;
  const style = getComputedStyle(node), spills = style.overflowX === "visible" && style.display !== "inline" && node.scrollWidth > node.clientWidth + 1;
  return node.getBoundingClientRect().right > innerWidth + 0.5 || (spills && node.clientWidth);
}).map((node) => node.outerHTML.slice(0, 200))"""
"""What reaches over the window's edge, or over its own, outside boxes that scroll by themselves."""


class Box(NamedTuple):
    """A box in use with its address, and the address of one that nobody has opened yet. signed_in: a browser's storage in which somebody is."""

    service: Service
    in_use: str
    new: str
    signed_in: dict[str, Any]

    def address(self, path: str) -> str:
        return (self.new if path == "/admin/first" else self.in_use) + path

    def options(self, path: str) -> dict[str, Any]:
        """For open_page."""
        return {} if path in SIGNED_OUT else {"storage_state": self.signed_in}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Both, with something on every page."""
    folder = tmp_path_factory.mktemp("box")
    service = Service(models=("fake", LONG_MODEL, HOSTILE_MODEL), people=True, remember=folder / "cache", data_dir=folder / "used", sequences=1, tls="own")
    new = Service(models=(), people=True, data_dir=folder / "new")
    try:
        token = furnish(service)
        with on_a_socket(service) as in_use, on_a_socket(new) as fresh:
            cookie = {"name": COOKIE, "value": token, "domain": "127.0.0.1", "path": "/admin", "httpOnly": True, "sameSite": "Strict", "expires": -1, "secure": False}
            yield Box(service, in_use, fresh, {"cookies": [cookie], "origins": []})
    finally:
        new.stop()
        service.stop()


def furnish(service: Service) -> str:
    """People, keys, answers, backups, misses, a line, a restart, an hour's numbers. Gives the token of who is signed in."""
    ticks = itertools.count(time.time() - 125, 10)
    service.history = History(service.metrics, now=lambda: next(ticks), cpu=lambda: 40.0)
    service.history.tick()
    token, _ = service.access.make_first(service.access.code, LONG_NAME, PASSWORD, "127.0.0.1", "")
    service.access.add("Ben", "reviewer", PASSWORD, LONG_NAME)
    for question in ("when is the lab open", f"what is a {WORD}", "when is the lab open"):
        for model in ("fake", LONG_MODEL):
            reply = service.client.post("/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": question}]})
            assert reply.status_code == 200, reply.text
    cache, desk = service.recall.cache, Desk(service.recall.cache)
    cache.write("answers", lambda db: db.execute("UPDATE answers SET answer = answer || ?", [CODE]).rowcount)  # the scripted engine writes one line
    cache.write("answers", lambda db: note_near(db, Near("anonymous", f"where is the {WORD}", f"who has the {WORD}", 0.91, None, f"content words: {WORD}", time.time())))
    cache.judge(Verdict("anonymous", None, f"is the {WORD} open", f"is the {WORD} shut", 0.97, WRONG, LONG_NAME))
    for number, question in enumerate(("who has the key", f"how is a {WORD} opened", "what is for lunch")):
        made = desk.write(LONG_NAME, [question, f"{question}, please"], f"The porter, see {WORD}.{CODE}", EVERYBODY, f"https://example.org/{WORD}", time.time() + 1e6 * number - 1000)
    desk.set_state(made, LONG_NAME, "rejected")
    service.access.revoke_key(service.access.make_key("old", LONG_NAME)[0], LONG_NAME)
    service.access.make_key(KEY, LONG_NAME)
    service.renew_auth()
    service.trail.note(By("person", LONG_NAME, "2001:db8::ffff:ffff:ffff:ffff"), "settings.change", "cache_epoch", **{"from": None, "to": WORD})
    for _ in range(12):
        service.history.tick()
    service.children[1].kill()
    while not service.pipeline.engines[LONG_MODEL].supervisor.status.restarts:
        time.sleep(0.01)
    service.pipeline.engines[LONG_MODEL].supervisor.wait_ready(5)
    service.doctor.at, service.doctor.found = time.time(), (Finding("x", "problem", f"The file {WORD} is damaged.", f"{WORD}.", f"`rm {WORD}`"),)
    for number in range(2):
        create(service.config, Wishes(), "0.1.0", time.time() - 86_400 * number)
    folder = service.config.data_dir / "backups"
    note_check(folder, all_of(folder)[0].name, time.time(), f"it is damaged: {WORD} is missing")
    service.jobs.submit(f"Check {WORD}", LONG_NAME, lambda folder: [["models", "verify", "--", WORD]])
    (service.config.data_dir / "jobs" / "1" / "log").write_text(f"{WORD} is looked at\n" * 40)
    for _ in range(4):  # three are let in, see Admission
        service.pipeline.engines["fake"].admission.enter("somebody")
    return token


def enter(page: Page, code: str, name: str = "Ann") -> None:
    """The first visit."""
    page.get_by_label("Code").fill(code)
    page.get_by_label("Your name").fill(name)
    page.get_by_label("A password").fill(PASSWORD)
    page.get_by_role("button", name="Begin").click()


def test_from_the_first_visit_to_signing_out_and_in(address_of, open_page):
    page = open_page(address_of(people=True) + "/admin", allowed="401")
    expect(page.get_by_role("heading", name="This box is new")).to_be_visible()
    enter(page, address_of.service.access.code)
    expect(page.get_by_role("heading", name="Now")).to_be_visible()
    page.get_by_role("button", name="Sign out Ann").click()
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Now")).to_be_visible()


def test_now_follows_what_happens(address_of, open_page):
    page = open_page(address_of(people=True, step_s=0.05, context_tokens=4096) + "/admin")
    enter(page, address_of.service.access.code)
    row = page.get_by_role("row", name="fake")
    expect(row).to_contain_text("ready")
    place = address_of.service.pipeline.engines["fake"].admission.enter("somebody")
    expect(page.locator("[data-live=running]")).to_have_text("1", timeout=12_000)
    address_of.service.pipeline.engines["fake"].admission.leave(place)
    expect(page.locator("[data-live=running]")).to_have_text("0", timeout=5_000)


def test_a_session_that_is_over_leads_to_the_form(address_of, open_page):
    page = open_page(address_of(people=True) + "/admin", allowed="401")
    enter(page, address_of.service.access.code)
    expect(page.get_by_role("heading", name="Now")).to_be_visible()
    page.context.clear_cookies()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible(timeout=15_000)


def test_no_page_is_left_out(box):
    """Whoever adds a page adds a line to PAGES."""
    rules = {rule.rule for rule in box.service.app.url_map.iter_rules() if "GET" in rule.methods and not rule.arguments}
    missing = {rule for rule in rules if rule.startswith("/admin") and not rule.startswith("/admin/api")} - PAGES.keys()
    assert not missing, f"PAGES in this file says of every admin page what must be on it; no line for {sorted(missing)}"


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("path", PAGES)
def test_the_pages_fit_and_everybody_can_use_them(box, open_page, screenshot, check_accessible, path, size):
    page = open_page(box.address(path), viewport=size, **box.options(path))
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for scheme in ("light", "dark"):  # in one page: to load it and axe-core anew would take as long as all the rest
        page.emulate_media(color_scheme=scheme)
        for what in PAGES[path]:
            expect(page.locator(what).first).to_be_visible()
        screenshot(page, f"{path[1:].replace('/', '-')}-{scheme}-{size['width']}")
        spilling = page.evaluate(TOO_WIDE)
        assert not spilling, "\n".join(spilling[-5:])  # the innermost
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        check_accessible(page)
    assert page.locator("main script").count() == 0


def test_everything_can_be_read_and_signing_in_works_without_javascript(box, open_page):
    page = open_page(box.address("/admin"), java_script_enabled=False, allowed="401")
    for password in ("not the password", PASSWORD):
        page.get_by_label("Name").fill(LONG_NAME)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        if password != PASSWORD:
            expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    expect(page.get_by_role("heading", name="Now")).to_be_visible()
    for path in PAGES.keys() - SIGNED_OUT:
        page.goto(box.address(path))
        if page.locator("summary").count():
            page.locator("summary").first.click()
            expect(page.locator("details > :not(summary)").first).to_be_visible()
        for what in PAGES[path]:
            expect(page.locator(what).first).to_be_attached()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.locator("form:has([type=password]):not([method=post])").count() == 0  # a password would stand in the address
    page.goto(box.address("/admin"))
    page.get_by_role("button", name=f"Sign out {LONG_NAME}").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_the_first_visit_works_without_javascript(address_of, open_page):
    page = open_page(address_of(people=True) + "/admin", java_script_enabled=False)
    enter(page, address_of.service.access.code)
    expect(page.get_by_role("row", name="fake")).to_contain_text("ready")
    expect(page.get_by_text("No answers are remembered")).to_be_visible()


def test_an_answer_is_reviewed_and_served(address_of, open_page, tmp_path):
    page = open_page(address_of(people=True, remember=tmp_path) + "/")
    question, send = page.get_by_label("Question", exact=True), page.get_by_role("button", name="Send", exact=True)
    expect(send).to_be_enabled()  # before that nothing listens to clicks
    for _ in range(2):
        question.fill("when is <b>the lab</b> open")
        question.press("Enter")
        expect(send).to_be_visible()
        page.get_by_role("button", name="New conversation", exact=True).first.click()
    page.goto(page.url + "admin/answers")
    enter(page, address_of.service.access.code)
    page.get_by_role("navigation").get_by_role("link", name="Answers").click()
    page.get_by_text("when is <b>the lab</b> open").first.click()
    page.get_by_label("Answer, as it is to be given").fill("From **8** to 17.")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator("#told")).to_have_text("Approved.")
    page.get_by_role("navigation").get_by_role("link", name="Chat").click()
    expect(send).to_be_enabled()
    page.get_by_role("button", name="New conversation", exact=True).first.click()
    question.fill("when is <b>the lab</b> open")
    question.press("Enter")
    expect(page.locator(".assistant .text")).to_have_text("From 8 to 17.")
    expect(page.locator(".assistant .badge")).to_contain_text("reviewed by Ann on")


def test_reviewed_answers_are_changed_and_taken_back(address_of, open_page, check_accessible, tmp_path):
    page = open_page(address_of(people=True, remember=tmp_path) + "/admin/answers", allowed="400")
    enter(page, address_of.service.access.code)
    page.get_by_role("navigation").get_by_role("link", name="Answers").click()
    page.get_by_label("Ways to ask it").fill("who has the key\nwhere is the key")
    page.get_by_label("Answer", exact=True).fill("The porter.")
    page.get_by_label("Good up to").fill("2999-12-31")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#told")).to_have_text("Written.")
    page.get_by_text("who has the key").first.click()
    page.get_by_role("button", name="Reject").click()
    page.get_by_role("button", name="Really? Click again").click()
    expect(page.locator("#told")).to_have_text("Changed.")
    expect(page.locator(".item summary")).to_contain_text("rejected")
    page.get_by_role("button", name="Show what would go").click()
    expect(page.locator("#would")).to_contain_text("Nothing says which answers")
    check_accessible(page)


def test_a_key_made_in_the_page_works_and_stops_when_it_is_revoked(address_of, open_page, check_accessible):
    address = address_of(people=True)
    page = open_page(address + "/admin/access", allowed="401")
    enter(page, address_of.service.access.code)
    page.get_by_role("navigation").get_by_role("link", name="Access").click()
    page.get_by_label("Name of the new key").fill("<i>till")
    page.get_by_role("button", name="Make a key").click()
    key = page.locator("#key").inner_text()

    def models(key: str) -> int:
        return page.request.get(address + "/v1/models", headers={"Authorization": f"Bearer {key}"}).status

    assert models(key) == 200 and models("ak-made-up") == 401
    page.reload()
    expect(page.get_by_role("row", name="<i>till")).to_contain_text(key[:7])
    assert key not in page.content()
    page.get_by_text("Role and limits of <i>till").click()
    limits = page.locator("details[open] form")
    limits.get_by_label("Requests a minute").fill("2")
    limits.get_by_label("Models, with commas").fill("fake")
    check_accessible(page)
    limits.get_by_role("button", name="Save").click()
    expect(page.locator("#told")).to_have_text("Changed.")
    assert page.request.post(address + "/v1/completions", headers={"Authorization": f"Bearer {key}"}, data={"prompt": "x"}).headers["x-ratelimit-remaining-requests"] == "1"
    page.get_by_role("button", name="Revoke <i>till").click()
    page.get_by_role("button", name="Really? Click again").click()
    expect(page.locator("#told")).to_have_text("Revoked.")
    page.get_by_label("Name of the new key").fill("another")
    page.get_by_role("button", name="Make a key").click()
    expect(page.locator("#key")).to_be_visible()
    assert models(key) == 401


def test_a_setting_is_changed_and_put_back(address_of, open_page, check_accessible):
    page = open_page(address_of(people=True) + "/admin/settings", allowed="400")
    enter(page, address_of.service.access.code)
    page.get_by_role("navigation").get_by_role("link", name="Settings").click()
    page.get_by_text("queue_size", exact=True).click()
    page.locator("#set-queue_size").fill("lots")
    page.locator("form.setting", has=page.locator("#set-queue_size")).get_by_role("button", name="Save").click()
    expect(page.locator("#told")).to_contain_text("queue_size = 'lots' is not a whole number")
    page.locator("#set-queue_size").fill("9")
    page.locator("#set-queue_size").press("Enter")
    expect(page.locator("#told")).to_have_text("Saved.")
    row = page.locator("summary", has=page.get_by_text("queue_size", exact=True))
    expect(row).to_contain_text("9 requests")
    expect(row).to_contain_text("this page")
    check_accessible(page)
    page.get_by_role("button", name="Put the last change back").click()
    page.get_by_role("button", name="Really? Click again").click()
    expect(page.locator("#told")).to_have_text("Put back.")
    expect(row).to_contain_text("default")


def test_the_audit_log_is_verified_and_somebody_forgotten_at_a_click(address_of, open_page):
    page = open_page(address_of(people=True) + "/admin/access")
    enter(page, address_of.service.access.code)
    page.get_by_role("navigation").get_by_role("link", name="Access").click()
    page.get_by_label("Name of the new key").fill("till")
    page.get_by_role("button", name="Make a key").click()
    expect(page.locator("#key")).to_be_visible()
    page.get_by_label("Name of a person or key").fill("till")
    page.get_by_label("The account or the key as well").check()
    forget = page.locator("#forget button")
    forget.click()
    expect(forget).to_have_text("Really? Click again")
    forget.click()
    expect(page.locator("#told")).to_contain_text("1 keys")
    page.get_by_role("navigation").get_by_role("link", name="Audit").click()
    expect(page.get_by_role("row", name="key.make")).to_contain_text("forgotten")
    page.get_by_label("Did what").select_option("person.forget")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Verify").click()
    expect(page.locator("#told")).to_contain_text("All 4 entries are as they were written")
    with page.expect_download() as file:
        page.get_by_role("link", name="CSV").click()
    assert file.value.suggested_filename == "audit.csv"
