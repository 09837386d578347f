"""`orch8-cloud up`: checks, starts the parts, brings an instance up, and watches until it is told to stop."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from server.configuration import StartFailed
from server.providers.runtime.base import RuntimeFailed
from server.providers.runtime.local_program import choose
from server.settings import ServerSettings
from server.up.account import PATIENCE_S, Account, UpFailed
from server.up.checks import prepared
from server.up.credentials import SignedIn, sign_in
from server.up.keyring import Keyring
from server.up.options import Options
from server.up.parts import check_settings, parts, variables
from server.up.processes import Child
from server.up.report import Ready, Report
from server.up.supervisor import PartDied, Stop, Supervisor

# The kernel's limit for the path of a Unix socket is 104 bytes on macOS and 108 on Linux.
SOCKET_PATH_LIMIT = 100
LONGEST_SOCKET = "server.sock"
REQUEST_TIMEOUT_S = 10.0


async def up(*, port: int = 8080, data_dir: Path = Path(".orch8"), ready_file: Path | None, plan: str | None) -> int:
    """Runs the whole product until SIGINT or SIGTERM. Returns the exit code; raises StartFailed where it cannot start.

    `ready_file` is written when everything answers. `plan` is that of a new organization.
    """
    stop = Stop()
    stop.listen()
    options = _options(port, data_dir, ready_file, plan)
    report = Report()
    with prepared(options), _run_folder() as run_dir:
        keyring = Keyring.open(options.keyring)
        settings = check_settings(variables(options, keyring, run_dir))
        engine = _engine_name(settings)
        start = Start(options=options, keyring=keyring, settings=settings, engine=engine, report=report)
        return await _supervise(start, run_dir, stop)


def _engine_name(settings: ServerSettings) -> str:
    """What people call the engine that will run. Raises StartFailed where the one that is named cannot."""
    if settings.runtime == "fly":
        return f"{settings.fly_image} on Fly, version"
    try:
        return choose(settings.engine_bin).name
    except RuntimeFailed as error:
        raise StartFailed(str(error)) from error


def _options(port: int, data_dir: Path, ready_file: Path | None, plan: str | None) -> Options:
    return Options(
        port=port,
        data_dir=data_dir.expanduser().absolute(),
        ready_file=None if ready_file is None else ready_file.expanduser().absolute(),
        plan=plan,
    )


@contextmanager
def _run_folder() -> Iterator[Path]:
    """A folder for Unix sockets, closed to others, and with a name that is short enough for them."""
    folder = Path(tempfile.mkdtemp(prefix="orch8-"))
    if len(str(folder / LONGEST_SOCKET)) > SOCKET_PATH_LIMIT:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="orch8-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _supervise(start: "Start", run_dir: Path, stop: Stop) -> int:
    options, report = start.options, start.report
    supervisor = Supervisor(
        parts(options, start.keyring, run_dir), data_dir=options.data_dir, logs=options.logs, stop=stop
    )
    try:
        async with supervisor:
            try:
                await supervisor.watch(start.bring_up(supervisor.children))
            finally:
                if options.ready_file is not None:
                    options.ready_file.unlink(missing_ok=True)
            report.say("Stopping…")
    except (PartDied, UpFailed) as error:
        report.problem(str(error))
        return 1
    report.say("Stopped.")
    return 0


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of the product, from the first process to the first answer of the engine."""

    options: Options
    keyring: Keyring
    settings: ServerSettings
    engine: str
    report: Report

    async def bring_up(self, children: list[Child]) -> None:
        """Waits for the parts, then uses them from outside. Raises UpFailed."""
        began = time.monotonic()
        report, session = self.report, self._sign_in()
        await asyncio.gather(*(self._part_ready(child, began) for child in children))
        async with httpx.AsyncClient(
            base_url=self.options.url, trust_env=False, timeout=REQUEST_TIMEOUT_S, headers={"User-Agent": "orch8-cloud"}
        ) as http:
            ready = await self._use(Account(http, session), session)
        if self.options.ready_file is not None:
            ready.write(self.options.ready_file)
        report.done("everything answers", time.monotonic() - began)
        report.ready(ready, self.options)

    async def _part_ready(self, child: Child, began: float) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await child.wait_listening()
        except TimeoutError:
            raise UpFailed(f"The {child.name} was not ready within {PATIENCE_S:g} s; see {child.log}.") from None
        self.report.done(f"{child.name} started", time.monotonic() - began)

    def _sign_in(self) -> SignedIn:
        # Where the user works with a project of their own, its issuer is the only one that the server accepts.
        issuer = f"{(self.settings.supabase_url or self.options.url).rstrip('/')}/auth/v1"
        keyring = self.keyring
        return sign_in(
            secret=keyring.supabase_jwt_secret, issuer=issuer, user_id=keyring.user_id, org_id=keyring.org_id
        )

    async def _use(self, account: Account, session: SignedIn) -> Ready:
        step, keyring = self.report.step, self.keyring
        with step("all parts ready"):
            await account.wait_ready()
        with step("signed in, API key"):
            org_id = await account.organization()
            api_key = await account.api_key(keyring.api_key)
            if api_key != keyring.api_key:
                keyring.with_api_key(api_key, self.options.keyring)
        with step("instance running"):
            instance = await account.instance()
            await account.wait_running(instance.id)
        with step("engine answers through the tunnel"):
            version = await account.engine_version(instance.id, api_key)
        return Ready(
            url=self.options.url,
            org_id=org_id,
            api_key=api_key,
            access_token=session.access_token,
            session_cookie=session.cookie,
            supabase_jwt_secret=keyring.supabase_jwt_secret,
            instance_id=instance.id,
            engine=f"{self.engine} {version}",
        )
