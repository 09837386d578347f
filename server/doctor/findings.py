"""What a check found, and how it is shown."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


MARKS = {State.OK: "✓", State.WARNING: "!", State.FAILED: "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what to do about it. Never a secret."""

    check: str
    state: State
    found: str
    fix: str = ""


def good(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check, State.OK, found)


def doubtful(check: str, found: str, fix: str) -> Finding:
    """It works, and should not go live like this unless somebody means it."""
    return Finding(check, State.WARNING, found, fix)


def bad(check: str, found: str, fix: str) -> Finding:
    """It does not work, or is not safe."""
    return Finding(check, State.FAILED, found, fix)


def as_lines(findings: Sequence[Finding]) -> str:
    """For people."""
    width = max((len(one.check) for one in findings), default=0)
    return "\n".join(
        f"{MARKS[one.state]} {one.check:<{width}}  {one.found}{f'. {one.fix}' if one.fix else ''}" for one in findings
    )


def as_json(findings: Sequence[Finding]) -> str:
    """For programs: whether it may go live, and every finding."""
    checks = [asdict(one) for one in findings]
    return json.dumps({"ok": not has_failed(findings), "checks": checks}, ensure_ascii=False, indent=2)


def has_failed(findings: Sequence[Finding]) -> bool:
    """Whether something has to be changed."""
    return any(one.state is State.FAILED for one in findings)
