"""What belongs to one open page: its running controls, its view and its edge conditions.

A page's state cannot live in `gr.State`: a stop or a killed device must reach a run that is still going, while
Gradio copies state values between events. So each page has a desk here, found by its session hash; no handler ever
looks at another page's desk.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from moe_pipeline.interfaces import RunControl
from moe_pipeline.schema.request import SceneRequest
from moe_pipeline.ui.comparison import empty_comparison
from moe_pipeline.ui.panel import View
from moe_pipeline.ui.view_state import RunView

MOST_DESKS = 500


@dataclass
class Desk:
    """One page."""

    view: RunView
    comparison: View = field(default_factory=empty_comparison)
    run: RunControl | None = None
    compare: RunControl | None = None
    killed: frozenset[str] = frozenset()
    bandwidth_scale: float = 1.0
    scenario: str | None = None  # whose devices `killed` names
    request: SceneRequest | None = None  # of the newest draft or run: what the edge is planned for

    @property
    def busy(self) -> bool:
        """A clip is being made, or waits to be."""
        return self.run is not None

    def enter(self, scenario: str) -> None:
        """From here on the page is about this scenario: a change of it brings devices of its own, all working."""
        if self.scenario not in (None, scenario):
            self.killed = frozenset()
        self.scenario = scenario

    def leave(self) -> None:
        """Stop everything this page started."""
        for control in (self.run, self.compare):
            if control is not None:
                control.cancel()


class Desks:
    """Desks by session hash; safe from any thread."""

    def __init__(self, fresh: RunView) -> None:
        self._fresh = fresh
        self._desks: dict[str, Desk] = {}
        self._lock = threading.Lock()

    def of(self, session: str | None) -> Desk:
        """The desk of a page, made when it is asked for first; a caller without a session gets one of its own."""
        if session is None:
            return Desk(view=self._fresh)
        with self._lock:
            desk = self._desks.pop(session, None) or Desk(view=self._fresh)
            self._desks[session] = desk  # newest last
            while len(self._desks) > MOST_DESKS:
                oldest = next(iter(self._desks))
                self._desks.pop(oldest).leave()
            return desk

    def close(self, session: str | None) -> None:
        """The page is gone, or a phone that was locked lost its connection: what runs stops, the desk stays.

        A page that lives on comes back under the same session, and its clips are still there; desks that nobody comes
        back to go when newer ones need their place.
        """
        with self._lock:
            desk = self._desks.get(session or "")
        if desk is not None:
            desk.leave()

    def __len__(self) -> int:
        with self._lock:
            return len(self._desks)
