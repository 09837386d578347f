"""Short ways to call and to look at failures."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status


@dataclass(frozen=True)
class Failure:
    """What a failed call said."""

    code: grpc.StatusCode
    http: int
    reason: str
    message: str
    metadata: dict[str, str]
    fields: tuple[str, ...]
    trailers: dict[str, str]


async def failure(call: Awaitable[Any]) -> Failure:
    """The failure of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    trailers = {key: value for key, value in error.trailing_metadata() if isinstance(value, str)}
    info, bad = ErrorInfo(), BadRequest()
    status = rpc_status.from_call(cast("Any", error))
    for detail in status.details if status else ():
        detail.Unpack(info)
        detail.Unpack(bad)
    assert info.domain == "cloud.orch8.io"
    return Failure(
        code=error.code(),
        http=int(trailers["x-http-status"]),
        reason=info.reason,
        message=error.details() or "",
        metadata=dict(info.metadata),
        fields=tuple(one.field for one in bad.field_violations),
        trailers=trailers,
    )


async def eventually(check: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """The first answer of the check that is true; fails where there is none in time."""
    async with asyncio.timeout(seconds):
        while not (found := await check()):
            await asyncio.sleep(0.01)
        return found
