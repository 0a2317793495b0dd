"""Our server against llama-server: same model file, same threads, same requests, one run.

    python -m bench.serve --model FILE.gguf [--rounds 3] [--scenario throughput ...] [--clients 1,4,8,16]

A round is one turn of every contestant (ours, llama-server with split and with unified KV); the
order turns around in each second round. Prints a Markdown table; --json keeps every sample. Any
failed request or wrong answer length ends the run with an error: numbers of a broken run are none.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench import load, machine, peer, report, scenarios, servers

NOISY_CORES = 0.1  # of others and the hypervisor together; more than this disturbs a scenario
SOLO_KEY = ("solo", 1, "decode tok/s")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    defaults = scenarios.Options()
    add = parser.add_argument
    add("--model", type=Path, required=True, help="GGUF file both servers load")
    add("--also", type=_named, action="append", default=[], metavar="NAME=PATH",
        help="our server once more with another form of the model, such as an ONNX folder; may be given several times")
    add("--rounds", type=int, default=3)
    add("--scenario", nargs="+", choices=scenarios.SCENARIOS, default=list(scenarios.SCENARIOS))
    add("--clients", default=",".join(map(str, defaults.clients)), help="for throughput and decode (%(default)s)")
    add("--requests", type=int, default=defaults.requests, help="per client (default %(default)s)")
    add("--sampling", choices=("greedy", "sampled"), default=defaults.sampling,
        help="temperature 0, or llama.cpp's default sampling")
    add("--stall-tokens", type=int, default=defaults.stall_tokens, help="length of the four running answers")
    add("-c", "--ctx-size", type=int, default=2048, help="tokens per request (default %(default)s)")
    add("-np", "--parallel", type=int, help="slots (default: the most clients of the scenarios)")
    add("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--only", choices=("ours", "peer"), help="measure one side")
    add("--kv", choices=("both", *servers.KV_FLAGS), default="both", help="llama-server's KV settings to try")
    add("--server-bin", type=Path, help="llama-server (default: what bench.peer built)")
    add("--bench-bin", type=Path, help="llama-bench (default: what bench.peer built)")
    add("--ours", help='command of our server (default "appliance serve"); flags are appended')
    add("--quiet-wait", type=float, default=60, metavar="S",
        help="wait up to S seconds for an idle machine before each scenario")
    add("--retries", type=int, default=2, help="repeat a scenario that other processes disturbed")
    add("--json", type=Path, help="file for all samples")
    args = parser.parse_args()
    try:
        args.clients = tuple(int(text) for text in args.clients.split(","))
    except ValueError:
        parser.error(f"--clients wants numbers with commas, not {args.clients!r}")
    if not args.model.exists():
        parser.error(f"no such model file: {args.model}")
    if args.parallel is None:
        stall = [scenarios.STALL_STREAMS + 1] if "stall" in args.scenario else []
        args.parallel = max([4, *stall, *(args.clients if {"throughput", "decode"} & set(args.scenario) else ())])
    return args


def _named(text: str) -> tuple[str, Path]:
    """For --also."""
    name, _, path = text.partition("=")
    if not name or not Path(path).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH with a path that exists")
    return name, Path(path)


def contestants(args, setup: servers.Setup, data_dir: Path) -> list[servers.Contestant]:
    """Who takes part, ours first."""
    found = []
    if args.only != "peer":
        found.append(servers.ours(args.ours, setup, data_dir))
        for name, path in args.also:
            found.append(servers.ours(args.ours, replace(setup, model=path), data_dir, f"{report.OURS} {name}"))
    if args.only != "ours":
        binary = servers.llama_server_binary(args.server_bin)
        kinds = servers.KV_FLAGS if args.kv == "both" else [args.kv]
        found += [servers.llama_server(binary, kv, setup) for kv in kinds]
    return found


def llama_bench(args) -> float:
    """llama-bench's decode tokens/s (-p 0 -n 128), the engine alone without a server."""
    built = peer.tool_paths()
    binary = args.bench_bin or (built and built["llama-bench"])
    if not binary:
        raise SystemExit("no llama-bench: run `python -m bench.peer` first, or give --bench-bin")
    machine.wait_until_idle(args.quiet_wait)
    done = subprocess.run(
        [str(binary), "-m", str(args.model), "-t", str(args.threads),
         "-p", "0", "-n", "128", "-r", "2", "-o", "json"],
        capture_output=True, text=True, check=True,
    )
    return max(json.loads(done.stdout)[0]["samples_ts"])


def run_scenario(name, contestant, server, args, options, round_: int) -> tuple[scenarios.Values, dict]:
    """One scenario, again (with new prompts) when others disturbed it; the least disturbed attempt counts."""
    attempts = []
    for attempt in range(1 + args.retries):
        machine.wait_until_idle(args.quiet_wait)
        with machine.CpuShare(server.group_id) as share:
            values = asyncio.run(scenarios.SCENARIOS[name](server, options, f"{round_}.{attempt}"))
        noise = share.others + share.steal
        attempts.append((noise, values, share.as_dict()))
        print(f"bench: round {round_} {contestant.name} {name}: cores used: server {share.server:.2f}, "
              f"client {share.client:.2f}, others {share.others:.2f}, stolen {share.steal:.2f}",
              file=sys.stderr)
        if noise < NOISY_CORES:
            break
    _, values, share = min(attempts, key=lambda found: found[0])
    return values, {"round": round_, "contestant": contestant.name, "scenario": name,
                    "attempts": len(attempts), **share}


def take_turn(contestant, args, options, round_: int) -> tuple[scenarios.Values, list[dict]]:
    """Start, warm up, run the scenarios, stop. Returns values and who used the CPU meanwhile."""
    values, shares = {}, []
    with servers.running(contestant) as server:
        asyncio.run(scenarios.warm_up(server, options, args.parallel))
        for name in args.scenario:
            found, share = run_scenario(name, contestant, server, args, options, round_)
            values |= found
            shares.append(share)
    return values, shares


def measure(args, options, field) -> tuple[report.Samples, list[dict]]:
    """All rounds, alternating; a failed request names its server and ends the run."""
    samples: report.Samples = {}
    shares = []
    for round_ in range(1, args.rounds + 1):
        for contestant in field if round_ % 2 else reversed(field):
            try:
                values, more = take_turn(contestant, args, options, round_)
            except* load.RequestFailed as group:
                reason = group.exceptions[0]
                raise SystemExit(f"bench: {contestant.name}, round {round_}: {reason!r}") from None
            shares += more
            for key, value in values.items():
                samples.setdefault(contestant.name, {}).setdefault(key, []).append(value)
        if "solo" in args.scenario and args.only != "ours":
            samples.setdefault("llama-bench", {}).setdefault(SOLO_KEY, []).append(llama_bench(args))
    return samples, shares


def versions(args) -> dict:
    """What was compared."""
    found = {}
    if args.only != "peer":
        found["ours"] = servers.version(servers.ours_command(args.ours))
    if args.only != "ours":
        built = args.server_bin is None
        found["llama-server"] = (f"llama-cpp-python {peer.VERSION}'s vendored llama.cpp" if built
                                 else servers.version([str(args.server_bin)]))
    return found


def main() -> int:
    """Command line: measure, print the table, write JSON."""
    # A terminated bench must stop its servers too, so let SIGTERM unwind the stack.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = parse_args()
    options = scenarios.Options(clients=args.clients, requests=args.requests, sampling=args.sampling,
                                stall_tokens=args.stall_tokens)
    setup = servers.Setup(args.model, args.ctx_size, args.parallel, args.threads)
    info = machine.describe()
    with tempfile.TemporaryDirectory(prefix="bench-") as data_dir:
        field = contestants(args, setup, Path(data_dir))
        samples, shares = measure(args, options, field)
    rows = report.make_rows(samples)
    about = versions(args)
    print(f"\nMachine: {machine.line(info)}")
    print(f"Model: {args.model.name}, -t {args.threads}, -c {args.ctx_size} per request, "
          f"-np {args.parallel}, {args.sampling}, {args.requests} requests per client, {args.rounds} rounds")
    print("Versions: " + "; ".join(f"{name}: {text}" for name, text in about.items()) + "\n")
    print(report.table(rows))
    noisy = max((share["cpu_others"] + share["cpu_steal"] for share in shares), default=0)
    if noisy >= NOISY_CORES:
        print(f"\nNot alone: others or the hypervisor took up to {noisy:.2f} cores during a scenario.")
    if args.json:
        args.json.write_text(json.dumps({
            "machine": info, "versions": about, "model": args.model.name, "setup": {
                "threads": args.threads, "context": args.ctx_size, "parallel": args.parallel,
                "sampling": args.sampling, "requests_per_client": args.requests, "rounds": args.rounds},
            "commands": {c.name: c.command for c in field},
            "rows": [row.as_dict() for row in rows],
            "samples": [{"contestant": name, "scenario": k[0], "clients": k[1], "metric": k[2], "values": v}
                        for name, found in samples.items() for k, v in found.items()],
            "cpu": shares,
        }, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
