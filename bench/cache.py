"""The answer cache: how often it is right, how fast it is, and what it saves.

    python -m bench.cache quality [--pairs FILE.jsonl.gz] [--json OUT.json]
    python -m bench.cache workload --model FILE.gguf --pairs FILE.jsonl.gz [--requests 2000] [--json OUT.json]

quality: labelled pairs by cosine alone, by the pair verifier alone, and by verifier and gates together: recall at precisions,
on the part of PAIRS that the verifier has not seen (parted as its training parted them), also as if fewer pairs were the same; and the
hand-made opposites and paraphrases of tests/cache/data at the threshold of the default budget.
workload: requests of which 35 % are exact repeats and 25 % paraphrases of earlier ones, Zipf-distributed, to a server with and
one without a cache: generations, hits by tier, latencies, CPU seconds for 1,000 requests. Prints Markdown tables.
(Speed and memory by the number of entries: bench.cache_index.)
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from appliance.cache import budget, gates
from appliance.catalog import shipped_folder
from appliance.factory.evaluate_onnx import Runner
from appliance.factory.pair_verifier import HELD_OUT, PRECISIONS
from appliance.factory.question_pairs import Labelled, part, read_pairs, recall_at
from bench import machine, servers

DATA = Path(__file__).resolve().parents[1] / "tests" / "cache" / "data"
VERIFIER, EMBEDDER = "pair-verifier-int8", "minilm-l6-int8"
BUDGET = 0.01
SHARES = (0.5, 0.37, 0.2)
"""Of pairs that are the same, for the tables."""
REPEATS, PARAPHRASES, ZIPF = 0.35, 0.25, 1.1


# -- quality -------------------------------------------------------------------------------------------------------


class Judges:
    """The two models and the gates, as the cache asks them."""

    def __init__(self, models: Path) -> None:
        self.embedder, self.verifier = Runner(models / EMBEDDER), Runner(models / VERIFIER)
        rates = json.loads((models / VERIFIER / "calibration.json").read_text("utf-8"))["wrong_hits"]
        self.prior = {float(threshold): rate for threshold, rate in rates.items()}

    def judge(self, pairs: Sequence[Labelled]) -> dict[str, np.ndarray]:
        """float [pairs] each: cosine; verifier, a probability; gated: the same, -1 where a gate refuses."""
        cosine, verifier, passed = [], [], []
        for pair in pairs:
            first, second = self.embedder.embed([pair.a])[0], self.embedder.embed([pair.b])[0]
            cosine.append(float(first @ second))
            verifier.append(1 / (1 + np.exp(-float(self.verifier.run([(pair.a, pair.b)])[0].reshape(-1)[0]))))
            passed.append(all(verdict.passed for verdict in gates.judge(pair.a, pair.b)))
        scores = np.array(verifier)
        return {"cosine": np.array(cosine), "verifier": scores, "gated": np.where(passed, scores, -1.0)}


def quality(models: Path, pairs_file: Path | None) -> dict[str, Any]:
    """All tables."""
    judges = Judges(models)
    threshold = budget.stand([], judges.prior, BUDGET).threshold
    found: dict[str, Any] = {"threshold": threshold}
    if pairs_file:
        rows = part(read_pairs(pairs_file), HELD_OUT)[1]
        scores, same = judges.judge(rows), np.array([pair.same for pair in rows])
        found["real"] = {"pairs": len(rows), "same": float(same.mean()), "recall": recalls(scores, same)}
    hand = {name: read_hand_made(DATA / f"{name}.jsonl") for name in ("opposites", "paraphrases")}
    hits = {}
    for name, rows in hand.items():
        scores = judges.judge(rows)["gated"]
        hits[name] = scores >= (2.0 if threshold is None else threshold)
        kinds = {kind: [hit for row, hit in zip(rows, hits[name], strict=True) if row.kind == kind] for kind in dict.fromkeys(row.kind for row in rows)}
        found[name] = {
            "pairs": len(rows), "hit": float(hits[name].mean()), "by_kind": {kind: float(np.mean(each)) for kind, each in kinds.items()},
            "hits": [[row.kind, row.a, row.b] for row, hit in zip(rows, hits[name], strict=True) if hit and name == "opposites"],
        }  # fmt: skip
    wrong, right = int(hits["opposites"].sum()), int(hits["paraphrases"].sum())
    found["wrong_of_hits"] = wrong / max(1, wrong + right)
    return found


def recalls(scores: dict[str, np.ndarray], same: np.ndarray) -> list[dict[str, Any]]:
    """A row for each share of the same and each way to decide. Lower shares: a part of the same is left out."""
    rows = []
    for share in SHARES:
        rng = np.random.default_rng(1)
        wanted = min(int(same.sum()), round((~same).sum() * share / (1 - share)))
        kept = np.concatenate([np.flatnonzero(~same), rng.choice(np.flatnonzero(same), wanted, replace=False)])
        for name, values in scores.items():
            rows.append({"share": share, "by": name} | {str(p): recall_at(values[kept], same[kept], p)[0] for p in PRECISIONS})
    return rows


def read_hand_made(path: Path) -> list[Labelled]:
    """Pairs of one label each file."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Labelled(row["a"], row["b"], path.stem == "paraphrases", row["kind"]) for row in rows]


def show_quality(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = []
    if "real" in found:
        real = found["real"]
        lines += [f"{real['pairs']} real pairs that the verifier has not seen, {real['same']:.0%} the same: recall at precision", ""]
        lines += ["| same | decided by | " + " | ".join(f"{p:g}" for p in PRECISIONS) + " |", "|---|---|" + "---|" * len(PRECISIONS)]
        lines += [f"| {row['share']:.0%} | {row['by']} | " + " | ".join(f"{row[str(p)]:.3f}" for p in PRECISIONS) + " |" for row in real["recall"]]
    lines += ["", f"Hand-made pairs at the threshold {found['threshold']}: {found['opposites']['hit']:.2%} of {found['opposites']['pairs']} opposites hit, "
              f"{found['paraphrases']['hit']:.1%} of {found['paraphrases']['pairs']} paraphrases; {found['wrong_of_hits']:.2%} of the hits are wrong.", ""]
    lines += ["| opposites | hit | paraphrases | hit |", "|---|---|---|---|"]
    for (kind, rate), (other, good) in zip(found["opposites"]["by_kind"].items(), found["paraphrases"]["by_kind"].items(), strict=False):
        lines.append(f"| {kind} | {rate:.1%} | {other} | {good:.1%} |")
    return "\n".join(lines)


# -- workload ------------------------------------------------------------------------------------------------------


def requests(pairs: Sequence[Labelled], count: int, seed: int = 1) -> list[tuple[str, str]]:
    """(kind, question): new, repeat or paraphrase of one that was asked before."""
    rng = random.Random(seed)
    phrasings: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.same:
            phrasings.setdefault(pair.a, []).append(pair.b)
    fresh = list(phrasings)
    rng.shuffle(fresh)
    asked: list[str] = []
    found: list[tuple[str, str]] = []
    while len(found) < count:
        draw = rng.random()
        if not asked or draw >= REPEATS + PARAPHRASES:
            asked.append(fresh.pop())
            found.append(("new", asked[-1]))
            continue
        rank = min(len(asked) - 1, int(rng.paretovariate(ZIPF)) - 1)
        first = asked[rank]
        found.append(("repeat", first) if draw < REPEATS else ("paraphrase", rng.choice(phrasings[first])))
    return found


def run_workload(contestant: servers.Contestant, asked: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Ask one after the other; what came from where, how long it took, and the CPU time of all its processes."""
    tiers: Counter[str] = Counter()
    by_kind: dict[str, Counter[str]] = {}
    times: dict[str, list[float]] = {}
    with servers.running(contestant) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        ask(connection, "warm up")
        time.sleep(3.0)  # the encoders that the first question has started
        ask(connection, "warm up once more")
        cpu = machine.group_cpu_s(server.pid)
        began = time.monotonic()
        for kind, question in asked:
            start = time.perf_counter()
            tier = ask(connection, question)
            times.setdefault(tier, []).append(1e3 * (time.perf_counter() - start))
            tiers[tier] += 1
            by_kind.setdefault(kind, Counter())[tier] += 1
        wall = time.monotonic() - began
        cpu = machine.group_cpu_s(server.pid) - cpu
        connection.close()
    generated = sum(count for tier, count in tiers.items() if tier in ("miss", "bypass"))
    return {
        "generations": generated, "share": generated / len(asked), "tiers": dict(tiers), "by_kind": {kind: dict(row) for kind, row in by_kind.items()},
        "p50_ms": {tier: float(np.median(row)) for tier, row in times.items()}, "p95_ms": {tier: float(np.percentile(row, 95)) for tier, row in times.items()},
        "cpu_s_per_1000": 1e3 * cpu / len(asked), "wall_s": wall,
    }  # fmt: skip


def ask(connection: http.client.HTTPConnection, question: str) -> str:
    """Where the answer came from."""
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    raw = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {raw.decode(errors='replace')}")
    return answer.headers.get("x-cache-tier") or answer.headers["x-cache"]


def workload(args: argparse.Namespace) -> dict[str, Any]:
    """Both sides."""
    asked = requests(part(read_pairs(args.pairs), HELD_OUT)[1 if args.held_out else 0], args.requests)
    found: dict[str, Any] = {"kinds": dict(Counter(kind for kind, _ in asked))}
    for name, flags in (("with", ()), ("without", ("--no-cache",))):
        with tempfile.TemporaryDirectory() as folder:
            command = (*servers.ours_command(args.server), "--model", str(args.model), "--data-dir", folder, *flags)
            found[name] = run_workload(servers.Contestant(name, command), asked)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def show_workload(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| cache | generations | of all | CPU s / 1,000 requests | wall s |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {found[name]['generations']} | {found[name]['share']:.1%} | {found[name]['cpu_s_per_1000']:.1f} | {found[name]['wall_s']:.0f} |"
        for name in ("with", "without")
    ]
    lines += ["", "| answered from | requests | p50 ms | p95 ms |", "|---|---|---|---|"]
    row = found["with"]
    lines += [f"| {tier} | {count} | {row['p50_ms'][tier]:.1f} | {row['p95_ms'][tier]:.1f} |" for tier, count in row["tiers"].items()]
    lines += ["", "| asked | answered from |", "|---|---|"]
    lines += [f"| {kind} | {', '.join(f'{tier} {count}' for tier, count in tiers.items())} |" for kind, tiers in row["by_kind"].items()]
    return "\n".join(lines)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    made = parts.add_parser("quality")
    made.add_argument("--pairs", type=Path, help="labelled pairs; without them only the hand-made ones")
    made.add_argument("--models", type=Path, default=shipped_folder(), help="folder with both models")
    made.add_argument("--json", type=Path)
    made = parts.add_parser("workload")
    made.add_argument("--model", type=Path, required=True, help="GGUF file that answers, with answers that end")
    made.add_argument("--pairs", type=Path, required=True)
    made.add_argument("--requests", type=int, default=2000)
    made.add_argument("--held-out", action="store_true", help="only questions that the verifier has not seen")
    made.add_argument("--server", help="command that starts ours")
    made.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = quality(args.models, args.pairs) if args.part == "quality" else workload(args)
    print(show_quality(found) if args.part == "quality" else show_workload(found))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine.describe(), **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
