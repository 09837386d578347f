"""What lies outside: the database, the project that signs sessions, Fly, the server. And whose clocks agree."""

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from server.doctor.findings import Finding, bad, doubtful, good
from server.domain.urls import is_loopback_name
from server.identity.tokens import load_jwks
from server.settings import ServerSettings
from server.store.inspection import DatabaseProblem, Inspection, inspect

PATIENCE_S = 5.0
# Sessions are refused whose times are in the future. A Date header is precise to the second.
SLOPPY_S = 2.5
WRONG_S = 30.0
FLY_API = "https://api.machines.dev"
NTP = "Let NTP keep the clocks of both"


async def database(settings: ServerSettings) -> list[Finding]:
    """Whether the database answers, is of a shape that this program knows, and has the time that we have."""
    try:
        found = await inspect(settings.store_url)
    except DatabaseProblem as error:
        return [bad("database", str(error), "Correct ORCH8_DATABASE_URL or ORCH8_DATA_DIR, or what it points to")]
    if found is None:
        return [good("database", "a new file, made at the first start")]
    clocks = [] if found.now is None else [clock("the database", found.now)]
    return [_shape(found), *clocks]


def _shape(found: Inspection) -> Finding:
    if found.step is None:
        return good("database", f"{found.product}, empty: the first server prepares it")
    if found.step > found.newest:
        fix = "Install the newer version: this one would not start"
        return bad("database", f"{found.product} was prepared by a newer version (step {found.step})", fix)
    if found.step < found.newest:
        fix = "The first server that starts brings it up: back it up before"
        return doubtful("database", f"{found.product}, step {found.step} of {found.newest}", fix)
    return good("database", f"{found.product}, step {found.step}")


def clock(whose: str, theirs: datetime) -> Finding:
    """Whether two clocks agree."""
    apart = abs((datetime.now(UTC) - theirs).total_seconds())
    if apart > WRONG_S:
        return bad("clock", f"{whose} and this machine are {apart:.0f} s apart", NTP)
    if apart > SLOPPY_S:
        return doubtful("clock", f"{whose} and this machine are {apart:.1f} s apart", NTP)
    return good("clock", f"agrees with {whose}")


async def sessions(settings: ServerSettings, http: httpx.AsyncClient) -> list[Finding]:
    """Whether the keys that verify sessions can be had."""
    if not settings.supabase_url:
        return [good("sessions", "verified with the project's shared secret")]
    url = f"{settings.supabase_url.rstrip('/')}/auth/v1/.well-known/jwks.json"
    if urlsplit(url).scheme != "https" and not is_loopback_name(urlsplit(url).hostname or ""):
        return [bad("sessions", "the project's keys would come over plain HTTP", "Use https in ORCH8_SUPABASE_URL")]
    fix = "Check ORCH8_SUPABASE_URL, and that this machine may call it"
    try:
        answer = await http.get(url, timeout=PATIENCE_S)
        keys = load_jwks(answer.json()) if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError) as error:
        return [bad("sessions", f"{url} gives no keys: {type(error).__name__}", fix)]
    if answer.status_code != 200:
        return [bad("sessions", f"{url} answers {answer.status_code}", fix)]
    return [_signing_keys(settings, len(keys)), *_date(answer, "the session's issuer")]


def _signing_keys(settings: ServerSettings, count: int) -> Finding:
    if count:
        return good("sessions", f"{count} signing keys at {settings.supabase_url}")
    if settings.supabase_jwt_secret.get_secret_value():
        return good("sessions", "the project still signs with its shared secret")
    fix = "Turn on signing keys in the project, or set ORCH8_SUPABASE_JWT_SECRET: nobody could sign in"
    return bad("sessions", f"{settings.supabase_url} publishes no signing keys", fix)


def _date(answer: httpx.Response, whose: str) -> Iterator[Finding]:
    try:
        yield clock(whose, parsedate_to_datetime(answer.headers["date"]))
    except (KeyError, ValueError, TypeError):
        return


async def fly(settings: ServerSettings, http: httpx.AsyncClient) -> list[Finding]:
    """Whether Fly lets us in and has the app. Nothing to say where engines run elsewhere."""
    of: dict[str, Any] = {name: getattr(settings, name, None) for name in ("runtime", "fly_app", "fly_api_url")}
    if of["runtime"] != "fly":
        return []
    secret = getattr(settings, "fly_api_token", None)
    token = secret.get_secret_value() if secret is not None else ""
    if not token or not of["fly_app"]:
        return [bad("Fly", "no token or no app is set", "Set ORCH8_FLY_API_TOKEN and ORCH8_FLY_APP")]
    url = f"{str(of['fly_api_url'] or FLY_API).rstrip('/').removesuffix('/v1')}/v1/apps/{of['fly_app']}"
    try:
        answer = await http.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_S)
    except httpx.HTTPError as error:
        fix = "Check ORCH8_FLY_API_URL, and that this machine may call it"
        return [bad("Fly", f"the Machines API does not answer: {type(error).__name__}", fix)]
    return [_fly_answer(answer, of["fly_app"]), *_date(answer, "Fly")]


def _fly_answer(answer: httpx.Response, app: str) -> Finding:
    number = answer.headers.get("fly-request-id", "none")
    match answer.status_code:
        case 200:
            return good("Fly", f"the token opens the app {app}")
        case 401 | 403:
            fix = f"Set ORCH8_FLY_API_TOKEN to the output of: fly tokens create deploy --app {app}"
            return bad("Fly", "the token is not accepted", fix)
        case 404:
            fix = f"Make it with: fly apps create {app}; or correct ORCH8_FLY_APP, or take a token of its organization"
            return bad("Fly", f"there is no app {app} for this token", fix)
        case status:
            return bad("Fly", f"the Machines API answers {status} (request {number})", "Try again; see Fly's status")
