"""How sure the cache must be: an administrator says how many hits may be wrong, the threshold follows from what was judged. Pure.

Before a site has judged anything, the pair verifier's own figures on pairs it never saw stand in for that: they count as
PRIOR_HITS judged hits. Every judged hit then moves the estimate, at tens of hits a day as at thousands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PRIOR_HITS = 500.0
"""What the verifier's certificate is worth against hits judged here."""
Z = 1.645
"""One-sided 95 %."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A semantic hit that was looked at again. score: the probability it was given out with."""

    score: float
    wrong: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """threshold: the least probability for a hit, None where semantic hits are off. rate, upper: of wrong hits from there on, the
    estimate and the end of its one-sided 95 % interval. judged, wrong: the hits behind it, without the verifier's own."""

    threshold: float | None
    rate: float
    upper: float
    judged: int
    wrong: int


def interval(wrong: float, judged: float, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a rate. https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval"""
    if judged <= 0:
        return 0.0, 1.0
    share = wrong / judged
    middle = share + z * z / (2 * judged)
    reach = z * math.sqrt(share * (1 - share) / judged + z * z / (4 * judged * judged))
    whole = 1 + z * z / judged
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)


def stand(hits: Iterable[Judged], prior: Mapping[float, float], budget: float) -> Standing:
    """The lowest threshold that keeps the upper bound of wrong hits inside the budget.

    prior: share of wrong hits by threshold, as measured with the verifier. budget: the share allowed; 0 switches semantic hits
    off, which no measurement can rule out.
    """
    known = list(hits)
    last = Standing(None, 1.0, 1.0, len(known), sum(hit.wrong for hit in known))
    for threshold, expected in sorted(prior.items()):
        above = [hit.wrong for hit in known if hit.score >= threshold]
        wrong, judged = sum(above) + expected * PRIOR_HITS, len(above) + PRIOR_HITS
        last = Standing(threshold, wrong / judged, interval(wrong, judged)[1], len(above), sum(above))
        if last.upper <= budget:
            return last
    return Standing(None, last.rate, last.upper, last.judged, last.wrong)
