"""The admin pages beside 8 answers that stream, on a box that has been used for a year: how long they take, and what they cost the streams.

The data folder is filled first: answers in the cache, a year of usage for 20 keys, one administrator. Then, in turns, 8 clients
stream without anybody looking and with the first admin page open (which asks every 2 s while something runs); at last every page
is opened again and again beside the streams.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from appliance.access.service import Access
from appliance.cache import answers
from appliance.cache.answers import NewAnswer
from appliance.cache.identity import identify
from appliance.cache.service import ANSWERS_FILE
from appliance.config import load_config
from appliance.db.writer import Writer
from appliance.engine.topology import read_topology
from appliance.fleet import Fleet
from appliance.types import ChatPrompt, GenerationRequest
from appliance.usage import FILE, HOUR_S, Amount
from appliance.usage import SCHEMA as USAGE_SCHEMA
from appliance.usage import _write as write_usage
from bench import load, machine, scenarios, servers

CLIENTS, CONTEXT = 8, 2048
PAGES = ("/admin", "/admin/api/now", "/admin/models", "/admin/answers", "/admin/jobs", "/admin/access", "/admin/settings", "/admin/system", "/help", "/")
NAME, PASSWORD = "Bench", "the bench's own password"
LOOK_EVERY_S, OPEN_EVERY_S, WRITE_S = 2.0, 0.2, 600.0
KEYS, YEAR_H = 20, 365 * 24


def fill(folder: Path, model: Path, entries: int) -> None:
    """A year's traces in a data folder."""

    def log(level: str, words: str) -> None:
        if level in ("warning", "error"):
            print(f"{level}: {words}")

    access = Access(folder, log)
    access.open()
    access.add(NAME, "admin", PASSWORD)
    access.close()
    hour, day = int(time.time() // HOUR_S), Amount(40, 1, 12, 4000, 9000, 300.0, 27, 20.0)
    with Writer(folder / FILE, USAGE_SCHEMA, precious=False, log=log) as writer:
        rows = {(hour - back, f"key {number}", "bench"): day for back in range(YEAR_H) for number in range(KEYS)}
        writer.do(lambda db: write_usage(db, rows, None), WRITE_S)
    config = load_config({"model": [str(model)], "data_dir": str(folder), "embedder": "none"}, {})
    form = Fleet(config, read_topology())._asked[model.name.removesuffix(".gguf")].form
    form.check(lambda: False)

    def known(number: int) -> NewAnswer:
        prompt = ChatPrompt(({"role": "user", "content": load.words(12, f"question {number}")},))
        who = identify(GenerationRequest("bench", "bench", (prompt,)), namespace=f"of:key {number % KEYS}", model=form.digest)
        return NewAnswer(who, "bench", json.dumps({"prompt": {"messages": prompt.messages}}), load.words(60, f"answer {number}"), 20, 80, 1.0, None)

    with Writer(folder / ANSWERS_FILE, answers.SCHEMA, precious=False, log=log) as writer:
        now = time.time()
        for start in range(0, entries, 5000):
            some = [known(number) for number in range(start, min(entries, start + 5000))]
            writer.do(lambda db, some=some: [answers.put(db, new, now) for new in some], WRITE_S)


class Browser:
    """One connection with Ann's cookie on it."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        form = urlencode({"name": NAME, "password": PASSWORD})
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
        self._connection.request("POST", "/admin/sign-in", form, headers)
        response = self._connection.getresponse()
        response.read()
        if response.status != 303:
            raise SystemExit(f"signing in was answered {response.status}")
        self._cookie = response.headers["Set-Cookie"].partition(";")[0]

    def open(self, page: str) -> float:
        """Seconds from asking to the last byte."""
        began = time.perf_counter()
        try:
            self._connection.request("GET", page, headers={"Cookie": self._cookie})
            response = self._connection.getresponse()
        except http.client.RemoteDisconnected:  # it was idle for too long; a browser opens another one
            self._connection.close()
            self._connection.request("GET", page, headers={"Cookie": self._cookie})
            response = self._connection.getresponse()
        response.read()
        if response.status != 200:
            raise SystemExit(f"{page} was answered {response.status}")
        return time.perf_counter() - began

    def close(self) -> None:
        """Leave."""
        self._connection.close()


@contextmanager
def beside(work: Callable[[], object], every_s: float) -> Iterator[None]:
    """work() again and again on a thread. Raises what it raised, at the end."""
    over, faults = threading.Event(), []

    def run() -> None:
        while not faults and not over.wait(every_s):
            try:
                work()
            except BaseException as error:
                faults.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if faults:
        raise faults[0]


def measure(server: servers.Server, rounds: int, seconds: float) -> dict:
    """Rates of the streams without and with the first page open, and the times of all pages beside them."""
    options = scenarios.Options(clients=(CLIENTS,))
    browser = Browser(server.port)

    def streams(word: str) -> float:
        return asyncio.run(scenarios.decode(server, options, word))["decode", CLIENTS, "decode tok/s"]

    streams("warm")
    rates: dict[str, list[float]] = {"alone": [], "watched": []}
    for number in range(rounds):
        for who in ("alone", "watched") if number % 2 == 0 else ("watched", "alone"):
            if who == "alone":
                rates[who].append(streams(f"{who} {number}"))
            else:
                with beside(lambda: browser.open("/admin/api/now"), LOOK_EVERY_S):
                    rates[who].append(streams(f"{who} {number}"))
    times: dict[str, list[float]] = {page: [] for page in PAGES}
    until, turn = time.perf_counter() + seconds, iter(range(10**9))

    def look() -> None:
        page = PAGES[next(turn) % len(PAGES)]
        times[page].append(browser.open(page))

    with beside(look, OPEN_EVERY_S):
        while time.perf_counter() < until:
            streams(f"pages {until - time.perf_counter()}")
    browser.close()
    ratios = [watched / alone for watched, alone in zip(rates["watched"], rates["alone"], strict=True)]
    return {
        "rates": rates, "ratio": statistics.median(ratios), "ratios": ratios,
        "pages": {page: {"n": len(found), "p50_ms": scenarios.percentile(found, 0.5) * 1e3, "p95_ms": scenarios.percentile(found, 0.95) * 1e3} for page, found in times.items()},
        "p95_ms": scenarios.percentile([one for found in times.values() for one in found], 0.95) * 1e3,
    }  # fmt: skip


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--quiet-wait", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), arguments.model, arguments.answers)
        setup = servers.Setup(arguments.model, CONTEXT, CLIENTS, 0)
        command = [word for word in servers.ours(None, setup, Path(folder)).command if word != "--no-cache"]
        if not machine.wait_until_idle(arguments.quiet_wait):
            print("the machine is not idle: read the ratio, not the times")
        with servers.running(servers.Contestant("ours", (*command, "--embedder", "none"))) as server, machine.CpuShare(server.group_id) as share:
            found = measure(server, arguments.rounds, arguments.seconds)
    found |= {"machine": machine.describe(), "cpu": share.as_dict(), "answers": arguments.answers}
    print("| page | p50 ms | p95 ms |\n|---|---|---|")
    for page, row in found["pages"].items():
        print(f"| `{page}` | {row['p50_ms']:.0f} | {row['p95_ms']:.0f} |")
    print(f"all pages: p95 {found['p95_ms']:.0f} ms; streams with the page open: {found['ratio']:.3f} of their speed ({min(found['ratios']):.3f} to {max(found['ratios']):.3f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
