"""Stages: pipelines that are run once, and what each has left behind."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineState, create_runner

from trainer.config import UserError
from trainer.launch.amazon_reviews import places

#: Beam's direct runner inside this process. By the name DirectRunner, Beam looks for an executable
#: of another one on the web first.
RUNNER = "FnApiRunner"

#: In names of runners that are servers.
SERVERS = ("flink", "spark", "portable", "prism")

#: What a pipeline counted: counters, and the least value of distributions.
Counts = dict[str, int]


@dataclass(frozen=True)
class Stage:
    """A step's files in a folder, with a note of the settings that they are made by.

    Attributes:
        folder: of its files.
        settings: JSON-ready; a stage is up to date only by equal ones.
        people: what the stage does, for messages.
    """

    folder: str
    settings: dict[str, Any]
    people: str

    @property
    def note(self) -> str:
        """Path of the note."""
        return FileSystems.join(self.folder, "stage.json")

    def state(self) -> dict[str, Any] | None:
        """Return the note, None of a stage that was never begun."""
        try:
            return places.read_json(self.note)
        except ValueError:
            raise UserError(f"{self.note} is damaged: delete {self.folder}") from None

    def finished(self, now: float | None = None) -> Counts | None:
        """Return what was counted if the stage is finished and nothing in it is due.

        Args:
            now: seconds since 1970; default: the time it is.
        """
        state = self.state()
        if state is None or state["settings"] != self.settings or state["counts"] is None:
            return None
        now = time.time() if now is None else now
        return None if state["due"] is not None and state["due"] <= now else state["counts"]

    def refuse_others(self, folder: str) -> None:
        """Check that the stage was not begun with other settings.

        Args:
            folder: of the data set, for the message.

        Raises:
            UserError: it was.
        """
        state = self.state()
        if state is None or state["settings"] == self.settings:
            return
        names = [
            name for name in self.settings if state["settings"].get(name) != self.settings[name]
        ]
        raise UserError(
            f"{folder} holds work with other {' and '.join(names)} ({self.people}): choose another "
            "folder, or go on with the same"
        )

    def begin(self, *, clear: bool) -> None:
        """Note that the stage is being worked on.

        Args:
            clear: delete what is in its folder; otherwise that is gone on with.
        """
        if clear:
            places.clear(self.folder)
        places.write_json(self.note, {"settings": self.settings, "counts": None, "due": None})

    def finish(self, counts: Counts, due: int | None = None) -> Counts:
        """Note that the stage is finished, and return the counts.

        Args:
            counts: what was counted.
            due: seconds since 1970 at which failures may be tried again.
        """
        places.write_json(self.note, {"settings": self.settings, "counts": counts, "due": due})
        return counts

    def content(self, *patterns: str) -> str:
        """Return 16 hex digits that stand for the settings and the names of files."""
        names = [
            path[len(self.folder) :]
            for pattern in patterns
            for path in places.find(FileSystems.join(self.folder, pattern))
        ]
        text = json.dumps([self.settings, names], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_options(flags: Sequence[str]) -> None:
    """Check options of Beam before any work.

    Args:
        flags: as for :func:`run`.

    Raises:
        UserError: there is no such runner or option, a value is none of its option, or packages
            of the runner are not installed.
    """
    name, said = RUNNER, io.StringIO()
    parsers: list[argparse.ArgumentParser] = []
    try:
        with contextlib.redirect_stderr(said):
            name = PipelineOptions(list(flags)).view_as(StandardOptions).runner or RUNNER
            create_runner(name)
            # Beam itself passes over what it does not know; this is how to come by its parser.
            PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
            _, unknown = parsers[0].parse_known_args(list(flags))
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--runner {name}: {error}") from None
    except SystemExit as end:
        if not end.code:  # --help
            raise
        # Beam's parser says what is wrong behind the list of all options.
        words = said.getvalue().rpartition("error: ")[2].strip()
        raise UserError(f"Beam's options: {words}") from None
    # Servers of these have options of their own, which Beam asks them for.
    if unknown and not any(server in name.lower() for server in SERVERS):
        raise UserError(f"Beam has no option {unknown[0]}")


def run(flags: Sequence[str], build: Callable[[beam.Pipeline], object]) -> Counts:
    """Run a pipeline, and return its counters and the least values of its distributions.

    Args:
        flags: options of Beam; without a runner, :data:`RUNNER`.
        build: puts the transforms into the pipeline.

    Raises:
        UserError: the runner gives up.
        KeyboardInterrupt: Ctrl-C.
    """
    options = PipelineOptions(list(flags))
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or RUNNER
    pipeline = beam.Pipeline(options=options)
    build(pipeline)
    with _interrupts():
        result = pipeline.run()
        state = result.wait_until_finish()
    if state is not None and state != PipelineState.DONE:
        raise UserError(f"the runner {standard.runner} has ended as {state}: see its own log")
    found = result.metrics().query()
    counts: Counts = {}
    for metric in found["counters"]:
        counts[metric.key.metric.name] = counts.get(metric.key.metric.name, 0) + metric.result
    for metric in found["distributions"]:
        name, least = metric.key.metric.name, metric.result.min
        if metric.result.count:
            counts[name] = min(counts.get(name, least), least)
    return counts


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Let Ctrl-C be itself: inside the direct runner, it becomes an error of some transform."""

    def is_none(record: logging.LogRecord) -> bool:
        return "KeyboardInterrupt" not in record.getMessage()

    logger = logging.getLogger("apache_beam.runners.common")
    logger.addFilter(is_none)
    try:
        yield
    except RuntimeError as error:
        if str(error).startswith("KeyboardInterrupt"):
            raise KeyboardInterrupt from None
        raise
    finally:
        logger.removeFilter(is_none)
