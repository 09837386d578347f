"""RunsService over gRPC."""

from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from orch8cloud.v1 import runs_pb2 as pb
from orch8cloud.v1.runs_pb2_grpc import RunsServiceServicer

from server.domain.runs import Run, Transition
from server.errors import FieldViolation, InvalidArgument
from server.rpc.convert import moment as moment_of
from server.rpc.convert import nullable, timestamp
from server.rpc.interceptors.authentication import caller, engine
from server.services.runs import RunsService, run_filter
from server.store.runs import FoundRun

Context = grpc.aio.ServicerContext[Any, Any]


class RunsServicer(RunsServiceServicer):
    """Converts, and leaves the rest to the service."""

    def __init__(self, service: RunsService) -> None:
        self._service = service

    async def IngestRuns(self, request: pb.IngestRunsRequest, context: Context) -> pb.IngestRunsResponse:
        """See runs.proto."""
        taken = await self._service.ingest(engine=engine(), body=request.body.data)
        return pb.IngestRunsResponse(accepted=taken.accepted, duplicates=taken.duplicates, rejected=taken.rejected)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """See runs.proto."""
        wanted = run_filter(
            instance_id=request.instance_id,
            state=request.state,
            sequence=request.sequence,
            since=_since(request.since) if request.HasField("since") else None,
        )
        found, token = await self._service.page(
            caller=caller(), wanted=wanted, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListRunsResponse(items=[pb.Run(**_fields(one)) for one in found], next_page_token=token)

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.RunDetails:
        """See runs.proto."""
        found = await self._service.get(caller=caller(), run_id=request.run_id, instance_id=request.instance_id or None)
        return pb.RunDetails(**_fields(found), transitions=_transitions(found.run), cut=found.run.cut)


def _since(stamp: Timestamp) -> Any:
    try:
        return moment_of(stamp)
    except (ValueError, OverflowError):
        raise InvalidArgument([FieldViolation(field="since", description="is no time")]) from None


def _fields(found: FoundRun) -> dict[str, Any]:
    run = found.run
    return {
        "id": run.run_id,
        "instance_id": found.instance_id,
        "sequence": run.sequence,
        "sequence_version": nullable(run.sequence_version),
        "state": run.state,
        "step_id": nullable(run.last.step_id or None),
        "error_kind": nullable(run.error_kind),
        "sub_tenant": nullable(run.sub_tenant),
        "started_at": timestamp(run.started_at),
        "updated_at": timestamp(run.updated_at),
        "ended_at": nullable(run.ended_at),
        "duration_ms": nullable(run.took_ms),
    }


def _transitions(run: Run) -> list[pb.RunTransition]:
    """Each with its time to the millisecond, for runs are often over within a second."""
    following: list[Transition | None] = [*run.transitions[1:], None]
    return [
        pb.RunTransition(
            state=one.state,
            at=Timestamp(seconds=one.at // 1_000_000, nanos=one.at // 1000 % 1000 * 1_000_000),
            step_id=nullable(one.step_id or None),
            duration_ms=nullable(None if after is None else (after.at - one.at) // 1000),
        )
        for one, after in zip(run.transitions, following, strict=True)
    ]
