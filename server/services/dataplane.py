"""What the proxies ask: routes, keys, and where to put their counts."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from server.domain.answers import Answers, minute_of
from server.domain.api_keys import ApiKey
from server.domain.instances import Instance, Phase, Status
from server.domain.plans import FREE, UNLIMITED, Plans, TrafficLimits
from server.domain.policies import Policy
from server.domain.usage import Cap, cap_of
from server.errors import NotFound
from server.providers.runtime.base import Upstream
from server.services.identifiers import Clock
from server.services.instances import upstream_of
from server.services.metrics import KEEP
from server.store.database import Database
from server.store.metrics import Minute
from server.store.traffic import Bucket

RESUMING = "resuming"
# The status of a decision that lets a request in.
ALLOWED = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """An instance as the data plane sees it. `engine_key` is a secret."""

    instance: Instance
    status: str
    upstream: Upstream | None
    engine_key: str
    policies: tuple[Policy, ...]
    limits: TrafficLimits
    start_cap: Cap | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrafficCount:
    """Requests that were decided alike."""

    instance_id: str
    key_id: str | None
    policy_id: str | None
    status: int
    requests: int
    last_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCount:
    """Answers of one instance that ended in one minute."""

    instance_id: str
    minute: datetime
    answers: Answers


class DataPlane:
    """Answers the proxies from the database."""

    def __init__(self, *, database: Database, plans: Plans, limited: bool, clock: Clock) -> None:
        """`limited`: the proxies are told the plans' rates of requests, to enforce them."""
        self._database = database
        self._plans = plans
        self._limited = limited
        self._clock = clock

    async def route(self, instance_id: str) -> Route:
        """All that is needed to decide about an instance and to reach it. Raises NotFound.

        Its limits are those of the organization's plan: whoever changes it, or the usage beyond its quota, must note a
        change of each of its instances (`tx.usage.caps_changed`).
        """
        now = self._clock()
        async with self._database.read() as tx:
            instance = await tx.instances.find(instance_id)
            if instance is None:
                raise NotFound("instance", instance_id)
            policies = await tx.policies.of_instance(instance_id)
            keys = await tx.instances.keys(instance_id)
            organization = await tx.organizations.get(instance.org_id)
            plan = self._plans[organization.plan if organization is not None else FREE]
            usage = await tx.usage.current(instance.org_id, now)
        return Route(
            instance=instance,
            status=_status(instance),
            upstream=upstream_of(instance),
            engine_key=keys.engine_key,
            policies=tuple(policy for policy in policies if policy.fields.enabled),
            limits=plan.traffic if self._limited else UNLIMITED,
            start_cap=cap_of(plan, usage),
        )

    async def key(self, sha256: bytes) -> ApiKey:
        """What is known of a key. Raises NotFound."""
        async with self._database.read() as tx:
            key = await tx.api_keys.by_digest(sha256)
        if key is None:
            raise NotFound("API key", "with this digest")
        return key

    async def report(self, counts: Iterable[TrafficCount], answers: Iterable[AnswerCount] = ()) -> None:
        """Takes counts of decided requests, from which comes when a key was last used, too, and of answers."""
        now = self._clock()
        sound = [count for count in counts if count.requests > 0]
        used: dict[str, datetime] = {}
        for count in sound:
            if count.key_id is not None:
                used[count.key_id] = max(count.last_at, used.get(count.key_id, count.last_at))
        buckets = [_bucket(count, now) for count in sound]
        minutes = _minutes(buckets, answers, now)
        if not minutes:
            return
        async with self._database.write() as tx:
            await tx.traffic.add(buckets)
            await tx.metrics.add(minutes)
            await tx.api_keys.touch(used)
            await tx.commit()


def _bucket(count: TrafficCount, now: datetime) -> Bucket:
    """The minute of the last request stands for all of them: they are of the seconds before it."""
    return Bucket(
        minute=minute_of(min(count.last_at, now)),
        instance_id=count.instance_id,
        key_id=count.key_id,
        policy_id=count.policy_id,
        status=count.status,
        requests=count.requests,
    )


def _minutes(buckets: Iterable[Bucket], answers: Iterable[AnswerCount], now: datetime) -> list[Minute]:
    """Each minute of each instance that is reported about, once. Answers that nobody would be shown are left out."""
    found: dict[tuple[str, datetime], Minute] = {}

    def minute(instance_id: str, at: datetime) -> Minute:
        return found.setdefault((instance_id, at), Minute(instance_id=instance_id, at=at))

    for bucket in buckets:
        of = minute(bucket.instance_id, bucket.minute)
        if bucket.status == ALLOWED:
            of.allowed += bucket.requests
        else:
            of.denied += bucket.requests
    for one in answers:
        if one.answers.kinds and one.minute > now - KEEP:
            minute(one.instance_id, minute_of(min(one.minute, now))).answers.add(one.answers)
    return list(found.values())


def _status(instance: Instance) -> str:
    """An engine that is known to be ready can be called, a moment before the API shows it as running."""
    if instance.phase in (Phase.PROVISIONING, Phase.RESUMING) and instance.host is not None:
        return Status.RUNNING
    return RESUMING if instance.phase is Phase.RESUMING else instance.status
