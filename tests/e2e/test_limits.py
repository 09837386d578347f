"""The plan's rates through the whole product: who is too fast is told so, and nobody else notices."""

from pathlib import Path

import httpx

from tests.e2e.conftest import check_error
from tests.support import sessions
from tests.support.calls import eventually
from tests.support.stack import Stack, running_stack

RATE, BURST = 5, 20
PLANS = f"[free]\nrequests_per_second = {RATE}\nrequest_burst = {BURST}\n"
TRIO = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")


async def other_organization(http: httpx.AsyncClient, stack: Stack) -> tuple[str, dict[str, str]]:
    """The tunnel of another organization's instance, and a key for it."""
    token = sessions.token(stack.ready["supabase_jwt_secret"], org_id="org_quiet", role="owner")
    owner = {"Authorization": f"Bearer {token}"}
    made = (await http.post("/api/instances", json={"name": "quiet", "region": "iad"}, headers=owner)).json()
    key = (await http.post("/api/api-keys", json={"name": "k", "environment": "live"}, headers=owner)).json()["key"]

    async def is_running() -> bool:
        answer = await http.get(f"/api/instances/{made['id']}", headers=owner)
        return bool(answer.json()["status"] == "running")

    await eventually(is_running)
    return f"/api/tunnel/{made['id']}/info", {"Authorization": f"Bearer {key}"}


async def test_whoever_is_too_fast_is_told_so_and_nobody_else_notices(tmp_path: Path) -> None:
    plans = tmp_path / "plans.toml"
    plans.write_text(PLANS)
    async with (
        running_stack(tmp_path, env={"ORCH8_PLANS_FILE": str(plans)}) as stack,
        httpx.AsyncClient(base_url=stack.url, timeout=30) as http,
    ):
        quiet, quiet_key = await other_organization(http, stack)
        noisy, noisy_key = (
            f"/api/tunnel/{stack.ready['instance_id']}/info",
            {"Authorization": f"Bearer {stack.ready['api_key']}"},
        )
        # The rate refills while this goes on, so how many are let in depends on how fast the machine is.
        for _ in range(100 * BURST):
            answer = await http.get(noisy, headers=noisy_key)
            if answer.status_code != 200:
                break
            assert [len(answer.headers.get_list(name)) for name in TRIO] == [1, 1, 1]
        body = check_error(answer, 429, "RATE_LIMITED")
        assert body["details"][0]["metadata"] == {"scope": "organization", "limit": str(RATE), "burst": str(BURST)}
        assert body["details"][1]["retry_delay"] == "1s"
        assert [answer.headers[name] for name in TRIO] == [str(BURST), "0", "1"]
        assert answer.headers["x-orch8-decision-id"].startswith("dec_")

        answer = await http.get(quiet, headers=quiet_key)
        assert (answer.status_code, answer.headers["ratelimit-remaining"]) == (200, str(BURST - 1))
