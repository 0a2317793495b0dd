"""A small student from a teacher's answers: `python -m appliance.factory.distil PROMPTS OUT --teacher http://... --teacher-model NAME`.

Phases: collect, clean, split, vocabulary, train, export, quantize, judge, gate. Each leaves its result in OUT/work whole or
not at all, so a run that was killed goes on when the same command is given again. OUT itself gets the smallest file that
passes the limits with report.json, certificate.json and manifest.toml, and can be added to the catalog.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import pickle
import random
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from appliance import manifest
from appliance.engine.llama_backend import LlamaBackend
from appliance.errors import ApplianceError, InvalidRequest, ModelFileError, StorageFailed, Unavailable
from appliance.factory import certify, distil_flags, evaluate, export_gguf, questions, words
from appliance.factory import judge as judging
from appliance.factory import prompts as asking
from appliance.factory.certify import Limits, Measured, Verdict
from appliance.factory.gate import REPORT, clear, match_verdict, place, save_json
from appliance.factory.prompts import Prompt, normalise
from appliance.factory.quantize import quantize
from appliance.factory.student import Recipe, Shape, Student, train
from appliance.factory.teacher import FileTeacher, GgufTeacher, HttpTeacher, Pair, Teacher, clean, collect, generate
from appliance.intake.facts import name_from
from appliance.storage import in_words, write_atomically

Tell = Callable[[str], None]
WORK, ANSWERS = "work", "answers.jsonl"
KINDS = ("F16", "Q8_0", "Q4_0")
LEAST_TRAINED, LEAST_HELD_OUT = 8, 4


def distil(
    prompts: Sequence[Prompt],
    teacher: Teacher,
    out: Path,
    *,
    shape: Shape | None = None,
    recipe: Recipe | None = None,
    kind: Literal["answers", "labels"] = "answers",
    vocabulary: int | None = None,
    held_out_share: float = 0.1,
    limits: Limits | None = None,
    min_match: float | None = None,
    tell: Tell = lambda line: None,
    name: str = "",
    licence: str = "unknown",
    at_once: int = 4,
    noise: bool = False,
    keep_refusals: bool = False,
    threads: int | None = None,
) -> dict[str, Any]:
    """The whole way from prompts to a certified model in `out`; returns the report.

    kind: a decoder that answers (GGUF), or an encoder that gives one of the labels that the teacher gave (ONNX, float32; of
    the limits only min_match and golden texts make sense then). vocabulary: tokens, shape.vocabulary where it is None.
    min_match: share of held-out questions to be answered as the teacher does. noise: questions are also learned with
    typing errors and English small talk. keep_refusals: "I cannot help with that" is an answer worth learning. threads:
    for judging, None for as many as serving would use.

    Limits may differ from an earlier run's, and prompts may be added (then the student is trained anew); any other change
    is refused.

    Raises ApplianceError: InvalidRequest for settings and data that cannot work, a loss that is no number and limits that
    no file passes, StorageFailed for a full disk, Unavailable for a teacher that is gone; the same command goes on.
    """
    shape, recipe, limits = shape or Shape(), recipe or Recipe(), limits or Limits()
    shape = replace(shape, vocabulary=vocabulary or shape.vocabulary)
    prompts, name = asking.distinct(prompts), name or name_from(out.resolve().name)
    _check(prompts, shape, held_out_share, name)
    settings = {
        "name": name, "kind": kind, "licence": licence, "teacher": teacher.name, "shape": asdict(shape), "recipe": asdict(recipe),
        "held_out_share": held_out_share, "noise": noise, "keep_refusals": keep_refusals,
    }  # fmt: skip
    with _told(out), _locked(out):
        run = _begin(out, settings, prompts, tell)
        if not (run / "data.json").exists():
            _prepare(prompts, teacher, out, run, shape, settings, at_once, tell)
        data = json.loads((run / "data.json").read_text("utf-8"))
        trained, held_out = (_pairs(data[part]) for part in ("trained_on", "held_out"))
        report = settings | {"prompts": len(prompts), "left_out": data["left_out"], "trained_on": len(trained), "held_out": len(held_out)}
        if kind == "labels":
            return _labels(out, run, trained, held_out, shape, recipe, report, limits, min_match, threads or 0, tell)
        tokenizer = words.load(run / "tokenizer.json")
        report |= _train(run, trained, tokenizer, shape, settings, recipe, tell)
        files = _files(run, shape, tokenizer, settings, recipe, tell)
        figures = {file.name: _judge(file, files[0], held_out, trained, shape, threads, tell) for file in files}
        return _gate(out, files, figures, report, limits, min_match, lambda file: evaluate.load(file, shape.context, threads), tell)


def _check(prompts: Sequence[Prompt], shape: Shape, held_out_share: float, name: str) -> None:
    """What would fail later is refused before the teacher is asked."""
    if not prompts:
        raise InvalidRequest("There is no prompt to ask the teacher.", param="prompts", remedy="Give at least some dozens.")
    if len(prompts) < LEAST_TRAINED + LEAST_HELD_OUT:
        raise _too_few(len(prompts), 0, held_out_share)
    if shape.vocabulary < words.SMALLEST:
        words.learn([], shape.vocabulary)
    if not 0 < held_out_share < 1:
        raise InvalidRequest(f"held_out_share is {held_out_share:g}.", param="held_out_share", remedy="Choose a share between 0 and 1, such as 0.1.")
    if min(shape.heads, shape.kv_heads, shape.layers, shape.ffn) < 1 or shape.hidden % (2 * shape.heads) or shape.heads % shape.kv_heads:
        raise InvalidRequest(
            f"A student with hidden {shape.hidden}, heads {shape.heads} and kv_heads {shape.kv_heads} cannot be built.",
            param="shape",
            remedy="hidden has to be a multiple of twice heads, and heads one of kv_heads.",
        )
    if shape.context < judging.SHORTEST_CONTEXT:
        raise InvalidRequest(f"A context of {shape.context} tokens is too short.", param="shape", remedy=f"Use at least {judging.SHORTEST_CONTEXT}.")
    if problem := manifest.name_problem(name):
        raise InvalidRequest(f"A model cannot be called {name!r}: its name {problem}.", param="name")


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """Faults of the disk in words; torch tells them as RuntimeError."""
    try:
        yield
    except OSError as error:
        raise in_words(error, f"Writing into {out}", "Free some space and run the command again: it goes on.") from None
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "unexpected pos" not in str(error):
            raise
        raise StorageFailed(f"Writing a checkpoint into {out} failed.", remedy="Free some space and run the command again: it goes on.") from None


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One process at a time works in a folder; the kernel frees the lock when its holder dies."""
    if out.exists() and not out.is_dir():
        raise InvalidRequest(f"{out} is no folder.", param="out", remedy="Name a new folder.")
    if out.is_dir() and not (out / WORK).is_dir() and any(out.iterdir()):
        raise InvalidRequest(f"{out} holds other files.", param="out", remedy="Name a new folder.")
    (out / WORK).mkdir(parents=True, exist_ok=True)
    with (out / WORK / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"Another command is working in {out}.", remedy="Wait for it, or name another folder.") from None
        yield


def _begin(out: Path, settings: dict[str, Any], prompts: Sequence[Prompt], tell: Tell) -> Path:
    """The folder of this run's results, after comparing with what an earlier run was told. Raises InvalidRequest."""
    work = out / WORK
    before = _load(work / "settings.json")
    if before is not None and (changed := _differences(before, json.loads(json.dumps(settings)))):
        raise InvalidRequest(
            f"{out} was begun with other settings: {'; '.join(changed)}.",
            param="out",
            remedy=f"Name a new folder; with --answers {work / ANSWERS} the teacher is not asked again.",
        )
    hashes = sorted(hashlib.sha256(json.dumps(prompt.messages).encode()).hexdigest()[:16] for prompt in prompts)
    asked = _load(work / "prompts.json") or []
    if gone := len(set(asked) - set(hashes)):
        raise InvalidRequest(
            f"{out} was begun with other prompts: {gone} of its {len(asked)} are not among these.",
            param="prompts",
            remedy="Prompts may be added, not removed or changed. Name a new folder, or delete this one.",
        )
    save_json(work / "settings.json", settings)
    run = work / f"run-{hashlib.sha256(''.join(hashes).encode()).hexdigest()[:12]}"
    if asked and len(asked) < len(hashes):
        tell(f"{len(hashes) - len(asked)} prompts were added: the student is trained anew")
    save_json(work / "prompts.json", hashes)
    for other in work.glob("run-*"):
        if other != run:
            shutil.rmtree(other)
    run.mkdir(exist_ok=True)
    return run


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [line for key in keys for line in _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)]
    return [] if before == now else [f"{name} was {before}, is {now}"]


def _load(path: Path) -> Any:
    """A JSON file, None where there is none."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise StorageFailed(f"{path} is damaged.", remedy="Delete the file if you are sure of the settings, or name a new folder.") from None


def _prepare(
    prompts: Sequence[Prompt], teacher: Teacher, out: Path, run: Path, shape: Shape, settings: dict[str, Any], at_once: int, tell: Tell
) -> None:
    """Phases collect, clean, split and vocabulary: run/tokenizer.json and run/data.json."""
    found = collect(prompts, teacher, out / WORK / ANSWERS, lambda done, all_: tell(f"collect {done} of {all_}"), at_once=at_once)
    # A token holds a word or less: what has more words than the context has tokens cannot fit.
    kept, left_out = clean(found, longest_tokens=shape.context, keep_refusals=settings["keep_refusals"])
    tell(f"clean: {len(kept)} of {len(prompts)} kept{''.join(f', {count} {reason}' for reason, count in sorted(left_out.items()))}")
    left_out["not_answered"] = len(prompts) - len(found)
    share, seed = settings["held_out_share"], settings["recipe"]["seed"]
    trained, held_out = split(kept, share, seed)
    tell(f"split: {len(trained)} to train on, {len(held_out)} held out")
    if len(trained) < LEAST_TRAINED or len(held_out) < LEAST_HELD_OUT:
        raise _too_few(len(kept), len(held_out), share)
    tell("vocabulary")
    tokenizer = words.learn([text for pair in trained for text in (pair.prompt.question, pair.answer)], shape.vocabulary)
    fit = [[pair for pair in part if sum(map(len, _tokens(pair.prompt.question, pair.answer, tokenizer))) <= shape.context] for part in (trained, held_out)]
    left_out["too_long"] = left_out.get("too_long", 0) + len(kept) - len(fit[0]) - len(fit[1])
    if len(fit[0]) < LEAST_TRAINED or len(fit[1]) < LEAST_HELD_OUT:
        raise InvalidRequest(
            f"Only {len(fit[0])} pairs to train on and {len(fit[1])} held out fit the context of {shape.context} tokens.",
            param="shape",
            remedy="Use a longer context or a larger vocabulary.",
        )
    write_atomically(run / "tokenizer.json", tokenizer.to_str().encode())
    rows = [[pair.prompt.row | {"answer": pair.answer} for pair in part] for part in fit]
    save_json(run / "data.json", {"left_out": {k: v for k, v in left_out.items() if v}, "trained_on": rows[0], "held_out": rows[1]})


def split(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(to train on, held out). By a hash of the question: a pair stays on its side when others come or go."""
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        drawn = hashlib.sha256(f"{seed}/{normalise(pair.prompt.question)}".encode()).digest()[:8]
        parts[int.from_bytes(drawn, "big") < share * 2**64].append(pair)
    return parts


def _too_few(pairs: int, held_out: int, share: float) -> InvalidRequest:
    return InvalidRequest(
        f"{pairs} questions with an answer are too few: with a share of {share:g}, {held_out} of them are held out; {LEAST_HELD_OUT} are needed for "
        f"that and {LEAST_TRAINED} to train on.",
        param="prompts",
        remedy="Add prompts, or change the held-out share.",
    )


def _pairs(rows: Sequence[dict[str, Any]]) -> list[Pair]:
    return [Pair(asking.from_row(row), row["answer"]) for row in rows]


def _tokens(question: str, answer: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    return tokenizer.encode(words.prompt_text(question)).ids, tokenizer.encode(answer + words.END).ids


def _train(
    run: Path, pairs: Sequence[Pair], tokenizer: Tokenizer, shape: Shape, settings: dict[str, Any], recipe: Recipe, tell: Tell
) -> dict[str, Any]:
    """Phase train: run/checkpoint.pt, then run/trained.json."""
    if done := _load(run / "trained.json"):
        return done
    torch.manual_seed(recipe.seed)
    student = Student(shape, recipe.dropout)
    parameters = sum(weight.numel() for weight in student.parameters())
    needed, free = parameters * 32, shutil.disk_usage(run).free  # two checkpoints (weights, two moments in f32) and the GGUFs
    if free < needed and not (run / "checkpoint.pt").exists():
        raise StorageFailed(f"{run} has {free // 10**6} MB free; about {needed // 10**6} MB are needed.", remedy="Free some space.")
    encoded = [_tokens(pair.prompt.question, pair.answer, tokenizer) for pair in pairs]

    def draw(rng: random.Random) -> tuple[list[int], list[int]]:
        at = rng.randrange(len(pairs))
        if not settings["noise"]:
            return encoded[at]
        noisy = _tokens(questions.disturb(pairs[at].prompt.question, rng), pairs[at].answer, tokenizer)
        return noisy if sum(map(len, noisy)) <= shape.context else encoded[at]

    stopping = threading.Event()

    def told(step: int, steps: int, loss: float) -> None:
        if stopping.is_set():
            raise InterruptedError("The training was stopped.")
        if step % 20 == 0 or step == steps:
            tell(f"train {step} of {steps}, loss {loss:.4f}")

    tell(f"train: {parameters} parameters")
    _check_checkpoint(run / "checkpoint.pt")
    # In a thread of its own: torch takes the CPU's AMX tiles, which are a thread's own, and llama.cpp sets them up but once in a
    # thread. In one and the same, the first thing llama.cpp computes after that is an illegal instruction.
    with ThreadPoolExecutor(1, thread_name_prefix="training") as pool:
        training = pool.submit(train, student, draw, recipe, run, told)
        try:
            loss = training.result()
        except BaseException:
            stopping.set()
            raise
    # Killed behind its last step, it has no losses to tell of.
    save_json(run / "trained.json", {"parameters": parameters, "loss": loss or None})
    return {"parameters": parameters, "loss": loss or None}


def _check_checkpoint(path: Path) -> None:
    if path.exists():
        try:
            torch.load(path, weights_only=True)
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            raise ModelFileError(f"The checkpoint {path} is damaged.", remedy="Delete it: the training begins anew.") from None


def _files(run: Path, shape: Shape, tokenizer: Tokenizer, settings: dict[str, Any], recipe: Recipe, tell: Tell) -> list[Path]:
    """Phases export and quantize: one GGUF for each of KINDS, the f16 one first."""
    files = [run / f"{settings['name']}-{kind.lower()}.gguf" for kind in KINDS]
    if not files[0].exists():
        tell("export")
        student = Student(shape)
        student.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True)["weights"])
        export_gguf.export(student, tokenizer, files[0], settings["name"], settings["licence"])
    for kind, file in zip(KINDS[1:], files[1:], strict=True):
        if not file.exists():
            tell(f"quantize {kind}")
            quantize(files[0], file, kind)
    return files


def _judge(
    file: Path, reference: Path, held_out: Sequence[Pair], trained: Sequence[Pair], shape: Shape, threads: int | None, tell: Tell
) -> dict[str, Any]:
    """Phase judge, one file: its figures, kept in a JSON file beside it."""
    kept = file.with_suffix(".json")
    figures = _load(kept)
    if figures is None:
        tell(f"judge {file.name}")
        backends = [evaluate.load(path, shape.context, threads) for path in (file, reference)]
        try:
            figures = judging.judge(*backends, held_out, trained, lambda done, all_: tell(f"judge {file.name} {done} of {all_}"))
        finally:
            for backend in backends:
                backend.close()
        figures["size_bytes"] = file.stat().st_size
        save_json(kept, figures)
    return figures


def _gate(
    out: Path, files: Sequence[Path], figures: dict[str, dict[str, Any]], report: dict[str, Any],
    limits: Limits, min_match: float | None, load: Callable[[Path], LlamaBackend], tell: Tell,
) -> dict[str, Any]:  # fmt: skip
    """Phase gate: the smallest file that passes goes to `out` with its papers. Raises InvalidRequest when none does."""
    tell("gate")
    report |= clear(out)
    judged: dict[Path, tuple[Measured, list[Verdict]]] = {}
    for file in sorted(files, key=lambda file: file.stat().st_size):
        row = figures[file.name]
        measured = Measured(row["perplexity_rise"], row["kl"], row["top1"], row["tokens_per_s_1"], _golden(file, limits, load))
        verdicts = certify.judge(limits, measured)
        verdicts += match_verdict(row, min_match)
        judged[file] = measured, verdicts
        report["files"][file.name] = row | {"verdicts": [asdict(verdict) for verdict in verdicts]}
    passed = [file for file, (_, verdicts) in judged.items() if all(verdict.passed for verdict in verdicts)]
    if not passed:
        save_json(out / REPORT, report)
        failed = "; ".join(
            f"{file.name}: {v.name} is {v.measured}, the limit is {v.limit}" for file, (_, verdicts) in judged.items() for v in verdicts if not v.passed
        )
        raise InvalidRequest(
            f"No file passes the limits: {failed}. The figures are in {out / REPORT}.",
            remedy="Add prompts, train a larger student or for longer (in a new folder), or change the limits and run the command again.",
        )
    report["chosen"] = passed[0].name
    place(out, [passed[0]], *judged[passed[0]], report)
    return report


def _golden(file: Path, limits: Limits, load: Callable[[Path], LlamaBackend]) -> tuple[str, ...]:
    if not limits.golden:
        return ()
    backend = load(file)
    try:
        return tuple(generate(backend, Prompt(golden.prompt)).text for golden in limits.golden)
    finally:
        backend.close()


def _labels(
    out: Path, run: Path, trained: Sequence[Pair], held_out: Sequence[Pair], shape: Shape, recipe: Recipe, report: dict[str, Any],
    limits: Limits, min_match: float | None, threads: int, tell: Tell,
) -> dict[str, Any]:  # fmt: skip
    """The phases from train on for an encoder with a classification head."""
    from appliance.factory import classifier, convert_onnx

    def told(step: int, steps: int, loss: float) -> None:
        if step % 20 == 0 or step == steps:
            tell(f"train {step} of {steps}, loss {loss:.4f}")

    report["labels"] = list(classifier.labels_of(trained).values())
    _check_checkpoint(run / "checkpoint.pt")
    checkpoint = classifier.train(run, trained, shape, recipe, report["noise"], told)
    folder = run / "onnx"
    if not folder.exists():
        tell("export")
        convert_onnx.convert(checkpoint, folder, task="text-classification")
    figures = _load(run / "judged.json")
    if figures is None:
        tell("judge model.onnx")
        figures = classifier.judge(folder, held_out, trained, threads)
        save_json(run / "judged.json", figures)
    tell("gate")
    report |= clear(out)
    golden, _ = classifier.answers(folder, [golden.prompt for golden in limits.golden], threads)
    measured = Measured(None, None, None, 0.0, tuple(golden))  # it makes no tokens
    verdicts = [*certify.judge(limits, measured), *match_verdict(figures, min_match)]
    report["files"]["model.onnx"] = figures | {"verdicts": [asdict(verdict) for verdict in verdicts]}
    if failed := "; ".join(f"{v.name} is {v.measured}, the limit is {v.limit}" for v in verdicts if not v.passed):
        save_json(out / REPORT, report)
        raise InvalidRequest(f"The model does not pass: {failed}. The figures are in {out / REPORT}.", remedy="Add prompts, or change the limits.")
    report["chosen"] = "model.onnx"
    place(out, [folder / "model.onnx", *(path for path in sorted(folder.iterdir()) if path.name != "model.onnx")], measured, verdicts, report)
    return report


def run(given: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """`distil` with what distil_flags.arguments declares; returns the report. Raises ApplianceError."""
    if given["threads"]:
        torch.set_num_threads(given["threads"])
    shape, recipe = (kind(**{key: given[key] for key in asdict(kind()) if key in given}) for kind in (Shape, Recipe))
    limits = certify.read_limits(given["limits"]) if given["limits"] else None
    prompts = asking.read(given["prompts"])
    teacher: Teacher
    if given["answers"]:
        teacher = FileTeacher(given["answers"])
    elif "://" in given["teacher"]:
        teacher = HttpTeacher(given["teacher"], given["model"], key_env=given["key_env"], timeout_s=given["timeout"])
    else:
        teacher = GgufTeacher(Path(given["teacher"]))
    return distil(
        prompts, teacher, given["out"], kind=given["kind"], shape=shape, recipe=recipe, held_out_share=given["held_out"], limits=limits,
        min_match=given["min_match"], name=given["name"], threads=given["threads"], licence=given["licence"], at_once=given["at_once"],
        noise=given["noise"], tell=tell,
    )  # fmt: skip


def lines(report: dict[str, Any]) -> list[str]:
    """A report in a few lines for people."""
    files = [f"{file}: {row['match']:.1%} of {row['questions']} as the teacher, {row['size_bytes']} bytes" for file, row in report["files"].items()]
    return [*files, f"chosen: {report['chosen']}"]


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    distil_flags.arguments(parser)
    try:
        report = run(vars(parser.parse_args()), lambda line: print(line, file=sys.stderr, flush=True))
    except ApplianceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("\n".join(lines(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
