"""The loads. Each takes a running server and returns {(scenario, clients, metric): value}.

Prompts depend only on the round and the request's number, so all servers get the same requests in
the same order, and no prompt returns in another round.
"""

import asyncio
import math
from dataclasses import dataclass

from bench import load
from bench.servers import MODEL_NAME, Server

GREEDY = {"temperature": 0}
# llama-server's own defaults, spelled out so that both servers sample alike.
SAMPLED = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
HIGHER_IS_BETTER = {
    "output tok/s": True, "in+out tok/s": True, "decode tok/s": True,
    "TTFT p50 ms": False, "TTFT p95 ms": False, "gap p50 ms": False, "gap p95 ms": False,
    "largest gap ms": False, "newcomer TTFT ms": False,
}
STALL_STREAMS = 4

Values = dict[tuple[str, int, str], float]


@dataclass(frozen=True)
class Options:
    """What the command line may change."""

    clients: tuple[int, ...] = (1, 4, 8, 16)
    requests: int = 3  # per client
    sampling: str = "greedy"
    prompt_words: int = 96
    output_tokens: int = 64
    stall_words: int = 1400
    stall_tokens: int = 400  # of the four running streams; must outlast the newcomer's prompt

    def body(self, prompt: str, tokens: int) -> bytes:
        """A chat request with this run's sampling."""
        return load.chat_body(MODEL_NAME, prompt, tokens, GREEDY if self.sampling == "greedy" else SAMPLED)


def percentile(values: list[float], share: float) -> float:
    """Nearest-rank percentile (share 0.95 = p95); NaN of nothing (answers of one text event have no gap)."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


async def warm_up(server: Server, options: Options, clients: int) -> None:
    """Touches the weights and all slots: one request alone, then one per client at once."""
    for count in (1, clients):
        bodies = [[options.body(load.words(32, f"warm {count} {n}"), 8)] for n in range(count)]
        await load.closed_loop(server.port, bodies, 8)


def _latencies(results: list[load.Result]) -> dict[str, float]:
    """TTFT and gap percentiles in ms."""
    first = [result.ttft_s * 1e3 for result in results]
    gaps = [gap * 1e3 for result in results for gap in result.gaps_s]
    return {
        "TTFT p50 ms": percentile(first, 0.5), "TTFT p95 ms": percentile(first, 0.95),
        "gap p50 ms": percentile(gaps, 0.5), "gap p95 ms": percentile(gaps, 0.95),
    }


def _wall_s(results: list[load.Result]) -> float:
    """First request sent to last answer done."""
    return max(r.done_s for r in results) - min(r.sent_s for r in results)


async def throughput(server: Server, options: Options, round_: str) -> Values:
    """Closed loop at each client count; output tokens/s of the whole time, prompts included."""
    values = {}
    for clients in options.clients:
        bodies = [
            [options.body(load.words(options.prompt_words, f"t {round_} {clients} {c} {n}"),
                          options.output_tokens) for n in range(options.requests)]
            for c in range(clients)
        ]
        results = await load.closed_loop(server.port, bodies, options.output_tokens)
        rate = sum(r.output_tokens for r in results) / _wall_s(results)
        for metric, value in ({"output tok/s": rate} | _latencies(results)).items():
            values["throughput", clients, metric] = value
    return values


async def prefix(server: Server, options: Options, round_: str) -> Values:
    """4 clients, 256 words shared by all requests of this round + 32 own, 32 tokens out; nobody has seen
    the shared words before, so the first prompt is paid for by everybody."""
    clients, tokens = 4, 32
    shared = load.words(256, f"shared {round_}")
    bodies = [
        [options.body(f"{shared} {load.words(32, f'p {round_} {c} {n}')}", tokens)
         for n in range(options.requests)]
        for c in range(clients)
    ]
    results = await load.closed_loop(server.port, bodies, tokens)
    rate = sum(r.prompt_tokens + r.output_tokens for r in results) / _wall_s(results)
    return {
        ("prefix", clients, "in+out tok/s"): rate,
        ("prefix", clients, "TTFT p50 ms"): _latencies(results)["TTFT p50 ms"],
    }


async def stall(server: Server, options: Options, round_: str) -> Values:
    """A long prompt arrives while 4 answers stream; how long is the worst silence it causes?"""
    streams = [
        await load.open_stream(server.port, options.body(
            load.words(options.prompt_words, f"s {round_} {n}"), options.stall_tokens))
        for n in range(STALL_STREAMS)
    ]
    try:
        for stream in streams:
            await asyncio.wait_for(stream.first_text.wait(), load.TIMEOUT_S)
        await asyncio.sleep(1.0)  # all four decode steadily now
        prompt = load.words(options.stall_words, f"long {round_}")
        newcomer = await load.request(server.port, options.body(prompt, 8), 8)
        over = [n for n, stream in enumerate(streams) if stream.finished.done()]
        if over:
            for stream in streams:
                if stream.finished.done():
                    stream.finished.result()
            raise load.RequestFailed(
                f"{len(over)} of {STALL_STREAMS} streams ended before the newcomer was answered; "
                "raise --stall-tokens")
        await asyncio.sleep(0.5)
    finally:
        for stream in streams:
            stream.abandon()
    # A gap counts when it ends after the arrival: silence that began just before it belongs to it.
    gaps = [
        after - before
        for stream in streams
        for before, after in zip(stream.result.text_s, stream.result.text_s[1:], strict=False)
        if after > newcomer.sent_s
    ]
    return {
        ("stall", STALL_STREAMS + 1, "largest gap ms"): max(gaps) * 1e3,
        ("stall", STALL_STREAMS + 1, "newcomer TTFT ms"): newcomer.ttft_s * 1e3,
    }


async def solo(server: Server, options: Options, round_: str) -> Values:
    """One answer of 128 tokens after a short prompt: decode tokens/s without the prompt's time."""
    tokens, rates = 128, []
    for n in range(2):
        result = await load.request(
            server.port, options.body(load.words(8, f"solo {round_} {n}"), tokens), tokens)
        rates.append((tokens - 1) / (result.text_s[-1] - result.text_s[0]))
    return {("solo", 1, "decode tok/s"): max(rates)}


async def decode(server: Server, options: Options, round_: str) -> Values:
    """Short prompts, 128 tokens out, all clients at once: the streams' decode tokens/s together, prompts left out."""
    values, tokens = {}, 128
    for clients in options.clients:
        bodies = [[options.body(load.words(8, f"decode {round_} {clients} {n}"), tokens)] for n in range(clients)]
        results = await load.closed_loop(server.port, bodies, tokens)
        values["decode", clients, "decode tok/s"] = sum((tokens - 1) / (r.text_s[-1] - r.text_s[0]) for r in results)
    return values


SCENARIOS = {"throughput": throughput, "prefix": prefix, "stall": stall, "solo": solo, "decode": decode}
