"""Weights & Biases: numbers, pictures and the config of a job, beside those of other jobs."""

from __future__ import annotations

import io
import logging
import os
import secrets
from collections.abc import Mapping
from typing import Any, Literal

import tensorflow as tf
from PIL import Image

from trainer.config import UserError, register
from trainer.data.files import is_file, is_remote, read_bytes, read_text, write_bytes
from trainer.training.trackers import Tracker

LOG = logging.getLogger(__name__)

#: Seconds that the end of a job waits for uploads; what is late stays on disk for `wandb sync`.
UPLOAD_TIMEOUT = 300


@register("tracker", "wandb")
class WeightsAndBiases(Tracker):
    """Numbers, pictures and config to Weights & Biases, or to `wandb/` in the run folder.

    W&B's own files are in `wandb/` of the run folder, or of the working folder where that one is
    remote. A job that goes on after an interruption goes on with its W&B run, whose id is kept in
    `wandb/run_id`. Nothing is ever asked on the terminal: log in beforehand by `wandb login`, or
    set WANDB_API_KEY. Needs the extra `wandb`; https://docs.wandb.ai.

    Args:
        run_dir: supplied, the run folder.
        project: project of the W&B run; made if there is none of that name.
        entity: user or team that it belongs to; none: the one that W&B has as your default.
        name: name of the W&B run; none: the name of the run folder.
        group: group of W&B runs that are shown as one, such as the seeds of an experiment.
        tags: comma list of tags.
        mode: `online`; `offline` keeps everything on disk for `wandb sync`; `disabled`; none: what
            WANDB_MODE says, else online.
    """

    def __init__(
        self,
        run_dir: str,
        *,
        project: str = "mildnet",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: tuple[str, ...] = (),
        mode: Literal["online", "offline", "disabled"] | None = None,
    ) -> None:
        self.run_dir = run_dir.rstrip("/")
        self.mode = mode or os.environ.get("WANDB_MODE") or "online"
        if self.mode == "offline" and is_remote(run_dir):
            raise ValueError(f"mode=offline keeps its files on a local disk, not in {run_dir}")
        self._words: dict[str, Any] = {
            "project": project,
            "entity": entity,
            "name": name or self.run_dir.rsplit("/", 1)[-1],
            "group": group,
            "tags": tags,
        }
        self._run: Any = None
        self._wandb: Any = None
        self._finished = False
        if self.mode == "disabled":
            return
        try:
            import wandb
        except ImportError:
            raise UserError(
                'the tracker wandb needs Weights & Biases: pip install "mildnet[wandb]"'
            ) from None
        self._wandb = wandb

    def start(self, step: int, config: Mapping[str, Any]) -> None:
        """Begin the W&B run, or go on with the one that this job began."""
        if self._wandb is None:
            return
        # W&B would ask on a terminal, and a job at night would wait for the answer.
        if self.mode == "online" and not self._wandb.login(prompt=False):
            raise UserError(
                "no key of Weights & Biases: run `wandb login`, set WANDB_API_KEY, or set "
                "tracker.wandb.mode=offline"
            )
        run_id = self._run_id()
        self._run = self._wandb.init(
            **self._words,
            id=run_id,
            resume="allow",
            mode=self.mode,
            dir=None if is_remote(self.run_dir) else self.run_dir,
            config=dict(config),
            allow_val_change=True,
            # The terminal is the job's: W&B neither writes to it nor reads along.
            settings=self._wandb.Settings(
                console="off", silent=True, finish_timeout=UPLOAD_TIMEOUT
            ),
        )
        if self.mode == "offline":
            kept = os.path.dirname(self._run.dir)
            LOG.info("Weights & Biases: `wandb sync %s` sends the run", kept)
        else:
            LOG.info("Weights & Biases: %s", self._run.url)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row to the history, but for steps that a killed job does a second time."""
        if self._run is not None and step >= self._run.step:
            self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, path: str) -> None:
        """Add the picture to the row of `step`, or to the next where that row is sent already."""
        if self._run is not None:
            with Image.open(io.BytesIO(read_bytes(path))) as picture:
                self._run.log({name: self._wandb.Image(picture)}, step=max(step, self._run.step))

    def finish(self, step: int, values: Mapping[str, float]) -> None:
        """Write the final numbers into the summary, by which W&B sorts and compares runs."""
        self._finished = True
        if self._run is not None:
            self._run.summary.update(dict(values))

    def close(self) -> None:
        """Send what is left; a job that has not come to its end is marked as failed."""
        if self._run is not None:
            self._run.finish(exit_code=0 if self._finished else 1)

    def _run_id(self) -> str:
        folder = f"{self.run_dir}/wandb"
        path = f"{folder}/run_id"
        if is_file(path):
            return read_text(path).strip()
        run_id = secrets.token_hex(5)
        tf.io.gfile.makedirs(folder)
        write_bytes(path, f"{run_id}\n".encode())
        return run_id
