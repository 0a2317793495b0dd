"""The model factory: `appliance models convert`, `quantize`, `eval`, `certify` and `distil`.

The libraries that do the work (torch, transformers, llama.cpp, ...) are imported inside the functions that need them, so that
the other commands and `--help` do not wait for them, and work without the `factory` extra.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from appliance.catalog import TWIN
from appliance.cli import measure
from appliance.cli.workbench import (
    Share,
    check_file,
    check_target,
    find,
    in_sentences,
    interruptible,
    needs,
    path,
    word,
)
from appliance.errors import InvalidRequest, ModelFileError, StorageFailed
from appliance.factory import distil_flags
from appliance.factory.convert_onnx import TASKS
from appliance.gguf_header import read_header
from appliance.intake.add import in_units

Action = Callable[..., argparse.ArgumentParser]
GGUF_TYPES = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")
BLOCKS = ("32", "64", "128", "256")
ONNX_TYPES = ("int8", "int8-block", "int4-block")
STEP = re.compile(r"(?P<what>.+?) (?P<done>\d+) of (?P<all>\d+)(?P<more>.*)")


def add(action: Action) -> None:
    """Declare the commands; `action` is what cli.models declares its own with."""
    made = action("convert", run_convert, "make a GGUF file or an ONNX folder of a Hugging Face checkpoint, or ONNX of GGUF", settings=())
    made.add_argument("folder", metavar="SOURCE", type=path, help="folder with config.json, safetensors and tokenizer; or a GGUF file")
    made.add_argument("target", metavar="TARGET", type=path, help="the file or folder to write")
    made.add_argument("--to", choices=("gguf", "onnx"), help="default: gguf when TARGET ends in .gguf, else onnx")
    made.add_argument("--task", choices=TASKS, help="what an ONNX model is exported for; default: what the checkpoint says")
    made.add_argument("--name", metavar="N", help="name inside the GGUF file; default: the folder's")
    made.add_argument("--requantize", metavar="block=N", type=_block, help="of an f16 GGUF file: round to 4 bits in blocks of 32, 64, 128 or 256 (128 is fastest)")
    made.add_argument("--stands-for", metavar="FILE", type=path, help="of GGUF to ONNX: another GGUF of the same model (such as its Q4_0) for which `serve` may take the folder")
    made.add_argument("--accuracy-level", type=int, choices=(1, 4), help="of GGUF to ONNX: 4 multiplies with 8-bit activations (default), 1 with float32")

    made = action("quantize", run_quantize, "make a smaller model with coarser weights")
    made.add_argument("source", metavar="SOURCE", type=word, help="a GGUF file, an ONNX folder, or a model of the catalog")
    made.add_argument("target", metavar="TARGET", type=path, help="the file or folder to write")
    made.add_argument("--type", required=True, metavar="TYPE", help=f"GGUF: {', '.join(GGUF_TYPES)}; ONNX: {', '.join(ONNX_TYPES)}")
    made.add_argument("--output", metavar="TYPE", help="GGUF: type of the output and embedding tensors: F16, Q8_0, Q6_K, Q4_0")
    made.add_argument("--keep", metavar="PATTERN", action="append", default=[], help="ONNX: nodes or weights that stay float32; may be given several times")
    made.add_argument("--block", type=int, metavar="N", help="ONNX: weights that share a scale: 16, 32, 64, 128, 256")

    measure.add(action)

    made = action("distil", run_distil, "teach a small model what a large one answers")
    distil_flags.arguments(made)


def _block(text: str) -> int:
    """The N of block=N. For argparse."""
    key, _, number = text.partition("=")
    if key != "block" or number not in BLOCKS:
        raise argparse.ArgumentTypeError(f"{text!r} is not block= and one of {', '.join(BLOCKS)}")
    return int(number)


@in_sentences("converting")
def run_convert(arguments: argparse.Namespace) -> int:
    """A checkpoint becomes a GGUF file or an ONNX folder, a GGUF file an ONNX folder."""
    folder, target = arguments.folder, arguments.target
    if folder.suffix.lower() == ".gguf":
        return _convert_gguf_to_onnx(arguments)
    if arguments.requantize or arguments.accuracy_level or arguments.stands_for:
        raise InvalidRequest("--requantize, --accuracy-level and --stands-for are for GGUF files that become ONNX.", remedy="Leave them out, or use `appliance models quantize`.")
    kind = arguments.to or ("gguf" if target.suffix.lower() == ".gguf" else "onnx")
    if kind == "gguf" and arguments.task:
        raise InvalidRequest("--task is for ONNX models; a GGUF file has the task of its checkpoint.", param="task", remedy="Leave it out.")
    if kind == "onnx" and arguments.name is not None:
        raise InvalidRequest("--name is for GGUF files; an ONNX model has no name inside.", param="name", remedy="Leave it out.")
    check_target(target)
    with Share(target.name, 0) as bar:
        if kind == "gguf":
            needs("Converting to GGUF", "gguf", "safetensors", "torch")
            from appliance.factory import convert_gguf

            def tell(what: str, share: float) -> None:
                bar.to(share) if share else bar.note(what)

            convert_gguf.convert(folder, target, name=arguments.name or "", tell=tell)
        else:
            needs("Converting to ONNX", "torch", "transformers", "optimum", "onnx", "tokenizers", "huggingface_hub")
            from appliance.factory import convert_onnx

            convert_onnx.convert(folder, target, task=arguments.task or "auto", tell=lambda words: bar.to(0.0, words))
    return _wrote(target)


def _convert_gguf_to_onnx(arguments: argparse.Namespace) -> int:
    source, target = arguments.folder, arguments.target
    check_file(source, "GGUF file")
    if arguments.to == "gguf" or target.suffix.lower() == ".gguf":
        raise InvalidRequest(f"{source.name} is a GGUF file already.", param="to", remedy="Use --to onnx and name a folder, or `appliance models quantize`.")
    if arguments.task or arguments.name is not None:
        raise InvalidRequest("--task and --name are for checkpoints; a GGUF file says itself what it is.", remedy="Leave them out.")
    if arguments.stands_for:
        check_file(arguments.stands_for, "GGUF file")
    check_target(target)
    needs("Converting GGUF to ONNX", "gguf", "onnx")
    from appliance.factory import convert_decoder

    with Share(target.name, 0) as bar:
        convert_decoder.convert(
            source, target, block=arguments.requantize, accuracy=arguments.accuracy_level or 4, stands_for=arguments.stands_for,
            tell=lambda words, share: bar.to(share, words),
        )  # fmt: skip
    _wrote(target, before=_size(source), compared_with=source)
    if target.absolute() == source.absolute().with_name(f"{source.name.removesuffix('.gguf')}{TWIN}"):
        print(f"From now on this chooses the faster of both: appliance serve --model {shlex.quote(str(source))}")
    return 0


@in_sentences("quantizing")
def run_quantize(arguments: argparse.Namespace) -> int:
    """A model becomes a smaller one."""
    source, target = find(arguments.source, arguments), arguments.target
    gguf = source.format == "gguf"
    chosen = arguments.type.upper() if gguf else arguments.type.lower()
    ours, theirs = (GGUF_TYPES, ONNX_TYPES) if gguf else (ONNX_TYPES, GGUF_TYPES)
    if chosen not in ours:
        is_other = arguments.type.upper() in theirs or arguments.type.lower() in theirs
        raise InvalidRequest(
            f"{arguments.type!r} is for {'ONNX models' if gguf else 'GGUF files'}." if is_other else f"There is no quantization {arguments.type!r}.",
            param="type",
            remedy=f"For {source.name} choose one of {', '.join(ours)}.",
        )
    wrong = {"--keep": bool(arguments.keep), "--block": arguments.block is not None} if gguf else {"--output": arguments.output is not None}
    for flag, given in wrong.items():
        if given:
            raise InvalidRequest(f"{flag} is for {'ONNX models' if gguf else 'GGUF files'}, and {source.name} is none.", remedy="Leave it out.")
    check_target(target)
    with Share(f"quantizing {source.name}", 0) as bar:
        bar.to(0.0)
        if gguf:
            read_header(source.path)
            from appliance.factory.quantize import quantize

            output = arguments.output.upper() if arguments.output else None
            part = target.with_name(f".{target.name}.part")
            try:
                interruptible(lambda: quantize(source.path, target, chosen, output=output), part)
            except ModelFileError as error:
                if "iostream error" in error.message:  # all that C++ says of a disk
                    raise StorageFailed(f"Writing {target} failed.", remedy="Look for free space and at the disk (dmesg), then try again.") from None
                raise
        else:
            needs("Quantizing an ONNX model", "onnx")
            from appliance.factory import quantize_onnx

            quantize_onnx.quantize(source.path, target, chosen, keep=arguments.keep, block=arguments.block)
        bar.to(1.0)
    return _wrote(target, before=_size(source.path))


def _size(place: Path) -> int:
    return sum(file.stat().st_size for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file())


def _wrote(target: Path, before: int = 0, compared_with: Path | None = None) -> int:
    size = _size(target)
    compared = f", {size / before:.0%} of the size before" if before else ""
    print(f"Wrote {target}: {in_units(size)}{compared}.")
    words = [str(target), *(["--reference", str(compared_with)] if compared_with else [])]
    print(f"What it is worth: appliance models eval {shlex.join(words)}")
    return 0


@in_sentences("distilling")
def run_distil(arguments: argparse.Namespace) -> int:
    """A teacher's answers become a small model."""
    given = vars(arguments)
    for file, what in ((given["prompts"], "file with prompts"), (given["answers"], "file with answers"), (given["limits"], "file with limits")):
        if file is not None:
            check_file(file, what)
    if given["teacher"] and "://" not in given["teacher"]:
        given["teacher"] = str(find(given["teacher"], arguments).path)
    labels = given["kind"] == "labels"
    needs("Distilling", "torch", "tokenizers", "gguf", *(("transformers", "optimum", "onnx") if labels else ()))
    from appliance.factory import distil

    with Share("beginning", 0) as bar:

        def tell(line: str) -> None:
            step = STEP.fullmatch(line)
            if step and bar.live:
                bar.to(int(step["done"]) / max(1, int(step["all"])), step["what"] + step["more"])
            else:
                bar.note(line)

        report = interruptible(lambda: distil.run(given, tell))
    print("\n".join(distil.lines(report)))
    print(f"Add it to the catalog: appliance models add {shlex.quote(str(arguments.out))}")
    return 0
