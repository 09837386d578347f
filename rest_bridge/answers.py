"""Answers between two reports: tallied where they are seen (an edge, or a proxy that carries them), and passed on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb

from server.domain.answers import Answers

MAX_ROWS = 10_000
_MINUTE_S = 60


def minute_of(now: float) -> int:
    """The beginning of the minute, both in seconds since 1970."""
    return int(now) // _MINUTE_S * _MINUTE_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Answers of one instance that ended in one minute, by its beginning in seconds since 1970."""

    instance_id: str
    minute: int
    answers: Answers


class Tally:
    """Answers that are not reported yet. What does not fit is lost: counts only."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], Answers] = {}
        self.lost = 0

    def __len__(self) -> int:
        return len(self._rows)

    def count(self, instance_id: str, kind: str, milliseconds: float, now: float, answers: int = 1) -> None:
        """Counts answers that ended now, in seconds since 1970, and were alike."""
        row = self._row(instance_id, minute_of(now))
        if row is None:
            self.lost += answers
        else:
            row.count(kind, milliseconds, answers)

    def add(self, rows: Iterable[Row]) -> None:
        """Counts what somebody else has tallied."""
        for one in rows:
            row = self._row(one.instance_id, one.minute)
            if row is None:
                self.lose([one])
            else:
                row.add(one.answers)

    def take(self) -> list[Row]:
        """All of it, to be reported; it is not here any more."""
        rows, self._rows = self._rows, {}
        return [Row(instance_id=id_, minute=minute, answers=answers) for (id_, minute), answers in rows.items()]

    def lose(self, rows: Iterable[Row]) -> None:
        """Gives up what could not be reported."""
        self.lost += sum(one.answers.kinds.total() for one in rows)

    def _row(self, instance_id: str, minute: int) -> Answers | None:
        key = (instance_id, minute)
        row = self._rows.get(key)
        if row is None and len(self._rows) < MAX_ROWS:
            row = self._rows[key] = Answers()
        return row


def to_messages(rows: Sequence[Row]) -> list[pb.AnswerCounts]:
    """The rows as they are reported."""
    return [
        pb.AnswerCounts(
            instance_id=one.instance_id,
            minute=Timestamp(seconds=one.minute),
            kinds=one.answers.kinds,
            latency=one.answers.latency,
        )
        for one in rows
    ]


def from_messages(messages: Iterable[pb.AnswerCounts]) -> list[Row]:
    """The rows that were reported."""
    return [
        Row(
            instance_id=one.instance_id,
            minute=one.minute.seconds,
            answers=Answers.reported(one.kinds, one.latency),
        )
        for one in messages
    ]
