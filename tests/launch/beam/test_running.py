"""Pipelines: their options, their errors, and what their workers say."""

from __future__ import annotations

import apache_beam as beam
import pytest

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
