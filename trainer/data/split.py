"""Splits for data sets that bring none."""

from __future__ import annotations

import dataclasses

import numpy as np

from trainer.config import UserError
from trainer.data.table import ItemTable


def split_by_class(
    table: ItemTable, val_share: float, test_share: float, seed: int = 0
) -> ItemTable:
    """Return `table` with its classes divided into `train`, `val` and `test`.

    Retrieval is for products that were not there in training, so whole classes are held out.
    At least two classes go to each part, none to `val` if its share is 0.

    Args:
        table: rows to divide.
        val_share: share of the classes, in [0, 1).
        test_share: share of the classes, in (0, 1).
        seed: decides which classes go where.

    Raises:
        UserError: too few classes, or shares that leave nothing to train on.
    """
    classes = np.random.default_rng(seed).permutation(table.classes)
    test = max(2, round(test_share * len(classes)))
    val = max(2, round(val_share * len(classes))) if val_share else 0
    if len(classes) - test - val < 2:
        raise UserError(
            f"the data has no splits and {len(classes)} classes: after {test} classes for test "
            f"and {val} for validation too few are left to train on; add a column split, or "
            "lower test_share and val_share"
        )
    split = np.full(len(table), "train", object)
    split[np.isin(table.label, classes[:test])] = "test"
    split[np.isin(table.label, classes[test : test + val])] = "val"
    return dataclasses.replace(table, split=split)
