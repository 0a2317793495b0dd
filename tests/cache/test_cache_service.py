"""The cache by itself: what it keeps, forgets, finds again after a crash, and never gives out."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import Words, wait_until

from appliance.cache import answers, reviewed
from appliance.cache.answers import NewAnswer, Selection
from appliance.cache.identity import identify
from appliance.cache.lookup import Options
from appliance.cache.policy import permit
from appliance.cache.reviewed import NewReviewed, Verdict
from appliance.cache.service import Cache
from appliance.errors import StorageFailed
from appliance.metrics import Metrics
from appliance.types import ChatPrompt, GenerationRequest


def request(question: str, **more) -> GenerationRequest:
    return GenerationRequest("r", "m", (ChatPrompt(({"role": "user", "content": question},)),), **more)


class Box:
    """A cache with a clock, and the log it wrote."""

    def __init__(self, folder: Path, options: Options | None = None, meaning: Words | None = None) -> None:
        self.time, self.log, self.meaning = 1_750_000_000.0, [], meaning or Words()
        self.cache = Cache(folder, self.meaning, options or Options(), Metrics(), lambda level, words: self.log.append(words), now=lambda: self.time)
        self.cache.open()

    def keep(self, question: str, answer: str = "an answer", model: str = "w1", cost_s: float = 1.0, tags=(), similar: bool = True, **more) -> None:
        who = identify(request(question), namespace=more.pop("namespace", "of:a"), model=model)
        vector = self.meaning.embed([question])
        new = NewAnswer(who, "m", '{"prompt": {"messages": [{"role": "user", "content": "q"}]}}', answer, 3, 4, cost_s, more.pop("ttl_s", None), tags)
        self.cache.keep(new, None if vector is None else vector[0], similar)

    def look(self, question: str, model: str = "w1", namespace: str = "of:a", **more):
        asked = request(question, **more)
        who = identify(asked, namespace=namespace, model=model)
        return self.cache.lookup(asked, who, permit(asked, who.question))

    def tier(self, question: str, **more) -> str:
        hit = self.look(question, **more).hit
        return hit.tier if hit else "miss"

    def settle(self, entries: int) -> None:
        def filled() -> bool:
            self.cache.tick()
            return self.cache.stats()["indexed"] == entries

        wait_until(filled, what=f"{entries} answers")


@pytest.fixture
def box(tmp_path):
    made = []

    def make(**how) -> Box:
        made.append(Box(tmp_path, **how))
        return made[-1]

    yield make
    for each in made:
        each.cache.close()


QUESTION, SAME = "where is the key to the lab", "where is to the lab the key"


def test_an_answer_is_found_before_it_is_written_and_after_a_restart(box):
    first = box()
    first.keep(QUESTION)
    assert first.tier(QUESTION) == "exact"
    first.settle(1)
    assert first.tier(SAME) == "semantic"
    first.cache.close()
    again = box()
    assert again.tier(QUESTION) == "exact"
    again.settle(1)
    assert again.tier(SAME) == "semantic" and again.look(SAME).hit.answer == "an answer"


def test_models_and_namespaces_never_share(box):
    one = box()
    one.keep(QUESTION)
    one.settle(1)
    for words in (QUESTION, SAME):
        assert one.tier(words, model="w2") == one.tier(words, namespace="of:b") == "miss"


def test_closing_leaves_whole_files_and_no_logs_beside_them(box, tmp_path):
    one = box()
    one.keep(QUESTION)
    one.settle(1)
    one.look(QUESTION)
    one.cache.close()
    assert sorted(path.name for path in tmp_path.glob("*.db*")) == ["cache.db", "state.db"]


def test_without_a_verifier_nothing_is_embedded_and_the_reason_can_be_acted_on(box):
    words = Words()
    words.prior = {}
    one = box(meaning=words)
    one.keep(QUESTION)
    asked = words.asked
    assert one.tier(QUESTION) == "exact" and "pair_verifier" in one.look(SAME).why and words.asked == asked
    assert one.cache.stats()["wrong_rate"] is None and one.cache.stats()["threshold"] is None


def test_a_saved_index_of_another_file_or_of_before_is_not_believed(box, tmp_path):
    first = box()
    first.keep(QUESTION)
    first.settle(1)
    first.cache.close()
    for name in ("cache.db", "cache.db-wal", "cache.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    second = box()
    second.keep("what is for lunch today")
    second.settle(1)
    assert second.tier(SAME) == "miss" and second.tier("for lunch today what is") == "semantic"


def test_rows_that_came_after_the_index_was_saved_are_found(box):
    first = box()
    first.keep(QUESTION)
    first.settle(1)
    first.cache._save()
    first.keep("what is for lunch today")
    first.settle(2)
    first.cache._save = lambda: None  # as a crash would have it
    first.cache.close()
    again = box()
    again.settle(2)
    assert again.tier("for lunch today what is") == again.tier(SAME) == "semantic"


def test_what_another_process_purges_is_not_given_out(box, tmp_path):
    one = box()
    one.keep(QUESTION)
    one.settle(1)
    one.cache._answers.do(lambda db: answers.purge(db, Selection(), one.time), 5)  # the row only, as the command line does it
    assert one.tier(QUESTION) == one.tier(SAME) == "miss"
    assert one.cache.stats()["indexed"] == 0


def test_purging_by_anything(box):
    one = box()
    for number, more in enumerate([{"tags": ["x"]}, {"model": "w2"}, {"namespace": "of:b/c"}, {"answer": "Grüner Tee"}, {}]):
        one.keep(f"question number {number}", **more)
    one.settle(5)
    one.time += 100
    one.keep("the last question")
    one.settle(6)
    purge = one.cache.purge
    assert purge(Selection(tag="x")) == 1 and purge(Selection(model="w2")) == 1
    assert purge(Selection(namespace="of:b")) == 1 and purge(Selection(text="tee")) == 1
    assert purge(Selection(older_than_s=50)) == 1 and purge(Selection(namespace="of:nobody")) == 0
    assert one.cache.stats()["answers"] == one.cache.stats()["indexed"] == 1 and one.tier("the last question") == "exact"


def test_what_is_worth_least_makes_room(box):
    one = box(options=Options(entries=3))
    for number, cost in enumerate([0.1, 5.0, 0.2, 6.0, 7.0]):
        one.keep(f"question number {number}", cost_s=cost)
        one.time += 1
    one.settle(3)
    assert [one.tier(f"question number {number}") for number in range(5)] == ["miss", "exact", "miss", "exact", "exact"]


def test_bytes_are_limited_too(box):
    one = box(options=Options(size_bytes=30_000))
    for number in range(20):
        one.keep(f"question number {number}", "x" * 5000)
    wait_until(lambda: one.cache.stats()["answers"] == 20)
    one.time += 31
    one.cache.tick()
    assert one.cache.stats()["bytes"] <= 30_000 and one.cache.stats()["answers"] >= 3


def test_space_of_what_was_forgotten_is_given_back(box):
    one = box(options=Options(ttl_s=60))
    for number in range(30):
        one.keep(f"question number {number}", "x" * 9000)
    wait_until(lambda: one.cache.stats()["answers"] == 30)
    one.time += 61
    one.cache.tick()

    def unused() -> int:
        with one.cache._read_answers.reading() as db:
            return db.execute("PRAGMA freelist_count").fetchone()[0]

    wait_until(lambda: one.cache.stats()["answers"] == unused() == 0, what="the pages")


def test_answers_expire(box):
    one = box(options=Options(ttl_s=60))
    one.keep(QUESTION)
    one.keep("another one", ttl_s=600)
    one.settle(2)
    one.time += 61
    assert one.tier(QUESTION) == one.tier(SAME) == "miss" and one.tier("another one") == "exact"
    one.settle(1)


def test_an_answer_kept_before_the_embedder_was_ready_becomes_searchable_later(box):
    one = box()
    one.meaning.ready = False
    one.keep(QUESTION)
    assert one.tier(QUESTION) == "exact"
    one.cache.tick()
    assert one.cache.stats()["indexed"] == 0
    one.meaning.ready = True
    one.settle(1)
    assert one.tier(SAME) == "semantic"


def test_rebuild_and_a_replaced_file_make_the_index_anew(box):
    one = box()
    one.keep(QUESTION)
    one.settle(1)
    one.cache._index.drop(identify(request(QUESTION), namespace="of:a", model="w1").partition)
    assert one.tier(SAME) == "miss"
    one.cache._answers.do(answers.rename, 5)
    one.settle(1)
    assert one.tier(SAME) == "semantic"


def test_a_wrong_verdict_takes_the_answer_from_all_but_equal_requests(box):
    one = box()
    one.keep(QUESTION)
    one.settle(1)
    hit = one.look(SAME).hit
    one.cache.judge(Verdict("of:a", hit.entry, SAME, QUESTION, hit.score, "wrong", "somebody"))
    wait_until(lambda: one.tier(SAME) == "miss")
    assert one.tier(QUESTION) == "exact"


def test_many_wrong_verdicts_close_a_namespace_with_a_notice_and_survive_the_loss_of_the_cache(box, tmp_path):
    one = box()
    one.keep(QUESTION)
    one.settle(1)
    for number in range(6):
        one.cache.judge(Verdict("of:a", None, f"q{number}", "r", 0.99, "wrong", "somebody"))
    assert one.cache.standing("of:a").threshold is None and "switched off for of:a" in one.log[-1]
    assert one.tier(SAME) == "miss" and "off" in one.look(SAME).why
    one.cache.close()
    (tmp_path / "cache.db").unlink()
    again = box()
    assert again.cache.standing("of:a").threshold is None
    again.cache.set_budget(0.2)
    assert again.cache.standing("of:a").threshold == 0.9


def put(one: Box, *questions: str, **more) -> int:
    new = NewReviewed(**{"namespace": "everybody", "questions": questions, "answer": "At the desk.", "owner": "Ann"} | more)
    number = one.cache._state.do(lambda db: reviewed.put(db, new, one.time), 5)
    one.cache.tick()
    return number


def test_reviewed_answers_are_for_everybody_or_for_one_namespace_and_end(box):
    one = box()
    put(one, QUESTION, "lab key", expires=one.time + 100)
    put(one, "where do I park", namespace="of:b")
    for namespace in ("of:a", "of:b"):
        assert one.tier(QUESTION.upper(), namespace=namespace) == one.tier(SAME, namespace=namespace) == "reviewed"
    assert one.tier("where do I park") == "miss" and one.tier("where do I park", namespace="of:b") == "reviewed"
    assert one.tier(QUESTION, model="another") == "reviewed", "it survives a change of models"
    one.time += 101
    assert one.tier(QUESTION) == one.tier(SAME) == "miss"


def test_a_rejected_answer_is_not_given_and_a_new_one_takes_its_place(box):
    one = box()
    number = put(one, QUESTION)
    one.cache._state.do(lambda db: reviewed.set_state(db, number, reviewed.REJECTED, "Bob", one.time), 5)
    one.cache.tick()
    assert one.tier(QUESTION) == one.tier(SAME) == "miss"
    assert put(one, QUESTION, answer="In the safe.") == number
    assert one.look(SAME).hit.answer == "In the safe."


def test_the_answers_of_a_model_that_is_gone_are_kept_aside_until_it_is_back(box):
    one = box()
    one.keep(QUESTION)
    one.settle(1)
    one.cache.models_are(["w2"])
    assert one.tier(QUESTION) == one.tier(SAME) == "miss" and one.cache.stats()["by_state"] == {"quarantined": 1}
    one.cache.models_are(["w1"])
    assert one.tier(QUESTION) == "exact"


def test_a_state_file_that_is_damaged_is_never_touched(tmp_path):
    (tmp_path / "state.db").write_bytes(b"precious" * 1000)
    with pytest.raises(StorageFailed, match="state.db"):
        Box(tmp_path)
    assert (tmp_path / "state.db").read_bytes() == b"precious" * 1000


def test_random_work_leaves_index_and_rows_agreeing(box):
    one, rng = box(options=Options(entries=25)), random.Random(5)
    words = "pump valve door key lamp desk room code list form".split()
    for _ in range(300):
        question = " ".join(rng.sample(words, 3))
        move = rng.random()
        if move < 0.6:
            one.keep(question, cost_s=rng.random(), ttl_s=rng.choice([None, 5.0, 50.0]))
        elif move < 0.7:
            one.cache.purge(Selection(text=rng.choice(words)))
        elif move < 0.8:
            one.time += rng.random() * 10
        else:
            one.cache.tick()
    wait_until(lambda: one.cache._answers.waiting == 0)
    one.cache.tick()
    one.cache.tick()
    stats = one.cache.stats()
    assert stats["answers"] == stats["indexed"] <= 25
    with one.cache._read_answers.reading() as db:
        rows = answers.search(db, Selection(), one.time, 100)
    assert len(rows) == stats["answers"] > 5
    for row in rows:
        found = one.look(row.question)
        assert found.hit and found.hit.entry == row.id


def test_a_lookup_takes_no_longer_with_a_writer_that_is_stuck(box):
    one = box()
    one.keep(QUESTION)
    one.settle(1)
    one.cache._answers.submit(lambda db: time.sleep(1.0))
    began = time.monotonic()
    assert one.tier(QUESTION) == "exact" and time.monotonic() - began < 0.9


def test_a_request_that_wants_no_similar_answer_gets_none(box):
    one = box()
    one.keep(QUESTION)
    one.settle(1)
    wish = replace(request("x").cache, similar=False)
    assert one.tier(SAME, cache=wish) == "miss" and one.tier(QUESTION, cache=wish) == "exact"


def test_whoever_looks_often_does_not_wait_for_the_counting(box):
    one = box()
    time = [1000.0]
    one.cache._now = lambda: time[0]
    assert one.cache.stats(20.0)["answers"] == 0
    one.keep("q", "a")
    one.cache._answers.do(lambda db: None, 5)
    time[0] += 19
    one.cache.tick()
    assert one.cache.stats(20.0)["answers"] == 0 and one.cache.stats()["answers"] == 1, "whoever wants to know exactly does"
    one.keep("r", "a")
    one.cache._answers.do(lambda db: None, 5)
    time[0] += 21
    assert one.cache.stats(20.0)["answers"] == 1
    one.cache.tick()
    assert one.cache.stats(20.0)["answers"] == 2
    one.keep("s", "a")
    one.cache._answers.do(lambda db: None, 5)
    time[0] += 1000
    assert one.cache.stats(20.0)["answers"] == 3
