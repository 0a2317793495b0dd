"""A browser for the whole folder, and a page with a clean profile for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from in_process import Service, on_a_socket
from playwright.sync_api import Browser, Page, sync_playwright
from sizes import WIDE

SHOTS = Path(__file__).parent.parent.parent / ".screenshots"
"""Kept after a run, for people to look at; git does not."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder has the `browser` marker."""
    for item in items:
        if "tests/web/" in str(item.path):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    found = shutil.which("chromium")
    assert found, "There is no Chromium: `make test` as root installs it, or `apt-get install chromium`."
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens an address in a clean profile; options are those of Browser.new_context. What the page complains of fails the test, and so does
    any request that leaves the service."""
    with ExitStack() as stack:
        complaints: list[str] = []

        def opened(address: str, *, allowed: str = "", **options: Any) -> Page:
            """allowed: part of console errors that belong to the test, such as a status that the browser reports."""
            context = stack.enter_context(browser.new_context(viewport=options.pop("viewport", WIDE), **options))
            page = context.new_page()
            base = "/".join(address.split("/")[:3])
            page.on("request", lambda request: None if request.url.startswith((base, "blob:", "data:")) else complaints.append(f"asks {request.url}"))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") and not (allowed and allowed in m.text) else None)
            page.set_default_timeout(15_000)
            page.goto(address)
            return page

        yield opened
        assert not complaints


@pytest.fixture
def address_of() -> Iterator[Callable[..., str]]:
    """Starts a service over the scripted engine, with settings of one's own, and gives its address."""
    with ExitStack() as stack:

        def started(**how: Any) -> str:
            service = Service(**how)
            stack.callback(service.stop)
            address = stack.enter_context(on_a_socket(service))
            started.service = service  # type: ignore[attr-defined]
            return address

        yield started


@pytest.fixture(scope="session")
def screenshot() -> Callable[[Page, str], None]:
    """Keeps a picture of the whole page under a name."""
    SHOTS.mkdir(exist_ok=True)
    return lambda page, name: page.screenshot(path=SHOTS / f"{name}.png", full_page=True) and None


@pytest.fixture(scope="session")
def check_accessible() -> Callable[[Page], None]:
    """Fails where axe-core finds something serious or critical in the page as it is shown now."""
    axe = Axe()

    def check(page: Page) -> None:
        found = [broken for broken in axe.run(page).response["violations"] if broken["impact"] in ("serious", "critical")]
        told = [f"{broken['id']}: {node['html'][:300]}\n{node['failureSummary']}" for broken in found for node in broken["nodes"]]
        assert not told, "\n\n".join(told[:10])

    return check
