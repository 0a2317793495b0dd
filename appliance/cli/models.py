"""`appliance models`: what models there are, are they intact, and how they come and go, are made and checked."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance import catalog, integrity
from appliance.catalog import Catalog, CatalogModel
from appliance.cli import factory
from appliance.cli.audit import noted
from appliance.cli.progress import Bar
from appliance.cli.serve import add_flag
from appliance.config import BY_NAME, Config, load_for_work
from appliance.engine.topology import read_topology
from appliance.errors import ApplianceError, InvalidRequest, ModelFileError
from appliance.factory import certify
from appliance.intake import place
from appliance.intake.add import Offer, Wishes, in_units
from appliance.intake.add import add as add_offer
from appliance.manifest import TASKS
from appliance.storage import in_words

SETTINGS = ("data_dir", "config", "offline")


def check_certified(model: CatalogModel) -> None:
    """Return when a model has a certificate for its file and this processor. Raises InvalidRequest that says why not."""
    machine = read_topology()
    if why := certify.certified(model.folder, model.readable().main.sha256, machine.cpu_key):
        raise InvalidRequest(
            f"{model.name} is not certified: {why}.",
            remedy=f"Check it with `appliance models certify {model.name} --limits FILE.toml`, or add --uncertified to use it all the same.",
        )


CHECKS_BEFORE_USE: tuple[Callable[[CatalogModel, Config], None], ...] = (
    lambda model, config: catalog.check_servable(model),
    lambda model, config: integrity.check(model.folder, model.readable(), catalog.hash_cache(config)),
)
"""What a model has to pass before it becomes the default, in this order; each raises ApplianceError."""


def add(commands: Any) -> None:
    """Declare the commands."""
    parser = commands.add_parser("models", help="list, check, make, add and remove models", description=__doc__, allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", parser_class=type(parser))

    def action(name: str, run_: Callable[..., int], help_text: str, settings: Sequence[str] = SETTINGS[:2]) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.", allow_abbrev=False)
        for setting in settings:
            add_flag(made, BY_NAME[setting])
        made.set_defaults(run=run_)
        return made

    made = action("list", run_list, "show the models of the catalog")
    made.add_argument("--json", action="store_true", help="print JSON")
    made = action("show", run_show, "show all that is known about a model")
    made.add_argument("name", metavar="NAME", help="a model of the catalog")
    made.add_argument("--json", action="store_true", help="print JSON")
    made = action("verify", run_verify, "read the files of a model, or of all, and compare them with their manifest")
    made.add_argument("name", metavar="NAME", nargs="?", help="a model of the catalog; without it, all")
    made.add_argument("--all", action="store_true", help="all models, which is also what no NAME means")
    made.add_argument("--json", action="store_true", help="print JSON")
    made = action("use", run_use, "make a model the one that serve loads when none is named")
    made.add_argument("name", metavar="NAME", help="a model of the catalog")
    made.add_argument("--uncertified", action="store_true", help="also without a certificate for its file and this processor")
    made = action("add", run_add, "copy or fetch a model into the data folder", SETTINGS)
    made.add_argument("source", metavar="SOURCE", help="FILE.gguf, a folder, or hf:owner/name[:file[@revision]]")
    made.add_argument("--name", metavar="N", help="name in the catalog; default: the file's")
    made.add_argument("--alias", metavar="N", action="append", default=[], help="another name for it; may be given several times")
    made.add_argument("--task", choices=TASKS, help="what it is for; default: what its files say")
    made.add_argument("--licence", metavar="TEXT", help="its licence; default: what its files or the hub say")
    made.add_argument("--sha256", metavar="HEX", default="", help="what its main file must have; another one is not added")
    made = action("remove", run_remove, "delete a model, or what an interrupted add left of it")
    made.add_argument("name", metavar="NAME", help="a model of the catalog")
    made.add_argument("--yes", action="store_true", help="do not ask")
    made.add_argument("--force", action="store_true", help="also the default model, and one that came with the appliance")
    factory.add(action)
    parser.set_defaults(run=lambda arguments: _no_action(parser))


def _no_action(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return InvalidRequest.exit_code


def _config(arguments: argparse.Namespace) -> Config:
    return load_for_work({name: getattr(arguments, name, None) for name in SETTINGS})


def run_list(arguments: argparse.Namespace) -> int:
    """One row a model; what is wrong is said below the table."""
    config = _config(arguments)
    found = catalog.read_catalog(config)
    begun = place.unfinished(catalog.added_folder(config))
    if arguments.json:
        print(json.dumps({
            "default": found.default,
            "models": [_as_json(model, found) for model in found.models],
            "hidden": [_as_json(model, found) for model in found.hidden],
            "unfinished": begun,
        }, indent=2))  # fmt: skip
        return 0
    _print_table(found)
    for model in found.models:
        if model.reason:
            print(f"{model.name}: cannot be used: {model.reason}")
    for model in found.hidden:
        print(f"{model.name}: the one in {model.folder} is not used, the one in {found.find(model.name).folder} is.")
    for name, size in begun.items():
        print(f"{name}: not complete ({in_units(size)}). Add it again to go on, or `appliance models remove {name}`.")
    if found.default and not found.get(found.default):
        print(f"{found.default}: chosen as the default, but not in the catalog. Choose another: appliance models use NAME")
    return 0


def _print_table(found: Catalog) -> None:
    rows = [("", "NAME", "TASK", "FORMAT", "QUANT", "CONTEXT", "SIZE", "LICENCE", "FROM")]
    default = found.get(found.default) if found.default else None
    for model in found.models:
        star, origin = "*" if model is default else "", "appliance" if model.shipped else "added"
        if paper := model.manifest:
            context = str(paper.context_tokens or "?")
            rows.append((star, model.name, paper.task, paper.format, paper.quantization, context, in_units(paper.size_bytes), paper.licence, origin))
        else:
            rows.append((star, model.name, "-", "-", "-", "-", "-", "-", origin))
    if len(rows) == 1:
        print("The catalog is empty. Add a model: appliance models add FILE.gguf")
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if default:
        print("* the default")


def _as_json(model: CatalogModel, found: Catalog) -> dict[str, Any]:
    values = {
        "name": model.name,
        "usable": model.manifest is not None,
        "reason": model.reason,
        "default": bool(found.default) and found.get(found.default) is model,
        "shipped": model.shipped,
        "folder": str(model.folder),
    }
    return values | {"path": str(model.path), "manifest": asdict(model.manifest) if model.manifest else None}


def run_show(arguments: argparse.Namespace) -> int:
    """Everything about one model."""
    found = catalog.read_catalog(_config(arguments))
    model = found.find(arguments.name)
    if arguments.json:
        print(json.dumps(_as_json(model, found), indent=2))
        return 0
    paper = model.readable()
    origin = paper.provenance
    rows = {
        "name": paper.name, "also called": ", ".join(paper.aliases), "description": paper.description, "family": paper.family,
        "task": paper.task, "format": f"{paper.format}, {paper.quantization}", "context": f"{paper.context_tokens} tokens" if paper.context_tokens else "",
        "licence": paper.licence, "source": origin.source, "revision": origin.revision, "address": origin.url, "since": origin.date,
        "made by": paper.created_by, "folder": str(model.folder), "size": in_units(paper.size_bytes),
    }  # fmt: skip
    for key, value in rows.items():
        if value:
            print(f"{key + ':':<13}{value}")
    for file in paper.files:
        print(f"{'file:':<13}{file.path}, {file.size_bytes} bytes, SHA-256 {file.sha256}")
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Exit code 0 when all is well, else that of the first fault."""
    config = _config(arguments)
    if arguments.name and arguments.all:
        raise InvalidRequest("verify takes a NAME or --all, not both.")
    found, hashes = catalog.read_catalog(config), catalog.hash_cache(config)
    rows: list[dict[str, Any]] = []
    code = 0
    for model in [found.find(arguments.name)] if arguments.name else found.models:
        row = {"name": model.name, "ok": True, "reason": ""}
        try:
            paper = model.readable()
            with Bar(model.name, paper.size_bytes) as bar:
                integrity.check(model.folder, paper, hashes, full=True, progress=bar)
        except ApplianceError as error:
            row |= {"ok": False, "reason": str(error)}
            code = code or error.exit_code
        rows.append(row)
        if not arguments.json:
            print(f"{model.name}: {row['reason'] or f'good ({in_units(paper.size_bytes)}, every byte read)'}", flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        print("The catalog is empty: nothing to verify.")
    return code


def run_use(arguments: argparse.Namespace) -> int:
    """Choose the default."""
    config = _config(arguments)
    model = catalog.read_catalog(config).find(arguments.name)
    for check in CHECKS_BEFORE_USE:
        check(model, config)
    if not arguments.uncertified:
        check_certified(model)
    try:
        catalog.set_default(config, model.name)
    except OSError as error:
        raise in_words(error, f"Writing the default into {catalog.added_folder(config)}") from None
    noted(config, "model.default", model.name)
    print(f"{model.name} is the default now. A running service takes it at its next start.")
    return 0


def run_add(arguments: argparse.Namespace) -> int:
    """Copy or fetch, then check and put into place."""
    config = _config(arguments)
    found = catalog.read_catalog(config)
    offer = _offer(arguments.source, config)
    wishes = Wishes(
        name=arguments.name,
        aliases=tuple(arguments.alias),
        task=arguments.task,
        licence=arguments.licence,
        created_by=shlex.join(["appliance", "models", "add", offer.source.partition(":")[2] if not arguments.source.startswith("hf:") else arguments.source]),
        sha256=arguments.sha256,
        date=time.strftime("%Y-%m-%d", time.gmtime()),
    )
    with Bar(arguments.name or offer.name, offer.size_bytes) as bar:
        paper = add_offer(offer, wishes, found, catalog.added_folder(config), catalog.hash_cache(config), bar)
    noted(config, "model.add", paper.name, source=offer.source, licence=paper.licence, sha256=paper.main.sha256)
    print(f"Added {paper.name}: {paper.family}, {paper.format} {paper.quantization}, {in_units(paper.size_bytes)}, licence {paper.licence}.")
    print(f"Serve it: appliance serve --model {paper.name}")
    return 0


def _offer(source: str, config: Config) -> Offer:
    if source.startswith("hf:"):
        from appliance.intake import hub

        return hub.offer(source, offline=config.offline)
    from appliance.intake import local

    return local.offer(source)


def run_remove(arguments: argparse.Namespace) -> int:
    """Delete one model after a question."""
    config = _config(arguments)
    found, folder = catalog.read_catalog(config), catalog.added_folder(config)
    begun = place.unfinished(folder)
    model = found.get(arguments.name)
    if model is None and arguments.name in begun:
        _ask(arguments, f"what there is of {arguments.name}, {in_units(begun[arguments.name])}")
        _delete(folder / f"{place.INCOMING}{arguments.name}", locked_in=folder, name=arguments.name)
        print(f"Removed what there was of {arguments.name}.")
        return 0
    model = found.find(arguments.name)
    is_default = bool(found.default) and found.get(found.default) is model
    is_beside = any(found.get(name) is model for name in found.beside)
    if not arguments.force and (is_default or is_beside or model.shipped):
        why = "is the default" if is_default else "is served beside the default" if is_beside else "came with the appliance"
        remedy = "Choose another default first (appliance models use NAME), or add --force." if is_default else "To remove it in spite of that, add --force."
        remedy = "Unload it first, in the admin page Models, or add --force." if is_beside else remedy
        raise InvalidRequest(f"{model.name} {why} and is not removed.", remedy=remedy)
    size = f", {in_units(model.manifest.size_bytes)}" if model.manifest else ""
    _ask(arguments, f"{model.name} ({model.folder}{size})")
    _delete(model.folder)
    if is_default:
        catalog.set_default(config, "")
    noted(config, "model.remove", model.name)
    print(f"Removed {model.name}.")
    return 0


def _ask(arguments: argparse.Namespace, what: str) -> None:
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise InvalidRequest(f"remove asks before it deletes {what}, and there is nobody to ask.", remedy="Add --yes.")
    print(f"Delete {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidRequest("Nothing was deleted.")


def _delete(folder: Path, locked_in: Path | None = None, name: str = "") -> None:
    try:
        if locked_in:
            with place.lock(locked_in, name):
                place.remove(folder)
        else:
            place.remove(folder)
    except FileNotFoundError:
        raise ModelFileError(f"{folder} is gone already.") from None
    except OSError as error:
        raise in_words(error, f"Deleting {folder}") from None
