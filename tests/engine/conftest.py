"""Everything in this folder has the `engine` marker; models are written once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from real_engine import model_file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests."""
    for item in items:
        if "tests/engine/" in str(item.path):
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny models of this session lie."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Callable[[str], Path]:
    """The file of a model by its name, e.g. tiny-bpe-f32 or stories."""
    return lambda name: model_file(name, model_folder)
