"""The lexical gates: each kind vetoes what differs and lets the same question pass, in four languages."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.cache.gates import GATES, judge, stripped
from appliance.cache.lexicon import LANGUAGES

# gate, one question, another that must not share its answer
DIFFERENT = [
    ("numbers", "Can I take 5 mg of morphine?", "Can I take 50 mg of morphine?"),
    ("numbers", "What is new in Python 3.1?", "What is new in Python 3.10?"),
    ("numbers", "Where is room 204?", "Where is room 240?"),
    ("numbers", "How many tablets are in two packs?", "How many tablets are in three packs?"),
    ("numbers", "Who won World War II?", "Who won World War I in 1918?"),
    ("numbers", "Wie lade ich 1.500 Dateien hoch?", "Wie lade ich 15.000 Dateien hoch?"),
    ("numbers", "Comment cuire un œuf en dix minutes ?", "Comment cuire un œuf en six minutes ?"),
    ("numbers", "¿Cómo ahorrar 200 euros?", "¿Cómo ahorrar 2000 euros?"),
    ("units", "Is 5 mg of warfarin too much?", "Is 5 g of warfarin too much?"),
    ("units", "How do I convert 10 miles?", "How do I convert 10 km?"),
    ("units", "Sind 20 Minuten genug?", "Sind 20 Stunden genug?"),
    ("units", "How many grams are in a cup?", "How many ounces are in a cup?"),
    ("dates", "What happened on 3 May 2024?", "What happened on 2024-05-04?"),
    ("dates", "Is the clinic open at 5pm?", "Is the clinic open at 5am?"),
    ("dates", "Ist um 17 Uhr geöffnet?", "Ist um 18 Uhr geöffnet?"),
    ("negation", "How to wash wool", "How not to wash wool"),
    ("negation", "Why does the pump start?", "Why doesn't the pump start?"),
    ("negation", "Is it safe to eat this?", "Is it unsafe to eat this?"),
    ("negation", "Can I travel with a visa but not a passport?", "Can I travel with a passport but not a visa?"),
    ("negation", "How do I get headaches?", "How do I prevent headaches?"),
    ("negation", "Warum startet der Drucker?", "Warum startet der Drucker nicht?"),
    ("negation", "Pourquoi la pompe démarre ?", "Pourquoi la pompe ne démarre pas ?"),
    ("negation", "¿Por qué arranca la bomba?", "¿Por qué no arranca la bomba?"),
    ("negation", "Darf ich ohne Helm fahren?", "Darf ich mit Helm fahren?"),
    ("antonyms", "How do I increase my blood pressure?", "How do I decrease my blood pressure?"),
    ("antonyms", "What are the symptoms of hypotension?", "What are the symptoms of hypertension?"),
    ("antonyms", "How do I upload the file?", "How do I download the file?"),
    ("antonyms", "What is the maximum speed?", "What is the minimum speed?"),
    ("antonyms", "Wie öffne ich das Ventil?", "Wie schließe ich das Ventil?"),
    ("antonyms", "Comment allumer la lampe ?", "Comment éteindre la lampe ?"),
    ("antonyms", "¿Cómo puedo comprar acciones?", "¿Cómo puedo vender acciones?"),
    ("antonyms", "¿Cómo se llama el niño?", "¿Cómo se llama la niña?"),
    ("directions", "How do I migrate from MySQL to Postgres?", "How do I migrate from Postgres to MySQL?"),
    ("directions", "Flights to Berlin", "Flights from Berlin"),
    ("directions", "Why do dogs chase cats?", "Why do cats chase dogs?"),
    ("directions", "Is Java faster than Go?", "Is Go faster than Java?"),
    ("directions", "How do I log in?", "How do I log out?"),
    ("directions", "How do I turn the lamp on?", "How do I turn off the lamp?"),
    ("directions", "Wie schalte ich den Drucker ein?", "Wie schalte ich den Drucker aus?"),
    ("directions", "Do I eat before the pill?", "Do I eat after the pill?"),
    ("directions", "Who helped Anna?", "Who did Anna help?"),
    ("directions", "Wie komme ich von Köln nach Bonn?", "Wie komme ich von Bonn nach Köln?"),
    ("directions", "Comment aller de Lyon à Paris ?", "Comment aller de Paris à Lyon ?"),
    ("directions", "¿Cómo ir desde Madrid hasta Toledo?", "¿Cómo ir desde Toledo hasta Madrid?"),
    ("question_word", "When does the pharmacy open?", "Where does the pharmacy open?"),
    ("question_word", "How do I charge the battery?", "How long do I charge the battery?"),
    ("question_word", "Why do I restart the server?", "How do I restart the server?"),
    ("question_word", "Wann öffnet die Apotheke?", "Wo öffnet die Apotheke?"),
    ("question_word", "Pourquoi changer le filtre ?", "Comment changer le filtre ?"),
    ("question_word", "¿Cuándo abre la farmacia?", "¿Dónde abre la farmacia?"),
    ("quantifiers", "Are all mushrooms edible?", "Are some mushrooms edible?"),
    ("quantifiers", "Must it be at least a metre?", "Must it be at most a metre?"),
    ("quantifiers", "Can I delete the photos?", "Can I delete only the photos?"),
    ("quantifiers", "Kann ich alle Dateien löschen?", "Kann ich nur Dateien löschen?"),
    ("modality", "Must I tell my employer?", "Can I tell my employer?"),
    ("modality", "Who will win the cup?", "Who did win the cup?"),
    ("modality", "Muss ich den Chef fragen?", "Kann ich den Chef fragen?"),
    ("names", "What is the capital of France?", "What is the capital of Germany?"),
    ("names", "What is the capital?", "What is the capital of France?"),
    ("names", "Is the lab open on Monday?", "Is the lab open on Tuesday?"),
    ("names", "How do I install Docker on Ubuntu?", "How do I install Docker on Fedora?"),
    ("names", "Who was the wife of Mozart?", "Who was the wife of Haydn?"),
    ("names", "Ist das Labor am Montag offen?", "Ist das Labor am Dienstag offen?"),
    ("names", "Quelle est la capitale de l'Italie ?", "Quelle est la capitale de la Suède ?"),
    ("names", "¿Cuál es la capital de Francia?", "¿Cuál es la capital de Alemania?"),
    ("identifiers", "What does error E42 mean?", "What does error E43 mean?"),
    ("identifiers", "What is in /etc/passwd?", "What is in /etc/shadow?"),
    ("identifiers", "What does tar --list do?", "What does tar --diff do?"),
    ("identifiers", "How do I open main.py?", "How do I open main.js?"),
    ("identifiers", "What does getItem return?", "What does setItem return?"),
    ("identifiers", "Is 10.0.0.1 reachable?", "Is 10.0.0.2 reachable?"),
    ("identifiers", "How do I learn C++?", "How do I learn C#?"),
    ("identifiers", "What is H2O?", "What is H2O2?"),
    ("identifiers", "What is 5 + 3?", "What is 5 * 3?"),
    ("identifiers", "What is 5 - 3?", "What is 3 - 5?"),
    ("identifiers", "Run `rm a`?", "Run `rm b`?"),
    ("identifiers", "Write to anna@example.org?", "Write to hanna@example.org?"),
    ("quoted", 'What does "lock" mean here?', 'What does "latch" mean here?'),
    ("coverage", "How long do I boil eggs?", "How long do I boil potatoes?"),
    ("coverage", "How much nitrite is in water?", "How much nitrate is in water?"),
    ("coverage", "What is a monad?", "What is a lemma?"),
    ("coverage", "Wie lange kocht man Eier?", "Wie lange kocht man Kartoffeln?"),
    ("coverage", "Comment cuire des haricots ?", "Comment cuire des crevettes ?"),
    ("coverage", "¿Cómo se cocinan los garbanzos?", "¿Cómo se cocinan las gambas?"),
    ("language", "Where is the station?", "Wo ist der Bahnhof?"),
    ("language", "Where is the station?", "Где вокзал?"),
    ("language", "Dov'è la stazione e come posso andare?", "Dov'è la stazione e come non posso andare?"),
    ("language", "駅はどこですか", "駅はどこではありませんか"),
]
SAME = [
    ("Can I take 5mg of morphine?", "Can I take 5 milligrams of morphine?"),
    ("Is 1000 m enough?", "Is 1 km enough?"),
    ("What happened on 3 May 2024?", "What happened on 2024-05-03?"),
    ("What happened on 05/03/2024?", "What happened on 3 May 2024?"),
    ("Is it open at 5pm?", "Is it open at 17:00?"),
    ("How many days are in twenty-five weeks?", "How many days are in 25 weeks?"),
    ("What costs $1,500?", "What costs 1500 dollars?"),
    ("Can I earn 10k?", "Can I earn 10,000?"),
    ("What is five percent of 80?", "What is 5% of 80?"),
    ("How do I fix my iPhone 6?", "how do i fix my iphone6"),
    ("Why doesn't the printer work?", "The printer does not work, why?"),
    ("Why is it not possible to print?", "Why is it impossible to print?"),
    ("How can I lose weight?", "What is the best way to lose weight?"),
    ("How do I stop snoring?", "How do I avoid snoring?"),
    ("What is the price of a ticket?", "How much is a ticket?"),
    ("What is the difference between Java and Go?", "What is the difference between Go and Java?"),
    ("How do I reset my password?", "Hi there, quick question: could you please tell me how to reset my password? Thanks in advance!"),
    ("How do I reset my pasword?", "how can i reset my password"),
    ("WHAT IS THE CAPITAL OF FRANCE?", "what is the capital of France"),
    ("How do I start an e-commerce shop?", "How do I start an ecommerce shop?"),
    ("How do I deal with an annoying roommate?", "How do I deal with annoying rommmates?"),
    ("What is search engine optimization?", "What is SEO?"),
    ("Who won in the United States?", "Who won in the USA?"),
    ("Wie ändere ich mein Passwort?", "Hallo, wie kann ich mein Kennwort ändern? Vielen Dank"),
    ("Fuer wen gilt die Regel?", "Für wen gilt die Regel?"),
    ("Wie viel kosten fünfundzwanzig Stück?", "Wie viel kosten 25 Stück?"),
    ("Sind 1,5 Liter genug?", "Sind 1500 ml genug?"),
    ("Comment changer mon mot de passe ?", "Bonjour, comment changer mon mot de passe ? Merci d'avance"),
    ("Où est la gare ?", "où est la gare"),
    ("¿Cómo cambio mi contraseña?", "Hola, ¿cómo cambio mi contraseña? Muchas gracias"),
    ("¿Dónde está la estación?", "donde esta la estacion"),
    ("Dov'è la stazione?", "dov'è la stazione"),
    ("駅はどこですか？", "駅はどこですか"),
    ("أين المحطة؟", "أين المحطة"),
]


def vetoes(asked: str, remembered: str) -> dict[str, str]:
    return {verdict.gate: verdict.reason for verdict in judge(asked, remembered) if not verdict.passed}


@pytest.mark.parametrize(("gate", "asked", "remembered"), DIFFERENT)
def test_a_difference_of_each_kind_is_vetoed_by_its_gate_with_a_reason(gate, asked, remembered):
    for one, other in ((asked, remembered), (remembered, asked)):
        found = vetoes(one, other)
        assert gate in found, found
        assert found[gate].strip()


@pytest.mark.parametrize(("asked", "remembered"), SAME)
def test_the_same_question_in_other_words_passes_every_gate(asked, remembered):
    assert vetoes(asked, remembered) == {} == vetoes(remembered, asked)


def test_every_gate_speaks_in_a_fixed_order_and_only_a_veto_has_a_reason():
    verdicts = judge("How do I take 5 mg?", "How do I take 50 mg?")
    assert [verdict.gate for verdict in verdicts] == list(GATES)
    assert all(verdict.passed == (verdict.reason == "") for verdict in verdicts)
    assert vetoes("Take 5 mg?", "Take 50 mg?")["numbers"] == "one says 5 mg, the other 50 mg"
    assert {gate for gate, _, _ in DIFFERENT} == set(GATES), "a gate has no example"


@pytest.mark.parametrize(("text", "left"), [
    ("Hi, quick question: how do I print?", "how do I print?"),
    ("I was wondering if you could tell me where the lab is", "where the lab is"),
    ("How do I print? Thanks a lot!", "How do I print?"),
    ("Guten Tag, können Sie mir bitte sagen, wo das Labor ist? Danke", "wo das Labor ist?"),
    ("Bonjour, pourriez-vous me dire où est la gare ? Merci", "où est la gare ?"),
    ("Hola, ¿me puedes decir cómo imprimo? Gracias", "cómo imprimo?"),
    ("Thanks!", "Thanks!"),
    ("How do I say thanks", "How do I say thanks"),
    ("Can you eat raw eggs?", "Can you eat raw eggs?"),
    ("", ""),
])
def test_padding_is_taken_off_and_never_the_question_itself(text, left):
    assert stripped(text) == left


@pytest.mark.parametrize("code", sorted(LANGUAGES, key=str))
def test_no_word_is_its_own_opposite_and_opposites_are_mutual(code):
    opposites = LANGUAGES[code].opposites
    assert len(opposites) > 300
    for word, others in opposites.items():
        assert word not in others, word
        assert all(word in opposites[other] for other in others), word


PIECES = st.lists(st.one_of(
    st.sampled_from(sorted({word for _, one, other in DIFFERENT for text in (one, other) for word in text.split()})),
    st.sampled_from(["3.", "-5", "1,000", "II", "05/03/2024", "99/99/9999", "U.S.", "5 °", "'", '"', "`", "--", "1:99", "don't", "US", "\n", "¿", "٣", "²", "ﬁ", "\u0301", "no", "not"]),
    st.text(max_size=6),
), max_size=12).map(" ".join)
TEXTS = st.one_of(PIECES, st.text(max_size=40))


@given(TEXTS)
@example("\ud800")
@example("5 5")
@example("½ ٣ ² Ⅳ")
@example("31 feb 0000 13.13.13")
def test_a_question_is_the_same_as_itself(text):
    assert vetoes(text, text) == {}


@given(TEXTS, TEXTS)
@example("at least 5 or at most 6", "at most 5")
def test_the_order_of_the_two_questions_plays_no_part(one, other):
    assert set(vetoes(one, other)) == set(vetoes(other, one))


@given(PIECES)
def test_stripping_keeps_something_of_every_text_that_says_something(text):
    assert bool(stripped(text)) == bool(text.strip()) or not any(c.isalnum() for c in text)


@pytest.mark.parametrize("piece", [
    "how do I print ", "a", "1", "1,000", "1.", "a.b", "a/", "-", "'", '"a', "a@", "`", "hi ", "thanks ", "please, ", "not from a to b ", "twenty ", "\u4e00", "a_", "( ", "5 mg ", "U.", "May 5 ",
])
def test_time_grows_no_faster_than_the_text(piece):
    def seconds(size: int) -> float:
        text = (piece * size)[:size]
        other = "why " + text
        best = min(_once(text, other) for _ in range(3))
        return best

    assert seconds(20_000) < max(12 * seconds(5_000), 0.4)


def _once(one: str, other: str) -> float:
    start = time.process_time()
    judge(one, other)
    return time.process_time() - start
