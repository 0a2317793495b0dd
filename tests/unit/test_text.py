"""Text assembly: whole characters only, and nothing of a stop string, wherever the pieces are cut."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from appliance.engine.text import TextAssembler

LETTERS = st.text(alphabet="abc\N{EURO SIGN}\N{GRINNING FACE}", max_size=30)
STOPS = st.lists(st.text(alphabet="abc\N{EURO SIGN}", min_size=1, max_size=4), max_size=3)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def assemble(pieces: list[bytes], stops: list[str]) -> tuple[str, str | None]:
    assembler = TextAssembler(stops)
    text = "".join([assembler.push(piece) for piece in pieces] + [assembler.finish()])
    return text, assembler.stopped_by


def cut_at_first_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Letter by letter, which is the slow and obvious way."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(LETTERS, STOPS, st.lists(st.integers(0, 200), max_size=12))
@example("abcd", ["abcd", "bc"], [1, 2, 3])
@example("aab", ["ab"], [2])
@example("abab c", ["abac", "bab"], [1, 2, 3, 4])
def test_any_split_of_a_text_gives_what_letter_by_letter_gives(text, stops, cuts):
    pieces = pieces_of(text.encode(), cuts)
    assert assemble(pieces, stops) == assemble([text.encode()], stops) == cut_at_first_stop(text, stops)


@given(st.binary(max_size=40), st.lists(st.integers(0, 60), max_size=12))
@example(b"\xf0\x9f\x98", [1, 2])
@example(b"\xe2\x82a\xc0\x80\xff", [1, 2, 3, 4])
def test_any_split_of_random_bytes_gives_what_the_whole_gives(data, cuts):
    assert assemble(pieces_of(data, cuts), [])[0] == data.decode("utf-8", "replace")


@given(LETTERS, STOPS.filter(bool), st.lists(st.integers(0, 200), max_size=12))
def test_no_stop_string_is_ever_seen_not_even_its_beginning(text, stops, cuts):
    assembler = TextAssembler(stops)
    expected, stop = cut_at_first_stop(text, stops)
    seen = ""
    for piece in pieces_of(text.encode(), cuts):
        seen += assembler.push(piece)
        assert not any(s in seen for s in stops)
        assert expected.startswith(seen), "released something that has to be taken back"
    assert seen + assembler.finish() == expected
    assert assembler.stopped_by == stop


@given(LETTERS, st.lists(st.integers(0, 200), max_size=12))
def test_only_what_may_become_a_stop_string_is_held_back(text, cuts):
    assembler = TextAssembler(["abc"])
    seen = ""
    for piece in pieces_of(text.encode(), cuts):
        seen += assembler.push(piece)
    rest = assembler.finish()
    if assembler.stopped_by is None:
        assert seen + rest == text
        assert rest in ("", "a", "ab")


def test_a_held_back_beginning_is_released_at_the_end():
    assembler = TextAssembler(["###"])
    assert assembler.push(b"fine ##") == "fine "
    assert assembler.finish() == "##"
    assert assembler.stopped_by is None


def test_half_a_character_is_held_back_and_then_whole():
    assembler = TextAssembler()
    assert assembler.push(b"\xe2\x82") == ""
    assert assembler.push(b"\xac!") == "\N{EURO SIGN}!"


def test_half_a_character_at_the_end_becomes_one_replacement_character():
    assembler = TextAssembler(["x"])
    assert assembler.push(b"a\xf0\x9f\x98") == "a"
    assert assembler.finish() == "\ufffd"


def test_nothing_follows_a_stop_string():
    assembler = TextAssembler(["END"])
    assert assembler.push(b"so END more") == "so "
    assert assembler.stopped_by == "END"
    assert assembler.push(b" even more") == ""
    assert assembler.finish() == ""


def test_a_stop_string_of_replacement_characters_is_found_at_the_very_end():
    assembler = TextAssembler(["\ufffd"])
    assert assembler.push(b"a\xf0") == "a"
    assert assembler.finish() == ""
    assert assembler.stopped_by == "\ufffd"


def test_an_empty_stop_string_stops_nothing():
    assert assemble([b"abc"], ["", ""]) == ("abc", None)
