"""Distilling end to end: a teacher over real HTTP that misbehaves, kills in every phase, and what comes out of it."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from fakes import ROOT

from appliance import manifest
from appliance.errors import AuthenticationFailed, InvalidRequest, StorageFailed, Unavailable
from appliance.factory import certify, distil, judge
from appliance.factory.prompts import Prompt
from appliance.factory.student import Recipe, Shape
from appliance.factory.teacher import Answer, FileTeacher, GgufTeacher, HttpTeacher, Pair, clean, collect, is_loop
from appliance.intake import local

ITEMS = {"alpha": "red", "beta": "green", "gamma": "blue", "delta": "white", "omega": "black", "sigma": "pink", "kappa": "grey", "theta": "brown"}
FORMS = ("What colour is item {}?", "Tell me the colour of item {}.", "item {}: which colour?", "I need the colour of item {}", "Which colour has {}?")
ANSWERS = {form.format(item): f"Item {item} is {colour}." for item, colour in ITEMS.items() for form in FORMS}
PROMPTS = [Prompt(question) for question in ANSWERS]
SHAPE = Shape(vocabulary=360, hidden=64, layers=2, heads=2, kv_heads=1, ffn=128, context=96)
RECIPE = Recipe(steps=200, batch=16, learning_rate=5e-3, warmup=10, dropout=0.0, save_every=20)
FLAGS = {"vocabulary": 360, "hidden": 64, "layers": 2, "heads": 2, "kv-heads": 1, "ffn": 128, "context": 96, "steps": 200, "batch": 16}
FLAGS |= {"learning-rate": 5e-3, "warmup": 10, "dropout": 0, "save-every": 20, "held-out": 0.2, "threads": 1, "min-match": 0.2}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take ages where others compute, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- a teacher over HTTP -----------------------------------------------------------------------------------------------


@dataclass
class Served:
    """A server in OpenAI's shape. misdeeds: what it does to the next requests instead of answering."""

    address: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    misdeeds: deque[str] = field(default_factory=deque)
    special: dict[str, tuple[int, dict]] = field(default_factory=dict)
    heads: list[dict[str, str]] = field(default_factory=list)
    delay_s: float = 0.0


@contextmanager
def serving() -> Iterator[Served]:
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["messages"][-1]["content"]
            served.heads.append(dict(self.headers))
            served.asked[question] += 1
            time.sleep(served.delay_s)
            misdeed = served.misdeeds.popleft() if served.misdeeds else ""
            if misdeed == "slow":
                time.sleep(0.6)
            if misdeed == "429":
                self.reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"})
            elif misdeed == "500":
                self.reply(500, {"error": "out of order"})
            elif misdeed == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [{"message": {"content": "Item')
            elif misdeed == "reset":
                self.connection.shutdown(socket.SHUT_RDWR)
            elif misdeed == "garbage":
                self.reply(200, {"choices": []})
            elif question in served.special:
                self.reply(*served.special[question])
            else:
                self.reply(200, {"choices": [{"message": {"role": "assistant", "content": ANSWERS[question]}, "finish_reason": "stop"}]})

        def reply(self, status: int, values: dict, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(values).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(data)
            except OSError:
                pass  # it did not want to wait

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def http(served: Served, **how) -> HttpTeacher:
    return HttpTeacher(served.address, "big", **({"backoff_s": 0.01, "timeout_s": 5.0} | how))


def test_every_answer_comes_in_spite_of_limits_errors_and_cut_connections(tmp_path):
    with serving() as served:
        served.misdeeds.extend(["429", "500", "cut", "reset", "garbage", "slow"])
        began = time.monotonic()
        pairs = collect(PROMPTS[:8], http(served, timeout_s=0.4), tmp_path / "a.jsonl", at_once=3)
    assert [(p.prompt, p.answer, p.finish) for p in pairs] == [(p, ANSWERS[p.question], "stop") for p in PROMPTS[:8]]
    assert time.monotonic() - began >= 1.0, "Retry-After was kept"
    assert served.asked.total() >= 8 + 6
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 8


def test_a_teacher_that_is_gone_is_told_after_some_tries_and_what_was_collected_stays(tmp_path):
    with serving() as served:
        collect(PROMPTS[:5], http(served), tmp_path / "a.jsonl")
    with pytest.raises(Unavailable) as raised:
        collect(PROMPTS[:8], http(served, retries=2), tmp_path / "a.jsonl")
    assert "does not answer after 3 tries" in str(raised.value) and "5 answers are in" in str(raised.value)
    with serving() as again:
        assert len(collect(PROMPTS[:8], http(again), tmp_path / "a.jsonl")) == 8
    assert set(again.asked) == {p.question for p in PROMPTS[5:8]}


def test_a_key_is_sent_and_one_that_is_refused_or_missing_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHERS_KEY", "secret\n")
    with serving() as served:
        http(served, key_env="TEACHERS_KEY").answer(PROMPTS[0])
        assert served.heads[0]["Authorization"] == "Bearer secret"
        served.special[PROMPTS[1].question] = 401, {"error": {"message": "no such key"}}
        with pytest.raises(AuthenticationFailed) as raised:
            collect(PROMPTS[1:2], http(served), tmp_path / "a.jsonl")
        assert "no such key" in str(raised.value) and served.asked[PROMPTS[1].question] == 1
        served.special[PROMPTS[1].question] = 404, {"error": {"message": "no model big"}}
        with pytest.raises(InvalidRequest, match="no model big"):
            http(served).answer(PROMPTS[1])
    with pytest.raises(InvalidRequest, match="OTHER_KEY holds no API key"):
        HttpTeacher("http://127.0.0.1:1/v1", "big", key_env="OTHER_KEY")
    with pytest.raises(InvalidRequest, match="no address of a teacher"):
        HttpTeacher("127.0.0.1:1", "big")


def test_one_prompt_that_is_refused_is_left_out_and_all_of_them_are_an_error(tmp_path):
    with serving() as served:
        served.special[PROMPTS[0].question] = 400, {"error": {"message": "too long"}}
        pairs = collect(PROMPTS[:3], http(served), tmp_path / "a.jsonl")
        assert [p.prompt for p in pairs] == PROMPTS[1:3]
        with pytest.raises(InvalidRequest, match="answers none of the first 1 prompts.*too long"):
            collect(PROMPTS[:1], http(served), tmp_path / "b.jsonl")


# -- the file of answers ------------------------------------------------------------------------------------------------


def answers_file(folder: Path, answers: dict[str, str] | None = None) -> Path:
    path = folder / "given.jsonl"
    path.write_text("".join(json.dumps({"prompt": q, "answer": a}) + "\n" for q, a in (answers or ANSWERS).items()))
    return path


def test_a_torn_last_line_is_repaired_and_a_broken_one_in_the_middle_is_told(tmp_path):
    path, teacher = tmp_path / "a.jsonl", FileTeacher(answers_file(tmp_path))
    collect(PROMPTS[:4], teacher, path)
    whole = path.read_bytes()
    for cut in (1, 2, 30):
        path.write_bytes(whole[:-cut])
        assert len(collect(PROMPTS[:4], teacher, path)) == 4
        assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
    path.write_bytes(whole.replace(b'"answer"', b'"anwser"', 1))
    with pytest.raises(InvalidRequest, match="line 1: no answer"):
        collect(PROMPTS[:4], teacher, path)


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """What a full disk does to a file that grows."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_no_answer_that_fitted_is_lost(tmp_path):
    path, teacher = tmp_path / "a.jsonl", FileTeacher(answers_file(tmp_path))
    with files_no_larger_than(1000), pytest.raises(StorageFailed) as raised:
        collect(PROMPTS, teacher, path)
    lines = path.read_text().splitlines()
    assert "Free some space" in str(raised.value) and f"{len(lines)} answers are in" in str(raised.value)
    assert 5 < len(lines) < 20 and all(json.loads(line)["answer"] for line in lines)
    assert len(collect(PROMPTS, teacher, path)) == len(PROMPTS)
    assert path.read_text().splitlines()[: len(lines)] == lines


def test_answers_that_teach_nothing_are_left_out_by_reason():
    def pair(question: str, answer: str, finish: str = "stop") -> Pair:
        return Pair(Prompt(question), answer, finish)

    good = [pair("a", "Yes."), pair("b", "<think>Hm.</think>\nSorry sights are listed here."), pair("c", "I can't stand rain, says the poem.")]
    bad = {
        "duplicate": [pair("A?", "No.")],
        "empty": [pair("d", " \n")],
        "cut_off": [pair("e", "It is", "length"), pair("f", "<think>Hm.")],
        "too_long": [pair("g", "word " * 60)],
        "control_tokens": [pair("h", "Yes.<|im_end|>")],
        "refusal": [pair("i", "I’m sorry, but I can’t help with that."), pair("j", "As an AI language model, I have no colour.")],
        "loop": [pair("k", "It is " + "very " * 20), pair("l", "Press the red key. " * 5)],
    }
    kept, counts = clean([*good, *(p for some in bad.values() for p in some)], longest_tokens=50)
    assert [p.prompt.question for p in kept] == ["a", "b", "c"] and kept[1].answer == "Sorry sights are listed here."
    assert counts == {reason: len(some) for reason, some in bad.items()}
    assert len(clean(bad["refusal"], longest_tokens=50, keep_refusals=True)[0]) == 2
    assert not is_loop("One is red, two is blue, three is red, four is blue, five is red, six is blue.")


def test_the_softer_figure_counts_words():
    assert judge.f1("It is red.", "it is RED") == 1.0 and judge.f1("", "red") == 0.0
    assert judge.f1("it is red", "it is blue") == pytest.approx(2 / 3)


# -- the whole way ------------------------------------------------------------------------------------------------------


def run(served: Served, folder: Path, kill_at: str = "", before_kill: Callable[[], None] = lambda: None, **flags) -> tuple[int, list[str]]:
    """Run the command; kill -9 it at the first line on stderr that begins so. Returns its status and lines."""
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(ANSWERS))
    words = [w for flag, value in (FLAGS | flags).items() for w in (f"--{flag}", str(value))]
    command = [sys.executable, "-m", "appliance.factory.distil", str(prompts), str(folder / "out"), "--teacher", served.address, "--model", "big", *words]
    lines = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}) as child:
        for line in child.stderr:
            lines.append(line.rstrip())
            if kill_at and line.startswith(kill_at):
                before_kill()
                child.send_signal(signal.SIGKILL)
                break
        child.stderr.read()
    return child.returncode, lines


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict:
    """A student made by four processes, of which three were killed."""
    folder = tmp_path_factory.mktemp("distil")
    kept = folder / "out" / "work" / "answers.jsonl"
    with serving() as served:
        served.delay_s = 0.02
        found = {"folder": folder, "out": folder / "out", "runs": []}
        for phase in ("collect 12 ", "train 60 ", "judge student-f16.gguf", ""):
            found["runs"].append(run(served, folder, phase, name="student"))
            found.setdefault("first_answers", [json.loads(line)["prompt"] for line in kept.read_text().splitlines()])
    found["asked"], found["report"] = served.asked, json.loads((found["out"] / "report.json").read_text())
    return found


def test_a_run_that_is_killed_in_each_phase_goes_on_and_asks_nothing_twice(made):
    assert [status for status, _ in made["runs"]] == [-9, -9, -9, 0]
    assert 12 <= len(made["first_answers"]) < len(PROMPTS)
    assert all(made["asked"][question] == 1 for question in made["first_answers"])
    assert set(made["asked"]) == set(ANSWERS) and made["asked"].total() <= len(ANSWERS) + 4, "only what was under way is asked again"
    _, second, third, fourth = [lines for _, lines in made["runs"]]
    assert second[0].startswith("collect ") and int(second[0].split()[1]) >= 12
    trained = [int(line.split()[1]) for line in third if line.startswith("train ")]
    assert not any(line.startswith("collect") for line in third) and trained[0] >= 60 and trained[-1] == 200
    assert not any(line.startswith(("collect", "train", "export", "quantize")) for line in fourth), fourth


def test_the_student_has_learned_and_the_smallest_file_that_passes_is_there_with_its_papers(made):
    report, out = made["report"], made["out"]
    sizes = {name: row["size_bytes"] for name, row in report["files"].items()}
    passed = [name for name, row in report["files"].items() if all(v["passed"] for v in row["verdicts"])]
    assert len(sizes) == 3 and report["chosen"] == min(passed, key=sizes.__getitem__)
    half = report["files"]["student-f16.gguf"]
    assert half["trained_match"] > 0.9 and half["match"] > 0.3 and half["match"] <= half["f1"] <= 1
    assert half["kl"] == pytest.approx(0, abs=1e-6) and half["top1"] == 1.0 and half["perplexity_rise"] == pytest.approx(0, abs=1e-6)
    assert report["files"]["student-q4_0.gguf"]["kl"] > 0 and half["tokens_per_s_1"] > 0 and half["questions"] == report["held_out"]
    assert report["trained_on"] + report["held_out"] == report["prompts"] == len(PROMPTS) and report["left_out"] == {}
    assert sorted(path.name for path in out.iterdir()) == sorted(["certificate.json", "manifest.toml", "report.json", report["chosen"], "work"])
    paper = manifest.read(out / "manifest.toml")
    assert certify.certified(out, paper.main.sha256, report["cpu"]) is None and paper.main.path == report["chosen"]
    offer = local.offer(str(out))
    assert offer.name == "student" and {piece.path for piece in offer.pieces} == {report["chosen"], "report.json", "certificate.json"}


def test_the_student_answers_as_a_teacher_of_its_own(made):
    teacher = GgufTeacher(made["out"] / made["report"]["chosen"], max_tokens=40)
    data = json.loads(next((made["out"] / "work").glob("run-*/data.json")).read_text())
    try:
        given = [teacher.answer(Prompt(row["prompt"])) for row in data["trained_on"]]
        assert sum(a.text == row["answer"] for a, row in zip(given, data["trained_on"], strict=True)) > 0.8 * len(given)
        assert teacher.answer(Prompt("word " * 200)).finish == "refused"
        teacher._max_tokens = 2
        assert teacher.answer(PROMPTS[0]).finish == "length"
    finally:
        teacher.close()


def test_other_settings_or_prompts_are_refused_and_other_limits_are_judged_anew(made):
    settings = {"shape": SHAPE, "recipe": RECIPE, "held_out_share": 0.2, "name": "student", "threads": 1}
    teacher = HttpTeacher("http://127.0.0.1:1/v1", "big")
    with pytest.raises(InvalidRequest, match="shape.hidden was 64, is 32.*--answers"):
        distil.distil(PROMPTS, teacher, made["out"], **(settings | {"shape": replace(SHAPE, hidden=32)}))
    with pytest.raises(InvalidRequest, match="1 of its 40 are not among these"):
        distil.distil(PROMPTS[1:], teacher, made["out"], **settings)
    with pytest.raises(InvalidRequest, match="student-q4_0.gguf: min_top1 is .* the limit is 1.5"):
        distil.distil(PROMPTS, teacher, made["out"], limits=certify.Limits(min_top1=1.5), **settings)
    assert not (made["out"] / "manifest.toml").exists() and json.loads((made["out"] / "report.json").read_text())["chosen"] is None
    golden = certify.Limits(golden=(certify.Golden(PROMPTS[0].question, "Item"),))
    report = distil.distil(PROMPTS, teacher, made["out"], limits=golden, **settings)
    assert report["chosen"] == "student-q4_0.gguf" and (made["out"] / "manifest.toml").exists()


QUICK = {"shape": SHAPE, "recipe": Recipe(steps=4, batch=4, warmup=1, save_every=2), "held_out_share": 0.2, "threads": 1}


def test_prompts_may_be_added_and_only_they_are_asked(tmp_path):
    class Counting(FileTeacher):
        asked: list[Prompt] = []

        def answer(self, prompt: Prompt) -> Answer:
            self.asked.append(prompt)
            return super().answer(prompt)

    teacher, out = Counting(answers_file(tmp_path)), tmp_path / "out"
    first = distil.distil(PROMPTS[:30], teacher, out, **QUICK)
    held_out = json.loads(next(out.glob("work/run-*/data.json")).read_text())["held_out"]
    second = distil.distil(PROMPTS, teacher, out, **QUICK)
    assert sorted(p.question for p in teacher.asked) == sorted(ANSWERS) and len(list(out.glob("work/run-*"))) == 1
    assert first["trained_on"] + first["held_out"] == 30 and second["trained_on"] + second["held_out"] == 40
    again = json.loads(next(out.glob("work/run-*/data.json")).read_text())["held_out"]
    assert all(row in again for row in held_out), "a question that was held out stays so"


def test_what_cannot_work_is_refused_before_the_teacher_is_asked(tmp_path):
    class Silent:
        name = "silent"

        def answer(self, prompt: Prompt) -> Answer:
            raise AssertionError("asked")

    def refused(prompts=PROMPTS, **how) -> str:
        with pytest.raises(InvalidRequest) as raised:
            distil.distil(prompts, Silent(), tmp_path / "out", **(QUICK | how))
        return str(raised.value)

    assert "no prompt" in refused([]) and "too few" in refused(PROMPTS[:11])
    assert "at least 259" in refused(vocabulary=100) and "between 0 and 1" in refused(held_out_share=1.0)
    assert "context of 64" in refused(shape=Shape(context=64)) and "cannot be built" in refused(shape=Shape(hidden=33))
    assert not (tmp_path / "out").exists()
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(InvalidRequest, match="holds other files"):
        distil.distil(PROMPTS, Silent(), tmp_path, **QUICK)


def test_too_few_held_out_and_a_disk_that_fills_up_while_training_are_told(tmp_path):
    teacher = FileTeacher(answers_file(tmp_path))
    with pytest.raises(InvalidRequest, match="1 of them are held out|0 of them are held out"):
        distil.distil(PROMPTS[:20], teacher, tmp_path / "few", **(QUICK | {"held_out_share": 0.01}))
    with files_no_larger_than(100_000), pytest.raises(StorageFailed, match="it goes on"):
        distil.distil(PROMPTS, teacher, tmp_path / "full", **QUICK)
    assert distil.distil(PROMPTS, teacher, tmp_path / "full", **QUICK)["chosen"]


def test_a_loss_that_is_no_number_and_a_damaged_checkpoint_are_told(tmp_path):
    teacher = FileTeacher(answers_file(tmp_path))
    with pytest.raises(InvalidRequest, match="smaller --learning-rate"):
        wild = Recipe(steps=30, batch=4, warmup=1, learning_rate=1e30, save_every=2)
        distil.distil(PROMPTS, teacher, tmp_path / "wild", **(QUICK | {"recipe": wild}))
    checkpoint = next((tmp_path / "wild").glob("work/run-*/checkpoint.pt"), None) or next((tmp_path / "wild").glob("work/run-*")) / "checkpoint.pt"
    checkpoint.write_bytes(b"PK not a zip")
    with pytest.raises(distil.ModelFileError, match="is damaged.*Delete it"):
        distil.distil(PROMPTS, teacher, tmp_path / "wild", **(QUICK | {"recipe": wild}))


def test_two_commands_do_not_work_in_one_folder(tmp_path):
    with distil._locked(tmp_path / "out"), pytest.raises(Unavailable, match="Another command"):
        distil.distil(PROMPTS, FileTeacher(answers_file(tmp_path)), tmp_path / "out", **QUICK)


def test_a_teacher_that_gives_labels_makes_an_encoder_that_gives_them_too(tmp_path):
    """Killed by an exception in the middle of its training, it goes on from its checkpoint."""
    given = {question: "warm" if answer.split()[-1][:-1] in ("red", "pink", "brown", "white") else ("Cold." if n % 5 else "cold") for n, (question, answer) in enumerate(ANSWERS.items())}
    teacher, out, steps = FileTeacher(answers_file(tmp_path, given)), tmp_path / "warmth", []
    settings = {"shape": Shape(vocabulary=360, hidden=32, layers=1, heads=2, kv_heads=2, ffn=64, context=96), "held_out_share": 0.2, "threads": 1, "kind": "labels"}
    settings["recipe"] = Recipe(steps=120, batch=16, learning_rate=5e-3, warmup=5, dropout=0.0, save_every=20)

    def tell(line: str) -> None:
        steps.append(line)
        if line.startswith("train 60 ") and steps.count(line) == 1 and "gate" not in steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil.distil(PROMPTS, teacher, out, tell=tell, **settings)
    del steps[:]
    report = distil.distil(PROMPTS, teacher, out, tell=steps.append, min_match=0.6, **settings)
    figures = report["files"]["model.onnx"]
    assert next(line for line in steps if line.startswith("train ")).startswith("train 60 ")
    assert report["labels"] == ["Cold.", "warm"] and figures["trained_match"] > 0.9 and figures["match"] >= 0.6
    paper = manifest.read(out / "manifest.toml")
    assert (paper.format, paper.task, paper.name, paper.main.path) == ("onnx", "classify", "warmth", "model.onnx")
    assert certify.certified(out, paper.main.sha256, report["cpu"]) is None and local.offer(str(out)).name == "warmth"
    with pytest.raises(InvalidRequest, match="min_match is .* the limit is 1.1"):
        distil.distil(PROMPTS, teacher, out, min_match=1.1, **settings)
    with pytest.raises(InvalidRequest, match="are no labels: 3[0-9] are different"):
        distil.distil(PROMPTS, FileTeacher(answers_file(tmp_path, {q: f"{n}" for n, q in enumerate(ANSWERS)})), tmp_path / "none", **settings)
