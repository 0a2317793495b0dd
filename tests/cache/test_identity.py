"""What must be equal before an answer may be given twice: namespaces, system prompts, turns, sampling; and who may name what."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cache.identity import fits, identify
from appliance.cache.policy import namespace_of, permit, read_shares
from appliance.cache.reviewed import context_of
from appliance.errors import ConfigError
from appliance.types import CacheWish, ChatPrompt, GenerationRequest, Sampling, TextPrompt, TokenPrompt


def chat(*turns: tuple[str, str], **more) -> GenerationRequest:
    messages = tuple({"role": role, "content": content} for role, content in turns)
    return GenerationRequest("r", "m", (ChatPrompt(messages),), **more)


def known(request: GenerationRequest, namespace: str = "of:a", model: str = "w1", epoch: str = ""):
    found = identify(request, namespace=namespace, model=model, epoch=epoch)
    assert found
    return found


ASK = ("user", "How do I reset the pump?")
BASE = chat(ASK)


def test_equal_requests_have_one_identity_whatever_their_ids_lanes_and_lengths():
    other = replace(BASE, id="other", priority="batch", max_tokens=5, principal="p2", cache=CacheWish(ttl_s=3.0))
    assert known(BASE) == known(other)


@pytest.mark.parametrize(
    "other",
    [
        {"request": chat(("system", "Be short."), ASK)},
        {"request": chat(("user", "hello"), ("assistant", "hi"), ASK)},
        {"request": chat(ASK, stop=("\n",))},
        {"request": GenerationRequest("r", "m", (TextPrompt(ASK[1]),))},
        {"namespace": "of:b"},
        {"model": "w2"},
        {"epoch": "2"},
        *({"request": replace(BASE, sampling=Sampling(**{field.name: value}))} for field, value in zip(
            fields(Sampling), [0.1, 3, 0.5, 0.2, 0.9, 1.3, 0.5, 0.5, 12, 7, ((1, 2.0),)], strict=True)),
    ],
)  # fmt: skip
def test_what_changes_the_answer_changes_the_partition(other):
    found = known(**{"request": BASE} | other)
    assert found.question == ASK[1] and found.partition != known(BASE).partition and found.exact != known(BASE).exact


TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=8)), max_size=4)


@given(first=TURNS, second=TURNS, spaces=st.lists(st.sampled_from(["of:a", "of:b", "of:a/x", "shared:a"]), min_size=2, max_size=2))
def test_conversations_that_end_in_the_same_words_never_share(first, second, spaces):
    one, other = known(chat(*first, ASK), spaces[0]), known(chat(*second, ASK), spaces[1])
    same = first == second and spaces[0] == spaces[1]
    assert (one.partition == other.partition) is same and (one.exact == other.exact) is same
    assert (context_of(chat(*first, ASK)) == context_of(chat(*second, ASK))) is (first == second)


@given(st.text(max_size=20), st.text(max_size=20))
def test_the_border_between_what_is_before_and_the_question_cannot_be_moved(a, b):
    found = {known(chat(("user", a), ("user", b))).exact, known(chat(("user", a + b))).exact, known(chat(("system", a), ("user", b))).exact}
    assert len(found) == 3


def test_what_has_no_single_question_has_no_identity_or_no_question():
    assert identify(replace(BASE, choices=2), namespace="n", model="m") is None
    assert identify(replace(BASE, logprobs=0), namespace="n", model="m") is None
    assert identify(replace(BASE, prompts=(TokenPrompt((1, 2)),)), namespace="n", model="m") is None
    begun = known(chat(ASK, ("assistant", "First, ")))
    assert begun.question == "" and begun.partition != known(chat(ASK)).partition
    assert context_of(chat(ASK, ("assistant", "First, "))) is None and context_of(BASE) == b""


def test_an_answer_fits_where_it_would_not_have_been_cut():
    assert fits(BASE, 500) and fits(replace(BASE, max_tokens=10), 10) and not fits(replace(BASE, max_tokens=10), 11)


def test_a_key_has_its_own_namespace_unless_it_was_given_to_a_shared_one():
    shares = read_shares(["front:clinic", "ward:2:clinic"])
    assert shares == {"front": "clinic", "ward:2": "clinic"}
    front, ward, other = (replace(BASE, principal=name) for name in ("front", "ward:2", "clinic"))
    assert namespace_of(front, shares) == namespace_of(ward, shares) == "shared:clinic"
    assert namespace_of(other, shares) == "of:clinic"
    assert namespace_of(replace(other, cache=CacheWish(namespace="x")), shares) == "of:clinic/x"


@pytest.mark.parametrize("rows", [["front"], ["front:"], [":clinic"], ["front:a/b"], ["front:a", "front:b"]])
def test_a_share_that_says_too_little_or_too_much_is_refused(rows):
    with pytest.raises(ConfigError) as error:
        read_shares(rows)
    assert error.value.param == "cache_share"


def test_the_request_and_the_administrator_can_both_say_no():
    assert permit(BASE, "q").similar
    assert not permit(BASE, "").similar and not permit(BASE, "q" * 5000).similar
    assert not permit(replace(BASE, cache=CacheWish(look=False)), "q").look
    kept = permit(replace(BASE, cache=CacheWish(store=False)), "q")
    assert kept.look and not kept.store
    for name in ("anonymous", "m"):
        found = permit(BASE, "q", {name})
        assert not (found.look or found.store or found.similar) and name in found.why
