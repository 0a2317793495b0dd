"""Findings, and what makes them of facts: rules. Pure: no file is read here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from appliance.doctor.facts import Facts

Severity = Literal["problem", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note")
"""problem: something does not work, or data is in danger. warning: it will, or costs speed. note: good to know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """what: the measured value and the limit. why: what it does to the people who use the box. remedy: a command or a setting."""

    code: str
    severity: Severity
    what: str
    why: str
    remedy: str


Rule = Callable[[Facts], Iterator[Finding]]


def examine(facts: Facts, rules: Iterable[Rule]) -> tuple[Finding, ...]:
    """What the rules find, the worst first. A rule that fails is itself a finding."""
    found: list[Finding] = []
    for rule in rules:
        try:
            found += rule(facts)
        except Exception as error:  # a fault in one check must not hide what the others find
            found.append(_failed(f"The check {rule.__name__} failed: {type(error).__name__}: {error}."))
    found += [_failed(f"{fault}.") for fault in facts.faults]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def _failed(what: str) -> Finding:
    why = "What it would have looked at is not known; the other checks are not affected."
    return Finding("check_failed", "warning", what, why, "Report it with the archive of `appliance doctor --bundle FILE`.")


def counts(findings: Iterable[Finding]) -> dict[Severity, int]:
    """How many there are of each severity."""
    found = [finding.severity for finding in findings]
    return {severity: found.count(severity) for severity in SEVERITIES}
