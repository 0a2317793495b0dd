"""Every error a user can meet, in one tree.

    ApplianceError                500  server_error            exit 70
    |- InvalidRequest             400  invalid_request_error   exit 64
    |  |- ContextLengthExceeded   400  context_length_exceeded
    |  |- TemplateFailed          400  chat_template_error
    |  |- RequestQuarantined      400  request_quarantined
    |  |- NotFound                404  not_found
    |  |  `- ModelNotFound        404  model_not_found
    |  |- MethodNotAllowed        405  method_not_allowed
    |  |- IdempotencyKeyInUse     409  idempotency_key_in_use  Retry-After
    |  |- BodyTooLarge            413  body_too_large
    |  |- UnsupportedMediaType    415  unsupported_media_type
    |  `- IdempotencyKeyReused    422  idempotency_key_reused
    |- AuthenticationFailed       401  invalid_api_key
    |  |- NotSignedIn             401  not_signed_in
    |  `- KeyRevoked              401  key_revoked
    |- PermissionDenied           403  permission_denied
    |  `- ModelNotAllowed         403  model_not_allowed
    |- QueueFull                  429  queue_full              Retry-After
    |- RateLimited                429  rate_limit_exceeded     Retry-After
    |- TooManyTries               429  too_many_tries          Retry-After
    |- Unavailable                503  unavailable             Retry-After, exit 69
    |  |- ModelLoading            503  model_loading
    |  |- ModelFailed             503  model_failed
    |  |- EngineLost              503  engine_lost
    |  |- DeadlineExceeded        503  deadline_exceeded
    |  |- Draining                503  draining
    |  `- InUse                   503  in_use                  exit 75
    |- NotRemembered              504  not_remembered
    |- Cancelled                  499  cancelled               nobody is left to read it
    |- ConfigError                500  bad_configuration       exit 78
    |- ModelFileError             500  bad_model               exit 65
    |  `- ModelFileMissing        500  model_file_missing      exit 66
    |- AuditLogBroken             500  audit_log_broken        exit 65
    |- StorageFailed              500  storage_failed          exit 74
    |- BadBackup                  500  bad_backup              exit 65
    |- BadBundle                  500  bad_bundle              exit 65
    |- NotReady                   500  not_ready               exit 69
    |- StepFailed                 500  step_failed             exit 70
    `- PortUnavailable            500  port_unavailable        exit 71 or 77

A message names the thing, its value, the limit and the setting to change. `remedy` is the sentence that tells the
reader what to do; it is printed after the message. Statuses, types and codes are listed in README.md.
"""

from __future__ import annotations


class ApplianceError(Exception):
    """A fault inside the service, and the root of every error below.

    message: what happened and why.  param: the request field or setting at fault.  remedy: what to do about it.
    retry_after_s: seconds after which trying again makes sense (sent as Retry-After), or None.
    """

    status = 500
    type = "server_error"
    code = "internal_error"
    exit_code = 70

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        remedy: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.remedy = remedy
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message

    def body(self) -> dict:
        """The OpenAI error object: message, type, param and code are always present."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    def to_wire(self) -> dict:
        """Plain values for the engine channel; `from_wire` restores the error on the other side."""
        return {
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "remedy": self.remedy,
            "retry_after_s": self.retry_after_s,
        }


class InvalidRequest(ApplianceError):
    """The request cannot be served as it is written."""

    status, type, code, exit_code = 400, "invalid_request_error", "invalid_request", 64


class ContextLengthExceeded(InvalidRequest):
    """The prompt does not fit the context of one request; the answer needs at least one token of it."""

    code = "context_length_exceeded"


class TemplateFailed(InvalidRequest):
    """The model's own chat template refused these messages or is broken."""

    code = "chat_template_error"


class RequestQuarantined(InvalidRequest):
    """This very request has killed the engine twice and is not tried a third time."""

    code = "request_quarantined"


class NotFound(InvalidRequest):
    """No such route or object."""

    status, type, code = 404, "not_found_error", "not_found"


class ModelNotFound(NotFound):
    """No model of that name is served here."""

    code = "model_not_found"


class MethodNotAllowed(InvalidRequest):
    """The route exists, but not for this method."""

    status, code = 405, "method_not_allowed"


class IdempotencyKeyInUse(InvalidRequest):
    """The first request with this Idempotency-Key is still being answered."""

    status, code = 409, "idempotency_key_in_use"


class BodyTooLarge(InvalidRequest):
    """The body is larger than `max_body_bytes`."""

    status, code = 413, "body_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The body is not JSON."""

    status, code = 415, "unsupported_media_type"


class IdempotencyKeyReused(InvalidRequest):
    """This Idempotency-Key came with another request before."""

    status, code = 422, "idempotency_key_reused"


class AuthenticationFailed(ApplianceError):
    """No key, or a key that is unknown or revoked: the caller is not told which."""

    status, type, code, exit_code = 401, "authentication_error", "invalid_api_key", 77


class NotSignedIn(AuthenticationFailed):
    """Nobody is signed in to the admin pages; a page sends its reader to the form."""

    code = "not_signed_in"


class KeyRevoked(AuthenticationFailed):
    """The key was revoked while this ran, and the administrator wanted that ended too."""

    code = "key_revoked"


class PermissionDenied(ApplianceError):
    """The key is good but may not do this."""

    status, type, code, exit_code = 403, "permission_error", "permission_denied", 77


class ModelNotAllowed(PermissionDenied):
    """The key is good, for other models."""

    code = "model_not_allowed"


class QueueFull(ApplianceError):
    """The waiting room is full; refused at once with a computed Retry-After."""

    status, type, code, exit_code = 429, "rate_limit_error", "queue_full", 75


class RateLimited(ApplianceError):
    """The key has used what it may use in a minute, or at once; Retry-After says when there is room again."""

    status, type, code, exit_code = 429, "rate_limit_error", "rate_limit_exceeded", 75


class TooManyTries(ApplianceError):
    """Passwords or keys were guessed; the next wrong one is not looked at before Retry-After."""

    status, type, code, exit_code = 429, "rate_limit_error", "too_many_tries", 75


class Unavailable(ApplianceError):
    """Cannot be served now, may be served later."""

    status, type, code, exit_code = 503, "unavailable_error", "unavailable", 69


class ModelLoading(Unavailable):
    """The model is still being loaded."""

    code = "model_loading"


class ModelFailed(Unavailable):
    """The model could not be loaded, or its engine could not be kept alive; the message says why."""

    code = "model_failed"


class EngineLost(Unavailable):
    """The engine child died or hung while it worked on this request."""

    code = "engine_lost"


class DeadlineExceeded(Unavailable):
    """The request waited or ran longer than its deadline."""

    code = "deadline_exceeded"


class Draining(Unavailable):
    """The service is stopping and takes no new work."""

    code = "draining"


class InUse(Unavailable):
    """Somebody else works with the data folder: a service, a restore, or another backup."""

    code, exit_code = "in_use", 75


class NotRemembered(ApplianceError):
    """Only a remembered answer was wanted (Cache-Control: only-if-cached), and there is none. 504 is RFC 9111's status for that."""

    status = 504
    code = "not_remembered"
    type = "not_found_error"


class Cancelled(ApplianceError):
    """The client left. 499 is nginx's number for it; it is only ever seen in logs."""

    status, type, code = 499, "cancelled", "cancelled"


class ConfigError(ApplianceError):
    """Flags, environment or configuration file are wrong; the service does not start."""

    code, exit_code = "bad_configuration", 78


class ModelFileError(ApplianceError):
    """The model file is damaged, of another kind, or not supported."""

    code, exit_code = "bad_model", 65


class ModelFileMissing(ModelFileError):
    """There is no file at that path."""

    code, exit_code = "model_file_missing", 66


class AuditLogBroken(ApplianceError):
    """The audit log is not as it was written: somebody changed, removed or inserted entries."""

    code, exit_code = "audit_log_broken", 65


class StorageFailed(ApplianceError):
    """A file cannot be written or read: the disk is full, read-only or broken."""

    code, exit_code = "storage_failed", 74


class BadBackup(ApplianceError):
    """The backup is damaged, incomplete, or of a newer version."""

    code, exit_code = "bad_backup", 65


class BadBundle(ApplianceError):
    """A bundle that is damaged, not signed as it should be, or not for this machine."""

    code, exit_code = "bad_bundle", 65


class NotReady(ApplianceError):
    """This machine is not fit for an installation; nothing was changed."""

    code, exit_code = "not_ready", 69


class StepFailed(ApplianceError):
    """A step of an installation failed; the message has the last words of the program that failed."""

    code, exit_code = "step_failed", 70


class PortUnavailable(ApplianceError):
    """The listening address cannot be had."""

    code, exit_code = "port_unavailable", 71


def _classes(root: type[ApplianceError]) -> dict[str, type[ApplianceError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_classes(child))
    return found


BY_CODE: dict[str, type[ApplianceError]] = _classes(ApplianceError)


def from_wire(data: dict) -> ApplianceError:
    """Restore an error sent with `to_wire`. An unknown code becomes a plain ApplianceError."""
    kind = BY_CODE.get(data.get("code", ""), ApplianceError)
    return kind(
        data.get("message", "unknown error"),
        param=data.get("param"),
        remedy=data.get("remedy"),
        retry_after_s=data.get("retry_after_s"),
    )
