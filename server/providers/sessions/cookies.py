"""The Supabase session cookie in every form that its clients write (@supabase/ssr, auth-helpers, v0)."""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

ENCODED = "base64-"
MAX_CHUNKS = 16
OLDEST = "sb-access-token"  # v0: the bare token
# Proxies join two Cookie headers with a comma, where one header has semicolons.
SEPARATOR = re.compile(r"[;,]\s*(?=[^=;,\s]+=)")


def access_token(header: str, name: str) -> str | None:
    """The access token in a Cookie header, or None where no form of the session cookie `name` holds one."""
    cookies = list(_pairs(header))
    for value in (*_values(cookies, name), *(text for key, text in cookies if key == OLDEST)):
        if token := _token(value):
            return token
    return None


def default_name(supabase_url: str) -> str:
    """The cookie's name as supabase-js derives it: from the first label of the project's host."""
    host = re.sub(r"^[a-z]+://", "", supabase_url)
    return f"sb-{re.split(r'[.:/]', host)[0]}-auth-token"


def _pairs(header: str) -> Iterator[tuple[str, str]]:
    for part in SEPARATOR.split(header):
        name, equals, value = part.strip().partition("=")
        if equals:
            yield name, value.strip(' ;"')


def _values(cookies: list[tuple[str, str]], name: str) -> Iterator[str]:
    """The bare cookie wins; else the chunks up to the first gap, since stale ones may follow it."""
    yield from (value for key, value in cookies if key == name and value)
    chunks = dict(reversed([pair for pair in cookies if pair[0].startswith(f"{name}.")]))
    joined = ""
    for index in range(MAX_CHUNKS):
        chunk = chunks.get(f"{name}.{index}")
        if not chunk:
            break
        joined += chunk
    if joined:
        yield joined


def _token(value: str) -> str | None:
    """The token inside a cookie's value: a session object, auth-helpers' array, or the bare token."""
    text = unquote(value)
    if text.startswith(ENCODED):
        text = _decoded(text.removeprefix(ENCODED))
    if text.count(".") == 2 and not text.startswith(("{", "[", '"')):
        return text
    try:
        session: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = session.get("access_token") if isinstance(session, dict) else None
    if isinstance(session, list) and session:
        found = session[0]
    return found if isinstance(found, str) and found else None


def _decoded(text: str) -> str:
    plain = re.sub(r"[\s=]", "", text)
    try:
        return base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
