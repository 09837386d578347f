"""What ends a request early: the caller hangs up, nothing moves for too long, or what let it in is over."""

import asyncio
from collections.abc import AsyncIterator, Callable

from rest_bridge.proxy import refusals
from rest_bridge.proxy.asgi import CallerGone, Receive
from rest_bridge.proxy.refusals import Refusal


class Silence:
    """Calls `on_silence` once when `touch` was not called for some seconds. Costs a request one timer."""

    def __init__(self, seconds: float, on_silence: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._on_silence = on_silence
        self._last = self._loop.time()
        self._timer = self._loop.call_later(seconds, self._check)

    def touch(self) -> None:
        """Something moved."""
        self._last = self._loop.time()

    def close(self) -> None:
        """No more is to be watched."""
        self._timer.cancel()

    def _check(self) -> None:
        left = self._last + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self._on_silence()


class Ends:
    """Cancels the task that carries a request when it must end, and remembers why in `problem` or `caller_gone`."""

    def __init__(self, *, idle: float) -> None:
        self.caller_gone = False
        self.problem: Refusal | None = None
        self.silence = Silence(idle, self._went_idle)
        self._task = asyncio.current_task()
        self._watch: asyncio.Task[None] | None = None
        self._body_read = asyncio.Event()
        self._closed = False

    async def body(self, receive: Receive) -> AsyncIterator[bytes]:
        """The body of the request, as it comes."""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self._hung_up()
                raise CallerGone
            self.silence.touch()
            if chunk := message.get("body", b""):
                yield chunk
            if not message.get("more_body", False):
                self._body_read.set()
                return

    def watch_caller(self, receive: Receive, *, has_body: bool) -> None:
        """Watches for the caller to hang up, once the body, if there is one, was read by `body`."""
        if not has_body:
            self._body_read.set()
        self._watch = asyncio.create_task(self._await_disconnect(receive))

    def cut(self, problem: Refusal) -> None:
        """What let the request in is over."""
        self.problem = self.problem or problem
        self._cancel()

    def absorb(self) -> bool:
        """Whether a cancellation was ours; then it is over and done with."""
        task = asyncio.current_task()
        if task is None or not (self.caller_gone or self.problem):
            return False
        task.uncancel()
        return True

    def close(self) -> None:
        """The request is over."""
        self._closed = True
        self.silence.close()
        if self._watch is not None:
            self._watch.cancel()

    async def _await_disconnect(self, receive: Receive) -> None:
        await self._body_read.wait()
        while (await receive())["type"] != "http.disconnect":
            pass
        self._hung_up()

    def _hung_up(self) -> None:
        self.caller_gone = True
        self._cancel()

    def _went_idle(self) -> None:
        self.cut(refusals.too_slow())

    def _cancel(self) -> None:
        if self._task is not None and not self._closed:
            self._task.cancel()
