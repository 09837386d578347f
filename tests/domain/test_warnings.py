from typing import Any

import pytest

from server.domain.policies import PolicyFields
from server.domain.warnings import warnings

TENANT = "11111111-2222-3333-4444-555555555555"


def found(provider: str, *allow: dict[str, Any], **fields: Any) -> list[tuple[str, str]]:
    made = PolicyFields(provider=provider, allow=allow, **({"audience": "orch8"} | fields))
    return [(one.reason, one.field) for one in warnings(made)]


@pytest.mark.parametrize(
    ("provider", "allow", "expected"),
    [
        ("github-oidc", [], [("SHARED_ISSUER_OPEN", "allow")]),
        ("github-oidc", [{"repository_id": "1"}], []),
        ("github-oidc", [{"repository": "acme/shop"}], [("NAME_REUSABLE", "allow[0].repository")]),
        ("github-oidc", [{"repository": "acme/shop", "repository_owner_id": "7"}], []),
        ("github-oidc", [{"ref": "refs/heads/main"}], [("CALLER_CHOSEN_CLAIMS", "allow[0]")]),
        (
            "github-oidc",
            [{"sub": "repo:acme/shop:pull_request", "repository_id": "1"}],
            [("PULL_REQUEST_SUBJECT", "allow[0].sub")],
        ),
        (
            "github-oidc",
            [{"event_name": ["push", "pull_request_target"], "repository_id": "1"}],
            [("PULL_REQUEST_SUBJECT", "allow[0].event_name")],
        ),
        ("github-oidc", [{"sub": {"glob": "repo:acme*"}, "repository_id": "1"}], [("WIDE_GLOB", "allow[0].sub")]),
        ("github-oidc", [{"sub": {"glob": "repo:acme/*"}, "repository_id": "1"}], []),
        ("github-oidc", [{"sub": {"glob": "repo:*"}, "repository_id": "1"}], [("WIDE_GLOB", "allow[0].sub")]),
        (
            "github-oidc",
            [{"sub": {"glob": "repo:*:ref:refs/heads/main"}, "repository_id": "1"}],
            [("WIDE_GLOB", "allow[0].sub")],
        ),
        ("github-oidc", [{"repository_id": 1}], [("NEVER_MATCHES", "allow[0].repository_id")]),
        ("github-oidc", [{"repository_id": [1, "1"]}], []),
        ("gitlab-oidc", [{"project_id": 20}], [("NEVER_MATCHES", "allow[0].project_id")]),
        ("gcp-oidc", [{"sub": 105}], [("NEVER_MATCHES", "allow[0].sub")]),
        ("gcp-oidc", [{"google.compute_engine.project_number": 4111}], []),
        ("github-oidc", [{"repo_id": "1", "repository_id": "1"}], [("NEVER_MATCHES", "allow[0].repo_id")]),
        ("github-oidc", [{"repo_property_team": "x", "repository_id": "1"}], []),
        ("github-oidc", [{"iss": "https://gitlab.com", "repository_id": "1"}], [("NEVER_MATCHES", "allow[0].iss")]),
        (
            "gitlab-oidc",
            [{"ref_protected": True, "project_id": "1"}],
            [("NEVER_MATCHES", "allow[0].ref_protected")],
        ),
        ("gitlab-oidc", [{"ref_protected": "true", "project_id": "1"}], []),
        ("gcp-oidc", [{"google.compute_engine.zone": "x", "sub": "1"}], []),
        (
            "terraform-oidc",
            [{"terraform_organization_name": "acme"}],
            [
                ("NAME_REUSABLE", "allow[0].terraform_organization_name"),
            ],
        ),
        ("bitbucket-oidc", [{"repositoryUuid": "{1}"}, {"branch": "main"}], [("NEVER_MATCHES", "allow[1].branch")]),
        ("oidc", [{"anything": "x"}], []),
        ("github-oidc", [{"repository_id": "1"}, {"repository_id": "1", "ref": "x"}], [("SHADOWED", "allow[1]")]),
        (
            "github-oidc",
            [{"repository_id": "1", "ref": "x"}, {"repository_id": ["1", "2"]}],
            [("SHADOWED", "allow[0]")],
        ),
        ("github-oidc", [{"repository_id": "1"}, {"repository_id": "1"}], [("SHADOWED", "allow[1]")]),
        ("github-oidc", [{"repository_id": "1"}, {"repository_id": "2"}], []),
    ],
)
def test_risky_rules_are_pointed_out(provider: str, allow: list[dict[str, Any]], expected: Any) -> None:
    config = {"workspace": "acme"} if provider == "bitbucket-oidc" else {}
    issuer = "https://issuer.example" if provider == "oidc" else None
    assert found(provider, *allow, config=config, issuer=issuer) == expected


def test_missing_audience_is_pointed_out() -> None:
    assert found("azure-oidc", {"oid": "x"}, audience=None, config={"tenant": TENANT}) == [
        ("AUDIENCE_MISSING", "audience")
    ]


@pytest.mark.parametrize(
    ("issuer", "allow", "expected"),
    [
        ("https://token.actions.githubusercontent.com", [], [("SHARED_ISSUER_OPEN", "allow")]),
        ("https://gitlab.com", [], [("SHARED_ISSUER_OPEN", "allow")]),
        ("https://accounts.google.com", [], [("SHARED_ISSUER_OPEN", "allow")]),
        ("https://app.terraform.io", [], [("SHARED_ISSUER_OPEN", "allow")]),
        (
            "https://token.actions.githubusercontent.com",
            [{"ref": "refs/heads/main"}],
            [("CALLER_CHOSEN_CLAIMS", "allow[0]")],
        ),
        ("https://gitlab.com", [{"project_path": "a/b"}], [("NAME_REUSABLE", "allow[0].project_path")]),
        ("https://gitlab.acme.example", [], []),
    ],
)
def test_well_known_issuers_are_known_under_the_generic_provider_too(
    issuer: str, allow: list[dict[str, Any]], expected: Any
) -> None:
    assert found("oidc", *allow, issuer=issuer) == expected


@pytest.mark.parametrize(
    ("provider", "allow", "expected"),
    [
        ("api-key", [], []),
        ("api-key", [{"org_id": "org_a"}], []),
        ("api-key", [{"org_id": 5}], [("NEVER_MATCHES", "allow[0].org_id")]),
        ("api-key", [{"sub": "orc8_test_Ab3dE6gH"}], []),
        ("api-key", [{"sub": {"glob": "orc8_live_*"}}], []),
        ("api-key", [{"sub": ["user-123", "orc8_live_Ab3dE6gH"]}], []),
        ("api-key", [{"sub": "user-123"}], [("NEVER_MATCHES", "allow[0].sub")]),
        ("api-key", [{"sub": "orc8_live_Ab3dE6gH" + "x" * 41}], [("NEVER_MATCHES", "allow[0].sub")]),
        ("api-key", [{"repository": "x"}], [("NEVER_MATCHES", "allow[0].repository")]),
        ("anonymous", [], []),
        ("anonymous", [{"sub": "anon"}], []),
        ("anonymous", [{"sub": "me"}], [("NEVER_MATCHES", "allow[0].sub")]),
    ],
)
def test_keys_and_anonymous_callers(provider: str, allow: list[dict[str, Any]], expected: Any) -> None:
    assert found(provider, *allow, audience=None) == expected


def test_every_warning_says_what_to_do() -> None:
    fields = PolicyFields(provider="github-oidc", allow=({"sub": {"glob": "*"}, "nothing": "x"},))
    for one in warnings(fields):
        assert len(one.message) > 20
        assert one.message.endswith((".", '"'))
