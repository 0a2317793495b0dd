"""What this package needs from the rest of the service, written down once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar

from appliance.access.people import Role
from appliance.access.service import Access
from appliance.auth import Auth
from appliance.config import Config
from appliance.doctor.service import Doctor
from appliance.fleet import Fleet
from appliance.jobs import Jobs
from appliance.metrics import Metrics
from appliance.pipeline import Pipeline
from appliance.tls_context import Tls
from appliance.trail.log import Trail
from appliance.uploads import Uploads
from appliance.usage import Usage

View = TypeVar("View", bound=Callable[..., Any])


class Services(Protocol):
    """The running service. `config` and `auth` are replaced on a reload, so they are read anew for each request. began_with: the
    configuration of the start, which holds for what needs a restart."""

    config: Config
    began_with: Config
    pipeline: Pipeline
    auth: Auth
    metrics: Metrics
    started_unix: int
    access: Access
    fleet: Fleet
    jobs: Jobs
    uploads: Uploads
    usage: Usage
    tls: Tls
    doctor: Doctor
    trail: Trail

    def change_settings(self, changes: Mapping[str, Any] | None) -> None:
        """Save these, or put back what was before (None)."""

    def pending(self) -> Config:
        """The configuration that a restart would give."""

    def renew_auth(self) -> None:
        """Keys were made or revoked."""


def needs(role: Role | Literal["any"]) -> Callable[[View], View]:
    """Mark a view of the admin pages: who asks must be signed in with this role, or as an admin; any: with whatever role."""

    def mark(view: View) -> View:
        view.role = role  # type: ignore[attr-defined]
        return view

    return mark


def role_of(view: Callable[..., Any] | None) -> Role | Literal["any"] | None:
    """The role that the view was marked with."""
    return getattr(view, "role", None)


def public(view: View) -> View:
    """Mark a view that answers without a key. Everything else needs one as soon as keys are set."""
    view.public = True  # type: ignore[attr-defined]
    return view


def is_public(view: Callable[..., Any] | None) -> bool:
    """Whether the view was marked with `public`."""
    return getattr(view, "public", False)


def for_metrics(view: View) -> View:
    """Mark a view that keys for metrics may read too."""
    view.for_metrics = True  # type: ignore[attr-defined]
    return view


def is_for_metrics(view: Callable[..., Any]) -> bool:
    """Whether the view was marked with `for_metrics`."""
    return getattr(view, "for_metrics", False)
