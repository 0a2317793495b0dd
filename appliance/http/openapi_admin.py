"""The description of /admin/api/, for openapi.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from appliance.access.people import KEY_ROLES, ROLES

Schema = dict[str, Any]
TEXT: Schema = {"type": ["string", "null"]}
QUESTIONS: Schema = {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string", "description": "One a line."}]}
ROLE: Schema = {"enum": list(ROLES)}
FORM: Schema = {"enum": ["csv", "jsonl"]}
FRACTION: Schema = {"type": ["number", "null"]}
NUMBER: Schema = {"name": "number", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
SEARCH: Schema = {"name": "q", "in": "query", "schema": {"type": "string"}, "description": "Part of a question or an answer."}
AUDITED: list[Schema] = [
    {"name": "who", "in": "query", "schema": {"type": "string"}, "description": "A person's name, `service`, `command` or `key NAME`."},
    {"name": "action", "in": "query", "schema": {"type": "string"}, "description": "Such as `key.revoke`, or `key` for all of keys."},
    {"name": "day", "in": "query", "schema": {"type": "string", "format": "date"}, "description": "Of UTC."},
    {"name": "before", "in": "query", "schema": {"type": "integer", "minimum": 0}, "description": "Only entries with lower numbers."},
]
LIMITS = ("max_perplexity_rise", "max_kl", "min_top1", "min_cosine", "min_accuracy", "min_tokens_per_s")
"""Of a certificate, those that are numbers."""
SIGNED_IN: list[Schema] = [{"session": []}, {"bearer": []}]
"""Or a key with the role admin."""
READING, CHANGING = ("401", "403", "503"), ("400", "401", "403", "404", "413", "415", "503")


def paths(operation: Callable[..., Schema]) -> Schema:
    """All paths. operation: openapi's own maker of one."""
    anything = {"application/json": {"schema": {"type": "object"}}}

    def told(name: str, text: str, **more: Any) -> Schema:
        return {"get": operation(name, text, anything, READING, security=SIGNED_IN, **more)}

    def done(name: str, summary: str, required: list[str], /, **more: Schema) -> Schema:
        parameters = {"parameters": [more.pop("number")]} if "number" in more else {}
        fields = {"type": "object", "properties": more, "required": required}
        body = {"required": True, "content": {"application/json": {"schema": fields}}}
        return {"post": operation(name, summary, anything, CHANGING, security=SIGNED_IN, requestBody=body, **parameters)}

    review = {"answer": TEXT, "source": TEXT, "expires": {"type": ["string", "null"], "format": "date"}}
    which = {name: TEXT for name in ("namespace", "model", "tag", "text")}
    limits: Schema = {"older_than_hours": {"type": ["number", "null"]}, "all": {"type": "boolean"}, "preview": {"type": "boolean"}}
    from_to = {"in": "query", "schema": {"type": "integer", "minimum": 0}}
    blob = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    where = {"parameters": [NUMBER, {"name": "offset", "required": True, **from_to}], "requestBody": blob}
    piece = operation("admin_upload_piece", "A piece of an upload, from `offset` on.", anything, CHANGING, security=SIGNED_IN, **where)
    rate = {"type": ["integer", "null"], "minimum": 0, "description": "0, null: no limit."}
    of_key: dict[str, Schema] = {
        "role": {"enum": list(KEY_ROLES)}, "requests_per_minute": rate, "tokens_per_minute": rate, "at_once": rate,
        "models": {"type": ["array", "null"], "items": {"type": "string"}}, "expires": {"type": ["string", "null"], "format": "date"},
    }  # fmt: skip
    serving = {
        "load": "Serve one more model of the catalog.", "unload": "Serve a model no more.", "default": "The model that answers where none is named.",
        "restart": "Start a model's engine anew.", "verify": "Read every byte of a model; a job.", "remove": "Delete a model that is not served; a job.",
    }  # fmt: skip
    return {
        **{f"/admin/api/models/{what}": done(f"admin_{what}", words, ["name"], name=TEXT) for what, words in serving.items()},
        "/admin/api/models": told("admin_models", "The catalog, what of it is served, and the jobs that run."),
        "/admin/api/models/add": done("admin_add_model", "Add a model by its path or hf:owner/name; a job.", ["source"], source=TEXT, name=TEXT),
        "/admin/api/models/quantize": done("admin_quantize", "A smaller form of a model; a job.", ["name", "type"], name=TEXT, type=TEXT),
        "/admin/api/models/convert": done("admin_convert", "A checkpoint's folder as a model; a job.", ["source"], source=TEXT, to={"enum": ["gguf", "onnx"]}, name=TEXT),
        "/admin/api/models/compare": done("admin_compare", "Measure models side by side; a job.", ["names"], names=QUESTIONS, reference=TEXT),
        "/admin/api/models/certify": done(
            "admin_certify", "Measure a model against limits; a job.", ["name"], name=TEXT, reference=TEXT, **dict.fromkeys(LIMITS, FRACTION),
        ),
        "/admin/api/uploads": done("admin_upload", "Begin to upload a GGUF file, or go on.", ["name", "size_bytes"], name=TEXT, size_bytes={"type": "integer"}),
        "/admin/api/uploads/{number}": told("admin_upload_state", "How much is here.", parameters=[NUMBER]) | {"post": piece},
        "/admin/api/uploads/{number}/add": done("admin_upload_add", "Make a model of a complete upload; a job.", [], number=NUMBER, name=TEXT, sha256=TEXT),
        "/admin/api/uploads/{number}/drop": done("admin_upload_drop", "Forget an upload.", [], number=NUMBER),
        "/admin/api/jobs": told("admin_jobs", "Long work, the newest first."),
        "/admin/api/jobs/{number}": told("admin_job", "A job with its log from `start` on.", parameters=[NUMBER, {"name": "start", **from_to}]),
        "/admin/api/jobs/{number}/cancel": done("admin_cancel_job", "End a job.", [], number=NUMBER),
        "/admin/api/backups": told("admin_backups", "The backups, the newest first.")
        | done("admin_make_backup", "Make a backup; a job.", [], contents={"enum": ["usual", "cache", "models", "all"]}),
        "/admin/api/backups/verify": done("admin_verify_backup", "Read a backup and check everything in it; a job.", ["name"], name=TEXT),
        "/admin/api/backups/delete": done("admin_delete_backup", "Delete a backup.", ["name"], name=TEXT),
        "/admin/api/backups/{file}": {"get": operation(
            "admin_download_backup", "A backup as a file.", {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            (*READING, "404"), security=SIGNED_IN, parameters=[{"name": "file", "in": "path", "required": True, "schema": {"type": "string"}}],
        )},
        "/admin/api/audit": told("admin_audit", "Who did what, the newest first.", parameters=AUDITED),
        "/admin/api/audit/verify": done("admin_audit_verify", "Whether the audit log is as it was written.", []),
        "/admin/api/audit/export": {"get": operation(
            "admin_audit_export", "The audit log as a file of at most 100,000 entries; `before` goes on.", {kind: {"schema": {"type": "string"}} for kind in ("text/csv", "application/jsonl")},
            ("400", *READING), security=SIGNED_IN, parameters=[*AUDITED, {"name": "form", "in": "query", "schema": FORM}],
        )},
        "/admin/api/forget": done("admin_forget", "Remove what is kept about a person or a key.", ["name"], name=TEXT, account={"type": "boolean"}),
        "/admin/api/system": told("admin_system", "Versions, hardware, and where things lie."),
        "/admin/api/tls": told("admin_tls", "What the TLS certificate says, and what is wrong with it."),
        "/admin/api/doctor": told("admin_doctor", "What is wrong with the box, why it matters, and what to do.", parameters=[
            {"name": "again", "in": "query", "schema": {"enum": ["1"]}, "description": "Look now."},
        ]),
        "/admin/api/doctor/bundle": {"get": operation(
            "admin_doctor_bundle", "An archive to send to somebody who is to help, without anybody's words or names.",
            {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}, READING, security=SIGNED_IN,
        )},
        "/admin/api/log": told("admin_log", "Lines of the log since the start.", parameters=[
            {"name": "after", **from_to}, {"name": "level", "in": "query", "schema": {"enum": ["debug", "info", "warning", "error"]}}, SEARCH,
        ]),
        "/admin/api/now": told("admin_now", "How the box is doing; the admin page shows it."),
        "/admin/api/usage": told("admin_usage", "Requests and tokens of the last 30 days, by day and by model."),
        "/admin/api/access": told("admin_access", "People, API keys, sessions, and what each key used in the last 30 days."),
        "/admin/api/keys": done("admin_make_key", "A new API key; the answer is the only place where it stands.", ["name"], name=TEXT, **of_key),
        "/admin/api/keys/{number}": done("admin_change_key", "Another role or other limits; what is not given stays.", [], number=NUMBER, **of_key),
        "/admin/api/keys/{number}/revoke": {"post": operation(
            "admin_revoke_key", "The key is good no more; its running answers may end, or are ended.", anything, CHANGING, security=SIGNED_IN,
            parameters=[NUMBER, {"name": "streams", "in": "query", "schema": {"enum": ["end"]}}],
        )},
        "/admin/api/keys/none": done("admin_open_to_all", "Forget revoked keys; where no key is good, none is needed any more.", []),
        "/admin/api/sessions/{number}/end": done("admin_end_session", "Sign somebody out.", [], number=NUMBER),
        "/admin/api/people": done("admin_add_person", "Somebody who may sign in.", ["name", "role", "password"], name=TEXT, role=ROLE, password=TEXT),
        "/admin/api/people/{number}": done("admin_change_person", "Another role or password.", [], number=NUMBER, role=ROLE, password=TEXT),
        "/admin/api/people/{number}/remove": done("admin_remove_person", "Forget a person.", [], number=NUMBER),
        "/admin/api/settings": told("admin_settings", "Every setting, its value and where it comes from.")
        | done("admin_change_settings", "Change settings by name; null takes one out of the page's file.", []),
        "/admin/api/settings/put-back": done("admin_put_back_settings", "The settings before the last change.", []),
        "/admin/api/answers": told("admin_answers", "What the review desk shows.", parameters=[SEARCH]),
        "/admin/api/answers/{number}/approve": done("admin_approve", "A generated answer becomes a reviewed one.", [], number=NUMBER, **review),
        "/admin/api/answers/purge": done("admin_purge", "Forget generated answers, or show which.", [], **which, **limits),
        "/admin/api/reviewed/import": done("admin_import", "Reviewed answers from a file, all or none.", ["text", "form"], text=TEXT, form=FORM, namespace=TEXT),
        "/admin/api/reviewed/export": {"get": operation(
            "admin_export", "The reviewed answers as a file.", {kind: {"schema": {"type": "string"}} for kind in ("text/csv", "application/jsonl")},
            ("400", *READING), security=SIGNED_IN, parameters=[{"name": "form", "in": "query", "schema": FORM}],
        )},
        "/admin/api/reviewed/{number}/merge": done("admin_merge", "Its questions get another answer, and it is gone.", ["into"], number=NUMBER, into={"type": "integer"}),
        "/admin/api/answers/explain": done("admin_explain", "Why a question would or would not be answered from memory.", ["question"], question=TEXT, model=TEXT, key=TEXT),
        "/admin/api/reviewed": done("admin_write", "A new reviewed answer.", ["questions", "answer"], questions=QUESTIONS, namespace=TEXT, **review),
        "/admin/api/reviewed/{number}": done(
            "admin_change", "Change a reviewed answer; what is not given stays.", [], number=NUMBER,
            answer=TEXT, phrasings=QUESTIONS, state={"enum": ["live", "rejected", "expired", None]},
        ),
    }  # fmt: skip
