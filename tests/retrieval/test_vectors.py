"""Checks of ids: exact, one kind, nothing through a float."""

import numpy as np
import pytest

from trainer.config import UserError
from trainer.retrieval.vectors import check_embeddings, check_ids, normalise


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2**63 - 1], np.int64),
        (np.array([1, 2], np.uint8), np.int64),
        (np.array([1, 2**63 - 1], np.uint64), np.int64),
        (np.array([1, 2**62 + 1], object), np.int64),
        (["a", "longer", ""], np.str_),
        (np.array(["1", "x"], object), np.str_),
    ],
)
def test_ids_come_back_as_they_were(values, dtype):
    found = check_ids(values, "ids")
    assert np.issubdtype(found.dtype, dtype)
    assert found.tolist() == [v.item() if isinstance(v, np.generic) else v for v in values]


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 2.0],
        [1, "a"],
        [True, False],
        [1, 2**63],
        np.array([2**63], np.uint64),
        [None, "a"],
        [b"a"],
    ],
)
def test_other_ids_are_refused(values):
    with pytest.raises(UserError, match="ids"):
        check_ids(values, "ids")


def test_float32_tables_are_not_copied():
    table = np.ones((3, 2), np.float32)
    assert check_embeddings(table) is table


def test_normalise_leaves_zero_rows():
    table = np.array([[3, 4], [0, 0], [1e-30, 0]], np.float32)
    normalise(table)
    np.testing.assert_allclose(table, [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
