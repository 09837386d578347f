"""What an answer carries beside its message."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from server.domain.preconditions import entity_tag

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer(Generic[M]):
    """A message, the version from which all proxies know it (x-orch8-version), and the resource's revision (etag)."""

    message: M
    version: int | None = None
    revision: int | None = None

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What it says beside its message."""
        version = () if self.version is None else (("x-orch8-version", str(self.version)),)
        return version if self.revision is None else (*version, ("etag", entity_tag(self.revision)))

    async def send(self, context: grpc.aio.ServicerContext[Any, Any]) -> M:
        """Sends the headers, and gives the message to return. Only when nothing can fail any more.

        An error after it would lose its details: Envoy converts them only where no header went before.
        """
        if self.headers:
            await context.send_initial_metadata(self.headers)
        return self.message
