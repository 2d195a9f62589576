"""What a person sees while a job trains: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.config.console import plain


class TrainingProgress:
    """Shows steps, images/s, remaining time and the latest numbers.

    Args:
        total_steps: steps of the whole job.
        start_step: steps that an earlier process has done.
        images_per_step: images that all replicas see in a step.
        console: where to write; default: standard output.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        images_per_step: int,
        console: Console | None = None,
    ) -> None:
        self.console = console or plain()
        self._images_per_step = images_per_step
        self._total = total_steps
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task(
            "", total=total_steps, completed=start_step, speed="", numbers=""
        )
        self._mark = (time.perf_counter(), start_step)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """One more step is done."""
        self._bar.advance(self._task)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time that the block takes (a validation, a checkpoint) out of images/s."""
        start = time.perf_counter()
        try:
            yield
        finally:
            then, step = self._mark
            self._mark = (then + time.perf_counter() - start, step)

    def images_per_second(self, step: int) -> float:
        """Return the images/s since the last call, and start the clock anew."""
        now = time.perf_counter()
        then, before = self._mark
        self._mark = (now, step)
        return (step - before) * self._images_per_step / max(now - then, 1e-9)

    def report(self, step: int, values: Mapping[str, float], line: bool = False) -> None:
        """Show `values`; `line` leaves a permanent line even where the bar is shown."""
        shown = {name: value for name, value in values.items() if name != "images_per_second"}
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        speed = values.get("images_per_second")
        if speed is not None:
            self._bar.update(self._task, speed=f"{speed:.0f} images/s")
        short = "  ".join(f"{n} {shown[n]:.4g}" for n in ("loss", "recall_at_1") if n in shown)
        self._bar.update(self._task, numbers=short)
        if line or not self.console.is_terminal:
            tail = f"  {speed:.0f} images/s" if speed is not None else ""
            self.console.print(f"step {step}/{self._total}  {numbers}{tail}", soft_wrap=True)
