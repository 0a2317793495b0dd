"""Fixtures of this folder: services in this process, their clients, and checks of what they answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask.testing import FlaskClient
from in_process import Service, on_a_socket
from werkzeug.security import generate_password_hash

from appliance.access import service as access

FIELDS = {"message", "type", "param", "code"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder has the `http` marker."""
    for item in items:
        if "tests/http/" in str(item.path):
            item.add_marker(pytest.mark.http)


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed in one round; that real ones take their time is shown in tests/unit/test_access.py."""
    monkeypatch.setattr(access, "generate_password_hash", lambda password: generate_password_hash(password, "pbkdf2:sha256:1"))
    monkeypatch.setattr(access, "_nobody", "")


@pytest.fixture
def make_service() -> Iterator[Callable[..., Service]]:
    """Makes services with settings of one's own."""
    made: list[Service] = []

    def make(**how: Any) -> Service:
        made.append(Service(**how))
        return made[-1]

    yield make
    for service in made:
        service.stop()


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    """The ordinary service: one model, no keys."""
    return make_service()


@pytest.fixture
def client(service: Service) -> FlaskClient:
    return service.client


@pytest.fixture(scope="module")
def shared_client() -> Iterator[FlaskClient]:
    """A client for the many tests that are refused before anything happens."""
    service = Service()
    yield service.client
    service.stop()


@pytest.fixture(scope="module")
def encoders() -> Iterator[Service]:
    """A generator and one encoder of each kind, for the many tests that only ask."""
    service = Service(models=("fake", "embed", "rerank", "classify", "nli", "tokens"))
    yield service
    service.stop()


@pytest.fixture
def serve() -> Iterator[Callable[[Service], str]]:
    """Puts a service on a real socket and returns its address."""
    with ExitStack() as stack:
        yield lambda service: stack.enter_context(on_a_socket(service))


def wait_for(condition: Callable[[], Any], seconds: float = 3.0) -> None:
    """Return as soon as `condition` holds; fail when it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.002)


@pytest.fixture(name="wait_for")
def _wait_for() -> Callable[..., None]:
    return wait_for


def check_error(response: Any, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The response is an error of ours with all four fields; returns the error object."""
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.mimetype == "application/json"
    body = response.get_json()
    error = body["error"]
    assert set(error) == FIELDS
    assert error["message"] and isinstance(error["message"], str)
    assert (error["code"], error["param"]) == (code, param), error
    assert response.headers["x-request-id"]
    return error


@pytest.fixture(name="check_error")
def _check_error() -> Callable[..., dict[str, Any]]:
    return check_error


def read_events(raw: bytes) -> list[Any]:
    """The events of a stream: parsed JSON, the text [DONE], or a comment with its colon. Checks the framing."""
    assert raw.endswith(b"\n\n")
    found: list[Any] = []
    for block in raw.decode().removesuffix("\n\n").split("\n\n"):
        assert "\n" not in block
        if block.startswith(":"):
            found.append(block)
            continue
        assert block.startswith("data: ")
        value = block.removeprefix("data: ")
        found.append(value if value == "[DONE]" else json.loads(value))
    return found


@pytest.fixture(name="read_events")
def _read_events() -> Callable[[bytes], list[Any]]:
    return read_events


@pytest.fixture
def hello() -> dict[str, Any]:
    """A small chat request; the fake answers `echo: hello`."""
    return {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
