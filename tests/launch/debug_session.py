"""Trains one job without a session and with two: what test_debugging.py drives by a terminal."""

import sys

from trainer.config import JobConfig
from trainer.config.errors import Stopped
from trainer.config.settings import Settings
from trainer.launch import job

from .conftest import SMALL

if __name__ == "__main__":
    values = {**SMALL, "data_path": sys.argv[1], "steps": 4, "train.checkpoint_every": 4}
    config = JobConfig.from_mapping(values, ("trackers=csv",), Settings({}))
    job.run(config, run_dir="plain", training_only=True)
    job.run(config, run_dir="debugged", training_only=True, debug=True)
    job.run(config, run_dir="kept", training_only=True, debug=True)
    try:
        job.run(config, run_dir="stopped", training_only=True, debug=True)
    except Stopped as stopped:
        print("STOPPED", stopped.exit_code, stopped)
    print("ALL DONE")
