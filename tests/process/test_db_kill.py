"""A process that writes to a database file is killed at any moment: what it was told is written is there."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

from fakes import python

KILLS = 25
# One interpreter, and a fork of it for each round: to start Python takes longer than what is looked at here.
ROUNDS = """
import json, os, random, select, signal, sys, time
from pathlib import Path
from appliance.db.connection import inspect
from appliance.db.migrations import Migration, Schema
from appliance.db.writer import Writer

path, kills = Path(os.environ["DB"]), int(os.environ["KILLS"])
chance = random.Random(4)
schema = Schema("kill", [
    Migration("1", "CREATE TABLE rows (number INTEGER PRIMARY KEY, filler BLOB)"),
    Migration("2", "CREATE INDEX fillers ON rows(filler)"),
])

def write(told, start):
    writer = Writer(path, schema, precious=True, log=lambda *line: os.write(2, repr(line).encode()))
    futures, number = [], start
    while True:
        futures.append((number, writer.submit(lambda db, n=number: db["rows"].insert({"number": n, "filler": os.urandom(n % 7 * 300)}).last_pk)))
        number += 1
        if len(futures) >= 8:
            for n, future in futures:
                assert future.result() == n
                os.write(told, b"%d\\n" % n)
            futures = []
            if n % 64 == 0:
                writer.checkpoint()

acknowledged, start = [], 1
for round in range(kills):
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(read_end)
            write(write_end, start)
        finally:
            os._exit(1)
    os.close(write_end)
    if round % 5:
        select.select([read_end], [], [], 20)  # it is at work; each fifth is killed while it opens the file
        time.sleep(chance.random() * 0.06)
    else:
        time.sleep(chance.random() * 0.02)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    with open(read_end) as told:
        acknowledged += [int(line) for line in told]
    if path.exists():
        inspect(path, whole=True)
    start += 100_000
print(json.dumps(acknowledged))
"""


def test_every_acknowledged_write_is_there_after_kill_9(tmp_path):
    path = tmp_path / "state.db"
    acknowledged = json.loads(python(ROUNDS, DB=str(path), KILLS=str(KILLS)))
    assert len({number // 100_000 for number in acknowledged}) >= KILLS * 4 // 5, "most were killed while they wrote"
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        kept = {row[0] for row in conn.execute("SELECT number FROM rows")}
        steps = conn.execute("SELECT name FROM _sqlite_migrations").fetchall()
    assert set(acknowledged) <= kept
    assert len(set(acknowledged)) == len(acknowledged) and steps == [("1",), ("2",)]
    assert not path.with_name("state.db.new").exists()
