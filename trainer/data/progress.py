"""A bar for work on files: on a terminal only, and gone when the work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from trainer.config.console import plain


@contextmanager
def bar(
    words: str, total: int | None, unit: Literal["files", "bytes"] = "files"
) -> Iterator[Callable[[int], None]]:
    """Show how far some work is, while the block runs; nothing where output is no terminal.

    Args:
        words: what is being done, such as `unpacking tops.zip`.
        total: amount of work in `unit`; None where it is not known.
        unit: what is counted: files, or bytes (shown as MB, with their rate).

    Yields:
        A function to call with the amount done since its last call, from any thread.
    """
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = plain()
    amount = (
        [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
    )
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        *amount,
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        task = progress.add_task(words, total=total)
        yield lambda done: progress.advance(task, done)
