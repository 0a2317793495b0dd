"""Whether two questions that look alike may share an answer: cheap lexical gates, each with a veto and a reason. Pure.

Padding is stripped and spellings are made one (5mg, 5 milligrams; don't, do not; 3 May 2024, 2024-05-03); each gate then looks at what still
differs. A gate passes where it sees nothing: it vetoes, and never vouches. Every gate treats the two questions alike and takes time
linear in their length.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from appliance.cache.lexicon import AMBIGUOUS_NAMES, CLOSED_NAMES, OPEN_NAMES, Language, fold, stem
from appliance.cache.lexicon_counterparts import OPPOSITE_PREPOSITION, Pair
from appliance.cache.lexicon_phrases import (
    BOUNDS,
    MODALS,
    NEVER_WHAT,
    ONE_SIDED,
    QUANTITY_OF,
    SAME_KIND,
    SOME_OF,
    STARTS_YES_NO,
)
from appliance.cache.lexicon_quantities import LOOSE
from appliance.cache.lexicon_reading import Reading, stripped

__all__ = ["GATES", "Verdict", "judge", "stripped"]

# Chosen on 6,000 of the labelled question pairs: with all gates 17 % of those labelled the same are vetoed and 56 % of the others.
# The weight of content words without a counterpart, the smaller of both sides' ...
SWAPPED = 1.0       # ... where the rest of the questions is word for word the same
REPLACED = 2.7      # ... plus twice the share of other words that differ
ADDED = 5.0         # and the larger of both sides', whatever the other has

_CONJUNCTIONS = frozenset("and or vs versus between und oder et ou y o e".split())
_RELATIONS = frozenset(
    "from to into than before after instead over of without for by as in per against via auf aus nach von vor als statt in zu ohne de des du vers que avant apres sans pour"
    " desde hasta a antes despues sin para por".split()
)

_ARTICLES = frozenset("the a an der die das den dem des ein eine einen einem einer eines le la les l un une du de d el los las una unos unas".split())
_FIRST = frozenset({"first"})  # "what should I learn first": left out as often as not
_SWITCHES = (("on", "off"), ("up", "down"), ("ein", "aus"), ("an", "aus"), ("auf", "zu"), ("rauf", "runter"))
_PARTICLES = frozenset({"in", "out", "on", "off", "up", "down"})

_CLOSED = frozenset({"country", "weekday", "month", "relative time"})
_US = re.compile(r"\bUS\b")
_LETTERS = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one gate says. `reason` tells in plain words what differs, and is '' where the gate passed."""

    gate: str
    passed: bool
    reason: str


def _quoted_list(words: Iterable[str]) -> str:
    return ", ".join(f"'{w[:40]}'" for w in list(words)[:4])


# -- the gates: each returns a reason, '' where it passes -----------------------------------------


def _language(p: Pair) -> str:
    a, b = p.a, p.b
    if a.script != b.script and a.script and b.script:
        return f"one is written in {a.script} letters, the other in {b.script}"
    if a.code != b.code and not (p.a.text.casefold() == p.b.text.casefold()):
        return f"one is in the language {a.code or 'unknown'}, the other in {b.code or 'unknown'}"
    if p.language is None:  # negation and order cannot be seen there: only the marks between the words may differ
        if _bare(a.text) != _bare(b.text) and sorted(_clauses(a.text)) != sorted(_clauses(b.text)):
            return "the words are not the same, and their language has no word list here"
    return ""


def _bare(text: str) -> str:
    return re.sub(r"[\s.,;:!?¿¡\"'()。、？！،؟।]+", "", text.casefold())


def _clauses(text: str) -> list[str]:
    return [part for part in (_bare(clause) for clause in re.split(r"[.,;:!?。、？！،؟।]+", text)) if part]


def _quoted(p: Pair) -> str:
    for one, other in ((p.a, p.b), (p.b, p.a)):
        if one.quoted:
            whole = f" {' '.join(_LETTERS.findall(other.text.casefold()))} "
            for span in one.quoted:
                words = " ".join(_LETTERS.findall(span.casefold()))
                if words and f" {words} " not in whole and (other.quoted or len(words.split()) == 1) and not _near(words, whole, p.code):
                    return f"only one has '{span[:60]}' in quotation marks"
    return ""


def _near(words: str, whole: str, code: str | None) -> bool:
    stems = {stem(fold(w, code), code) for w in whole.split()}
    return all(stem(fold(w, code), code) in stems for w in words.split())


def _identifiers(p: Pair) -> str:
    a, b = p.a, p.b
    if set(a.operators) != set(b.operators) and (a.operators and b.operators or set(a.operators + b.operators) - {"-", "/"}):
        return f"one reckons with {_quoted_list(a.operators) or 'nothing'}, the other with {_quoted_list(b.operators) or 'nothing'}"
    if a.operators and [i for i in a.items if i[0] == "#"] != [i for i in b.items if i[0] == "#"] and a.operators == b.operators:
        return "the numbers are reckoned in another order"
    if not (a.identifiers or b.identifiers):
        return ""
    missing = []
    for one, other, words in ((a, b, p.count_b), (b, a, p.count_a)):
        low = {i.casefold() for i in other.identifiers}
        for name in one.identifiers:
            exact = name in other.identifiers or (name.casefold() in low and not name.startswith("-"))
            missing.append("" if exact or fold(name, p.code) in words or name.casefold() in words else name)
    missing = [name for name in missing if name]
    return f"only one has {_quoted_list(sorted(missing))}" if missing else ""


def _dates(p: Pair) -> str:
    for what, one, other in (("day", p.a.days, p.b.days), ("time", p.a.times, p.b.times)):
        if not one and not other:
            continue
        left = list(other)
        for meant, shown in one:
            match = next((item for item in left if not meant.isdisjoint(item[0])), None)
            if match is None:
                return f"one says {shown}, the other {left[0][1] if left else f'no such {what}'}"
            left.remove(match)
        if left:
            return f"only one says {left[0][1]}"
    return ""


def _numbers(p: Pair) -> str:
    return _amounts(p)[0]


def _amounts(p: Pair) -> tuple[str, str]:
    """What the numbers gate and the units gate have to say."""
    if not (p.a.quantities or p.b.quantities):
        return "", ""
    common = Counter(q.key for q in p.a.quantities) & Counter(q.key for q in p.b.quantities)
    a, b = _without(p.a.quantities, common), _without(p.b.quantities, common)
    for one, other in ((a, b), (b, a)):  # 5 and 5 euros
        for q in list(one):
            match = next((o for o in other if o.digits == q.digits and not q.dimension and o.dimension in LOOSE), None)
            if match:
                one.remove(q)
                other.remove(match)
    for one, reading in ((a, p.b), (b, p.a)):  # "1 tablet" and "a tablet"; "iPhone 7/7 Plus" and "iPhone 7/Plus"
        again = {q.key for q in reading.quantities} if not set(reading.operators) - {"-"} else set()
        one[:] = [q for q in one if not (q.digits == "1" and (reading.ones or q.shown.casefold() in _FIRST)) and q.key not in again]
    if a or b:
        shown_a, shown_b = ", ".join(q.shown for q in a[:4]), ", ".join(q.shown for q in b[:4])
        if a and b:
            reason = f"one says {shown_a}, the other {shown_b}"
        else:
            reason = f"only one says {shown_a or shown_b}"
        if sorted(q.digits for q in a) == sorted(q.digits for q in b):
            return "", reason
        return reason, ""
    return "", ""


def _without(quantities: list, common: Counter) -> list:
    left, taken = [], Counter()
    for q in quantities:
        if taken[q.key] < common[q.key]:
            taken[q.key] += 1
        else:
            left.append(q)
    return left


def _units(p: Pair) -> str:
    reason = _amounts(p)[1]
    if reason:
        return reason
    one, other = p.a.units - p.b.units, p.b.units - p.a.units
    written = {q.shown.rpartition(" ")[2].casefold() for q in p.a.quantities + p.b.quantities}
    if one and other and not written & (one | other):
        return f"one is about {_quoted_list(sorted(one))}, the other about {_quoted_list(sorted(other))}"
    return ""


def _negation_count(reading: Reading, language: Language) -> int:
    plain = reading.plain
    if not language.negators.isdisjoint(reading.words):
        plain = language.idioms.sub(" ", plain)
    words = plain.split()
    if language.code == "fr":  # ne ... pas is one denial, and "personne" or "rien" deny only beside "ne"
        denied = bool({"ne", "n"} & set(words))
        words = [w for w in words if w in ("pas", "sans", "jamais", "aucun", "aucune", "non", "ni", "nul", "nulle") or (denied and w in ("rien", "personne", "guere"))]
    return sum(w in language.negators for w in words)


def _negation(p: Pair) -> str:
    language = p.language
    if language is None:
        return ""
    count_a, count_b = _negation_count(p.a, language), _negation_count(p.b, language)
    flips = [(x, y) for x, y in p.opposites() if p.contradict(x, y)]
    odd = (count_a - count_b) % 2
    soft_a, soft_b = (not language.soft_negators.isdisjoint(stems) for stems in (p.stems_a, p.stems_b))
    # "did not win" and "failed to win": the side that denies less denies in another way
    made_up = odd and soft_a != soft_b and (count_b > count_a) == soft_a
    if odd and not len(flips) % 2 and not made_up and (_meets(p.a, p.stems_b, language) or _meets(p.b, p.stems_a, language)):
        return "one asks with a denial, the other without"
    if flips and not odd:
        return f"one says '{flips[0][0]}', the other '{flips[0][1]}'"
    if count_a == count_b == 1 and p.same_content and p.a.words != p.b.words:
        scope_a, scope_b = _scope(p.a.words, language), _scope(p.b.words, language)
        if scope_a and scope_b and scope_a.isdisjoint(scope_b):
            return f"one denies {_quoted_list(sorted(scope_a))}, the other {_quoted_list(sorted(scope_b))}"
    left_a, left_b, _ = p.unexplained()
    rest = [w for w in (*left_a, *left_b) if p.weight(w) and stem(w, p.code) not in language.soft_negators]
    if soft_a != soft_b and not rest:
        stems, count = (p.stems_b, count_b) if soft_a else (p.stems_a, count_a)
        if not count and language.against.isdisjoint(stems):
            word = next(s for s in (p.stems_a if soft_a else p.stems_b) if s in language.soft_negators)
            return f"only one is about not doing it ('{word}')"
    return ""


def _meets(reading: Reading, stems: Counter, language: Language) -> bool:
    """Whether a denial is about something that the other question speaks of too; a condition of its own ("without a car") is not."""
    return any(scope.issubset(stems) or not scope.isdisjoint(stems) for scope in _scopes(reading.words, language))


def _scope(words: list[str], language: Language) -> set[str]:
    return next(iter(_scopes(words, language)), set())


def _scopes(words: list[str], language: Language) -> list[set[str]]:
    """For each denying word the stems of what it denies: the next two content words, or those before it where none follows."""
    found = []
    for at, word in enumerate(words):
        if word in language.negators:
            after = [stem(w, language.code) for w in words[at + 1:at + 6] if w not in language.stop][:2]
            found.append(set(after) or {stem(w, language.code) for w in words[max(0, at - 5):at] if w not in language.stop})
    return found


def _antonyms(p: Pair) -> str:
    for one, other in p.opposites():
        if not p.contradict(one, other):
            return f"one says '{one}', the other '{other}'"
    return ""


def _directions(p: Pair) -> str:
    """A preposition turned into its opposite beside the same word, and the two sides of a relation changed about."""
    if p.language is None or p.a.items == p.b.items:
        return ""
    beside_a, beside_b = _beside(p.a.items, p.language), _beside(p.b.items, p.language)
    for word, neighbour in beside_a:
        for opposite in OPPOSITE_PREPOSITION.get(word, ()):
            if word in _PARTICLES and neighbour[0] == ">":  # "stay in your system", "out of your system"
                continue
            if (opposite, neighbour) in beside_b and (opposite, neighbour) not in beside_a and (word, neighbour) not in beside_b:
                return f"one says '{word} {neighbour.strip('<>#')}', the other '{opposite} {neighbour.strip('<>#')}'"
    for one, other in _SWITCHES if p.same_content else ():  # "turn the lamp on", "turn off the lamp"
        if (one in p.only_a and other in p.only_b) or (other in p.only_a and one in p.only_b):
            return f"one says '{one}', the other '{other}'"
    passive = _passive(p)
    if passive:
        return passive
    triples = _triples(p.a, p.language)
    others = _triples(p.b, p.language)
    reordered = not any(w not in p.language.stop for w in (*p.only_a, *p.only_b)) and len(p.only_a) + len(p.only_b) <= 2
    for x, m, y in others if reordered else ():
        if (y, m, x) in triples and (x, m, y) not in triples and (y, m, x) not in others:
            return f"one says '{x} {m} {y}', the other the other way about"
    sides_a, sides_b = _sides(p.a, p.language), _sides(p.b, p.language)
    for marker, pairs in sides_a.items() if p.same_content else ():
        for (left_a, right_a), (left_b, right_b) in zip(pairs, sides_b.get(marker, ()), strict=False):
            if (left_a & right_b) - left_b - right_a and (right_a & left_b) - left_a - right_b:
                return f"what stands before and after '{marker}' is changed about"
    return ""


def _passive(p: Pair) -> str:
    if p.code != "en" or not p.same_content or not p.a.words or not p.b.words:
        return ""
    first = p.a.words[0]
    if first != p.b.words[0] or first not in ("who", "what", "which"):
        return ""
    sides = [("by" in r.words and r.words[-1] != "by", first == "who" and r.words[1:2] in (["do"], ["does"], ["did"])) for r in (p.a, p.b)]
    return f"'{first}' does it in one, and has it done in the other" if sides[0] != sides[1] else ""


def _beside(items: list[str], language: Language) -> dict[tuple[str, str], None]:
    """(preposition, '>next content word') and (preposition, '<content word before')."""
    found: dict[tuple[str, str], None] = {}
    last = ""
    waiting: list[str] = []
    for item in items:
        if item in OPPOSITE_PREPOSITION:
            if last:
                found[item, "<" + last] = None
            waiting.append(item)
        elif item not in language.stop:
            key = stem(item, language.code)
            for word in waiting:
                found[word, ">" + key] = None
            waiting, last = [], key
    return found


def _telling(reading: Reading, language: Language) -> list[str]:
    """The items in their order, with '' for those that tell nothing; Go in capitals is no filling word."""
    return [w if w not in language.stop or (w in reading.capitals and len(w) > 1) else "" for w in reading.items]


def _triples(reading: Reading, language: Language) -> set[tuple[str, str, str]]:
    """Three content words in a row; joining words ("and") break the row, for their sides may be changed about."""
    row: list[str] = []
    found = set()
    for item, telling in zip(reading.items, _telling(reading, language), strict=True):
        if item in _CONJUNCTIONS:
            row = []
        elif telling:
            row = [*row[-2:], stem(item, language.code)]
            if len(row) == 3:
                found.add((row[0], row[1], row[2]))
    return found


def _sides(reading: Reading, language: Language) -> dict[str, list[tuple[set[str], set[str]]]]:
    """For each relation word where it stands, the content words among the three items before and after it."""
    found: dict[str, list[tuple[set[str], set[str]]]] = {}
    items = _telling(reading, language)
    for at, item in enumerate(reading.items):
        if item in _RELATIONS:
            left = {stem(w, language.code) for w in items[max(0, at - 3):at] if w}
            right = {stem(w, language.code) for w in items[at + 1:at + 4] if w}
            found.setdefault(item, []).append((left, right))
    return found


def _question_word(p: Pair) -> str:
    if p.language is None:
        return ""
    one, other = _kind(p.a, p.language), _kind(p.b, p.language)
    if one == other or "" in (one, other):
        return ""
    both = frozenset((one, other))
    if "yes or no" in both:
        return "" if both & {"what", "how", "why", "who", "where"} else f"one asks '{one}', the other '{other}'"
    if both in SAME_KIND and not ("what" in both and both & NEVER_WHAT and p.same_content):
        return ""
    return f"one asks '{one}', the other '{other}'"


def _kind(reading: Reading, language: Language) -> str:
    """What is asked for: 'why', 'how many', 'yes or no' ...; '' where no word tells."""
    plain = reading.plain
    found = language.question.search(plain, 0, 4000)
    if found and found.start() == 0:
        return language.kinds[int(found.lastgroup[1:])]
    if reading.words and reading.words[0] in STARTS_YES_NO:
        return "yes or no"
    if found:
        return language.kinds[int(found.lastgroup[1:])]
    return "when" if "when" in reading.words else ""


def _quantifiers(p: Pair) -> str:
    kinds_a, kinds_b = ({QUANTITY_OF[w] for w in r if w in QUANTITY_OF} for r in (p.only_a, p.only_b))
    if SOME_OF.search(p.a.plain) or SOME_OF.search(p.b.plain):  # "what are some ways" asks for no part of them
        kinds_a.discard("some")
        kinds_b.discard("some")
    both = kinds_a | kinds_b
    for one, other in (("all", "some"), ("all", "only"), ("both", "either"), ("both", "neither"), ("either", "neither"), ("half", "double")):
        if (one in kinds_a and other in kinds_b) or (other in kinds_a and one in kinds_b):
            return f"one says '{one}', the other '{other}'"
    for kind in sorted(both & ONE_SIDED):
        if (kind in kinds_a) != (kind in kinds_b):
            return f"only one says '{kind}'"
    bounds_a, bounds_b = ({m.lastgroup for m in BOUNDS.finditer(r.plain)} for r in (p.a, p.b))
    for one, other in (("least", "most"), ("more", "less"), ("least", "less"), ("most", "more")):
        if {one, other} == {*(bounds_a - bounds_b), *(bounds_b - bounds_a)} and (one in bounds_a) != (other in bounds_a):
            return f"one sets a lower limit ('{one}'), the other an upper ('{other}')"
    return ""


def _modality(p: Pair) -> str:
    modals = MODALS.get(p.code, {})
    one, other = (next((modals[w] for w in r.words[:3] if w in modals), "") for r in (p.a, p.b))
    both = {one, other}
    closed = all(r.words and r.words[0] in STARTS_YES_NO for r in (p.a, p.b))  # "what can I do" and "what should I do" ask one thing
    if both == {"will", "did"} or (closed and (both == {"must", "can"} or both == {"should", "can"} and p.same_content)):
        return f"one asks with '{one}', the other with '{other}'"
    return ""


def _names(p: Pair) -> str:
    found = []
    for reading, other in ((p.a, p.count_b), (p.b, p.count_a)):
        named: dict[str, set[str]] = {}
        words = reading.words
        for word in words:
            entry = CLOSED_NAMES.get(word) or OPEN_NAMES.get(word)
            if entry is None and len(word) > 5 and word[-1] == "s" and word[:-1] not in AMBIGUOUS_NAMES:  # Greeks
                entry = CLOSED_NAMES.get(word[:-1])
            if word in other and word in AMBIGUOUS_NAMES:  # the same word, in capitals or not
                entry = None
            if word == "us" and _US.search(reading.text):
                entry = ("country", "usa")
            if entry and (word not in AMBIGUOUS_NAMES or word in reading.capitals) and (len(word) > 1 or word in reading.capitals):
                named.setdefault(entry[0], set()).add(entry[1])
        found.append(named)
    for kind in sorted({*found[0], *found[1]}):
        one, other = found[0].get(kind, set()), found[1].get(kind, set())
        if one - other and other - one:
            return f"one is about {_quoted_list(sorted(one - other))}, the other about {_quoted_list(sorted(other - one))}"
        single = (one ^ other) - {"today"} - _misspelt(p) if kind in _CLOSED else set()
        if single and _alike(p):
            return f"only one is about {_quoted_list(sorted(single))}"
    if p.a.capitals and p.b.capitals and p.language is not None:
        left_a, left_b, _ = p.unexplained()
        one, other = ({w for w in r.capitals & set(left) if p.weight(w) == 1.0 and w not in CLOSED_NAMES} for r, left in ((p.a, left_a), (p.b, left_b)))
        if one and other:
            return f"one names {_quoted_list(sorted(one))}, the other {_quoted_list(sorted(other))}"
    return ""


def _misspelt(p: Pair) -> set[str]:
    """Names that the other question has too, if in another spelling."""
    left_a, left_b, _ = p.unexplained()
    sides = ((p.content_a, p.stems_b, left_a), (p.content_b, p.stems_a, left_b))
    return {CLOSED_NAMES[w][1] for content, there, left in sides for w in content if w in CLOSED_NAMES and stem(w, p.code) not in there and w not in left}


def _alike(p: Pair) -> bool:
    """Whether one of the two says nothing that the other does not say: then a name more is the difference."""
    left_a, left_b, _ = p.unexplained()
    sides = [sum(p.weight(w) for w in left if w not in CLOSED_NAMES) for left in (left_a, left_b)]
    return min(sides) == 0


def _coverage(p: Pair) -> str:
    if p.language is None:
        return ""
    left_a, left_b, _ = p.unexplained()
    alone_a, alone_b = sum(map(p.weight, left_a)), sum(map(p.weight, left_b))
    replaced = min(alone_a, alone_b)
    rest = [*set(p.only_a).difference(left_a), *set(p.only_b).difference(left_b)]
    others = len(rest)
    swapped = replaced >= SWAPPED and _ARTICLES.issuperset(rest)
    if swapped or (replaced and replaced + 2 * others / (len(p.a.words) + len(p.b.words)) >= REPLACED) or max(alone_a, alone_b) >= ADDED:
        return f"only one is about {_quoted_list(left_a) or 'nothing more'}, only the other about {_quoted_list(left_b) or 'nothing more'}"
    return ""


GATES = {
    "language": _language, "quoted": _quoted, "identifiers": _identifiers, "dates": _dates, "numbers": _numbers, "units": _units, "negation": _negation,
    "antonyms": _antonyms, "directions": _directions, "question_word": _question_word, "quantifiers": _quantifiers, "modality": _modality,
    "names": _names, "coverage": _coverage,
}


def judge(asked: str, remembered: str) -> list[Verdict]:
    """The verdict of every gate on two questions, in the order of `GATES`. The order of the questions plays no part; no text raises."""
    pair = Pair(asked, remembered)
    return [Verdict(name, not (reason := gate(pair)), reason) for name, gate in GATES.items()]
