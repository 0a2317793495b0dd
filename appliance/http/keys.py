"""Who asks with a key: whether it is a good one, what it may do, and how much of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, g, request

from appliance.access.limits import CHANGE
from appliance.auth import Principal, sent_key
from appliance.clock import utc_date
from appliance.errors import AuthenticationFailed, PermissionDenied
from appliance.http.client_watch import ClientWatch
from appliance.http.contract import Services, is_for_metrics
from appliance.http.request_log import Story


def check(services: Services, view: Callable[..., Any]) -> None:
    """Put who asks into `g.principal`; a POST gets a turn, `g.turn`, which ends with its response: what only reads costs next to nothing.

    Raises AuthenticationFailed, TooManyTries, PermissionDenied, RateLimited.
    """
    principal = identify(services)
    if principal.role == "metrics" and not is_for_metrics(view):
        raise PermissionDenied(f"The key {principal.name} may read /metrics and nothing else.", remedy=CHANGE)
    g.principal = principal
    if request.method == "POST":
        g.turn = services.access.turns.begin(principal.name, principal.limits)


def identify(services: Services) -> Principal:
    """Whose key it is; the log line has the name. Raises AuthenticationFailed, TooManyTries."""
    try:
        principal = services.auth.identify(request.headers)
    except AuthenticationFailed:
        if sent_key(request.headers):  # to send none is no guess
            services.access.wrong_key(request.remote_addr or "")
        raise
    g.story.principal = principal.name
    if services.access.has_expired(principal.limits):
        raise AuthenticationFailed(f"The key {principal.name} was good until {utc_date(principal.limits.expires - 1)}.", remedy=CHANGE)
    return principal


def finish(response: Response, services: Services, story: Story) -> None:
    """Say how much is left; the turn ends when the response is closed."""
    principal, turn = g.get("principal"), g.get("turn")
    if principal:
        response.headers.update(services.access.turns.headers(principal.name, principal.limits))
    if turn:
        response.call_on_close(lambda: turn.end(story.tally.tokens() if story.tally else 0))


class Watch:
    """Whether work for this request goes on. Used by the request's own thread."""

    def __init__(self) -> None:
        self._client, self._turn = ClientWatch.of(request.environ), g.get("turn")

    def gone(self) -> bool:
        """Whether the client has left. Raises KeyRevoked when its answers are to end."""
        if self._turn:
            self._turn.check()
        return self._client.gone()
