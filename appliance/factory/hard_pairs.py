"""Labelled question pairs that are hard to tell apart: near-identical ones that differ in meaning, and the other way round.

Two sources. Frames: questions with slots, in wordings that mean the same, beside their opposites and other aspects. Edits: operators
that change the meaning of any English question by one thing, or only its surface. Noise (padding, typos, casing) falls on both labels
alike, so that neither noise nor a small difference tells the label. Data: models/pair-verifier-int8/data. Pure but for reading it.
"""

from __future__ import annotations

import itertools
import random
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import InvalidRequest
from appliance.factory import patterns

SAME_SHARE = 0.5
REAL_SHARE = 0.5  # of the pairs, where real questions are handed in
ACTION_SHARE = 0.4  # of the frames: actions seen from several sides; the others are written out
OTHER_SHARE = 0.06  # of the different pairs: another question of the same domain, so that easy ones stay easy
ALIAS_SHARE = 0.3
NOISE_SHARE = {True: 0.45, False: 0.7}  # of the sides, by label: much of what is the same differs in noise alone, so that it evens out
MOST_TRIES = 2000  # in vain for one pair, until the material counts as used up
SLOT = re.compile(r"\{(([a-z_]+?)\d?)\}")
PRONOUN = r"(?:I|you|we|they|he|she|it|one|people|someone)"
TERM = r"((?:(?:a|an|the|my) )?[^\s,?.]+(?: (?!(?:to|from|into|than|instead|and|or|vs|versus)\b)[^\s,?.]+)?)"
NO_TERM = re.compile(r"\b(is|are|it|one|or|and|in|of|for|on|with|me|others?)\b")
NUMBER_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
COMMON = frozenset(("padding", "typo", "case", "punctuation", "antonym", "negation", "question-word"))  # nearly always apply
COUNTED = "people|days|weeks|months|years|hours|minutes|times|players|children|eggs|cups|steps|parts|questions|books|movies"
WIDE = frozenset(("question-word", "quantifier", "modality"))  # another wording may ask what these make of a question
BOTH_WAYS = {"antonyms": None, "spelling": None, "contractions": ", "}  # lists of pairs, and what stands between two of them
KEYBOARD = {key: near for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm") for key, near in zip(row, row[1:] + row[-2], strict=True)}
DIACRITICS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", **dict(zip("áàâçéèêëíîïñóôúùû", "aaaceeeeiiinoouuu", strict=True))})


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions; same: whether one answer serves both. kind: what makes them differ."""

    a: str
    b: str
    same: bool
    kind: str


@dataclass(frozen=True, slots=True)
class Filler:
    """One value of a slot. forms: its spellings, the usual one first. parts: what it consists of (number and unit)."""

    forms: tuple[str, ...]
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """Questions beside each other: meanings[i] are the wordings of one of them, and no two meanings are the same."""

    language: str
    domain: str
    meanings: tuple[tuple[patterns.Parts, ...], ...]
    slots: tuple[str, ...]


Swap = tuple[str, re.Pattern[str], tuple[str, ...]]
"""What must be in the text (quickly looked up), what to find exactly, and what may stand there instead."""


@dataclass(frozen=True, slots=True)
class Material:
    """All that pairs are made of. words, rules: the lists of words.toml."""

    frames: tuple[Frame, ...]
    actions: tuple[Frame, ...]
    slots: Mapping[str, tuple[Filler, ...]]
    words: Mapping[str, tuple[Swap, ...]]
    rules: Mapping[str, tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]]
    how: tuple[str, ...]
    entities: Mapping[str, re.Pattern[str]]
    idioms: Mapping[str, re.Pattern[str]]
    padding: Mapping[str, Mapping[str, tuple[str, ...]]]
    vocabulary: frozenset[str]


Operator = Callable[[str, Material, random.Random], str | None]


def read(folder: Path) -> Material:
    """Reads slots.toml, words.toml and the frames in the other *.toml. Raises InvalidRequest that lists every mistake."""
    mistakes: list[str] = []
    slots: dict[str, tuple[Filler, ...]] = {}
    frames: list[Frame] = []
    actions: list[Frame] = []
    try:
        tables = {path.name: tomllib.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.toml"))}
        words, first = tables.pop("words.toml"), tables.pop("slots.toml")
    except (OSError, KeyError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidRequest(f"{folder}: no pair data to read: {error}", remedy="restore the folder from the release") from error
    for name, table in {"slots.toml": first, **tables, "words.toml": {"plain": words["extra"]}}.items():
        for slot, values in table.get("plain", {}).items():
            if slot in slots:
                mistakes.append(f"{name}: slot {slot} stands twice")
            slots[slot] = tuple(Filler(tuple(value.split("|")), (value,)) for value in values)
            forms = [form.lower() for filler in slots[slot] for form in set(filler.forms)]
            mistakes += [f"{name}: {form!r} stands twice in {slot}" for form in set(forms) if forms.count(form) > 1]
        for slot, measure in table.get("measures", {}).items():
            slots[slot] = tuple(_measure(*both) for both in itertools.product(measure["numbers"], measure["units"]))
    for name, table in tables.items():
        for kind, into in (("frames", frames), ("actions", actions)):
            for domain, rows in table.get(kind, {}).items():
                for number, row in enumerate(rows, 1):
                    sides = list(_sides(row, table["aspects"])) if kind == "actions" else [row]
                    for meanings in sides:
                        try:
                            into.append(_frame(table["language"], domain, meanings, slots))
                        except ValueError as error:
                            mistakes.append(f"{name}: {domain} {number}: {error}")
    if mistakes:
        raise InvalidRequest(f"{folder}: " + "; ".join(mistakes), remedy="correct these lines")
    both_ways = {kind: [pair.split("/") for pair in words[kind].split(mark)] for kind, mark in BOTH_WAYS.items()}
    sides = {kind: [[pattern] for pattern in found] for kind, found in words["sides"].items()}
    return Material(
        tuple(frames),
        tuple(actions),
        slots,
        {
            **{kind: tuple(_whole(*both) for pair in pairs for both in itertools.permutations(pair)) for kind, pairs in both_ways.items()},
            **{kind: tuple(_whole(*pair.split(" > ")) for pair in words[kind]) for kind in ("synonyms", "abbreviations")},
            "units": tuple(
                (unit.lower(), re.compile(rf"(?:(?<=\d)|(?<=\d )|(?<=two |ten )|(?<=three )){unit}(?![\w'-])"), tuple(u for u in row.split("/") if u != unit))
                for row in words["units"]
                for unit in row.split("/")
            ),
            "numbers": tuple(_whole(word, *(w for w in words["numbers"] if w != word)) for word in words["numbers"][2:]),
            **{kind: tuple(_whole(*row) for row in rows) for kind, rows in words["swaps"].items()},
        },
        {
            kind: tuple((re.compile(old.replace("PRONOUN", PRONOUN).replace("TERM", TERM)), tuple(new)) for old, *new in rules)
            for kind, rules in {**words["negation"], **sides, "format": words["format"]}.items()
        },
        tuple(words["how"]),
        {kind: _any_of([form for filler in slots[kind] for form in filler.forms], words["ambiguous"]) for kind in words["entities"]},
        {kind: re.compile(rf"\b(?:{'|'.join(found)})\b", re.IGNORECASE) for kind, found in words["idioms"].items()},
        words["padding"],
        frozenset(re.findall(r"[^\W\d_]+", str((tables, first, words)).lower())),
    )


def _measure(number: int, unit: str) -> Filler:
    short, *longer = unit.split("|")
    close = () if short.islower() and len(short) > 4 else (f"{number}{short}",)
    return Filler((f"{number} {short}", *close, *(f"{number} {name}" for name in longer)), (str(number), unit))


def _sides(actions: Sequence[str], aspects: Mapping[str, Sequence[str]]) -> Iterator[list[list[str]]]:
    """Frames where either the action or the aspect differs, never both: two changes can cancel out."""
    whole = [f"({action})" for action in actions]
    for wordings in aspects.values():
        yield [[wording.replace("@", action) for wording in wordings] for action in whole]
    for action in whole:
        yield [[wording.replace("@", action) for wording in wordings] for wordings in aspects.values()]


def _frame(language: str, domain: str, meanings: Sequence[Sequence[str]], slots: Mapping[str, object]) -> Frame:
    for wordings in meanings:
        named = {frozenset(SLOT.findall(wording)) for wording in wordings}
        if len(named) != 1:
            raise ValueError(f"the wordings {list(wordings)} have different slots")
    names = {name: kind for wordings in meanings for name, kind in SLOT.findall(wordings[0])}
    if unknown := sorted(set(names.values()) - set(slots)):
        raise ValueError(f"unknown slots {unknown}")
    return Frame(language, domain, tuple(tuple(map(patterns.parse, wordings)) for wordings in meanings), tuple(sorted(names)))


def _whole(old: str, *new: str) -> Swap:
    """A whole-word pattern for `old`; `^` binds it to the beginning. Upper-case abbreviations are matched as they are."""
    at_start, old = old.startswith("^"), old.removeprefix("^")
    flags = re.IGNORECASE if not old.isupper() else 0
    return old.lower(), re.compile(rf"{'^' if at_start else ''}(?<![\w'-]){re.escape(old)}(?![\w'-])", flags), new


def _any_of(forms: Sequence[str], ambiguous: Sequence[str]) -> re.Pattern[str]:
    """Finds one of the forms, the longest first. Names in the plural or as part of a compound are left alone."""
    usable = sorted((form for form in forms if form not in ambiguous and len(form) > 2), key=lambda form: (-len(form), form))
    return re.compile(rf"(?<![\w'-])(?:{'|'.join(map(re.escape, usable))})(?![\w'-]| [A-Z])")


def generate(material: Material, count: int, rng: random.Random, real: Sequence[tuple[str, str]] = ()) -> Iterator[Pair]:
    """`count` distinct pairs, about half of them the same, in an order that only `rng` decides.

    real: English questions that mean the same in pairs (or twice the same); a share of the pairs is made from them.
    Raises InvalidRequest when the material gives no more new pairs.
    """
    seen: set[tuple[str, str]] = set()
    while len(seen) < count:
        same = rng.random() < SAME_SHARE
        for _ in range(MOST_TRIES):
            from_real = bool(real) and rng.random() < REAL_SHARE
            pair = _edited(*rng.sample(rng.choice(real), 2), same, material, rng) if from_real else _made(material, same, rng)
            if pair and (pair.a, pair.b) not in seen:
                break
        else:
            raise InvalidRequest(f"only {len(seen)} of {count} pairs could be made", remedy="ask for fewer pairs or add frames")
        seen.add((pair.a, pair.b))
        yield pair


def edits(question: str, material: Material, rng: random.Random, other: str | None = None) -> list[Pair]:
    """One pair for every operator that applies to an English question, of both labels.

    other: a wording known to mean the same, to stand for the question in the different pairs: there a wrong guess does no harm.
    """
    found = []
    for same, operators in ((True, SAME), (False, DIFFERENT)):
        for kind, operator in operators.items():
            against = other if other and not same and kind not in WIDE else question
            if (changed := operator(question, material, rng)) and (pair := _finished(against, changed, same, kind, "en", material, rng)):
                found.append(pair)
    return found


def _edited(question: str, other: str, same: bool, material: Material, rng: random.Random) -> Pair | None:
    operators = list((SAME if same else DIFFERENT).items())
    drawn = rng.sample(operators, len(operators))
    for kind, operator in sorted(drawn, key=lambda item: item[0] in COMMON) if rng.random() < 0.5 else drawn:
        if changed := operator(question, material, rng):
            return _finished(question if same or kind in WIDE or rng.random() < 0.7 else other, changed, same, kind, "en", material, rng)
    return None


def _finished(a: str, b: str, same: bool, kind: str, language: str, material: Material, rng: random.Random) -> Pair | None:
    """The pair in either order with noise on its sides; none when the texts say the same of a different pair, or are equal."""
    if a == b or (not same and re.findall(r"\w+|[^\w\s.?!,]", a.lower()) == re.findall(r"\w+|[^\w\s.?!,]", b.lower())):
        return None
    a, b = (surface(text, language, material, rng, NOISE_SHARE[same]) for text in rng.sample((a, b), 2))
    return Pair(a, b, same, kind) if a != b else None


def _made(material: Material, same: bool, rng: random.Random) -> Pair | None:
    pool = material.actions if rng.random() < ACTION_SHARE else material.frames
    frame = rng.choice(pool)
    filling = _filling(frame, material, rng)
    at, number, another = rng.randrange(len(frame.meanings)), rng.randrange(60), rng.randrange(60)
    alike = number if rng.random() < 0.5 else another

    def text(frame: Frame, at: int, filling: Mapping[str, Filler], number: int) -> str:
        return _filled(patterns.expand(frame.meanings[at][number % len(frame.meanings[at])], rng), filling, frame.language, rng)

    a = text(frame, at, filling, number)
    if frame.language == "en" and rng.random() < 0.2:
        return _edited(a, text(frame, at, filling, another), same, material, rng)
    if same:
        kind = "noise" if rng.random() < 0.25 else "paraphrase"
        b = text(frame, at, filling, another) if kind == "paraphrase" else noise(a, frame.language, material, rng)
        return _finished(a, b, True, kind, frame.language, material, rng)
    if rng.random() < OTHER_SHARE:
        other = rng.choice([f for f in pool if (f.domain, f.language) == (frame.domain, frame.language) and f.slots != frame.slots] or [frame])
        b = text(other, rng.randrange(len(other.meanings)), {**_filling(other, material, rng), **filling}, another)
        return _finished(a, b, False, "other", frame.language, material, rng) if other is not frame else None
    names = sorted(set(SLOT.findall(str(frame.meanings[at][0]))))
    if names and (len(frame.meanings) == 1 or rng.random() < 0.5):
        changed = _exchanged(filling, *rng.choice(names), material, rng)
        return _finished(a, text(frame, at, changed, alike), False, "slot", frame.language, material, rng)
    if len(frame.meanings) == 1:
        return None
    at = rng.choice([i for i in range(len(frame.meanings)) if i != at])
    return _finished(a, text(frame, at, filling, alike), False, "opposite", frame.language, material, rng)


def _filling(frame: Frame, material: Material, rng: random.Random) -> dict[str, Filler]:
    filling: dict[str, Filler] = {}
    for name in frame.slots:
        taken = set(filling.values())
        filling[name] = rng.choice([filler for filler in material.slots[name.rstrip("0123456789")] if filler not in taken])
    return filling


def _exchanged(filling: Mapping[str, Filler], name: str, kind: str, material: Material, rng: random.Random) -> dict[str, Filler]:
    """With another filler in one slot, in one part only; every second time one that looks like the old one."""
    old = filling[name]
    part = rng.randrange(len(old.parts))
    others = [
        filler
        for filler in material.slots[kind]
        if filler not in filling.values() and [x != y for x, y in zip(filler.parts, old.parts, strict=True)] == [at == part for at in range(len(old.parts))]
    ]
    drawn = rng.sample(others, min(8, len(others)))
    alike = [len({*itertools.pairwise(filler.forms[0])} & {*itertools.pairwise(old.forms[0])}) for filler in drawn]
    return {**filling, name: drawn[alike.index(max(alike))] if rng.random() < 0.5 else drawn[0]}


def _filled(text: str, filling: Mapping[str, Filler], language: str, rng: random.Random) -> str:
    text = SLOT.sub(lambda match: rng.choice(filling[match[1]].forms) if rng.random() < ALIAS_SHARE else filling[match[1]].forms[0], text)
    return re.sub(r"^([¿¡]?)([^\W\d_])", lambda match: match[1] + match[2].upper(), _articles(text) if language == "en" else text)


def _articles(text: str) -> str:
    """`a` and `an` as the next word sounds; acronyms are left as they are."""
    sound = re.compile(r"(?!one\b|once|eu|u(?:ni|s[aeiub]))[aeiou]|hour|hono|honest|8|18\b|11\b", re.IGNORECASE)
    return re.sub(r"\b([Aa])n? (?=(\d+|[A-Z]?[a-z]+)\b)", lambda match: match[1] + ("n " if sound.match(match[2]) else " "), text)


# Noise: what leaves the meaning alone in any language. None of it changes a digit.


def surface(text: str, language: str, material: Material, rng: random.Random, share: float) -> str:
    """In `share` of the cases with noise or, in English, another spelling."""
    if rng.random() >= share:
        return text
    kinds = ("contraction", "spelling", "synonym", "abbreviation", "format", "phrasing") if language == "en" and rng.random() < 0.35 else ()
    return next((new for kind in rng.sample(kinds, len(kinds)) if (new := SAME[kind](text, material, rng))), None) or noise(text, language, material, rng)


def noise(text: str, language: str, material: Material, rng: random.Random) -> str:
    """One or two of padding, typo, casing and punctuation."""
    for operator in rng.sample((_padding, _typo, _case, _punctuation), rng.choice((1, 1, 2))):
        text = operator(text, material, rng, language) or text
    return text


def _padding(text: str, material: Material, rng: random.Random, language: str = "en") -> str:
    padding = material.padding[language]
    where = rng.choice(("before", "before", "after", "both"))
    if where != "after":
        before = rng.choice(padding["before"])
        plain = re.match(r"(I|[A-ZÄÖÜ]{2,})\b", text) or before[-2:-1] in ".!:?"
        text = before + (text if plain or re.match(r"[A-Z][^ ]*[A-Z.]|Mr|Dr", text) else text[:1].lower() + text[1:])
    return text + rng.choice(padding["after"]) if where != "before" else text


def _typo(text: str, material: Material, rng: random.Random, language: str = "en") -> str | None:
    """One wrong letter in a long word; never one that makes another word, and never in a number, code or name in capitals."""
    words = [match for match in re.finditer(r"(?<![\w'’.-])[^\W\d_]{5,}(?![\w'’-])", text) if match[0][1:].islower()]
    if not words:
        return None
    match = rng.choice(words)
    word, at = match[0], rng.randrange(1, len(match[0]) - 1)
    letter = word[at]
    middle = rng.choice((word[at + 1] + letter, word[at + 1], letter * 2 + word[at + 1], KEYBOARD.get(letter, letter) + word[at + 1]))
    wrong = word[:at] + middle + word[at + 2 :]
    if wrong == word or wrong.lower() in material.vocabulary:
        return None
    return text[: match.start()] + wrong + text[match.end() :]


def _case(text: str, material: Material, rng: random.Random, language: str = "en") -> str | None:
    if re.search(r"\b(US|IT|WHO|C|R|I[CV]U?|M[BW]|[mk]?Pa)\b", text):
        return None
    return rng.choice((text.lower(), text.lower(), text.lower(), text.upper() if "ß" not in text else text.lower(), text[:1].lower() + text[1:]))


def _punctuation(text: str, material: Material, rng: random.Random, language: str = "en") -> str | None:
    bare = text.rstrip("?.! ")
    drawn = rng.choice((bare, bare, bare + "??", bare + " ?", bare + "?!", text.replace("'", "").replace("’", ""), text.replace(", ", " ")))
    if language != "en" and rng.random() < 0.5:
        drawn = (drawn if drawn != text else bare).translate(DIACRITICS).lstrip("¿¡")
    return drawn if drawn != text else None


# Operators that keep the meaning (English).


def _swap(text: str, swaps: Sequence[Swap], rng: random.Random, idioms: re.Pattern[str] | None = None) -> str | None:
    """One listed expression exchanged, in the case of the old one; with idioms not inside one of them or a name."""
    kept = [match.span() for match in idioms.finditer(text)] if idioms else []
    found, lowered = [], text.lower()
    for needle, pattern, new in swaps:
        for match in pattern.finditer(text) if needle in lowered else ():
            name = idioms is not None and match.start() > 0 and match[0][0].isupper()
            if not name and not any(start < match.end() and match.start() < end for start, end in kept):
                found.append((match, new))
    if not found:
        return None
    match, new = rng.choice(found)
    word = rng.choice(new)
    if match[0][0].isupper() and match[0] != "I" and not match[0].startswith("I "):
        word = word[:1].upper() + word[1:]
    return _articles(re.sub(r"  +", " ", text[: match.start()] + word + text[match.end() :]))


def _listed(kind: str, idioms: str | None = None) -> Operator:
    """Exchanges an expression of the list of that name."""
    return lambda text, material, rng: _swap(text, material.words[kind], rng, material.idioms[idioms] if idioms else None)


def _contraction(text: str, material: Material, rng: random.Random) -> str | None:
    """What is / what's; not at the end of the sentence, before a pronoun, or where `not` would come before the subject."""
    changed = _swap(text, material.words["contractions"], rng)
    wrong = r"'(s|re|ve|ll|d|m)[?.! ]*$|\b(What|Who|Where|How)'s (it|he|she|this|that)\b|(^|why |what |how |where |[,.?:] )(is|are|do|does|did|can|could|should|have|has|was|were|will|would) ?not\b"
    return None if changed is None or re.search(wrong, changed, re.IGNORECASE) else changed


def _format(text: str, material: Material, rng: random.Random) -> str | None:
    """The same number, time, unit or amount in another form."""
    counted = "|".join(NUMBER_WORDS)
    rules: list[tuple[str, Callable[[re.Match[str]], str]]] = [
        (r"\b(1[0-2]|[1-9])(?::([0-5]\d))? ?([ap])\.?m\b\.?", lambda m: f"{int(m[1]) % 12 + 12 * (m[3] == 'p'):02d}:{m[2] or '00'}"),
        (rf"(?<![\w.,:-])(1[0-2]|[2-9])(?= (?:{COUNTED})\b)", lambda m: NUMBER_WORDS[int(m[1]) - 2]),
        (rf"(?<![\w-])({counted})(?= (?:{COUNTED})\b)", lambda m: str(NUMBER_WORDS.index(m[1]) + 2)),
        *((rule.pattern, lambda m, new=new: m.expand(new)) for rule, (new,) in material.rules["format"]),
    ]
    for pattern, new in rng.sample(rules, len(rules)):
        if re.search(pattern, text):
            return re.sub(pattern, new, text, count=1)
    return None


def _phrasing(text: str, material: Material, rng: random.Random) -> str | None:
    """How do I, how can I, how to, what is the way to."""
    match = re.match(r"(How (?:do|can) (?:I|we)|How to|What is the (?:best )?way to|What are the steps to) (?!not\b|know\b|tell\b|look\b|feel\b|seem\b|be\b|best\b|like\b|ever\b)(?=[a-z])", text)
    if not match or (rest := text[match.end() :]).count("?") > 1:
        return None
    return f"{rng.choice([how for how in material.how if how != match[1]])} {rest}"


def _keywords(text: str, material: Material, rng: random.Random) -> str | None:
    """What people type into a search box: without `how do I`, articles and possessives."""
    match = re.match(r"(?:How (?:do|can) I|What (?:is|are) the(?! best way)|What is the best way to) (?!not\b|know\b|tell\b|look\b|feel\b|be\b)(?=[a-z])", text)
    rest = re.sub(r"\b(?:the|a|an|my|some|your|our) ", "", text[match.end() :].rstrip("?.! ")) if match else ""
    if len(rest.split()) < 3 or re.search(r"[?.,]|\b(if|when|I'm|I am|I have|that|which|who)\b", rest):
        return None
    return ("how to " if rng.random() < 0.4 else "") + rest if text.startswith("How") else rest


# Operators that change the meaning (English).


def _negation(text: str, material: Material, rng: random.Random) -> str | None:
    """Takes a negation out, or puts one in where the sentence allows it."""
    rules = material.rules["out" if re.search(r"\b(not|never|cannot)\b|n't\b", text) else "in"]
    for pattern, (new,) in rng.sample(rules, len(rules)):
        if (match := pattern.search(text)) and (changed := text[: match.start()] + match.expand(new) + text[match.end() :]) != text:
            return changed
    return None


def _number(text: str, material: Material, rng: random.Random) -> str | None:
    """Another number in digits or words. Dates like 9/11 and fixed expressions like 24/7 are left alone."""
    found = [match for match in re.finditer(r"(?<![\d.,/:-])\d+(?![\d/:-]|[.,]\d)", text) if len(match[0]) < 7]
    if not found:
        return _swap(text, material.words["numbers"], rng, material.idioms["number"])
    match = rng.choice(found)
    old = int(match[0])
    steps = [old + step for step in (1, 1, 2, 3, 10)] + [max(old - 1, 0), *((old - 10, old - 2, old - 30) if 1500 <= old <= 2100 else (old * 2, old * 10, old // 2))]
    new = rng.choice([*steps, int(match[0][::-1])] if old < 1000 else steps)
    return text[: match.start()] + str(new if new != old else old + 1) + text[match.end() :]


def _entity(text: str, material: Material, rng: random.Random) -> str | None:
    found = [(kind, match) for kind, pattern in material.entities.items() for match in pattern.finditer(text)]
    if not found:
        return None
    longest = max(len(match[0]) for _, match in found)
    kind, match = rng.choice([both for both in found if len(both[1][0]) == longest or rng.random() < 0.5] or found[:1])
    if any(other.start() <= match.start() and match.end() <= other.end() and len(other[0]) > len(match[0]) for _, other in found):
        return None
    others = [filler.forms[0] for filler in material.slots[kind] if match[0] not in filler.forms and filler.forms[0] not in text]
    return _articles(text[: match.start()] + rng.choice(others) + text[match.end() :])


def _exchanged_sides(kind: str) -> Operator:
    """X and Y in each other's place: difference between X and Y, from X to Y, X is better than Y."""

    def operator(text: str, material: Material, rng: random.Random) -> str | None:
        for pattern, _ in material.rules[kind]:
            if (match := pattern.search(text)) and match[2].lower() != match[4].lower() and not NO_TERM.search(f"{match[2]} {match[4]}"):
                return text[: match.start()] + f"{match[1]}{match[4]}{match[3]}{match[2]}" + text[match.end() :]
        return None

    return operator


def _payload(text: str, material: Material, rng: random.Random) -> str | None:
    """Another text in the quotation marks, or after the colon of an instruction."""
    if match := re.search(r"(?<!\w)(['\"“]{1,2})([^'\"“”]{3,})(['\"”]{1,2})(?!\w)", text):
        kind = "sentence" if " " in match[2].strip() else "word"
        return text[: match.start(2)] + rng.choice([f.forms[0] for f in material.slots[kind] if f.forms[0] not in text]) + text[match.end(2) :]
    if match := re.match(r"(?:[^:]*\b(?:text|translate|summarize|summarise|correct|rewrite|explain)\b[^:]*: )(.{20,})", text, re.IGNORECASE):
        return text[: match.start(1)] + rng.choice([f.forms[0] for f in material.slots["text"] if f.forms[0] not in text])
    return None


SAME: dict[str, Operator] = {
    "padding": _padding, "typo": _typo, "case": _case, "punctuation": _punctuation, "contraction": _contraction,
    "spelling": _listed("spelling"), "synonym": _listed("synonyms"), "abbreviation": _listed("abbreviations"),
    "format": _format, "phrasing": _phrasing, "keywords": _keywords, "symmetry": _exchanged_sides("symmetry"),
}  # fmt: skip
DIFFERENT: dict[str, Operator] = {
    "negation": _negation, "antonym": _listed("antonyms", "antonym"), "number": _number, "unit": _listed("units"), "entity": _entity,
    "order": _exchanged_sides("order"), **{kind: _listed(kind, kind) for kind in ("question-word", "quantifier")},
    "modality": _listed("modality"), "payload": _payload,
}  # fmt: skip
KINDS = {True: ("paraphrase", "noise", *SAME), False: ("slot", "opposite", "other", *DIFFERENT)}
"""The kinds of pairs, by label."""
