"""The world of the table: instances, their policies, and callers with their keys and tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.rest_bridge.proxy.cases import ANONYMOUS, API_KEY, SECRET, Instance
from tests.rest_bridge.proxy.cases import INSTANCES as BASIC
from tests.support import sessions
from tests.support.issuer import EC, Issuer, part

# Each provider with its issuer, and the fields that a policy of it needs.
TENANT = "11111111-2222-4333-8444-555555555555"
ISSUERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "github-oidc": ("https://token.actions.githubusercontent.com", {}),
    "gitlab-oidc": ("https://gitlab.com", {}),
    "gcp-oidc": ("https://accounts.google.com", {}),
    "azure-oidc": (f"https://login.microsoftonline.com/{TENANT}/v2.0", {"config": {"tenant": TENANT}}),
    "circleci-oidc": (f"https://oidc.circleci.com/org/{TENANT}", {"config": {"org_id": TENANT}}),
    "terraform-oidc": ("https://app.terraform.io", {}),
    "bitbucket-oidc": (
        "https://api.bitbucket.org/2.0/workspaces/acme/pipelines-config/identity/oidc",
        {"config": {"workspace": "acme"}},
    ),
    "oidc": ("https://issuer.example.com", {"issuer": "https://issuer.example.com"}),
}
DOWN = "http://127.0.0.1:9"


def policy(provider: str, *allow: Mapping[str, Any], **fields: Any) -> Mapping[str, Any]:
    more = ISSUERS[provider][1] if provider in ISSUERS else {}
    return {"provider": provider, "allow": list(allow), **more, **fields}


def token(provider: str, **claims: Any) -> str:
    """A good token of the provider's issuer, with more or other claims; None leaves one out."""
    issuer = Issuer()
    issuer.name = ISSUERS[provider][0] if provider in ISSUERS else provider
    lasting = {"exp": int(issuer.claims()["iat"]) + 3600}
    return issuer.sign(**{**lasting, **claims})


def badly_signed(provider: str) -> str:
    """A token that another key of ours has signed than the one it names."""
    issuer = Issuer()
    issuer.name = ISSUERS[provider][0]
    return issuer.sign(key=EC, algorithm="ES256", kid="rsa")


# A token of nobody: its header says that it is not signed.
NO_ALGORITHM = ".".join(
    (part({"alg": "none", "kid": "rsa"}), part({"iss": ISSUERS["oidc"][0], "sub": "x", "exp": 2**32}), "eA")
)
SUBJECT = str(Issuer().claims()["sub"])
MEMBER = sessions.token()

POLICIES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "all": [API_KEY, ANONYMOUS, *(policy(provider) for provider in ISSUERS)],
    "audience": [policy("oidc", audience="orch8")],
    "two": [policy("oidc", {"role": "a"}), policy("oidc", {"role": "b"})],
    "tokens": [policy("oidc", slug="ci")],
    "down": [policy("oidc", issuer=DOWN), ANONYMOUS],
    "subject": [policy("api-key", {"sub": {"glob": "*"}})],
    "half": [policy("api-key", {"sub": "nobody", "org_id": "org_b"}, {"sub": {"glob": "*"}})],
    "nobody": [policy("anonymous", {"sub": "somebody"})],
    "mixed": [policy("api-key", slug="hook", trigger_secret=SECRET), policy("anonymous")],
    **{provider.partition("-")[0]: [policy(provider)] for provider in ISSUERS if provider != "oidc"},
}

INSTANCES: Mapping[str, Instance] = {
    **BASIC,
    **{f"inst_{name}": Instance(policies=rows) for name, rows in POLICIES.items()},
    "inst_suspendedhook": Instance(status="suspended", policies=[policy("anonymous", slug="hook")]),
    "inst_raw": Instance(engine="raw"),
    "inst_rawhooks": Instance(engine="raw", policies=[{**ANONYMOUS, "slug": "nothing"}]),
}
