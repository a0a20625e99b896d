"""Ctrl-C and SIGTERM cancel a run between two experts instead of tearing it apart.

Before a run, a Ctrl-C ends the command at once. It is also remembered, because some libraries swallow an interrupt
that reaches them while they are being imported: then the run ends before it begins.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_pipeline.interfaces import RunControl

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_swallowed: list[int] = []


@contextmanager
def remember_interrupts() -> Iterator[None]:
    """While inside, a Ctrl-C raises KeyboardInterrupt as usual and is noted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(signum: int, _frame: FrameType | None) -> None:
        _swallowed.append(signum)
        raise KeyboardInterrupt

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        if not (_swallowed and what.exc_type is KeyboardInterrupt):  # no traceback for what is remembered
            sys.__unraisablehook__(what)

    _swallowed.clear()
    before, hook = signal.signal(signal.SIGINT, handle), sys.unraisablehook
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook


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
        if _swallowed:
            raise KeyboardInterrupt
        yield seen
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
