"""Everything in this folder has the `process` marker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import tiny_model
from served import Server, serving


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests."""
    for item in items:
        if "tests/process/" in str(item.path):
            item.add_marker(pytest.mark.process)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights with a chat template and a long context, under 1 MB."""
    return tiny_model.write_random(tmp_path_factory.mktemp("models") / "tiny.gguf", context=65536)


@pytest.fixture
def running_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts `appliance serve` with flags (and environment variables by keyword); stopped after the test."""
    with ExitStack() as stack:
        yield lambda *flags, **more: stack.enter_context(serving(tmp_path, *flags, **more))
