"""Use cases of gateway policies. A change is in force on every proxy when its call returns."""

from dataclasses import replace

from server.domain.access import Caller
from server.domain.events import EventKind, policy_event
from server.domain.policies import Policy, PolicyFields, PolicyPatch, apply, size
from server.domain.preconditions import ANY, IfMatch
from server.errors import FieldViolation, NotFound, PolicyInvalid
from server.services.idempotency import Keep
from server.services.identifiers import Clock, NewId
from server.services.instances import visible
from server.services.propagation import Propagation
from server.store.database import Database, UnitOfWork

MAX_POLICIES = 1000
MAX_BYTES = 1024 * 1024


class PoliciesService:
    """Lists, creates, changes and deletes policies."""

    def __init__(
        self,
        *,
        database: Database,
        propagation: Propagation,
        clock: Clock,
        new_id: NewId,
        allow_loopback: bool = False,
    ) -> None:
        self._allow_loopback = allow_loopback
        self._database = database
        self._propagation = propagation
        self._clock = clock
        self._new_id = new_id

    async def list(self, *, caller: Caller, instance_id: str) -> list[Policy]:
        """The policies of an instance, newest first."""
        async with self._database.read() as tx:
            await visible(tx, caller, instance_id)
            return await tx.policies.of_instance(instance_id)

    async def create(
        self, *, caller: Caller, instance_id: str, patch: PolicyPatch, keep: Keep[Policy]
    ) -> tuple[Policy, int]:
        """A new policy, and the version from which it is in force."""
        async with self._database.write(caller.org_id) as tx:
            await visible(tx, caller, instance_id)
            fields = apply(patch, allow_loopback=self._allow_loopback)
            now = self._clock()
            policy = Policy(
                id=self._new_id("pol"), instance_id=instance_id, fields=fields, created_at=now, updated_at=now
            )
            await tx.policies.save(policy)
            await check_size(tx, instance_id)
            await tx.events.append([policy_event(caller.org_id, policy, EventKind.POLICY_CREATED, now)])
            version = await self._changed(tx, instance_id)
            await keep(tx, policy, version)
            await tx.commit()
        await self._propagation.confirm(version)
        return policy, version

    async def update(
        self, *, caller: Caller, instance_id: str, policy_id: str, patch: PolicyPatch, if_match: IfMatch = ANY
    ) -> tuple[Policy, int]:
        """The changed policy, and the version from which it is in force."""
        async with self._database.write(caller.org_id) as tx:
            old = await _policy(tx, caller, instance_id, policy_id)
            if_match.check("policy", old.revision)
            now = self._clock()
            policy = replace(old, fields=self._applied(patch, old), updated_at=now, revision=old.revision + 1)
            await tx.policies.save(policy)
            await check_size(tx, instance_id)
            await tx.events.append([policy_event(caller.org_id, policy, EventKind.POLICY_UPDATED, now)])
            version = await self._changed(tx, instance_id)
            await tx.commit()
        await self._propagation.confirm(version)
        return policy, version

    async def delete(self, *, caller: Caller, instance_id: str, policy_id: str, if_match: IfMatch = ANY) -> int:
        """Removes a policy. Answers with the version from which it is gone."""
        async with self._database.write(caller.org_id) as tx:
            policy = await _policy(tx, caller, instance_id, policy_id)
            if_match.check("policy", policy.revision)
            await tx.policies.delete(policy_id)
            await tx.events.append([policy_event(caller.org_id, policy, EventKind.POLICY_DELETED, self._clock())])
            version = await self._changed(tx, instance_id)
            await tx.commit()
        await self._propagation.confirm(version)
        return version

    def _applied(self, patch: PolicyPatch, old: Policy) -> PolicyFields:
        return apply(patch, old.fields, allow_loopback=self._allow_loopback)

    async def _changed(self, tx: UnitOfWork, instance_id: str) -> int:
        change = await tx.changes.append(self._clock(), instance_id=instance_id)
        return change.version


async def check_size(tx: UnitOfWork, instance_id: str, *, more: int = 0) -> None:
    """Every proxy keeps all policies of an instance: they are bounded together, with so many more that will come.

    Raises PolicyInvalid.
    """
    policies = await tx.policies.of_instance(instance_id)
    if len(policies) + more > MAX_POLICIES:
        what = f"an instance has at most {MAX_POLICIES} policies; delete some first"
        raise PolicyInvalid([FieldViolation(field="instance_id", description=what)])
    if sum(size(policy.fields) for policy in policies) > MAX_BYTES:
        what = f"all policies of an instance hold at most {MAX_BYTES} bytes together; use fewer or shorter rules"
        raise PolicyInvalid([FieldViolation(field="allow", description=what)])


async def _policy(tx: UnitOfWork, caller: Caller, instance_id: str, policy_id: str) -> Policy:
    await visible(tx, caller, instance_id)
    policy = await tx.policies.get(instance_id, policy_id)
    if policy is None:
        raise NotFound("policy", policy_id)
    return policy
