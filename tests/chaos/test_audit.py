"""The audit finds what is wrong in books made by hand, and the relay loses answers: a proof must be able to fail."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server.domain.instances import Desired, Phase
from tests.chaos.audit import Books, Stock, Stored, audit
from tests.chaos.creates import Order
from tests.chaos.http import Caller
from tests.chaos.relay import Relay
from tests.support.stack import free_port

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONE = Stored(id="inst_1", org_id="org", desired=Desired.RUNNING, phase=Phase.RUNNING)
TWO = Stored(id="inst_2", org_id="org", desired=Desired.SUSPENDED, phase=Phase.SUSPENDED)
GONE = Stored(id="inst_3", org_id="org", desired=Desired.DELETED, phase=Phase.DELETED)
BOOKS = Books(instances=(ONE, TWO, GONE), answered=(("org", "order-1"), ("org", "order-2"), ("org", "order-3")))
STOCK = Stock(machines=(("inst-1", "started"), ("inst-2", "stopped")), volumes=("inst_1", "inst_2"))


def orders(**ids: set[str]) -> list[Order]:
    told = {"one": {"inst_1"}, "two": {"inst_2"}, "gone": {"inst_3"}} | ids
    wanted = {"one": Desired.RUNNING, "two": Desired.SUSPENDED, "gone": Desired.DELETED}
    return [Order("org", number, told[name], wanted[name]) for number, name in enumerate(wanted, 1)]


def kinds(books: Books = BOOKS, stock: Stock = STOCK, **ids: set[str]) -> list[str]:
    return [violation.kind for violation in audit(orders(**ids), books, stock, NOW)]


def test_good_books_are_good() -> None:
    assert kinds() == []


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"one": {"inst_1", "inst_9"}}, ["a key was not answered one instance", "instance: missing"]),
        ({"one": set()}, ["a key was not answered one instance", "instance: one too many"]),
        (
            {"two": {"inst_1"}},
            ["two keys were answered the same instance", "instance: one too many", "not what was wanted last"],
        ),
    ],
)
def test_each_key_has_one_instance_of_its_own(told: Any, found: list[str]) -> None:
    assert kinds(**told) == found


@pytest.mark.parametrize(
    ("instance", "found"),
    [
        (replace(ONE, phase=Phase.PROVISIONING), "in transit although all was well"),
        (replace(ONE, phase=Phase.FAILED), "in transit although all was well"),
        (replace(ONE, phase=Phase.RESUMING, deadline_at=NOW - timedelta(1)), "in transit past its deadline"),
        (replace(ONE, org_id="another"), "not what was wanted last"),
    ],
)
def test_instances_are_as_was_wanted(instance: Stored, found: str) -> None:
    assert found in kinds(replace(BOOKS, instances=(instance, TWO, GONE)))


def test_database_has_what_clients_were_told() -> None:
    assert kinds(replace(BOOKS, instances=(ONE, TWO))) == ["instance: missing"]
    assert kinds(replace(BOOKS, answered=BOOKS.answered[1:])) == ["answered key: missing"]
    assert kinds(replace(BOOKS, answered=(*BOOKS.answered, ("org", "order-9")))) == ["answered key: one too many"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"machines": STOCK.machines[1:]}, "machine: missing"),
        ({"machines": (*STOCK.machines, ("inst-3", "started"))}, "machine: one too many"),
        ({"machines": (*STOCK.machines, ("inst-1", "started"))}, "machine: one too many"),
        ({"machines": (("inst-1", "stopped"), STOCK.machines[1])}, "the machine is not as the database says"),
        ({"volumes": STOCK.volumes[1:]}, "volume: missing"),
        ({"volumes": (*STOCK.volumes, "inst_1")}, "volume: one too many"),
        ({"volumes": (*STOCK.volumes, "inst_3")}, "volume: one too many"),
    ],
)
def test_fly_has_what_the_database_says(changes: Any, found: str) -> None:
    assert kinds(stock=replace(STOCK, **changes)) == [found]


async def test_relay_loses_answers_of_what_was_done() -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            asked.append(head)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    losses = iter([False, True, False])
    target, port = free_port(), free_port()
    relay = Relay(port, free_port(), target, loses=lambda: next(losses))
    async with await asyncio.start_server(answer, "127.0.0.1", target), relay:
        with Caller(port) as caller:
            answers = [(await caller.call("GET", f"/{number}", {})).status for number in range(3)]
    assert answers == [200, None, 200]
    assert (relay.lost, len(asked)) == (1, 3)
