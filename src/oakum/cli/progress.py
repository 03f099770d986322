# SPDX-License-Identifier: Apache-2.0
"""How a pull or push goes, shown: bars on a terminal, lines in a log, nothing with --quiet. All on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from oakum.cli.report import say
from oakum.cli.text import human_size, printable, short_id

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from oakum.backend.config import AuthConfig
    from oakum.engine.namespace import Namespace

_FINAL: Final = ("done", "exists")
_LINE_EVERY_S: Final = 5.0


class Quiet:
    """Shows nothing."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *_exc: object) -> None:
        return

    def __call__(self, digest: str, stage: str, done_bytes: int, total_bytes: int) -> None:
        """Nothing is shown."""


class Lines:
    """One line when a blob changes its stage, and now and then one with the total: for logs."""

    def __init__(self, what: str, write: Callable[[str], None] = say) -> None:
        self._what = what
        self._write = write
        self._lock = threading.Lock()
        self._blobs: dict[str, tuple[str, int, int]] = {}
        self._began = self._last = time.monotonic()

    def __enter__(self) -> Lines:
        self._write(self._what)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        if kind is None and self._blobs:
            total = sum(total for _, _, total in self._blobs.values())
            took = time.monotonic() - self._began
            self._write(f"  {len(self._blobs)} blobs, {human_size(total)} in {took:.1f} s")

    def __call__(self, digest: str, stage: str, done_bytes: int, total_bytes: int) -> None:
        """Note it, and write what is new."""
        with self._lock:
            before = self._blobs.get(digest)
            self._blobs[digest] = (stage, done_bytes, total_bytes)
            now = time.monotonic()
            if (before is None or before[0] != stage) and stage != "waiting":
                size = f" {human_size(total_bytes)}" if total_bytes else ""
                self._write(f"  {short_id(digest)}: {printable(stage)}{size}")
            elif stage == "downloading" and now - self._last >= _LINE_EVERY_S:
                done = sum(done for _, done, _ in self._blobs.values())
                total = sum(total for _, _, total in self._blobs.values())
                self._write(f"  {human_size(done)} of {human_size(total)}")
            else:
                return
            self._last = now


class Bars:
    """One bar a blob and one for all of it: for terminals."""

    def __init__(self, what: str) -> None:
        from rich.console import Console  # only who sees it pays for it
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TransferSpeedColumn,
        )

        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._sizes: dict[str, tuple[str, int, int]] = {}
        self._what = what
        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[stage]:<11}", style="dim", markup=False),
            BarColumn(bar_width=28),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True, highlight=False),
            refresh_per_second=12,
        )
        self._total: TaskID | None = None

    def __enter__(self) -> Bars:
        self._progress.start()
        self._progress.console.print(self._what, markup=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        with self._lock:
            if kind is None:
                for digest, task in self._tasks.items():
                    stage, _, total = self._sizes[digest]
                    self._sizes[digest] = (stage if stage in _FINAL else "done", total, total)
                    self._progress.update(task, completed=total, stage=self._sizes[digest][0])
                self._update_total()
            elif self._total is not None:
                self._progress.update(self._total, stage="stopped")
            self._progress.stop()

    def __call__(self, digest: str, stage: str, done_bytes: int, total_bytes: int) -> None:
        """Move the blob's bar and that of all."""
        with self._lock:
            known = self._sizes.get(digest, ("", 0, 0))
            total = total_bytes or known[2]
            done = total if stage in _FINAL else done_bytes
            self._sizes[digest] = (stage, done, total)
            task = self._tasks.get(digest)
            if task is None:
                if self._total is not None:
                    # the sum stands below all blobs
                    self._progress.remove_task(self._total)
                    self._total = None
                task = self._tasks[digest] = self._progress.add_task(
                    short_id(digest), total=total or None, stage=stage
                )
            self._progress.update(task, completed=done, total=total or None, stage=stage)
            self._update_total()

    def _update_total(self) -> None:
        if len(self._sizes) < 2:
            return
        if self._total is None:
            self._total = self._progress.add_task("all", stage="")
        finished = sum(stage in _FINAL for stage, _, _ in self._sizes.values())
        self._progress.update(
            self._total,
            completed=sum(done for _, done, _ in self._sizes.values()),
            total=sum(total for _, _, total in self._sizes.values()) or None,
            stage=f"{finished}/{len(self._sizes)}",
        )


View = Quiet | Lines | Bars


def view_for(what: str, *, quiet: bool) -> View:
    """The view that fits standard error."""
    if quiet:
        return Quiet()
    return Bars(printable(what)) if sys.stderr.isatty() else Lines(printable(what))


def pull_with_progress(
    namespace: Namespace,
    image: str,
    *,
    quiet: bool,
    cancelled: Callable[[], bool],
    auth: AuthConfig | None = None,
) -> str:
    """Pull `image` and show how it goes; its id. Without `auth`, with what docker's configuration has for its registry.

    Raises:
        Cancelled: `cancelled` said so.
    """
    from oakum.cli.credentials import configured_credentials  # loads the helpers of docker's configuration

    auth = auth or configured_credentials(image)
    with view_for(f"pulling {image}", quiet=quiet) as view:
        return namespace.pull_image(image, progress=view, cancelled=cancelled, auth=auth)
