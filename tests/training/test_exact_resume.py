"""Every sampler and every miner: a job that was killed goes on to the very same end."""

import shutil

import numpy as np
import pytest
from PIL import Image

from trainer.config import registry
from trainer.config.job import EXAMPLE_ROWS
from trainer.data.table import ItemTable
from trainer.training.loop import fit
from trainer.training.strategy import get_strategy
from trainer.training.validation import Validator

from . import tasks

ITEMS, VIEWS, STEPS, SAVED = 12, 4, 8, 3
#: By what a sampler gives: a loss over such examples, and how many of them make a batch.
EXAMPLES = {"labels": ("triplet_hard", 16), "pairs": ("ranker", 4), "triplets": ("hinge_loss", 4)}
#: Parameters that bring in draws of their own, tried on every component that has them.
OPTIONS = {
    "sampler": [
        {"shuffle": True},
        {"category_share": 0.5, "category_by": "batch"},
        {"category_share": 0.5, "category_by": "epoch"},
        {"class_weight": "size"},
        {"query_domain": "street", "positive_domain": "shop", "intra_domain": 0.5},
    ],
    "miner": [{"positives": 1}, {"negatives": "random"}],
}
DRAWING = ("distance_weighted", {"positives": 1})


def variants(kind):
    """Each registered component as it is by default, and with the options that it has."""
    return [
        (name, options)
        for name, found in registry.components(kind).items()
        for options in [{}, *OPTIONS[kind]]
        if set(options) <= set(found.parameters)
    ]


def make_table(folder="pictures"):
    """Twelve items in three categories, two views of each on the street and two in the shop."""
    rows = [(item, view) for item in range(ITEMS) for view in range(VIEWS)]
    place = np.arange(ITEMS) * VIEWS
    return ItemTable.from_columns(
        [f"{folder}/{row}.png" for row in range(len(rows))],
        [f"item {item:02}" for item, _ in rows],
        domain=["street" if view < VIEWS // 2 else "shop" for _, view in rows],
        category=[f"category {item % 3}" for item, _ in rows],
        triplets=np.concatenate(
            [np.stack([place, place + n, np.roll(place, n)], axis=1) for n in (1, 2)]
        ),
    )


def make_pictures():
    """Pixels of the rows of the table: a colour for each item, and noise."""
    random = np.random.default_rng(0)
    colors = np.repeat(random.uniform(40, 210, (ITEMS, 1, 1, 3)), VIEWS, axis=0)
    noise = random.normal(0, 40, (ITEMS * VIEWS, tasks.SIDE, tasks.SIDE, 3))
    return (colors + noise).clip(0, 255).astype(np.uint8)


def make_task(run_dir, sampler, miner=None, **changes):
    name, options = sampler
    component = registry.get("sampler", name)
    gives = component.tags["gives"]
    loss, batch_size = EXAMPLES["triplets" if miner else gives][0], EXAMPLES[gives][1]
    table, pixels = make_table(), make_pictures().astype(np.float32)
    chosen = component.build(table, batch_size, 5, **options)
    total = chosen.rows_per_batch

    def arrays(number):
        rows = chosen.batch(number)
        return pixels[rows], table.label[rows]

    given = {
        "steps": STEPS,
        "batches": lambda start: tasks.batches(get_strategy("one"), start, STEPS, arrays, total),
        "checkpoint_every": SAVED,
        **changes,
    }
    return tasks.make_task(
        run_dir,
        loss=loss,
        miner=miner,
        model={"norm": False},
        example_rows=EXAMPLE_ROWS[gives],
        images_per_batch=total,
        **given,
    )


class Start:
    """A tracker that sees where a training begins."""

    def start(self, step, config):
        self.step = step

    def log(self, step, values):
        pass

    def close(self):
        pass


def end_of(run_dir, *parts, **changes):
    """Train to the end, and return all that the last checkpoint holds."""
    strategy, task = make_task(run_dir, *parts, **changes)
    with strategy.scope():
        fit(task)
    with np.load(run_dir / "checkpoints" / f"step-{STEPS:09d}.npz") as archive:
        return {name: archive[name] for name in archive.files}


def restarted(run_dir, whole, *parts):
    """Train on from what the run `whole` would have left, had it been killed early on."""
    (run_dir / "checkpoints").mkdir(parents=True)
    shutil.copy(whole / "checkpoints" / f"step-{SAVED:09d}.npz", run_dir / "checkpoints")
    start = Start()
    end = end_of(run_dir, *parts, trackers=[start])
    assert start.step == SAVED
    return end


def assert_same(one, two):
    assert set(one) == set(two)
    for name, value in one.items():
        assert value.tobytes() == two[name].tobytes(), name


@pytest.mark.parametrize("sampler", variants("sampler"), ids=str)
def test_every_sampler(tmp_path, sampler):
    whole = end_of(tmp_path / "whole", sampler)
    assert_same(whole, restarted(tmp_path / "parts", tmp_path / "whole", sampler))


@pytest.mark.parametrize("miner", variants("miner"), ids=str)
def test_every_miner(tmp_path, miner):
    parts = ("classes_per_batch", {"category_share": 0.5}), miner
    whole = end_of(tmp_path / "whole", *parts)
    assert any(name.startswith("loss/") for name in whole), "the state of the draws"
    assert_same(whole, restarted(tmp_path / "parts", tmp_path / "whole", *parts))


def test_other_draws_end_elsewhere(tmp_path):
    """The check that the equality of miners can fail."""
    parts = ("classes_per_batch", {}), DRAWING
    whole = end_of(tmp_path / "whole", *parts)
    (tmp_path / "parts" / "checkpoints").mkdir(parents=True)
    saved = f"step-{SAVED:09d}.npz"
    with np.load(tmp_path / "whole" / "checkpoints" / saved) as archive:
        arrays = {name: archive[name] for name in archive.files}
    (state,) = (name for name in arrays if name.startswith("loss/"))
    arrays[state] = arrays[state] + [0, 1]
    np.savez(tmp_path / "parts" / "checkpoints" / saved, **arrays)
    again = end_of(tmp_path / "parts", *parts)
    assert any(not np.array_equal(again[name], whole[name]) for name in whole if "kernel" in name)


def test_validations_leave_the_draws_of_training_alone(tmp_path):
    for row, pixels in enumerate(make_pictures()):
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
    parts = ("classes_per_batch", {}), DRAWING
    whole = end_of(tmp_path / "whole", *parts)
    seen = []

    def validate():
        seen.append(validator())
        # Nothing has been learnt in between: the same triplets have the same loss.
        assert validator() == seen[-1]
        return seen[-1]

    strategy, task = make_task(tmp_path / "validated", *parts, validate_every=4, validate=validate)
    table = make_table(tmp_path)
    validator = Validator(
        task.model,
        table,
        image_size=tasks.SIDE,
        loss=task.loss,
        example_rows=1,
        sampler=registry.get("sampler", "classes_per_batch").build(table, 16, 5),
    )
    with strategy.scope():
        fit(task)
    assert len({numbers["val_loss"] for numbers in seen}) == 2
    for path, value in tasks.weights(task).items():
        np.testing.assert_array_equal(whole[f"model/{path}"], value)
