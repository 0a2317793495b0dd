"""The review desk's API: approve, write, change, forget; by whom, and what is served afterwards."""

from __future__ import annotations

import pytest
from in_process import OURS, PASSWORD, administrator


class Desk:
    """A service that remembers, with Ann (admin) signed in."""

    def __init__(self, service) -> None:
        self.service, self.client = service, administrator(service)

    def post(self, path: str, **body):
        return self.client.post(f"/admin/api/{path}", json=body, headers=OURS)

    def get(self, **query):
        return self.client.get("/admin/api/answers", query_string=query).get_json()

    def ask(self, question: str):
        found = self.service.client.post("/v1/chat/completions", json={"model": "fake", "messages": [{"role": "user", "content": question}]})
        self.service.cache._answers.do(lambda db: None, 5)
        return found.get_json()["choices"][0]["message"]["content"], found.headers


@pytest.fixture
def desk(make_service, tmp_path):
    return Desk(make_service(people=True, remember=tmp_path))


def test_what_is_asked_most_is_approved_in_other_words_and_then_served(desk):
    for _ in range(3):
        desk.ask("when is the lab open")
    desk.ask("asked once")
    first, second = desk.get()["unreviewed"]
    assert (first["question"], first["hits"], second["question"]) == ("when is the lab open", 2, "asked once")
    assert desk.post(f"answers/{first['id']}/approve", answer="From 8 to 17.", source="the sign at the door", expires="2999-01-01").status_code == 200
    text, headers = desk.ask("when is the lab open")
    assert text == "From 8 to 17." and (headers["x-cache-tier"], headers["x-reviewed-by"]) == ("reviewed", "Ann")
    assert [row["question"] for row in desk.get()["unreviewed"]] == ["asked once"]
    [row] = desk.get()["reviewed"]
    assert (row["owner"], row["source"], row["questions"]) == ("Ann", "the sign at the door", ["when is the lab open"])


def test_a_written_answer_has_many_phrasings_and_can_be_taken_back(desk):
    number = desk.post("reviewed", questions="who has the key\nwhere is the key\n\n", answer="The porter.").get_json()["reviewed"]
    assert desk.ask("Where is  the key")[0] == "The porter."
    desk.post(f"reviewed/{number}", answer="The night porter.", phrasings=["key?"])
    assert desk.ask("key?")[0] == "The night porter."
    desk.post(f"reviewed/{number}", state="rejected")
    assert desk.ask("key?")[0] == "echo: key?"
    desk.post(f"reviewed/{number}", state="live")
    desk.post(f"reviewed/{number}", state="expired")
    assert desk.ask("who has the key")[0] == "echo: who has the key"
    found = desk.get()
    assert found["reviewed"][0]["state"] == "expired" and "who has the key" in [row["question"] for row in found["unreviewed"]]
    desk.post(f"reviewed/{number}", state="live")
    assert desk.ask("who has the key")[0] == "The night porter."


def test_forgetting_shows_first_what_would_go(desk):
    for question in ("a red door", "a green door", "a window"):
        desk.ask(question)
    shown = desk.post("answers/purge", text="door", preview=True).get_json()
    assert shown["would_remove"] == 2 and sorted(shown["questions"]) == ["a green door", "a red door"]
    assert desk.post("answers/purge", text="door").get_json() == {"removed": 2}
    assert [row["question"] for row in desk.get()["unreviewed"]] == ["a window"]
    assert desk.post("answers/purge", all=True).get_json() == {"removed": 1}


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("answers/purge", {}, 400), ("answers/purge", {"older_than_hours": "x"}, 400), ("answers/999/approve", {}, 404), ("answers/1/approve", {"answer": 5}, 400),
        ("reviewed", {"questions": ["q"]}, 400), ("reviewed", {"questions": 7, "answer": "a"}, 400), ("reviewed", {"questions": [], "answer": "a"}, 400),
        ("reviewed", {"questions": ["q"], "answer": "a", "expires": "soon"}, 400), ("reviewed/999", {"answer": "a"}, 404), ("reviewed/1", {}, 400),
        ("reviewed/1", {"state": "odd"}, 400),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_words(desk, path, body, status):
    answer = desk.post(path, **body)
    assert answer.status_code == status and answer.get_json()["error"]["message"]


def test_a_reviewer_reviews_and_does_not_forget(desk):
    desk.service.access.add("Bob", "reviewer", PASSWORD)
    client = desk.service.client
    entered = client.post("/admin/sign-in", data={"name": "Bob", "password": PASSWORD}, headers=OURS)
    assert entered.headers["Location"] == "/admin/answers"
    page = client.get("/admin/answers")
    assert page.status_code == 200 and "Forget generated answers" not in page.text and 'href="/admin"' not in page.text
    assert client.post("/admin/api/reviewed", json={"questions": ["q"], "answer": "a"}, headers=OURS).status_code == 200
    assert client.post("/admin/api/answers/purge", json={"all": True}, headers=OURS).status_code == 403
    assert client.post("/admin/api/reviewed", json={"questions": ["q"], "answer": "b"}).status_code == 403, "of another site"


def test_without_a_cache_the_page_says_so(make_service, check_error):
    desk = Desk(make_service(people=True))
    assert "remembers no answers" in desk.client.get("/admin/answers").text
    check_error(desk.client.get("/admin/api/answers"), 503, "unavailable")


def test_reviewed_answers_leave_as_a_file_and_come_back(desk):
    desk.post("reviewed", questions="who has the key\nwhere is the key", answer='The porter; "night" too.', source="=1+1")
    for form in ("csv", "jsonl"):
        file = desk.client.get("/admin/api/reviewed/export", query_string={"form": form})
        assert f'filename="reviewed.{form}"' in file.headers["Content-Disposition"] and "attachment" in file.headers["Content-Disposition"]
        number = desk.get()["reviewed"][0]["id"]
        desk.post(f"reviewed/{number}", state="rejected")
        assert desk.ask("where is the key")[0].startswith("echo")
        assert len(desk.post("reviewed/import", text=file.get_data(True), form=form).get_json()["reviewed"]) == 1
        assert desk.ask("where is the key")[0] == 'The porter; "night" too.'
    refused = desk.post("reviewed/import", text="question,answer\na,b\nc,\n", form="csv")
    assert refused.status_code == 400 and "line 3" in refused.get_json()["error"]["message"]
    assert [row["questions"] for row in desk.get()["reviewed"] if "a" in row["questions"]] == []


def test_two_answers_become_one(desk):
    one = desk.post("reviewed", questions="who has the key\nwhere is the key", answer="The porter.").get_json()["reviewed"]
    other = desk.post("reviewed", questions="the key?", answer="The night porter.").get_json()["reviewed"]
    assert desk.post(f"reviewed/{one}/merge", into=other).status_code == 200
    assert {desk.ask(question)[0] for question in ("who has the key", "where is the key", "the key?")} == {"The night porter."}
    [row] = desk.get()["reviewed"]
    assert row["id"] == other and sorted(row["questions"]) == ["the key?", "where is the key", "who has the key"]
    theirs = desk.post("reviewed", questions="theirs", answer="x", namespace="of:ann").get_json()["reviewed"]
    for number, into, status in ((other, other, 400), (other, theirs, 400), (one, other, 404), (other, 999, 404), (other, "x", 400)):
        assert desk.post(f"reviewed/{number}/merge", into=into).status_code == status
    assert len(desk.get()["reviewed"]) == 2


def test_a_question_is_explained(desk):
    assert desk.post("answers/explain", question="who has the key").get_json()["outcome"] == "miss"
    desk.post("reviewed", questions="who has the key", answer="The porter.")
    found = desk.post("answers/explain", question="who has the key").get_json()
    assert (found["outcome"], found["tier"]) == ("hit", "reviewed")
    page = desk.client.get("/admin/answers?explain=who+has+the+key").get_data(True)
    assert "would be answered from memory (reviewed)" in page
    desk.service.cache.tick()
    page = desk.client.get("/admin/answers?explain=who+has+no+key").get_data(True)
    assert "would be put to the model" in page and "<td>who has the key</td>" in page
    assert desk.post("answers/explain", question="x", model="nobody").status_code == 404
    assert [row["hits"] for row in desk.get()["reviewed"]] == [0]
