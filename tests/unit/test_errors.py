"""The error tree and its drawing."""

from __future__ import annotations

import json
import re

import pytest

from appliance import errors
from appliance.errors import BY_CODE, ApplianceError, from_wire


def tree(root=ApplianceError) -> list[type[ApplianceError]]:
    return [root] + [found for child in root.__subclasses__() for found in tree(child)]


ALL = tree()


def drawn() -> dict[str, tuple[int, int, str]]:
    """Depth, status and code of each class in the module's drawing."""
    rows = {}
    for line in errors.__doc__.splitlines():
        match = re.match(r"^    ([|\s`-]*)(\w+) +(\d{3})  (\w+)", line)
        if match:
            rows[match[2]] = (len(match[1]) // 3, int(match[3]), match[4])
    return rows


def test_the_drawing_shows_exactly_the_tree():
    rows = drawn()
    assert set(rows) == {kind.__name__ for kind in ALL}
    for kind in ALL:
        depth, status, word = rows[kind.__name__]
        assert depth == len(kind.__mro__) - len(ApplianceError.__mro__)
        assert status == kind.status
        assert word in (kind.code, kind.type)


@pytest.mark.parametrize("kind", ALL)
def test_every_error_survives_the_wire_and_has_all_four_fields(kind):
    error = kind("What.", param="p", remedy="Do.", retry_after_s=3.5)
    again = from_wire(json.loads(json.dumps(error.to_wire())))
    assert type(again) is kind
    assert (again.message, again.param, again.remedy, again.retry_after_s) == ("What.", "p", "Do.", 3.5)
    assert again.body() == {"error": {"message": "What. Do.", "type": kind.type, "param": "p", "code": kind.code}}
    assert str(kind("What.")) == "What."


def test_codes_are_unique():
    assert len({kind.code for kind in ALL}) == len(ALL) == len(BY_CODE)


@pytest.mark.parametrize("kind", ALL)
def test_statuses_types_and_exit_codes_fit_together(kind):
    assert 400 <= kind.status <= 599
    assert (kind.type == "server_error") == (kind.status == 500) or kind.status == 499
    assert kind.exit_code in {64, 65, 66, 69, 70, 71, 74, 75, 77, 78}


@pytest.mark.parametrize("data", [{}, {"code": "from_the_future", "message": "m"}, {"code": None}])
def test_an_unknown_error_is_a_plain_one(data):
    error = from_wire(data)
    assert type(error) is ApplianceError and error.message
