"""`mildnet train --debug`: an IPython session when all is set up, before the first step."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trainer.config import UserError
from trainer.config.errors import Stopped
from trainer.config.job import JobConfig
from trainer.launch.splits import Splits

if TYPE_CHECKING:
    from trainer.training.loop import Ready

#: Exit code of a job that `stop()` ended.
STOPPED = 1


def check_debugger() -> None:
    """Check that a session can be opened, before anything slow.

    Raises:
        UserError: IPython is not installed, there is no terminal, or several machines train.
    """
    if importlib.util.find_spec("IPython") is None:
        raise UserError(
            '--debug opens IPython, which is not installed: pip install "mildnet[debug]"'
        )
    if not _on_terminal():
        raise UserError(
            "--debug opens IPython before the first step, and there is no terminal to open it on; "
            "leave --debug out"
        )
    if os.environ.get("TF_CONFIG"):
        raise UserError(
            "--debug opens IPython on one machine, but TF_CONFIG names several, which would wait"
        )


def open_session(
    ready: Ready,
    *,
    config: JobConfig,
    model: Any,
    loss: Any,
    groups: Sequence[tuple[Any, Sequence[Any]]],
    splits: Splits,
    batches: Callable[[int], Any],
) -> None:
    """Open IPython with all that is about to train in reach, and put back what it changed.

    Args:
        ready: what the loop has set up.
        config: of the job.
        model: images to embeddings.
        loss: of the job.
        groups: optimizers with the weights that each of them moves.
        splits: the data sets.
        batches: from the number of the first batch to the batches of training.

    Raises:
        Stopped: the session asked to stop with `stop()`.
    """
    from IPython.terminal.embed import InteractiveShellEmbed
    from IPython.terminal.ipapp import load_default_config

    from trainer.training.step import examples

    before = dict(ready.state.arrays())
    asked = {"stop": False, "keep": False}
    coming: list[Any] = []
    accumulate = config.training.accumulate

    def step() -> dict[str, float]:
        """Make one training step on the next batch, and return its numbers."""
        if not coming:
            coming.append(ready.batches())
        numbers = ready.step_function.run(coming[0])
        return {name: float(value) for name, value in numbers.items() if not value.shape.rank}

    def loss_of(batch: Any, training: bool = False) -> float:
        """Return the loss of a batch; in training, dropout and batch statistics take part."""
        embeddings = model(batch["image"], training=training)
        return float(loss(*examples(batch["label"], embeddings, config.example_rows())))

    def stop() -> None:
        """Leave the session and the job; nothing is trained."""
        asked["stop"] = True
        shell.ask_exit()

    def keep() -> None:
        """Train on with what the session has changed."""
        asked["keep"] = True

    names: dict[str, Any] = {
        "model": model,
        "loss": loss,
        "loss_of": loss_of,
        "step": step,
        "batch": next(iter(batches(ready.step * accumulate))),
        "batches": batches,
        "splits": splits,
        "groups": groups,
        "optimizer": groups[0][0],
        "config": config,
        "keep": keep,
        "stop": stop,
    }
    settings = load_default_config()
    settings.TerminalInteractiveShell.confirm_exit = False
    shell = InteractiveShellEmbed(
        config=settings, banner1=_banner(ready.step, names), exit_msg="", user_ns=names
    )
    shell(local_ns=names, module=ModuleType("mildnet_debug"))
    if asked["stop"]:
        raise Stopped(
            f"stopped by stop() after step {ready.step}; run it again to go on from there", STOPPED
        )
    if not asked["keep"]:
        ready.state.restore(before)


def _on_terminal() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def _banner(step: int, names: dict[str, Any]) -> str:
    model, batch, splits = names["model"], names["batch"], names["splits"]
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    sizes = ", ".join(f"{name} {len(part)}" for name, part in parts.items() if part is not None)
    shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in batch.items())
    rows = {
        "model": f"{model.name}: images {model.input_shape[1:]} to embeddings",
        "batch": f"the next batch, a dictionary: {shapes}",
        "batches": "batches(n): the training batches from number n on, a tf.data.Dataset",
        "splits": f"the images: splits.{sizes.replace(', ', ', .')}",
        "loss": f"loss(labels, embeddings): {names['config'].loss or type(names['loss']).__name__}",
        "loss_of": "loss_of(batch): its loss; loss_of(batch, training=True): with dropout",
        "step": "step(): makes one training step, on the batches in their order",
        "groups": "[(optimizer, weights), ...]; optimizer: the first of them",
        "config": "the job's config",
    }
    lines = [f"  {name:<8} {text}" for name, text in rows.items()]
    return "\n".join(
        [
            f"\nAll is set up; {step} steps are made. In reach:",
            *lines,
            "exit or Ctrl-D goes on with training. What the session did to weights and optimizer",
            "is put back before, unless keep() was called. stop() leaves without training.\n",
        ]
    )
