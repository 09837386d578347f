"""What an answer carries beside its message."""

from typing import Any

import grpc


async def send_version(context: grpc.aio.ServicerContext[Any, Any], version: int) -> None:
    """The version from which every proxy knows a change, as the header x-orch8-version. Only when nothing can fail any
    more: an error after it would lose its details (Envoy converts them only where no header went before).
    """
    await context.send_initial_metadata((("x-orch8-version", str(version)),))
