"""The web worker's side of an engine, without a process: everything sent ends exactly once."""

from __future__ import annotations

import socket
import threading

import pytest
from fakes import GREEDY, Inbox, chat, wait_until

from appliance.engine.channel import Channel
from appliance.engine.client import EngineClient, fingerprint
from appliance.engine.messages import Answer, Ask, Cancel, Frame, Generate
from appliance.errors import (
    ApplianceError,
    Cancelled,
    DeadlineExceeded,
    Draining,
    EngineLost,
    InvalidRequest,
    ModelFailed,
    RequestQuarantined,
    Unavailable,
)
from appliance.types import Delta, Failed, Finished, TokenLogprob, Usage

LOST = EngineLost("It crashed.")


class Peer:
    """A client and the child's end of its channel."""

    def __init__(self) -> None:
        self.client = EngineClient()
        self.ours: Channel | None = None
        self.theirs: Channel | None = None

    def attach(self) -> None:
        a, b = socket.socketpair()
        self.ours, self.theirs = Channel(a), Channel(b)
        self.client.attach(self.ours)

    def die(self, blame: bool = True) -> None:
        """As the supervisor does it: the channel is closed, then detached."""
        self.theirs.close()
        self.ours.close()
        self.client.detach(LOST, blame)

    def submit(self, name: str, words: str = "hi") -> Inbox:
        inbox = Inbox()
        self.client.submit(Generate(name, chat(words), GREEDY), 0, inbox)
        return inbox

    def received(self) -> list:
        """What the child was sent, at the latest by the thread that sends again what waited."""
        for thread in threading.enumerate():
            if thread.name == "engine-resend":
                thread.join(2)
        found = []
        while (message := self.theirs.receive(0)) is not None:
            found.append(message)
        return found


@pytest.fixture
def peer():
    peer = Peer()
    yield peer
    for channel in (peer.ours, peer.theirs):
        if channel:
            channel.close()


def test_a_sequence_gets_its_deltas_and_its_end(peer):
    peer.attach()
    inbox = peer.submit("a")
    assert [m.id for m in peer.received()] == ["a"]
    rows = [[7, "\xff", -0.5, [[7, "\xff", -0.5], [8, "b", -1.5]]]]
    peer.client.take(Frame(1, deltas=[["a", "he", 1, rows]], started=["a"]))
    peer.client.take(Frame(2, deltas=[["a", "y", 1, None]], ended=[["a", "stop", 5, 2, 3, "END"]]))
    assert inbox.events == [
        Delta(0, "he", 1, (TokenLogprob(7, b"\xff", -0.5, ((7, b"\xff", -0.5), (8, b"b", -1.5))),)),
        Delta(0, "y"),
        Finished(0, "stop", Usage(5, 2, 3), "END"),
    ]
    assert peer.client.steps == 2
    assert peer.client.outstanding() == 0


def test_a_failure_arrives_as_the_error_it_was(peer):
    peer.attach()
    inbox = peer.submit("a")
    peer.client.take(Frame(1, failed=[["a", InvalidRequest("No.", param="prompt", remedy="Yes.").to_wire()]]))
    (event,) = inbox.events
    assert isinstance(event.error, InvalidRequest)
    assert (event.error.message, event.error.param, event.error.remedy) == ("No.", "prompt", "Yes.")


def test_what_is_submitted_without_a_child_is_sent_to_the_next_one(peer):
    inboxes = [peer.submit(name) for name in "abc"]
    peer.attach()
    assert [m.id for m in peer.received()] == ["a", "b", "c"]
    peer.client.fail_all(Draining("Bye."))
    assert [type(box.wait_end().error) for box in inboxes] == [Draining] * 3


def test_news_about_strangers_is_ignored(peer):
    peer.attach()
    peer.client.take(Frame(1, [["x", "t", 1, None]], [["x", "stop", 1, 1, 0, None]], [["y", LOST.to_wire()]], ["z"]))
    peer.client.take(Answer("q99", 1))
    peer.client.cancel("x")
    assert peer.client.outstanding() == 0 and peer.received() == []


def test_what_had_streamed_is_lost_and_the_rest_is_sent_again(peer):
    peer.attach()
    streamed, started, waiting = peer.submit("a", "1"), peer.submit("b", "2"), peer.submit("c", "3")
    peer.client.take(Frame(1, [["a", "text", 1, None]], started=["a", "b"]))
    peer.die()
    assert streamed.ends == [Failed(0, LOST)] and not started.ends and not waiting.ends
    peer.attach()
    assert [m.id for m in peer.received()] == ["c", "b"]  # the suspect comes last and alone
    peer.client.take(Frame(1, started=["b"]))
    peer.die()
    assert started.ends == [Failed(0, LOST)] and not waiting.ends, "once resubmitted is enough, but only for what had begun"
    for _ in range(3):
        peer.attach()
        assert [m.id for m in peer.received()] == ["c"]
        peer.die(blame=False)
    peer.attach()
    peer.client.take(Frame(1, ended=[["c", "stop", 1, 1, 0, None]]))
    assert isinstance(waiting.ends[0], Finished)


def test_a_request_that_killed_the_engine_twice_is_not_tried_again(peer):
    inbox = peer.submit("a", "poison")
    for _ in range(2):
        peer.attach()
        peer.client.take(Frame(1, started=["a"]))
        peer.die()
    assert inbox.ends == [Failed(0, LOST)]
    with pytest.raises(RequestQuarantined):
        peer.submit("again", "poison")
    peer.submit("other", "harmless")
    peer.client.fail_all(LOST)


def test_suspects_are_tried_one_by_one_so_that_innocent_neighbours_are_answered(peer):
    inboxes = {name: peer.submit(name, name) for name in ("neighbour", "poison", "other")}
    peer.attach()
    assert len(peer.received()) == 3
    peer.client.take(Frame(1, started=list(inboxes)))
    peer.die()
    peer.attach()
    assert [ask.id for ask in peer.received()] == ["neighbour"]
    peer.client.take(Frame(2, started=["neighbour"], ended=[["neighbour", "stop", 1, 1, 0, None]]))
    assert [ask.id for ask in peer.received()] == ["poison"]
    peer.client.cancel("other")  # still held back here: it ends without the child
    assert isinstance(inboxes["other"].ends[0].error, Cancelled)
    peer.client.take(Frame(3, started=["poison"]))
    peer.die()
    assert inboxes["poison"].ends == [Failed(0, LOST)]
    assert isinstance(inboxes["neighbour"].ends[0], Finished)
    with pytest.raises(RequestQuarantined):
        peer.submit("again", "poison")


def test_a_child_that_dies_of_taking_a_request_in_is_not_fed_it_for_ever(peer):
    """It never said `started`: rendering or tokenizing killed it."""
    inbox = peer.submit("a", "poison template")
    for _ in range(2):
        peer.attach()
        peer.die()
    assert inbox.ends == [Failed(0, LOST)]
    with pytest.raises(RequestQuarantined):
        peer.submit("again", "poison template")


def test_killed_from_outside_is_nobodys_fault(peer):
    for n in range(3):
        peer.attach()
        inbox = peer.submit(f"a{n}", "innocent")
        peer.client.take(Frame(1, [[f"a{n}", "t", 1, None]], started=[f"a{n}"]))
        peer.die(blame=False)
        assert inbox.ends == [Failed(0, LOST)]
    peer.attach()
    peer.submit("b", "innocent")
    peer.client.fail_all(LOST)


def test_a_request_that_completes_is_no_suspect_any_more(peer):
    peer.attach()
    peer.submit("a", "popular")
    for _ in range(4):
        peer.client.take(Frame(1, started=["a"]))
        peer.die()
        peer.attach()
        peer.client.take(Frame(2, ended=[["a", "stop", 1, 1, 0, None]]))
        peer.submit("a", "popular")
    peer.client.fail_all(LOST)


def test_a_request_somebody_left_is_not_sent_to_the_next_child(peer):
    peer.attach()
    inbox = peer.submit("a")
    peer.client.cancel("a")
    peer.die()
    assert [type(end.error) for end in inbox.ends] == [Cancelled]
    peer.attach()
    assert peer.received() == []


def test_cancel_without_a_child_ends_the_ticket_at_once(peer):
    inbox = peer.submit("a")
    peer.client.cancel("a")
    peer.client.cancel("a")
    assert [type(end.error) for end in inbox.ends] == [Cancelled]
    assert peer.client.outstanding() == 0


def test_a_cancel_that_overtakes_its_request_is_repeated(peer):
    """The next child is being sent what waits, while a client leaves."""
    big = "x" * 400_000
    first, second = peer.submit("a", big), peer.submit("b", big)
    peer.attach()  # the first one fills the socket, the second one waits for its turn
    thread = threading.Thread(target=peer.client.cancel, args=("b",), name="test-cancel")
    thread.start()
    kinds = []
    while len([m for m in kinds if isinstance(m, Generate)]) < 2 or not isinstance(kinds[-1], Cancel):
        kinds.append(peer.theirs.receive(2))
        assert kinds[-1] is not None, "no Cancel after its Generate"
    thread.join()
    peer.client.fail_all(LOST)
    assert first.ends and second.ends


def test_attaching_does_not_wait_for_a_child_that_does_not_read(peer):
    inboxes = [peer.submit(str(n), "x" * 300_000) for n in range(3)]
    peer.attach()  # would block here for ever, and with it the thread that notices a hang
    peer.die()
    assert not any(inbox.ends for inbox in inboxes)
    peer.client.fail_all(LOST)
    assert all(len(inbox.ends) == 1 for inbox in inboxes)


def test_a_request_too_large_for_the_channel_is_refused_and_forgotten(peer, monkeypatch):
    monkeypatch.setattr("appliance.engine.channel.MAX_FRAME_BYTES", 1000)
    waiting = peer.submit("early", "x" * 2000)
    peer.attach()
    assert isinstance(waiting.wait_end().error, InvalidRequest)
    with pytest.raises(InvalidRequest, match="too large"):
        peer.submit("late", "x" * 2000)
    with pytest.raises(InvalidRequest, match="too large"):
        peer.client.ask("tokenize", {"text": "x" * 2000}, 1)
    assert peer.client.outstanding() == 0


def test_an_id_in_use_is_refused(peer):
    first = peer.submit("same")
    with pytest.raises(InvalidRequest, match="same"):
        peer.submit("same")
    peer.client.fail_all(LOST)
    assert len(first.ends) == 1


def test_after_giving_up_nothing_waits_until_a_child_is_attached(peer):
    peer.client.fail_all(ModelFailed("Broken."))
    with pytest.raises(ModelFailed, match="Broken"):
        peer.submit("a")
    peer.attach()
    peer.submit("b")
    assert [m.id for m in peer.received()] == ["b"]
    peer.client.fail_all(LOST)


# -- questions -----------------------------------------------------------------------------------------------------


def answering(peer: Peer, answer) -> threading.Thread:
    def run() -> None:
        question = peer.theirs.receive(5)
        assert isinstance(question, Ask)
        answer(question)

    thread = threading.Thread(target=run, name="test-answerer")
    thread.start()
    return thread


def test_a_question_gets_its_answer(peer):
    peer.attach()
    thread = answering(peer, lambda q: peer.client.take(Answer(q.id, {"tokens": [1]})))
    assert peer.client.ask("tokenize", {"text": "x"}, 5) == {"tokens": [1]}
    thread.join()
    assert peer.client.outstanding() == 0


def test_a_question_gets_the_childs_error(peer):
    peer.attach()
    thread = answering(peer, lambda q: peer.client.take(Answer(q.id, error=InvalidRequest("No.").to_wire())))
    with pytest.raises(InvalidRequest, match="No"):
        peer.client.ask("tokenize", {"text": "x"}, 5)
    thread.join()


def test_a_question_whose_child_dies_is_answered_with_that(peer):
    peer.attach()
    thread = answering(peer, lambda q: peer.client.detach(LOST, False))
    with pytest.raises(EngineLost):
        peer.client.ask("tokenize", {"text": "x"}, 5)
    thread.join()


def test_a_question_without_a_child_or_an_answer_is_unavailable(peer):
    with pytest.raises(Unavailable, match="not running"):
        peer.client.ask("tokenize", {}, 0.05)
    assert peer.client.outstanding() == 0
    peer.attach()
    with pytest.raises(Unavailable, match=r"0\.05 s"):
        peer.client.ask("tokenize", {}, 0.05)


def test_work_that_nobody_waits_for_any_more_is_cancelled_and_stays_in_the_books_until_that_is_confirmed(peer, monkeypatch):
    monkeypatch.setattr("appliance.engine.asking.LOOK_S", 0.01)
    peer.attach()
    looks = iter([False, False, True])
    with pytest.raises(Cancelled):
        peer.client.compute("embed", {}, lambda: next(looks))

    def overdue() -> bool:
        raise DeadlineExceeded("Too late.")

    with pytest.raises(DeadlineExceeded):
        peer.client.compute("embed", {}, overdue)
    with pytest.raises(Unavailable):
        peer.client.ask("tokenize", {}, 0.02)
    sent = peer.received()
    assert [type(m) for m in sent] == [Ask, Cancel] * 3
    assert all(sent[n].id == sent[n + 1].id for n in (0, 2, 4))
    assert peer.client.outstanding() == 3, "the child may still be at it, or hang in it"
    for message in sent[::2]:
        peer.client.take(Answer(message.id, error=Cancelled("The client left.").to_wire()))
    peer.client.take(Answer(sent[0].id, {}))
    assert peer.client.outstanding() == 0


# -- work of encoders, which outlives a child ----------------------------------------------------------------------


class Asker(threading.Thread):
    """Somebody who waits for an encoder's work; its result, or its error."""

    def __init__(self, peer: Peer, text: str, gone=lambda: False) -> None:
        super().__init__(name="test-asker", daemon=True)
        self.peer, self.text, self.gone = peer, text, gone
        self.found: object = None
        self.start()

    def run(self) -> None:
        try:
            self.found = self.peer.client.compute("embed", {"inputs": [self.text]}, self.gone)
        except ApplianceError as error:
            self.found = error

    def end(self) -> object:
        self.join(5)
        assert not self.is_alive(), f"nobody answers {self.text}"
        return self.found


def at_the_child(peer: Peer, count: int) -> dict[str, str]:
    """The next messages that the child gets, and no more, all of them work: ids by their text."""
    found = {}
    for _ in range(count):
        message = peer.theirs.receive(5)
        assert isinstance(message, Ask), f"only {list(found)} came"
        found[message.args["inputs"][0]] = message.id
    assert peer.theirs.receive(0.1) is None
    return found


def test_work_waits_for_the_next_child(peer):
    early = Asker(peer, "early")
    peer.attach()
    peer.client.take(Answer(at_the_child(peer, 1)["early"], 7))
    assert early.end() == 7
    peer.die(blame=False)
    late = Asker(peer, "late")
    wait_until(lambda: peer.client.outstanding() == 1)
    peer.client.fail_all(ModelFailed("Broken."))
    assert isinstance(late.end(), ModelFailed) and isinstance(Asker(peer, "later").end(), ModelFailed)
    peer.attach()
    again = Asker(peer, "again")
    peer.client.take(Answer(at_the_child(peer, 1)["again"], 8))
    assert again.end() == 8 and peer.client.outstanding() == 0


def test_work_that_killed_the_engine_twice_is_not_tried_again(peer):
    asker = Asker(peer, "poison")
    for _ in range(2):
        peer.attach()
        at_the_child(peer, 1)
        peer.die()
    assert asker.end() is LOST
    peer.attach()
    assert isinstance(Asker(peer, "poison").end(), RequestQuarantined)
    harmless = Asker(peer, "harmless")
    peer.client.take(Answer(at_the_child(peer, 1)["harmless"], 1))
    assert harmless.end() == 1


def test_what_was_near_a_death_is_tried_one_by_one_and_what_comes_meanwhile_waits(peer):
    peer.attach()
    askers = {text: Asker(peer, text) for text in ("innocent", "poison", "twin")}
    askers["another twin"] = Asker(peer, "twin")
    wait_until(lambda: peer.client.outstanding() == 4)
    at_the_child(peer, 4)
    peer.die()
    askers["newcomer"] = Asker(peer, "newcomer")
    wait_until(lambda: peer.client.outstanding() == 5)
    deaths = 0
    peer.attach()
    while askers["newcomer"].is_alive():
        message = peer.theirs.receive(0.1)
        if message is None:
            continue
        text = message.args["inputs"][0]
        if text != "poison":
            peer.client.take(Answer(message.id, text))
            continue
        assert peer.theirs.receive(0.1) is None, "nothing else is at the child that dies of it"
        peer.die()
        deaths += 1
        peer.attach()
    assert deaths == 1 and askers["poison"].end() is LOST
    assert [askers[name].end() for name in ("innocent", "twin", "another twin", "newcomer")] == ["innocent", "twin", "twin", "newcomer"]
    for text in ("innocent", "twin"):  # an answer clears the name
        asker = Asker(peer, text)
        peer.client.take(Answer(at_the_child(peer, 1)[text], "fine"))
        assert asker.end() == "fine"


def test_poison_whose_client_does_not_wait_is_found_too(peer, monkeypatch):
    monkeypatch.setattr("appliance.engine.asking.LOOK_S", 0.01)
    for _ in range(2):
        peer.attach()
        left = threading.Event()
        asker = Asker(peer, "poison", left.is_set)
        at_the_child(peer, 1)
        left.set()
        assert isinstance(asker.end(), Cancelled)
        peer.die()
    peer.attach()
    assert isinstance(Asker(peer, "poison").end(), RequestQuarantined) and peer.client.outstanding() == 0


def test_killed_from_outside_twice_is_lost_but_nobodys_fault(peer):
    asker = Asker(peer, "a")
    for _ in range(2):
        peer.attach()
        at_the_child(peer, 1)
        peer.die(blame=False)
    assert asker.end() is LOST
    peer.attach()
    other = Asker(peer, "a")
    peer.client.take(Answer(at_the_child(peer, 1)["a"], 1))
    assert other.end() == 1


def test_one_death_near_several_equal_requests_counts_once(peer):
    peer.attach()
    inboxes = [peer.submit(name, "popular") for name in "abc"]
    peer.client.take(Frame(1, started=list("abc")))
    peer.die()
    peer.submit("d", "popular")  # would be refused
    peer.client.fail_all(LOST)
    assert all(inbox.ends for inbox in inboxes)


def test_a_fingerprint_is_of_everything_but_the_id():
    base = Generate("a", chat("x"), {"seed": 1, "temperature": 0})
    assert fingerprint(base) == fingerprint(Generate("b", chat("x"), {"temperature": 0, "seed": 1}))
    others = [
        Generate("a", chat("y"), base.sampling),
        Generate("a", chat("x"), {"seed": 2, "temperature": 0}),
        Generate("a", chat("x"), base.sampling, max_tokens=1),
        Generate("a", chat("x"), base.sampling, stop=["s"]),
        Generate("a", chat("x"), base.sampling, logprobs=1),
        Generate("a", chat("x"), base.sampling, echo=True),
    ]
    assert len({fingerprint(ask) for ask in [base, *others]}) == 7


def test_an_error_from_another_release_is_still_an_error(peer):
    peer.attach()
    inbox = peer.submit("a")
    peer.client.take(Frame(1, failed=[["a", {"code": "made_up", "message": "Odd."}]]))
    assert type(inbox.ends[0].error) is ApplianceError and "Odd" in str(inbox.ends[0].error)
