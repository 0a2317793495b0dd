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
