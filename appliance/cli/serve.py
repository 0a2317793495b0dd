"""`appliance serve`: every setting is a flag."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from appliance import catalog
from appliance.config import SETTINGS, Config, Setting, load_config
from appliance.errors import InvalidRequest, ModelFileMissing


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "serve",
        help="serve models on the network",
        description="Serve models through the OpenAI API. Flags win over APPLIANCE_* variables, those over the file.",
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {}
    for setting in SETTINGS:
        group = groups.setdefault(setting.group, None) or parser.add_argument_group(setting.group)
        groups[setting.group] = group
        add_flag(group, setting)
    parser.add_argument("--check-config", action="store_true", help="check the configuration, print it and leave")
    parser.set_defaults(run=run)


def add_flag(group: Any, setting: Setting) -> None:
    """One setting as a flag; the value stays text, `config.convert` checks it."""
    default = setting.default if setting.default not in ("", (), None) else "none"
    help_text = f"{setting.help} ({setting.env}; default: {default}{' ' + setting.unit if setting.unit else ''})"
    options: dict[str, Any] = {"dest": setting.name, "help": help_text.replace("%", "%%")}
    if setting.kind == "bool":
        options |= {"nargs": "?", "const": "true", "metavar": "true|false"}
        options["help"] = f"{setting.help} ({setting.env}; default: off)"
    elif setting.kind == "list":
        options |= {"action": "append", "metavar": setting.name.upper()}
    elif setting.choices:
        options["metavar"] = "|".join(setting.choices)
    else:
        options["metavar"] = setting.unit.upper().replace(" ", "_") or setting.kind.upper()
    group.add_argument(*setting.flags, setting.flag, **options)


def configuration(arguments: argparse.Namespace) -> Config:
    """The merged configuration of a command line. Raises ConfigError."""
    from appliance.access.service import has_keys  # imports werkzeug and sqlite-utils: only when it is needed

    return load_config({s.name: getattr(arguments, s.name) for s in SETTINGS}, has_keys=has_keys)


def run(arguments: argparse.Namespace) -> int:
    """Serve until stopped."""
    config = configuration(arguments)
    if arguments.check_config:
        print(json.dumps({"configuration": config.shown(), "sources": config.sources}, indent=2))
        return 0
    models = catalog.entries(config)
    if not models:
        raise InvalidRequest(
            "There is no model to serve.", remedy="Name a GGUF file, a folder or a name: appliance serve --model /path/to/model.gguf"
        )
    for entry in models:
        if entry.model:
            catalog.check_servable(entry.model)
    missing = [entry.path for entry in models if entry.engine != "fake" and not entry.model and not os.path.exists(entry.path)]
    if missing:
        remedy = "Check the path given to --model, or copy the file there."
        if missing[0].name == str(missing[0]):
            remedy = "Nor does the catalog have a model of that name: appliance models list. " + remedy
        raise ModelFileMissing(f"There is no model file at {missing[0]}.", remedy=remedy)
    for entry in models:
        if entry.engine != "fake" and not entry.model and os.path.isdir(entry.path):
            catalog.check_folder(entry.path)
    from appliance.server import run as serve  # imports gunicorn: only when it is needed

    return serve(config, lambda: configuration(arguments))
