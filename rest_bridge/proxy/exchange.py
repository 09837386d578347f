"""What ends a request early: the caller hangs up, or nothing moves for too long."""

import asyncio
from collections.abc import AsyncIterator, Callable

from rest_bridge.proxy.asgi import CallerGone, Receive


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
    """Cancels the task that carries a request when the caller hangs up or nothing moves, and remembers why."""

    def __init__(self, *, idle: float) -> None:
        self.caller_gone = False
        self.idle = False
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
        self.idle = True
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None and not self._closed:
            self._task.cancel()
