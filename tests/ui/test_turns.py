"""Turns and feeds: first come first served, one run at a time, stopping at once, nothing swallowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from moe_pipeline.interfaces import RunControl
from moe_pipeline.schema.errors import MoEverseError
from moe_pipeline.ui.turns import UNEXPECTED, Refused, RunFeed, Turns, Waiting


def counted(log: list[str], name: str, items: int, seconds: float = 0.02) -> Iterator[int]:
    log.append(f"{name} in")
    for item in range(items):
        time.sleep(seconds)
        yield item
    log.append(f"{name} out")


def drain(feed: RunFeed[int]) -> list[object]:
    return [item for batch in feed.batches(0.03) for item in batch]


def test_a_feed_gives_every_item_in_order() -> None:
    log: list[str] = []
    feed = RunFeed(lambda: counted(log, "a", 7), Turns(), RunControl())
    assert [item for item in drain(feed) if not isinstance(item, Waiting)] == list(range(7))


def test_batches_are_no_more_frequent_than_the_period() -> None:
    log: list[str] = []
    feed = RunFeed(lambda: counted(log, "a", 40, 0.005), Turns(), RunControl())
    began = time.monotonic()
    batches = [batch for batch in feed.batches(0.1) if not isinstance(batch[0], Waiting)]
    assert sum(map(len, batches)) == 40
    # The last batch closes early. Sleeps are slow on a busy machine, and so are the batches then.
    assert len(batches) <= (time.monotonic() - began) / 0.1 + 2


def test_runs_never_overlap_and_the_second_hears_that_it_waits() -> None:
    turns, log = Turns(), []
    first = RunFeed(lambda: counted(log, "a", 8, 0.03), turns, RunControl())
    second = RunFeed(lambda: counted(log, "b", 2), turns, RunControl())
    results: dict[str, list[object]] = {}
    one = threading.Thread(target=lambda: results.update(a=drain(first)))
    one.start()
    while not log:
        time.sleep(0.005)
    results["b"] = drain(second)
    one.join()
    assert log == ["a in", "a out", "b in", "b out"]
    assert Waiting(1) in results["b"]


def test_who_asks_first_stands_first_however_slowly_threads_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, log = Turns(), []
    feeds = [RunFeed(lambda name=name: counted(log, name, 1), turns, RunControl()) for name in "abc"]
    late: list[threading.Thread] = []
    with turns.turn("holder", RunControl()):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda thread: late.append(thread))
            readers = [feed.batches(0.03) for feed in feeds]
            assert [next(reader) for reader in readers] == [[Waiting(1)], [Waiting(2)], [Waiting(3)]]
        for thread in reversed(late):
            thread.start()
    for reader in readers:
        assert [item for batch in reader for item in batch if not isinstance(item, Waiting)] == [0]
    assert log == ["a in", "a out", "b in", "b out", "c in", "c out"]


def test_a_run_that_gets_no_thread_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    turns = Turns()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="new thread"):
            drain(RunFeed(lambda: iter([1]), turns, RunControl()))
    assert 2 in drain(RunFeed(lambda: iter([2]), turns, RunControl()))


def test_cancel_ends_the_feed_at_once_but_the_turn_only_when_the_work_has_ended() -> None:
    turns, release = Turns(), threading.Event()
    control, log = RunControl(), []

    def stubborn() -> Iterator[int]:
        yield 0
        release.wait(5)  # one long denoising step
        log.append("step ended")
        yield 1

    feed = RunFeed(stubborn, turns, control)
    batches = feed.batches(0.03)
    while 0 not in next(batches):
        pass
    control.cancel()
    began = time.monotonic()
    assert list(batches) == []
    assert time.monotonic() - began < 1 and log == []
    after = RunFeed(lambda: iter([5]), turns, RunControl())
    reader = after.batches(0.03)
    assert next(reader) == [Waiting(1)]
    release.set()
    assert [item for batch in reader for item in batch if not isinstance(item, Waiting)] == [5]
    assert log == ["step ended"]


def test_a_closed_page_cancels_the_run() -> None:
    control, log = RunControl(), []
    feed = RunFeed(lambda: counted(log, "a", 100), Turns(), control)
    batches = feed.batches(0.03)
    next(batches)
    batches.close()
    assert control.cancelled


def test_cancelling_while_waiting_leaves_the_line() -> None:
    turns, control = Turns(), RunControl()
    with turns.turn("holder", RunControl()):
        feed = RunFeed(lambda: iter([1]), turns, control)
        batches = feed.batches(0.03)
        assert next(batches) == [Waiting(1)]
        control.cancel()
        assert list(batches) == []
    deadline = time.monotonic() + 2
    while turns.ahead("other") == 0 and turns._line and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not turns._line


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MoEverseError("bad", "It is bad.", "Mend it."), "It is bad. Mend it."),
        (ValueError("secret"), UNEXPECTED),
    ],
)
def test_an_error_becomes_one_sentence_and_frees_the_turn(error: Exception, sentence: str) -> None:
    turns = Turns()

    def broken() -> Iterator[int]:
        yield 1
        raise error

    items = [item for item in drain(RunFeed(broken, turns, RunControl())) if not isinstance(item, Waiting)]
    assert items == [1, Refused(sentence)]
    assert [
        i for i in drain(RunFeed(lambda: iter([2]), turns, RunControl())) if not isinstance(i, Waiting)
    ] == [2]
