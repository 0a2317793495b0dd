"""What a key may do, how much of it, and until when: by the API and by its headers."""

from __future__ import annotations

import threading
import time

import pytest
from in_process import OURS, PASSWORD, administrator

from appliance.access.throttle import FREE

ENCODERS = {"/v1/embeddings": {"input": "x"}, "/v1/rerank": {"query": "x", "documents": ["y"]}, "/v1/classify": {"input": "x"}}
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
WITH_A_MODEL = {
    "/v1/chat/completions": CHAT, "/v1/completions": {"prompt": "x"}, **ENCODERS, "/tokenize": {"content": "x"}, "/detokenize": {"tokens": [1]},
    "/apply-template": CHAT, "/v1/cache/explain": CHAT,
}  # fmt: skip


class Box:
    """A service with an administrator, who makes and changes keys."""

    def __init__(self, service) -> None:
        self.service, self.admin = service, administrator(service)

    def post(self, path: str, **body):
        return self.admin.post(f"/admin/api/{path}", json=body, headers=OURS)

    def key(self, name: str = "till", **how) -> tuple[int, dict[str, str]]:
        made = self.post("keys", name=name, **how)
        assert made.status_code == 200, made.text
        return made.get_json()["number"], {"Authorization": f"Bearer {made.get_json()['key']}"}

    def ask(self, headers, path: str = "/v1/chat/completions", body=CHAT, **more):
        return self.service.client.post(path, json=body | more, headers=headers)


@pytest.fixture
def box(make_service) -> Box:
    return Box(make_service(people=True))


def test_the_limit_on_requests_is_refused_in_words_and_told_in_headers(box, check_error):
    number, key = box.key(requests_per_minute=2)
    answer = box.ask(key)
    assert (answer.headers["x-ratelimit-limit-requests"], answer.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert "x-ratelimit-limit-tokens" not in answer.headers
    assert box.ask(key, stream=True).headers["x-ratelimit-remaining-requests"] == "0"
    refused = box.ask(key)
    words = check_error(refused, 429, "rate_limit_exceeded")
    assert words["type"] == "rate_limit_error" and "till" in words["message"] and "2 requests a minute" in words["message"]
    assert 55 <= int(refused.headers["Retry-After"]) <= 61
    assert refused.headers["x-ratelimit-remaining-requests"] == "0" and refused.headers["x-ratelimit-reset-requests"].endswith("s")
    assert box.service.client.get("/v1/models", headers=key).status_code == 200, "what only reads is not counted"
    assert box.post(f"keys/{number}", requests_per_minute=None).status_code == 200
    assert "x-ratelimit-limit-requests" not in box.ask(key).headers


def test_tokens_of_answers_count_also_those_of_streams_that_were_left(box, check_error):
    _, key = box.key(tokens_per_minute=1000)
    used = box.ask(key).get_json()["usage"]["total_tokens"]
    left = int(box.service.client.get("/v1/models", headers=key).headers["x-ratelimit-remaining-tokens"])
    assert left == 1000 - used
    stream = box.service.client.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=key, buffered=False)
    for _ in zip(range(4), stream.response, strict=False):
        pass
    stream.close()
    assert int(box.service.client.get("/v1/models", headers=key).headers["x-ratelimit-remaining-tokens"]) < left
    _, key = box.key("other", tokens_per_minute=1)
    assert box.ask(key).status_code == 200
    check_error(box.ask(key), 429, "rate_limit_exceeded")


def test_a_place_at_once_is_free_when_the_answer_has_ended(box, check_error):
    _, key = box.key(at_once=1)
    stream = box.service.client.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=key, buffered=False)
    check_error(box.ask(key), 429, "rate_limit_exceeded")
    stream.close()
    assert box.ask(key).status_code == 200
    assert box.ask(key, n="many").status_code == 400
    assert box.ask(key).status_code == 200, "a request that was refused gives its place back as well"


def test_a_key_may_use_the_models_of_its_list_only(make_service, check_error):
    box = Box(make_service(people=True, models=("big", "small", "embed", "rerank", "classify")))
    _, key = box.key(models="small, later")
    names = [model["id"] for model in box.service.client.get("/v1/models", headers=key).get_json()["data"]]
    assert names == ["small"]
    assert box.ask(key).get_json()["model"] == "small", "the first that the key may use"
    assert box.service.client.get("/v1/models/small", headers=key).status_code == 200
    assert box.service.client.get("/v1/models/big", headers=key).status_code == 403
    found = check_error(box.ask(key, model="big"), 403, "model_not_allowed", "model")
    assert found["type"] == "permission_error" and "small, later" in found["message"] and "not big" in found["message"]
    check_error(box.ask(key, model="later"), 404, "model_not_found", "model")
    assert "big" not in box.ask(key, model="none").get_json()["error"]["message"]
    _, key = box.key("lost", models=["gone"])
    check_error(box.ask(key), 403, "model_not_allowed", "model")


@pytest.mark.parametrize("path", WITH_A_MODEL)
def test_no_endpoint_forgets_the_list_of_models(make_service, path, check_error, tmp_path):
    box = Box(make_service(people=True, models=("fake", "embed", "rerank", "classify"), remember=tmp_path))
    _, key = box.key(models=["small"])
    check_error(box.ask(key, path, WITH_A_MODEL[path]), 403, "model_not_allowed", "model")
    check_error(box.ask(key, path, WITH_A_MODEL[path], model="fake"), 403, "model_not_allowed", "model")


def test_every_endpoint_that_computes_stands_in_the_table_above(box):
    apart = {"/v1/cache/feedback"}  # of an answer that was given already
    routes = {rule.rule for rule in box.service.app.url_map.iter_rules() if "POST" in rule.methods and not rule.rule.startswith("/admin")}
    short = {path.removeprefix("/v1") for path in WITH_A_MODEL}
    assert {path.removeprefix("/v1").removeprefix("/v2") for path in routes - apart} == short


def test_an_expired_key_is_told_so(box, check_error, monkeypatch):
    number, key = box.key(expires="2999-12-31")
    assert box.ask(key).status_code == 200
    monkeypatch.setattr(box.service.access, "_now", lambda: 32503680000.0)  # 3000-01-01
    assert "2999-12-31" in check_error(box.ask(key), 401, "invalid_api_key")["message"]
    monkeypatch.setattr(box.service.access, "_now", time.time)
    assert box.post(f"keys/{number}", expires="").status_code == 200
    [shown] = box.admin.get("/admin/api/access").get_json()["keys"]
    assert shown["limits"]["expires"] is None and shown["role"] == "user"


def test_a_key_for_metrics_reads_metrics_and_nothing_else(box, check_error):
    _, key = box.key(role="metrics")
    client = box.service.client
    for path in ("/metrics", "/health", "/livez"):
        assert client.get(path, headers=key).status_code == 200
    check_error(client.get("/v1/models", headers=key), 403, "permission_denied")
    check_error(box.ask(key), 403, "permission_denied")


def test_a_key_of_an_admin_does_by_the_api_what_an_admin_does_and_opens_no_page(box, check_error):
    _, key = box.key(role="admin")
    client = box.service.client
    assert client.get("/admin/api/access", headers=key).get_json()["keys"][0]["role"] == "admin"
    made = client.post("/admin/api/keys", json={"name": "made by a program"}, headers=key)
    assert made.status_code == 200 and "Set-Cookie" not in made.headers
    assert box.admin.get("/admin/api/access").get_json()["keys"][0]["made_by"] == "key till"
    assert client.get("/admin/access", headers=key).status_code == 302
    _, user = box.key("user")
    check_error(client.get("/admin/api/access", headers=user), 403, "permission_denied")
    check_error(client.get("/admin/api/access", headers={"x-api-key": "guess"}), 401, "invalid_api_key")


@pytest.mark.parametrize(
    "body, param",
    [({"requests_per_minute": -1}, "requests_per_minute"), ({"at_once": "many"}, "at_once"), ({"tokens_per_minute": 1.5}, "tokens_per_minute"), ({"models": 7}, "models"),
     ({"models": ["a\n\x07"]}, "models"), ({"models": [1]}, "models[0]"), ({"models": ["a"] * 101}, "models"), ({"expires": "tomorrow"}, "expires"), ({"expires": "2001-01-01"}, "expires"),
     ({"role": "reviewer"}, "role")],
)  # fmt: skip
def test_bad_limits_are_refused_in_words_and_change_nothing(box, check_error, body, param):
    number, _ = box.key(requests_per_minute=7)
    check_error(box.post(f"keys/{number}", **body), 400, "invalid_request", param)
    check_error(box.post("keys", name="another", **body), 400, "invalid_request", param)
    [shown] = box.admin.get("/admin/api/access").get_json()["keys"]
    assert (shown["limits"]["requests_per_minute"], shown["role"]) == (7, "user")
    assert box.post("keys/99", at_once=1).status_code == 404


def test_what_is_not_given_stays_and_the_page_shows_it(box):
    number, _ = box.key(at_once=3, models=["fake"], expires="2999-12-31")
    box.post(f"keys/{number}", tokens_per_minute=500)
    [shown] = box.admin.get("/admin/api/access").get_json()["keys"]
    assert (shown["limits"]["at_once"], shown["limits"]["tokens_per_minute"], shown["limits"]["models"]) == (3, 500, ["fake"])
    page = box.admin.get("/admin/access").text
    assert 'value="500"' in page and 'value="2999-12-31"' in page and 'value="fake"' in page


def test_a_box_that_others_reach_is_not_opened_to_all(make_service, check_error):
    box = Box(make_service(people=True, host="192.0.2.1"))
    number, key = box.key()
    box.post(f"keys/{number}/revoke")
    assert "allow_anonymous" in check_error(box.post("keys/none"), 400, "invalid_request")["message"]
    check_error(box.ask(key), 401, "invalid_api_key")


# -- guessing ------------------------------------------------------------------------------------------------------------


def test_guessed_keys_are_slowed_down_and_a_right_one_always_passes(box, check_error):
    _, key = box.key()
    wrong = {"Authorization": "Bearer guess"}
    for _ in range(FREE):
        check_error(box.ask(wrong), 401, "invalid_api_key")
        assert box.ask(key).status_code == 200
    refused = box.ask({"x-api-key": "another guess"})
    words = check_error(refused, 429, "too_many_tries")
    assert "a right one is still taken" in words["message"] and 1 <= int(refused.headers["Retry-After"]) <= 2
    check_error(box.service.client.get("/admin/api/now", headers=wrong), 429, "too_many_tries")
    assert box.ask(key).status_code == 200
    check_error(box.ask({}), 401, "invalid_api_key")
    elsewhere = box.service.client.get("/v1/models", headers=wrong, environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert elsewhere.status_code == 401
    assert box.service.client.post("/admin/sign-in", data={"name": "Ann", "password": PASSWORD}, headers=OURS).status_code == 303, "it is another door"


def test_the_pauses_of_wrong_keys_get_longer_and_end(make_service, check_error, monkeypatch):
    client, now = (service := make_service(api_key=("right",))).client, time.time()
    monkeypatch.setattr(service.access._wrong_keys, "_now", lambda: now)
    pauses = []
    for _ in range(FREE + 4):
        while client.get("/v1/models", headers={"x-api-key": "wrong"}).status_code != 401:
            now += 1
            pauses[-1] += 1
        pauses.append(0)
    assert pauses[FREE - 1 :] == [2, 4, 8, 16, 0]


# -- revoking ------------------------------------------------------------------------------------------------------------


LONG = {"messages": [{"role": "user", "content": "!long"}], "max_tokens": 4000}


@pytest.fixture
def slow_box(make_service) -> Box:
    return Box(make_service(people=True, step_s=0.005, context_tokens=8192))


def asking(box: Box, headers, **more) -> tuple[threading.Thread, list]:
    """A long request on a thread, and where its answer will be."""
    found: list = []
    thread = threading.Thread(target=lambda: found.append(box.ask(headers, body=LONG, **more)))
    thread.start()
    return thread, found


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_what_runs_with_a_revoked_key_is_ended_if_asked_and_says_why(slow_box, stream, wait_for, read_events, check_error):
    number, key = slow_box.key()
    _, other = slow_box.key("other")
    mine, found = asking(slow_box, key, stream=stream)
    theirs, kept = asking(slow_box, other, max_tokens=100)
    wait_for(lambda: slow_box.service.outstanding() == 2)
    began = time.monotonic()
    assert slow_box.post(f"keys/{number}/revoke?streams=end").get_json() == {"revoked": number, "ended": 1}
    mine.join(5)
    assert time.monotonic() - began < 2.0
    if stream:
        error = read_events(found[0].data)[-1]["error"]
        assert "till was revoked" in error["message"] and (error["type"], error["code"]) == ("authentication_error", "key_revoked")
    else:
        check_error(found[0], 401, "key_revoked")
    check_error(slow_box.ask(key), 401, "invalid_api_key")
    theirs.join(20)
    assert kept[0].status_code == 200, "another key's answer goes on"


def test_without_being_asked_a_running_answer_of_a_revoked_key_may_end(slow_box, wait_for, check_error, read_events):
    number, key = slow_box.key()
    thread, found = asking(slow_box, key, stream=True, max_tokens=60)
    wait_for(lambda: slow_box.service.outstanding() == 1)
    assert slow_box.post(f"keys/{number}/revoke").get_json()["ended"] == 0
    check_error(slow_box.ask(key), 401, "invalid_api_key")
    thread.join(20)
    assert read_events(found[0].data)[-1] == "[DONE]"
    number, _ = slow_box.key("another")
    check_error(slow_box.post(f"keys/{number}/revoke?streams=all"), 400, "invalid_request", "streams")


def test_a_request_to_an_encoder_is_ended_as_well(make_service, wait_for, check_error):
    box = Box(make_service(people=True, models=("embed",)))
    number, key = box.key()
    line = box.service.pipeline.engines["embed"].admission
    line.hold()  # it waits for its turn
    found: list = []
    thread = threading.Thread(target=lambda: found.append(box.ask(key, "/v1/embeddings", {"input": "x"})))
    thread.start()
    wait_for(lambda: line.waiting == 1)
    assert box.post(f"keys/{number}/revoke?streams=end").get_json()["ended"] == 1
    thread.join(2)
    check_error(found[0], 401, "key_revoked")
    assert line.waiting == 0
