"""The same as a pipeline of Apache Beam: blocks of rows, wherever there are workers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from trainer.config import UserError
from trainer.data.files import absolute, gfile, is_remote, remote_errors, whole_bytes
from trainer.data.table import ItemTable
from trainer.launch.beam.running import check_options, run
from trainer.launch.embedding.blocks import Blocks
from trainer.launch.embedding.pictures import PictureEmbedder
from trainer.launch.embedding.plan import Plan
from trainer.launch.embedding.walk import Embedded, EmbedOptions, Work, block_of, tell_start
from trainer.launch.run_folder import RunFolder
from trainer.launch.searching import exported_model

#: File of the rows to embed, a line for each block. Each start writes one of its own: workers of
#: an earlier one may still read theirs.
TASKS = "tasks-{}.jsonl"


@dataclass(frozen=True)
class Task:
    """Rows to embed, and where their line is in the file of tasks."""

    begin: int
    end: int
    offset: int
    length: int


def embed_by_beam(
    finished: RunFolder,
    options: EmbedOptions,
    flags: Sequence[str],
    tell: Callable[[str], object] = lambda line: None,
) -> Embedded:
    """Embed a catalogue with workers of Beam, or go on with it.

    What comes of it is what :func:`trainer.launch.embedding.walk.embed_catalogue` makes, which may
    also go on with it, and the other way round.

    Args:
        finished: a finished run.
        options: of what, and how.
        flags: options of Beam and of its runner.
        tell: takes a line on what is done.

    Raises:
        UserError: as `embed_catalogue`; or Beam does not know an option.
    """
    if options.shard != (1, 1):
        raise UserError("--shard is for machines that know nothing of each other, not for --beam")
    check_options(flags)
    # Workers may have another working folder.
    model = absolute(options.model_folder or finished.file("model"))
    work = Work(finished, options, exported_model(model))
    with work.folder.locked():
        if (meta := work.finished()) is not None:
            tell("done before")
            return Embedded(work.folder.path, meta)
        left = work.left()
        tell_start(work, left, tell)
        if left:
            blocks = work.folder.blocks
            path = blocks.file(TASKS.format(uuid.uuid4().hex[:12]))
            tasks = write_tasks(path, work.items, left)

            def build(pipeline: beam.Pipeline) -> None:
                _ = (
                    pipeline
                    | beam.Create(tasks)
                    # Without it, some runners would embed where they create: on one worker.
                    | beam.Reshuffle()
                    | beam.ParDo(EmbedBlocks(path, blocks.path, model, work.plan))
                )

            run(flags, build)
        return Embedded(work.folder.path, work.finish())


def write_tasks(path: str, items: ItemTable, stretches: Sequence[tuple[int, int]]) -> list[Task]:
    """Write the paths and boxes of stretches of rows, and return where each is.

    Workers read the lines of their own rows: a catalogue may have more than a pipeline can carry.
    """
    tasks, offset = [], 0
    with whole_bytes(path) as stream:
        for begin, end in stretches:
            boxes = [None if np.isnan(box[0]) else box.tolist() for box in items.box[begin:end]]
            rows = {"rows": [begin, end], "paths": items.path[begin:end].tolist(), "boxes": boxes}
            line = json.dumps(rows)
            length = stream.write(f"{line}\n".encode())
            tasks.append(Task(begin, end, offset, length))
            offset += length
    return tasks


def read_task(path: str, task: Task) -> ItemTable:
    """Return the rows of a task, without labels.

    Raises:
        UserError: the file holds other rows there.
    """
    if is_remote(path):
        with remote_errors(), gfile().GFile(path, "rb") as remote:
            remote.seek(task.offset)
            line = remote.read(task.length)
    else:
        with open(path, "rb") as local:
            local.seek(task.offset)
            line = local.read(task.length)
    try:
        rows = json.loads(line)
        if rows["rows"] != [task.begin, task.end]:
            raise ValueError("other rows")
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{path} does not hold rows {task.begin:,} to {task.end:,}") from None
    boxes = [[np.nan] * 4 if box is None else box for box in rows["boxes"]]
    return ItemTable.from_columns(rows["paths"], rows["paths"], box=np.array(boxes, np.float32))


class EmbedBlocks(beam.DoFn):
    """Task -> nothing; its rows are embedded and written as a block.

    A block is a function of its rows, and its name is too: a task that runs twice does no harm.
    Counters: embedded, bad.

    Args:
        tasks: file of the tasks.
        blocks: folder of the blocks.
        model: folder of the exported model.
        plan: what is embedded.
    """

    def __init__(self, tasks: str, blocks: str, model: str, plan: Plan) -> None:
        self._tasks = tasks
        self._blocks = blocks
        self._model = model
        self._plan = plan
        # The model fills the memory of a worker: its threads have one between them.
        self._shared = Shared()
        self._pictures: PictureEmbedder
        self._good = Metrics.counter("embed", "embedded")
        self._bad = Metrics.counter("embed", "bad")

    def setup(self) -> None:
        def load() -> PictureEmbedder:
            embedder = exported_model(self._model)
            if embedder.fingerprint() != self._plan.model:
                raise UserError(f"{self._model} is another model than when this was begun")
            return PictureEmbedder(embedder, self._plan.model)

        self._pictures = self._shared.acquire(load, self._model)

    def process(self, task: Task) -> None:
        items = read_task(self._tasks, task)
        block = block_of(self._pictures, items, task.begin, task.end, self._plan.batch)
        Blocks(self._blocks).write(block)
        self._good.inc(len(block.rows))
        self._bad.inc(len(block.faults))
