"""`python -m trainer.task`: one job without questions, as a training service starts it.

Takes a job config, or the flags of the first MILDNet release; and where it runs on Vertex AI, its
variables.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from trainer.config import UserError
from trainer.config.console import (
    Debug,
    Fresh,
    From,
    ModelModule,
    Yes,
    from_run,
    one_line_errors,
)
from trainer.config.job import JobConfig
from trainer.launch import summary
from trainer.launch.commands.options import Overrides
from trainer.launch.vertex import worker
from trainer.training.interrupts import leaving_on_sigterm

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@one_line_errors
def task(
    config: Annotated[str | None, typer.Argument(help="A job config (.cnf).")] = None,
    job_dir: Annotated[
        str | None,
        typer.Option(
            help="Run folder: everything the job makes goes there; on Vertex AI by default the "
            "job's output directory."
        ),
    ] = None,
    data_path: Annotated[str | None, typer.Option(help="Folder or gs:// URL of the data.")] = None,
    model_id: Annotated[str | None, typer.Option(help="Embedding model.")] = None,
    loss: Annotated[str | None, typer.Option(help="Loss.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Optimizer.")] = None,
    train_csv: Annotated[str | None, typer.Option(help="Training triplets.")] = None,
    val_csv: Annotated[str | None, typer.Option(help="Validation triplets.")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Triplets a step.")] = None,
    train_epocs: Annotated[
        str | None, typer.Option("--train-epocs", "--train-epochs", help="Epochs.")
    ] = None,
    lr: Annotated[str | None, typer.Option(help="Learning rate.")] = None,
    weights_path: Annotated[
        str | None, typer.Option(help="Trunk weights: a path, imagenet or none.")
    ] = None,
    is_tpu: Annotated[str | None, typer.Option(help="true: train on a TPU.")] = None,
    hyperdash_key: Annotated[
        str | None, typer.Option(help="Key of Hyperdash; adds that tracker.")
    ] = None,
    overrides: Overrides = None,
    fresh: Fresh = False,
    yes: Yes = False,
    model_module: ModelModule = None,
    source: From = None,
    debug: Debug = False,
) -> None:
    """Run one job: a config or a model module with flags that win over it, or MILDNet's flags."""
    given = {
        "data_path": data_path,
        "model_id": model_id,
        "loss": loss,
        "optimizer": optimizer,
        "train_csv": train_csv,
        "val_csv": val_csv,
        "batch_size": batch_size,
        "train_epochs": train_epocs,
        "lr": lr,
    }
    flags = {key: value for key, value in given.items() if value is not None}
    if weights_path is not None:
        # The released scripts pass the word None for no weights.
        flags["model.weights"] = "none" if weights_path == "None" else weights_path
    if is_tpu is not None and is_tpu.lower() not in ("false", "0", "no"):
        if is_tpu.lower() not in ("true", "1", "yes"):
            raise UserError(f"--is-tpu {is_tpu}: say true or false")
        flags["train.strategy"] = "tpu"
    if hyperdash_key:
        os.environ["HYPERDASH_KEY"] = hyperdash_key
    texts = [f"{key}={value}" for key, value in flags.items()]
    texts += from_run(source) + (overrides or [])

    def read(*more: str) -> JobConfig:
        if config is not None or model_module is not None:
            return summary.read_config(config, model_module, [*texts, *more])
        if model_id is None or loss is None:
            raise UserError(
                "give a job config (.cnf), --model-module, or at least --model-id and --loss"
            )
        return JobConfig.from_mapping({}, [*texts, *more], source="command line", name=model_id)

    job = read()
    if hyperdash_key and "hyperdash" not in job.trackers:
        job = read(f"trackers={','.join((*job.trackers, 'hyperdash'))}")
    run_dir = worker.prepare(job, os.environ, run_dir=job_dir, fresh=fresh)
    with leaving_on_sigterm():
        summary.run_and_show(job, fresh=fresh, yes=yes, run_dir=run_dir)


if __name__ == "__main__":
    app()
