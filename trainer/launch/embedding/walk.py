"""A catalogue, or a shard of it, through an exported model into arrays in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from trainer.config import UserError
from trainer.config.console import plain
from trainer.data.progress import bar
from trainer.data.table import ItemTable, common_folder
from trainer.launch.embedding.blocks import SNAPSHOT, Block
from trainer.launch.embedding.changes import changed_pictures
from trainer.launch.embedding.folder import ShardFolder
from trainer.launch.embedding.pictures import PictureEmbedder
from trainer.launch.embedding.plan import Plan, gaps, pieces
from trainer.launch.run_folder import RunFolder
from trainer.launch.searching import exported_model, read_catalogue
from trainer.retrieval.embeddings_folder import BAD, EmbeddingsMeta
from trainer.serving.embedder import Embedder

#: Seconds between lines on how far it is, where there is no terminal for a bar.
TOLD_EVERY = 60.0


@dataclass(frozen=True)
class EmbedOptions:
    """What is embedded, and how.

    Attributes:
        source: catalogue: an `items.csv`, a folder with one, or a folder of pictures.
        to: folder of the embeddings, local or remote.
        shard: which part, from 1, and of how many.
        model_folder: export of the run's model; default: the run's own.
        snapshot: rows after which what is done is written, from 1.
        max_bad_share: share of the catalogue's rows that may be bad; default: the run's.

    Raises:
        UserError: a value is out of its range.
    """

    source: str
    to: str
    shard: tuple[int, int] = (1, 1)
    model_folder: str | None = None
    snapshot: int = SNAPSHOT
    max_bad_share: float | None = None

    def __post_init__(self) -> None:
        if self.snapshot < 1:
            raise UserError(f"--snapshot {self.snapshot} must be at least 1")
        if self.max_bad_share is not None and not 0 <= self.max_bad_share <= 1:
            raise UserError(f"--max-bad-share {self.max_bad_share:g} must be from 0 to 1")


@dataclass(frozen=True)
class Embedded:
    """What has come of it: where it is, and what it says of itself."""

    path: str
    meta: EmbeddingsMeta


class Work:
    """A shard of a catalogue, begun or gone on with.

    Args:
        run: a finished run.
        options: of what, and how.
        embedder: the model; several processes may work on a shard, each with one of its own.

    Raises:
        UserError: no pictures, too many rows that cannot be used, or a folder of something else.
    """

    def __init__(self, run: RunFolder, options: EmbedOptions, embedder: Embedder) -> None:
        self._config = run.config()
        self._options = options
        self.items = read_catalogue(options.source)
        self.shard, shards = options.shard
        self.plan = Plan(
            model=embedder.fingerprint(),
            catalogue=self.items.fingerprint(),
            source=common_folder(self.items.path),
            rows=len(self.items),
            dim=embedder.dim,
            batch=embedder.batch_size,
            shards=shards,
        )
        share = options.max_bad_share
        self._allowed = self._config.max_bad_share if share is None else share
        self.folder = ShardFolder(options.to, self.plan, self.shard)
        self.check_bad(0)
        self.folder.begin()

    @property
    def rows(self) -> tuple[int, int]:
        """First row, and the one behind the last."""
        return self.plan.rows_of(self.shard)

    def finished(self) -> EmbeddingsMeta | None:
        """Return what the shard says of itself, if it is finished, after a look at its pictures.

        Raises:
            UserError: more are bad than are allowed now, or pictures have changed.
        """
        if (meta := self.folder.finished()) is None:
            return None
        self.check_bad(meta.bad)
        mine = self.items.select(slice(*self.rows))
        if changed := changed_pictures(mine, self.folder.path, self.plan.model):
            raise UserError(
                f"{self.folder.path}: {len(changed):,} pictures have changed since they were "
                f"embedded, the first: {changed[0]}; to embed them, delete the folder or choose "
                "another"
            )
        return meta

    def left(self) -> list[tuple[int, int]]:
        """Return what is left to do: stretches of rows, each to be written as a block."""
        there = self.folder.blocks.places()
        try:
            self.check_bad(sum(place.bad for place in there))
        except UserError:
            # They may have been out of reach for a time: those are looked at again.
            self.folder.blocks.drop([place for place in there if place.bad])
            there = self.folder.blocks.places()
        done = [(place.begin, place.end) for place in there]
        batch = self.plan.batch
        return list(pieces(gaps(done, *self.rows), -(-self._options.snapshot // batch) * batch))

    def finish(self) -> EmbeddingsMeta:
        """Put together what is done.

        Raises:
            UserError: rows are missing, too many pictures are bad, or none is left.
        """
        try:
            return self._put_together()
        except UserError:
            # Where there are no locks, another process may have done it, and cleared the blocks.
            if (meta := self.folder.finished()) is None:
                raise
            return meta

    def _put_together(self) -> EmbeddingsMeta:
        there = self.folder.blocks.places()
        self.check_bad(sum(place.bad for place in there))
        for first, _ in gaps([(place.begin, place.end) for place in there], *self.rows):
            raise UserError(
                f"{self.folder.path}: rows {first:,} and on are missing: give the command again "
                "(with --beam, the runner's log says why)"
            )
        good = sum(place.good for place in there)
        if not good and self.plan.shards == 1:
            raise UserError(f"no picture can be used; the first: {self._first_fault()}")
        config = self._config
        meta = EmbeddingsMeta(
            **vars(self.plan),
            shard=self.shard,
            items=good,
            bad=sum(place.bad for place in there),
            problems=len(self.items.problems),
            max_bad_share=self._allowed,
            query_domain=config.query_domain,
            gallery_domain=config.gallery_domain,
            checksums={},
        )
        return self.folder.finish(self.items, meta)

    def check_bad(self, bad: int) -> None:
        """Check that not too many rows of the catalogue are bad.

        Args:
            bad: those known so far, besides the rows that its reader could not use.

        Raises:
            UserError: too many are; the message names the first.
        """
        problems = len(self.items.problems)
        share = bad_share(bad, self.plan.rows, problems)
        if share > self._allowed:
            raise UserError(
                f"{bad + problems} pictures and rows cannot be used, a share of {share:.2%} of the "
                f"catalogue where --max-bad-share allows {self._allowed:.2%}; the first: "
                f"{self._first_fault()}"
            )

    def _first_fault(self) -> str:
        if self.items.problems:
            return self.items.problems[0]
        for block in self.folder.blocks.read():
            for row, fault in block.faults.items():
                return f"{self.items.path[row]}: {fault}"
        return f"see {self.folder.path}/{BAD}"


def bad_share(bad: int, rows: int, problems: int) -> float:
    """Return the share that is bad of a catalogue, as :func:`trainer.data.verify.usable` counts.

    Args:
        bad: rows whose pictures cannot be used.
        rows: of the catalogue, good and bad.
        problems: rows that the reader of the catalogue could not use.
    """
    return bad / rows + problems / (problems + rows)


def embed_catalogue(
    run: RunFolder,
    options: EmbedOptions,
    tell: Callable[[str], object] = lambda line: None,
) -> Embedded:
    """Embed a shard of a catalogue, or go on with it; what is done is not done again.

    Args:
        run: a finished run.
        options: of what, and how.
        tell: takes a line on what is done.

    Raises:
        UserError: no model in the run, no pictures, too many that cannot be used, a folder of
            something else, or one that another process is working in.
    """
    embedder = exported_model(options.model_folder or run.file("model"))
    work = Work(run, options, embedder)
    with work.folder.locked():
        if (meta := work.finished()) is None:
            left = work.left()
            tell_start(work, left, tell)
            embed_blocks(work, left, PictureEmbedder(embedder, work.plan.model), tell)
            meta = work.finish()
        else:
            tell("done before")
    return Embedded(work.folder.path, meta)


def tell_start(work: Work, left: list[tuple[int, int]], tell: Callable[[str], object]) -> None:
    """Tell what is done of a shard, and what is left."""
    begin, end = work.rows
    todo = sum(behind - first for first, behind in left)
    if work.plan.shards > 1:
        tell(f"shard {work.shard} of {work.plan.shards}: rows {begin:,} to {end:,}")
    if todo < end - begin:
        tell(f"{end - begin - todo:,} of {end - begin:,} rows are done, {todo:,} are left")


def embed_blocks(
    work: Work,
    left: list[tuple[int, int]],
    pictures: PictureEmbedder,
    tell: Callable[[str], object],
) -> None:
    """Embed stretches of rows, and write each as a block.

    Raises:
        UserError: too many pictures are bad.
    """
    batches = list(pieces(left, work.plan.batch))
    ends = {end for _, end in left}
    total = sum(end - begin for begin, end in left)
    waiting: list[Block] = []
    done, bad = 0, sum(place.bad for place in work.folder.blocks.places())
    clock = _Clock(total, tell)
    with bar("embedding", total) as advance:
        for block in pictures.embed(work.items, batches):
            waiting.append(block)
            advance(block.end - block.begin)
            if block.end not in ends:
                continue
            whole = Block.joined(waiting)
            waiting = []
            work.folder.blocks.write(whole)
            done += whole.end - whole.begin
            bad += len(whole.faults)
            work.check_bad(bad)
            clock.tell(done, bad)


class _Clock:
    """Tells how far some work is, now and then, where no bar does."""

    def __init__(self, total: int, tell: Callable[[str], object]) -> None:
        self._total = total
        self._tell = tell
        self._begun = self._told = time.monotonic()
        self._silent = plain().is_terminal

    def tell(self, done: int, bad: int) -> None:
        now = time.monotonic()
        if self._silent or now < self._told + TOLD_EVERY:
            return
        self._told = now
        rate = done / (now - self._begun)
        self._tell(f"{done:,} of {self._total:,} rows, {rate:,.0f}/s, {bad:,} bad")


def block_of(
    pictures: PictureEmbedder, items: ItemTable, begin: int, end: int, batch: int
) -> Block:
    """Return the block of rows from `begin` up to `end`, which are all that `items` has."""
    return Block.joined(list(pictures.embed(items, pieces([(begin, end)], batch), begin)))
