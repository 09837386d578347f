"""What Envoy says of answers, on its way: read, summed up, and passed on, whichever proxy is there."""

import os
from collections import Counter
from pathlib import Path

import pytest
from orch8cloud.dataplane.v1 import dataplane_pb2 as pb

from rest_bridge.answers import MAX_ROWS, Row, Tally, from_messages
from rest_bridge.envoy.answer_log import tally
from rest_bridge.envoy.answers import MAX_FAILURES, ROWS_PER_REPORT, AnswerReader, AnswerReports
from server.domain.addresses import Address, Addresses
from server.domain.answers import Answers, bucket_of
from tests.rest_bridge.envoy.fakes import Receive, Scope, Send, read_body, reply, serving


def line(instance_id: str = "inst_1", status: str = "200", details: str = "via_upstream", began: str = "5000") -> bytes:
    return f"{instance_id} org_1 abcd\t{status}\t{details}\t{began}".encode()


def kinds(*lines: bytes) -> Counter[str]:
    into = Tally()
    tally(lines, into, 100.0)
    return sum((row.answers.kinds for row in into.take()), Counter())


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (line(), "2xx"),
        (line(status="503"), "5xx"),
        (line(status="503", details="upstream_reset_before_response_started{remote_connection_failure}"), "none"),
        (line(status="504", details="stream_idle_timeout"), "none"),
        (line(details="downstream_remote_disconnect"), "2xx"),
        (line(status="101"), "1xx"),
        (line(status="0", details="downstream_remote_disconnect", began="-"), None),
        (line(status="200", details="downstream_remote_disconnect", began="-"), None),
        (b"", None),
        (b"inst_1\t200", None),
        (b"\xff\t\t\t\t\t", None),
    ],
)
def test_a_line_says_how_a_request_was_answered(said: bytes, kind: str | None) -> None:
    assert kinds(said) == Counter([kind] if kind else [])


def test_lines_of_several_instances_are_told_apart() -> None:
    into = Tally()
    tally([line(), line("inst_2"), line(began="9000"), line("inst_2", status="404")], into, 119.0)
    first, second = into.take()
    assert (first.instance_id, first.minute, first.answers.kinds) == ("inst_1", 60, Counter({"2xx": 2}))
    assert first.answers.latency == Counter([bucket_of(5.0), bucket_of(9.0)])
    assert (second.instance_id, second.answers.kinds) == ("inst_2", Counter({"2xx": 1, "4xx": 1}))
    assert len(into) == 0


def test_what_does_not_fit_is_lost_and_what_is_there_goes_on() -> None:
    into = Tally()
    for number in range(MAX_ROWS + 3):
        into.count(f"inst_{number}", "2xx", 1.0, 0.0)
    into.count("inst_0", "2xx", 1.0, 0.0, 5)
    into.add([Row(instance_id="inst_x", minute=0, answers=Answers(Counter({"5xx": 4}), Counter({1: 4})))])
    assert (len(into), into.lost) == (MAX_ROWS, 3 + 4)
    assert into.take()[0].answers.kinds == Counter({"2xx": 6})


async def test_lines_are_read_to_the_end_however_they_are_cut(tmp_path: Path) -> None:
    into = Tally()
    reader = AnswerReader(tmp_path / "answers", into)
    await reader.open()
    writer = os.open(tmp_path / "answers", os.O_WRONLY)
    said = b"\n".join([*(line(began=str(number)) for number in range(500)), b""])
    for start in range(0, len(said), 37):
        os.write(writer, said[start : start + 37])
    os.close(writer)
    await reader.drain()
    (row,) = into.take()
    assert row.answers.kinds == Counter({"2xx": 500})


class FakeProxy:
    """Takes reports, or refuses them."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.status = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (scope["method"], scope["path"]) == ("POST", "/edge/answers")
        rows = from_messages(pb.ReportTrafficRequest.FromString(await read_body(receive)).answers)
        assert 0 < len(rows) <= ROWS_PER_REPORT
        if self.status == 200:
            self.rows += rows
        await reply(send, self.status, {}, b"")


async def test_any_proxy_that_is_there_is_told_once(tmp_path: Path) -> None:
    proxy, answers = FakeProxy(), Tally()
    proxies = Addresses(tuple(Address(path=f"{tmp_path}/{name}.sock") for name in ("away", "here")))
    reports = AnswerReports(answers, proxies)
    many = ROWS_PER_REPORT + 5
    async with serving(proxy, uds=f"{tmp_path}/here.sock"):
        for number in range(many):
            answers.count(f"inst_{number}", "2xx", 3.0, 60.0)
        await reports.flush()
        await reports.flush()
    assert sorted(row.instance_id for row in proxy.rows) == sorted(f"inst_{number}" for number in range(many))
    assert {row.minute for row in proxy.rows} == {60}


async def test_what_nobody_takes_is_kept_for_a_while_and_then_lost(tmp_path: Path) -> None:
    proxy, answers = FakeProxy(), Tally()
    reports = AnswerReports(answers, Addresses((Address(path=f"{tmp_path}/proxy.sock"),)))
    answers.count("inst_1", "2xx", 3.0, 60.0)
    for _ in range(MAX_FAILURES - 1):
        await reports.flush()
    assert (len(answers), answers.lost) == (1, 0)
    async with serving(proxy, uds=f"{tmp_path}/proxy.sock"):
        await reports.flush()
        assert len(proxy.rows) == 1
        # It may have been counted: nothing is told twice.
        proxy.status = 500
        answers.count("inst_1", "2xx", 3.0, 60.0, 7)
        await reports.flush()
    assert (len(answers), answers.lost) == (0, 7)
    answers.count("inst_1", "2xx", 3.0, 60.0)
    for _ in range(MAX_FAILURES):
        await reports.flush()
    assert (len(answers), answers.lost) == (0, 8)
