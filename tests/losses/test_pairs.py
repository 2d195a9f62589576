import numpy as np
import pytest

from trainer.losses.pairs import Classmates, add_at, at, pair_masks


def test_masks_by_hand():
    positive, negative = pair_masks(np.array([4, 9, 4]))
    np.testing.assert_array_equal(positive, [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(negative, [[0, 1, 0], [1, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize("width", [1, 3, 32])
def test_classmates_are_all_positives_once(width):
    labels = np.random.default_rng(0).integers(-4, 4, 30) * 2**60
    classmates = Classmates(labels)
    seen = np.zeros((30, 30), int)

    def body(positions, exists, rounds):
        for row, (columns, valid) in enumerate(
            zip(np.array(positions), np.array(exists), strict=True)
        ):
            for column in columns[valid]:
                seen[row, column] += 1
        return (rounds + 1,)

    (rounds,) = classmates.fold(width, body, (np.int32(0),))
    np.testing.assert_array_equal(seen, np.asarray(pair_masks(labels)[0]).astype(int))
    most = np.unique(labels, return_counts=True)[1].max() - 1
    assert int(classmates.most) == most
    assert int(rounds) == -(-most // width)


def test_at_reads_and_add_at_adds_repeats():
    matrix = np.arange(9, dtype=np.float32).reshape(3, 3)
    columns = np.array([[0, 2], [1, 1], [2, 0]], np.int32)
    np.testing.assert_array_equal(at(matrix, columns), [[0, 2], [4, 4], [8, 6]])
    added = add_at(matrix, columns, np.ones((3, 2), np.float32))
    np.testing.assert_array_equal(added, [[1, 1, 3], [3, 6, 5], [7, 7, 9]])
