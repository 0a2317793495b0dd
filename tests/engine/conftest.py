"""Everything in this folder has the `engine` marker; models are written once a session."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from real_engine import model_file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests."""
    for item in items:
        if "tests/engine/" in str(item.path):
            item.add_marker(pytest.mark.engine)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Tests marked `apart` run in a thread of their own: llama.cpp sets up a thread's AMX tiles once, and computes nonsense
    where another library has been in between."""
    if pyfuncitem.get_closest_marker("apart") is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pyfuncitem.obj, **arguments).result()
    return True


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny models of this session lie."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Callable[[str], Path]:
    """The file of a model by its name, e.g. tiny-bpe-f32 or stories."""
    return lambda name: model_file(name, model_folder)
