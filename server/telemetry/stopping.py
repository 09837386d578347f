"""The end of a process: it is told, it says so to whoever probes it, and only then it stops taking work."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """SIGTERM or SIGINT makes the process not ready, and `delay` seconds later it stops. A second one ends the wait.

    Load balancers look every few seconds: without the delay they go on sending to a process that is gone.
    """

    def __init__(self, delay: float = 0) -> None:
        self.told = asyncio.Event()
        self.now = asyncio.Event()
        self._delay = delay

    def ask(self) -> None:
        """What a signal does."""
        if self.told.is_set() or not self._delay:
            self.now.set()
        else:
            asyncio.get_running_loop().call_later(self._delay, self.now.set)
        self.told.set()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Takes over the signals of this program, for as long as the context lasts."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.ask)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
