"""Reads one question with the lexicon: padding off, then words, numbers with units, dates, times, identifiers and quotations. Pure.

Everything takes time linear in the text: the patterns are bounded, and each token is looked at once.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from appliance.cache.lexicon import LANGUAGES, TWO_WORD_NAMES, Language, fold, language_of, script
from appliance.cache.lexicon_quantities import (
    CURRENCIES,
    MONTHS,
    NEEDS_NUMBER,
    NUMBER_WORDS,
    ORDINAL_ENDINGS,
    ORDINAL_WORDS,
    PRONOUN_ONES,
    SCALE_WORDS,
    UNITS,
    dates,
    number,
    roman,
    value,
)

EDGE = 400  # characters at each end of a text in which padding is looked for
_QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "´": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‟": '"', "−": "-", "–": "-", "—": "-", "‑": "-"})
_QUOTED = re.compile(r"\"+([^\"\n]{1,200})\"+|(?<!\w)'([^'\n]{2,100})'(?!\w)")
_SAID = frozenset("say says said mean means word words spell write sage sagt sagen heisst dire dit mot decir dice palabra the a of".split())
_MONTH = "|".join(sorted((name for name in (*MONTHS, "märz", "février", "décembre", "août") if name != "mars"), key=len, reverse=True))
_SUFFIXES = ("py|js|ts|tsx|jsx|json|ya?ml|toml|ini|cfg|conf|csv|tsv|xml|html?|css|md|txt|log|pdf|docx?|xlsx?|pptx?|odt|ods|zip|tar|gz|tgz|7z|rar|exe|dll|so|msi|deb|rpm|apk"
             "|iso|img|png|jpe?g|gif|svg|bmp|mp[34]|wav|mov|avi|mkv|sql|sqlite|db|sh|bat|ps1|c|h|cpp|hpp|cs|java|kt|go|rs|rb|php|pl|ipynb|onnx|gguf|pem|key|crt|env|lock")
_WORD = r"(?P<dots>(?<!\w)(?:[A-Za-z]\.){2,5}(?:[A-Za-z](?!\w))?)|(?P<word>[^\W\d]\w*(?:'[^\W\d_]+)*)"
_NUM = (r"(?P<num>(?:(?<![\w).])-)?(?:\d{1,3}(?: \d{3})+(?![\d.,])|\d+(?:[.,']\d+)*)|(?<![\w.])\.\d+)"
        r"(?P<tail>(?:[^\W\d_]|[µ°%€£$₹Ω²³])+(?:\d+\w*)?(?:/[a-z]{1,4}(?!\w))?)?")
_TIME = (r"(?P<time>(?<![\d.,:])\d{1,2}(?::\d\d){1,2}(?!\d)(?:\s?[ap]\.?m\b\.?)?|(?<![\d.,:])\d{1,2}(?:\.\d\d)?\s?(?:[ap]\.m\.|[ap]m\b|uhr(?: \d\d\b)?|o'?clock)"
         r"|(?<![\d.,:])\d{1,2}h\d\d\b)")
_DATE = (r"(?P<iso>(?<!\d)\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?!\d))|(?P<date>(?<![\d.,/-])\d{1,2}([./-])\d{1,2}\4(?:\d{4}|\d\d)(?![\d.]))"
         rf"|(?P<dm>(?<![\d.,])\d{{1,2}}(?:st|nd|rd|th|er|\.)? (?:of |de )?(?:{_MONTH})\b\.?(?:,? (?:de )?\d{{4}}\b)?)"
         rf"|(?P<md>\b(?:{_MONTH})\b\.? (?:the )?\d{{1,2}}(?:st|nd|rd|th)?\b(?![.,:]\d)(?:,? \d{{4}}\b)?)")
_CODE = (
    r"(?P<code>`[^`\n]{1,300}`)|(?P<url>(?:https?|ftp)://[^\s<>\"]{1,2000}|www\.[^\s<>\"]{1,2000})|(?P<email>[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,6})"
    r"|(?P<rate>(?:mg|g|µg|mcg|mmol|km|m|miles?|kb|mb|gb)/(?:dl|ml|l|h|hr|s|kg)\b)"
    r"|(?P<path>(?<![\w/<])(?:[A-Za-z]:\\|~/|\.{1,2}/|/(?=\w))[\w.\\/@~+-]{1,300})"
    rf"|(?P<file>(?<![\w.])[\w-]{{1,64}}(?:[/\\.][\w-]{{1,64}}){{0,8}}\.(?:{_SUFFIXES})(?!\w))|(?P<ip>\d{{1,3}}(?:\.\d{{1,3}}){{3}}(?:/\d{{1,2}}|:\d{{1,5}})?(?![\d.]))"
    r"|(?P<flag>(?<![\w-])(?:--[A-Za-z][\w-]{0,60}|-[A-Za-z]{1,2}(?![\w-])))|(?P<plus>(?<!\w)[A-Za-z]{1,2}(?:\+\+|\#)(?!\w)(?:\d\d\b)?|(?<!\w)\.NET\b)"
)
_REST = r"(?P<op>[+*/^=<>×÷-])|(?P<sym>[$€£¥₹%°#@&])|(?P<point>[.?!:;,()\[\]{}\"¿¡\n])"
# The group that \4 names in _DATE stands at another place in each pattern, so it is named here.
_DATE = _DATE.replace("([./-])", "(?P<mark>[./-])").replace(r"\4", "(?P=mark)")
_FULL = re.compile(f"{_CODE}|{_DATE}|{_TIME}|{_NUM}|{_WORD}|{_REST}", re.IGNORECASE)
_DIGITS = re.compile(f"{_DATE}|{_TIME}|{_NUM}|{_WORD}|{_REST}", re.IGNORECASE)
_PLAIN = re.compile(f"{_WORD}|{_REST}", re.IGNORECASE)
_HAS_CODE = re.compile(r"[`@/\\~#]|--|\w\.\w|\+\+|(?<!\w)-\w|(?<!\w)\.[Nn]")
_HAS_DIGIT = re.compile(r"\d")
_CAMEL = re.compile(r"[a-z]{2,}[A-Z]\w*$")
_NUMBERS = re.compile(r"\d+")
_CODES = frozenset({"code", "url", "email", "path", "file", "ip", "flag", "plus"})


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it was read. `key` is what is compared: the digits alone, or the dimension and the amount in its base unit."""

    shown: str
    digits: str
    dimension: str
    key: tuple


@dataclass(slots=True)
class Reading:
    """One question as the gates see it. `words` are folded, with contractions written out; `items` are words, numbers (`#5`) and identifiers
    in their order; `days` and `times` are sets of what may be meant, with the form that was written."""

    text: str
    code: str | None
    script: str
    words: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    identifiers: set[str] = field(default_factory=set)
    quoted: list[str] = field(default_factory=list)
    quantities: list[Quantity] = field(default_factory=list)
    days: list[tuple[frozenset, str]] = field(default_factory=list)
    times: list[tuple[frozenset, str]] = field(default_factory=list)
    operators: list[str] = field(default_factory=list)
    units: set[str] = field(default_factory=set)
    capitals: set[str] = field(default_factory=set)
    ones: int = 0

    @property
    def plain(self) -> str:
        """The words with one space between them."""
        return " ".join(self.words)


def normalized(text: str) -> str:
    """NFKC, one kind of apostrophe, quotation mark and dash, single spaces; line ends are kept."""
    text = text if text.isascii() else unicodedata.normalize("NFKC", text).translate(_QUOTES)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def _without_padding(text: str, languages: list[Language]) -> str:
    for language in languages:
        for _ in range(8):
            found = language.before.match(text, 0, EDGE)
            if not found or not found.end() or not re.search(r"\w", text[found.end():]):
                break
            text = text[found.end():]
        for _ in range(6):
            start = max(0, len(text) - EDGE)
            found = language.after.search(text, start)
            while found and found.start() and text[found.start() - 1].isalnum():
                found = language.after.search(text, found.start() + 1)
            if not found or not found.start():
                break
            before = text[: found.start()].rstrip()
            bare = before[-1:] not in set(",.!?;:-)\n\"")  # nothing but a space stands before it
            thanks = found[0][:3].casefold() in ("tha", "ple", "pls", "plz", "thx", "vie", "dan", "bit", "mer", "s'i", "svp", "stp", "gra", "muc", "por", "che")
            said = before[-24:].casefold().rpartition(" ")[2]
            if not re.search(r"\w", before) or (bare and (not thanks or fold(said) in _SAID)):
                break
            text = before
    return text.strip()


def _languages(text: str) -> tuple[str, str | None]:
    writing = script(text)
    words = [w.lower() for w in re.findall(r"[^\W\d_]+", text[:3000])]
    return writing, language_of(words, writing)


def stripped(text: str) -> str:
    """The text without greetings, politeness and thanks at its ends, in the languages known; never emptied of its last words."""
    text = normalized(text)
    _, code = _languages(text)
    known = LANGUAGES.get(code)
    return _without_padding(text, [known] if known else [] if code else list(LANGUAGES.values()))


def scan(text: str) -> tuple[list[tuple[str, str, str]], set[str]]:
    """The tokens of a normalized text as (kind, text, tail of a number), and its words with digits in them, folded ("iphone6")."""
    pattern = _FULL if _HAS_CODE.search(text) else _DIGITS if _HAS_DIGIT.search(text) else _PLAIN
    tokens, mixed = [], set()
    for found in pattern.finditer(text):
        kind = found.lastgroup
        if kind == "tail" or kind == "num":
            tokens.append(("num", found["num"], found["tail"] or ""))
            continue
        if kind == "mark":
            kind = "date"
        written = found[0]
        if kind == "dots":  # U.S.A.
            kind, written = "word", written.replace(".", "")
        if kind == "word" and not written.isalpha() and _HAS_DIGIT.search(written):
            mixed.add(written.casefold())
        tokens.append((kind, written, ""))
    return tokens, mixed


def _minutes(written: str) -> frozenset[int]:
    hour, *rest = (int(n) for n in _NUMBERS.findall(written))
    minute = rest[0] if rest else 0
    low = written.lower()
    after = re.search(r"([ap])\.?m", low)
    if after:
        return frozenset({(hour % 12 + (12 if after[1] == "p" else 0)) * 60 + minute})
    if "clock" in low:
        return frozenset({hour % 12 * 60 + minute, (hour % 12 + 12) * 60 + minute})
    return frozenset({hour % 24 * 60 + minute})


def _days(kind: str, written: str, code: str | None) -> frozenset[tuple[int, int, int]]:
    numbers = _NUMBERS.findall(written)
    if kind == "iso":
        return dates(numbers[0], numbers[1], numbers[2], "md")
    if kind == "date":
        return dates(numbers[2], numbers[0], numbers[1], "dm" if code in ("de", "fr", "es") or "." in written else "")
    month = next(MONTHS[w] for w in map(fold, re.findall(r"[^\W\d_]+", written)) if w in MONTHS)
    return dates(numbers[1] if len(numbers) > 1 else None, str(month), numbers[0], "md")


class _Walk:
    """One pass over the tokens of a text."""

    def __init__(self, reading: Reading, tokens: list[tuple[str, str, str]], glued: set[str]) -> None:
        self.reading, self.tokens, self.glued = reading, tokens, glued
        code = reading.code
        self.language = LANGUAGES.get(code)
        self.numbers, self.scales, self.ordinals = NUMBER_WORDS.get(code, {}), SCALE_WORDS.get(code, {}), ORDINAL_WORDS.get(code, {})
        self.pronouns = frozenset(PRONOUN_ONES.get(code, "").split())
        self.money = ""

    def run(self) -> None:
        reading, tokens = self.reading, self.tokens
        at, initial, named = 0, True, False
        while at < len(tokens):
            kind, written, tail = tokens[at]
            taken = 1
            if kind == "word":
                taken, named = self.word(at, initial, named)
                initial = False
            elif kind == "num":
                taken, initial, named = self.number(at), False, False
            elif kind in _CODES:
                shown = written.strip("`") if kind == "code" else written.rstrip(".,;:!?)/") if kind in ("url", "path") else written
                self.identifier(shown if kind == "path" else shown.casefold() if kind in ("url", "email", "plus") else shown)
                initial = False
            elif kind == "time":
                reading.times.append((_minutes(written), written))
                reading.items.append("#" + written.casefold())
                initial = False
            elif kind in ("iso", "date", "dm", "md"):
                found = _days(kind, written, reading.code)
                if found:
                    reading.days.append((found, written))
                else:
                    self.identifier(written)
                initial = False
            elif kind == "op":
                self.operator(at)
            elif kind == "sym":
                if written in UNITS and UNITS[written][0] in CURRENCIES:
                    self.money = written
                elif written == "%":
                    reading.units.add("%")
            elif kind == "point" and written not in ",)]}":
                initial = True
            at += taken
        capitals = sum(t[1][0].isupper() for t in tokens if t[0] == "word" and len(t[1]) > 3)
        words = sum(1 for t in tokens if t[0] == "word" and len(t[1]) > 3)
        if capitals > max(2, 0.6 * words) or reading.code == "de":  # a title, or German nouns: a capital says nothing
            reading.capitals.clear()

    def identifier(self, shown: str) -> None:
        self.reading.identifiers.add(shown)
        self.reading.items.append(shown)

    def operator(self, at: int) -> None:
        written = self.tokens[at][1]
        before = self.tokens[at - 1] if at else ("", "", "")
        after = self.tokens[at + 1] if at + 1 < len(self.tokens) else ("", "", "")
        if all(kind == "num" or (kind == "word" and len(text) == 1) for kind, text, _ in (before, after)):
            self.reading.operators.append({"×": "*", "÷": "/"}.get(written, written))

    def unit(self, at: int) -> tuple[str, int]:
        """The unit that begins at a token, and how many tokens it takes."""
        if at >= len(self.tokens):
            return "", 0
        kind, written, _ = self.tokens[at]
        if kind == "op" and written == "-" and at + 1 < len(self.tokens) and self.tokens[at + 1][0] == "word":
            found, taken = self.unit(at + 1)  # a 5-mg tablet
            return (found, taken + 1) if found and len(found) > 1 else ("", 0)
        if kind == "sym" and written == "°":
            if at + 1 < len(self.tokens) and self.tokens[at + 1][1] in ("C", "F", "c", "f"):
                return "°" + self.tokens[at + 1][1].lower(), 2
            return "°", 1
        if kind in ("word", "rate", "sym"):
            low = written.casefold()
            if kind == "word" and len(low) == 1 and low not in "gmlsh" and not written.isupper():
                return "", 0
            if low in ("per", "pour", "por") and at + 1 < len(self.tokens) and self.tokens[at + 1][1].casefold() in ("cent", "ciento"):
                return "%", 2
            if low in UNITS and low not in ("a", "an", "x", "go", "once", "re", "mal", "c", "f", "j", "as"):
                if low in ("degree", "degrees", "grad", "grados", "degrés") and at + 1 < len(self.tokens):
                    scale = self.tokens[at + 1][1].casefold()
                    if scale in ("c", "f", "celsius", "fahrenheit", "centigrade"):
                        return "°f" if scale.startswith("f") else "°c", 2
                return low, 1
        return "", 0

    def add(self, shown: str, digits: str, unit: str) -> None:
        amount = value(digits)
        if unit and amount is not None:
            dimension, factor, _ = UNITS[unit]
            key: tuple = (dimension, float(f"{amount * factor:.9g}"))
        else:
            dimension, key = "", ("", digits)
        self.reading.quantities.append(Quantity(f"{shown} {unit}".strip(), digits, dimension, key))
        self.reading.items.append("#" + digits)
        self.money = ""

    def scale(self, at: int, digits: str) -> tuple[str, int]:
        """Digits multiplied by the word that follows them ("3 million"), and how many tokens that took."""
        taken = 0
        while at < len(self.tokens) and self.tokens[at][0] == "word" and (times := self.scales.get(fold(self.tokens[at][1], self.reading.code))):
            amount = value(digits)
            if amount is None or abs(amount) > 1e15:
                break
            digits, at, taken = f"{amount * times:.12g}", at + 1, taken + 1
        return digits, taken

    def number(self, at: int) -> int:
        _, written, tail = self.tokens[at]
        low, digits, taken = tail.casefold(), number(written, self.reading.code), 1
        unit = self.money
        if low in ("k", "bn", "mn", "cr") or tail == "M":
            amount = value(digits)
            digits = f"{amount * {'k': 1e3, 'bn': 1e9, 'cr': 1e7}.get(low, 1e6):.12g}" if amount is not None else digits + low
        elif low in ORDINAL_ENDINGS and low not in UNITS:
            pass
        elif low in UNITS:
            if tail[0] == "M" and low in ("mw", "mpa", "mv", "ma"):  # mega, not milli
                self.identifier(written + tail)
                return 1
            unit = low
        elif low:
            self.identifier((written + tail).casefold())
            return 1
        if not unit or low in ("k", "m"):
            digits, more = self.scale(at + 1, digits)
            taken += more
            found, more = self.unit(at + taken)
            if found:
                unit, taken = found, taken + more
        self.add(written + tail, digits, unit)
        return taken

    def word_number(self, at: int) -> tuple[float, int] | None:
        """A number in words from a token on: its value and how many tokens it takes; None if there is none."""
        total, current, taken, joined = 0.0, 0.0, 0, False
        while at + taken < len(self.tokens):
            kind, written, _ = self.tokens[at + taken]
            if kind == "op" and written == "-" and taken and at + taken + 1 < len(self.tokens):
                after = fold(self.tokens[at + taken + 1][1], self.reading.code)
                if current % 100 >= 20 and after in self.numbers:
                    taken += 1
                    continue
                break
            if kind != "word":
                break
            word = fold(written, self.reading.code)
            if word in self.scales and len(word) > 1:
                times = self.scales[word]
                current = (current or 1.0) * times
                if times >= 1000:
                    total, current = total + current, 0.0
            elif word in self.numbers and (not taken or joined or current % 100 == 0 or (current % 10 == 0 and 0 < self.numbers[word] < 10)):
                current += self.numbers[word]
            elif word in self.pronouns and at + taken + 1 < len(self.tokens) and fold(self.tokens[at + taken + 1][1], self.reading.code) in self.scales:
                current += 1.0
            elif (word in ("one", "eins", "uno") and taken and current % 100 >= 20) or (word == "un" and taken and current % 100 >= 20):
                current += 1.0
            elif word in ("and", "und", "y", "et") and taken and at + taken + 1 < len(self.tokens) and (
                fold(self.tokens[at + taken + 1][1], self.reading.code) in self.numbers and (total + current) >= 100 or word in ("y", "et") and current >= 20
                and fold(self.tokens[at + taken + 1][1], self.reading.code) in self.numbers
            ):
                joined, taken = True, taken + 1
                continue
            else:
                break
            joined, taken = False, taken + 1
        return (total + current, taken) if taken else None

    def word(self, at: int, initial: bool, named: bool) -> tuple[int, bool]:
        """Reads the word at a token; returns how many tokens that took and whether it looked like a name."""
        reading, written = self.reading, self.tokens[at][1]
        word = fold(written, reading.code)
        following = self.tokens[at + 1] if at + 1 < len(self.tokens) else ("", "", "")
        dashed = following[1] == "-" and following[0] == "op" and at + 2 < len(self.tokens) and self.tokens[at + 2][0] == "num"
        if following[0] == "num" or dashed:
            _, digits, tail = self.tokens[at + 2 if dashed else at + 1]
            if (together := (written + digits + tail).casefold()) in self.glued or (dashed and written.isupper() and len(written) <= 4):
                self.identifier(together)
                return 3 if dashed else 2, False
        if "_" in written or not written.isascii() and _HAS_DIGIT.search(written) or _HAS_DIGIT.search(written):
            if written[1:].isdigit() and written[0] in "vV":  # v2
                self.add(written, written[1:], "")
            else:
                self.identifier(written if "_" in written else word)
            return 1, True
        if _CAMEL.match(written):
            self.identifier(written)
            reading.words.append(word)
            return 1, True
        two = TWO_WORD_NAMES.get((word, fold(following[1], reading.code))) if following[0] == "word" else None
        if two:
            reading.words.append(two)
            reading.items.append(two)
            return 2, True
        value_of = roman(written, named)
        if value_of:
            self.add(written, str(value_of), "")
            return 1, False
        if word in self.numbers or word in self.scales and len(word) > 1 or word in self.pronouns and fold(following[1], reading.code) in self.scales:
            found = self.word_number(at)
            if found:
                amount, taken = found
                unit, more = self.unit(at + taken)
                shown = " ".join(t[1] for t in self.tokens[at:at + taken])
                self.add(shown, f"{amount:.12g}", unit or self.money)
                return taken + more, False
        if word in self.ordinals:
            self.add(written, f"{self.ordinals[word]:g}", "")
            return 1, False
        if word in self.pronouns:
            reading.ones += 1
        if word in UNITS and word not in NEEDS_NUMBER:
            if UNITS[word][0] in CURRENCIES and following[0] == "num" and len(word) <= 3:
                self.money = word
                return 1, False
            reading.units.add(UNITS[word][2])
        elif word in ("rs", "re") and (following[0] == "num" or following[1] == "." and at + 2 < len(self.tokens) and self.tokens[at + 2][0] == "num"):
            self.money = "rs"
            return 2 if following[1] == "." else 1, False
        upper = written[0].isupper() and not initial and word not in ("i", "i'm", "i've", "i'd", "i'll")
        for part in self.parts(word):
            reading.words.append(part)
            reading.items.append(part)
        if upper and reading.words:
            reading.capitals.add(reading.words[-1])
        return 1, written[0].isupper()

    def parts(self, word: str) -> tuple[str, ...]:
        if self.language is not None:
            if word in self.language.contractions:
                return self.language.contractions[word]
            if "'" in word:
                if self.language.code == "fr":
                    return tuple(part for part in word.split("'") if part)
                head, _, tail = word.partition("'")
                return (head, "not") if tail == "t" else (head,)
        return (word,)


def read_pair(asked: str, remembered: str) -> tuple[Reading, Reading]:
    """Both questions read in the language of each; one whose language its words do not tell is read in the other's."""
    readings = []
    for text in (normalized(asked), normalized(remembered)):
        writing, code = _languages(text)
        known = LANGUAGES.get(code)
        text = _without_padding(text, [known] if known else [] if code else list(LANGUAGES.values()))
        readings.append(Reading(text, code, writing))
    one, other = readings
    if one.code is None and len(one.text) < EDGE:
        one.code = other.code if one.script in ("", other.script) else None
    elif other.code is None and len(other.text) < EDGE:
        other.code = one.code if other.script in ("", one.script) else None
    (tokens_a, mixed_a), (tokens_b, mixed_b) = scan(one.text), scan(other.text)
    for reading, tokens, glued in ((one, tokens_a, mixed_b), (other, tokens_b, mixed_a)):
        _Walk(reading, tokens, glued).run()
        reading.quoted = [(a or b).strip() for a, b in _QUOTED.findall(reading.text)]
    return one, other
