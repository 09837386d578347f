"""Settings as the parts will read them, and what of them is fine on one machine and wrong in front of the world."""

import base64
from collections.abc import Iterator
from urllib.parse import urlsplit

from rest_bridge.settings import EdgeSettings
from server.configuration import SettingsError, SharedSettings, StartFailed
from server.doctor.findings import Finding, bad, doubtful, good
from server.domain.urls import is_loopback_name
from server.settings import ServerSettings
from server.templating import read_catalog

# Of random bytes or letters. Words and repetitions have fewer.
FEWEST_BYTES = 20
FEWEST_LETTERS = 12
TOKEN_LENGTH = 32


def is_public(settings: SharedSettings) -> bool:
    """Whether the service is meant for others than this machine."""
    return not is_loopback_name(urlsplit(settings.public_url).hostname or "")


def public_url(settings: SharedSettings) -> Iterator[Finding]:
    """The address by which the world knows us, and the development switches."""
    url = settings.public_url
    if not is_public(settings):
        fix = "Set ORCH8_PUBLIC_URL to the https address that callers use"
        yield doubtful("public address", f"{url} is this machine: for development only", fix)
    elif urlsplit(url).scheme != "https":
        fix = "Keys and sessions would travel in the clear: use https in ORCH8_PUBLIC_URL, and TLS at the edge"
        yield bad("public address", f"{url} is plain HTTP", fix)
    else:
        yield good("public address", url)
    for switch in settings.switches():
        yield doubtful("development", f"{switch} is on", f"Unset {switch} before others can call")


def secrets(settings: ServerSettings) -> Iterator[Finding]:
    """Whether the server's secrets could be guessed."""
    key = base64.b64decode(settings.secret_key.get_secret_value())
    if len(set(key)) < FEWEST_BYTES:
        fix = "Make one with: openssl rand -base64 32. What the old one has sealed cannot be read with it"
        yield bad("secret key", "ORCH8_SECRET_KEY is not random", fix)
    else:
        yield good("secret key", "32 bytes")
    legacy = settings.supabase_jwt_secret.get_secret_value()
    if legacy and (len(legacy) < TOKEN_LENGTH or len(set(legacy)) < FEWEST_LETTERS):
        fix = "Whoever guesses it signs in as anybody: copy ORCH8_SUPABASE_JWT_SECRET from the project, or unset it"
        yield bad("session secret", "ORCH8_SUPABASE_JWT_SECRET is too short or not random", fix)
    elif legacy and settings.supabase_url:
        fix = "Unset ORCH8_SUPABASE_JWT_SECRET once the project signs with its own keys"
        yield doubtful("session secret", "the project's legacy secret is accepted too", fix)


def dataplane_token(token: str) -> Finding:
    """Whether the token by which server and proxy know each other could be guessed."""
    fix = "Set the same ORCH8_DATAPLANE_TOKEN for server and proxy; make one with: openssl rand -hex 32"
    if len(set(token)) < FEWEST_LETTERS:
        return bad("data plane token", "ORCH8_DATAPLANE_TOKEN is not random", fix)
    if len(token) < TOKEN_LENGTH:
        return doubtful("data plane token", f"ORCH8_DATAPLANE_TOKEN has only {len(token)} characters", fix)
    return good("data plane token", f"{len(token)} characters")


def plans(settings: ServerSettings) -> Finding:
    """Whether the plans can be read, and the default one is among them."""
    source = settings.plans_file or "those of the package"
    try:
        settings.plans()
    except SettingsError as error:
        return bad("plans", str(error), "Correct the file; server/plans.toml shows the form")
    return good("plans", f"{source}, default {settings.default_plan}")


def templates(settings: ServerSettings) -> Finding:
    """Whether the templates can be read, of the package and of the operator."""
    try:
        found = read_catalog(settings.template_dirs, settings.plans())
    except StartFailed as error:
        return bad("templates", str(error), "Correct the file; the README says how a template is written")
    return good("templates", f"{len(found.all())} can be deployed")


def exposure(edge: EdgeSettings) -> Iterator[Finding]:
    """Envoy's administration can do everything, and asks for nothing."""
    admin = edge.edge_admin_addr
    if not admin.is_unix and not is_loopback_name(admin.host):
        fix = "Set ORCH8_EDGE_ADMIN_ADDR to 127.0.0.1:9901 or a Unix socket: it can stop the edge and read its keys"
        yield bad("administration", f"Envoy's administration listens on {admin}", fix)
