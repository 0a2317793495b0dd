"""Every route there is and who may use it: strangers, sessions and keys of each role."""

from __future__ import annotations

import pytest
from in_process import OURS, PASSWORD, administrator

WHO = ("stranger", "session of a user", "session of a reviewer", "key of a user", "key for metrics", "key of an admin")
IN = "let in"
MAY: dict[str, tuple[int | str, ...]] = {
    "everybody": (IN, IN, IN, IN, IN, IN),
    "key": (401, 401, 401, IN, 403, IN),
    "metrics": (401, 401, 401, IN, IN, IN),
    "signed in": (401, IN, IN, 401, 401, 401),
    "reviewer": (401, 403, IN, 403, 403, IN),
    "reviewer's page": (302, 403, IN, 302, 302, 302),
    "admin": (401, 403, 403, 403, 403, IN),
    "admin's page": (302, 403, 403, 302, 302, 302),
}
"""What each of WHO is answered, by the kind of a route. 302 leads to the form for signing in; a session is no key, and keys open no page."""
ROUTES = {
    "everybody": """
        GET /
        GET /help
        GET /static/<path:name>
        GET /ca.crt
        GET /health
        GET /v1/health
        GET /livez
        GET /readyz
        GET /admin/sign-in
        POST /admin/sign-in
        GET /admin/first
        POST /admin/first
    """,
    "key": """
        POST /v1/chat/completions
        POST /chat/completions
        POST /v1/completions
        POST /completions
        POST /v1/embeddings
        POST /embeddings
        POST /v1/rerank
        POST /v2/rerank
        POST /rerank
        POST /v1/classify
        POST /classify
        POST /v1/tokenize
        POST /tokenize
        POST /v1/detokenize
        POST /detokenize
        POST /v1/apply-template
        POST /apply-template
        POST /v1/cache/explain
        POST /v1/cache/feedback
        GET /v1/cache/stats
        GET /v1/models
        GET /models
        GET /v1/models/<path:name>
        GET /models/<path:name>
        GET /openapi.json
    """,
    "metrics": """
        GET /metrics
    """,
    "signed in": """
        POST /admin/sign-out
    """,
    "reviewer": """
        GET /admin/api/answers
        POST /admin/api/answers/<int:number>/approve
        POST /admin/api/answers/explain
        POST /admin/api/reviewed
        POST /admin/api/reviewed/<int:number>
        POST /admin/api/reviewed/<int:number>/merge
        GET /admin/api/reviewed/export
        POST /admin/api/reviewed/import
    """,
    "reviewer's page": """
        GET /admin/answers
    """,
    "admin": """
        POST /admin/api/answers/purge
        GET /admin/api/audit
        GET /admin/api/audit/export
        POST /admin/api/audit/verify
        GET /admin/api/backups
        POST /admin/api/backups
        GET /admin/api/backups/<path:file>
        POST /admin/api/backups/delete
        POST /admin/api/backups/verify
        GET /admin/api/doctor
        GET /admin/api/doctor/bundle
        POST /admin/api/forget
        GET /admin/api/tls
        GET /admin/api/access
        GET /admin/api/jobs
        GET /admin/api/jobs/<int:number>
        POST /admin/api/jobs/<int:number>/cancel
        POST /admin/api/keys
        POST /admin/api/keys/<int:number>
        POST /admin/api/keys/<int:number>/revoke
        POST /admin/api/keys/none
        GET /admin/api/log
        GET /admin/api/models
        POST /admin/api/models/add
        POST /admin/api/models/certify
        POST /admin/api/models/compare
        POST /admin/api/models/convert
        POST /admin/api/models/default
        POST /admin/api/models/load
        POST /admin/api/models/quantize
        POST /admin/api/models/remove
        POST /admin/api/models/restart
        POST /admin/api/models/unload
        POST /admin/api/models/verify
        GET /admin/api/now
        POST /admin/api/people
        POST /admin/api/people/<int:number>
        POST /admin/api/people/<int:number>/remove
        POST /admin/api/sessions/<int:number>/end
        GET /admin/api/settings
        POST /admin/api/settings
        POST /admin/api/settings/put-back
        GET /admin/api/system
        POST /admin/api/uploads
        GET /admin/api/uploads/<int:number>
        POST /admin/api/uploads/<int:number>
        POST /admin/api/uploads/<int:number>/add
        POST /admin/api/uploads/<int:number>/drop
        GET /admin/api/usage
    """,
    "admin's page": """
        GET /admin
        GET /admin/access
        GET /admin/audit
        GET /admin/jobs
        GET /admin/jobs/<int:number>
        GET /admin/models
        GET /admin/settings
        GET /admin/system
    """,
}
"""A new route needs its line here: that is when somebody decides who may use it."""
KIND = {tuple(line.split()): kind for kind, lines in ROUTES.items() for line in lines.strip().splitlines()}


def routes(service) -> set[tuple[str, str]]:
    return {(method, rule.rule) for rule in service.app.url_map.iter_rules() for method in rule.methods - {"HEAD", "OPTIONS"}}


@pytest.fixture
def box(make_service, tmp_path):
    """A service, and a function from WHO to (a client, the headers it sends)."""
    service = make_service(people=True, remember=tmp_path / "cache")
    admin = administrator(service)
    keys = {}
    for role in ("user", "metrics", "admin"):
        made = admin.post("/admin/api/keys", json={"name": role, "role": role}, headers=OURS).get_json()
        keys[role] = {"Authorization": f"Bearer {made['key']}"}
    for role in ("user", "reviewer"):
        service.access.add(role, role, PASSWORD)

    def who(name: str):
        client, role = service.client, name.split()[-1]
        if name.startswith("key"):
            return client, keys[role]
        if name.startswith("session"):
            token, _ = service.access.sign_in(role, PASSWORD, "10.0.0.1", "")  # each time: one of the routes signs out
            client.set_cookie("appliance_session", token, path="/admin")
        return client, OURS

    return service, who


def test_somebody_has_decided_about_every_route(service):
    assert routes(service) == set(KIND), "a route needs its line in ROUTES, and a line its route"


@pytest.mark.parametrize("name", WHO)
def test_nobody_reaches_more_than_the_role_allows(box, name):
    service, who = box
    for method, rule in sorted(routes(service)):
        client, headers = who(name)
        path = rule.replace("<int:number>", "99").replace("<path:name>", "base.css")
        answer = client.open(path, method=method, headers=headers, json={} if method == "POST" else None)
        kind = KIND[method, rule]
        wanted = MAY[kind][WHO.index(name)]
        found = answer.status_code
        if wanted != IN:
            assert found == wanted, (method, rule, found)
        elif kind != "everybody":  # forms for signing in refuse what is not in them with the same numbers
            assert found < 500 and found not in (302, 401, 403), (method, rule, found)


def test_the_table_lets_no_user_into_the_admin():
    open_to_all = ("/admin/sign-in", "/admin/first")
    kinds = {kind for (_, path), kind in KIND.items() if path.startswith("/admin") and path not in open_to_all}
    assert kinds == set(MAY) - {"everybody", "key", "metrics"}
    for name in ("stranger", "session of a user", "key of a user", "key for metrics"):
        assert all(MAY[kind][WHO.index(name)] in (302, 401, 403) for kind in kinds - {"signed in"})
