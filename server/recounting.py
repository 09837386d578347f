"""`orch8-cloud usage recompute`: counts runs again, and says where what was counted differs."""

import os
import sys
from datetime import UTC, datetime

from server.configuration import StartFailed
from server.domain.usage import countable_since
from server.errors import DatabaseUnavailable
from server.services.identifiers import utc_now
from server.services.usage import Recomputed, recompute
from server.settings import StoreSettings, read_plans
from server.store.database import Database
from server.store.dialects import Limits, create_engine
from server.store.inspection import DatabaseProblem, inspect
from server.store.sealing import Sealer
from server.store.usage import Recount


async def run_recompute(settings: StoreSettings, *, check: bool, since: datetime | None) -> int:
    """Says what differs, and sets it right unless it only checks. The exit code is 1 where a check found something.

    Raises StartFailed.
    """
    kept = countable_since(read_plans(settings.plans_file), utc_now())
    began = kept if since is None else max(kept, since.replace(tzinfo=UTC))
    await _check_shape(settings.store_url)
    found = await _recompute(settings.store_url, began, check=check)
    for one in found.differences:
        sys.stdout.write(_line(one) + "\n")
    differ = len(found.differences)
    done = "" if check or not differ else ", set right"
    sys.stdout.write(f"Counts that differ from the rows of runs: {differ}{done}.\n")
    if found.left_alone:
        sys.stdout.write(f"Left alone, as they began before {began:%Y-%m-%dT%H:%M:%SZ}: {found.left_alone} counts.\n")
    return int(check and differ > 0)


async def _recompute(url: str, since: datetime, *, check: bool) -> Recomputed:
    # No secret is read here, so no key is needed.
    async with Database(create_engine(url, Limits().patient()), Sealer(os.urandom(32))) as database:
        try:
            return await recompute(database, since, utc_now, check=check)
        except DatabaseUnavailable as error:
            what = "the database does not answer; what was set right before stays so, run it again"
            raise StartFailed(f"{what}: {error.__cause__}") from error


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
