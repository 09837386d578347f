"""Gateway policies (seed, "Gateway Policies"): what they hold and which values are valid."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from server.domain.patch import UNSET, Unset
from server.domain.providers import PROVIDERS, Provider
from server.domain.rules import JSON, Rule, violations
from server.domain.urls import Refused, check_url
from server.errors import FieldViolation, PolicyInvalid

SLUG = re.compile(r"[A-Za-z0-9._~-]{1,255}")
TRIGGER_SECRET = "trigger_secret"  # noqa: S105 - the name of a config key
MAX_SECRET = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyFields:
    """What the owner sets. `config` holds no secret; `trigger_secret` stands beside it."""

    provider: str
    slug: str | None = None
    audience: str | None = None
    issuer: str | None = None
    allow: tuple[Rule, ...] = ()
    config: Mapping[str, JSON] = field(default_factory=dict)
    trigger_secret: str | None = None
    enabled: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A policy as it is stored."""

    id: str
    instance_id: str
    fields: PolicyFields
    created_at: datetime
    updated_at: datetime
    revision: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyPatch:
    """What a caller sent: UNSET where a field was left out. The values are raw JSON, not checked yet."""

    provider: JSON | Unset = UNSET
    slug: JSON | Unset = UNSET
    audience: JSON | Unset = UNSET
    issuer: JSON | Unset = UNSET
    allow: JSON | Unset = UNSET
    config: JSON | Unset = UNSET
    enabled: JSON | Unset = UNSET


def apply(patch: PolicyPatch, old: PolicyFields | None = None, *, allow_loopback: bool = False) -> PolicyFields:
    """The fields after a create (no old ones) or an update. Raises PolicyInvalid, naming every bad field.

    `allow_loopback` is the development switch for issuers on this machine.
    """
    found = list(_patch_violations(patch, creating=old is None))
    if found:
        raise PolicyInvalid(found)
    fields = replace(old or PolicyFields(provider=""), **_changes(patch))
    found = list(_combined_violations(fields, allow_loopback=allow_loopback))
    if found:
        raise PolicyInvalid(found)
    return fields


def size(fields: PolicyFields) -> int:
    """How much a policy holds, in bytes of JSON: what every proxy must keep of it."""
    return len(json.dumps([fields.allow, fields.config], default=dict))


def _changes(patch: PolicyPatch) -> dict[str, Any]:
    """The checked values of a patch, by field."""
    given: dict[str, Any] = {
        name: value
        for name in ("provider", "slug", "audience", "issuer", "enabled")
        if (value := getattr(patch, name)) is not UNSET
    }
    if patch.allow is not UNSET:
        given["allow"] = tuple(patch.allow)  # type: ignore[arg-type]  # checked by _patch_violations
    if patch.config is not UNSET:
        config = dict(patch.config)  # type: ignore[arg-type]  # checked by _patch_violations
        given["trigger_secret"] = config.pop(TRIGGER_SECRET, None)
        given["config"] = config
    return given


def _patch_violations(patch: PolicyPatch, *, creating: bool) -> Iterator[FieldViolation]:
    if patch.provider is not UNSET or creating:
        yield from _provider_violations(None if patch.provider is UNSET else patch.provider)
    if patch.slug is not UNSET:
        yield from _slug_violations(patch.slug)
    for name in ("audience", "issuer"):
        yield from _text_violations(name, getattr(patch, name))
    if patch.allow is not UNSET:
        yield from violations(patch.allow)
    if patch.config is not UNSET:
        yield from _config_violations(patch.config)
    if patch.enabled is not UNSET and not isinstance(patch.enabled, bool):
        yield FieldViolation(field="enabled", description="must be true or false")


def _provider_violations(provider: JSON) -> Iterator[FieldViolation]:
    if not isinstance(provider, str) or provider not in PROVIDERS:
        what = "is required" if not provider else "is unknown"
        yield FieldViolation(field="provider", description=f"{what}: one of {', '.join(PROVIDERS)}")


def _slug_violations(slug: JSON) -> Iterator[FieldViolation]:
    if slug is not None and (not isinstance(slug, str) or SLUG.fullmatch(slug) is None or set(slug) == {"."}):
        yield FieldViolation(
            field="slug", description='must be null, or 1 to 255 letters, digits, ".", "_", "~" or "-" (not only dots)'
        )


def _text_violations(name: str, value: JSON | Unset) -> Iterator[FieldViolation]:
    if value is UNSET or value is None:
        return
    if not isinstance(value, str) or not 1 <= len(value) <= 2048:
        yield FieldViolation(field=name, description="must be null, or a string of 1 to 2048 characters")


def _config_violations(config: JSON) -> Iterator[FieldViolation]:
    if not isinstance(config, Mapping):
        yield FieldViolation(field="config", description="must be an object")
        return
    secret = config.get(TRIGGER_SECRET)
    if secret is not None and (not isinstance(secret, str) or not 1 <= len(secret) <= MAX_SECRET):
        yield FieldViolation(
            field=f"config.{TRIGGER_SECRET}", description=f"must be a string of 1 to {MAX_SECRET} characters"
        )


def _combined_violations(fields: PolicyFields, *, allow_loopback: bool) -> Iterator[FieldViolation]:
    """Rules about several fields, which hold after a partial update too."""
    provider = PROVIDERS[fields.provider]
    yield from _provider_config_violations(fields, provider)
    if fields.trigger_secret is not None and fields.slug is None:
        yield FieldViolation(
            field=f"config.{TRIGGER_SECRET}", description="needs a slug: only the gateway signs, never the tunnel"
        )
    if fields.audience is not None and not provider.is_oidc:
        yield FieldViolation(field="audience", description=f"means nothing to {provider.name}; leave it null")
    yield from _issuer_violations(fields, provider, allow_loopback=allow_loopback)


def _provider_config_violations(fields: PolicyFields, provider: Provider) -> Iterator[FieldViolation]:
    for key in fields.config:
        if key not in provider.config:
            allowed = ", ".join(sorted({TRIGGER_SECRET, *provider.config}))
            yield FieldViolation(
                field=f"config.{key}", description=f"is unknown to {provider.name}; it takes {allowed}"
            )
    for key, rule in provider.config.items():
        value = fields.config.get(key)
        if not isinstance(value, str) or re.fullmatch(rule.pattern, value) is None:
            what = "is required" if value is None else "is not valid"
            yield FieldViolation(field=f"config.{key}", description=f"{what}: {rule.what}")


def _issuer_violations(fields: PolicyFields, provider: Provider, *, allow_loopback: bool) -> Iterator[FieldViolation]:
    if fields.issuer is None:
        if provider.is_oidc and provider.issuer is None:
            yield FieldViolation(field="issuer", description=f"is required for {provider.name}: the tokens' exact iss")
        return
    if not provider.own_issuer:
        known = f"; it is always {provider.issuer}" if provider.issuer else ""
        yield FieldViolation(field="issuer", description=f"cannot be set for {provider.name}{known}; leave it null")
        return
    try:
        check_url(fields.issuer, allow_loopback=allow_loopback)
    except Refused as error:
        yield FieldViolation(field="issuer", description=str(error))
    if "?" in fields.issuer or "#" in fields.issuer:
        yield FieldViolation(
            field="issuer", description="must have no query and no fragment (OpenID Connect Discovery)"
        )
