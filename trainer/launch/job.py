"""A whole job: read, train, evaluate before and after, export, index, search, report."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trainer.config import UserError
from trainer.config.console import plain
from trainer.config.job import JobConfig
from trainer.launch.clearing import delete, find_old_run
from trainer.launch.debugging import check_debugger, open_session
from trainer.launch.modules import build_loss, check_modules, note_sources, training_loop
from trainer.launch.run_folder import RunFolder
from trainer.launch.splits import Splits, read_table, split_names
from trainer.launch.starting import check_start, starting_model
from trainer.launch.variables import list_variables, show_variables, write_variables

if TYPE_CHECKING:
    from trainer.data.table import ItemTable
    from trainer.training.loop import Ready
    from trainer.training.trackers import Trackers

LOG = logging.getLogger(__name__)

#: Pictures of the same queries with their neighbours, by what the model was then.
NEIGHBOURS = {"untrained": "neighbours_untrained.png", "trained": "neighbours.png"}


@dataclass(frozen=True)
class JobResult:
    """Where a finished job left what it made, and its headline numbers.

    `untrained` (the model that training began with), `color_histogram` and `trained` hold metrics
    by name, each in 0..1, measured on the test split; empty where the job was training alone.
    `best_score` is the best value of what `train.monitor` names, None where nothing was measured.
    """

    run_dir: str
    report: str
    picture: str
    steps: int
    seconds: float
    untrained: dict[str, float]
    color_histogram: dict[str, float]
    trained: dict[str, float]
    best_step: int = 0
    best_score: float | None = None
    stopped_early: bool = False


def run_path(config: JobConfig, run_dir: str | None = None) -> str:
    """Return the run folder of a job: `run_dir`, or the job's name below `job_dir`."""
    return run_dir or f"{config.job_dir.rstrip('/')}/{config.name}"


def run(
    config: JobConfig,
    *,
    fresh: bool = False,
    run_dir: str | None = None,
    debug: bool = False,
    training_only: bool = False,
    stop_early: Callable[[int, Mapping[str, float]], bool] | None = None,
) -> JobResult:
    """Do the whole job, going on from where an earlier process of the same job stopped.

    Args:
        config: what to do.
        fresh: begin anew; a run that is there is deleted once config and data are found good.
        run_dir: run folder, by default the job's name below `job_dir`.
        debug: open IPython on the terminal when all is set up, before the first step.
        training_only: leave out what the test split is needed for, and export, index and report. A
            later call without it does those, and nothing twice.
        stop_early: told each validation's step and numbers; where it returns True, training ends
            there, and so does the job.

    Raises:
        UserError: something that the user can mend.
        Interrupted: SIGTERM or SIGINT came during training; the state was saved.
        Stopped: a session that `debug` opened asked to stop.
    """
    start = time.perf_counter()
    path = run_path(config, run_dir)
    # Data and parameters are checked before the folder is claimed or a model is built.
    if debug:
        check_debugger()
    if not fresh:
        RunFolder(path).check(config)
    check_start(config, path, fresh=fresh)
    check_modules(config)
    strategy = _prepare_runtime(config)
    chief = _is_chief(strategy)
    old = find_old_run(config, path) if fresh and chief else None
    table = read_table(config)
    splits = Splits.of(table, config)
    plan = _plan(config, splits, strategy)
    trackers = _trackers(config, path, config.trackers if chief else ())

    if old is not None:
        delete(old)
    folder = RunFolder.claim(path, config) if chief else RunFolder(path)
    with folder.locked() if chief else contextlib.nullcontext():
        # Again, over the images that can be decoded; before, to fail before anything is claimed.
        splits = Splits.of(_verified(table, config, folder if chief else None), config)
        plan = _plan(config, splits, strategy)
        if plan.note:
            LOG.info(plan.note)
        if chief:
            sources = note_sources(folder, config)
            folder.write_json("environment.json", {**_environment(config, splits), **sources})
        with trackers:
            with strategy.scope():
                outcome, evaluation, model = _train(
                    config,
                    folder,
                    splits,
                    plan,
                    strategy,
                    trackers,
                    debug=debug,
                    training_only=training_only,
                    stop_early=stop_early,
                )
            if not chief:
                return JobResult(path, "", "", outcome.step, 0.0, {}, {}, {})
            if training_only or outcome.stopped_early:
                trackers.finish(outcome.step, {})
                seconds = time.perf_counter() - start
                return JobResult(
                    *(path, "", "", outcome.step, seconds, {}, {}, {}),
                    best_step=outcome.best_step,
                    best_score=outcome.best_score,
                    stopped_early=outcome.stopped_early,
                )
            return _finish(config, folder, splits, model, evaluation, outcome, trackers, start)


@dataclass(frozen=True)
class _Plan:
    """What follows from config and data before a model exists."""

    sampler: Any
    val_sampler: Any
    augment: Any
    loss: Any
    example_rows: int
    slices: list[tuple[int, int]]
    steps_per_epoch: int
    total_steps: int
    monitor: str | None
    #: What the user should know of it, if anything.
    note: str


def _verified(table: ItemTable, config: JobConfig, folder: RunFolder | None) -> ItemTable:
    """Return the rows that the job uses, without the images that can't be decoded, which are named
    in the run folder, if there is one to write to."""
    from trainer.data.verify import verify_images

    used = [
        name
        for names in (config.train_split, config.val_split, config.test_split)
        for name in split_names(names)
    ]
    with folder.local("bad_images.log") if folder else contextlib.nullcontext() as log:
        return verify_images(
            table.in_split(*used),
            mode=config.training.verify,
            max_bad_share=config.max_bad_share,
            log_file=log,
        )


def _plan(config: JobConfig, splits: Splits, strategy: Any) -> _Plan:
    """Build everything cheap, so that what can't work ends the job before anything slow starts."""
    from trainer.training.rows import check_sample
    from trainer.training.strategy import replica_slices

    with strategy.scope():
        loss = _loss(config)
    sampler = config.build("sampler", splits.train, config.batch_size, config.seed)
    example_rows = config.example_rows()
    accumulate = config.training.accumulate
    if 0 < getattr(loss, "sampled_classes", 0) < len(splits.train.classes):
        check_sample(loss.sampled_classes, sampler.rows_per_batch * accumulate)
    steps_per_epoch = math.ceil(sampler.steps_per_epoch / accumulate)
    total_steps = config.steps or math.ceil((config.train_epochs or 0) * steps_per_epoch)
    val_sampler, note = _val_sampler(config, splits, loss)
    plan = _Plan(
        sampler=sampler,
        val_sampler=val_sampler,
        augment=config.build("augment"),
        loss=loss,
        example_rows=example_rows,
        slices=replica_slices(strategy, sampler.rows_per_batch, example_rows),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        monitor=_monitor(config, splits, val_sampler, example_rows),
        note=note,
    )
    _optimizer(config, plan, 1.0)
    config.build("index")
    return plan


def _loss(config: JobConfig) -> Any:
    """Build the loss; behind a miner, of the triplets that it finds; with a memory, within it."""
    loss = build_loss(config)
    if config.memory:
        return config.build("memory", loss)
    if not config.miner:
        return loss
    from trainer.losses.mined import MinedTriplets

    miner = config.build("miner", config.seed)
    try:
        return MinedTriplets(loss=loss, miner=miner)
    except ValueError as error:
        raise UserError(f"loss={config.loss} with miner={config.miner}: loss.{error}") from None


def _val_sampler(config: JobConfig, splits: Splits, loss: Any) -> tuple[Any, str]:
    """Return what makes batches of the validation split for the loss; where nothing can, why."""
    from trainer.losses.proxies import ProxyLoss

    if splits.val is None:
        return None, ""
    unseen = set(splits.val.classes.tolist()) - set(splits.train.classes.tolist())
    if isinstance(loss, ProxyLoss) and unseen:
        return None, (
            f"no loss on the validation split: {config.loss} has proxies of the classes trained on "
            f"alone, and {len(unseen)} classes are not among them"
        )
    try:
        return config.build("sampler", splits.val, config.batch_size, config.seed), ""
    except UserError as error:
        return None, f"no loss on the validation split: {error}"


def _monitor(config: JobConfig, splits: Splits, val_sampler: Any, example_rows: int) -> str | None:
    """Return what decides which weights are the best, None where nothing can."""
    from trainer.training.validation import has_pairs

    asked = config.training.monitor
    offered = []
    if splits.val is not None:
        if has_pairs(splits.val, config.query_domain, config.gallery_domain):
            offered += ["recall_at_1", "map_at_r"]
        if val_sampler is not None:
            offered += ["val_loss"] + (["triplet_accuracy"] if example_rows == 3 else [])
    if asked is None:
        # MILDNet keeps the weights of the least validation loss; labels allow a better judge.
        order = ["val_loss"] if config.dataset == "triplets" else ["recall_at_1", "val_loss"]
        return next((name for name in order if name in offered), None)
    if asked not in offered:
        raise UserError(
            f"train.monitor={asked} can't be measured on this validation split; "
            f"what can: {', '.join(offered) or 'nothing'}"
        )
    return asked


def _prepare_runtime(config: JobConfig) -> Any:
    """Set seeds, determinism and number formats, and return the strategy."""
    import keras
    import tensorflow as tf

    from trainer.training.strategy import get_strategy, prepare_devices

    options = config.training
    prepare_devices(options.devices)
    strategy = get_strategy(options.strategy, options.devices)
    keras.utils.set_random_seed(config.seed)
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(options.precision)
    return strategy


def _train(
    config: JobConfig,
    folder: RunFolder,
    splits: Splits,
    plan: _Plan,
    strategy: Any,
    trackers: Trackers,
    *,
    debug: bool,
    training_only: bool,
    stop_early: Callable[[int, Mapping[str, float]], bool] | None,
) -> tuple[Any, dict[str, Any], Any]:
    """Build the model, measure it before training, train it; under the strategy's scope."""
    from trainer.data.pipeline import train_batches
    from trainer.losses.memory import CrossBatchMemory
    from trainer.losses.proxies import ProxyLoss
    from trainer.models import trunk_variables
    from trainer.training.groups import parameter_groups
    from trainer.training.loop import Task
    from trainer.training.summaries import Summaries
    from trainer.training.validation import Validator

    options = config.training
    model = starting_model(config, folder)
    if isinstance(plan.loss, CrossBatchMemory):
        plan.loss.prepare(model.output_shape[-1])
    if isinstance(plan.loss, ProxyLoss):
        plan.loss.prepare(splits.train.label, model.output_shape[-1])
    chief = _is_chief(strategy)
    evaluation = {}
    if chief and not training_only:
        evaluation = _measure_untrained(config, folder, splits, model)
    groups = parameter_groups(
        model,
        plan.loss,
        lambda scale: _optimizer(config, plan, scale),
        options,
        trunk=trunk_variables(model),
    )
    if chief:
        variables = list_variables(model, plan.loss, groups, l2_penalty=options.l2_penalty)
        show_variables(variables, plain())
        write_variables(variables, folder)
    validate = None
    if splits.val is not None:
        validate = Validator(
            model,
            splits.val,
            image_size=config.image_size,
            loss=plan.loss,
            example_rows=plan.example_rows,
            sampler=plan.val_sampler,
            query_domain=config.query_domain,
            gallery_domain=config.gallery_domain,
        )

    def batches(start: int) -> Any:
        return train_batches(
            splits.train,
            plan.sampler,
            image_size=config.image_size,
            augment=plan.augment,
            seed=config.seed,
            start=start,
            stop=plan.total_steps * options.accumulate,
            slices=plan.slices,
            hold=options.hold_mb * 2**20,
        )

    def session(ready: Ready) -> None:
        open_session(
            ready,
            config=config,
            model=model,
            loss=plan.loss,
            groups=groups,
            splits=splits,
            batches=batches,
        )

    outcome = training_loop(config)(
        Task(
            model=model,
            loss=plan.loss,
            example_rows=plan.example_rows,
            groups=groups,
            batches=batches,
            images_per_batch=plan.sampler.rows_per_batch,
            total_steps=plan.total_steps,
            steps_per_epoch=plan.steps_per_epoch,
            options=options,
            run_dir=folder.path,
            identity={"config": config.fingerprint(), "data": splits.train.fingerprint()},
            config=config.to_dict(),
            validate=validate,
            monitor=plan.monitor,
            summarize=Summaries(
                splits.train,
                folder.path,
                example_rows=plan.example_rows,
                margin=options.summary_margin,
            ),
            trackers=trackers,
            stop_early=stop_early,
            before_training=session if debug else None,
        )
    )
    return outcome, evaluation, model


def _trackers(config: JobConfig, path: str, names: Iterable[str]) -> Trackers:
    from trainer.training.trackers import Trackers

    folder = RunFolder(path).path
    return Trackers(config.build("tracker", folder, name=name) for name in names)


def _optimizer(config: JobConfig, plan: _Plan, scale: float) -> Any:
    schedule = config.build("schedule", config.lr, plan.total_steps, plan.steps_per_epoch)
    return config.build("optimizer", schedule.scaled(scale))


def _measure_untrained(
    config: JobConfig, folder: RunFolder, splits: Splits, model: Any
) -> dict[str, Any]:
    """Return the evaluation so far: the model before training, under the name `untrained`, and
    the colour histogram, on the test split. A run that is taken up again keeps what it measured
    at its start."""
    from trainer.launch.evaluating import measure
    from trainer.launch.searching import draw_neighbours, searched
    from trainer.retrieval.baseline import color_histogram
    from trainer.serving.catalogue import CatalogueIndex
    from trainer.training.validation import embed_table, predictor

    if folder.exists("evaluation.json"):
        return folder.read_json("evaluation.json")
    test = splits.test
    LOG.info("measuring the model before training on %d images", len(test))
    untrained = embed_table(predictor(model), test, config.image_size)
    gallery, vectors = searched(config, test, untrained)
    with folder.local(NEIGHBOURS["untrained"]) as path:
        draw_neighbours(config, test, untrained, CatalogueIndex.exact(gallery, vectors), path)
    evaluation = {
        "split": splits.test_name,
        "images": len(test),
        "classes": len(test.classes),
        "unseen_classes": not set(test.classes.tolist()) & set(splits.train.classes.tolist()),
        "untrained": measure(config, test, untrained).to_dict(),
        "color_histogram": measure(
            config, test, color_histogram(test.path.tolist(), boxes=test.box)
        ).to_dict(),
    }
    folder.write_json("evaluation.json", evaluation)
    return evaluation


def _finish(
    config: JobConfig,
    folder: RunFolder,
    splits: Splits,
    model: Any,
    evaluation: dict[str, Any],
    outcome: Any,
    trackers: Trackers,
    start: float,
) -> JobResult:
    """Export, measure what was exported, index, search, and write the report."""
    from trainer.launch.costs import model_size
    from trainer.launch.evaluating import measure
    from trainer.launch.report import write_report
    from trainer.launch.searching import build_index, draw_neighbours, embed_items, searched
    from trainer.serving.embedder import Embedder
    from trainer.serving.export import export

    with folder.local("model.keras") as path:
        model.save(path)
    with folder.local("model") as path:
        export(model, path, image_size=config.image_size)
        embedder = Embedder(path)
        # What is measured is what users will load, not the model in memory.
        embeddings = embed_items(embedder, splits.test)
        fingerprint = embedder.fingerprint()
    evaluation["trained"] = measure(config, splits.test, embeddings).to_dict()
    evaluation["training"] = asdict(outcome)
    evaluation["model"] = model_size(model, config)
    folder.write_json("evaluation.json", evaluation)
    gallery, vectors = searched(config, splits.test, embeddings)
    with folder.local("index") as path:
        catalogue = build_index(config, gallery, vectors, path, model=fingerprint)
    with folder.local(NEIGHBOURS["trained"]) as path:
        neighbours = draw_neighbours(config, splits.test, embeddings, catalogue, path)
    folder.write_text("neighbours.json", json.dumps(neighbours, indent=1) + "\n")
    for stage, name in NEIGHBOURS.items():
        if folder.exists(name):
            trackers.picture(outcome.step, f"neighbours/{stage}", folder.file(name))
    final = {
        f"{stage}/{metric}": value
        for stage in ("untrained", "color_histogram", "trained")
        for metric, value in evaluation[stage]["metrics"].items()
    }
    trackers.finish(outcome.step, final)
    seconds = time.perf_counter() - start
    write_report(folder, config, evaluation, seconds)
    return JobResult(
        run_dir=folder.path,
        report=folder.file("report.html"),
        picture=folder.file(NEIGHBOURS["trained"]),
        steps=outcome.step,
        seconds=seconds,
        untrained=evaluation["untrained"]["metrics"],
        color_histogram=evaluation["color_histogram"]["metrics"],
        trained=evaluation["trained"]["metrics"],
        best_step=outcome.best_step,
        best_score=outcome.best_score,
    )


def _environment(config: JobConfig, splits: Splits) -> dict[str, Any]:
    from trainer.launch.environment import describe_environment

    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    data = {
        name: {
            "images": len(part),
            "classes": len(part.classes),
            "fingerprint": part.fingerprint(),
        }
        for name, part in parts.items()
        if part is not None
    }
    return {"seed": config.seed, **describe_environment(), "data": data}


def _is_chief(strategy: Any) -> bool:
    from trainer.training.strategy import is_chief

    return is_chief(strategy)
