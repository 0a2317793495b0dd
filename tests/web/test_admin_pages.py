"""The admin pages, as the person uses them who runs the box."""

from __future__ import annotations

import json

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from sizes import NARROW, WIDE

PASSWORD = "correct horse battery"


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


def test_everything_can_be_read_and_signing_in_works_without_javascript(address_of, open_page):
    page = open_page(address_of(people=True) + "/admin", java_script_enabled=False)
    enter(page, address_of.service.access.code)
    expect(page.get_by_role("row", name="fake")).to_contain_text("ready")
    expect(page.get_by_text("No answers are remembered")).to_be_visible()
    page.get_by_role("button", name="Sign out Ann").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_pages_fit_and_everybody_can_use_them(address_of, open_page, screenshot, scheme, size):
    page = open_page(address_of(people=True, models=("fake", "<script>alert(1)</script>" + "x" * 60)) + "/admin", color_scheme=scheme, viewport=size)
    for name in ("first", "now"):
        if name == "now":
            enter(page, address_of.service.access.code)
            expect(page.get_by_role("heading", name="Now")).to_be_visible()
        screenshot(page, f"{name}-{scheme}-{size['width']}")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
        assert not found, json.dumps(found)[:2000]
    assert page.locator("main script").count() == 0


def test_an_answer_is_reviewed_and_served(address_of, open_page, tmp_path):
    page = open_page(address_of(people=True, remember=tmp_path) + "/")
    question = page.get_by_label("Question", exact=True)
    for _ in range(2):
        question.fill("when is <b>the lab</b> open")
        question.press("Enter")
        expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
        page.get_by_role("button", name="New conversation", exact=True).first.click()
    page.goto(page.url + "admin/answers")
    enter(page, address_of.service.access.code)
    page.get_by_role("link", name="Answers").click()
    page.get_by_text("when is <b>the lab</b> open").first.click()
    page.get_by_label("Answer, as it is to be given").fill("From **8** to 17.")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator("#told")).to_have_text("Approved.")
    page.get_by_role("link", name="Chat").click()
    page.get_by_role("button", name="New conversation", exact=True).first.click()
    question.fill("when is <b>the lab</b> open")
    question.press("Enter")
    expect(page.locator(".assistant .text")).to_have_text("From 8 to 17.")
    expect(page.locator(".assistant .badge")).to_contain_text("reviewed by Ann on")


def test_reviewed_answers_are_changed_and_taken_back(address_of, open_page, screenshot, tmp_path):
    page = open_page(address_of(people=True, remember=tmp_path) + "/admin/answers", allowed="400")
    enter(page, address_of.service.access.code)
    page.get_by_role("link", name="Answers").click()
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
    screenshot(page, "answers-light-1440")
    page.get_by_role("button", name="Show what would go").click()
    expect(page.locator("#would")).to_contain_text("Nothing says which answers")
    found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
    assert not found, json.dumps(found)[:2000]


def test_a_key_made_in_the_page_works_and_stops_when_it_is_revoked(address_of, open_page, screenshot):
    address = address_of(people=True)
    page = open_page(address + "/admin/access", allowed="401")
    enter(page, address_of.service.access.code)
    page.get_by_role("link", name="Access").click()
    page.get_by_label("Name of the new key").fill("<i>till")
    page.get_by_role("button", name="Make a key").click()
    key = page.locator("#key").inner_text()

    def models(key: str) -> int:
        return page.request.get(address + "/v1/models", headers={"Authorization": f"Bearer {key}"}).status

    assert models(key) == 200 and models("ak-made-up") == 401
    page.reload()
    expect(page.get_by_role("row", name="<i>till")).to_contain_text(key[:7])
    assert key not in page.content()
    screenshot(page, "access-light-1440")
    found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
    assert not found, json.dumps(found)[:2000]
    page.get_by_role("button", name="Revoke <i>till").click()
    page.get_by_role("button", name="Really? Click again").click()
    expect(page.locator("#told")).to_have_text("Revoked.")
    page.get_by_label("Name of the new key").fill("another")
    page.get_by_role("button", name="Make a key").click()
    expect(page.locator("#key")).to_be_visible()
    assert models(key) == 401


def test_a_setting_is_changed_and_put_back(address_of, open_page, screenshot):
    page = open_page(address_of(people=True) + "/admin/settings", allowed="400")
    enter(page, address_of.service.access.code)
    page.get_by_role("link", name="Settings").click()
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
    screenshot(page, "settings-light-1440")
    found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
    assert not found, json.dumps(found)[:2000]
    page.get_by_role("button", name="Put the last change back").click()
    page.get_by_role("button", name="Really? Click again").click()
    expect(page.locator("#told")).to_have_text("Put back.")
    expect(row).to_contain_text("default")
