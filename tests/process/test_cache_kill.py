"""A process full of cache writes is killed 100 times: no reviewed answer is lost, and the index never shows what has no row."""

from __future__ import annotations

import json

from fakes import ROOT, python

KILLS = 100
# One interpreter, and a fork of it for each round: to start Python takes longer than what is looked at here.
ROUNDS = """
import json, os, random, select, signal, sys, time
from pathlib import Path
sys.path[:0] = [os.environ["TESTS"], os.environ["TESTS"] + "/cache"]
from test_cache_service import Box
from appliance.cache import answers, reviewed
from appliance.cache.answers import Selection
from appliance.cache.reviewed import NewReviewed
import faiss

folder, kills = Path(os.environ["FOLDER"]), int(os.environ["KILLS"])
chance = random.Random(7)
WORDS = "pump valve door key lamp desk room code list form".split()

def write(told, start):
    box, rng, number = Box(folder), random.Random(start), start
    while True:
        box.keep(" ".join(rng.sample(WORDS, 3)), ttl_s=rng.choice([None, 50.0]))
        if number % 3 == 0:
            new = NewReviewed("everybody", [f"question number {number}"], f"answer {number}", "Ann")
            box.cache._state.do(lambda db: reviewed.put(db, new, box.time), 20)
            os.write(told, b"%d\\n" % number)
        if number % 5 == 0:
            box.cache.tick()
        if number % 11 == 0:
            box.cache._save()
        if number % 17 == 0:
            box.cache.purge(Selection(text=rng.choice(WORDS)))
        number += 1

def look(told, acknowledged):
    box = Box(folder)
    for _ in range(3):
        box.cache.tick()
    with box.cache._read_answers.reading() as db:
        rows = answers.search(db, Selection(), box.time, 10_000)
        searchable = db.execute("SELECT count(*) FROM answers WHERE vector IS NOT NULL").fetchone()[0]
    lost = [n for n in acknowledged if box.look(f"question number {n}").hit is None or box.look(f"question number {n}").hit.answer != f"answer {n}"]
    unfound = [row.question for row in rows if not (hit := box.look(row.question).hit) or hit.entry != row.id]
    alike = [row.question for row in rows[:20] if not (hit := box.look(row.question.upper()).hit) or hit.remembered not in {r.question for r in rows}]
    os.write(told, json.dumps([lost, unfound, alike, searchable, len(box.cache._index), len(rows)]).encode())
    box.cache.close()

def forked(work, *args):
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(read_end)
            work(write_end, *args)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write_end)
    return pid, read_end

acknowledged, number, seen = [], 0, []
for round in range(kills):
    pid, read_end = forked(write, number)
    if round % 5:
        select.select([read_end], [], [], 20)  # it is at work; each fifth is killed while it opens its files
    time.sleep(chance.random() * 0.05)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, "it ended by itself"
    with open(read_end) as told:
        acknowledged += [int(line) for line in told]
    number = (acknowledged[-1] if acknowledged else number) + 1000
    if round % 10 == 9:
        pid, read_end = forked(look, acknowledged)
        with open(read_end) as told:
            seen.append(json.loads(told.read()))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
print(json.dumps([len(acknowledged), seen]))
"""


def test_a_cache_killed_a_hundred_times_loses_no_reviewed_answer_and_agrees_with_itself(tmp_path):
    told = python(ROUNDS, FOLDER=str(tmp_path), KILLS=str(KILLS), TESTS=str(ROOT / "tests"))
    acknowledged, seen = json.loads(told)
    assert acknowledged > KILLS / 2 and len(seen) == KILLS // 10
    for lost, unfound, alike, searchable, indexed, rows in seen:
        assert lost == unfound == alike == [], "what was promised is gone, or cannot be found"
        assert indexed >= searchable >= 0 and rows > 0
