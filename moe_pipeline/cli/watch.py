"""Follows the event stream of a run and shows it on standard error.

On a terminal: a bar with step i of n, time left and the gate's weights. Elsewhere: a few plain lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, assert_never

from moe_pipeline import interfaces as ev
from moe_pipeline.cli.border import Interrupted, printable
from moe_pipeline.cli.interrupts import cancel_on_signal
from moe_pipeline.schema.errors import MoEverseError

LINES_PER_RUN = 4  # how many of the steps a plain log mentions


def weights_text(weights: Mapping[str, float]) -> str:
    """Active experts, heaviest first: `city 0.61, avatar 0.39`."""
    active = sorted(((w, name) for name, w in weights.items() if w > 0), key=lambda pair: (-pair[0], pair[1]))
    return ", ".join(f"{name} {weight:.2f}" for weight, name in active)


def duration_text(ms: float) -> str:
    """A measured time for people: 85 ms, 2.4 s, 3 min 20 s."""
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    return f"{int(ms // 60_000)} min {int(ms % 60_000 // 1000)} s"


class Watcher:
    """Shows events as they come. Use as a context manager, so that the terminal is whole again afterwards.

    Args:
        console: a rich console on standard error; made when None.
        labels: whether each line names the run it belongs to (`moe`, `single`).
    """

    def __init__(self, console: Any = None, labels: bool = False) -> None:
        from rich.console import Console

        self.console = console if console is not None else Console(stderr=True, highlight=False)
        self.labels = labels
        self._bar: Any = None
        self._task: Any = None
        if self.console.is_terminal:
            self._bar = _bar(self.console)

    def __enter__(self) -> Watcher:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One line, above the bar when there is one; prompts and names are shown without markup."""
        self.console.print(printable(text), markup=False, soft_wrap=True)

    def show(self, event: ev.Event, label: str = "") -> None:
        """Show one event."""
        head = f"{label}: " if self.labels and label else ""
        match event:
            case ev.Accepted(request=request):
                self._begin(head or "denoising", request.steps)
            case ev.Planned(plan=plan):
                self.say(head + "plan: " + "; ".join(f"{part.role} '{part.text}'" for part in plan.subtasks))
            case ev.Gated(gate=gate):
                self.say(f"{head}gate: {weights_text(gate.weights)} (coverage {gate.coverage:.2f})")
            case ev.Placed(placement=placement):
                self.say(f"{head}placement (estimated): {placement_text(placement)}")
            case ev.Replanned(placement=placement, reason=reason):
                self.say(f"{head}{reason}; placement is now (estimated): {placement_text(placement)}")
            case ev.RunWarning(message=message):
                self.say(f"{head}note: {message}")
            case ev.Step():
                self._step(event, head)
            case ev.Decoded(decode_ms=ms):
                self.say(f"{head}decoded {len(event.frames)} frames in {duration_text(ms)}")
            case ev.Measured():
                pass  # the summary shows the figures
            case ev.Exported(export_ms=ms):
                self.say(f"{head}encoded the file in {duration_text(ms)}")
            case ev.Finished(clip=clip):
                self.say(f"{head}finished in {duration_text(clip.record.timing.total_ms)}")
            case ev.Failed() | ev.Cancelled():
                pass  # `follow` turns them into an exit code
            case _:
                assert_never(event)

    def _begin(self, title: str, steps: int) -> None:
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(title.rstrip(": "), total=steps, left="", weights="")

    def _step(self, event: ev.Step, head: str) -> None:
        done, left = event.index + 1, duration_text(event.remaining_ms)
        if self._bar is not None:
            self._bar.update(
                self._task, completed=done, left=f"{left} left", weights=weights_text(event.weights)
            )
            return
        every = max(1, event.total // LINES_PER_RUN)
        if done % every == 0 or done == event.total:
            self.say(f"{head}step {done} of {event.total}, {left} left, {weights_text(event.weights)}")


def placement_text(placement: Any) -> str:
    """Who runs what, and the estimated total."""
    where = ", ".join(f"{a.expert} on {a.device_title}" for a in placement.assignments)
    return f"{where}; {duration_text(placement.totals.latency.total)}"


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("step {task.completed:.0f} of {task.total:.0f}"),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[weights]}", style="dim"),
        console=console,
        transient=True,
    )


def follow(
    events: Iterable[tuple[str, ev.Event]], control: ev.RunControl, watcher: Watcher
) -> dict[str, ev.Clip]:
    """Drain labelled events and return the finished clips by label.

    Raises:
        MoEverseError: a run failed.
        Interrupted: a signal cancelled it.
    """
    clips: dict[str, ev.Clip] = {}
    with cancel_on_signal(control) as signals, watcher:
        for label, event in events:
            watcher.show(event, label)
            match event:
                case ev.Finished(clip=clip):
                    clips[label] = clip
                case ev.Failed(code=code, message=message):
                    raise MoEverseError(code, message)
                case ev.Cancelled(after_steps=steps):
                    if signals:
                        raise Interrupted(signals[0])
                    raise MoEverseError("cancelled", f"The run was cancelled after {steps} steps.")
                case _:
                    continue
    return clips
