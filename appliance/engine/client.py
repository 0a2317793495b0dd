"""The web worker's side of one engine: who waits for what. Everything sent ends in exactly one Finished or Failed.

Any thread may submit, cancel and ask; the supervisor's thread attaches and detaches channels and hands in what the
child sends. A child that dies takes with it what had already streamed; the rest is sent once more to the next child.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from appliance.engine.asking import QUARANTINE_AFTER, Questions, digest, quarantined, send
from appliance.engine.channel import Channel
from appliance.engine.messages import Answer, Cancel, Frame, Generate
from appliance.errors import ApplianceError, Cancelled, InvalidRequest, from_wire
from appliance.types import Delta, Event, Failed, Finished, TokenLogprob, Usage

Deliver = Callable[[Event], None]


@dataclass(slots=True, eq=False)
class Ticket:
    """One sequence that somebody waits for. started: the child has begun it. streamed: something was delivered.
    cancelled: nobody waits any more, but the child has not confirmed it yet."""

    ask: Generate
    index: int
    deliver: Deliver
    fingerprint: str
    started: bool = False
    streamed: bool = False
    resubmitted: bool = False
    cancelled: bool = False


def fingerprint(ask: Generate) -> str:
    """What makes two requests the same request, for quarantine: everything but the id."""
    return digest([ask.prompt, ask.sampling, ask.max_tokens, ask.stop, ask.logprobs, ask.echo])


class EngineClient:
    """Tickets and questions of one engine. `on_frame` gets each frame's `load` and `started` for the metrics."""

    def __init__(self, on_frame: Callable[[Frame], None] = lambda frame: None) -> None:
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._tickets: dict[str, Ticket] = {}
        self._questions = Questions()
        self._deaths: Counter[str] = Counter()
        self._suspects: list[Ticket] = []
        self._on_trial: Ticket | None = None
        self._on_frame = on_frame
        self._gone: ApplianceError | None = None
        self._sender: threading.Thread | None = None
        self.steps = 0

    # -- for anybody -------------------------------------------------------------------------------------------

    def submit(self, ask: Generate, index: int, deliver: Deliver) -> None:
        """Start one sequence; events with `index` go to `deliver`, on the receiving thread, which must not block.

        While no child is attached the ticket waits for the next one. Raises RequestQuarantined, InvalidRequest for an id
        that is in use or a request too large for the channel, and after `fail_all` its error until a child is attached.
        """
        ticket = Ticket(ask, index, deliver, fingerprint(ask))
        with self._lock:
            if self._deaths[ticket.fingerprint] >= QUARANTINE_AFTER:
                raise quarantined("prompt")
            if self._gone:
                raise self._gone
            if ask.id in self._tickets:
                raise InvalidRequest(f"A request with the id {ask.id[:100]} is running already.")
            self._tickets[ask.id] = ticket
            channel = self._channel
        if channel and (error := self._hand_over(channel, ticket)):
            raise error

    def cancel(self, request_id: str) -> None:
        """Nobody waits for this sequence any more. Its ticket ends with Failed(Cancelled) in any case."""
        with self._lock:
            channel = self._channel
            ticket = self._tickets.get(request_id)
            if ticket is None:
                return
            ticket.cancelled = True
            at_the_child = channel is not None and ticket not in self._suspects
            if not at_the_child:
                del self._tickets[request_id]
                self._suspects = [t for t in self._suspects if t is not ticket]
        if not at_the_child:
            ticket.deliver(Failed(ticket.index, Cancelled("The client left.")))
        else:
            send(channel, Cancel(request_id))

    def ask(self, what: str, args: dict[str, Any], timeout_s: float) -> Any:
        """tokenize, detokenize or template; waits for a child while there is none. Raises what the child raised, EngineLost
        when it was lost with the question, and Unavailable."""
        return self._questions.ask(what, args, timeout_s, lambda: False, work=False)

    def compute(self, what: str, args: dict[str, Any], gone: Callable[[], bool] = lambda: False) -> Any:
        """Work for an encoder, which the next child does once more when one is lost with it. gone: see Questions.ask.

        Raises what the child raised, EngineLost, Cancelled, what `gone` raises, and RequestQuarantined.
        """
        return self._questions.ask(what, args, float("inf"), gone, work=True)

    def outstanding(self) -> int:
        """Sequences and questions that the child still owes an end."""
        with self._lock:
            return len(self._tickets) + len(self._questions)

    def _hand_over(self, channel: Channel, ticket: Ticket) -> ApplianceError | None:
        """Send a ticket's request. One that is too large for the channel loses its ticket; the error is returned."""
        try:
            send(channel, ticket.ask)
        except ValueError as error:
            with self._lock:
                self._tickets.pop(ticket.ask.id, None)
            return InvalidRequest(f"The request is too large for the engine: {error}.")
        return None

    # -- for the supervisor's thread ---------------------------------------------------------------------------

    def attach(self, channel: Channel) -> None:
        """A child is ready: send it everything that waits; what was near when one died goes singly, one after the other,
        so that the next death names the guilty one."""
        with self._lock:
            self._channel, self._gone = channel, None
            tickets = list(self._tickets.values())
            self._suspects = [t for t in tickets if self._deaths[t.fingerprint]]
            waiting = [t for t in tickets if t not in self._suspects]
        self._resend(channel, waiting)
        self._try_next_suspect()
        self._questions.attach(channel)

    def _try_next_suspect(self) -> None:
        with self._lock:
            busy = self._on_trial is not None and self._on_trial.ask.id in self._tickets
            if busy or not self._suspects or self._channel is None:
                return
            self._on_trial = self._suspects.pop(0)
            channel, ticket = self._channel, self._on_trial
        self._resend(channel, [ticket])

    def _resend(self, channel: Channel, tickets: list[Ticket]) -> None:
        # On a thread of its own: this one must go on reading, or two full sockets would wait for each other.
        before = self._sender

        def resend() -> None:
            if before:
                before.join()
            self._send_again(channel, tickets)

        if tickets:
            self._sender = threading.Thread(target=resend, name="engine-resend", daemon=True)
            self._sender.start()

    def _send_again(self, channel: Channel, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            if error := self._hand_over(channel, ticket):
                ticket.deliver(Failed(ticket.index, error))
            elif ticket.cancelled:  # its Cancel may have been faster
                send(channel, Cancel(ticket.ask.id))

    def take(self, message: Frame | Answer) -> None:
        """Deliver what the child sent."""
        if isinstance(message, Answer):
            self._questions.take(message)
            return
        self.steps = message.step
        with self._lock:
            for request_id in message.started:
                if ticket := self._tickets.get(request_id):
                    ticket.started = True
            deltas = [(self._tickets.get(d[0]), d) for d in message.deltas]
            ended = [(self._tickets.pop(e[0], None), e) for e in message.ended]
            failed = [(self._tickets.pop(f[0], None), f) for f in message.failed]
            for ticket, _ in ended:
                if ticket:
                    self._deaths.pop(ticket.fingerprint, None)  # it was only near when the engine died
        self._on_frame(message)
        for ticket, (_, text, tokens, logprobs) in deltas:
            if ticket:
                ticket.streamed = True
                ticket.deliver(Delta(ticket.index, text, tokens, _logprobs(logprobs)))
        for ticket, (_, reason, prompt, completion, cached, stop) in ended:
            if ticket:
                ticket.deliver(Finished(ticket.index, reason, Usage(prompt, completion, cached), stop))
        for ticket, (_, error) in failed:
            if ticket:
                ticket.deliver(Failed(ticket.index, from_wire(error)))
        if ended or failed:
            self._try_next_suspect()

    def detach(self, why: ApplianceError, blame: bool) -> None:
        """The child is gone and its channel closed. What had streamed or was sent twice fails with `why`; the rest waits
        for the next child.

        blame: the child died of its own work, so what it was working on is counted against those requests.
        """
        with self._lock:
            self._channel = self._on_trial = None
            self._suspects = []
            # A child to blame that had begun nothing died of taking one of them in.
            unannounced = blame and not any(ticket.started for ticket in self._tickets.values())
            lost, left, kept = [], [], {}
            near: set[str] = set()  # several may be the same request, and a death counts once
            for key, ticket in self._tickets.items():
                begun = ticket.started or unannounced
                if blame and begun:
                    near.add(ticket.fingerprint)
                # What the child had not begun cannot have killed it and may wait for any number of children.
                if ticket.cancelled:
                    left.append(ticket)
                elif ticket.streamed or (begun and ticket.resubmitted):
                    lost.append(ticket)
                else:
                    ticket.resubmitted = ticket.resubmitted or begun
                    ticket.started = False
                    kept[key] = ticket
            self._tickets = kept
            self._deaths.update(near)
        if self._sender:
            self._sender.join()
            self._sender = None
        for ticket in left:
            ticket.deliver(Failed(ticket.index, Cancelled("The client left.")))
        for ticket in lost:
            ticket.deliver(Failed(ticket.index, why))
        self._questions.detach(why, blame)

    def fail_all(self, why: ApplianceError) -> None:
        """No child will come: every ticket and question ends now, and so does what comes later."""
        with self._lock:
            self._gone = why
            tickets, self._tickets = list(self._tickets.values()), {}
            self._channel = None
        for ticket in tickets:
            ticket.deliver(Failed(ticket.index, why))
        self._questions.fail_all(why)


def _logprobs(entries: list[Any] | None) -> tuple[TokenLogprob, ...]:
    if not entries:
        return ()
    return tuple(
        TokenLogprob(token, piece.encode("latin-1"), value, tuple((t, p.encode("latin-1"), v) for t, p, v in top))
        for token, piece, value, top in entries
    )
