"""Compares, once everything has settled, what clients were told with the database and with what there is at Fly."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from server.domain.instances import Desired, Phase
from server.providers.runtime.fly_config import machine_name
from server.store.tables import IdempotencyRow, InstanceRow
from tests.chaos.checker import Violation
from tests.chaos.creates import Order
from tests.support.fly.cloud import Fly
from tests.support.fly.model import GONE

STATES = {Phase.RUNNING: "started", Phase.SUSPENDED: "stopped"}
CREATE = "CreateInstance"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """An instance as the database has it."""

    id: str
    org_id: str
    desired: Desired
    phase: Phase
    deadline_at: datetime | None = None

    @property
    def is_settled(self) -> bool:
        return self.phase.value == self.desired.value


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """What the database says: its instances, and which keys of which organizations have an answer to a create."""

    instances: Sequence[Stored]
    answered: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stock:
    """What there is at Fly: machines by name and state, and names of volumes, each as often as it is there."""

    machines: Sequence[tuple[str, str]]
    volumes: Sequence[str]


async def books(engine: AsyncEngine) -> Books:
    """What the database says now."""
    kept = col(IdempotencyRow.answer).is_not(None), col(IdempotencyRow.method).contains(CREATE)
    async with AsyncSession(engine) as session:
        rows = (await session.exec(select(InstanceRow))).all()
        answered = (await session.exec(select(IdempotencyRow.org_id, IdempotencyRow.key).where(*kept))).all()
    instances = [
        Stored(
            id=row.id,
            org_id=row.org_id,
            desired=Desired(row.desired),
            phase=Phase(row.phase),
            deadline_at=row.deadline_at,
        )
        for row in rows
    ]
    return Books(instances=instances, answered=answered)


def stock(fly: Fly) -> Stock:
    """What there is at Fly now."""
    machines = [(one.name, one.state) for one in fly.machines.values() if one.state not in GONE]
    return Stock(machines=machines, volumes=fly.audit().volumes)


def misled(reached: Mapping[str, str], fly: Fly) -> list[Violation]:
    """Instances whose tunnel (`reached`: the machine that answered in it) does not lead to their own machine."""
    own = {machine.name: machine.id for machine in fly.machines.values() if machine.state not in GONE}
    return [
        Violation("the tunnel does not lead to the instance's machine", f"{one}: {machine}")
        for one, machine in reached.items()
        if own.get(machine_name(one)) != machine
    ]


def audit(orders: Iterable[Order], books: Books, stock: Stock, now: datetime) -> list[Violation]:
    """All that does not agree; nothing where each key has led to one instance, one machine and one volume."""
    orders = list(orders)
    return [*_answers(orders), *_instances(orders, books), *_keys(orders, books), *_engines(books, stock, now)]


def _answers(orders: list[Order]) -> Iterator[Violation]:
    for order in orders:
        if len(order.ids) != 1:
            yield Violation("a key was not answered one instance", f"{order}")
    twice = Counter(one for order in orders for one in order.ids)
    for one, times in twice.items():
        if times > 1:
            yield Violation("two keys were answered the same instance", one)


def _instances(orders: list[Order], books: Books) -> Iterator[Violation]:
    told = {one: order for order in orders for one in order.ids}
    yield from _difference("instance", list(told), (row.id for row in books.instances))
    for row in books.instances:
        order = told.get(row.id)
        if order is not None and (row.org_id, row.desired) != (order.org_id, order.wanted):
            yield Violation("not what was wanted last", f"{order} is {row}")


def _keys(orders: list[Order], books: Books) -> Iterator[Violation]:
    yield from _difference("answered key", ((one.org_id, one.key) for one in orders), books.answered)


def _engines(books: Books, stock: Stock, now: datetime) -> Iterator[Violation]:
    live = [row for row in books.instances if row.desired is not Desired.DELETED]
    yield from _difference("machine", (machine_name(row.id) for row in live), (name for name, _ in stock.machines))
    yield from _difference("volume", (row.id for row in live), stock.volumes)
    for row in books.instances:
        if not row.is_settled:
            late = row.deadline_at is not None and row.deadline_at < now
            yield Violation("in transit past its deadline" if late else "in transit although all was well", f"{row}")
    states = dict(stock.machines)
    for row in live:
        state = states.get(machine_name(row.id))
        if state is not None and state != STATES.get(row.phase):
            yield Violation("the machine is not as the database says", f"{row}: {state}")


def _difference(what: str, should: Iterable[object], have: Iterable[object]) -> Iterator[Violation]:
    """What is missing, and what nobody ordered or is there too often."""
    wanted, found = Counter(should), Counter(have)
    for kind, difference in (("missing", wanted - found), ("one too many", found - wanted)):
        for one, times in difference.items():
            yield Violation(f"{what}: {kind}", f"{one}, {times} times")
