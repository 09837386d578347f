"""What is counted of runs. MERGE: the module of the branch `usage` takes this one's place."""

from collections.abc import Sequence
from datetime import datetime


class Usage:
    """The rows of runs are the count themselves, so nothing is stored beside them."""

    async def add_starts(self, org_id: str, starts: Sequence[datetime]) -> None:
        """Counts runs that were seen for the first time, by the moments at which they started."""
