"""GET /openapi.json: what there is, as OpenAPI 3.1. Limits come from the tables that the checks use."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from appliance.http import idempotency, openapi_admin
from appliance.http.answering import reply
from appliance.http.caching import MOST_NAME_CHARS, MOST_S, MOST_TAGS
from appliance.http.classify import MAX_LABELS
from appliance.http.contract import Services
from appliance.http.encoding import MAX_TEXTS
from appliance.http.fields import INT32_MAX, SAMPLING_FIELDS
from appliance.http.openai_embeddings import FORMATS, KINDS
from appliance.http.schemas import MAX_STOP_CHARS, MAX_STOPS, MAX_TOP_LOGPROBS, ROLES
from appliance.routing import TASKS

Schema = dict[str, Any]
STRING: Schema = {"type": "string"}
TEXT: Schema = {"type": "string", "pattern": "^[^\\u0000]*$"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TOKENS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": INT32_MAX}}
STATUSES = {
    "400": "The request cannot be served as it is written; `param` names the field.",
    "401": "No key, or not a valid one.",
    "403": "The key or the role may not do this or use this model, or a page of another site asked.",
    "404": "No such model.",
    "409": "The first request with this Idempotency-Key is being answered; Retry-After says when to ask again.",
    "413": "The body is larger than max_body_bytes.",
    "415": "The body is not JSON.",
    "422": "This Idempotency-Key came with another request before.",
    "429": "The queue is full, or the key has used what it may in a minute; Retry-After says when to come back.",
    "500": "A mistake in the server; its log has the reason.",
    "503": "The model is loading, has failed, or the service is stopping; with Retry-After.",
    "504": "Cache-Control: only-if-cached, and no answer is remembered.",
}


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = Blueprint("openapi", __name__)

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return reply(document(services.auth.required))

    return routes


def document(key_needed: bool) -> Schema:
    """The whole description."""
    security = [{"bearer": []}, {"x_api_key": []}] if key_needed else []
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "appliance",
            "version": "1",
            "description": "Language models on this machine's CPU, behind the OpenAI API. Unknown fields are ignored, "
            "null means the default. The paths of OpenAI's API answer without /v1 as well.",
        },
        "servers": [{"url": "/"}],
        "security": security,
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "responses": {f"Status{code}": _error(code, text) for code, text in STATUSES.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x_api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "session": {"type": "apiKey", "in": "cookie", "name": "appliance_session"},
            },
        },
    }


def _error(code: str, text: str) -> Schema:
    headers = {"x-request-id": {"schema": STRING}}
    if code in ("409", "429", "503"):
        headers["Retry-After"] = {"description": "Seconds.", "schema": COUNT}
    return {"description": text, "headers": headers, "content": _json({"$ref": "#/components/schemas/Error"})}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _object(properties: Schema, required: tuple[str, ...] = (), **more: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), **more}


def _optional(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _operation(
    name: str, summary: str, answer: Schema, statuses: tuple[str, ...], body: str | None = None, **more: Any
) -> Schema:
    responses: Schema = {"200": {"description": "Done.", "content": answer}}
    responses |= {code: {"$ref": f"#/components/responses/Status{code}"} for code in statuses}
    found = {"operationId": name, "summary": summary, "responses": responses, **more}
    if body:
        found["requestBody"] = {"required": True, "content": _json({"$ref": f"#/components/schemas/{body}"})}
    return found


def _paths() -> Schema:
    posting = ("400", "401", "403", "404", "413", "415", "429", "500", "503")
    computing = (*posting, "409", "422")
    priority = {
        "name": "X-Priority",
        "in": "header",
        "description": "batch waits while interactive requests do not.",
        "schema": {"enum": ["interactive", "batch", ""]},
    }
    remembered = {
        "name": "Cache-Control",
        "in": "header",
        "description": "no-cache: compute a new answer. no-store: do not remember it. max-age=SECONDS: no older one. only-if-cached: compute none.",
        "schema": {"type": "string", "pattern": "^(no-cache|no-store|only-if-cached|max-age=[0-9]{1,9})?$"},
    }
    repeated = {
        "name": idempotency.HEADER,
        "in": "header",
        "description": "The same key with the same body gives the first answer again, for 24 h.",
        "schema": {"type": "string", "pattern": "^[ -~]+$", "maxLength": idempotency.LONGEST_KEY},
    }
    model = {"name": "model", "in": "path", "required": True, "schema": STRING}
    paths: Schema = {}

    def generating(path: str, name: str, summary: str) -> None:
        answer = _json({"$ref": f"#/components/schemas/{name}"}) | {"text/event-stream": {}}
        for prefix in ("/v1", ""):
            operation = name[0].lower() + name[1:] + ("" if prefix else "Short")
            paths[prefix + path] = {
                "post": _operation(
                    operation, summary, answer, (*computing, "504"), f"{name}Request", parameters=[priority, remembered, repeated]
                )
            }

    generating("/chat/completions", "ChatCompletion", "Answer a conversation.")
    generating("/completions", "Completion", "Continue a text.")
    for path, name, text in (
        ("embeddings", "Embeddings", "A vector for each text."),
        ("rerank", "Rerank", "How well documents fit a query, the best first."),
        ("classify", "Classify", "The label of each text, or its entities."),
    ):
        for prefix, more in (("/v1", ""), ("/v2", "V2"), ("", "Short")):
            if prefix != "/v2" or path == "rerank":
                operation = _operation(path + more, text, _ref(f"{name}Answer"), computing, f"{name}Request", parameters=[priority, repeated])
                paths[f"{prefix}/{path}"] = {"post": operation}
    for prefix in ("/v1", ""):
        short = "" if prefix else "Short"
        paths[f"{prefix}/models"] = {
            "get": _operation(f"models{short}", "The models served.", _ref("ModelList"), ("401", "403"))
        }
        paths[f"{prefix}/models/{{model}}"] = {
            "get": _operation(f"model{short}", "One model.", _ref("Model"), ("401", "403", "404"), parameters=[model])
        }
        for path, verb, text in (
            ("tokenize", "Tokenize", "Text to token ids."),
            ("detokenize", "Detokenize", "Token ids to text."),
            ("apply-template", "ApplyTemplate", "The prompt that a conversation becomes."),
        ):
            name = verb[0].lower() + verb[1:] + short
            operation = _operation(name, text, _ref(f"{verb}Answer"), posting, f"{verb}Request")
            paths[f"{prefix}/{path}"] = {"post": operation}
    for path, text in (("/health", "Can it answer?"), ("/v1/health", "Can it answer?"), ("/livez", "Is it alive?")):
        operation = _operation(path.strip("/").replace("/", "_"), text, _ref("Status"), ("503",), security=[])
        paths[path] = {"get": operation}
    for name, text in (("explain", "Why a request is or is not answered from memory."), ("feedback", "Was a remembered answer right?")):
        operation = _operation(f"cache_{name}", text, _ref(f"Cache{name.title()}Answer"), posting, f"Cache{name.title()}Request")
        paths[f"/v1/cache/{name}"] = {"post": operation}
    paths["/v1/cache/stats"] = {"get": _operation("cache_stats", "Numbers of the cache.", _json({"type": "object"}), ("401", "403", "503"))}
    paths |= openapi_admin.paths(_operation)
    paths["/readyz"] = {
        "get": _operation("readyz", "Is a model ready, and does it move?", _ref("Readiness"), ("503",), security=[])
    }
    paths["/metrics"] = {
        "get": _operation("metrics", "Numbers for Prometheus.", {"text/plain": {"schema": STRING}}, ("401",))
    }
    authority = {"application/x-x509-ca-cert": {"schema": STRING}}
    paths["/ca.crt"] = {"get": _operation("authority", "The certificate that clients need to trust this box, as PEM.", authority, ("404",), security=[])}
    paths["/openapi.json"] = {"get": _operation("openapi", "This description.", _json({"type": "object"}), ("401", "403"))}
    return paths


def _ref(name: str) -> Schema:
    return _json({"$ref": f"#/components/schemas/{name}"})


def _generation() -> Schema:
    fields: Schema = {
        "model": _optional({**STRING, "description": "Absent: the first model served."}),
        "max_tokens": _optional({"type": "integer", "minimum": -1, "description": "-1: up to the end of the context."}),
        "n_predict": _optional({"type": "integer", "minimum": -1, "description": "llama.cpp's name for max_tokens."}),
        "stop": _optional(
            {
                "anyOf": [
                    {**TEXT, "minLength": 1, "maxLength": MAX_STOP_CHARS},
                    {"type": "array", "items": {**TEXT, "minLength": 1}, "maxItems": MAX_STOPS},
                ]
            }
        ),
        "n": _optional({"type": "integer", "minimum": 1, "description": "At most max_choices."}),
        "stream": _optional(BOOLEAN),
        "cache": {"anyOf": [BOOLEAN, _cache_wish(), {"type": "null"}], "description": "What may be remembered; false: nothing."},
        "stream_options": _optional(_object({"include_usage": BOOLEAN})),
        "logit_bias": _optional(
            {
                "anyOf": [
                    {"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}},
                    {"type": "array", "description": "[[token id, bias], ...]; false bans a token."},
                ]
            }
        ),
    }
    for row in SAMPLING_FIELDS:
        fields[row.name] = _optional(
            {"type": row.kind, "minimum": row.low, "maximum": row.high, "description": row.help}
        )
    return fields


def _schemas() -> Schema:
    logprobs = {"type": "integer", "minimum": 0, "maximum": MAX_TOP_LOGPROBS}
    part = _object({"type": {"const": "text"}, "text": TEXT}, ("type", "text"))
    parts: Schema = {"type": "array", "items": part, "minItems": 1}
    message = _object(
        {"role": {"enum": list(ROLES)}, "content": {"anyOf": [TEXT, parts]}},
        ("role", "content"),
    )
    messages: Schema = {"type": "array", "items": message, "minItems": 1}
    model_name = _optional(STRING)
    usage = _object(
        {
            "prompt_tokens": COUNT,
            "completion_tokens": COUNT,
            "total_tokens": COUNT,
            "prompt_tokens_details": _object({"cached_tokens": COUNT}),
        },
        ("prompt_tokens", "completion_tokens", "total_tokens"),
    )
    reason = {"enum": ["stop", "length"]}
    head = {"id": STRING, "object": STRING, "created": COUNT, "model": STRING, "usage": usage}
    chat_choice = _object(
        {
            "index": COUNT,
            "finish_reason": reason,
            "logprobs": _optional({"type": "object"}),
            "message": _object({"role": {"const": "assistant"}, "content": STRING, "refusal": {"type": "null"}}),
        }
    )
    text_choice = _object(
        {"index": COUNT, "finish_reason": reason, "logprobs": _optional({"type": "object"}), "text": STRING}
    )
    ids = {**TOKENS, "minItems": 1}
    prompt = {
        "anyOf": [TEXT, *({"type": "array", "items": item, "minItems": 1} for item in (TEXT, TOKENS["items"], ids))]
    }
    model = _object(
        {
            "id": STRING,
            "object": {"const": "model"},
            "created": COUNT,
            "owned_by": STRING,
            "task": {"enum": list(TASKS)},
            "dimensions": _optional(COUNT),
            "labels": _optional({"type": "array", "items": STRING}),
            "meta": _optional({"type": "object"}),
        },
        ("id", "object", "created", "owned_by", "task"),
    )
    return {
        "Error": _object({"error": _error_object()}, ("error",)),
        "ChatCompletionRequest": _object(
            {
                "messages": messages,
                **_generation(),
                "max_completion_tokens": _optional({"type": "integer", "minimum": -1}),
                "logprobs": _optional(BOOLEAN),
                "top_logprobs": _optional(logprobs),
            },
            ("messages",),
        ),
        "CompletionRequest": _object(
            {"prompt": prompt, **_generation(), "echo": _optional(BOOLEAN), "logprobs": _optional(logprobs)},
            ("prompt",),
        ),
        "ChatCompletion": _object({**head, "choices": {"type": "array", "items": chat_choice}}),
        "Completion": _object({**head, "choices": {"type": "array", "items": text_choice}}),
        "Model": model,
        "ModelList": _object(
            {"object": {"const": "list"}, "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}}}
        ),
        "TokenizeRequest": _object(
            {
                "model": model_name,
                "content": _optional(STRING),
                "text": _optional({**STRING, "description": "Another name for content."}),
                "add_special": _optional(BOOLEAN),
                "parse_special": _optional(BOOLEAN),
                "with_pieces": _optional(BOOLEAN),
            },
            anyOf=[{"required": [name], "properties": {name: TEXT}} for name in ("content", "text")],
        ),
        "TokenizeAnswer": _object({"tokens": {"type": "array"}}, ("tokens",)),
        "DetokenizeRequest": _object({"model": model_name, "tokens": TOKENS}, ("tokens",)),
        "DetokenizeAnswer": _object({"content": STRING}, ("content",)),
        "ApplyTemplateRequest": _object({"model": model_name, "messages": messages}, ("messages",)),
        "ApplyTemplateAnswer": _object({"prompt": STRING}, ("prompt",)),
        **_encoding(prompt),
        **_cache(),
        "Status": _object({"status": STRING}, ("status",)),
        "Readiness": _object({"status": STRING, "models": {"type": "object"}}, ("status",)),
    }


def _cache_wish() -> Schema:
    seconds = {"type": "number", "minimum": 0, "maximum": MOST_S}
    name = {"type": "string", "pattern": "^[ -~]+$", "maxLength": MOST_NAME_CHARS}
    fields = {
        "ttl": {**seconds, "description": "Remember the answer for so many seconds."},
        "s-maxage": {**seconds, "description": "No answer older than this."},
        "no-cache": {**BOOLEAN, "description": "Compute a new answer."},
        "no-store": {**BOOLEAN, "description": "Do not remember the answer."},
        "similar": {**BOOLEAN, "description": "false: only the answer to an equal request."},
        "namespace": {**name, "description": "A part of your own answers."},
        "tags": {"type": "array", "items": name, "maxItems": MOST_TAGS},
    }
    return _object({field: _optional(schema) for field, schema in fields.items()}, additionalProperties=False)


def _cache() -> Schema:
    """The bodies of /v1/cache."""
    candidate = _object({"source": STRING, "number": COUNT, "question": STRING, "cosine": {"type": "number"}, "why": STRING})
    verdict = {"enum": ["right", "wrong"]}
    return {
        "CacheExplainRequest": {"$ref": "#/components/schemas/ChatCompletionRequest"},
        "CacheExplainAnswer": _object({"outcome": STRING, "why": STRING, "candidates": {"type": "array", "items": candidate}}, ("outcome",)),
        "CacheFeedbackRequest": _object({"id": {**TEXT, "description": "Of the answer."}, "verdict": verdict}, ("id", "verdict")),
        "CacheFeedbackAnswer": _object({"id": STRING, "verdict": verdict}, ("id", "verdict")),
    }


def _encoding(token_texts: Schema) -> Schema:
    """The bodies of the endpoints of encoders."""
    full = {**TEXT, "minLength": 1}
    listed = {"type": "array", "items": full, "minItems": 1, "maxItems": MAX_TEXTS}
    document = {"anyOf": [full, _object({"text": full}, ("text",))]}
    documents = {**listed, "items": document}
    texts: Schema = {"anyOf": [full, documents]}
    usage = _object({"prompt_tokens": COUNT, "total_tokens": COUNT}, ("prompt_tokens", "total_tokens"))
    cut = {"anyOf": [BOOLEAN, {"enum": ["END", "NONE"]}, {"type": "null"}], "description": "Cut a text that is too long; not done by default."}
    cut_document = cut | {"description": "Cut a document that is too long, as is the default; false or NONE: refuse it. Queries are never cut."}
    head = {"model": _optional({**STRING, "description": "Absent: the first model that is for this."}), "truncate": cut}
    whole = {"id": STRING, "object": {"const": "list"}, "model": STRING, "usage": usage}
    number = {"type": "number"}

    def rows(**fields: Schema) -> Schema:
        return {"type": "array", "items": _object({"index": COUNT, **fields}, ("index",))}

    vector = {"anyOf": [{"type": "array", "items": number}, {**STRING, "description": "base64 of little-endian float32."}]}
    entity = _object({"label": STRING, "score": number, "start": COUNT, "end": COUNT, "text": STRING})
    return {
        "EmbeddingsRequest": _object(
            {
                "input": {
                    "anyOf": [*token_texts["anyOf"], documents],
                    "description": f"A text, token ids, or a list of either, at most {MAX_TEXTS}; texts also as objects.",
                },
                **head,
                "encoding_format": _optional({"enum": list(FORMATS)}),
                "dimensions": _optional({"type": "integer", "minimum": 1, "description": "Keep only so many, at length one."}),
                "normalized": _optional({**BOOLEAN, "description": "Absent: vectors get length one where the model says so."}),
                "input_type": _optional({"enum": list(KINDS), "description": "Chooses the model's prompt, if it has some."}),
                "task": _optional({"enum": list(KINDS), "description": "Jina's name for input_type."}),
            },
            ("input",),
        ),
        "EmbeddingsAnswer": _object({**whole, "data": rows(object={"const": "embedding"}, embedding=vector)}),
        "RerankRequest": _object(
            {
                "query": full,
                "documents": documents,
                **head,
                "truncate": cut_document,
                "max_tokens_per_doc": _optional({"type": "integer", "minimum": 1, "description": "Cut documents to so many tokens."}),
                "top_n": _optional({"type": "integer", "minimum": 1}),
                "return_documents": _optional(BOOLEAN),
            },
            ("query", "documents"),
        ),
        "RerankAnswer": _object({**whole, "results": rows(relevance_score=number, document=_object({"text": STRING}))}),
        "ClassifyRequest": _object(
            {
                "input": texts,
                **head,
                "labels": _optional({"anyOf": [full, {**listed, "maxItems": MAX_LABELS}], "description": "For zero-shot models."}),
                "multi_label": _optional({**BOOLEAN, "description": "Each label by itself instead of one of them."}),
                "template": _optional({**STRING, "pattern": r"\{\}", "description": "What is judged; {} is the label."}),
            },
            ("input",),
        ),
        "ClassifyAnswer": _object(
            {**whole, "data": rows(label=STRING, score=number, scores={"type": "object"}, entities={"type": "array", "items": entity})}
        ),
    }


def _error_object() -> Schema:
    return _object(
        {"message": STRING, "type": STRING, "param": _optional(STRING), "code": _optional(STRING)},
        ("message", "type", "param", "code"),
    )
