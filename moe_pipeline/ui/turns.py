"""First come, first served access to the model, and runs that hold it exactly as long as they work.

A run works in a thread of its own that takes its turn, drains the event stream and gives the turn back. The
handler of the page only reads what that thread has put down: no lock is held across a yield, a page that closes
or stops never waits for a denoising step, and the next run never starts before the last step has really ended.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from moe_pipeline.interfaces import RunControl
from moe_pipeline.schema.errors import MoEverseError

Item = TypeVar("Item")
log = logging.getLogger(__name__)

UNEXPECTED = "Something went wrong inside MoEverse; the log of the server says what. Your settings are kept: try again."


class Turns:
    """A fair lock: whoever asked first is served first, and may see how many stand before."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()

    def join(self, ticket: object) -> None:
        """Take the last place in the line; a ticket that stands in it keeps its place."""
        with self._changed:
            if ticket not in self._line:
                self._line.append(ticket)

    def leave(self, ticket: object) -> None:
        """Give the place in the line up."""
        with self._changed:
            self._line.remove(ticket)
            self._changed.notify_all()

    @contextmanager
    def turn(self, ticket: object, control: RunControl) -> Iterator[bool]:
        """Join the line and wait for the turn; False when `control` was cancelled while waiting."""
        self.join(ticket)
        try:
            with self._changed:
                while self._line[0] is not ticket and not control.cancelled:
                    self._changed.wait(timeout=0.05)
            yield not control.cancelled
        finally:
            self.leave(ticket)

    def ahead(self, ticket: object) -> int:
        """How many runs come before this one; 0 when it runs or is not in line."""
        with self._changed:
            return self._line.index(ticket) if ticket in self._line else 0


@dataclass(frozen=True)
class Waiting:
    """The run has not begun: `ahead` others come first."""

    ahead: int


@dataclass(frozen=True)
class Refused:
    """The run ended with a sentence instead of a terminal event."""

    sentence: str


class RunFeed(Generic[Item]):
    """One run in a thread; read it with `batches`."""

    def __init__(self, start: Callable[[], Iterator[Item]], turns: Turns, control: RunControl) -> None:
        self._start = start
        self._turns = turns
        self._control = control
        self._ticket = object()
        self._items: queue.SimpleQueue[Item | Refused | None] = queue.SimpleQueue()
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._work, name="moeverse-run", daemon=True)

    def _work(self) -> None:
        try:
            with self._turns.turn(self._ticket, self._control) as mine:
                if mine:
                    self._began.set()
                    for item in self._start():
                        self._items.put(item)
        except MoEverseError as error:
            self._items.put(Refused(error.sentence()))
        except Exception:
            log.exception("a run failed")
            self._items.put(Refused(UNEXPECTED))
        finally:
            self._items.put(None)

    def batches(self, period_s: float = 0.1) -> Iterator[list[Item | Waiting | Refused]]:
        """All that happened since the last batch, at most once a period; ends with the run or when it is cancelled.

        A run that still waits gives `Waiting`. Closing this iterator cancels the run.
        """
        # Here, not in the thread, which may be slow to begin: who asked first stands first.
        self._turns.join(self._ticket)
        try:
            self._thread.start()
        except BaseException:  # no thread to be had: a ticket without one would hold up the line for ever
            self._turns.leave(self._ticket)
            raise
        try:
            while not self._control.cancelled:
                batch, ended = self._collect(period_s)
                if batch:
                    yield batch
                elif not ended and not self._began.is_set():
                    yield [Waiting(self._turns.ahead(self._ticket))]
                if ended:
                    return
        finally:
            self._control.cancel()

    def _collect(self, period_s: float) -> tuple[list[Item | Waiting | Refused], bool]:
        """What arrives within a period; the first item opens it, and the end closes it early."""
        batch: list[Item | Waiting | Refused] = []
        until = time.monotonic() + period_s
        while (left := until - time.monotonic()) > 0:
            try:
                item = self._items.get(timeout=min(left, 0.05))
            except queue.Empty:
                if self._control.cancelled:
                    break
                continue
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False
