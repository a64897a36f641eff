"""The one family of errors that a user can meet.

Each class carries its wire code, HTTP status and exit status; each message says what, where and what to do.
One message argument only, so that every error pickles through Ray; `param` goes with it among the attributes.
"""


class LuthierError(Exception):
    """Root of the family. Raised as such only for faults of ours."""

    code, http, exit = "internal_error", 500, 70
    retry_after: int | None = None
    """Seconds after which the same request may be sent again."""

    def __init__(self, *message: str, param: str | None = None) -> None:
        super().__init__(*message)
        self.param = param
        """The parameter of the request that is at fault, where one is."""

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else self.code


class InvalidInput(LuthierError):
    """A value that cannot be accepted as it stands."""

    code, http, exit = "invalid_parameter_value", 400, 2


class InvalidValue(InvalidInput):
    """A parameter of a completion with a value that it does not take."""

    code = "invalid_value"

    def __init__(self, *message: str, param: str | None = None, code: str = code) -> None:
        super().__init__(*message, param=param)
        self.code = code  # as OpenAI names the fault; no argument of the exception, so that it pickles


class InvalidSchema(InvalidValue):
    """A JSON schema that no answer can be held to."""


class UnsupportedParameter(InvalidInput):
    """A parameter of a completion that is known, and not done here."""

    code = "unsupported_parameter"


class UnknownParameter(InvalidInput):
    """A parameter of a completion that nobody knows."""

    code = "unknown_parameter"


class InvalidSql(InvalidInput):
    """A statement that does not parse, is not allowed here, or fails when run."""

    code, http = "sql_compilation_error", 422


class BadDataset(InvalidInput):
    """Training data without the right columns or rows; found before any training, never billed."""

    code, http = "invalid_training_data", 422


class TooLarge(InvalidInput):
    """A request body over the limit."""

    code, http = "request_too_large", 413


class TooSlow(InvalidInput):
    """A request body that has not come in its time."""

    code, http = "request_timeout", 408


class ContextTooLong(InvalidInput):
    """A prompt that leaves no room in the base model's context window."""

    code = "context_length_exceeded"

    def __init__(self, *message: str, limit: int = 0, param: str | None = None) -> None:
        super().__init__(*message, param=param)
        self.limit = limit
        """Tokens that there is room for; no argument of the exception, so that it pickles."""


class AnswerCut(InvalidInput):
    """An answer that was to follow a schema and ended before its JSON did; its tokens are billed."""

    code = "schema_validation_failed"


class NotAuthenticated(LuthierError):
    """No key, or a key that nobody has, or that works no more."""

    code, http, exit = "invalid_api_key", 401, 4
    caller: object | None = None
    """Whose key it was, where that is known; for the audit."""


class NotAllowed(LuthierError):
    """The caller is known, the action is not his."""

    code, http, exit = "not_authorized", 403, 4


class PaymentRequired(LuthierError):
    """The account's balance, or a budget, does not cover what is asked."""

    code, http, exit = "insufficient_credits", 402, 4


class NotFound(LuthierError):
    """No such job, model, table or base model that the caller can see."""

    code, http, exit = "not_found", 404, 3


class ModelNotFound(NotFound):
    """No model of that name that the caller can ask."""

    code = "model_not_found"


class NotServed(ModelNotFound):
    """No engine here answers for the model, and none will by itself."""


class AuditBroken(LuthierError):
    """The audit is not as it was written."""

    code, http, exit = "audit_broken", 409, 1


class Conflict(LuthierError):
    """The thing is there, but in a state, or under a name, that forbids the request."""

    code, http, exit = "conflict", 409, 5


class AnsweredTwice(Conflict):
    """The ledger has another answer to the same request: it was sent again when a replica died."""


class BaseModelRetired(Conflict):
    """A base model is tuned and served no more, nor is what stands on it."""

    code, http = "base_model_retired", 410


class NotFetched(Conflict):
    """A base model's files are not on this server: sending the request again brings none, its operator fetches them."""

    code = "base_model_not_fetched"


class AdapterRefused(Conflict):
    """An adapter that its engine does not load, or whose answers are not its trainer's; of that model alone."""

    code = "adapter_refused"


class Unavailable(LuthierError):
    """A part of the platform does not answer just now; the same request may be sent again."""

    code, http, exit = "unavailable", 503, 6
    retry_after = 2


class Overloaded(Unavailable):
    """More requests than may wait; refused at once, and never billed."""

    code, http = "overloaded", 429

    def __init__(self, *message: str, retry_after: int = 1, param: str | None = None) -> None:
        super().__init__(*message, param=param)
        self.retry_after = retry_after  # no argument of the exception, so that it pickles


class RateLimited(LuthierError):
    """More requests or tokens in a minute than a key may have, or a model; the same may be sent in the next."""

    code, http, exit = "rate_limit_exceeded", 429, 6
    rates: object | None = None
    """How the limits stand (platform/rates.py)."""

    @property
    def is_final(self) -> bool:
        """No minute has room for so much."""
        return self.retry_after is None


class ClusterError(LuthierError):
    """The cluster cannot be started, joined or stopped as asked."""

    code, http, exit = "cluster_error", 500, 7


class NotConnected(ClusterError):
    """Ray cannot be reached, or does not let us in."""


class RayEnded(ClusterError):
    """Ray has ended under its driver, which cannot end in order then: Ray's own way out waits for it."""


class TrainingFailed(LuthierError):
    """A training run that ended without a model."""

    code, http, exit = "training_failed", 500, 8


class LossDiverged(TrainingFailed):
    """A loss, gradient or weight that is no number, or a loss that explodes: by the options, so billed."""

    code = "loss_diverged"


def all_errors() -> dict[str, type[LuthierError]]:
    """Every class of the family by its wire code; the first class that claims a code owns it."""
    found: dict[str, type[LuthierError]] = {}
    queue: list[type[LuthierError]] = [LuthierError]
    while queue:
        cls = queue.pop(0)
        found.setdefault(cls.code, cls)
        queue.extend(cls.__subclasses__())
    return found
