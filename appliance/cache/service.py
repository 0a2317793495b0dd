"""The cache: looks answers up, keeps new ones, and keeps its index, its limits and its honesty in order.

`lookup` and `keep` may be called by any thread; `tick` by one, the janitor's. Whatever goes wrong here is a miss and a line in
the log, never a failed request.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from sqlite_utils import Database

from appliance.cache import answers, budget, gates, reviewed
from appliance.cache.answers import NewAnswer, Selection
from appliance.cache.identity import Identity, fits
from appliance.cache.index import Index
from appliance.cache.lookup import Candidate, Hit, Look, Meaning, Options
from appliance.cache.policy import EVERYBODY, Permission
from appliance.db.connection import Readers
from appliance.db.writer import Writer
from appliance.errors import ApplianceError
from appliance.metrics import Gauge, Metrics
from appliance.types import GenerationRequest

ANSWERS_FILE, STATE_FILE, INDEX_FOLDER = "cache.db", "state.db", "cache.index"
CANDIDATES = 8
JUDGED_CANDIDATES = 4
"""So many go to the verifier: each costs it a few milliseconds."""
LEAST_COSINE = 0.55
"""Below this two questions have never been the same one (measured: 0.1 % of the labelled paraphrases)."""
SAVE_AFTER = 5000
"""Rows."""
SHRINK_EVERY_S = 30.0
MOST_STANDINGS = 10_000
STALE_S = 900.0
"""Numbers older than that are nobody's."""
REFILL = 20_000
"""Rows put into the index in one tick."""
Log = Callable[[str, str], None]
T = TypeVar("T")
WRITE_WAIT_S = 10.0


class Cache:
    """See the module. Starts threads and opens files in `open`, not before."""

    def __init__(
        self, folder: Path, meaning: Meaning, options: Options, metrics: Metrics, log: Log, *, now: Callable[[], float] = time.time
    ) -> None:
        self.options = options
        self._folder, self.meaning, self._metrics, self._log, self._now = folder, meaning, metrics, log, now
        self._index, self._reviewed_index = Index(), Index()
        self._filled_to: int | None = None
        self._file = ""
        self._reviewed_mark: tuple[int, int] | None = None
        self._unwritten: dict[bytes, answers.Remembered] = {}
        self._unembedded: deque[tuple[int, str]] = deque(maxlen=1000)
        self._standings: dict[str | None, budget.Standing] = {}
        self._kept = 0
        self._shrunk, self._saved_to = now(), 0
        self._opened = False
        self._counted: tuple[float, dict[str, Any]] | None = None
        self._count_again = False
        self._told: dict[str, str] = {}

    # -- life ----------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open both files and begin to write. Raises StorageFailed for a precious file that cannot be used, and OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._state = Writer(self._folder / STATE_FILE, reviewed.SCHEMA, precious=True, log=self._log)
        self._answers = Writer(self._folder / ANSWERS_FILE, answers.SCHEMA, precious=False, log=self._log, renewed=self._renewed)
        self._read_state = Readers(self._folder / STATE_FILE, precious=True, damaged=self._state.check)
        self._read_answers = Readers(self._folder / ANSWERS_FILE, damaged=self._answers.check)
        self._opened = True

    def close(self) -> None:
        """Write what is waiting, save the index, close the files. Safe to call again, and before `open`."""
        if not self._opened:
            return
        self._opened = False
        try:
            self._save()
        except (ApplianceError, OSError) as error:
            self._log("warning", f"The cache's index could not be saved, it will be made anew: {error}")
        # Readers first: who closes a file last moves its log into it, and readers may not.
        for part in (self._read_answers, self._read_state, self._answers, self._state):
            part.close()

    def reading(self, which: Literal["answers", "state"]) -> AbstractContextManager[Database]:
        """One of the files, to read; see db.connection.Readers."""
        return (self._read_answers if which == "answers" else self._read_state).reading()

    def write(self, which: Literal["answers", "state"], work: Callable[[Database], T]) -> T:
        """Change one of the files and wait for it. Raises what the work raises, StorageFailed."""
        return (self._answers if which == "answers" else self._state).do(work, WRITE_WAIT_S)

    def _renewed(self) -> None:
        """cache.db is another file than before."""
        self._index = Index()
        self._filled_to = None

    # -- lookup --------------------------------------------------------------------------------------------------------

    def lookup(self, request: GenerationRequest, who: Identity, may: Permission, count: bool = True) -> Look:
        """A remembered answer to the request, or why there is none. count: it counts as a use. Never raises."""
        look = Look(why=may.why)
        if not may.look:
            return look
        try:
            look.hit = self._reviewed(request, who) or self._equal(request, who)
            if look.hit is None:
                self._similar(request, who, look, may.similar)
                if count and may.store and not look.hit and look.candidates:
                    self._note_near_miss(who, look.candidates[0])
        except Exception as error:
            self._metrics.count("appliance_cache_errors_total")
            self._tell("lookup", f"The cache could not be asked: {error}")
            look.why = "the cache could not be asked"
        if look.hit and count:
            self._count(look.hit)
        return look

    def _reviewed(self, request: GenerationRequest, who: Identity) -> Hit | None:
        context = reviewed.context_of(request)
        if context is None:
            return None
        with self._read_state.reading() as db:
            row = reviewed.equal(db, [who.namespace, EVERYBODY], context, who.question)
        return self._of_reviewed(row, who.question, 1.0) if row and row.usable(self._now(), request) else None

    def _of_reviewed(self, row: reviewed.Reviewed, question: str, score: float, similar: bool = False) -> Hit:
        age = max(0.0, self._now() - row.reviewed)
        return Hit("reviewed", row.answer, question, score, age, entry=row.id, similar=similar, reviewed_by=row.owner, reviewed=row.reviewed)

    def _equal(self, request: GenerationRequest, who: Identity) -> Hit | None:
        row = self._unwritten.get(who.exact)
        if row is None:
            with self._read_answers.reading() as db:
                row = answers.by_digest(db, who.exact)
        if row and row.usable(self._now(), request.cache.fresh_s) and fits(request, row.completion_tokens):
            return self._of_answer("exact", row, 1.0)
        return None

    def _of_answer(self, tier: str, row: answers.Remembered, score: float) -> Hit:
        age = max(0.0, self._now() - row.created)
        return Hit(tier, row.answer, row.question, score, age, row.prompt_tokens, row.completion_tokens, row.id, similar=tier == "semantic")

    def _similar(self, request: GenerationRequest, who: Identity, look: Look, allowed: bool) -> None:
        """Search by meaning; puts what it finds into `look`."""
        if not allowed:
            look.why = "no equal request"
            return
        if not self.meaning.prior:
            look.why = "no equal request; for similar ones a pair verifier is needed (pair_verifier)"
            return
        found = self.meaning.embed([who.question])
        if found is None:
            look.why = "no equal request; the embedder is not ready"
            return
        look.vector = found[0]
        standing = self.standing(who.namespace)
        context = reviewed.context_of(request)
        rows = self._near_reviewed(request, who, context, found[0]) + self._near_answers(request, who, found[0])
        rows.sort(key=lambda row: -row[0].cosine)
        passed: list[tuple[Candidate, Callable[[float], Hit]]] = []
        for candidate, make in rows[:CANDIDATES]:
            if len(passed) == JUDGED_CANDIDATES:
                look.candidates.append(replace(candidate, why="others are nearer"))
                continue
            verdicts = tuple(gates.judge(who.question, candidate.question))
            refused = next((verdict for verdict in verdicts if not verdict.passed), None)
            if refused:
                self._metrics.count("appliance_cache_gate_rejections_total", gate=refused.gate)
            judged = replace(candidate, verdicts=verdicts, why=f"{refused.gate}: {refused.reason}" if refused else "")
            look.candidates.append(judged)
            if not refused:
                passed.append((judged, make))
        look.why = "no question like it" if not rows else "no gate let one pass"
        if passed:
            self._verify(who, look, passed, standing)

    def _near_reviewed(
        self, request: GenerationRequest, who: Identity, context: bytes | None, vector: np.ndarray
    ) -> list[tuple[Candidate, Callable[[float], Hit]]]:
        if context is None or not len(self._reviewed_index):
            return []
        near: list[tuple[int, float]] = []
        for namespace in (who.namespace, EVERYBODY):
            near += self._reviewed_index.search(reviewed.partition(namespace, context), vector, CANDIDATES)
        near = [(number, cosine) for number, cosine in near if cosine >= LEAST_COSINE]
        with self._read_state.reading() as db:
            rows = reviewed.by_phrasing(db, [number for number, _ in near])
        now = self._now()

        def made(row: reviewed.Reviewed, question: str) -> Callable[[float], Hit]:
            return lambda score: self._of_reviewed(row, question, score, similar=True)

        return [
            (Candidate("reviewed", rows[number][0].id, rows[number][1], cosine), made(*rows[number]))
            for number, cosine in near
            if number in rows and rows[number][0].usable(now, request)
        ]

    def _near_answers(self, request: GenerationRequest, who: Identity, vector: np.ndarray) -> list[tuple[Candidate, Callable[[float], Hit]]]:
        near = [pair for pair in self._index.search(who.partition, vector, CANDIDATES) if pair[1] >= LEAST_COSINE]
        if not near:
            return []
        with self._read_answers.reading() as db:
            rows = answers.by_number(db, [number for number, _ in near])
        gone = [number for number, _ in near if number not in rows]
        if gone:  # purged by another process
            self._index.remove(who.partition, gone)
        now = self._now()

        def made(row: answers.Remembered) -> Callable[[float], Hit]:
            return lambda score: self._of_answer("semantic", row, score)

        return [
            (Candidate("answer", number, rows[number].question, cosine), made(rows[number]))
            for number, cosine in near
            if number in rows
            and rows[number].partition == who.partition
            and rows[number].state == answers.LIVE
            and rows[number].usable(now, request.cache.fresh_s)
            and fits(request, rows[number].completion_tokens)
        ]

    def _verify(
        self, who: Identity, look: Look, passed: list[tuple[Candidate, Callable[[float], Hit]]], standing: budget.Standing
    ) -> None:
        scores = self.meaning.same(who.question, [candidate.question for candidate, _ in passed])
        if scores is None:
            look.why = "the pair verifier is not ready"
            return
        best = max(range(len(passed)), key=lambda number: (scores[number], passed[number][0].source == "reviewed"))
        for (candidate, _), score in zip(passed, scores, strict=True):
            place = look.candidates.index(candidate)
            sure = standing.threshold is not None and score >= standing.threshold
            why = "" if sure else f"{score:.3f} is not sure enough" if standing.threshold is not None else "semantic hits are off"
            look.candidates[place] = replace(candidate, score=score, why=why)
        if standing.threshold is None:
            look.why = "semantic hits are off: too many were wrong"
        elif scores[best] >= standing.threshold:
            look.hit, look.why = passed[best][1](scores[best]), ""
        else:
            look.why = "no question is surely the same"

    def _note_near_miss(self, who: Identity, nearest: Candidate) -> None:
        near = answers.Near(who.namespace, who.question, nearest.question, nearest.cosine, nearest.score, nearest.why, self._now())
        self._later(self._answers, lambda db: answers.note_near(db, near))

    def _count(self, hit: Hit) -> None:
        number = hit.entry
        if number is None:
            return
        if hit.tier == "reviewed":
            self._later(self._state, lambda db: reviewed.used(db, number))
        else:
            now = self._now()
            self._later(self._answers, lambda db: answers.used(db, number, now))

    # -- keep ----------------------------------------------------------------------------------------------------------

    def keep(self, new: NewAnswer, vector: np.ndarray | None, similar: bool) -> None:
        """Remember an answer, soon. vector: of its question, None where it is not known. similar: it may be found by meaning."""
        now = self._now()
        if new.ttl_s is None:
            new = replace(new, ttl_s=self.options.ttl_s)
        exact = new.identity.exact
        self._unwritten[exact] = new.as_row(now)
        self._kept += 1
        kept = self._later(self._answers, lambda db: answers.put(db, new, now, vector))

        def written(done: Future[int] | None) -> None:
            self._unwritten.pop(exact, None)
            if done and similar and vector is None and not done.cancelled() and not done.exception():
                self._unembedded.append((done.result(), new.identity.question))

        if kept:
            kept.add_done_callback(written)
        else:
            written(None)

    def _later(self, writer: Writer, work: Callable[[Database], Any]) -> Future[Any] | None:
        try:
            return writer.submit(work)
        except ApplianceError as error:
            self._metrics.count("appliance_cache_errors_total")
            self._tell("write", f"The cache could not be written: {error}")
            return None

    def set_budget(self, budget: float) -> None:
        """Another share of hits may be wrong."""
        self.options = replace(self.options, budget=budget)
        self._standings = {}

    # -- honesty -------------------------------------------------------------------------------------------------------

    def standing(self, namespace: str | None = None) -> budget.Standing:
        """The threshold in force for a namespace, and why: the stricter of what is known of it and of all together."""
        own, whole = (self._standing_of(name) for name in (namespace, None))
        if own.threshold is None or whole.threshold is None:
            return own if own.threshold is None else whole
        return max(own, whole, key=lambda standing: standing.threshold or 0.0)

    def _standing_of(self, name: str | None) -> budget.Standing:
        known = self._standings  # replaced as a whole by `judge`, in other threads
        if name not in known:
            with self._read_state.reading() as db:
                hits = reviewed.judged(db, name)
            if len(known) >= MOST_STANDINGS:
                known.clear()
            known[name] = found = budget.stand(hits, self.meaning.prior, self.options.budget)
            return found
        return known[name]

    def judge(self, said: reviewed.Verdict) -> None:
        """Take a verdict on a hit; the threshold follows at once. A wrong one makes its answer unfit for others. Raises StorageFailed."""
        before = self.standing(said.namespace).threshold
        self._state.do(lambda db: reviewed.say(db, said, self._now()), WRITE_WAIT_S)
        self._standings = {}
        if said.verdict == reviewed.WRONG and said.entry is not None:
            entry = said.entry
            self._later(self._answers, lambda db: answers.set_state(db, [entry], answers.SUSPECT))
        after = self.standing(said.namespace)
        if after.threshold is None and before is not None:
            self._log("warning", f"Answers to similar questions are switched off for {said.namespace}: {after.wrong} of {after.judged} judged hits were wrong.")

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """A piece of the background work: fill the index, embed what waits, expire and evict, save. Never raises."""
        for work in (self._fill, self._fill_reviewed, self._embed_waiting, self._shrink, self._index.tick, self._save_sometimes, self._recount):
            try:
                work()
            except Exception as error:
                self._tell(work.__name__, f"The cache could not be kept in order: {error}")

    def _fill(self) -> None:
        """Put rows into an index that does not have them: after a start, a crash, or when another process wrote."""
        with self._read_answers.reading() as db:
            file = answers.file_id(db)
            if self._filled_to is None:
                stamp = self._index.load(self._folder / INDEX_FOLDER) or ""
                self._file, _, number = stamp.partition(":")
                self._filled_to = int(number or 0)
            if self._file != file:  # made anew, restored, or `rebuild` was asked for
                self._index, self._file, self._filled_to = Index(), file, 0
            rows = answers.vectors(db, self._filled_to, REFILL)
        _add(self._index, [row[1:] for row in rows])
        if rows:
            self._filled_to = rows[-1][0]

    def _fill_reviewed(self) -> None:
        with self._read_state.reading() as db:
            waiting = reviewed.without_vector(db, 64)
        if waiting:
            found = self.meaning.embed([question for _, question in waiting])
            if found is not None:
                pairs = [(number, vector) for (number, _), vector in zip(waiting, found, strict=True)]
                self._state.do(lambda db: reviewed.set_vectors(db, pairs), WRITE_WAIT_S)
        with self._read_state.reading() as db:
            mark = db.execute("SELECT count(vector), coalesce(max(id), 0), (SELECT coalesce(sum(id), 0) FROM reviewed WHERE state = 'live') FROM phrasings").fetchone()
            if mark == self._reviewed_mark:
                return
            rows = reviewed.vectors(db)
        fresh = Index()
        _add(fresh, rows)
        self._reviewed_index, self._reviewed_mark = fresh, mark

    def _embed_waiting(self) -> None:
        for _ in range(min(32, len(self._unembedded))):
            number, question = self._unembedded.popleft()
            found = self.meaning.embed([question])
            if found is None:
                self._unembedded.appendleft((number, question))
                return
            self._answers.do(lambda db, number=number, vector=found[0]: answers.set_vector(db, number, vector), WRITE_WAIT_S)

    def _shrink(self) -> None:
        """Counting all rows takes a while where there are many, so it is done when a thousandth of them may be new, and now and then."""
        now, options = self._now(), self.options
        if self._kept < max(1, options.entries // 1000) and now - self._shrunk < SHRINK_EVERY_S:
            return
        self._kept, self._shrunk = 0, now
        gone = self._answers.do(lambda db: answers.expire(db, now) + answers.evict(db, options.entries, options.size_bytes, now), WRITE_WAIT_S)
        self._forget(gone)
        if gone:
            self._answers.vacuum()

    def _forget(self, gone: list[tuple[int, bytes]]) -> None:
        for number, partition in gone:
            self._index.remove(partition, [number])

    def purge(self, which: Selection) -> int:
        """Remove answers; how many. Raises StorageFailed."""
        gone = self._answers.do(lambda db: answers.purge(db, which, self._now()), WRITE_WAIT_S)
        self._forget(gone)
        return len(gone)

    def models_are(self, digests: list[str]) -> None:
        """The models that are served now: answers of others are not given out until they are served again."""
        count = self._answers.do(lambda db: answers.quarantine_others(db, digests), WRITE_WAIT_S)
        if count:
            self._log("info", f"{count} remembered answers are of models that are not served now; they are kept aside.")

    def outdated(self) -> answers.Remembered | None:
        """The most useful answer of a model that is not served any more, None where there is none, or nothing can be read."""
        with self._read_answers.reading() as db:
            return answers.outdated(db)

    def request_of(self, old: answers.Remembered) -> dict[str, Any]:
        """What it was given to."""
        assert old.id is not None
        with self._read_answers.reading() as db:
            return answers.request_of(db, old.id) or {}

    def was_renewed(self, old: answers.Remembered) -> None:
        """Do not find it `outdated` again. Raises StorageFailed."""
        self._answers.do(lambda db: answers.was_renewed(db, old.id or 0), WRITE_WAIT_S)

    def _save_sometimes(self) -> None:
        """When a twentieth is new: a start without it reads the rows, and writing hundreds of megabytes wears a card out."""
        if self._filled_to is not None and self._filled_to - self._saved_to >= max(SAVE_AFTER, len(self._index) // 20):
            self._save()

    def _save(self) -> None:
        """Save the index with the number up to which it has all rows."""
        if self._filled_to is None:
            return
        with self._read_answers.reading() as db:
            if self._file != answers.file_id(db):
                return
        stamp = f"{self._file}:{self._filled_to}"
        (self._folder / INDEX_FOLDER).mkdir(exist_ok=True)
        self._index.save(self._folder / INDEX_FOLDER, stamp)
        self._saved_to = self._filled_to

    def _tell(self, what: str, words: str) -> None:
        """Log a fault once, until it is another one."""
        if self._told.get(what) != words:
            self._told[what] = words
            self._log("warning", words)

    # -- numbers -------------------------------------------------------------------------------------------------------

    def gauges(self) -> Iterator[Gauge]:
        """What a scrape shows: nothing that has to be counted row by row."""
        standing = self.standing()
        yield "appliance_cache_indexed", "Remembered questions that can be found by meaning.", [({}, len(self._index))]
        yield "appliance_cache_index_bytes", "Memory of their index.", [({}, self._index.bytes())]
        yield "appliance_cache_threshold", "Least probability for an answer to a similar question; 2 where there are none.", [({}, standing.threshold or 2.0)]
        if self.meaning.prior:
            yield "appliance_cache_wrong_rate_upper", "End of the interval of wrong answers to similar questions.", [({}, standing.upper)]
        yield "appliance_cache_degraded", "1 while nothing can be kept.", [({}, float(self._answers.health.state != "ok" or self._state.health.state != "ok"))]

    def stats(self, age_s: float = 0.0) -> dict[str, Any]:
        """Numbers for people. Counting all rows takes a while where there are many: where those of `age_s` seconds ago may do, older
        ones do as well while `tick` counts again."""
        if self._counted is None or not age_s or self._now() - self._counted[0] > STALE_S:
            self._counted = (self._now(), self._stats())
        self._count_again |= self._now() - self._counted[0] > age_s > 0
        return self._counted[1]

    def _recount(self) -> None:
        if self._count_again:
            self._counted, self._count_again = (self._now(), self._stats()), False

    def _stats(self) -> dict[str, Any]:
        with self._read_answers.reading() as db:
            found = answers.totals(db)
        with self._read_state.reading() as db:
            found |= reviewed.summary(db)
        standing = self.standing()
        return found | {
            "indexed": len(self._index), "index_bytes": self._index.bytes(),
            "threshold": standing.threshold, "wrong_rate": standing.rate if self.meaning.prior else None,
            "wrong_rate_upper": standing.upper if self.meaning.prior else None,
            "judged": standing.judged, "judged_wrong": standing.wrong,
            "degraded": next((writer.health.reason for writer in (self._answers, self._state) if writer.health.state != "ok"), ""),
        }  # fmt: skip


def _add(index: Index, rows: list[tuple[int, bytes, np.ndarray]]) -> None:
    """Rows of (number, partition, vector)."""
    together: dict[bytes, list[tuple[int, np.ndarray]]] = {}
    for number, partition, vector in rows:
        together.setdefault(partition, []).append((number, vector))
    for partition, own in together.items():
        index.add(partition, [number for number, _ in own], np.stack([vector for _, vector in own]))
