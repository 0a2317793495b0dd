"""Hard pairs: the same seed gives the same pairs, labels are balanced and right, noise leaves digits alone, mistakes are told."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from fakes import ROOT

from appliance.errors import InvalidRequest
from appliance.factory import hard_pairs, patterns
from appliance.factory.hard_pairs import DIFFERENT, KINDS, SAME, Frame

REAL = (
    ("How can I convert euros to dollars at least 3 times a day?", "What is the way to convert euros to dollars at least 3 times a day?"),
    ("Is Java faster than Python?", "Does Java run faster than Python?"),
    ("What is the difference between tea and coffee in 10 minutes?", "How does tea differ from coffee in 10 minutes?"),
    ("Translate 'good morning my friend' to German.", "What is 'good morning my friend' in German?"),
    ("Should I buy 5 liters of milk at 5 pm?", "Is it wise to buy 5 liters of milk at 5 pm?"),
    ("What is the difference between tea and coffee?", "What is the difference between tea and coffee?"),
    ("What is my favorite color?", "What's my favourite colour?"),
)


@pytest.fixture(scope="module")
def material():
    return hard_pairs.read(ROOT / "models/pair-verifier-int8/data")


@pytest.fixture(scope="module")
def pairs(material):
    return list(hard_pairs.generate(material, 4000, random.Random(7), REAL))


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others(material):
    def first(seed):
        return list(hard_pairs.generate(material, 60, random.Random(seed), REAL))

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_pairs_are_distinct_balanced_and_of_every_kind(pairs):
    assert len({(pair.a, pair.b) for pair in pairs}) == 4000
    assert 0.45 < sum(pair.same for pair in pairs) / len(pairs) < 0.55
    kinds = Counter((pair.same, pair.kind) for pair in pairs)
    assert set(kinds) == {(same, kind) for same in KINDS for kind in KINDS[same]}


def test_no_text_stands_against_itself(pairs):
    for pair in pairs:
        assert pair.a != pair.b
        if not pair.same:
            assert pair.a.lower().strip(" ?.!") != pair.b.lower().strip(" ?.!"), pair


def test_every_slot_is_filled_and_no_grammar_is_left(pairs):
    assert not [pair for pair in pairs if re.search(r"[{}@|\[\]]|  ", pair.a + pair.b)]


def test_noise_does_not_tell_the_label(material, pairs):
    greetings = tuple(text.strip(" ,.:!").lower() for text in material.padding["en"]["before"])
    for sign in (lambda text: text.lower().startswith(greetings), str.islower, lambda text: text.endswith("?")):
        same, different = ([sign(pair.a) != sign(pair.b) for pair in pairs if pair.same is label] for label in (True, False))
        assert abs(sum(same) / len(same) - sum(different) / len(different)) < 0.1


@pytest.mark.parametrize("text", ["Give 5 mg of drug V12 at 17:30 on 3 May, error 0x80070005", "¿A qué hora sale el tren 4711 a Lima?", "Öffnet Tor B13 um 8:15 Uhr?"])
def test_noise_never_changes_a_digit(material, text):
    rng = random.Random(3)
    language = "es" if "¿" in text else "de" if "Uhr" in text else "en"
    seen = {hard_pairs.noise(text, language, material, rng) for _ in range(400)}
    assert len(seen) > 50
    assert {tuple(re.findall(r"\d+", noisy)) for noisy in seen} == {tuple(re.findall(r"\d+", text))}


def test_a_typo_never_makes_another_word(material):
    rng = random.Random(3)
    assert all(SAME["typo"]("a trial", material, rng) != "a trail" for _ in range(300))


@pytest.mark.parametrize(
    ("kind", "question", "expected"),
    [
        ("negation", "Why does the pump stop?", {"Why doesn't the pump stop?"}),
        ("negation", "Why can't I log in?", {"Why can I log in?"}),
        ("negation", "What foods should I eat?", {"What foods should I not eat?"}),
        ("antonym", "Is it legal?", {"Is it illegal?"}),
        ("antonym", "How long does it take?", {None}),
        ("antonym", "How expensive is it?", {None}),
        ("unit", "Is it done in 5 minutes?", {f"Is it done in 5 {unit}?" for unit in ("hours", "days", "weeks", "months", "years")}),
        ("order", "Is Java faster than Python?", {"Is Python faster than Java?"}),
        ("order", "How do I get from Rome to Paris?", {"How do I get from Paris to Rome?"}),
        ("order", "How far is it from Rome to Paris?", {None}),
        ("quantifier", "Do I need at most 3 cups?", {"Do I need at least 3 cups?"}),
        ("modality", "May I leave?", {"Must I leave?"}),
        ("number", "Who won 24/7?", {None}),
    ],
)
def test_what_changes_the_meaning(material, kind, question, expected):
    assert {DIFFERENT[kind](question, material, random.Random(seed)) for seed in range(80)} == expected


@pytest.mark.parametrize(
    ("kind", "question", "expected"),
    [
        ("symmetry", "What is the difference between tea and coffee?", {"What is the difference between coffee and tea?"}),
        ("symmetry", "Which is better: tea or coffee?", {"Which is better: coffee or tea?"}),
        ("contraction", "What is a fuse?", {"What's a fuse?"}),
        ("contraction", "Why don't birds fall?", {None}),
        ("spelling", "What is a good color?", {"What is a good colour?"}),
        ("format", "Is it open at 5 pm?", {"Is it open at 17:00?"}),
        ("format", "Is it open at 12 am?", {"Is it open at 00:00?"}),
        ("format", "Is 5 mg enough?", {"Is 5mg enough?"}),
        ("keywords", "How do I reset my bank password?", {"reset bank password", "how to reset bank password"}),
        ("synonym", "Where can I buy it?", {"Where can I purchase it?"}),
    ],
)
def test_what_keeps_the_meaning(material, kind, question, expected):
    assert {SAME[kind](question, material, random.Random(seed)) for seed in range(60)} == expected


def test_edits_gives_one_pair_for_every_operator_that_applies(material):
    found = hard_pairs.edits("Why should I take 5 mg of aspirin before Monday?", material, random.Random(1))
    kinds = {(pair.same, pair.kind) for pair in found}
    assert len(kinds) == len(found)
    assert {(False, kind) for kind in ("negation", "antonym", "number", "unit", "entity", "question-word")} <= kinds
    assert {(True, kind) for kind in ("padding", "format")} <= kinds


@pytest.mark.parametrize("text", ["", "?", "a", "12", "¿", "🙂 ok?", "''", "from to from to", "NOT", "how to ", "x" * 3000, "why\nnot 5 % of \"\"?"])
def test_any_text_can_be_edited(material, text):
    for pair in hard_pairs.edits(text, material, random.Random(2)):
        assert pair.a != pair.b


def test_the_other_wording_stands_against_changed_meaning_only(material):
    found = hard_pairs.edits("Is milk healthy?", material, random.Random(1), other="Does drinking it do me good?")
    assert not [pair for pair in found if pair.same and "good?" in (pair.a + pair.b).lower()]
    assert any(pair.kind == "antonym" and "unhealthy" in (pair.a + pair.b).lower() for pair in found if not pair.same)


def test_more_pairs_than_there_are_is_refused(material, monkeypatch):
    monkeypatch.setattr(hard_pairs, "MOST_TRIES", 20)
    frame = Frame("de", "lab", ((patterns.parse("Ja?"),), (patterns.parse("Nein?"),)), ())
    with pytest.raises(InvalidRequest, match=r"only \d+ of 9000 pairs"):
        list(hard_pairs.generate(replace(material, frames=(frame,), actions=(frame,)), 9000, random.Random(1)))


def test_mistakes_in_the_data_are_told(tmp_path):
    for name in ("slots.toml", "words.toml"):
        (tmp_path / name).write_bytes((ROOT / "models/pair-verifier-int8/data" / name).read_bytes())
    (tmp_path / "xx.toml").write_text('language = "en"\n[frames]\nlab = [[["Is {nothing} on?"]], [["Is {drug} (good?"]], [["{drug}?", "on?"]]]\n')
    with pytest.raises(InvalidRequest) as told:
        hard_pairs.read(tmp_path)
    assert all(f"lab {number}:" in str(told.value) for number in (1, 2, 3))
    with pytest.raises(InvalidRequest, match="no pair data"):
        hard_pairs.read(tmp_path / "nowhere")
