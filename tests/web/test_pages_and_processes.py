"""The chat page over `appliance serve` with a real engine in a process of its own."""

from __future__ import annotations

import os
import re
import signal

import pytest
import tiny_model
from playwright.sync_api import expect
from served import serving

pytestmark = pytest.mark.process


def test_a_killed_engine_is_told_in_words_and_the_next_question_is_answered(tmp_path, open_page):
    model = tiny_model.write_random(tmp_path / "tiny.gguf", context=65536)
    with serving(tmp_path, "--model", str(model), "--ctx-size", "60000", "--prefix-cache-mb", "0") as server:
        page = open_page(server.url + "/")
        question = page.get_by_label("Question", exact=True)
        question.fill("Go on")
        question.press("Enter")
        answer = page.locator(".assistant")
        expect(answer.locator(".text")).to_have_text(re.compile(r"\S{3}"), timeout=20_000)
        victim = server.engine_pid()
        os.kill(victim, signal.SIGKILL)
        expect(answer.locator(".problem")).to_contain_text("killed from outside")
        assert answer.locator(".text").inner_text()
        page.get_by_role("button", name="Options").click()
        page.get_by_label("Longest answer").fill("5")
        page.get_by_role("button", name="Try again").click()
        expect(answer.locator(".foot")).to_contain_text("first token after", timeout=20_000)
        assert server.engine_pid() != victim


def test_a_model_is_uploaded_loaded_and_answers(tmp_path, open_page, screenshot):
    model = tiny_model.write_random(tmp_path / "newcomer.gguf", context=2048)
    with serving(tmp_path, "--embedder", "none", APPLIANCE_DATA_DIR=str(tmp_path / "data"), APPLIANCE_NO_CACHE="false") as server:
        page = open_page(server.url + re.search(r"(/admin/first\?code=\S+) in", server.log)[1])
        page.get_by_label("Name").fill("Ann")
        page.get_by_label("Password").fill("correct horse battery")
        page.get_by_role("button").click()
        expect(page.get_by_role("heading", name="First steps")).to_be_visible()
        page.get_by_role("link", name="Ask something").click()
        expect(page.get_by_label("Model")).to_have_value("starter")  # the page's program is there
        page.get_by_label("Question", exact=True).fill("How do I add a model from a USB stick?")
        page.get_by_label("Question", exact=True).press("Enter")
        expect(page.locator(".assistant .text")).to_contain_text("appliance models add", timeout=30_000)
        screenshot(page, "readme-chat")
        page.goto(server.url + "/admin/models")
        starter = page.locator("[data-name=starter] > summary")
        expect(starter).to_contain_text("starter (the default) ready")
        page.get_by_label("A GGUF file of this computer").set_input_files(model)
        page.get_by_role("button", name="Upload").click()
        expect(page.get_by_role("heading", name="Job 1")).to_be_visible()
        expect(page.locator("#log")).to_contain_text("Added newcomer", timeout=60_000)
        expect(page.locator("[data-state]")).to_have_text("done")
        page.get_by_role("navigation").get_by_role("link", name="Models").click()
        added = page.locator("[data-name=newcomer] > summary")
        expect(added).to_contain_text("not loaded")
        added.click()
        page.get_by_role("button", name="Load newcomer").click()
        expect(added).to_contain_text("ready", timeout=30_000)
        expect(starter).to_contain_text("ready", timeout=30_000)
        screenshot(page, "readme-models")
        page.get_by_role("navigation").get_by_role("link", name="Chat").click()
        page.get_by_label("Model", exact=True).select_option("newcomer")
        page.get_by_role("button", name="Options").click()
        page.get_by_label("Longest answer").fill("5")
        page.get_by_label("Question", exact=True).fill("Go on")
        page.get_by_label("Question", exact=True).press("Enter")
        expect(page.locator(".assistant .foot").last).to_contain_text("first token after", timeout=30_000)
        page.goto(server.url + "/admin")
        expect(page.get_by_role("heading", name="The last 30 days")).to_be_visible()
        screenshot(page, "readme-now")
        page.get_by_role("navigation").get_by_role("link", name="Models").click()
        added.click()
        page.get_by_role("button", name="Unload newcomer").click()
        page.get_by_role("button", name="Unload newcomer").or_(page.get_by_role("button", name="Really? Click again")).click()
        expect(added).to_contain_text("not loaded")
        expect(starter).to_contain_text("ready", timeout=30_000)
