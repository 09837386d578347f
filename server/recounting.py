"""`orch8-cloud usage recompute`: counts runs again, and says where what was counted differs."""

import os
import sys
from datetime import UTC, datetime

from server.configuration import StartFailed
from server.services.identifiers import utc_now
from server.services.usage import recompute
from server.settings import StoreSettings
from server.store.database import Database
from server.store.dialects import create_engine
from server.store.inspection import DatabaseProblem, inspect
from server.store.sealing import Sealer
from server.store.usage import Recount

EVER = datetime.min.replace(tzinfo=UTC)


async def run_recompute(settings: StoreSettings, *, check: bool, since: datetime | None) -> int:
    """Says what differs, and sets it right unless it only checks. The exit code is 1 where a check found something.

    Raises StartFailed.
    """
    asked = since.replace(tzinfo=UTC) if since is not None else EVER
    await _check_shape(settings.store_url)
    # No secret is read here, so no key is needed.
    async with Database(create_engine(settings.store_url), Sealer(os.urandom(32))) as database:
        found = await recompute(database, lambda plan: asked, utc_now, check=check)
    for one in found.differences:
        sys.stdout.write(_line(one) + "\n")
    differ = len(found.differences)
    done = "" if check or not differ else ", set right"
    sys.stdout.write(f"Counts that differ from the rows of runs: {differ}{done}.\n")
    if found.left_alone:
        sys.stdout.write(
            f"Left alone, because their first runs may not be kept any more: {found.left_alone} periods.\n"
        )
    return int(check and differ > 0)


def _line(one: Recount) -> str:
    period = f"{one.period.start:%Y-%m-%dT%H:%M:%SZ} to {one.period.last_second:%Y-%m-%dT%H:%M:%SZ}"
    return f"{one.org_id}  {period}  counted {one.counted}, runs {one.found}"


async def _check_shape(url: str) -> None:
    try:
        found = await inspect(url)
    except DatabaseProblem as error:
        raise StartFailed(f"ORCH8_DATABASE_URL: {error}") from None
    if found is None:
        raise StartFailed("ORCH8_DATA_DIR: there is no database in this folder")
    if found.step != found.newest:
        raise StartFailed(
            f"the database is at step {found.step}, this needs {found.newest}: start a server of this version"
        )
