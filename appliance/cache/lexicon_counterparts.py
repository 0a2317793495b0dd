"""Two questions side by side: which words of one have a counterpart in the other, and which are opposites. Pure.

A counterpart is a word of the same stem or synonym group, one derived from it, one written together or apart, or a typing slip of it.
Everything here is the same whichever question comes first.
"""

from __future__ import annotations

from collections import Counter

from appliance.cache.lexicon import CLOSED_NAMES, LANGUAGES, OPEN_NAMES, Language, stem
from appliance.cache.lexicon_reading import read_pair

COMMON_WEIGHT = 0.5
MOST_PAIRED = 24    # words a side that are compared one by one

_PREFIXES = (("hypo", "hyper"), ("pre", "post"), ("inter", "intra"), ("micro", "macro"), ("over", "under"), ("endo", "exo"), ("mono", "poly"), ("pro", "anti"), ("uni", "bi"),
             ("homo", "hetero"), ("up", "down"), ("in", "ex"), ("im", "ex"), ("in", "out"), ("ein", "aus"), ("auf", "ab"), ("an", "ab"), ("hin", "her"), ("vor", "nach"),
             ("hiper", "hipo"), ("uber", "unter"), ("milli", "kilo"), ("ultra", "infra"), ("macro", "nano"))
_DENIALS = frozenset(("un", "in", "im", "il", "ir", "dis", "non", "de", "mis", "des", "mal"))
_DERIVED = frozenset(
    " s es e r er or ed d ing ion ation tion al ial ity ness ly ist ists ism ic ical able ful ous ive y an ian ians ans ance ence ant ent ate ize ise ment ments t n en ung keit heit lich"
    " isch ique tique eur euse age idad mente cion ado ador er ers ors ies ied ier al als ive ives".split(" ")
)
_NOT_DERIVED = frozenset({frozenset(("universe", "university")), frozenset(("organ", "organic")), frozenset(("past", "pasta")), frozenset(("secret", "secretion")), frozenset(("station", "state")),
                          frozenset(("export", "expert")), frozenset(("nation", "nature")), frozenset(("trainer", "trainee")), frozenset(("employer", "employee"))})


_PREPOSITIONS = [("to", "from"), ("on", "off"), ("in", "out"), ("up", "down"), ("before", "after"), ("over", "under"), ("above", "below"), ("into", "from"), ("for", "against"),
                 ("with", "without"), ("nach", "von"), ("vor", "nach"), ("an", "aus"), ("ein", "aus"), ("auf", "zu"), ("mit", "ohne"), ("avant", "apres"), ("avec", "sans"),
                 ("sur", "sous"), ("desde", "hasta"), ("a", "desde"), ("con", "sin"), ("sobre", "bajo"), ("zu", "von"), ("since", "until"), ("ab", "bis"), ("within", "after")]
OPPOSITE_PREPOSITION: dict[str, set[str]] = {}
for _one, _other in _PREPOSITIONS:
    OPPOSITE_PREPOSITION.setdefault(_one, set()).add(_other)
    OPPOSITE_PREPOSITION.setdefault(_other, set()).add(_one)


_SUBSTANCES = ("ate", "ite", "ide", "ane", "ene", "yne", "at", "it", "id", "an", "en", "in", "ine", "ol", "al", "one", "ase", "ose")  # nitrate is not nitrite


class Pair:
    """Both questions as they were read, and what is left of each beside the other. `only_a` and `only_b` are words, `stems_a` and
    `stems_b` count the stems of content words; `language` is None where the two have not one known language."""

    def __init__(self, asked: str, remembered: str) -> None:
        self.a, self.b = read_pair(asked, remembered)
        a, b = self.a, self.b
        self.code = a.code if a.code == b.code else None
        self.language: Language | None = LANGUAGES.get(self.code)
        self.count_a, self.count_b = Counter(a.words), Counter(b.words)
        self.only_a, self.only_b = list(self.count_a - self.count_b), list(self.count_b - self.count_a)
        stop = self.language.stop if self.language else frozenset()
        self.content_a = [w for w in dict.fromkeys(a.words) if w not in stop and len(w) > 1]
        self.content_b = [w for w in dict.fromkeys(b.words) if w not in stop and len(w) > 1]
        self.stems_a = Counter(stem(w, self.code) for w in a.words if w not in stop and len(w) > 1)
        self.stems_b = Counter(stem(w, self.code) for w in b.words if w not in stop and len(w) > 1)
        self._unexplained: tuple[list[str], list[str], float] | None = None
        self._opposites: list[tuple[str, str]] | None = None

    @property
    def same_content(self) -> bool:
        """Whether both have the same content words, in whatever order."""
        return self.stems_a.keys() == self.stems_b.keys()

    def weight(self, word: str) -> float:
        """How much a content word tells: 0 for a filling one, `COMMON_WEIGHT` for one of the commonest, else 1."""
        if self.language is None:
            return 1.0
        key = stem(word, self.code)
        return 0.0 if key in self.language.weak else COMMON_WEIGHT if key in self.language.common else 1.0

    def unexplained(self) -> tuple[list[str], list[str], float]:
        """Content words without a counterpart, each side, and the weight of the content that both have."""
        if self._unexplained is None:
            self._unexplained = _unexplained(self)
        return self._unexplained

    def opposites(self) -> list[tuple[str, str]]:
        """Words on one side only whose opposite is on the other side only, prepositions left out."""
        if self._opposites is None:
            self._opposites = _opposites(self) if self.language else []
        return self._opposites

    def contradict(self, one: str, other: str) -> bool:
        """Whether a word plainly denies its opposite (safe, unsafe), so that a "not" beside it makes up for that."""
        return denied(one, other) or frozenset((stem(one, self.code), stem(other, self.code))) in self.language.contradictory


def _slip(one: str, other: str) -> bool:
    """Whether one word is the other with a typing slip: one letter, or two neighbours changed about; two slips in long words."""
    if one[0] != other[0] or min(len(one), len(other)) < 4 or abs(len(one) - len(other)) > 2:
        return False
    start = 0
    for x, y in zip(one, other, strict=False):
        if x != y:
            break
        start += 1
    end = 0
    while end < min(len(one), len(other)) - start and one[-1 - end] == other[-1 - end]:
        end += 1
    x, y = one[start:len(one) - end], other[start:len(other) - end]
    if len(x) + len(y) <= 1:
        return len(one) > 4
    if len(x) == len(y) == 1:
        return len(one) > 5 and not (end < 3 and one.endswith(_SUBSTANCES) and other.endswith(_SUBSTANCES))
    if x == y[::-1] and len(x) == 2:
        return True
    return min(len(one), len(other)) >= 8 and len(x) > 2 and len(y) > 2 and abs(len(x) - len(y)) <= 1 and _two_slips(x, y)


def _two_slips(x: str, y: str) -> bool:
    """Whether two stretches that differ at both their ends are equal but for these ends."""
    return x[1:] == y or x == y[1:] or x[1:-1] == y[1:-1] or x[1:] == y[:-1] or x[:-1] == y[1:]


def _derived(one: str, other: str) -> bool:
    length = 0
    for x, y in zip(one, other, strict=False):
        if x != y:
            break
        length += 1
    if length < 4 or frozenset((one, other)) in _NOT_DERIVED:
        return False
    return one[length:] in _DERIVED and other[length:] in _DERIVED and length >= 0.5 * max(len(one), len(other))


def _listed(one: str, other: str, pair: Pair) -> bool:
    for key in (one, stem(one, pair.code)):
        others = pair.language.opposites.get(key, ())
        if other in others or stem(other, pair.code) in others:
            return True
    return False


def _ends_alike(one: str, other: str) -> int:
    length = 0
    for x, y in zip(reversed(one), reversed(other), strict=False):
        if x != y:
            break
        length += 1
    return length


_HEADS: dict[tuple[str, str], list[tuple[str, str]]] = {}  # what of two prefixes differs -> the whole prefixes
for _one, _other in _PREFIXES:
    _same = _ends_alike(_one, _other)
    for _p, _q in ((_one, _other), (_other, _one)):
        _HEADS.setdefault((_p[:len(_p) - _same], _q[:len(_q) - _same]), []).append((_p, _q))


def _prefixed(one: str, other: str) -> bool:
    """Whether two words differ in opposite prefixes alone: hypotension, hypertension."""
    length = _ends_alike(one, other)
    if length < 3:
        return False
    for p, q in _HEADS.get((one[:len(one) - length], other[:len(other) - length]), ()):
        if one.startswith(p) and other.startswith(q) and len(one) - len(p) >= 3:
            return True
    return False


def denied(one: str, other: str) -> bool:
    """Whether one word is the other with a denying prefix: (un)safe, (im)possible, (dis)connect."""
    short, long = (one, other) if len(one) < len(other) else (other, one)
    return len(short) >= 4 and long.endswith(short) and long[: len(long) - len(short)] in _DENIALS


def _opposites(pair: Pair) -> list[tuple[str, str]]:
    language, code = pair.language, pair.code

    def alone(words: list[str], stems: Counter, counts: Counter) -> dict[str, str]:
        # Two words with one stem can be opposites too (niño, niña), so plain words stay where the list names them.
        keys = {w: stem(w, code) for w in words if w not in OPPOSITE_PREPOSITION and w not in counts}
        return {w: key for w, key in keys.items() if key not in stems or w in language.opposites}

    only_a, only_b = alone(pair.only_a, pair.stems_b, pair.count_b), alone(pair.only_b, pair.stems_a, pair.count_a)
    by_stem: dict[str, list[str]] = {}
    for word, key in only_b.items():
        by_stem.setdefault(key, []).append(word)
        if key != word:
            by_stem.setdefault(word, []).append(word)
    few = len(only_a) <= MOST_PAIRED and len(only_b) <= MOST_PAIRED
    found: dict[tuple[str, str], None] = {}
    for word, key in only_a.items():
        for other in (*language.opposites.get(word, ()), *language.opposites.get(key, ())):
            for match in by_stem.get(other, ()):
                if only_b[match] != key or match in language.opposites.get(word, ()):
                    found[word, match] = None
        if few and len(word) > 4:
            for other in only_b:
                if len(other) > 4 and (_prefixed(word, other) or denied(word, other)):
                    found[word, other] = None
    return list(found)


def _initials(left: list[str], words: list[str]) -> list[tuple[str, set[str]]]:
    """Short words here that are the initials of words in a row there (SEO), with these words."""
    found = []
    initials = ""
    for short in left:
        if 2 < len(short) < 6:
            initials = initials or "".join(w[0] for w in words)
            at = initials.find(short)
            if at >= 0:
                found.append((short, set(words[at:at + len(short)])))
    return found


def _other_names(left: list[str], there: list[str]) -> list[str]:
    """Without the names of what has another name over there: USA, America."""
    named = {entry for w in there if (entry := CLOSED_NAMES.get(w) or OPEN_NAMES.get(w))}
    return [w for w in left if (CLOSED_NAMES.get(w) or OPEN_NAMES.get(w)) not in named]


def _joined(words: list[str]) -> set[str]:
    return {x + y for x, y in zip(words, words[1:], strict=False)}


def _apart(words: list[str], whole: set[str]) -> set[str]:
    """Words that stand apart here and are one word there."""
    return {w for x, y in zip(words, words[1:], strict=False) if x + y in whole for w in (x, y)}


def _unexplained(pair: Pair) -> tuple[list[str], list[str], float]:
    code, language = pair.code, pair.language
    left_a = [w for w in pair.content_a if stem(w, code) not in pair.stems_b]
    left_b = [w for w in pair.content_b if stem(w, code) not in pair.stems_a]
    total = sum(map(pair.weight, pair.content_a)) + sum(map(pair.weight, pair.content_b))
    if language is not None and (left_a or left_b):
        groups = [{g for s in stems for g in language.synonyms.get(s, ())} for stems in (pair.stems_b, pair.stems_a)]
        left_a, left_b = ([w for w in left if groups[side].isdisjoint(language.synonyms.get(stem(w, code), ()))] for side, left in enumerate((left_a, left_b)))
    if left_a or left_b:
        left_a, left_b = _other_names(left_a, pair.content_b), _other_names(left_b, pair.content_a)
        explained_a = _joined(pair.b.words) | _apart(pair.a.words, set(pair.b.words))
        explained_b = _joined(pair.a.words) | _apart(pair.b.words, set(pair.a.words))
        for left, words, here, there in ((left_a, pair.b.words, explained_a, explained_b), (left_b, pair.a.words, explained_b, explained_a)):
            for short, long in _initials(left, words):
                here.add(short)
                there |= long
        known = language.known if language else frozenset()
        if len(pair.content_a) <= 2 * MOST_PAIRED and len(pair.content_b) <= 2 * MOST_PAIRED:
            explained_a |= {w for w in left_a if any(_derived(w, other) for other in pair.content_b)}
            explained_b |= {w for w in left_b if any(_derived(w, other) for other in pair.content_a)}
            opposite = {frozenset(found) for found in pair.opposites()}
            for one in left_a:
                for other in left_b:
                    if not (one in known and other in known or one in CLOSED_NAMES and other in CLOSED_NAMES) and (
                        _slip(one, other) or (one != stem(one, code) or other != stem(other, code)) and _slip(stem(one, code), stem(other, code))):
                        if frozenset((one, other)) not in opposite:
                            explained_a.add(one)
                            explained_b.add(other)
        left_a, left_b = [w for w in left_a if w not in explained_a], [w for w in left_b if w not in explained_b]
    left = sum(map(pair.weight, left_a)) + sum(map(pair.weight, left_b))
    return left_a, left_b, (total - left) / 2
