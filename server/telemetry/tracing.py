"""Traces (W3C Trace Context). OpenTelemetry is imported only where a collector is configured."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from enum import Enum
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias

from server.configuration import StartFailed
from server.domain.addresses import Collector
from server.logs import adopt

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Tracer, TracerProvider

TRACEPARENT = "traceparent"
# Spans wait in a bounded queue for as long, and are given up where the collector does not take them.
DELAY_MS = 1_000
QUEUE = 4_096
EXPORT_WITHIN_S = 5.0
MISSING = (
    "ORCH8_OTLP_ENDPOINT: OpenTelemetry is not installed here. Install it with: pip install 'orch8-cloud[otel]', "
    "or unset the variable."
)

Attributes: TypeAlias = Mapping[str, str | int | float | bool]
# The trace that the work at hand belongs to, as a traceparent; calls to other parts carry it on.
current: ContextVar[str | None] = ContextVar("traceparent", default=None)


class Kind(Enum):
    """Whether a span answers somebody outside the process, or is work of its own."""

    SERVER = "SERVER"
    INTERNAL = "INTERNAL"


class Span:
    """A span that has begun."""

    def __init__(self, span: Any) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """What the next part is told."""
        found = self._span.get_span_context()
        return f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}"

    def note(self, attributes: Attributes) -> None:
        """Adds attributes. Never a secret, and nothing of unbounded size."""
        self._span.set_attributes(attributes)

    def fail(self) -> None:
        """Marks it as a fault of ours: what callers do wrong is none."""
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR)


class Tracing:
    """Makes the spans of one process."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer("orch8-cloud", version("orch8-cloud"))  # type: ignore[assignment]

    @contextmanager
    def span(self, name: str, kind: Kind, parent: str | None, attributes: Attributes) -> Iterator[Span]:
        """A span around a block, which is the current one in it. Without a parent it may begin a trace of its own."""
        span = Span(self._start(name, kind, parent, attributes))
        token = current.set(span.traceparent)
        try:
            yield span
        finally:
            current.reset(token)
            span._span.end()  # noqa: SLF001 - of this module

    def record(
        self, name: str, kind: Kind, parent: str | None, attributes: Attributes, *, seconds: float, failed: bool
    ) -> None:
        """A span of something that has just ended, and has called nobody who had to know of it."""
        ended = time.time_ns()
        span = self._start(name, kind, parent, attributes, began=ended - int(seconds * 1e9))
        if failed:
            Span(span).fail()
        span.end(ended)

    async def close(self) -> None:
        """Sends what is left."""
        await asyncio.to_thread(self._provider.shutdown)

    def _start(
        self, name: str, kind: Kind, parent: str | None, attributes: Attributes, *, began: int | None = None
    ) -> Any:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {} if parent is None else {TRACEPARENT: parent}
        context = TraceContextTextMapPropagator().extract(carrier, Context())
        return self._tracer.start_span(
            name, context, SpanKind[kind.value], attributes=dict(attributes), start_time=began
        )


@asynccontextmanager
async def opened(collector: Collector | None, part: str, sample: float) -> AsyncIterator[Tracing | None]:
    """Tracing for as long as the context lasts; None where no collector is configured. Raises StartFailed.

    A trace that another part or a caller has begun is followed if it is sampled; of our own, the share `sample` is.
    """
    if collector is None:
        yield None
        return
    adopt("opentelemetry", part)
    tracing = Tracing(_provider(collector, part, sample))
    try:
        yield tracing
    finally:
        await tracing.close()


def _provider(collector: Collector, part: str, sample: float) -> "TracerProvider":
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        exporter = _exporter(collector)
    except ImportError as error:
        raise StartFailed(MISSING) from error
    about = {"service.name": f"orch8-{part}", "service.version": version("orch8-cloud")}
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(sample)), resource=Resource(about), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, QUEUE, DELAY_MS))
    return provider


def _exporter(collector: Collector) -> Any:
    if collector.grpc:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc(str(collector.address), insecure=not collector.tls, timeout=EXPORT_WITHIN_S)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return Http(collector.traces_url, timeout=EXPORT_WITHIN_S)


def is_sampled(traceparent: str) -> bool:
    """Whether a traceparent of good form asks to be followed."""
    return len(traceparent) == 55 and traceparent.startswith("00-") and traceparent[-1] in "13579bdf"
