"""Where the files of runs live: a store of expiring folders, and output folders that fill all at once.

A run id is the only thing that a request may say about the file system, and it is matched against a pattern
before a path is made of it. Nothing is created by importing this module or by making a `RunStore`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moe_pipeline.atomic import unwritable
from moe_pipeline.schema.errors import MoEverseError

RUN_ID = re.compile(r"[0-9a-f]{16}")


def cache_root() -> Path:
    """This user's cache folder for MoEverse; created by whoever writes there first."""
    import platformdirs

    return Path(platformdirs.user_cache_path("moeverse", appauthor=False))


class RunStore:
    """Folders of runs under one root, each with a random id, removed some hours after their last change.

    Args:
        root: the folder that holds them; None is `runs` in the user's cache folder.
        keep_hours: age from which `expire` removes a run.
    """

    def __init__(self, root: Path | None = None, keep_hours: float = 6.0) -> None:
        if not keep_hours > 0:
            raise MoEverseError(
                "bad_keep_hours", f"keep_hours must be above 0, got {keep_hours:g}.", "Keep runs for 6 hours."
            )
        self.root = cache_root() / "runs" if root is None else Path(root)
        self.keep_hours = keep_hours

    def prepare(self) -> None:
        """Make the root.

        Raises:
            MoEverseError: `unwritable`.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.root, error) from error

    def new_run(self) -> Path:
        """A fresh empty folder whose name is a random id of 16 hexadecimal digits, readable by this user alone."""
        self.prepare()
        try:
            while True:
                folder = self.root / secrets.token_hex(8)
                with suppress(FileExistsError):
                    folder.mkdir(mode=0o700)
                    return folder
        except OSError as error:
            raise unwritable(self.root, error) from error

    def folder(self, run_id: str) -> Path:
        """The folder of a run.

        Raises:
            MoEverseError: `bad_run_id` when it is not an id at all, `run_not_found` when it expired or never was.
        """
        if not isinstance(run_id, str) or RUN_ID.fullmatch(run_id) is None:
            raise MoEverseError(
                "bad_run_id", "A run id is 16 hexadecimal digits.", "Use the id that a run returned."
            )
        folder = self.root / run_id
        if folder.is_symlink() or not folder.is_dir():
            raise MoEverseError(
                "run_not_found",
                f"There is no run {run_id}.",
                f"Runs are removed after {self.keep_hours:g} hours; make the clip again.",
            )
        return folder

    def expire(self) -> int:
        """Remove the runs that nothing has touched for `keep_hours`; returns how many. Other files stay."""
        if not self.root.is_dir():
            return 0
        limit, removed = time.time() - self.keep_hours * 3600, 0
        for folder in sorted(self.root.iterdir()):
            if RUN_ID.fullmatch(folder.name) is None or folder.is_symlink() or not folder.is_dir():
                continue
            if _last_change(folder) < limit:
                shutil.rmtree(folder, ignore_errors=True)  # another process may expire the same run
                removed += not folder.exists()
        return removed


def _last_change(folder: Path) -> float:
    """Newest modification time of a folder and of what is in it; now, when it vanishes while being read."""
    try:
        return max(entry.stat().st_mtime for entry in (folder, *folder.iterdir()))
    except OSError:
        return time.time()


@contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """Results for a folder that the caller named appear there all together, or not at all.

    Yields a hidden folder inside `path`, proven writable before the work starts. When the block ends, its files move
    up into `path`, replacing those of an earlier run. When it raises, they vanish, and so do the folders that were
    made here: a refused, failed or cancelled run leaves what was there before.

    Raises:
        MoEverseError: `unwritable`.
    """
    made = _missing_parents(path)
    draft = path / f".draft-{secrets.token_hex(4)}"
    try:
        try:
            draft.mkdir(parents=True)
            # Rights alone do not tell (read-only mounts, full disks): write something.
            with tempfile.TemporaryFile(dir=draft) as probe:
                probe.write(b"\0")
        except OSError as error:
            raise unwritable(path, error) from error
        yield draft
        try:
            for result in sorted(draft.iterdir()):
                os.replace(result, path / result.name)
            draft.rmdir()
        except OSError as error:
            raise unwritable(path, error) from error
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _missing_parents(path: Path) -> list[Path]:
    """`path` and its ancestors that do not exist yet, deepest first."""
    missing = []
    for folder in (path, *path.parents):
        try:
            if folder.exists():
                break
        except OSError:  # a name too long, or a folder that may not be entered: mkdir says so in words
            break
        missing.append(folder)
    return missing
