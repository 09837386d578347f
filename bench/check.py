"""Before a row is measured: it must be right. A fast answer that is wrong is no figure."""

import httpx

from bench.envoys import BODY
from bench.errors import BenchFailed
from bench.stack import Row


async def check(row: Row) -> None:
    """The row's first call gives the upstream's answer, and without its credential 401. Raises BenchFailed."""
    path, _, token = row.target.calls.read_text().split("\n", 1)[0].partition(" ")
    async with httpx.AsyncClient(base_url=f"http://{row.target.address}") as client:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        _demand(row, await client.get(path, headers=headers), 200, BODY)
        if row.guarded:
            _demand(row, await client.get(path), 401, None)


def _demand(row: Row, answer: httpx.Response, status: int, body: str | None) -> None:
    if answer.status_code != status or (body is not None and answer.text != body):
        what = "without its credential" if body is None else "with its credential"
        raise BenchFailed(
            f"{row.name} {what} must answer {status}, and answered {answer.status_code}: {answer.text[:400]}"
        )
