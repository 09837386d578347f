"""How the product is told that its engines are at a fake Fly."""

from tests.support.fly.cloud import Fly


def fly_settings(fly: Fly) -> dict[str, str]:
    """The server's settings for engines that are reached through Fly's proxy."""
    return {
        "ORCH8_RUNTIME": "fly",
        "ORCH8_FLY_API_URL": fly.api_url,
        "ORCH8_FLY_API_TOKEN": fly.token,
        "ORCH8_FLY_APP": fly.app,
        "ORCH8_FLY_IMAGE": "ghcr.io/orch8-io/engine:0.7.1",
        "ORCH8_FLY_PUBLIC_URL": fly.edge_url,
        "ORCH8_FLY_RATE": "20",
    }
