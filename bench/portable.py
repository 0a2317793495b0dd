"""llama.cpp built for every CPU against llama.cpp built for this one: `python -m bench.portable --model m.gguf`.

Both are asked in turns, each time in a fresh process: how fast they read a prompt and write, alone and for four. With qemu-user installed,
the portable one also runs on an emulated CPU of 2008, where a single instruction that it lacks would end it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from appliance.bundle import wheels
from bench import machine

CHILD = """
import ctypes, json, sys, time
from appliance.engine import llama_library
kind = llama_library.prepare()
import llama_cpp as lib
path, threads, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params = lib.llama_model_default_params(); params.n_gpu_layers = 0
model = lib.llama_model_load_from_file(path.encode(), params)
settings = lib.llama_context_default_params()
settings.n_ctx, settings.n_seq_max, settings.n_threads, settings.n_threads_batch, settings.kv_unified = 4096, 4, threads, threads, True
context = lib.llama_init_from_model(model, settings)
batch = lib.llama_batch_init(512, 0, 4)
def step(rows):
    batch.n_tokens = len(rows)
    for at, (token, place, row) in enumerate(rows):
        batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = token, place, 1, at == len(rows) - 1
        batch.seq_id[at][0] = row
    assert lib.llama_decode(context, batch) == 0
    lib.llama_synchronize(context)
def timed(work):
    began = time.perf_counter(); work(); return time.perf_counter() - began
prompt = min(512, tokens * 4)
step([(5, 0, 0)])
lib.llama_memory_clear(lib.llama_get_memory(context), True)
found = {"kind": kind, "prompt": prompt / timed(lambda: step([(5 + at % 90, at, 0) for at in range(prompt)]))}
for many in (1, 4):
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    step([(5, 0, row) for row in range(many)])
    found[f"write {many}"] = many * tokens / timed(lambda: [step([(7, 1 + at, row) for row in range(many)]) for at in range(tokens)])
print(json.dumps(found))
"""
OLD_CPU = "Nehalem"


def run(folder: Path, model: Path, threads: int, tokens: int, before: tuple[str, ...] = ()) -> dict:
    """What a fresh process measures with the library in a folder."""
    done = subprocess.run(
        [*before, sys.executable, "-c", CHILD, str(model), str(threads), str(tokens)], cwd=Path(__file__).resolve().parents[1], env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(before)} ended with {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="GGUF file to measure with")
    parser.add_argument("--small", type=Path, default=None, help="GGUF file for the emulated CPU, a hundred times as slow (default: the starter)")
    parser.add_argument("--portable", type=Path, default=None, help="wheel (default: compiled, or taken from the cache)")
    parser.add_argument("--native", type=Path, default=None, help="wheel (default: what install.sh compiled)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    checkout, cache = Path(__file__).resolve().parents[1], wheels.wheel_cache()
    built = {
        "native": arguments.native or wheels.native_llama(cache),
        "portable": arguments.portable or wheels.portable_llama(checkout, cache, lambda words: print(words, file=sys.stderr)),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, wheel in built.items():
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(Path(scratch) / name)
        samples: dict[str, list[dict]] = {name: [] for name in built}
        for number in range(arguments.rounds):
            if not machine.wait_until_idle(60):
                print(f"round {number + 1}: somebody else computes on this machine", file=sys.stderr)
            for name in sorted(built, reverse=number % 2 == 1):
                samples[name].append(run(Path(scratch) / name, arguments.model, arguments.threads, arguments.tokens))
        old = None
        if qemu := shutil.which("qemu-x86_64"):
            small = arguments.small or checkout / "models/starter/starter.gguf"
            old = run(Path(scratch) / "portable", small, 1, 8, (qemu, "-cpu", OLD_CPU))
    rows = {
        what: {
            "native": statistics.median(one[what] for one in samples["native"]),
            "portable": statistics.median(one[what] for one in samples["portable"]),
            "ratio": statistics.median(a[what] / b[what] for a, b in zip(samples["portable"], samples["native"], strict=True)),
        }
        for what in ("prompt", "write 1", "write 4")
    }
    print(machine.line(machine.describe()))
    print(f"kernels: {samples['portable'][0]['kind']}\n| tokens/s | native | portable | ratio, median of {arguments.rounds} pairs |\n|---|---|---|---|")
    for what, row in rows.items():
        print(f"| {what} | {row['native']:.1f} | {row['portable']:.1f} | {row['ratio']:.3f} |")
    print(f"emulated {OLD_CPU}: " + (f"runs, with the kernels for {old['kind']}" if old else "not tried, there is no qemu-x86_64 (package qemu-user)"))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "samples": samples, "old": old}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
