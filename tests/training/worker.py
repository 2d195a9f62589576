"""One of several worker processes: trains the small task and prints its losses as JSON."""

import json
import sys

from trainer.training.loop import fit
from trainer.training.strategy import get_strategy

from . import tasks


class Losses:
    """A tracker that keeps the loss of every step."""

    def __init__(self):
        self.values = []

    def start(self, step, config):
        pass

    def log(self, step, values):
        self.values.append(values["loss"])

    def close(self):
        pass


def main(run_dir):
    strategy = get_strategy("multiworker")  # before TensorFlow runs anything
    losses = Losses()
    _, task = tasks.make_task(
        run_dir, steps=6, strategy=strategy, trackers=[losses], log_every=1, model={"norm": False}
    )
    with strategy.scope():
        fit(task)
    print("LOSSES", json.dumps(losses.values), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
