"""Executes instances: one task for each that has steps to do.

Durable: a step counts as done once its output is in the database, and its failed attempts and wake-up times are there
too. After a crash every unfinished instance goes on with the first step without an output. A step that was running is
run again from its beginning, so steps should be idempotent: execution is at least once, as in the real engine.
"""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from server.providers.runtime.devengine import expressions, log
from server.providers.runtime.devengine.definitions import Gate, delay_of, gate_of, retry_of, timeout_of
from server.providers.runtime.devengine.handlers import Handlers, StepFailed
from server.providers.runtime.devengine.models import ACTIVE, Credential, Instance, JsonObject, Progress, State
from server.providers.runtime.devengine.sealing import SealBroken, Sealer
from server.providers.runtime.devengine.store import Store
from server.providers.runtime.devengine.templates import Scope, TemplateError

DEFAULT_SLEEP_S = 0.1
# What a signal is called that answers a step's wait_for_input, and what the progress of that wait is kept under.
INPUT = "human_input:"
ANSWERED, TIMED_OUT = 1, -1


class _InstanceFailed(Exception):
    """A step has failed for good."""

    def __init__(self, step_id: str, message: str) -> None:
        super().__init__(message)
        self.as_json: JsonObject = {"step_id": step_id, "message": message}


class Runner:
    """Brings instances from scheduled to an end."""

    def __init__(self, store: Store, sealer: Sealer, handlers: Handlers) -> None:
        self._store = store
        self._sealer = sealer
        self._handlers = handlers
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._signalled: dict[str, asyncio.Event] = {}

    def resume(self) -> None:
        """Goes on with what an earlier process left unfinished."""
        for instance_id in self._store.unfinished():
            self.start(instance_id)

    def start(self, instance_id: str) -> None:
        """Begins to execute an instance."""
        task = asyncio.create_task(self._drive(instance_id))
        self._tasks[instance_id] = task
        self._signalled[instance_id] = asyncio.Event()
        task.add_done_callback(lambda _: self._forget(instance_id))

    def _forget(self, instance_id: str) -> None:
        self._tasks.pop(instance_id, None)
        self._signalled.pop(instance_id, None)

    def signal(self, instance_id: str, name: str, payload: Any) -> None:
        """Hands a signal to the step that waits for it, or will."""
        self._store.add_signal(instance_id, name, payload)
        if signalled := self._signalled.get(instance_id):
            signalled.set()

    def cancel(self, instance_id: str) -> bool:
        """Ends an instance early. False when it has ended already."""
        if not self._store.move(instance_id, ACTIVE, State.CANCELLED):
            return False
        if task := self._tasks.get(instance_id):
            task.cancel()
        return True

    async def stop(self) -> None:
        """Leaves every instance where it is; a later process goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._handlers.close()

    async def _drive(self, instance_id: str) -> None:
        try:
            await self._execute(instance_id)
        except _InstanceFailed as failure:
            self._store.move(instance_id, ACTIVE, State.FAILED, failure.as_json)
        except Exception:  # noqa: BLE001 a fault in one instance must not end the others, and is logged with its trace
            log.LOGGER.exception("an instance has failed by a fault of the engine")
            error = {"step_id": None, "message": "internal engine error"}
            self._store.move(instance_id, ACTIVE, State.FAILED, error)

    async def _execute(self, instance_id: str) -> None:
        instance = self._store.instance(instance_id)
        if instance is None or instance.state not in ACTIVE:
            return
        sequence = self._store.sequence(instance.sequence_id)
        if sequence is None:
            raise _InstanceFailed("", "the sequence of this instance does not exist any more")
        await _sleep_until(instance.next_fire_at)
        self._store.move(instance_id, [State.SCHEDULED], State.RUNNING)
        outputs = {output.block_id: output.output for output in self._store.outputs(instance_id)}
        secrets, signalled = self._secrets_of(instance.tenant_id), self._signalled[instance_id]
        run = _Run(self._store, self._handlers, instance, outputs, secrets, signalled)
        for index, block in enumerate(sequence.blocks):
            if index > instance.current_step:
                self._store.reach(instance_id, index)
            await run.block(block)
        self._store.move(instance_id, [State.RUNNING], State.COMPLETED)

    def _secrets_of(self, tenant_id: str) -> Callable[[str, str | None], str]:
        def secret(credential_id: str, field: str | None) -> str:
            credential = self._store.credential(credential_id)
            if credential is None or credential.tenant_id not in (tenant_id, "") or not _is_usable(credential):
                raise TemplateError(f"credential '{credential_id}' is not available")
            try:
                value = self._sealer.open(credential.sealed_value, f"credential:{credential_id}")
            except SealBroken as error:
                raise TemplateError(f"credential '{credential_id}' cannot be opened") from error
            return value if field is None else _field_of(value, credential_id, field)

        return secret


class _Run:
    """One instance under way."""

    def __init__(
        self,
        store: Store,
        handlers: Handlers,
        instance: Instance,
        outputs: JsonObject,
        secret: Callable[[str, str | None], str],
        signalled: asyncio.Event,
    ) -> None:
        self._store = store
        self._handlers = handlers
        self._instance = instance
        self._outputs = outputs
        self._secret = secret
        self._signalled = signalled
        self._waiting = 0

    async def block(self, block: JsonObject) -> None:
        """Executes a block and all within it. Raises _InstanceFailed."""
        if block["type"] == "step":
            if block["id"] not in self._outputs:
                await self._step(block)
        elif block["type"] == "parallel":
            await self._parallel(block["branches"])
        elif block["type"] == "router":
            await self._router(block)
        else:
            await self._try_catch(block)

    async def _parallel(self, branches: list[list[JsonObject]]) -> None:
        # Every branch goes as far as it can; the first failure then fails the instance.
        results = await asyncio.gather(*map(self._branch, branches), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _branch(self, blocks: list[JsonObject]) -> None:
        for block in blocks:
            await self.block(block)

    async def _router(self, router: JsonObject) -> None:
        """Takes the first route whose condition holds. A restart keeps to the route that was taken."""
        ways = [*(route["blocks"] for route in router["routes"]), router.get("default") or []]
        taken = self._store.progress(self._instance.id, router["id"]).attempt - 1
        if taken < 0:
            conditions = (expressions.parse(route["condition"]) for route in router["routes"])
            held = (condition.holds(self._instance.context, self._outputs) for condition in conditions)
            taken = next((index for index, holds in enumerate(held) if holds), len(router["routes"]))
            self._store.set_progress(self._instance.id, router["id"], Progress(attempt=taken + 1))
        await self._branch(ways[taken])

    async def _try_catch(self, block: JsonObject) -> None:
        """Runs the catch block where the try block fails, which it finds out about in `context.data._error`."""
        has_failed = self._store.progress(self._instance.id, block["id"]).attempt > 0
        try:
            if not has_failed:
                await self._branch(block["try_block"])
        except _InstanceFailed as failure:
            has_failed = True
            error = {"failed_blocks": [failure.as_json["step_id"]], "source": "try_catch", "block_id": block["id"]}
            with self._store.transaction():
                self._set_data("_error", error)
                self._store.set_progress(self._instance.id, block["id"], Progress(attempt=1))
        failed_again: _InstanceFailed | None = None
        try:
            if has_failed:
                await self._branch(block["catch_block"])
        except _InstanceFailed as failure:
            failed_again = failure
        await self._branch(block.get("finally_block") or [])
        if failed_again is not None:
            raise failed_again

    async def _step(self, step: JsonObject) -> None:
        retry, block_id = retry_of(step), step["id"]
        if gate := gate_of(step):
            await self._input(block_id, gate)
        progress = self._store.progress(self._instance.id, block_id)
        if progress == Progress() and (delay := delay_of(step)):
            progress = Progress(wake_at=time.time() + delay)
            self._store.set_progress(self._instance.id, block_id, progress)
        if step["handler"] != "sleep":
            await _sleep_until(progress.wake_at)
        while True:
            try:
                output = await self._attempt(step, progress)
            except StepFailed as failure:
                failed = progress.attempt + 1
                if not failure.retryable or failed >= retry.max_attempts:
                    raise _InstanceFailed(block_id, failure.message) from failure
                progress = Progress(attempt=failed, wake_at=time.time() + retry.wait(failed))
                self._store.set_progress(self._instance.id, block_id, progress)
                await _sleep_until(progress.wake_at)
            else:
                self._store.finish_step(self._instance.id, block_id, output, progress.attempt)
                self._outputs[block_id] = output
                return

    async def _input(self, block_id: str, gate: Gate) -> None:
        """Waits until a signal brings one of the choices. What is no choice is dropped. Raises _InstanceFailed."""
        name = INPUT + block_id
        progress = self._store.progress(self._instance.id, name)
        if progress == Progress():
            progress = Progress(wake_at=None if gate.timeout_s is None else time.time() + gate.timeout_s)
            self._store.set_progress(self._instance.id, name, progress)
        if progress.attempt == 0:
            self._wait(1)
            progress = Progress(attempt=await self._outcome(name, block_id, gate, progress.wake_at))
            self._wait(-1)
        if progress.attempt == TIMED_OUT:
            raise _InstanceFailed(block_id, "the wait for input has timed out")

    async def _outcome(self, name: str, block_id: str, gate: Gate, until: float | None) -> int:
        while not self._answered(name, block_id, gate):
            left = 60.0 if until is None else until - time.time()
            if left <= 0:
                self._store.set_progress(self._instance.id, name, Progress(attempt=TIMED_OUT))
                return TIMED_OUT
            await self._signal(min(left, 60))
        return ANSWERED

    async def _signal(self, seconds: float) -> None:
        """Waits for the next signal, or so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._signalled.wait()
        except TimeoutError:
            return
        self._signalled.clear()

    def _answered(self, name: str, block_id: str, gate: Gate) -> bool:
        for serial, payload in self._store.signals(self._instance.id, name):
            value = payload.get("value") if isinstance(payload, dict) else None
            with self._store.transaction():
                self._store.take_signal(serial)
                if value in [choice["value"] for choice in gate.choices]:
                    self._set_data(gate.store_as or block_id, value)
                    self._store.set_progress(self._instance.id, name, Progress(attempt=ANSWERED))
                    return True
        return False

    def _wait(self, change: int) -> None:
        """Has the instance's state say whether any step waits for input."""
        self._waiting += change
        if self._waiting == 1 and change == 1:
            self._store.move(self._instance.id, [State.RUNNING], State.WAITING)
        elif self._waiting == 0:
            self._store.move(self._instance.id, [State.WAITING], State.RUNNING)

    def _set_data(self, key: str, value: Any) -> None:
        """Writes into the data that placeholders see. Data that is no object gives way to one, as in the engine."""
        data = self._instance.context["data"]
        self._instance.context["data"] = {**(data if isinstance(data, dict) else {}), key: value}
        self._store.set_context(self._instance.id, self._instance.context)

    async def _attempt(self, step: JsonObject, progress: Progress) -> Any:
        secret = self._secret if step["handler"] == "http_request" else None
        scope = Scope(context=self._instance.context, outputs=self._outputs, secret=secret)
        try:
            async with asyncio.timeout(timeout_of(step)):
                params = scope.fill(step.get("params") or {})
                if step["handler"] == "sleep":
                    return await self._sleep(step["id"], params, progress)
                return scope.scrub(await self._handlers.run(step["handler"], params))
        except TemplateError as error:
            raise StepFailed(str(error)) from error
        except TimeoutError as error:
            # A sleep has one wake-up time for all of its life, so another try of it would only wait the same wait.
            raise StepFailed("the step has timed out", retryable=step["handler"] != "sleep") from error
        except StepFailed as failure:
            raise StepFailed(scope.scrub(failure.message), retryable=failure.retryable) from failure

    async def _sleep(self, block_id: str, params: JsonObject, progress: Progress) -> JsonObject:
        seconds = _sleep_s(params)
        if progress.wake_at is None:
            progress = Progress(attempt=progress.attempt, wake_at=time.time() + seconds)
            self._store.set_progress(self._instance.id, block_id, progress)
        await _sleep_until(progress.wake_at)
        return {"slept_ms": round(seconds * 1000)}


async def _sleep_until(moment: float | None) -> None:
    """Waits for a moment on the wall clock, in slices, because the clock may be set meanwhile."""
    while moment is not None and (left := moment - time.time()) > 0:  # noqa: ASYNC110 what is awaited is the clock
        await asyncio.sleep(min(left, 60))


def _sleep_s(params: JsonObject) -> float:
    if params.get("duration_ms") is not None:
        value, scale = params["duration_ms"], 0.001
    else:
        value, scale = params.get("seconds", DEFAULT_SLEEP_S), 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**12:
        raise StepFailed("sleep needs duration_ms or seconds as a number")
    return float(value) * scale


def _is_usable(credential: Credential) -> bool:
    if not credential.enabled:
        return False
    return credential.expires_at is None or datetime.fromisoformat(credential.expires_at) > datetime.now(UTC)


def _field_of(value: str, credential_id: str, field: str) -> str:
    try:
        found = json.loads(value)[field]
    except (ValueError, KeyError, TypeError) as error:
        raise TemplateError(f"credential '{credential_id}' has no field '{field}'") from error
    return found if isinstance(found, str) else json.dumps(found)
