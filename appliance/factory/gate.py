"""The end of a distillation: the chosen files with their papers (certificate, report, manifest) go to the out folder."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from appliance import manifest
from appliance.engine.topology import read_topology
from appliance.factory import certify
from appliance.factory.certify import Measured, Verdict
from appliance.intake.facts import plain, read_facts
from appliance.storage import write_atomically

REPORT = "report.json"


def save_json(path: Path, values: Any) -> None:
    """Write a JSON file, whole or not at all. Raises OSError."""
    write_atomically(path, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())


def clear(out: Path) -> dict[str, Any]:
    """Delete an earlier result, its manifest first, because that vouches for the rest. Returns the report's last keys, empty."""
    for old in (out / manifest.FILE_NAME, out / certify.CERTIFICATE, *out.glob("*.gguf"), *out.glob(".*.part")):
        old.unlink(missing_ok=True)
    machine = read_topology()
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return {"cpu": machine.cpu_key, "date": date, "files": {}, "chosen": None}


def match_verdict(figures: dict[str, Any], least: float | None) -> list[Verdict]:
    """Whether enough held-out questions are answered as the teacher does; nothing where nothing is asked for."""
    return [] if least is None else [Verdict("min_match", f"{least:g}", f"{figures['match']:.4g}", figures["match"] >= least)]


def place(out: Path, files: Sequence[Path], measured: Measured, verdicts: list[Verdict], report: dict[str, Any]) -> None:
    """Copy the files (the main one first) and write the certificate, the report and, last, the manifest. Raises OSError."""
    placed = []
    for file in files:
        part = out / f".{file.name}.part"
        shutil.copyfile(file, part)
        with part.open("rb") as reader:
            os.fsync(reader.fileno())
        os.replace(part, out / file.name)
        placed.append(manifest.ModelFile(file.name, certify.sha256(out / file.name), file.stat().st_size))
    certify.write_certificate(out, out / files[0].name, report["cpu"], measured, verdicts, report["date"])
    save_json(out / REPORT, report)
    facts = read_facts(out, files[0].name, report["licence"])
    paper = manifest.Manifest(
        name=report["name"],
        family=facts.family,
        format=facts.format,
        task=facts.task,
        quantization=facts.quantization if facts.format == "gguf" else "fp32",
        context_tokens=facts.context_tokens,
        licence=facts.licence,
        files=tuple(placed),
        description=plain(f"Distilled from {report['teacher']} with {report['trained_on']} answers."),
        created_by="appliance models distil",
        provenance=manifest.Provenance(source=plain(f"distilled:{report['teacher']}"), date=report["date"]),
    )
    manifest.save(paper, out)
