"""Records of decisions of the tunnel and the gateway: taken from the proxies, shown to the organization's members."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from server.domain.access import Caller
from server.errors import NotFound
from server.services.identifiers import Clock
from server.store.database import Database
from server.store.decisions import DecisionRecord

# "Denials always kept, allows sampled, 24 h": the description of the product.
KEEP = timedelta(hours=24)
# An ordinary record has less than a kilobyte; the proxies cut theirs below this.
MAX_RECORD = 128 * 1024
DECISION_ID = re.compile(r"dec_[0-9a-f]{20}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedDecision:
    """What a proxy reports: `record` is the message that the API answers, which nobody here looks into."""

    id: str
    instance_id: str
    at: datetime
    record: bytes


class DecisionsService:
    """Keeps records for a day."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def get(self, *, caller: Caller, decision_id: str) -> bytes:
        """The record of a decision about an instance of the caller's organization. Raises NotFound."""
        async with self._database.read() as tx:
            found = await tx.decisions.get(caller.org_id, decision_id, self._clock() - KEEP)
        if found is None:
            raise NotFound("decision", decision_id)
        return found.record

    async def take(self, reported: Sequence[ReportedDecision]) -> int:
        """Stores what is sound of a report. Says how many records were not.

        Whose a record is follows from its instance, which may be deleted by now; a proxy is not asked.
        """
        now = self._clock()
        sound = [one for one in reported if _is_sound(one, now)]
        if not sound:
            return len(reported)
        async with self._database.write() as tx:
            orgs = await tx.instances.orgs({one.instance_id for one in sound})
            records = [_record(one, orgs[one.instance_id], now) for one in sound if one.instance_id in orgs]
            await tx.decisions.add(records)
            await tx.commit()
        return len(reported) - len(records)


def _is_sound(one: ReportedDecision, now: datetime) -> bool:
    return DECISION_ID.fullmatch(one.id) is not None and one.at > now - KEEP and len(one.record) <= MAX_RECORD


def _record(one: ReportedDecision, org_id: str, now: datetime) -> DecisionRecord:
    # A proxy whose clock is fast must not make its records live longer.
    at = min(one.at, now)
    return DecisionRecord(id=one.id, org_id=org_id, instance_id=one.instance_id, at=at, record=one.record)
