"""What `appliance doctor` does. Imported when it is done only: every command would start later for it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance.access.service import has_keys
from appliance.config import BY_NAME, SETTINGS, Config, convert, load_config
from appliance.doctor import bundle
from appliance.doctor.facts import Facts
from appliance.doctor.findings import Finding, counts, examine
from appliance.doctor.machine import run_command
from appliance.doctor.reading import collect, journal
from appliance.doctor.running import ask
from appliance.doctor.self_test import self_test
from appliance.doctor.service import RULES
from appliance.errors import ConfigError

NOT_IN_ORDER = 69
"""What a machine that lacks something ends with, as install.sh does: EX_UNAVAILABLE."""
LISTENERS = {"us": "the service runs", "nobody": "the service does not run", "other": "another program has its port", "": "the service is not asked (port 0)"}


def run(arguments: argparse.Namespace) -> int:
    """Examine the box."""
    if arguments.self_test:
        return run_self_test(arguments)
    config, mistakes = configuration(arguments)
    running = ask(config)
    facts = collect(config, running, config_error=mistakes)
    if arguments.bundle:
        lines = journal(run_command, "-n", str(bundle.LAST_LINES))
        bundle.write(Path(arguments.bundle), bundle.make(facts, config, running.metrics, lines, facts.now))
        print(f"{arguments.bundle} is written. Look through it before you send it; it is plain text inside.", file=sys.stderr)
    findings = examine(facts, RULES)
    print(json.dumps(as_json(facts, findings), indent=2) if arguments.json else in_words(facts, findings))
    return NOT_IN_ORDER if counts(findings)["problem"] else 0


def run_self_test(arguments: argparse.Namespace) -> int:
    """Ask a service of this release that is started for it. Raises ApplianceError where it does not answer."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # or the service would be left running
    passed = self_test(fake=arguments.self_test == "fake", copy=Path(arguments.copy) if arguments.copy else None)
    print(json.dumps(asdict(passed)) if arguments.json else f"The service answered after {passed.seconds:.1f} s with the model {passed.model}.")
    return 0


def configuration(arguments: argparse.Namespace) -> tuple[Config, str]:
    """(The configuration, ""), or (the defaults, what is wrong with it)."""
    try:
        return load_config({"data_dir": arguments.data_dir, "config": arguments.config}, has_keys=has_keys), ""
    except ConfigError as error:
        values = {setting.name: setting.default for setting in SETTINGS}
        values["data_dir"] = convert(BY_NAME["data_dir"], arguments.data_dir or os.environ.get(BY_NAME["data_dir"].env) or "")
        return Config(values), str(error)


def as_json(facts: Facts, findings: tuple[Finding, ...]) -> dict[str, Any]:
    """For --json."""
    return {"version": facts.version, "data_dir": facts.data_dir, "service": LISTENERS[facts.listener], "counts": counts(findings), "findings": [asdict(one) for one in findings]}


def in_words(facts: Facts, findings: tuple[Finding, ...]) -> str:
    """For people; no final newline."""
    lines = [f"appliance {facts.version} on {facts.kernel}; data in {facts.data_dir}; {LISTENERS[facts.listener]}.", ""]
    for one in findings:
        lines += [f"{one.severity}: {one.what}", f"    {one.why}", f"    To do: {one.remedy}", ""]
    numbers = ", ".join(f"{number} {severity}{'' if number == 1 else 's'}" for severity, number in counts(findings).items())
    return "\n".join([*lines, f"{numbers}." if findings else "Nothing is wrong."])
