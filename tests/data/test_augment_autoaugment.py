"""AutoAugment against torchvision's table and operations, and what it draws against the table."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import chisquare

from trainer.data.augment_autoaugment import LARGEST, POLICY, AutoAugment
from trainer.data.decode import warp
from trainer.data.operations import LOOKS, MOVES, apply_look, move
from trainer.data.pipeline import train_batches
from trainer.data.table import ItemTable

REFERENCE = Path(__file__).parents[1] / "reference"
TABLE = json.loads((REFERENCE / "autoaugment.json").read_text())
GOLDENS = np.load(REFERENCE / "autoaugment_goldens.npz")
SIGNED = {"shear_x", "rotate", "color", "contrast", "sharpness"}
STILL = {"crop_min_area": 1.0, "crop_max_stretch": 1.0, "horizontal_flip": False}


def ours(name: str) -> str:
    return {"ShearX": "shear_x"}.get(name, name.lower())


def moved(picture: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The picture (S, S, 3) after an affine map (3, 3)."""
    size = len(picture)
    rows = np.concatenate([picture.reshape(-1, 3), np.zeros((1, 3), np.uint8)])
    affine = tf.constant(affine[np.newaxis, :2], tf.float32)
    return warp(rows, tf.constant([[size, size]]), tf.constant([0]), affine, size)[0].numpy()


def test_the_policy_is_the_published_one():
    published = [[[ours(n), p, m or 0] for n, p, m in pair] for pair in TABLE["policy"]]
    assert [[list(part) for part in pair] for pair in POLICY] == published
    assert {name for pair in POLICY for name, _, _ in pair} & set(map(ours, TABLE["signed"])) == (
        SIGNED
    )


def test_magnitudes_stand_for_what_they_do_in_torchvision():
    share = np.arange(10) / LARGEST
    space = TABLE["magnitudes"]
    turned = move(np.zeros(10, int), share)
    np.testing.assert_allclose(
        np.rad2deg(np.arctan2(turned[:, 1, 0], turned[:, 0, 0])), space["Rotate"], atol=1e-4
    )
    np.testing.assert_allclose(move(np.ones(10, int), share)[:, 0, 1], space["ShearX"], atol=1e-6)
    np.testing.assert_allclose(0.9 * share, space["Color"], atol=1e-6)
    np.testing.assert_array_equal(8 - np.round(4 * share), space["Posterize"])
    np.testing.assert_allclose(256 * (1 - share), np.multiply(space["Solarize"], 256 / 255))


@pytest.mark.parametrize("key", [key for key in GOLDENS.files if key != "picture"])
def test_operations_are_torchvisions(key):
    name, magnitude, sign = key.split("|")
    amount = int(sign) * int(magnitude) / LARGEST
    picture, want = GOLDENS["picture"], GOLDENS[key].astype(float)
    if ours(name) in MOVES:
        # torchvision names the way that the picture turns, and paints what comes from outside
        # black; which way is which does not matter, for either has the same chance.
        number = np.array([MOVES.index(ours(name))])
        change = move(number, np.array([amount]))[0]
        got = moved(picture, change)
        size = len(picture)
        place = (np.stack(np.meshgrid(*[np.arange(size) + 0.5] * 2), -1) / size).reshape(-1, 2)
        source = place @ change[:2, :2].T + change[:2, 2]
        inside = (np.abs(source - 0.5) < 0.5 - 1 / size).all(axis=1).reshape(size, size)
        assert inside.mean() > 0.6
        assert np.abs(got - want)[inside].max() <= 1.0
        # The same picture at the opposite sign is another one.
        assert np.abs(moved(picture, np.linalg.inv(change)) - want)[inside].max() > 20
        return
    got = apply_look(
        tf.constant(picture, tf.float32), tf.constant(LOOKS.index(ours(name))), tf.constant(amount)
    ).numpy()
    assert np.abs(got - want).max() <= 2.0
    # Operations at the magnitude 0 leave the picture as it is, all others do not.
    assert (np.abs(want - picture).max() > 2) == (ours(name) != "color" or int(magnitude) > 0)


def test_every_operation_of_the_policy_has_a_golden():
    keys = [key.split("|") for key in GOLDENS.files if key != "picture"]
    made = {(ours(name), int(magnitude), int(sign)) for name, magnitude, sign in keys}
    parts = {part for pair in POLICY for part in pair}
    wanted = {(name, magnitude, 1) for name, _, magnitude in parts}
    assert made == wanted | {(name, level, -1) for name, level, _ in wanted if name in SIGNED}


def outcomes() -> dict[tuple, float]:
    """What can come of a draw, and how probable it is: by the published table, in plain loops.

    An outcome is the turn, the lean, and the two looks with their amounts; looks without a
    magnitude have none, and where nothing is applied there is None.
    """
    found: dict[tuple, float] = {}
    for pair in TABLE["policy"]:
        parts = []
        for name, probability, magnitude in pair:
            signs = (1, -1) if name in TABLE["signed"] and magnitude else (1,)
            choices = [(None, 1 - probability)]
            choices += [
                ((ours(name), s * (magnitude or 0)), probability / len(signs)) for s in signs
            ]
            parts.append([choice for choice in choices if choice[1] > 0])
        for first, one in parts[0]:
            for second, two in parts[1]:
                found[first, second] = found.get((first, second), 0.0) + one * two / 25
    return found


def drawn(chosen) -> list[tuple]:
    """The same of what was drawn, read from maps and looks."""
    found = []
    for affine, look in zip(chosen.affine, chosen.look, strict=True):
        parts = []
        for operation, amount in ((look[0], look[2]), (look[1], look[3])):
            name, level = LOOKS[int(operation)], round(float(amount) * LARGEST)
            signed = level if name in SIGNED else abs(level)
            parts.append(None if name == "identity" else (name, signed))
        turn = round(np.rad2deg(np.arctan2(affine[1, 0], affine[1, 1])) / 30 * LARGEST)
        lean = 0 if turn else round(affine[0, 1] / 0.3 * LARGEST)
        found.append((*parts, turn, lean))
    return found


def test_outcomes_are_as_frequent_as_the_table_says():
    count = 40000
    chosen = AutoAugment(**STILL).draw(np.random.default_rng(1), count)
    expected: dict[tuple, float] = {}
    for pair, probability in outcomes().items():
        looks = tuple(part if part and part[0] in LOOKS else None for part in pair)
        moves = [dict([part]) for part in pair if part and part[0] in MOVES]
        turn = sum(part.get("rotate", 0) for part in moves)
        lean = sum(part.get("shear_x", 0) for part in moves)
        key = (*looks, turn, lean)
        expected[key] = expected.get(key, 0.0) + probability
    assert sum(expected.values()) == pytest.approx(1.0)
    counts = dict.fromkeys(expected, 0)
    for outcome in drawn(chosen):
        counts[outcome] += 1  # a KeyError: something that the table does not have
    rates = np.array(list(expected.values()))
    assert chisquare(list(counts.values()), rates * count).pvalue > 0.001


def test_crops_and_flips_are_those_asked_for():
    plain = AutoAugment(crop_min_area=0.5).draw(np.random.default_rng(0), 4000)
    area = np.abs(np.linalg.det(plain.affine[:, :, :2].astype(float)))
    # Neither a turn nor a lean changes the area.
    assert 0.5 - 1e-5 < area.min() < 0.51
    assert 0.99 < area.max() < 1 + 1e-5
    unflipped = AutoAugment(**STILL | {"crop_min_area": 0.5}).draw(np.random.default_rng(0), 400)
    assert (np.linalg.det(unflipped.affine[:, :, :2]) > 0).all()
    mirrored = np.linalg.det(plain.affine[:, :, :2]) < 0
    assert abs(mirrored.mean() - 0.5) < 0.03
    for name, value in (("crop_min_area", 0.0), ("crop_max_stretch", 0.5)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            AutoAugment(**{name: value})


class EveryRow:
    rows_per_batch, steps_per_epoch = 8, 1

    def batch(self, step: int) -> np.ndarray:
        return np.arange(8) // 2


def test_batches_depend_on_seed_and_step_alone(tmp_path):
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3)).astype(np.uint8)
        (tmp_path / f"{number}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    paths = [str(tmp_path / f"{number}.png") for number in range(4)]
    table = ItemTable.from_columns(path=paths, label=list("abcd"))

    def batches(seed: int, start: int) -> list[np.ndarray]:
        made = train_batches(
            table, EveryRow(), image_size=24, augment=AutoAugment(), seed=seed, start=start, stop=4
        )
        return [batch["image"].numpy() for batch in made]

    whole, later = batches(0, 0), batches(0, 2)
    assert [len(whole), len(later)] == [4, 2]
    np.testing.assert_array_equal(whole[2:], later)
    assert np.abs(whole[0].astype(int) - whole[1]).max() > 0
    assert np.abs(whole[0].astype(int) - batches(1, 0)[0]).max() > 0
    # Two views of one picture in a batch are changed differently.
    assert np.abs(whole[0][0].astype(int) - whole[0][1]).max() > 0
