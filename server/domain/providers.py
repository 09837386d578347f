"""The identity providers of gateway policies, a row each. Another provider is another row."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"})
RS256 = frozenset({"RS256"})
UUID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
ANY_CLAIM = frozenset[str]()
TEXTS = frozenset({"iss", "sub", "aud", "jti"})
STANDARD = TEXTS | {"exp", "iat", "nbf"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigKey:
    """A setting that a policy of the provider must have: its form, and what it is."""

    pattern: str
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """How callers of one kind prove who they are.

    `issuer` may hold config keys in braces; None leaves it to the policy. `claims` are those that its tokens can have,
    empty where that is not known. `stable` ones nobody can choose or take over; `renameable` ones name their owner, but
    the name can be given up and registered by somebody else.
    """

    name: str
    is_oidc: bool = True
    issuer: str | None = None
    own_issuer: bool = False  # whether a policy may name another issuer of the same kind (self-hosted)
    config: Mapping[str, ConfigKey] = field(default_factory=dict)
    shared: bool = False  # whether the issuer signs for everybody in the world
    algorithms: frozenset[str] = RS256
    claims: frozenset[str] = ANY_CLAIM
    free_claims: tuple[str, ...] = ()  # prefixes of claims that the owner defines
    stable: tuple[str, ...] = ()
    renameable: tuple[str, ...] = ()
    text_booleans: tuple[str, ...] = ()  # claims that say "true" and "false" as strings
    numbers: tuple[str, ...] = ()  # those of the claims above that are JSON numbers; all others are strings
    audience: str = "an audience that names your instance"  # what to set as the audience


def _claims(*names: str) -> frozenset[str]:
    return STANDARD | set(names)


# Issuers, claims and pitfalls are the providers' documented ones; contract, "OIDC providers".
_ROWS = (
    Provider(
        name="api-key",
        is_oidc=False,
        claims=frozenset({"sub", "org_id"}),
        algorithms=frozenset(),
        stable=("sub", "org_id"),
    ),
    Provider(name="anonymous", is_oidc=False, claims=frozenset({"sub"}), algorithms=frozenset()),
    Provider(
        name="github-oidc",
        issuer="https://token.actions.githubusercontent.com",
        own_issuer=True,
        shared=True,
        claims=_claims(
            "repository",
            "repository_id",
            "repository_owner",
            "repository_owner_id",
            "repository_visibility",
            "ref",
            "ref_type",
            "ref_protected",
            "base_ref",
            "head_ref",
            "environment",
            "environment_node_id",
            "event_name",
            "job_workflow_ref",
            "job_workflow_sha",
            "workflow",
            "workflow_ref",
            "workflow_sha",
            "sha",
            "actor",
            "actor_id",
            "run_id",
            "run_number",
            "run_attempt",
            "runner_environment",
            "enterprise",
            "enterprise_id",
            "check_run_id",
            "issuer_scope",
        ),
        free_claims=("repo_property_",),
        stable=("repository_id", "repository_owner_id", "enterprise_id"),
        renameable=("sub", "repository", "repository_owner", "job_workflow_ref", "workflow_ref", "enterprise"),
    ),
    Provider(
        name="gitlab-oidc",
        issuer="https://gitlab.com",
        own_issuer=True,
        shared=True,
        claims=_claims(
            "project_id",
            "project_path",
            "namespace_id",
            "namespace_path",
            "job_project_id",
            "job_project_path",
            "job_namespace_id",
            "job_namespace_path",
            "project_visibility",
            "user_id",
            "user_login",
            "user_email",
            "user_access_level",
            "user_identities",
            "pipeline_id",
            "pipeline_source",
            "job_id",
            "job_source",
            "ref",
            "ref_type",
            "ref_path",
            "ref_protected",
            "groups_direct",
            "environment",
            "environment_protected",
            "environment_action",
            "deployment_tier",
            "runner_id",
            "runner_environment",
            "sha",
            "ci_config_ref_uri",
            "ci_config_sha",
        ),
        stable=("project_id", "namespace_id", "job_project_id", "job_namespace_id", "user_id"),
        renameable=("sub", "project_path", "namespace_path", "job_project_path", "ci_config_ref_uri", "user_login"),
        text_booleans=("ref_protected", "environment_protected"),
    ),
    Provider(
        name="gcp-oidc",
        issuer="https://accounts.google.com",
        shared=True,
        claims=_claims("azp", "email", "email_verified", "google", "hd", "at_hash", "name", "picture"),
        stable=("sub", "azp", "google.compute_engine.project_number"),
        renameable=("email", "hd", "google.compute_engine.project_id"),
        numbers=("google.compute_engine.project_number",),
    ),
    Provider(
        name="azure-oidc",
        issuer="https://login.microsoftonline.com/{tenant}/v2.0",
        config={"tenant": ConfigKey(pattern=UUID, what="the tenant's id, a GUID (not a domain, nor common)")},
        stable=("oid", "azp", "sub"),
        audience="the client id of your API's app registration",
    ),
    Provider(
        name="circleci-oidc",
        issuer="https://oidc.circleci.com/org/{org_id}",
        config={"org_id": ConfigKey(pattern=UUID, what="the CircleCI organization's id, a UUID")},
        stable=("oidc.circleci.com/project-id", "sub"),
        audience="the organization's id, or one that you chose",
    ),
    Provider(
        name="terraform-oidc",
        issuer="https://app.terraform.io",
        own_issuer=True,
        shared=True,
        claims=_claims(
            *(
                f"terraform_{what}_{kind}"
                for what in ("organization", "project", "workspace")
                for kind in ("id", "name")
            ),
            *(f"terraform_stack_{what}" for what in ("id", "name", "deployment_name")),
            "terraform_full_workspace",
            "terraform_run_id",
            "terraform_run_phase",
            "terraform_operation",
        ),
        stable=("terraform_organization_id", "terraform_workspace_id", "terraform_project_id", "terraform_stack_id"),
        renameable=("sub", "terraform_organization_name", "terraform_full_workspace"),
        audience="what TFC_WORKLOAD_IDENTITY_AUDIENCE says",
    ),
    Provider(
        name="bitbucket-oidc",
        issuer="https://api.bitbucket.org/2.0/workspaces/{workspace}/pipelines-config/identity/oidc",
        config={"workspace": ConfigKey(pattern=r"[A-Za-z0-9_-]{1,100}", what="the workspace's slug")},
        claims=_claims(
            "workspaceUuid",
            "repositoryUuid",
            "branchName",
            "deploymentEnvironmentUuid",
            "deploymentEnvironment",
            "pipelineUuid",
            "pipelineRunUuid",
            "stepUuid",
        ),
        stable=("repositoryUuid", "workspaceUuid"),
        audience="ari:cloud:bitbucket::workspace/ and the workspace's UUID",
    ),
    Provider(name="oidc", own_issuer=True, algorithms=ASYMMETRIC),
)
PROVIDERS: Mapping[str, Provider] = {row.name: row for row in _ROWS}


def issuer_of(provider: str, issuer: str | None, config: Mapping[str, Any]) -> str | None:
    """The exact `iss` that tokens of a policy must have; None where the provider has no tokens."""
    row = PROVIDERS[provider]
    if not row.is_oidc:
        return None
    if issuer is not None or row.issuer is None:
        return issuer
    return re.sub(r"\{(\w+)\}", lambda match: str(config[match[1]]), row.issuer)


def kind_of(provider: str, issuer: str | None) -> Provider:
    """The row that says what the tokens of a policy hold: for `oidc`, that of the issuer where it is a known one."""
    row = PROVIDERS[provider]
    known = (other for other in _ROWS if other.issuer is not None and other.issuer == issuer)
    return next(known, row) if row.is_oidc and row.issuer is None else row


def is_text(provider: Provider, claim: str) -> bool:
    """Whether a claim is known to be a string, or a list of them."""
    named = (*provider.stable, *provider.renameable, *provider.text_booleans)
    return claim in TEXTS or (claim in named and claim not in provider.numbers)


def has_claim(provider: Provider, name: str) -> bool:
    """Whether tokens of the provider can hold a claim, literally or as a path into a nested one."""
    if not provider.claims or name in provider.claims or name.startswith(provider.free_claims):
        return True
    return name.partition(".")[0] in provider.claims
