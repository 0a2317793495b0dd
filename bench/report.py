"""From samples to one Markdown table: medians, spread, and ratios taken pair by pair.

A pair is one round's two values, measured minutes apart at most; the machine's slow and fast hours
cancel in the ratio. The reference of a row is the llama-server setting with the better median.
"""

import math
import statistics
from dataclasses import dataclass

from bench.scenarios import HIGHER_IS_BETTER

OURS = "ours"
Key = tuple[str, int, str]
# samples[contestant][key] = one value per round
Samples = dict[str, dict[Key, list[float]]]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    key: Key
    ours: list[float]
    reference: list[float]
    reference_name: str
    model: str = ""  # of ours, where it is another file than the reference's

    @property
    def ratios(self) -> list[float]:
        """ours / reference, round by round."""
        return [a / b for a, b in zip(self.ours, self.reference, strict=False)]

    def as_dict(self) -> dict:
        """For JSON."""
        scenario, clients, metric = self.key
        return {
            "scenario": scenario, "clients": clients, "metric": metric,
            "higher_is_better": HIGHER_IS_BETTER[metric],
            "model": self.model, "ours": self.ours, "reference": self.reference, "reference_name": self.reference_name,
            "ratios": self.ratios, "ratio_median": statistics.median(self.ratios) if self.ratios else None,
        }


def best_reference(key: Key, samples: Samples) -> tuple[str, list[float]]:
    """The peer with the better median on this row; ('', []) when no peer ran it."""
    peers = {name: rows[key] for name, rows in samples.items() if not name.startswith(OURS) and rows.get(key)}
    if not peers:
        return "", []
    choose = max if HIGHER_IS_BETTER[key[2]] else min
    name = choose(peers, key=lambda peer: statistics.median(peers[peer]))
    return name, peers[name]


def make_rows(samples: Samples) -> list[Row]:
    """A row per measured key, in the order of measuring; llama-bench gets rows of its own."""
    keys = list(dict.fromkeys(key for rows in samples.values() for key in rows))
    rows = []
    contestants = [name for name in samples if name.startswith(OURS)] or [OURS]
    for key in keys:
        servers = {name: values for name, values in samples.items() if name != "llama-bench"}
        name, values = best_reference(key, servers)
        bench = samples.get("llama-bench", {}).get(key)
        for contestant in contestants:
            ours, model = samples.get(contestant, {}).get(key, []), contestant.removeprefix(OURS).strip()
            if name or ours:
                rows.append(Row(key, ours, values, name, model))
            if bench:
                rows.append(Row(key, ours, bench, "llama-bench", model))
    return rows


def _number(value: float) -> str:
    """Three figures or so."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _spread(values: list[float]) -> str:
    """median (min-max)"""
    if not values:
        return "-"
    return f"{_number(statistics.median(values))} ({_number(min(values))}-{_number(max(values))})"


def table(rows: list[Row]) -> str:
    """Markdown."""
    several = any(row.model for row in rows)
    heads = ["scenario", "clients", "metric", "better", *(["our model"] if several else []), "ours", "reference", "reference is", "ours / reference"]
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for row in rows:
        scenario, clients, metric = row.key
        better = "higher" if HIGHER_IS_BETTER[metric] else "lower"
        cells = [scenario, str(clients), metric, better, *([row.model or "the same"] if several else [])]
        lines.append(_line([*cells, _spread(row.ours), _spread(row.reference), row.reference_name or "-", _spread(row.ratios)]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
