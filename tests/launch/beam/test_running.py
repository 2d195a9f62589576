"""Pipelines: their options, their errors, and what their workers say."""

from __future__ import annotations

import apache_beam as beam
import pytest
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState

from trainer.config import UserError
from trainer.launch.beam.running import check_options, run


class Ends(beam.DoFn):
    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def process(self, item: object) -> None:
        raise self._error("no more")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, UserError])
def test_errors_of_transforms_are_themselves(error: type[BaseException]) -> None:
    with pytest.raises(error):
        run([], lambda pipeline: pipeline | beam.Create([1]) | beam.ParDo(Ends(error)))


def test_options_of_servers_and_beams_own_pass() -> None:
    check_options(["--direct_running_mode", "multi_processing", "--direct_num_workers=2"])
    check_options(["--runner", "FlinkRunner", "--flink_master", "a:1", "--parallelism", "16"])


class Fails(PipelineResult):
    """As Dataflow's, which says more than anybody wants to read in one line."""

    def wait_until_finish(self, duration: object = None) -> str:
        raise RuntimeError("Pipeline failed. Error:\nTraceback:\n  in work\nOSError: no space\n")


class Stops(PipelineResult):
    def wait_until_finish(self, duration: object = None) -> str:
        return PipelineState.CANCELLED


class Fleet(PipelineRunner):
    def run_pipeline(self, pipeline: object, options: object) -> PipelineResult:
        return Fails(PipelineState.FAILED)


class StoppedFleet(PipelineRunner):
    def run_pipeline(self, pipeline: object, options: object) -> PipelineResult:
        return Stops(PipelineState.CANCELLED)


class NoFleet(PipelineRunner):
    def run_pipeline(self, pipeline: object, options: object) -> PipelineResult:
        raise ConnectionError("nobody answers at a:1")


@pytest.mark.parametrize(
    ("runner", "words"),
    [
        ("Fleet", "failed: Pipeline failed. Error: ... OSError: no space; see its own log"),
        ("NoFleet", "failed: nobody answers at a:1; see its own log"),
        ("StoppedFleet", "has ended as CANCELLED: see its own log"),
    ],
)
def test_a_fleet_that_gives_up_is_told_in_one_line(runner: str, words: str) -> None:
    name = f"{__name__}.{runner}"
    with pytest.raises(UserError) as raised:
        run(["--runner", name], lambda pipeline: pipeline | beam.Create([1]))
    assert str(raised.value) == f"the runner {name} {words}"
