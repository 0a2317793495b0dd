"""The words that the gates know, made ready for looking up: one `Language` for each language, and the names of known classes.

The lists themselves are in `lexicon_<language>`, `lexicon_names` and `lexicon_quantities`. Words are compared folded: casefolded,
without accents, German "ae" for "ä" too. Pure: no file is read, nothing is remembered but bounded tables of single words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

from appliance.cache import lexicon_de, lexicon_en, lexicon_es, lexicon_fr, lexicon_names

LONG_WORD = 40  # letters; longer ones are kept out of the tables of seen words

_ENDINGS = {
    "de": ("ern", "en", "er", "em", "es", "e", "n", "s", "t"),
    "fr": ("ement", "aient", "ees", "ent", "ant", "es", "ee", "er", "ez", "ait", "e", "s", "x"),
    "es": ("amente", "mente", "ando", "iendo", "ados", "adas", "ado", "ada", "ar", "er", "ir", "os", "as", "es", "o", "a", "e", "s", "n"),
}
_VOWEL = re.compile(r"[aeiouy]")


def _strip_accents(word: str) -> str:
    if word.isascii():
        return word
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))


@lru_cache(maxsize=8192)
def _fold_seen(word: str, german: bool) -> str:
    word = _strip_accents(word.casefold())
    if german:
        word = word.replace("ae", "a").replace("oe", "o").replace("ue", "u")
    return word


def fold(word: str, code: str | None = None) -> str:
    """A word as it is compared: casefolded, without accents; in German ("de") "ae" equals "ä", and so on."""
    german = code == "de"
    return _fold_seen(word, german) if len(word) <= LONG_WORD else _fold_seen.__wrapped__(word, german)


def _stem_english(word: str) -> str:
    if len(word) < 4:
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed", "ly"):
        rest = word[: -len(ending)]
        if word.endswith(ending) and len(rest) >= 3 and _VOWEL.search(rest) and not word.endswith(("eed", "thing")):
            word = rest
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    return word[:-1] + "i" if len(word) > 2 and word.endswith("y") else word


def _stem_plain(word: str, endings: tuple[str, ...]) -> str:
    for ending in endings:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


@lru_cache(maxsize=16384)
def _stem_seen(word: str, code: str | None) -> str:
    language = LANGUAGES.get(code)
    if language is None:
        return word
    base = language.irregular.get(word, word)
    if base == word and word in language.irregular:  # "news" is no plural
        return word
    return _stem_english(base) if code == "en" else _stem_plain(base, _ENDINGS[code])


def stem(word: str, code: str | None) -> str:
    """The light stem of a folded word: plural, tense and adverb endings off. Words of a language that is not known stay whole."""
    return _stem_seen(word, code) if len(word) <= LONG_WORD else word


@dataclass(frozen=True, slots=True)
class Language:
    """What the gates know of one language; all words are folded.

    `opposites` goes from a word (or its stem) to its opposites, `synonyms` from a stem to the numbers of its groups, `question` matches
    the first question word (its last group is `q<number>`, an index of `kinds`), `before` and `after` match padding at a text's edges.
    """

    code: str
    stop: frozenset[str]
    common: frozenset[str]
    weak: frozenset[str]
    negators: frozenset[str]
    soft_negators: frozenset[str]
    against: frozenset[str]
    idioms: re.Pattern[str]
    contractions: dict[str, tuple[str, ...]]
    irregular: dict[str, str]
    opposites: dict[str, frozenset[str]]
    contradictory: frozenset[frozenset[str]]
    synonyms: dict[str, frozenset[int]]
    known: frozenset[str]
    question: re.Pattern[str]
    kinds: tuple[str, ...]
    before: re.Pattern[str]
    after: re.Pattern[str]


def _words(text: str, code: str) -> frozenset[str]:
    return frozenset(fold(word, code) for word in text.split())


def _folded_text(text: str, code: str) -> str:
    """A pattern or phrase with each of its words folded."""
    return re.sub(r"\\[a-zA-Z]|[^\W\d_]+", lambda m: m[0] if m[0][0] == "\\" else fold(m[0], code), text)


def _pairs(text: str, code: str) -> list[tuple[str, str]]:
    pairs = [tuple(fold(word, code) for word in item.split("/")) for item in text.split() if "/" in item]
    return [(pair[0], pair[1]) for pair in pairs if pair[0] != pair[1]]


def _make(code: str, data) -> Language:
    def stem_of(word: str) -> str:
        base = irregular.get(word, word)
        if base == word and word in irregular:
            return word
        word = base
        return _stem_english(word) if code == "en" else _stem_plain(word, _ENDINGS[code])

    irregular = dict(tuple(fold(w, code) for w in item.split("=")) for item in data.IRREGULAR.split())
    opposites, synonyms = defaultdict(set), defaultdict(set)
    known = set(_words(data.STOP, code) | _words(data.COMMON, code) | _words(data.WEAK, code)) | set(irregular)
    for one, other in _pairs(data.ANTONYMS, code) + _pairs(data.CONTRADICTORY, code):
        known |= {one, other}
        for a, b in ((one, other), (other, one)):
            opposites[a].add(b)
            if stem_of(one) != stem_of(other):
                opposites[stem_of(a)] |= {b, stem_of(b)}
                opposites[a].add(stem_of(b))
    for number, item in enumerate(data.SYNONYMS.split()):
        group = [fold(word, code) for word in item.split("=")]
        known |= set(group)
        for word in group:
            synonyms[stem_of(word)].add(number)
    contradictory = {frozenset((stem_of(a), stem_of(b))) for a, b in _pairs(data.CONTRADICTORY, code)}
    question = "|".join(f"(?P<q{i}>{_folded_text(pattern, code)})" for i, (pattern, _) in enumerate(data.QUESTION))
    idioms = "|".join(re.escape(_folded_text(idiom, code)) for idiom in sorted(data.NEGATION_IDIOMS, key=len, reverse=True))
    return Language(
        code=code, stop=_words(data.STOP, code), common=_words(data.COMMON, code) | {stem_of(w) for w in _words(data.COMMON, code)}, weak=_words(data.WEAK, code) | {stem_of(w) for w in _words(data.WEAK, code)},
        negators=_words(data.NEGATORS, code),
        soft_negators=frozenset(stem_of(w) for w in _words(data.SOFT_NEGATORS, code)),
        against=frozenset(stem_of(w) for w in _words(data.AGAINST, code)),
        idioms=re.compile(rf"(?<!\w)(?:{idioms})(?!\w)"),
        contractions={fold(short, code): tuple(fold(w, code) for w in full.split()) for short, full in data.CONTRACTIONS.items()},
        irregular=irregular, opposites={word: frozenset(others) for word, others in opposites.items()},
        contradictory=frozenset(contradictory), synonyms={word: frozenset(groups) for word, groups in synonyms.items()},
        known=frozenset(known | {stem_of(w) for w in known}), question=re.compile(rf"(?<!\w)(?:{question})(?!\w)"), kinds=tuple(kind for _, kind in data.QUESTION),
        before=re.compile(rf"[\s,;:.!¡¿-]*(?:{'|'.join(data.PADDING_BEFORE)})(?!\w)[\s,;:.!¡-]*", re.IGNORECASE),
        after=re.compile(rf"(?:{'|'.join(data.PADDING_AFTER)})[\s.!?,;:)-]*$", re.IGNORECASE),
    )


LANGUAGES: dict[str | None, Language] = {}
for _code, _data in (("en", lexicon_en), ("de", lexicon_de), ("fr", lexicon_fr), ("es", lexicon_es)):
    LANGUAGES[_code] = _make(_code, _data)
_stem_seen.cache_clear()

_DETECT: dict[str, frozenset[str]] = {}  # word -> the languages in which it is a stop word
_codes = defaultdict(set)
for _code, _language in LANGUAGES.items():
    for _word in {w for text in (_language.stop,) for w in text}:
        _codes[_word].add(_code)
for _code, _text in lexicon_names.OTHER_STOP.items():
    for _word in _text.split():
        _codes[fold(_word)].add(_code)
_DETECT = {word: frozenset(codes) for word, codes in _codes.items()}
_SCRIPTS = re.compile(
    "(?P<latin>[A-Za-z\u00c0-\u024f\u1e00-\u1eff])|(?P<greek>[\u0370-\u03ff\u1f00-\u1fff])|(?P<cyrillic>[\u0400-\u052f])|(?P<hebrew>[\u0590-\u05ff])"
    "|(?P<arabic>[\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff])|(?P<indic>[\u0900-\u0dff])|(?P<thai>[\u0e00-\u0eff])|(?P<hangul>[\uac00-\ud7af\u1100-\u11ff])"
    "|(?P<cjk>[\u3040-\u30ff\u3400-\u9fff])|(?P<other>[^\\W\\d_])"
)


def script(text: str) -> str:
    """The writing that most of the first 200 letters are in: latin, cyrillic, cjk ...; '' where there is no letter."""
    if text[:400].isascii():
        return "latin" if re.search("[A-Za-z]", text) else ""
    counts: dict[str, int] = defaultdict(int)
    for number, found in enumerate(_SCRIPTS.finditer(text)):
        counts[found.lastgroup] += 1
        if number >= 200:
            break
    return max(sorted(counts), key=counts.get) if counts else ""


def language_of(words: list[str], writing: str) -> str | None:
    """The language by its stop words: a code of `LANGUAGES`, another known code ("it", "pt" ...), or None where no word tells.

    `words` are lower case with their accents. English wins a tie, for names and technical words are English in every language.
    """
    if writing != "latin":
        return None
    counts: dict[str, float] = defaultdict(float)
    for word in words[:300]:
        codes = _DETECT.get(_fold_seen(word, False) if len(word) < LONG_WORD else word, ())
        for code in codes:
            counts[code] += 1.0 if len(codes) > 1 else 2.0
    if not counts:
        for word in words[:300]:
            for code, language in LANGUAGES.items():
                if fold(word, code) in language.known:
                    counts[code] += 1.0
    if not counts:
        return None
    best = max(counts.values())
    order = ("en", "de", "fr", "es", *sorted(counts))
    return next(code for code in order if counts.get(code) == best)


def _name_table(classes: dict[str, str]) -> dict[str, tuple[str, str]]:
    table: dict[str, tuple[str, str]] = {}
    for kind, text in classes.items():
        for item in text.split():
            names = item.split("=")
            for name in names:
                for code in (None, "de"):
                    table.setdefault(fold(name, code), (kind, fold(names[0])))
    return table


CLOSED_NAMES = _name_table(lexicon_names.CLOSED)   # folded word -> (class, what it is called first)
OPEN_NAMES = _name_table(lexicon_names.OPEN)
AMBIGUOUS_NAMES = frozenset(fold(word) for word in lexicon_names.AMBIGUOUS.split())
TWO_WORD_NAMES = {  # written apart
    ("south", "africa"): "southafrica", ("south", "korea"): "southkorea", ("north", "korea"): "northkorea", ("south", "america"): "southamerica",
    ("latin", "america"): "latinamerica", ("north", "america"): "northamerica", ("new", "zealand"): "newzealand", ("sri", "lanka"): "srilanka",
    ("united", "states"): "usa", ("united", "kingdom"): "uk", ("great", "britain"): "uk", ("saudi", "arabia"): "saudi", ("new", "york"): "newyork",
    ("new", "delhi"): "newdelhi", ("los", "angeles"): "losangeles", ("san", "francisco"): "sanfrancisco", ("hong", "kong"): "hongkong",
    ("tamil", "nadu"): "tamilnadu", ("cape", "town"): "capetown", ("costa", "rica"): "costarica", ("java", "script"): "javascript",
    ("type", "script"): "typescript", ("red", "hat"): "redhat", ("you", "tube"): "youtube", ("face", "book"): "facebook", ("mac", "os"): "macos",
    ("etats", "unis"): "usa", ("estados", "unidos"): "usa", ("vereinigte", "staaten"): "usa", ("vereinigten", "staaten"): "usa",
}

