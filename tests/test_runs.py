"""The run store: ids are checked, runs expire, writes are whole or absent."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_pipeline.atomic import write_text
from moe_pipeline.runs import RUN_ID, RunStore, cache_root, output_folder
from moe_pipeline.schema.errors import MoEverseError


def test_a_new_run_is_an_empty_private_folder_that_its_id_finds(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    assert not store.root.exists(), "making a store touches nothing"
    first, second = store.new_run(), store.new_run()
    assert first != second and first.parent == store.root
    assert list(first.iterdir()) == [] and first.stat().st_mode & 0o077 == 0
    assert store.folder(first.name) == first


@pytest.mark.parametrize(
    "run_id",
    ["", "..", "../../etc", "/etc/passwd", "0" * 15, "0" * 17, "G" * 16, "A" * 16, "0" * 16 + "\n", "0/" * 8],
)
def test_only_an_id_becomes_a_path(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(MoEverseError) as refused:
        RunStore(tmp_path).folder(run_id)
    assert refused.value.code == "bad_run_id"


@given(st.text(max_size=40))
def test_no_text_leads_out_of_the_store(text: str) -> None:
    root = Path("store-that-is-not-there")
    with pytest.raises(MoEverseError) as refused:
        RunStore(root).folder(text)
    assert refused.value.code == ("run_not_found" if RUN_ID.fullmatch(text) else "bad_run_id")


def test_a_link_is_no_run(tmp_path: Path) -> None:
    (tmp_path / ("a" * 16)).symlink_to("/")
    with pytest.raises(MoEverseError, match="no run"):
        RunStore(tmp_path).folder("a" * 16)


def test_old_runs_expire_and_nothing_else(tmp_path: Path) -> None:
    store = RunStore(tmp_path, keep_hours=1.0)
    old, touched, new = store.new_run(), store.new_run(), store.new_run()
    foreign, outside = tmp_path / "notes", tmp_path.parent / f"{tmp_path.name}-outside"
    foreign.mkdir()
    outside.mkdir()
    (tmp_path / ("b" * 16)).symlink_to(outside)
    (old / "clip.mp4").write_bytes(b"x")
    (touched / "clip.mp4").write_bytes(b"x")
    before = time.time() - 2 * 3600
    for path in (old / "clip.mp4", old, touched, foreign, outside):
        os.utime(path, (before, before))
    assert store.expire() == 1
    assert not old.exists() and touched.exists() and new.exists() and foreign.exists() and outside.exists()
    assert store.expire() == 0
    assert RunStore(tmp_path / "absent").expire() == 0


def test_keep_hours_must_be_positive() -> None:
    for hours in (0.0, -1.0, float("nan")):
        with pytest.raises(MoEverseError, match="keep_hours"):
            RunStore(keep_hours=hours)


def test_the_default_root_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root().name == "moeverse"
    assert RunStore().root == cache_root() / "runs"
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(MoEverseError, match="no space left") as refused:
        write_text(path, "new")
    assert refused.value.code == "unwritable"
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_results_appear_all_together_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with pytest.raises(RuntimeError), output_folder(target) as draft:
        (draft / "clip.mp4").write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with output_folder(target) as draft:
        (draft / "clip.mp4").write_bytes(b"one")
        assert not (target / "clip.mp4").exists()
    assert [path.name for path in target.iterdir()] == ["clip.mp4"]
    with pytest.raises(KeyboardInterrupt), output_folder(target) as draft:
        (draft / "clip.mp4").write_bytes(b"two")
        raise KeyboardInterrupt
    assert (target / "clip.mp4").read_bytes() == b"one", "what was there before stays"
    assert [path.name for path in target.iterdir()] == ["clip.mp4"]
    with output_folder(target) as draft:
        (draft / "clip.mp4").write_bytes(b"two")
    assert (target / "clip.mp4").read_bytes() == b"two"


def test_an_output_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / ("n" * 300)):
        with pytest.raises(MoEverseError) as refused, output_folder(path):
            pytest.fail("the block must not run")
        assert refused.value.code == "unwritable"
