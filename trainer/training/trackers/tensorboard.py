"""TensorBoard logs in the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainer.config import register
from trainer.data.files import is_remote, read_bytes
from trainer.training.trackers import Tracker

#: How TensorFlow sends events to a bucket, which takes only whole files: by itself it would send
#: all there are after every ten, and the job would wait for it.
REMOTE = {"max_queue": 100_000, "flush_millis": 30_000}


@register("tracker", "tensorboard")
class TensorBoard(Tracker):
    """Scalars, pictures and the effective config under `logs/`, for `tensorboard --logdir`.

    In a local run folder each report is there at once; in a bucket within half a minute.

    Args:
        run_dir: supplied, the run folder.
        folder: folder inside the run folder.
    """

    def __init__(self, run_dir: str, *, folder: str = "logs") -> None:
        self.path = f"{run_dir}/{folder}"
        self._writer: Any = None

    def start(self, step: int, config: Mapping[str, Any]) -> None:
        """Open an event file and write the config as text."""
        options = REMOTE if is_remote(self.path) else {}
        self._writer = tf.summary.create_file_writer(self.path, **options)
        with self._writer.as_default(step=step):
            lines = (f"    {key}={json.dumps(value)}" for key, value in config.items())
            tf.summary.text("config", "\n".join(lines))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one scalar for each value."""
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._flush()

    def picture(self, step: int, name: str, path: str) -> None:
        """Write the picture; a name that comes at several steps gets a slider."""
        with self._writer.as_default(step=step):
            tf.summary.image(name, tf.io.decode_image(read_bytes(path))[None])
        self._flush()

    def finish(self, step: int, values: Mapping[str, float]) -> None:
        """Write one scalar for each final number."""
        self.log(step, values)

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        if not is_remote(self.path):
            self._writer.flush()
