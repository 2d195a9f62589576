"""A pipeline of Apache Beam: its options checked, run to its end, and what it counted."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineState, create_runner

from trainer.config import UserError

#: Beam's direct runner inside this process. By the name DirectRunner, Beam looks for an executable
#: of another one on the web first.
RUNNER = "FnApiRunner"

#: In names of runners that are servers.
SERVERS = ("flink", "spark", "portable", "prism")

#: What a pipeline counted: counters, and the least value of distributions.
Counts = dict[str, int]


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
        Exception: what a transform raises inside this process.
        KeyboardInterrupt: Ctrl-C.
    """
    options = PipelineOptions(list(flags))
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or RUNNER
    pipeline = beam.Pipeline(options=options)
    build(pipeline)
    try:
        with _interrupts():
            result = pipeline.run()
            state = result.wait_until_finish()
    except Exception as error:
        # Inside this process they are what a transform raised; elsewhere each kind of runner has
        # its own, with the tracebacks of workers in it.
        if standard.runner == RUNNER or isinstance(error, UserError):
            raise
        first, *more = str(error).strip().splitlines() or [type(error).__name__]
        words = f"{first} ... {more[-1]}" if more else first
        raise UserError(f"the runner {standard.runner} failed: {words}; see its own log") from error
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
