"""Numbers, units, dates and times of day for the gates: the tables, and what turns written forms into comparable values. Pure."""

from __future__ import annotations

import re

from appliance.cache.lexicon import fold

# alias ... : dimension, factor to the dimension's base. Units of money, of counting time in months, and of other things without a fixed rate have their own dimension.
_UNITS = """
mass g 1: g gram grams gramm gramme grammes gramo gramos gm gms
mass g 1000: kg kgs kilo kilos kilogram kilograms kilogramm kilogramme kilogrammes kilogramo kilogramos
mass g 0.001: mg milligram milligrams milligramm milligramme milligrammes miligramo miligramos
mass g 0.000001: ug µg μg mcg microgram micrograms mikrogramm microgramme microgrammes microgramo microgramos
mass g 0.000000001: ng nanogram nanograms nanogramm
mass g 453.59237: lb lbs pound pounds livre livres libra libras
mass g 28.349523: oz ounce ounces unze unzen once onces onza onzas
mass g 1000000: tonne tonnes tonnen tonelada toneladas ton tons
length m 1: m meter meters metre metres mètre mètres metro metros
length m 1000: km kms kilometer kilometers kilometre kilometres kilomètre kilomètres kilómetro kilómetros
length m 0.01: cm cms centimeter centimeters centimetre centimetres zentimeter centimètre centimètres centímetro centímetros
length m 0.001: mm millimeter millimeters millimetre millimetres millimètre millimètres milímetro milímetros
length m 0.000001: µm μm um micron microns micrometer mikrometer
length m 0.000000001: nm nanometer nanometers nanometre
length m 1609.344: mile miles mi meile meilen mille milla millas
length m 0.3048: ft foot feet fuss pied pieds pie pies
length m 0.0254: inch inches zoll pouce pouces pulgada pulgadas
length m 0.9144: yd yard yards
volume l 1: l liter liters litre litres litro litros
volume l 0.001: ml milliliter milliliters millilitre millilitres mililitro mililitros cc
volume l 0.01: cl centiliter zentiliter
volume l 0.1: dl deciliter deziliter
volume l 0.000001: µl ul microliter mikroliter
gallon gal 1: gallon gallons gal
cup cup 1: cup cups
spoon tsp 1: tsp teaspoon teaspoons teelöffel
spoon tsp 3: tbsp tablespoon tablespoons esslöffel
time s 1: s sec secs second seconds sek sekunde sekunden seconde secondes segundo segundos
time s 0.001: ms millisecond milliseconds millisekunde millisekunden
time s 60: min mins minute minutes minuten minuto minutos
time s 3600: h hr hrs hour hours stunde stunden std heure heures hora horas
time s 86400: d day days tag tage tagen jour jours día días
time s 604800: week weeks wk wks woche wochen semaine semaines semana semanas
month month 1: month months monat monate monaten mois mes meses
month month 12: year years yr yrs jahr jahre jahren an ans année années año años yo
month month 120: decade decades jahrzehnt jahrzehnte décennie década
month month 1200: century centuries jahrhundert jahrhunderte siècle siglo
celsius °c 1: °c c celsius centigrade
fahrenheit °f 1: °f f fahrenheit
kelvin K 1: kelvin
degree ° 1: ° degree degrees grad degré degrés grado grados
percent % 1: % percent prozent pct pourcent porciento percentage
data B 1: byte bytes octets
data B 1000: kb kilobyte kilobytes kib
data B 1000000: mb megabyte megabytes mib
data B 1000000000: gb gig gigs gigabyte gigabytes gib go
data B 1000000000000: tb terabyte terabytes tib
bit bit 1: bit bits
rate bit/s 1000: kbps
rate bit/s 1000000: mbps mbit
rate bit/s 1000000000: gbps gbit
power W 1: w watt watts
power W 1000: kw kilowatt kilowatts
power W 1000000: megawatt megawatts
energy J 1: j joule joules
energy J 1000: kj kilojoule kilojoules
energy J 3600000: kwh
energy J 4184: kcal
energy J 4.184: calorie calories cal
voltage V 1: v volt volts
voltage V 0.001: mv millivolt
voltage V 1000: kv kilovolt
current A 1: amp amps ampere amperes
current A 0.001: ma milliamp milliamps
charge Ah 0.001: mah
charge Ah 1: ah
resistance ohm 1: ohm ohms ω
resistance ohm 1000: kohm kω
frequency Hz 1: hz hertz
frequency Hz 1000: khz
frequency Hz 1000000: mhz
frequency Hz 1000000000: ghz
pressure Pa 1: pa pascal
pressure Pa 100: mbar hpa
pressure Pa 1000: kpa
pressure Pa 100000: bar bars
pressure Pa 6894.757: psi
mmhg mmHg 1: mmhg
force N 1: newton newtons
speed m/s 0.2777778: kmh kph km/h
speed m/s 0.44704: mph
speed m/s 1: m/s
density mg/dl 1: mg/dl
density g/l 1: g/l
density mg/l 1: mg/l
density mg/ml 1: mg/ml
density mg/kg 1: mg/kg
concentration mmol/l 1: mmol/l mmol
dose IU 1: iu ui ie
loudness dB 1: db decibel decibels dezibel
pixel px 1: px pixel pixels
resolution dpi 1: dpi
turn rpm 1: rpm
horsepower hp 1: hp bhp ps cv
land ha 1: hectare hectares hektar ha
land acre 1: acre acres
dollar $ 1: $ usd dollar dollars bucks dólar dólares us$
euro € 1: € eur euro euros
pound-money £ 1: £ gbp quid sterling
yen ¥ 1: ¥ jpy yen
rupee ₹ 1: ₹ rs inr rupee rupees re
franc CHF 1: chf franken
yuan CNY 1: cny rmb yuan
tablet tablet 1: tablet tablets tablette tabletten pill pills comprimé comprimés pastilla pastillas
dozen piece 12: dozen
times times 1: x times mal fois veces
"""
UNITS: dict[str, tuple[str, float, str]] = {}
for _line in _UNITS.strip().splitlines():
    _head, _, _aliases = _line.partition(": ")
    _dimension, _label, _factor = _head.split()
    for _alias in _aliases.split():
        UNITS[_alias] = UNITS[fold(_alias)] = (_dimension if _dimension != "density" else _label, float(_factor), _aliases.split()[0])
CURRENCIES = frozenset({"dollar", "euro", "pound-money", "yen", "rupee", "franc", "yuan"})
LOOSE = CURRENCIES | {"month", "tablet", "times", "degree"}  # often left unsaid: 5 is taken for 5 euros where the other side says euros
# Short ones that are also words or initials: units only right behind a number, and never counted alone.
NEEDS_NUMBER = frozenset("g m l s h d c f v w j k x a an go ma pa ha ie re rs cv ps once mi um ui mes pie pies mal min cup cups second seconds seconde segundo bar bars libra livre tablet tablets times mille metro yo ms hp cal gal sec pound pounds fuss foot feet bit bits tag grad % ° $ € £ ¥ ₹ percentage ω".split())

_ONES = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty",
    "de": "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn zwanzig",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit dix-neuf vingt",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete dieciocho diecinueve veinte",
}
_TENS = {
    "en": "thirty=30 forty=40 fourty=40 fifty=50 sixty=60 seventy=70 eighty=80 ninety=90",
    "de": "dreissig=30 dreißig=30 vierzig=40 fünfzig=50 sechzig=60 siebzig=70 achtzig=80 neunzig=90",
    "fr": "trente=30 quarante=40 cinquante=50 soixante=60 septante=70 huitante=80 nonante=90",
    "es": "treinta=30 cuarenta=40 cincuenta=50 sesenta=60 setenta=70 ochenta=80 noventa=90 veintiuno=21 veintidós=22 veintitrés=23 veinticuatro=24 "
          "veinticinco=25 veintiséis=26 veintisiete=27 veintiocho=28 veintinueve=29",
}
_SCALES = {
    "en": "hundred=100 thousand=1000 lakh=100000 lakhs=100000 lac=100000 crore=10000000 crores=10000000 million=1000000 millions=1000000 billion=1000000000 "
          "billions=1000000000 trillion=1000000000000 k=1000 bn=1000000000",
    "de": "hundert=100 tausend=1000 million=1000000 millionen=1000000 mio=1000000 milliarde=1000000000 milliarden=1000000000 mrd=1000000000 k=1000",
    "fr": "cent=100 cents=100 mille=1000 million=1000000 millions=1000000 milliard=1000000000 milliards=1000000000 k=1000",
    "es": "cien=100 ciento=100 mil=1000 millón=1000000 millones=1000000 doscientos=200 trescientos=300 quinientos=500 k=1000",
}
_ORDINALS = {
    "en": "first=1 third=3 fourth=4 fifth=5 sixth=6 seventh=7 eighth=8 ninth=9 tenth=10 eleventh=11 twelfth=12 second=2 twice=2 thrice=3",
    "de": "zweite=2 zweiten=2 zweiter=2 zweites=2 dritte=3 dritten=3 dritter=3 vierte=4 vierten=4 fünfte=5 fünften=5 zweimal=2 dreimal=3",
    "fr": "deuxième=2 second=2 seconde=2 troisième=3 quatrième=4 cinquième=5",
    "es": "segundo=2 segunda=2 tercero=3 tercera=3 tercer=3 cuarto=4 quinto=5",
}
_HALVES = {"en": "half=0.5", "de": "halb=0.5 halbe=0.5 halben=0.5 anderthalb=1.5", "fr": "demi=0.5 demie=0.5 moitié=0.5", "es": "medio=0.5 media=0.5 mitad=0.5"}
PRONOUN_ONES = {"en": "one a an", "de": "ein eine einen einem einer eines eins", "fr": "un une", "es": "un uno una"}


def _table(text: str, code: str) -> dict[str, float]:
    return {fold(word, code): float(value) for word, _, value in (item.partition("=") for item in text.split())}


NUMBER_WORDS: dict[str | None, dict[str, float]] = {}
SCALE_WORDS: dict[str | None, dict[str, float]] = {}
ORDINAL_WORDS: dict[str | None, dict[str, float]] = {}
for _code, _text in _ONES.items():
    _values = {fold(w, _code): float(n) for n, w in enumerate(_text.split()) if n != 1 and "-" not in w}
    NUMBER_WORDS[_code] = _values | _table(_TENS[_code], _code) | _table(_HALVES[_code], _code)
    SCALE_WORDS[_code] = _table(_SCALES[_code], _code)
    ORDINAL_WORDS[_code] = _table(_ORDINALS[_code], _code)
for _tens in [w for w, v in NUMBER_WORDS["de"].items() if 20 <= v < 100]:
    for _one, _word in enumerate("ein zwei drei vier fünf sechs sieben acht neun".split(), 1):
        NUMBER_WORDS["de"][fold(_word + "und", "de") + _tens] = NUMBER_WORDS["de"][_tens] + _one
ORDINAL_ENDINGS = frozenset("st nd rd th er ère ere ème eme e º ª ro do to".split())

MONTHS: dict[str, int] = {}
for _number, _line in enumerate("""january jan januar jänner janvier enero
february feb februar février febrero
march mar märz mars marzo
april apr avril abril
may mai mayo
june jun juni juin junio
july jul juli juillet julio
august aug août agosto
september sept sep septembre septiembre
october oct oktober octobre octubre okt
november nov novembre noviembre
december dec dezember dez décembre diciembre dic""".splitlines(), 1):
    for _name in _line.split():
        MONTHS[fold(_name)] = MONTHS[fold(_name, "de")] = _number
ROMAN = {"ii": 2, "iii": 3, "iv": 4, "vi": 6, "vii": 7, "viii": 8, "ix": 9, "xi": 11, "xii": 12, "xiii": 13, "xiv": 14, "xv": 15, "xvi": 16}
_ROMAN_ALONE = frozenset({"II", "III", "VII", "VIII", "XII", "XIII", "XIV", "XVI"})


def roman(written: str, after_a_name: bool) -> int | None:
    """The value of a roman numeral in capitals; the short ones only right behind a capitalised word ("Henry VI")."""
    if written in _ROMAN_ALONE or (after_a_name and written in ("IV", "VI", "IX", "XI", "XV")):
        return ROMAN[written.lower()]
    return None


_GROUPS = re.compile(r"\d{1,3}(?:[.,' \u00a0\u202f]\d{3})+$")


def number(written: str, code: str | None) -> str:
    """The digits of a number in one form: no thousand separators, a decimal point. `1.2.3` stays, and so do a version's zeros (3.10)."""
    point, comma = written.count("."), written.count(",")
    if any(c in written for c in " '\u00a0\u202f"):
        written = re.sub("[ '\u00a0\u202f]", "", written)
    if point and comma:  # the last one is the decimal sign
        thousand = "," if written.rfind(".") > written.rfind(",") else "."
        written = written.replace(thousand, "").replace(",", ".")
    elif comma:
        grouped = _GROUPS.match(written) and (code in (None, "en") or comma > 1) and not written.startswith("0")
        written = written.replace(",", "") if grouped else written.replace(",", ".", 1)
    elif point and _GROUPS.match(written) and not written.startswith("0") and (point > 1 or code in ("de", "es", "fr")):
        written = written.replace(".", "")
    return written.lstrip("0") if written.isdigit() and not written.startswith("00") and written.strip("0") and len(written) < 3 else written


def value(digits: str) -> float | None:
    """The number that `number` has written, or None for a version such as 1.2.3 or digits beyond sense."""
    if len(digits) > 40:
        return None
    try:
        return float(digits)
    except ValueError:
        return None


def dates(year: str | None, one: str, two: str, order: str) -> frozenset[tuple[int, int, int]]:
    """The days that `one` and `two` may mean, as (year or 0, month, day). `order` is "md", "dm" or "" where it is not known."""
    full = int(year or 0)
    full += 2000 if year and len(year) == 2 and full < 70 else 1900 if year and len(year) == 2 else 0
    first, second = int(one), int(two)
    found = set()
    if order != "dm" and 1 <= first <= 12 and 1 <= second <= 31:
        found.add((full, first, second))
    if order != "md" and 1 <= second <= 12 and 1 <= first <= 31:
        found.add((full, second, first))
    return frozenset(found)
