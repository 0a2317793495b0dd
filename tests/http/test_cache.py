"""Remembered answers over the API: headers, bodies and streams; who gets whose answer; and what a request may say about it."""

from __future__ import annotations

import threading

import pytest
from fakes import Words, wait_until

from appliance.cache import reviewed
from appliance.cache.reviewed import NewReviewed

ASK = {"messages": [{"role": "user", "content": "how do I reset the pump"}], "temperature": 0}


def ask(client, text: str = "", *, headers=None, status: int = 200, **more):
    body = {**ASK, **more}
    if text:
        body["messages"] = [{"role": "user", "content": text}]
    response = client.post("/v1/chat/completions", json=body, headers=headers or {})
    assert response.status_code == status, response.get_data(as_text=True)
    return response


def tier(response) -> str:
    return response.headers.get("x-cache-tier", response.headers["x-cache"])


@pytest.fixture
def service(make_service, tmp_path):
    return make_service(remember=tmp_path)


@pytest.fixture
def client(service):
    return service.client


def settled(service, entries: int = 1) -> None:
    """Everything that was kept can be found."""

    def filled() -> bool:
        service.cache.tick()
        return service.cache.stats()["indexed"] >= entries

    wait_until(filled, what=f"{entries} answers in the index")


def test_the_same_request_is_answered_from_memory_and_says_so(client, service):
    first = ask(client)
    assert first.headers["x-cache"] == "miss" and "x-cache-tier" not in first.headers and "cache" not in first.get_json()
    settled(service)
    again = ask(client)
    assert (again.headers["x-cache"], tier(again), again.headers["x-cache-score"]) == ("hit", "exact", "1.0000")
    assert int(again.headers["x-cache-age"]) < 60
    one, two = first.get_json(), again.get_json()
    assert two["choices"] == one["choices"] and two["id"] != one["id"]
    usage = two["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert usage["completion_tokens"] == one["usage"]["completion_tokens"]
    assert two["cache"].pop("age_s") < 60
    assert two["cache"] == {"tier": "exact", "score": 1.0, "entry": int(again.headers["x-cache-entry"])}
    assert 'appliance_cache_lookups_total{model="fake",outcome="hit",tier="exact"} 1' in service.metrics.render()


def test_a_hit_is_a_valid_stream(client, read_events):
    plain = ask(client).get_json()["choices"][0]["message"]["content"]
    streamed = ask(client, stream=True, stream_options={"include_usage": True})
    assert tier(streamed) == "exact" and streamed.mimetype == "text/event-stream"
    *chunks, usage, done = read_events(streamed.get_data())
    assert done == "[DONE]" and usage["choices"] == [] and usage["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == plain
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_completions_are_remembered_too(client):
    body = {"prompt": "the pump", "temperature": 0, "stop": "p"}
    first, again = (client.post("/v1/completions", json=body) for _ in range(2))
    assert (tier(first), tier(again)) == ("miss", "exact")
    assert first.get_json()["choices"] == again.get_json()["choices"]


def test_a_question_of_the_same_meaning_gets_the_answer_and_one_of_another_does_not(client, service):
    first = ask(client)
    settled(service)
    same = ask(client, "how do I the pump reset")
    assert (tier(same), same.headers["x-cache-score"]) == ("semantic", "0.9900")
    assert same.get_json()["choices"] == first.get_json()["choices"]
    other = ask(client, "how do I stop the pump")
    assert tier(other) == "miss" and other.get_json()["choices"] != first.get_json()["choices"]


def test_a_gate_that_fails_to_run_is_a_miss(client, service, monkeypatch):
    ask(client)
    settled(service)
    monkeypatch.setattr("appliance.cache.service.gates.judge", lambda asked, remembered: 1 / 0)
    missed = ask(client, "how do I the pump reset")
    assert tier(missed) == "miss" and "could not be asked" in missed.headers["x-cache-reason"]
    assert "appliance_cache_errors_total 1" in service.metrics.render()


@pytest.mark.parametrize("ready, why", [(False, "the embedder is not ready"), (None, "the pair verifier is not ready")])
def test_models_that_are_not_ready_are_a_miss(make_service, tmp_path, ready, why):
    words = Words()
    service = make_service(remember=tmp_path, meaning=words)
    ask(service.client)
    settled(service)
    if ready is None:
        words.same = lambda asked, others: None
    else:
        words.ready = ready
    missed = ask(service.client, "how do I the pump reset")
    assert tier(missed) == "miss" and why in missed.headers["x-cache-reason"]


def test_system_prompts_turns_sampling_and_models_keep_their_answers_apart(make_service, tmp_path):
    service = make_service(remember=tmp_path, models=("fake", "fake2"))
    client = service.client
    question = ASK["messages"][0]
    ask(client)
    for more in (
        {"messages": [{"role": "system", "content": "Be short."}, question]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}, question]},
        {"temperature": 0.5, "seed": 1}, {"stop": "zzz"}, {"model": "fake2"},
    ):  # fmt: skip
        assert tier(ask(client, **more)) == "miss", more
        assert tier(ask(client, **more)) == "exact", more


def test_each_key_has_its_own_answers_unless_it_shares_them(make_service, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("ann:k1\nbob:k2\ncarl:k3\n")
    service = make_service(remember=tmp_path, api_key_file=keys, cache_share=("bob:desk", "carl:desk"))
    ann, bob, carl = ({"Authorization": f"Bearer k{n}"} for n in (1, 2, 3))
    assert tier(ask(service.client, headers=ann)) == "miss"
    assert tier(ask(service.client, headers=ann)) == "exact"
    assert tier(ask(service.client, headers=bob)) == "miss"
    assert tier(ask(service.client, headers=carl)) == "exact"
    assert tier(ask(service.client, headers=carl, cache={"namespace": "ward"})) == "miss"
    assert tier(ask(service.client, headers=ann, cache={"namespace": "ward"})) == "miss"


def test_a_request_can_ask_for_a_new_answer_or_leave_none(client):
    no_store, no_cache = {"Cache-Control": "no-store"}, {"Cache-Control": "no-cache"}
    assert tier(ask(client, headers=no_store)) == "miss"
    assert tier(ask(client)) == "miss"
    assert tier(ask(client, headers=no_store)) == "exact"
    assert tier(ask(client, headers=no_cache)) == "bypass"
    assert tier(ask(client, cache={"no-cache": True})) == "bypass"
    assert tier(ask(client, cache=False)) == "bypass"
    assert tier(ask(client, "another", cache={"no-store": True})) == "miss"
    assert tier(ask(client, "another")) == "miss"


def test_only_if_cached_is_a_504_where_nothing_is(client, check_error):
    only = {"Cache-Control": "only-if-cached"}
    check_error(ask(client, headers=only, status=504), 504, "not_remembered")
    check_error(ask(client, headers=only, status=504, stream=True), 504, "not_remembered")
    ask(client)
    assert tier(ask(client, headers=only)) == "exact"


def test_answers_get_too_old_for_a_request_or_for_anybody(make_service, tmp_path):
    service = make_service(remember=tmp_path)
    client, now = service.client, service.cache._now
    ask(client, cache={"ttl": 100})
    service.cache._now = lambda: now() + 50
    assert tier(ask(client, headers={"Cache-Control": "max-age=49"}, cache={"no-store": True})) == "miss"
    assert tier(ask(client, cache={"s-maxage": 49, "no-store": True})) == "miss"
    assert tier(ask(client, headers={"Cache-Control": "max-age=51"})) == "exact"
    service.cache._now = lambda: now() + 101
    assert tier(ask(client, cache={"no-store": True})) == "miss"
    service.cache.tick()
    assert service.cache.stats()["answers"] == 0


def test_an_answer_that_was_cut_off_is_not_remembered_and_a_longer_one_is_not_cut(client):
    assert tier(ask(client, max_tokens=2)) == "miss"
    assert tier(ask(client, max_tokens=2)) == "miss"
    ask(client)
    assert tier(ask(client, max_tokens=500)) == "exact"
    assert tier(ask(client, max_tokens=2)) == "miss"


@pytest.mark.parametrize("more", [{"n": 2}, {"logprobs": True}])
def test_requests_that_cannot_share_an_answer_say_so(client, more):
    for _ in range(2):
        found = ask(client, **more)
        assert found.headers["x-cache"] == "bypass" and "not remembered" in found.headers["x-cache-reason"]


def test_keys_and_models_can_be_excluded(make_service, tmp_path):
    service = make_service(remember=tmp_path, models=("fake", "fake2"), cache_exclude=("fake2",))
    for _ in range(2):
        found = ask(service.client, model="fake2")
        assert tier(found) == "bypass" and "cache_exclude" in found.headers["x-cache-reason"]
    assert service.cache.stats()["answers"] == 0


def test_without_a_cache_every_answer_says_bypass(make_service):
    found = ask(make_service().client)
    assert tier(found) == "bypass" and "no_cache" in found.headers["x-cache-reason"]


@pytest.mark.parametrize(
    "value, param",
    [
        ("yes", "cache"), ({"ttl": "long"}, "cache.ttl"), ({"ttl": -1}, "cache.ttl"), ({"no-cache": 1}, "cache.no-cache"),
        ({"namespace": ""}, "cache.namespace"), ({"namespace": "x" * 101}, "cache.namespace"), ({"namespace": "a\nb"}, "cache.namespace"),
        ({"tags": "x"}, "cache.tags"), ({"tags": [1]}, "cache.tags[0]"), ({"no_cache": True}, "cache"),
    ],
)  # fmt: skip
def test_a_wish_that_makes_no_sense_is_refused(client, check_error, value, param):
    check_error(ask(client, cache=value, status=400), 400, "invalid_request", param)


def test_a_max_age_that_is_no_number_is_refused_and_unknown_directives_are_not(client, check_error):
    check_error(ask(client, headers={"Cache-Control": "max-age=soon"}, status=400), 400, "invalid_request", "Cache-Control")
    assert tier(ask(client, headers={"Cache-Control": "stale-if-error=3, private, , x=y"})) == "miss"


def test_equal_requests_at_the_same_time_are_generated_once(make_service, tmp_path):
    service = make_service(remember=tmp_path, step_s=0.02)
    found, together = [], threading.Barrier(5)

    def one() -> None:
        client = service.client
        together.wait()
        found.append(ask(client, "a question that is asked by five people at once"))

    threads = [threading.Thread(target=one) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({response.get_json()["choices"][0]["message"]["content"] for response in found}) == 1
    assert sorted(map(tier, found)) == ["flight"] * 4 + ["miss"]
    assert 'appliance_sequences_finished_total{model="fake",reason="stop"} 1' in service.metrics.render()


def test_a_reviewed_answer_comes_first_and_names_its_reviewer(client, service, read_events):
    ask(client)
    new = NewReviewed("of:anonymous", ["How do I reset the pump", "pump reset"], "Press and hold the red button.", "Zoë Müller", source="manual p. 4")
    service.cache._state.do(lambda db: reviewed.put(db, new, 1_760_000_000.0), 5)
    service.cache.tick()
    found = ask(client)
    assert (tier(found), found.headers["x-reviewed-by"], found.headers["x-reviewed-on"]) == ("reviewed", "Zo%C3%AB M%C3%BCller", "2025-10-09")
    body = found.get_json()
    assert body["choices"][0]["message"]["content"] == "Press and hold the red button."
    assert (body["cache"]["reviewed_by"], body["cache"]["tier"]) == ("Zoë Müller", "reviewed")
    found = ask(client, "reset pump")
    assert tier(found) == "reviewed", found.headers
    streamed = ask(client, stream=True)
    assert tier(streamed) == "reviewed" and read_events(streamed.get_data())[-1] == "[DONE]"
    spoken = {"messages": [{"role": "system", "content": "Answer in Welsh."}, *ASK["messages"]]}
    assert tier(ask(client, **spoken)) == "miss"


def test_a_damaged_cache_costs_time_and_nothing_else(make_service, tmp_path):
    service = make_service(remember=tmp_path)
    client = service.client
    ask(client)
    wait_until(lambda: tier(ask(client)) == "exact", what="the row")
    (tmp_path / "cache.db").write_bytes(b"no database at all" * 1000)
    (tmp_path / "cache.db-wal").unlink(missing_ok=True)
    first = ask(client, "something else")
    assert tier(first) == "miss"
    wait_until(lambda: tier(ask(client, "something else")) == "exact", what="the new file")


def test_explain_shows_every_candidate_and_changes_nothing(client, service):
    ask(client)
    settled(service)
    body = {**ASK, "messages": [{"role": "user", "content": "how do I stop the pump"}]}
    found = client.post("/v1/cache/explain", json=body).get_json()
    assert (found["outcome"], found["namespace"], found["threshold"]) == ("miss", "of:anonymous", 0.9)
    [candidate] = found["candidates"]
    assert candidate["question"] == "how do I reset the pump" and 0.5 < candidate["cosine"] < 1
    refused = [verdict for verdict in candidate["verdicts"] if not verdict["passed"]]
    assert candidate["why"] and (refused or candidate["score"] < 0.9)
    body["messages"] = [{"role": "user", "content": "how do I the pump reset"}]
    found = client.post("/v1/cache/explain", json=body).get_json()
    assert (found["outcome"], found["tier"], found["candidates"][0]["score"]) == ("hit", "semantic", 0.99)
    stats = client.get("/v1/cache/stats").get_json()
    assert (stats["answers"], stats["hits"], stats["threshold"]) == (1, 0, 0.9)


def test_one_wrong_hit_sets_its_answer_aside_and_several_close_the_tier(make_service, tmp_path, check_error):
    words = Words(sure=0.999)
    words.prior = {0.9: 0.001, 0.995: 0.0005}
    service = make_service(remember=tmp_path, meaning=words)
    client = service.client
    ask(client)
    settled(service)
    given = ask(client, "how do I the pump reset").get_json()
    assert given["cache"]["tier"] == "semantic"
    said = {"id": given["id"], "verdict": "wrong"}
    assert client.post("/v1/cache/feedback", json=said).get_json() == said
    wait_until(lambda: tier(ask(client, "how do I the pump reset", cache={"no-store": True})) == "miss", what="the answer to be set aside")
    assert tier(ask(client)) == "exact"
    check_error(client.post("/v1/cache/feedback", json=said), 404, "not_found", "id")
    for number in range(4):
        ask(client, f"where is the key to room {number}")
        settled(service, number + 2)
        found = ask(client, f"where is room {number} the key to")
        if tier(found) == "semantic":
            client.post("/v1/cache/feedback", json={"id": found.get_json()["id"], "verdict": "wrong"})
    stats = client.get("/v1/cache/stats").get_json()
    assert stats["threshold"] is None and stats["judged_wrong"] >= 2 and stats["wrong_rate_upper"] > 0.01


@pytest.mark.parametrize("body, param", [({}, "id"), ({"id": 3}, "id"), ({"id": "x", "verdict": "bad"}, "verdict"), ({"id": "x"}, "verdict")])
def test_feedback_that_says_nothing_is_refused(client, check_error, body, param):
    check_error(client.post("/v1/cache/feedback", json=body), 400, "invalid_request", param)


def test_nobody_judges_what_another_was_given(make_service, tmp_path, check_error):
    keys = tmp_path / "keys"
    keys.write_text("ann:k1\nbob:k2\n")
    service = make_service(remember=tmp_path, api_key_file=keys)
    ann, bob = ({"Authorization": f"Bearer k{n}"} for n in (1, 2))
    ask(service.client, headers=ann)
    settled(service)
    given = ask(service.client, "how do I the pump reset", headers=ann).get_json()
    said = {"id": given["id"], "verdict": "wrong"}
    check_error(service.client.post("/v1/cache/feedback", json=said, headers=bob), 404, "not_found", "id")
    assert service.client.post("/v1/cache/feedback", json=said, headers=ann).status_code == 200


def test_without_a_cache_its_endpoints_say_so(make_service, check_error):
    client = make_service().client
    for answer in (client.get("/v1/cache/stats"), client.post("/v1/cache/explain", json=ASK)):
        check_error(answer, 503, "unavailable")


def test_what_is_not_to_be_stored_leaves_no_trace(client, service, tmp_path):
    ask(client)
    settled(service)
    before = service.cache.stats()
    private = "how do I reset the pump of Mr Smith"
    assert tier(ask(client, private, headers={"Cache-Control": "no-store"})) == "miss"
    client.post("/v1/cache/explain", json={**ASK, "messages": [{"role": "user", "content": private}]})
    similar = ask(client, "how do I the pump reset", headers={"Cache-Control": "no-store"})
    said = {"id": similar.get_json()["id"], "verdict": "wrong"}
    assert tier(similar) == "semantic" and client.post("/v1/cache/feedback", json=said).status_code == 404
    service.stop()
    assert service.cache is not None and before["answers"] == 1
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"Smith" not in written and b"pump reset" not in written and b"how do I reset the pump" in written


def test_a_reviewed_answer_that_would_be_cut_is_not_given(client, service):
    new = NewReviewed("everybody", ["How do I reset the pump"], "Press and hold. Then wait a minute.", "Ann")
    service.cache._state.do(lambda db: reviewed.put(db, new, 1_760_000_000.0), 5)
    service.cache.tick()
    assert tier(ask(client)) == "reviewed" and tier(ask(client, max_tokens=50)) == "reviewed"
    assert tier(ask(client, max_tokens=3)) == "miss" and tier(ask(client, stop=" Then")) == "miss"


def test_a_full_disk_degrades_the_cache_and_nothing_else(client, service):
    ask(client)
    settled(service)
    service.cache._answers.do(lambda db: db.execute("PRAGMA max_page_count = 1").fetchone()[0], 5)
    for number in range(30):
        assert ask(client, f"a new question, number {number} " + "x" * 200).status_code == 200
    wait_until(lambda: "full" in client.get("/v1/cache/stats").get_json()["degraded"], what="the full disk")
    assert tier(ask(client)) == "exact"
    service.cache._answers.do(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone()[0], 5)
    ask(client, "one more question")
    wait_until(lambda: client.get("/v1/cache/stats").get_json()["degraded"] == "", what="writing to go on")
