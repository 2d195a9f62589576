import hashlib
import os
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import ItemTable
from trainer.data.augment import Draws, Mildnet, Plain
from trainer.data.augment_standard import Standard
from trainer.data.decode import decode_file, load
from trainer.data.pipeline import GROUP, eval_batches, train_batches
from trainer.data.samplers.classes_per_batch import ClassesPerBatch

SIZE = 32


class Rows:
    """A sampler that gives the batches it was told, over and over."""

    def __init__(self, *batches):
        self._batches = np.array(batches, np.int64)
        self.rows_per_batch = self._batches.shape[1]
        self.steps_per_epoch = len(batches)

    def batch(self, step: int) -> np.ndarray:
        return self._batches[step % len(self._batches)]


def write_pictures(folder: str, count: int) -> list[str]:
    """Write different smooth pictures of different sizes, JPEG and PNG by turns."""
    random = np.random.default_rng(1)
    paths = []
    for number in range(count):
        height, width = random.integers(33, 90, 2)
        coarse = random.integers(0, 256, (4, 4, 3)).astype(np.float32)
        picture = tf.cast(tf.image.resize(coarse, (height, width)), tf.uint8)
        encode, end = [(tf.io.encode_jpeg, "jpg"), (tf.io.encode_png, "png")][number % 2]
        paths.append(f"{folder}/{number} ä.{end}")
        tf.io.write_file(paths[-1], encode(picture))
    return paths


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> ItemTable:
    paths = write_pictures(str(tmp_path_factory.mktemp("pictures")), 24)
    return ItemTable.from_columns(paths, np.arange(24) // 6)


def batches(dataset, count=None) -> list[dict[str, np.ndarray]]:
    return list(islice(dataset.as_numpy_iterator(), count))


def assert_same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def plain(table, row) -> np.ndarray:
    return decode_file(table.path[row], SIZE, tf.constant(table.box[row])).numpy()


def test_a_batch_holds_the_rows_of_the_sampler_in_order(table):
    rows = [5, 0, 23, 7, 7, 5, 1, 2, 5, 11, 20, 19]
    (batch,) = batches(train_batches(table, Rows(rows), image_size=SIZE, stop=1))
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == batch["row"].dtype == np.int64
    np.testing.assert_array_equal(batch["row"], rows)
    np.testing.assert_array_equal(batch["label"], table.label[rows])
    np.testing.assert_array_equal(batch["image"], [plain(table, row) for row in rows])


def test_static_shapes_are_known(table):
    for dataset in (
        train_batches(table, Rows([0, 1]), image_size=SIZE, augment=Mildnet()),
        eval_batches(table, image_size=SIZE, batch_size=5),
    ):
        assert dataset.element_spec["image"].shape.as_list()[1:] == [SIZE, SIZE, 3]
        assert dataset.element_spec["label"].shape.rank == 1


@pytest.mark.parametrize(
    "augment", [None, Mildnet(), Standard()], ids=["none", "mildnet", "standard"]
)
def test_going_on_at_step_k_equals_skipping_k_batches(table, augment):
    sampler = ClassesPerBatch(table, 12, seed=2, images_per_class=3)

    def run(start, stop):
        return train_batches(
            table, sampler, image_size=SIZE, augment=augment, seed=9, start=start, stop=stop
        )

    whole = batches(run(0, 7))
    assert len(whole) == 7
    assert_same(batches(run(4, 7)), whole[4:])
    assert_same(batches(run(6, None), 1), whole[6:])
    assert_same(batches(run(0, None), 2), whole[:2])


@pytest.mark.parametrize(
    ("augment", "slices"),
    [
        (Mildnet(), [(0, 6), (6, 12)]),
        (Standard(), [(3, 4), (0, 3), (4, 12)]),
        (Standard(), [(0, 1)]),
        (None, [(2, 4), (8, 12)]),
    ],
)
def test_slices_are_parts_of_the_global_batch(table, augment, slices):
    sampler = Rows([5, 0, 23, 7, 7, 5, 1, 2, 5, 11, 20, 19], list(range(12)))
    same = {"image_size": SIZE, "augment": augment, "seed": 4, "stop": 2}
    whole = batches(train_batches(table, sampler, **same))
    shares = batches(train_batches(table, sampler, **same, slices=slices))
    expected = [
        {key: value[low:high] for key, value in batch.items()}
        for batch in whole
        for low, high in slices
    ]
    assert_same(shares, expected)


@pytest.mark.parametrize("slices", [[(0, 3), (3, 5)], [(2, 2)], [(-1, 2)]])
def test_slices_outside_the_batch_are_refused(table, slices):
    with pytest.raises(ValueError, match="batch of 4 rows"):
        train_batches(table, Rows([0, 1, 2, 3]), image_size=SIZE, slices=slices)


def test_copies_of_an_image_are_decoded_once_and_changed_differently(table, monkeypatch):
    reads = []
    read_file = tf.io.read_file

    def counting(path):
        def count(name):
            reads.append(name.decode())
            return name

        return read_file(tf.ensure_shape(tf.numpy_function(count, [path], tf.string), ()))

    monkeypatch.setattr(tf.io, "read_file", counting)
    rows = [3, 8, 3, 3, 9, 3, 8, 1]
    assert len(rows) <= GROUP
    (batch,) = batches(train_batches(table, Rows(rows), image_size=SIZE, augment=Mildnet(), stop=1))
    assert sorted(reads) == sorted(table.path[[1, 3, 8, 9]])
    np.testing.assert_array_equal(batch["row"], rows)
    copies = batch["image"][[0, 2, 3, 5]]
    for i in range(4):
        for j in range(i):
            assert (copies[i] != copies[j]).any()
    reads.clear()
    list(train_batches(table, Rows([3] * 40), image_size=SIZE, stop=1))
    assert len(reads) == -(-40 // GROUP)


def test_a_picture_depends_on_seed_step_and_position_not_on_other_pictures(table):
    def images(rows, seed=0, start=0):
        dataset = train_batches(
            table,
            Rows(rows),
            image_size=SIZE,
            augment=Standard(),
            seed=seed,
            start=start,
            stop=start + 1,
        )
        return batches(dataset)[0]["image"]

    one = images([4, 9, 6, 2])
    np.testing.assert_array_equal(one[[1, 3]], images([7, 9, 0, 2])[[1, 3]])
    assert (one != images([4, 9, 6, 2], seed=1)).any(axis=(1, 2, 3)).all()
    assert (one != images([4, 9, 6, 2], start=1)).any(axis=(1, 2, 3)).all()


class Fixed:
    """An augmentation that applies one map, with or without looking for the part it needs."""

    def __init__(self, affine, crops):
        self._affine, self.crops = np.array(affine, np.float32), crops

    def draw(self, random, count):
        return Draws(np.tile(self._affine, (count, 1, 1)), np.empty((count, 0), np.float32))

    def look(self, image, choice):
        return image


@pytest.mark.parametrize(
    "affine",
    [
        [[0.5, 0, 0.1], [0, 0.4, 0.55]],
        [[-0.5, 0, 1.0], [0, 0.3, 0.0]],
        [[0.3, 0.3, -0.1], [-0.3, 0.3, 0.4]],
    ],
)
@pytest.mark.parametrize("boxed", [False, True])
def test_decoding_only_the_part_that_a_crop_shows_gives_the_same_picture(table, affine, boxed):
    if boxed:
        box = np.tile(np.array([3, 4, 29, 28], np.float32), (24, 1))
        table = ItemTable.from_columns(table.path, table.label, box=box)
    part, whole = (
        batches(
            train_batches(
                table, Rows([1, 2, 3, 5]), image_size=SIZE, augment=Fixed(affine, crops), stop=1
            )
        )[0]["image"].astype(float)
        for crops in (True, False)
    )
    # A JPEG that is cut has other neighbours at the cut, which its colours are smoothed with.
    assert np.abs(part - whole).mean() < 1.0
    assert np.abs(part - whole)[[0, 2, 3]].max() <= 1.0


def test_identity_and_none_agree_with_evaluation(table):
    rows = list(range(24))
    evaluated = np.concatenate(
        [b["image"] for b in batches(eval_batches(table, image_size=SIZE, batch_size=7))]
    ).astype(float)
    for augment, most in ((None, 0), (Plain(), 0), (Fixed(np.eye(3)[:2], False), 1)):
        (batch,) = batches(
            train_batches(table, Rows(rows), image_size=SIZE, augment=augment, stop=1)
        )
        assert np.abs(batch["image"] - evaluated).max() <= most


def test_boxes_are_cut_out(table):
    box = np.full((24, 4), np.nan, np.float32)
    box[3] = [5, 6, 20, 21]
    boxed = ItemTable.from_columns(table.path, table.label, box=box)
    same = {"image_size": SIZE, "stop": 1}
    (cut,) = batches(train_batches(boxed, Rows([2, 3]), **same))
    (whole,) = batches(train_batches(table, Rows([2, 3]), **same))
    np.testing.assert_array_equal(cut["image"][0], whole["image"][0])
    np.testing.assert_array_equal(cut["image"][1], plain(boxed, 3))
    assert (cut["image"][1] != whole["image"][1]).any()
    evaluated = batches(eval_batches(boxed, image_size=SIZE, batch_size=24))[0]["image"]
    np.testing.assert_array_equal(evaluated[2:4], cut["image"])


def test_eval_batches_give_every_row_in_order(table):
    found = batches(eval_batches(table, image_size=SIZE, batch_size=9))
    assert [len(batch["row"]) for batch in found] == [9, 9, 6]
    np.testing.assert_array_equal(np.concatenate([b["row"] for b in found]), np.arange(24))
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in found]), table.label)
    np.testing.assert_array_equal(found[1]["image"][2], plain(table, 11))
    assert batches(eval_batches(table.select([]), image_size=SIZE, batch_size=9)) == []


@pytest.mark.parametrize("augment", [None, Mildnet(), Standard(num_layers=0, erasing=0.0)])
@pytest.mark.parametrize("boxed", [False, True])
def test_pictures_held_in_memory_are_those_of_the_files(table, augment, boxed):
    if boxed:
        boxes = np.tile(np.float32([3, 4, 25, 20]), (len(table), 1))
        boxes[::3] = np.nan
        table = ItemTable.from_columns(table.path, table.label, box=boxes)
    sampler = ClassesPerBatch(table, 8, seed=3, images_per_class=4)
    options = {"image_size": SIZE, "augment": augment, "start": 1, "stop": 4}
    slices = [(0, 4), (4, 8)]
    from_files = batches(train_batches(table, sampler, slices=slices, **options))
    assert len(from_files) == 6
    for hold in (0, 1000, 10**7):
        found = batches(train_batches(table, sampler, slices=slices, hold=hold, **options))
        assert_same(found, from_files)


@pytest.mark.parametrize("augment", [None, Mildnet()])
def test_files_are_read_once_where_their_pictures_fit(tmp_path, augment):
    paths = write_pictures(str(tmp_path), 8)
    table = ItemTable.from_columns(paths, np.arange(8) // 4)
    sampler = ClassesPerBatch(table, 8, seed=3)
    size = sum(np.prod(load(tf.io.read_file(path), SIZE, pillow=True).shape) for path in paths)
    needed = int(size) if augment else 8 * SIZE * SIZE * 3
    options = {"image_size": SIZE, "augment": augment, "stop": 3}
    held = train_batches(table, sampler, hold=needed, **options)
    not_held = train_batches(table, sampler, hold=needed - 1, **options)
    expected = batches(train_batches(table, sampler, **options))
    for path in paths:
        os.remove(path)
    assert_same(batches(held), expected)
    with pytest.raises(tf.errors.NotFoundError):
        batches(not_held)
    with pytest.raises(tf.errors.NotFoundError):
        train_batches(table, sampler, hold=needed, **options)


def test_a_missing_file_is_named(table, tmp_path):
    lost = str(tmp_path / "lost.jpg")
    broken = ItemTable.from_columns([*table.path[:3], lost], [0, 0, 1, 1])
    for dataset in (
        train_batches(broken, Rows([0, 3]), image_size=SIZE, augment=Mildnet()),
        train_batches(broken, Rows([0, 3]), image_size=SIZE),
        eval_batches(broken, image_size=SIZE, batch_size=2),
    ):
        with pytest.raises(tf.errors.NotFoundError, match=r"lost\.jpg"):
            batches(dataset, 3)


def test_files_of_other_file_systems(table):
    tf.io.gfile.makedirs("ram://pipeline")
    paths = write_pictures("ram://pipeline", 4)
    remote = ItemTable.from_columns(paths, [0, 0, 1, 1])
    local = ItemTable.from_columns(table.path[:4], [0, 0, 1, 1])
    assert_same(
        batches(train_batches(remote, Rows([0, 3, 2]), image_size=SIZE, augment=Mildnet(), stop=2)),
        batches(train_batches(local, Rows([0, 3, 2]), image_size=SIZE, augment=Mildnet(), stop=2)),
    )


def fingerprint(folder: str) -> str:
    """Return a digest of some batches over pictures written to `folder`."""
    table = ItemTable.from_columns(write_pictures(folder, 12), np.arange(12) // 4)
    sampler = ClassesPerBatch(table, 6, seed=1, images_per_class=3)
    digest = hashlib.sha256()
    for augment in (None, Mildnet(), Standard()):
        for batch in train_batches(table, sampler, image_size=SIZE, augment=augment, stop=4):
            digest.update(batch["image"].numpy().tobytes() + batch["row"].numpy().tobytes())
    return digest.hexdigest()


def test_op_determinism_changes_nothing(tmp_path):
    script = (
        "import sys, tensorflow as tf; from tests.data.test_pipeline import fingerprint;"
        "tf.config.experimental.enable_op_determinism(); tf.keras.utils.set_random_seed(0);"
        "print(fingerprint(sys.argv[1]))"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    (tmp_path / "there").mkdir()
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "there")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    (tmp_path / "here").mkdir()
    assert run.stdout.strip() == fingerprint(str(tmp_path / "here"))
