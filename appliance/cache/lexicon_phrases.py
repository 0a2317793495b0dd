"""Small words that decide what is asked: quantifiers, limits, modal verbs, kinds of question. Data only, words folded."""

from __future__ import annotations

import re

_QUANTITY_WORDS = {
    "all": "all every each entire always alle jede jeder jedes immer tous toutes chaque toujours todos todas cada siempre",
    "some": "some several few partly sometimes einige manche manchmal quelques parfois algunos algunas",
    "only": "only solely exclusively nur ausschliesslich lediglich seulement uniquement solo solamente unicamente",
    "except": "except excluding ausser sauf excepte excepto salvo",
    "both": "both beide beiden ambos ambas", "neither": "neither weder", "either": "either entweder",
    "half": "half halb halbe moitie mitad", "double": "double twice doppelt double doble",
}
QUANTITY_OF = {word: kind for kind, words in _QUANTITY_WORDS.items() for word in words.split()}
SOME_OF = re.compile(r"\b(?:what|which|who|where|how) \w+ (?:some|all|several|few)\b")
ONE_SIDED = frozenset({"only", "except", "double", "half"})
BOUNDS = re.compile(
    r"\b(?:(?P<least>at least|no less than|not less than|minimum of|mindestens|wenigstens|au moins|al menos|por lo menos|como minimo)|(?P<most>at most|no more than|not more than|maximum of|up to"
    r"|hochstens|maximal|au plus|au maximum|como maximo|a lo sumo)|(?P<more>more than|greater than|longer than|older than|mehr als|plus de|mas de|mas que)"
    r"|(?P<less>less than|fewer than|smaller than|shorter than|younger than|weniger als|moins de|menos de|menos que))\b"
)
MODALS = {
    "en": {"must": "must", "should": "should", "can": "can", "could": "can", "may": "can", "will": "will", "would": "would", "shall": "should", "might": "can",
           "did": "did", "was": "did", "were": "did", "had": "did"},
    "de": {"muss": "must", "mussen": "must", "soll": "should", "sollte": "should", "sollen": "should", "kann": "can", "konnen": "can", "darf": "can", "durfen": "can", "wird": "will", "werden": "will"},
    "fr": {"dois": "must", "doit": "must", "faut": "must", "devrais": "should", "puis": "can", "peut": "can", "peux": "can"},
    "es": {"debo": "must", "debe": "must", "deberia": "should", "puedo": "can", "puede": "can"},
}
STARTS_YES_NO = frozenset(
    "is are am was were do does did can could will would should shall may might must has have had ist sind kann kannst konnen konnte darf durfen muss mussen soll sollte hat habe gibt"
    " wird werden est peut puis dois doit faut es son puedo puede debo debe hay existe".split()
)
# Kinds of question that one wording can stand for: "what is the price" and "how much", "what is it like" and "how is it".
SAME_KIND = {frozenset(pair) for pair in (
    ("how much", "what"), ("how much", "how many"), ("how", "what"), ("why", "what"), ("who", "what"), ("where", "what"), ("how long", "when"), ("how long", "what"),
    ("how long", "how much"), ("how many", "what"), ("how old", "what"), ("how old", "when"), ("how big", "what"), ("how big", "how much"), ("how", "how big"), ("how often", "what"),
    ("how far", "what"), ("how far", "how long"), ("when", "what"), ("where", "where to"), ("how often", "how many"), ("how", "where"), ("how long", "how big"),
    ("how much", "how big"), ("who", "where"),
)}
NEVER_WHAT = frozenset({"when", "how long", "how often", "how old", "how far"})
