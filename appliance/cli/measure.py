"""`appliance models eval` and `certify`: what models are worth, side by side, and whether one may be used."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from appliance import catalog, integrity, manifest
from appliance.cli.progress import Bar
from appliance.cli.workbench import (
    Share,
    Subject,
    check_file,
    check_folder,
    config_of,
    find,
    in_sentences,
    interruptible,
    needs,
    path,
    word,
)
from appliance.engine.topology import read_topology
from appliance.errors import ConfigError, InvalidRequest, ModelFileError
from appliance.factory import certify, prompts
from appliance.factory.certify import Limits, Measured, Verdict
from appliance.factory.convert_onnx import read_config, task_of
from appliance.gguf_header import read_header
from appliance.intake.facts import plain
from appliance.storage import write_atomically

TEXT = Path(__file__).parents[1] / "factory" / "text.txt"
GENAI = "genai_config.json"
"""Only folders that onnxruntime-genai made have it; they may lack a config.json."""
CONTEXT, LEAST_CONTEXT = 512, 88
"""Tokens of a window where none are asked for; what the measurement of speed needs."""
GENERATOR, EMBEDDER, CLASSIFIER = "text generator", "ONNX embedder", "ONNX classifier"
KINDS = {"feature-extraction": EMBEDDER, "text-classification": CLASSIFIER, "text-generation-with-past": GENERATOR}
MEASURABLE = {
    GENERATOR: ("max_perplexity_rise", "max_kl", "min_top1", "min_tokens_per_s", "golden"),
    EMBEDDER: ("min_cosine",),
    CLASSIFIER: ("min_accuracy", "golden"),
}
COMPARED = ("max_perplexity_rise", "max_kl", "min_top1", "min_cosine")
"""Limits that need a reference."""
LABELS_FORM = 'JSON Lines such as {"prompt": "The printer is on fire", "answer": "urgent"}'
Tell = Callable[[float, str], None]


def add(action: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the commands."""
    made = action("eval", run_eval, "measure models of one kind side by side: quality, size, load time, speed")
    made.add_argument("models", metavar="MODEL", nargs="+", type=word, help="a GGUF file, an ONNX folder, or a model of the catalog")
    _shared(made)
    made.add_argument("--picture", metavar="FILE.svg", type=path, help="also draw size, perplexity and speed of the text generators")
    made = action("certify", run_certify, "measure a model against limits and, when all hold, write its certificate for this processor")
    made.add_argument("model", metavar="MODEL", type=word, help="a model of the catalog, a GGUF file, or an ONNX folder")
    made.add_argument("--limits", required=True, metavar="FILE.toml", type=path, help="what the model must reach")
    _shared(made)


def _shared(made: argparse.ArgumentParser) -> None:
    made.add_argument("--reference", metavar="MODEL", type=word, help="the model to compare with, usually the one before it was quantized")
    made.add_argument("--text", metavar="FILE", type=path, help="plain text to measure on; default: one that comes with the appliance")
    made.add_argument("--context", type=int, metavar="N", help=f"tokens of a window; default: {CONTEXT}, or what the models were trained for")
    made.add_argument("--labels", metavar="FILE", type=path, help=f"for classifiers: {LABELS_FORM}")
    made.add_argument("--json", action="store_true", help="print JSON")


@in_sentences("measuring")
def run_eval(arguments: argparse.Namespace) -> int:
    """One table over all models."""
    subjects = [find(text, arguments) for text in arguments.models]
    if len({subject.name for subject in subjects}) < len(subjects):
        subjects = [replace(subject, name=text) for subject, text in zip(subjects, arguments.models, strict=True)]
    reference = find(arguments.reference, arguments) if arguments.reference else None
    kind = _one_kind([*subjects, *([reference] if reference else [])])
    _check_flags(kind, arguments)
    if arguments.picture:
        if kind != GENERATOR:
            raise InvalidRequest(f"A picture is drawn of text generators; {subjects[0].name} is an {kind}.", param="picture", remedy="Leave --picture out.")
        check_folder(arguments.picture.parent)
    text = read_text(arguments.text)
    with Share("measuring", 0) as bar:
        scores, lines = interruptible(lambda: _measure(kind, subjects, reference, text, arguments, bar.to))
    if arguments.picture:
        from appliance.factory import chart

        write_atomically(arguments.picture, chart.svg(scores).encode())
    if arguments.json:
        found = [{"model": subject.name} | score.to_json() for subject, score in zip(subjects, scores, strict=True)]
        print(json.dumps({"kind": kind, "reference": reference.name if reference else None, "models": found}, indent=2))
    else:
        print("\n".join(lines))
    return 0


def _measure(
    kind: str, subjects: Sequence[Subject], reference: Subject | None, text: str, arguments: argparse.Namespace, tell: Tell
) -> tuple[list[Any], list[str]]:
    """The score of each model, and a Markdown table over all."""
    if kind == GENERATOR:
        from appliance.factory import evaluate

        context = context_of([*subjects, *([reference] if reference else [])], arguments.context)
        scores: list[Any] = []
        for number, subject in enumerate(subjects):

            def told(_: str, share: float, number: int = number, name: str = subject.name) -> None:
                tell((number + share) / len(subjects), name)

            tell(number / len(subjects), subject.name)
            with _computing(kind, subject):
                score = evaluate.score(subject.path, text, context=context, reference=reference.path if reference else None, tell=told)
            scores.append(replace(score, name=subject.name))
        return scores, [evaluate.table(scores), "", f"Windows of {context} tokens{f', reference {reference.name}' if reference else ''}."]
    scores = []
    for number, subject in enumerate(subjects):
        tell(number / len(subjects), subject.name)
        scores.append(score_onnx(kind, subject, reference or subject, text, arguments))
    names = [subject.name for subject in subjects]
    return scores, [*_onnx_table(kind, names, scores, reference, bool(arguments.labels))]


@contextmanager
def _computing(kind: str, subject: Subject) -> Iterator[None]:
    """Numbers of another shape than a model of this kind gives, or needs in its config.json."""
    try:
        yield
    except (ValueError, TypeError, LookupError) as error:
        raise ModelFileError(f"{subject.name} does not compute as {_a(kind)} does: {plain(str(error))[:200]}.", remedy="Its files do not fit together: convert it again.") from None


def score_onnx(kind: str, subject: Subject, reference: Subject, text: str, arguments: argparse.Namespace) -> Any:
    """A score of factory.evaluate_onnx."""
    with _computing(kind, subject):
        return _score_onnx(kind, subject, reference, text, arguments)


def _score_onnx(kind: str, subject: Subject, reference: Subject, text: str, arguments: argparse.Namespace) -> Any:
    from appliance.factory import evaluate_onnx

    if kind == EMBEDDER:
        return evaluate_onnx.encoder(reference.path, subject.path, sentences(text))
    lines = read_labels(arguments.labels, subject) if arguments.labels else [(sentence, 0) for sentence in sentences(text)]
    if labels_of(subject) != labels_of(reference):
        raise InvalidRequest(f"{subject.name} and {reference.name} have different labels.", param="reference", remedy="Compare models of one training.")
    return evaluate_onnx.classifier(reference.path, subject.path, lines)


def _onnx_table(kind: str, names: Sequence[str], scores: Sequence[Any], reference: Subject | None, labelled: bool) -> list[str]:
    heads = {
        EMBEDDER: ("mean cosine", "lowest", "rank correlation", "sentences/s, 1 at a time", "8 at a time"),
        CLASSIFIER: ("accuracy", "agreement", "texts/s, 1 at a time", "8 at a time"),
    }
    rows = [("model", "size MB", "load s", *heads[kind])]
    for name, score in zip(names, scores, strict=True):

        def compared(value: float, form: str = ".4f") -> str:
            return format(value, form) if reference else "-"

        if kind == EMBEDDER:
            figures = (compared(score.mean_cosine), compared(score.min_cosine), compared(score.spearman))
        else:
            figures = (f"{score.accuracy:.1%}" if labelled else "-", compared(score.agreement, ".1%"))
        speeds = tuple(f"{speed.candidate:.0f}" for speed in score.speed)
        rows.append((name, f"{score.costs.candidate_bytes / 1e6:.2f}", f"{score.costs.candidate_load_s:.2f}", *figures, *speeds))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return [*lines, "", f"Reference: {reference.name}."] if reference else lines


@in_sentences("certifying")
def run_certify(arguments: argparse.Namespace) -> int:
    """Exit code 0 and a certificate when all limits hold, else 65."""
    check_file(arguments.limits, "file with limits")
    limits = certify.read_limits(arguments.limits)
    subject = find(arguments.model, arguments)
    reference = find(arguments.reference, arguments) if arguments.reference else None
    kind = _one_kind([subject, *([reference] if reference else [])])
    _check_flags(kind, arguments)
    _check_limits(kind, limits, subject, arguments)
    check_folder(subject.folder)
    _check_intact(subject, arguments)
    text = read_text(arguments.text)
    with Share(subject.name, 0) as bar:
        measured = interruptible(lambda: measure(kind, subject, reference, limits, text, arguments, bar.to))
    verdicts = certify.judge(limits, measured)
    failed = [verdict for verdict in verdicts if not verdict.passed]
    machine = read_topology()
    cpu = machine.cpu_key
    old = subject.folder / certify.CERTIFICATE
    had_one = old.exists()
    _unlist_certificate(subject)
    if failed:
        old.unlink(missing_ok=True)
    else:
        certify.write_certificate(subject.folder, subject.main, cpu, measured, verdicts, time.strftime("%Y-%m-%d", time.gmtime()))
    if arguments.json:
        rows = [asdict(verdict) for verdict in verdicts]
        print(json.dumps({"model": subject.name, "certified": not failed, "cpu": cpu, "measured": asdict(measured), "verdicts": rows}, indent=2))
    else:
        print("\n".join(_verdict_lines(verdicts)))
    if failed:
        what = "; ".join(f"{v.name} is {plain(v.measured)[:80]!r}, the limit is {v.limit!r}" for v in failed)
        withdrawn = " Its earlier certificate is withdrawn." if had_one else ""
        remedy = "Use a larger model or quantization, or change the limits."
        raise ModelFileError(f"{subject.name} fails {len(failed)} of {len(verdicts)} limits: {what}.{withdrawn}", remedy=remedy)
    if not arguments.json:
        print(f"{subject.name} is certified for {cpu}: {old}")
    return 0


def _verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    rows = [("LIMIT", "ASKED", "MEASURED", "PASSED")]
    rows += [(plain(v.name)[:60], plain(v.limit)[:40], plain(v.measured)[:60], "yes" if v.passed else "NO") for v in verdicts]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _check_limits(kind: str, limits: Limits, subject: Subject, arguments: argparse.Namespace) -> None:
    """What cannot be judged is refused before anything is measured."""
    asked = [name for name, value in asdict(limits).items() if value not in (None, ())]
    if not asked:
        raise ConfigError(f"{arguments.limits} sets no limit.", param="limits", remedy=f"For {_a(kind)} set some of {', '.join(MEASURABLE[kind])}.")
    if others := [name for name in asked if name not in MEASURABLE[kind]]:
        raise InvalidRequest(
            f"{', '.join(others)} cannot be measured of {subject.name}, {_a(kind)}.",
            param="limits",
            remedy=f"Its limits are {', '.join(MEASURABLE[kind])}.",
        )
    if not arguments.reference and (needing := [name for name in asked if name in COMPARED]):
        raise InvalidRequest(
            f"{', '.join(needing)} compares with another model.", param="reference", remedy="Name it with --reference, usually the model before it was quantized."
        )
    if "min_accuracy" in asked and not arguments.labels:
        raise InvalidRequest("min_accuracy needs lines with the right answers.", param="labels", remedy=f"Give them with --labels: {LABELS_FORM}.")


def _check_intact(subject: Subject, arguments: argparse.Namespace) -> None:
    if subject.paper is None:
        return
    with Bar(subject.name, subject.paper.size_bytes) as bar:
        integrity.check(subject.folder, subject.paper, catalog.hash_cache(config_of(arguments)), progress=bar)


def _unlist_certificate(subject: Subject) -> None:
    """A folder that was added with its certificate has it in the manifest, as a file that must not change."""
    if subject.paper and (files := tuple(file for file in subject.paper.files if file.path != certify.CERTIFICATE)) != subject.paper.files:
        manifest.save(replace(subject.paper, files=files), subject.folder)


def measure(kind: str, subject: Subject, reference: Subject | None, limits: Limits, text: str, arguments: argparse.Namespace, tell: Tell) -> Measured:
    """What the limits ask for, and no more."""
    if kind == GENERATOR:
        with _computing(kind, subject):
            return _measure_generator(subject, reference, limits, text, arguments.context, tell)
    if kind == CLASSIFIER:
        accuracy = None
        if limits.min_accuracy is not None:
            accuracy = score_onnx(kind, subject, reference or subject, text, arguments).accuracy
        return Measured(accuracy=accuracy, golden=_golden_labels(subject, [golden.prompt for golden in limits.golden]))
    score = score_onnx(kind, subject, reference or subject, text, arguments)
    return Measured(cosine=score.mean_cosine)


def _measure_generator(subject: Subject, reference: Subject | None, limits: Limits, text: str, context: int | None, tell: Tell) -> Measured:
    from appliance.factory import evaluate

    measured = Measured()
    context = context_of([subject, *([reference] if reference else [])], context)
    if reference and any(limit is not None for limit in (limits.max_perplexity_rise, limits.max_kl, limits.min_top1)):
        score = evaluate.score(subject.path, text, context=context, reference=reference.path, tell=lambda _, share: tell(share / 2, subject.name))
        measured = replace(measured, kl=score.kl, top1=score.top1, tokens_per_s=score.tokens_per_s_1)
        if limits.max_perplexity_rise is not None:
            theirs = evaluate.score(reference.path, text, context=context, tell=lambda _, share: tell((1 + share) / 2, reference.name))
            measured = replace(measured, perplexity_rise=score.perplexity / theirs.perplexity - 1)
    elif limits.min_tokens_per_s is not None:
        with evaluate.Apart(subject.path, context) as model:
            measured = replace(measured, tokens_per_s=model.call(evaluate.tokens_per_second, model.backend, 1))
    return replace(measured, golden=_golden_answers(subject, [golden.prompt for golden in limits.golden]))


def _golden_answers(subject: Subject, asked: Sequence[str]) -> tuple[str, ...]:
    if not asked:
        return ()
    from appliance.factory.teacher import REFUSED, GgufTeacher

    teacher = GgufTeacher(subject.path)
    try:
        answers = [teacher.answer(prompts.Prompt(prompt)) for prompt in asked]
    finally:
        teacher.close()
    return tuple("" if answer.finish == REFUSED else answer.text for answer in answers)


def _golden_labels(subject: Subject, asked: Sequence[str]) -> tuple[str, ...]:
    if not asked:
        return ()
    from appliance.factory.evaluate_onnx import Runner

    with _computing(CLASSIFIER, subject):
        runner, labels = Runner(subject.path), labels_of(subject)
        return tuple(labels[int(runner.classify([prompt])[0])] for prompt in asked)


# -- what is measured, and on what -----------------------------------------------------------------


def _a(kind: str) -> str:
    """With its article."""
    return f"{'a' if kind == GENERATOR else 'an'} {kind}"


def _one_kind(subjects: Sequence[Subject]) -> str:
    """The kind of all. Raises InvalidRequest where they differ, Unavailable where a library that measuring them takes is missing."""
    kinds = [kind_of(subject) for subject in subjects]
    for subject, kind in zip(subjects, kinds, strict=True):
        if kind != kinds[0]:
            first, second = (f"{s.name} is {_a(k)}" for s, k in ((subjects[0], kinds[0]), (subject, kind)))
            raise InvalidRequest(f"{first}, {second}: only models of one kind can be compared.", remedy="Measure them in two commands.")
    if any(subject.format == "onnx" for subject in subjects):
        needs("Measuring an ONNX model", "tokenizers")
    return kinds[0]


def kind_of(subject: Subject) -> str:
    """One of MEASURABLE's. Raises ModelFileError for a file that is no model, or of a kind that is not measured."""
    if subject.format == "gguf":
        read_header(subject.path)
        return GENERATOR
    if (subject.path / GENAI).exists():
        return GENERATOR
    config = read_config(subject.path)
    try:
        task = task_of(config, subject.path)
    except ModelFileError as error:
        raise ModelFileError(error.message, remedy="Only text generators, embedders and classifiers are measured.") from None
    if task not in KINDS:
        raise ModelFileError(f"{subject.name} is for {task}, which is not measured.", remedy="Only text generators, embedders and classifiers are.")
    return KINDS[task]


def _check_flags(kind: str, arguments: argparse.Namespace) -> None:
    if arguments.labels and kind != CLASSIFIER:
        raise InvalidRequest(f"--labels is for ONNX classifiers, not for {kind}s.", param="labels", remedy="Leave it out.")
    if arguments.context is not None and kind != GENERATOR:
        raise InvalidRequest(f"--context is for models that write, not for {kind}s.", param="context", remedy="Leave it out.")
    if arguments.labels:
        check_file(arguments.labels, "file with labels")


def context_of(subjects: Sequence[Subject], wanted: int | None) -> int:
    """Tokens of a window that all text generators were trained for. Raises InvalidRequest or ModelFileError."""
    trained = {subject.name: _trained_for(subject) for subject in subjects}
    name = min(trained, key=trained.__getitem__)
    longest, least = trained[name], LEAST_CONTEXT
    context = min(CONTEXT, longest) if wanted is None else wanted
    if not least <= context <= longest:
        raise InvalidRequest(
            f"Windows of {context} tokens cannot be measured: {name} was trained for {longest}, and at least {least} are needed.",
            param="context",
            remedy=f"Choose a --context from {least} to {longest}." if longest >= least else "Leave this model out.",
        )
    return context


def _trained_for(subject: Subject) -> int:
    if subject.format == "gguf":
        return read_header(subject.path).context_tokens or CONTEXT
    from appliance.engine.onnx_words import Words

    return Words(subject.path).context_tokens or CONTEXT


def read_text(file: Path | None) -> str:
    """The text to measure on. Raises ModelFileMissing or InvalidRequest."""
    if file is not None:
        check_file(file, "text")
    return prompts.text_of(file or TEXT)


def sentences(text: str) -> list[str]:
    """The different sentences of a text, in their order."""
    found = (" ".join(part.split()) for part in re.split(r"(?<=[.!?])[\"”’')]*\s+|\n\s*\n", text))
    return list(dict.fromkeys(part for part in found if re.search(r"\w", part)))


def labels_of(subject: Subject) -> list[str]:
    """The labels of a classifier by number. Raises ModelFileError."""
    found = read_config(subject.path).get("id2label")
    try:
        return [str(found[str(number)]) for number in range(len(found))]
    except (TypeError, KeyError):
        raise ModelFileError(f"{subject.path / 'config.json'} does not name the labels (id2label).", remedy="Add them.") from None


def read_labels(file: Path, subject: Subject) -> list[tuple[str, int]]:
    """(text, number of its label) of each line. Raises InvalidRequest that lists the mistakes."""
    numbers = {prompts.normalise(label): number for number, label in enumerate(labels_of(subject))}
    mistakes: list[str] = []
    found = []
    for line, prompt, row in prompts.rows(prompts.text_of(file), mistakes):
        label = row.get("answer")
        number = numbers.get(prompts.normalise(label)) if isinstance(label, str) else None
        if number is None:
            mistakes.append(f"line {line}: the answer {plain(str(label))[:60]!r} is no label of {subject.name}")
        else:
            found.append((prompt.question, number))
    if mistakes or not found:
        told = "\n".join(f"{file.name}: {mistake}" for mistake in mistakes[: prompts.MOST_MISTAKES]) or f"{file} holds no line."
        raise InvalidRequest(told, param="labels", remedy=f"Its labels are {', '.join(labels_of(subject))[:300]}; write {LABELS_FORM}.")
    return found
