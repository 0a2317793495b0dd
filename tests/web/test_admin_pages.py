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
