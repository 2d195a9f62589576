"""Calls of Google Cloud's services: credentials, patience, and errors that say what to do."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import trainer
from trainer.config.errors import UserError

LOG_IN = (
    "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the key "
    "file of a service account"
)

#: How a token that is refused shows: gRPC passes it off for a service that is away.
_REFUSED_TOKEN = re.compile(
    r"invalid_grant|invalid_client|unauthorized_client|reauth|expired|revoked", re.IGNORECASE
)

Answer = TypeVar("Answer")


class NotAnswering(UserError):
    """A service was asked for as long as patience lasted, and did not answer."""


@dataclass(frozen=True)
class CloudService:
    """A service as people know it: its name, its API, and the role that its users need."""

    name: str
    api: str
    role: str


@dataclass(frozen=True)
class Retries:
    """How often and how long a service is asked again, where it does not answer.

    Args:
        first: seconds before the second attempt, at most: the actual time is drawn, so that many
            clients do not come back together. Doubled from attempt to attempt.
        longest: seconds between two attempts, at most.
        patience: seconds after which no further attempt is made.
        timeout: seconds that an attempt may take.
    """

    first: float = 1.0
    longest: float = 30.0
    patience: float = 120.0
    timeout: float = 30.0

    def policy(self, retried: Callable[[Exception], bool]) -> Any:
        """Return a `google.api_core.retry.Retry` for the errors that a function picks."""
        from google.api_core.retry import Retry

        return Retry(
            predicate=retried,
            initial=self.first,
            maximum=self.longest,
            multiplier=2.0,
            timeout=self.patience,
        )


def require_vertex(what: str) -> None:
    """Import Google's clients.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        import google.api_core.retry
        import google.auth
        import google.cloud.aiplatform_v1
        import google.cloud.logging_v2  # noqa: F401
    except ImportError as error:
        name = error.name or "google-cloud-aiplatform"
        raise UserError(f'{what} needs {name}: pip install "mildnet[vertex]"') from None


def default_credentials() -> Any:
    """Return the credentials that Google's own tools would use on this machine.

    Raises:
        UserError: there are none, or their file cannot be read.
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        found, _ = google.auth.default(scopes=scopes)
    except GoogleAuthError as error:
        why = str(error).strip().splitlines()[0].split(" To set up")[0].rstrip(". ")
        raise UserError(f"no Google Cloud credentials ({why}): {LOG_IN}") from None
    return found


def client(kind: Any, transport: Any, host: str, credentials: Any, channel: Any) -> Any:
    """Return a client of a service, over gRPC.

    Args:
        kind: class of the client.
        transport: class of its gRPC transport.
        host: where the service is reached.
        credentials: with which; default: those of :func:`default_credentials`.
        channel: a gRPC channel to use as it is, in place of host and credentials.
    """
    from google.api_core.gapic_v1.client_info import ClientInfo

    # It writes a traceback for each token that cannot be had; what there is to say is said once.
    logging.getLogger("grpc._plugin_wrapping").setLevel(logging.CRITICAL)
    info = ClientInfo(user_agent=f"mildnet/{trainer.__version__}")
    if channel is not None:
        return kind(transport=transport(channel=channel, client_info=info))
    return kind(
        credentials=credentials or default_credentials(),
        client_options={"api_endpoint": host},
        client_info=info,
    )


def transient(error: Exception) -> bool:
    """Return whether a call may go well if it is made again: nobody answered, or not in time."""
    from google.api_core import exceptions

    if _refused_token(error):
        return False
    passing = (
        exceptions.ServiceUnavailable,
        exceptions.DeadlineExceeded,
        exceptions.InternalServerError,
    )
    return isinstance(error, passing)


def busy(error: Exception) -> bool:
    """Return whether reading again later may go well: :func:`transient`, or too many requests."""
    from google.api_core import exceptions

    return transient(error) or isinstance(error, exceptions.TooManyRequests)


def call(
    method: Callable[..., Answer],
    request: Any,
    *,
    retries: Retries,
    service: CloudService,
    project: str,
) -> Answer:
    """Call a method that may be called twice without harm, and return its answer.

    Args:
        method: of a client.
        request: its message, or a dictionary like it.
        retries: how often it is tried again where the service is away or busy.
        service: which it is, for errors.
        project: in which Google Cloud project, for errors.

    Raises:
        NotAnswering: the service was away all the time.
        UserError: it answered that it will not.
    """
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    try:
        # The client's own policy would end with another error, and differs between services.
        once = retries.policy(busy)(lambda: method(request, retry=None, timeout=retries.timeout))
        return once()
    except (GoogleAPIError, GoogleAuthError) as error:
        raise explained(error, service, project) from error


def explained(error: Exception, service: CloudService, project: str) -> UserError:
    """Return what is to be told of an error of Google's clients: one line that says what to do."""
    from google.api_core import exceptions

    given_up = isinstance(error, exceptions.RetryError)
    if isinstance(error, exceptions.RetryError):
        error = error.cause or error
    told = _told(error, service, project)
    return NotAnswering(told) if given_up or transient(error) else UserError(told)


def _told(error: Exception, service: CloudService, project: str) -> str:
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    message = " ".join(str(getattr(error, "message", error)).split())
    console = "https://console.cloud.google.com"
    if isinstance(error, (GoogleAuthError, exceptions.Unauthorized)) or _refused_token(error):
        return f"{service.name} does not take these credentials ({message}): {LOG_IN}"
    if isinstance(error, exceptions.Forbidden):
        return _forbidden(error, service, project, message)
    if isinstance(error, exceptions.TooManyRequests):
        metrics = re.findall(r"[\w.]+googleapis\.com/([\w/-]+)", message)
        page = f"{console}/iam-admin/quotas?project={project}"
        return (
            f"a quota of project {project} is used up ({message}): ask for more at {page}"
            + (f" (search {', '.join(metrics)})" if metrics else "")
            + ", or take other machines, another region, or another time"
        )
    if isinstance(error, exceptions.InvalidArgument):
        return f"{service.name} refuses the request: {_violations(error) or message}"
    if isinstance(error, exceptions.NotFound):
        return f"{service.name} has no such thing in project {project}: {message}"
    if isinstance(error, exceptions.AlreadyExists):
        return f"{service.name} has it already: {message}; choose another name"
    if isinstance(error, (exceptions.FailedPrecondition, exceptions.OutOfRange)):
        return f"{service.name} cannot do it now: {message}"
    if transient(error):
        return (
            f"{service.name} does not answer ({message}): check the network, the region's name, "
            "and https://status.cloud.google.com; then try again"
        )
    return f"{service.name}: {type(error).__name__}: {message}"


def _forbidden(error: Any, service: CloudService, project: str, message: str) -> str:
    reason, facts = error.reason, dict(error.metadata or {})
    if "quota project" in message:
        # Otherwise it would be the project of Google's own tools that needs the API.
        return (
            f"{service.name} does not know which project to count requests of these credentials "
            f"for: gcloud auth application-default set-quota-project {project}"
        )
    if reason == "SERVICE_DISABLED":
        api = facts.get("service", service.api)
        return (
            f"{api} is not enabled in project {project}: "
            f"gcloud services enable {api} --project {project}"
        )
    if reason == "BILLING_DISABLED":
        page = f"https://console.cloud.google.com/billing/linkedaccount?project={project}"
        return f"project {project} has no billing account: give it one at {page}"
    if reason in ("CONSUMER_INVALID", "USER_PROJECT_DENIED"):
        return (
            f"there is no project {project}, or these credentials may not use it: check "
            f"MILDNET_PROJECT ({message})"
        )
    if "actAs" in facts.get("permission", message):
        return (
            f"these credentials may not run jobs as that service account ({message}): they need "
            "the role roles/iam.serviceAccountUser on it"
        )
    which = f" {facts['permission']}" if "permission" in facts else ""
    return (
        f"{service.name}: these credentials lack a permission{which} in project {project}: ask its "
        f"owner for the role {service.role} ({message})"
    )


def _violations(error: Any) -> str:
    fields = [
        f"{violation.field}: {violation.description}"
        for detail in error.details
        for violation in getattr(detail, "field_violations", ())
    ]
    return " ".join("; ".join(fields).split())


def _refused_token(error: Exception) -> bool:
    text = str(error)
    return "metadata from plugin failed" in text and _REFUSED_TOKEN.search(text) is not None
