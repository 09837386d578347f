"""The real control plane in this process, on a temporary folder and the database of the test."""

import base64
from pathlib import Path
from typing import Any

from server.domain.addresses import Address
from server.settings import ServerSettings
from tests.support import sessions
from tests.support.databases import databases

DATAPLANE_TOKEN = "a-dataplane-token-for-tests"


def settings(folder: Path, **changes: Any) -> ServerSettings:
    """Settings for a server on a free port, with its data in the folder."""
    values: dict[str, Any] = {
        "server_listen": Address.parse("127.0.0.1:0"),
        "data_dir": folder,
        "database_url": databases.url(folder),
        "dataplane_token": DATAPLANE_TOKEN,
        "secret_key": base64.b64encode(bytes(range(32))).decode(),
        "supabase_jwt_secret": sessions.SECRET,
        "session_cookie": sessions.COOKIE,
        "public_url": "https://cloud.example.com",
        "confirm_timeout": 0.5,
    }
    return ServerSettings.read(**(values | changes))
