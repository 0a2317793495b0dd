"""The reference of `bench.embed`: optimum's ORTModel, in a process of its own so that no two runtimes share one.

    python -m bench.ortmodel FOLDER THREADS

answers jobs on stdin, a line of JSON each. Needs the `factory` extra.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.embed_client import Run

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 3600  # of one job; a hung reference must end the run, loudly


class Reference:
    """ORTModel in a process of its own, as `serve` runs there."""

    def __init__(self, process: subprocess.Popen, scratch: Path) -> None:
        self.group_id = process.pid
        self._process, self._vectors = process, scratch / "vectors.npy"

    def embed_all(self, texts: list[str], batch: int, pause_s: float = 0.0) -> Run:
        """Embed texts in batches, in the order given."""
        job = {"texts": texts, "batch": batch, "pause_s": pause_s, "vectors": str(self._vectors)}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Run(**self.answer(), vectors=np.load(self._vectors))

    def answer(self) -> dict[str, Any]:
        """The next line it writes. Raises EOFError."""
        watchdog = threading.Timer(LIMIT_S, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise EOFError
        return json.loads(line)


@contextlib.contextmanager
def running(folder: Path, threads: int, scratch: Path) -> Iterator[Reference]:
    """Starts the reference's process and stops it. Exits with its last words when it dies. scratch: for its vectors."""
    command = [sys.executable, "-m", "bench.ortmodel", str(folder.resolve()), str(threads)]
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words,
        )  # fmt: skip
        try:
            reference = Reference(process, scratch)
            reference.answer()  # it is loaded
            yield reference
        except (EOFError, BrokenPipeError):
            process.wait()
            words.seek(0)
            raise SystemExit(f"the reference ended ({process.returncode}):\n{words.read()[-3000:].decode(errors='replace')}") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def serve(folder: Path, threads: int) -> int:
    """The reference's process: a line of JSON for each job on stdin, one for its times on stdout."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    import onnxruntime
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # numpy in and out: torch's and onnxruntime's threads would get into each other's way, and the pooling is all it could do.
    model = ORTModelForFeatureExtraction.from_pretrained(folder, session_options=options, use_io_binding=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    limit = json.loads((folder / "sentence_bert_config.json").read_text("utf-8"))["max_seq_length"]
    if not tokenizer.is_fast:
        raise SystemExit("the tokenizer is not the fast one")
    _check_pooling(folder)

    def embed(texts: list[str]) -> tuple[np.ndarray, float, int, int]:
        began = time.perf_counter()
        words = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="np")
        spent = time.perf_counter() - began
        mask = words["attention_mask"]
        states = model(**words).last_hidden_state
        sums = np.matmul(mask[:, None].astype(np.float32), states)[:, 0]
        vectors = sums / mask.sum(axis=1, keepdims=True)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float32, copy=False), spent, int(mask.sum()), mask.size

    def run(texts: list[str], batch: int, pause_s: float, vectors: str) -> dict[str, Any]:
        found, took_s = [], []
        began = time.perf_counter()
        for at in range(0, len(texts), batch):
            if pause_s:
                time.sleep(pause_s)
            sent_s = time.perf_counter()
            found.append(embed(texts[at : at + batch]))
            took_s.append(time.perf_counter() - sent_s)
        seconds = time.perf_counter() - began
        np.save(vectors, np.concatenate([part[0] for part in found]))
        tokenizer_s, tokens, computed = (sum(part[i] for part in found) for i in (1, 2, 3))
        return {"seconds": seconds, "took_s": took_s, "tokenizer_s": tokenizer_s, "tokens": tokens, "computed": computed}

    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), file=answers, flush=True)
    return 0


def _check_pooling(folder: Path) -> None:
    path = folder / "1_Pooling" / "config.json"
    ways = {key for key, value in json.loads(path.read_text("utf-8")).items() if key.startswith("pooling_mode_") and value is True}
    if ways != {"pooling_mode_mean_tokens"}:
        raise SystemExit(f"the reference pools by the mean only, {path} asks for {ways}")


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1]), int(sys.argv[2])))
