"""Ctrl-C and SIGTERM cancel a run between two experts instead of tearing it apart."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_pipeline.interfaces import RunControl

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def cancel_on_signal(control: RunControl) -> Iterator[list[int]]:
    """While inside, the first signal cancels the run and is noted in the yielded list; a second one ends at once."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen  # only the main thread may set handlers
        return

    def handle(signum: int, _frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(signum)
        control.cancel()

    before = {signum: signal.signal(signum, handle) for signum in SIGNALS}
    try:
        yield seen
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
