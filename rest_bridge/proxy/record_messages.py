"""Turns what became known of a request into the record that its organization reads. Everything in it is bounded."""

import re

from google.protobuf.struct_pb2 import NULL_VALUE, Value
from orch8cloud.v1 import decisions_pb2 as pb

from rest_bridge.proxy.targets import PathTarget
from rest_bridge.proxy.trail import Trail
from server.domain.decisions import Credential, Decision, KeyCredential, TokenCredential
from server.domain.explanation import NearestMiss, nearest_miss
from server.domain.rules import JSON
from server.explanations import Room, attempts, miss, value

MAX_PATH = 2 * 1024
MAX_METHOD = 32
MAX_CLAIMS = 8 * 1024
MAX_POLICIES = 48 * 1024
MAX_MISS = 16 * 1024

_NOTHING = Decision(allowed=False)
_NULL = Value(null_value=NULL_VALUE)
# A caller may have put its credential into the path: of a key its public prefix is shown, of a token nothing.
_CREDENTIAL = re.compile(r"(orc8_(?:live|test)_\w{8})\w+|eyJ[\w-]{6,}\.[\w-]+\.[\w-]*", re.ASCII)


def record(trail: Trail, status: int, reason: str | None, at: float) -> pb.Decision:
    """The record of a decision that was made at a time (seconds since 1970). `reason` is None where it passed."""
    decision = trail.decision or _NOTHING
    found = pb.Decision(
        id=trail.decision_id.decode(),
        instance_id=trail.path.instance_id,
        method=trail.method[:MAX_METHOD],
        slug=value(trail.path.slug),
        provider=value(decision.provider),
        subject=value(_subject(decision, trail.credential)),
        allowed=decision.allowed,
        status=status,
        reason=value(reason),
    )
    found.time.FromSeconds(int(at))
    _bounded(found, trail, decision)
    return found


def _bounded(found: pb.Decision, trail: Trail, decision: Decision) -> None:
    """Fills the fields whose size somebody else chooses, and names those that were cut."""
    path = _CREDENTIAL.sub(r"\1…", _path(trail.path))
    found.path = path[:MAX_PATH]
    claims = value(_claims(trail.credential))
    claims_fit = claims.ByteSize() <= MAX_CLAIMS
    found.claims.CopyFrom(claims if claims_fit else _NULL)
    policies, near = Room(MAX_POLICIES), Room(MAX_MISS)
    found.policies.extend(attempts(decision.attempts, policies))
    found.nearest_miss.CopyFrom(miss(_nearest(trail, decision), near))
    cut = {
        "path": len(path) > MAX_PATH,
        "claims": not claims_fit,
        "policies": policies.short,
        "nearest_miss": near.short,
    }
    found.cut.extend(name for name, is_cut in cut.items() if is_cut)


def _path(path: PathTarget) -> str:
    """As it was asked for. Bytes that are no text become question marks."""
    if path.slug is not None:
        return f"/api/gateway/{path.instance_id}/{path.slug}"
    return f"/api/tunnel/{path.instance_id}{path.engine_path.decode(errors='replace')}"


def _subject(decision: Decision, credential: Credential | None) -> str | None:
    if decision.subject is not None:
        return decision.subject
    if isinstance(credential, KeyCredential):
        return credential.prefix
    return str(credential.claims["sub"]) if isinstance(credential, TokenCredential) else None


def _claims(credential: Credential | None) -> JSON:
    if isinstance(credential, KeyCredential):
        return {**credential.claims, "key_id": credential.key_id}
    return credential.claims if isinstance(credential, TokenCredential) else None


def _nearest(trail: Trail, decision: Decision) -> NearestMiss | None:
    if trail.problem is not None:
        return NearestMiss(policy_id=None, rule=None, message=f"{trail.problem}.")
    return None if trail.credential is None else nearest_miss(decision, trail.credential)
