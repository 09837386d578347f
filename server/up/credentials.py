"""Signs the development user in, as Supabase would (its token and cookie formats: @supabase/ssr, supabase/auth)."""

import base64
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from jose import jwt

COOKIE = "sb-orch8-auth-token"
EMAIL = "dev@orch8.local"
# A real project's tokens last an hour and are refreshed by its client. Nobody refreshes this one.
LIFETIME_S = 30 * 24 * 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedIn:
    """A session: its token, and the same as a cookie, `name=value`."""

    access_token: str
    cookie: str


def sign_in(*, secret: str, issuer: str, user_id: str, org_id: str) -> SignedIn:
    """A session of the development user as the owner of the organization."""
    now = int(time.time())
    claims = _claims(issuer, user_id, org_id, now)
    token = jwt.encode(claims, secret, algorithm="HS256")
    return SignedIn(access_token=token, cookie=f"{COOKIE}={_cookie_value(token, claims)}")


def _claims(issuer: str, user_id: str, org_id: str, now: int) -> dict[str, Any]:
    return {
        "iss": issuer,
        "sub": user_id,
        "aud": "authenticated",
        "role": "authenticated",
        "iat": now,
        "exp": now + LIFETIME_S,
        "email": EMAIL,
        "phone": "",
        "app_metadata": {"provider": "email", "providers": ["email"], "org_id": org_id, "org_role": "owner"},
        "user_metadata": {},
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": now}],
        "session_id": str(uuid.uuid4()),
        "is_anonymous": False,
    }


def _cookie_value(token: str, claims: dict[str, Any]) -> str:
    """The default form: "base64-" and the session as unpadded base64url. Short enough never to be split."""
    session = {
        "access_token": token,
        "token_type": "bearer",
        "expires_in": LIFETIME_S,
        "expires_at": claims["exp"],
        "refresh_token": "",
        "user": {"id": claims["sub"], "email": EMAIL, "role": "authenticated", "aud": "authenticated"},
    }
    packed = json.dumps(session, separators=(",", ":")).encode()
    return "base64-" + base64.urlsafe_b64encode(packed).decode().rstrip("=")
