"""A Ctrl-C must end a command wherever it arrives."""

import signal
import sys
import time
import weakref

import pytest

from appliance.cli.workbench import hearing_ctrl_c


class Thing:
    """Something with a weak reference, as every module is while it is imported."""


def interrupted_in_a_callback():
    thing = Thing()
    kept = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    return kept


def test_one_that_python_forgets_is_raised_again(capsys):
    usual = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), hearing_ctrl_c():
        interrupted_in_a_callback()
        time.sleep(10)
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
