"""A Ctrl-C must end a command wherever it arrives."""

import signal
import sys
import time
import weakref
from pathlib import Path

import pytest

from appliance.cli.workbench import hearing_ctrl_c
from appliance.factory.convert_onnx import whole_folder


class Thing:
    """Something with a weak reference, as every module is while it is imported."""


def interrupted_in_a_callback():
    thing = Thing()
    kept = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    return kept


def test_one_that_python_forgets_is_raised_again(capsys):
    usual = sys.unraisablehook
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), hearing_ctrl_c():
        interrupted_in_a_callback()
        time.sleep(10)
    assert time.monotonic() - began < 8  # what it is waiting for is interrupted too
    assert capsys.readouterr() == ("", "")
    assert sys.unraisablehook is usual


def test_other_forgotten_exceptions_are_told_as_ever(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    thing = Thing()
    kept = weakref.ref(thing, lambda _: 1 / 0)
    with hearing_ctrl_c():
        del thing
    assert [fault.exc_type for fault in told] == [ZeroDivisionError] and kept() is None


def test_one_that_comes_just_as_a_folder_is_made_leaves_none(monkeypatch, tmp_path):
    make = Path.mkdir

    def made_and_interrupted(path, *given, **more):
        make(path, *given, **more)
        assert list(tmp_path.iterdir()) == [path]
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Path, "mkdir", made_and_interrupted)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "x"):
        raise AssertionError("it was entered")
    assert not list(tmp_path.iterdir())
