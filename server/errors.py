"""Everything that can go wrong in words of the product. Knows no gRPC and no HTTP.

Each class names its reason; proto/orch8cloud/v1/errors.proto says how a reason is answered.

CloudError
├── InvalidArgument            a field breaks a documented rule
│   └── PolicyInvalid          the same, of a gateway policy
├── NoRunningInstance          the call needs a running engine
├── Unauthenticated            no credential that is accepted here
│   ├── KeyRevoked
│   ├── KeyExpired
│   └── TokenInvalid
├── PlanLimitReached           the plan's running instances are used up
├── PlanTooLow                 the plan does not include the template
├── PermissionDenied           a good credential without this permission
│   └── RoleRequired
├── NotFound                   no such thing in the caller's organization
├── NameTaken
├── StateConflict              not in this state
├── InstanceInUse              other deployments run on the instance that would be destroyed
├── VersionMismatch            not the version that If-Match names
├── IdempotencyMismatch        the Idempotency-Key stands for another request
├── IdempotencyInProgress      the first call with this Idempotency-Key has not ended
├── RateLimited                too many at once, or in a while
├── SubscriberTooSlow          a stream of events that nobody reads fast enough
├── EngineError                the engine answered with an error, or not at all
├── EngineUnreachable          the engine of a deployment did not answer
└── Unavailable                a part of the service cannot work now
    ├── ChangeUnconfirmed      stored, but a proxy may still serve the old state for a while
    └── DatabaseUnavailable    the database does not answer, or cannot do it now
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class FieldViolation:
    """One field that breaks a rule: its path, such as `allow[2].sub`, and what to write instead."""

    field: str
    description: str


class CloudError(Exception):
    """Root of all errors that a caller may see. `message` says what to change; `metadata` repeats its data."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})


class InvalidArgument(CloudError):
    """Fields of the request break documented rules."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        first = violations[0]
        more = f" ({len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.field}: {first.description}{more}", {"field": first.field})
        self.violations = tuple(violations)


class PolicyInvalid(InvalidArgument):
    """Fields of a gateway policy break documented rules."""

    reason = "POLICY_INVALID"


class NoRunningInstance(CloudError):
    """The call asks an engine, and the instance is not running; without an id, the organization has none that is."""

    reason = "NO_RUNNING_INSTANCE"

    def __init__(self, instance_id: str | None = None, status: str = "") -> None:
        if instance_id is None:
            super().__init__("The organization has no running instance. Create one, or resume one, first.")
            return
        hint = {"suspended": "Resume it first.", "provisioning": "Wait until it is running."}.get(
            status, "Create another."
        )
        super().__init__(f"Instance {instance_id} is {status}. {hint}", {"instance_id": instance_id, "status": status})


class Unauthenticated(CloudError):
    """No credential, or none that is accepted here."""

    reason = "UNAUTHENTICATED"


class KeyRevoked(Unauthenticated):
    """The API key was revoked."""

    reason = "KEY_REVOKED"

    def __init__(self, prefix: str) -> None:
        super().__init__(f"The API key {prefix}… was revoked. Create a new one.", {"prefix": prefix})


class KeyExpired(Unauthenticated):
    """The API key is past its end."""

    reason = "KEY_EXPIRED"

    def __init__(self, prefix: str) -> None:
        super().__init__(f"The API key {prefix}… has expired. Create a new one.", {"prefix": prefix})


class TokenInvalid(Unauthenticated):
    """A session token that is not accepted. One message for every cause: callers learn nothing about the check."""

    reason = "TOKEN_INVALID"

    def __init__(self) -> None:
        super().__init__("The session is invalid or has expired. Sign in again.")


class PlanLimitReached(CloudError):
    """One more running instance than the plan allows."""

    reason = "PLAN_LIMIT_REACHED"

    def __init__(self, plan: str, limit: int) -> None:
        plural = "" if limit == 1 else "s"
        super().__init__(
            f"The {plan} plan allows {limit} running instance{plural}. Suspend or delete one, or choose a larger plan.",
            {"plan": plan, "limit": str(limit)},
        )
        self.limit = limit


class PlanTooLow(CloudError):
    """The organization's plan does not include the template, which is for plans that include `required`."""

    reason = "PLAN_TOO_LOW"

    def __init__(self, plan: str, required: str) -> None:
        super().__init__(
            f"The {plan} plan does not include this template; it needs {required}. Choose a larger plan.",
            {"plan": plan, "required": required},
        )


class PermissionDenied(CloudError):
    """The credential is good and may not do this."""

    reason = "PERMISSION_DENIED"


class RoleRequired(PermissionDenied):
    """The member's role is too low."""

    reason = "ROLE_REQUIRED"

    def __init__(self, role: str, required: str) -> None:
        super().__init__(
            f"This needs the role {required} or higher; you are {role}. Ask an owner of the organization.",
            {"role": role, "required": required},
        )


class NotFound(CloudError):
    """The caller's organization has no such thing; whether another one has it is not told."""

    reason = "NOT_FOUND"

    def __init__(self, resource: str, identifier: str) -> None:
        super().__init__(f"There is no {resource} {identifier!r}.", {"resource": resource, "id": identifier})


class NameTaken(CloudError):
    """Another one of the organization's has this name."""

    reason = "NAME_TAKEN"

    def __init__(self, resource: str, name: str) -> None:
        super().__init__(f"Another {resource} is named {name!r}. Choose another name.", {"name": name})


class StateConflict(CloudError):
    """Not possible in this state."""

    reason = "STATE_CONFLICT"

    def __init__(self, *, action: str, status: str, allowed: str) -> None:
        super().__init__(
            f"Cannot {action} an instance that is {status}: it must be {allowed}.",
            {"action": action, "status": status, "allowed": allowed},
        )


class InstanceInUse(CloudError):
    """A delete would destroy the instance on which these other deployments run."""

    reason = "INSTANCE_IN_USE"

    def __init__(self, instance_id: str, names: Sequence[str]) -> None:
        others = ", ".join(names)
        super().__init__(
            f"Deleting this destroys instance {instance_id}, on which these deployments run too: {others}. "
            "Delete the instance itself to end all of them.",
            {"instance_id": instance_id, "deployments": others},
        )


class VersionMismatch(CloudError):
    """The resource has changed since the caller read it."""

    reason = "VERSION_MISMATCH"

    def __init__(self, resource: str, revision: int) -> None:
        super().__init__(
            f"The {resource} is at resource_version {revision}, which If-Match does not name. Read it again first.",
            {"resource": resource, "resource_version": str(revision)},
        )


class IdempotencyMismatch(CloudError):
    """The key was used for another request."""

    reason = "IDEMPOTENCY_MISMATCH"

    def __init__(self, key: str) -> None:
        super().__init__(
            "This Idempotency-Key was used with another request. Use a new key for a new request.",
            {"idempotency_key": key},
        )


class IdempotencyInProgress(CloudError):
    """The first call with the key is still running somewhere."""

    reason = "IDEMPOTENCY_IN_PROGRESS"

    def __init__(self, key: str) -> None:
        super().__init__(
            "The first call with this Idempotency-Key has not ended yet. Send the same request again in a few seconds.",
            {"idempotency_key": key},
        )


class RateLimited(CloudError):
    """Too many. `retry_after` is in seconds."""

    reason = "RATE_LIMITED"

    def __init__(self, message: str, *, scope: str, limit: int, retry_after: int) -> None:
        super().__init__(message, {"scope": scope, "limit": str(limit)})
        self.retry_after = retry_after


class SubscriberTooSlow(CloudError):
    """Whoever reads a stream of events is so many events behind."""

    reason = "SUBSCRIBER_TOO_SLOW"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"More than {limit} events wait to be read. Come again with the last id, and read faster or ask for less.",
            {"limit": str(limit)},
        )


class EngineError(CloudError):
    """The engine answered with an error, or did not answer."""

    reason = "ENGINE_ERROR"


class EngineUnreachable(CloudError):
    """The engine that a deployment needs did not answer."""

    reason = "ENGINE_UNREACHABLE"

    def __init__(self, instance_id: str) -> None:
        super().__init__(
            f"The engine of instance {instance_id} does not answer. Nothing was deployed; try again when it does.",
            {"instance_id": instance_id},
        )


class Unavailable(CloudError):
    """Something that the call needs cannot work now."""

    reason = "UNAVAILABLE"


class ChangeUnconfirmed(Unavailable):
    """The change is stored, and from `certain_at` on no proxy can serve the old state."""

    reason = "CHANGE_UNCONFIRMED"

    def __init__(self, certain_at: datetime) -> None:
        at = certain_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        super().__init__(
            f"The change is stored, but a proxy has not confirmed it. It is certain everywhere from {at} on.",
            {"certain_at": at},
        )
        self.certain_at = certain_at


class DatabaseUnavailable(Unavailable):
    """The database does not answer, or is too busy. What was to be stored is stored as a whole or not at all."""

    reason = "DATABASE_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("The database does not answer. Try again in a moment.")
