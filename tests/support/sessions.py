"""Supabase sessions as its server and its clients write them, for tests of any level."""

import base64
import json
import time
from typing import Any
from urllib.parse import quote

from jose import jwt

SECRET = "a-shared-secret-of-the-project-for-tests-only"
COOKIE = "sb-orch8-auth-token"
CHUNK = 3180


def claims(*, org_id: str | None = "org_one", role: str | None = "owner", **changes: Any) -> dict[str, Any]:
    """What GoTrue puts into an access token, with the organization's claims."""
    now = int(time.time())
    metadata: dict[str, Any] = {"provider": "email", "providers": ["email"]}
    if org_id is not None:
        metadata |= {"org_id": org_id} | ({"org_role": role} if role is not None else {})
    made = {
        "iss": "https://project.supabase.co/auth/v1",
        "sub": "6f1b7f5e-6a53-4b55-9c4f-0d6f2a0c1e11",
        "aud": "authenticated",
        "role": "authenticated",
        "exp": now + 3600,
        "iat": now,
        "email": "ana@example.com",
        "app_metadata": metadata,
        "user_metadata": {"org_id": "org_of_somebody_else", "org_role": "owner"},
        "session_id": "3b7c6a2e-1d0a-4a55-8f6e-2f7a1f0b9c33",
        "aal": "aal1",
        "is_anonymous": False,
    }
    made.update(changes)
    return {key: value for key, value in made.items() if value is not None}


def token(secret: str = SECRET, **changes: Any) -> str:
    """An access token signed with the project's shared secret."""
    return str(jwt.encode(claims(**changes), secret, algorithm="HS256"))


def session_json(access_token: str) -> str:
    """The session object that the clients store."""
    session = {
        "access_token": access_token,
        "token_type": "bearer",
        "expires_in": 3600,
        "expires_at": int(time.time()) + 3600,
        "refresh_token": "v1-refresh",
        "user": {"id": "somebody-else", "email": "ana@example.com", "name": "Ana Ünal"},
    }
    return json.dumps(session)


def base64_value(access_token: str) -> str:
    """The default form of @supabase/ssr."""
    return "base64-" + base64.urlsafe_b64encode(session_json(access_token).encode()).decode().rstrip("=")


def cookie_forms(access_token: str) -> dict[str, str]:
    """Every form of the cookie, by name (providers' facts 2.1)."""
    encoded = base64_value(access_token)
    other = base64_value(token(sub="somebody-else"))
    raw = quote(session_json(access_token), safe="")
    array = quote(json.dumps([access_token, "refresh", None, None, None]), safe="")
    half = len(encoded) // 2
    return {
        "base64url": f"{COOKIE}={encoded}",
        "chunked": f"{COOKIE}.0={encoded[:half]}; other=1; {COOKIE}.1={encoded[half:]}",
        "chunks in disorder, a stale one behind a gap": (
            f"{COOKIE}.1={encoded[half:]}; {COOKIE}.3={other[:9]}; {COOKIE}.0={encoded[:half]}"
        ),
        "raw": f"{COOKIE}={raw}",
        "raw, chunked": f"{COOKIE}.0={raw[:100]}; {COOKIE}.1={raw[100:]}",
        "auth-helpers array": f"{COOKIE}={array}",
        "v0": f"sb-access-token={access_token}; sb-refresh-token=refresh",
        "beside its siblings": f"{COOKIE}-code-verifier=base64-eHg; theme=dark; {COOKIE}={encoded}; {COOKIE}-user=x",
        "a cleared duplicate first": f"{COOKIE}=; {COOKIE}={encoded}",
    }
