"""Checkpoints between the regular ones of a training loop: as time passes, and when the process is asked to end."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 600.0  # between checkpoints: the most that a killed run computes again
SIGNALS = (signal.SIGTERM, signal.SIGINT)  # a cluster's time limit or `kill`, and Ctrl-C


class Pauses:
    """Tells a loop after each step whether to write a checkpoint, and whether to end then."""

    def __init__(self) -> None:
        self.is_ending = self._is_at_once = False
        self._number: int = signal.SIGINT
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint is to be written after this step."""
        return self.is_ending or time.monotonic() - self._last >= CHECKPOINT_SECONDS

    def saved(self) -> None:
        """Call after a checkpoint was written. KeyboardInterrupt with the signal's number if the process is to end."""
        self._last = time.monotonic()
        if self.is_ending:
            raise KeyboardInterrupt(self._number)

    @contextmanager
    def watching(self) -> Iterator["Pauses"]:
        """Within it, SIGTERM and Ctrl-C end the loop after its next checkpoint; a second one ends it at once.

        Signals that the process ignores stay ignored. Without effect in other threads than the main one, in which
        Python allows no handlers.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._end) for number in heard}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, a signal ends the process at once: nothing would be lost."""
        if self.is_ending:
            raise KeyboardInterrupt(self._number)
        self._is_at_once = True
        try:
            yield
        finally:
            self._is_at_once = False

    def _end(self, number: int, _frame: FrameType | None) -> None:
        if self.is_ending or self._is_at_once:
            raise KeyboardInterrupt(number)
        self.is_ending, self._number = True, number
        log.warning("%s: writing a checkpoint, then ending", signal.Signals(number).name)
