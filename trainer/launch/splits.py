"""The data set of a job, and the parts of it that the job trains on and is measured on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.config import UserError
from trainer.config.job import JobConfig

if TYPE_CHECKING:
    from trainer.data.table import ItemTable

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """The parts of the table that a job uses."""

    train: ItemTable
    val: ItemTable | None
    test: ItemTable
    #: Name of the split that `test` is: a data set without a test split is tested on another.
    test_name: str

    @classmethod
    def of(cls, table: ItemTable, config: JobConfig) -> Splits:
        names = table.splits
        train = table.in_split(*split_names(config.train_split))
        if not len(train):
            raise UserError(
                f"train_split={config.train_split!r} has no images; the data set has the splits "
                f"{', '.join(names)}"
            )
        val = table.in_split(*split_names(config.val_split))
        test, test_name = table.in_split(*split_names(config.test_split)), config.test_split
        if not len(test):
            test, test_name = val, config.val_split
        if not len(test):
            raise UserError(
                f"neither test_split={config.test_split!r} nor val_split={config.val_split!r} has "
                f"images to evaluate on; the data set has the splits {', '.join(names)}"
            )
        return cls(train, val if len(val) else None, test, test_name)


def read_split(config: JobConfig, names: str | None = None) -> ItemTable:
    """Return rows of a config's data set.

    Args:
        config: its data set, divided as a job divides it.
        names: comma list of splits; default: what a job is tested on.

    Raises:
        UserError: the data is not there, or the split is empty.
    """
    table = read_table(config)
    if names is None:
        return Splits.of(table, config).test
    rows = table.in_split(*split_names(names))
    if not len(rows):
        raise UserError(f"split {names!r} has no images; there are {', '.join(table.splits)}")
    return rows


def read_table(config: JobConfig) -> ItemTable:
    """Return a config's data set; one without splits is divided by class, by the config's seed.

    Raises:
        UserError: the data is not there.
    """
    from trainer.data.split import split_by_class

    if config.model_module:
        from trainer.launch.modules import read_datasets

        return read_datasets(config)
    table = config.build("dataset", config.data_path)
    if not set(table.splits) <= {""}:
        return table
    LOG.info("the data has no splits: its classes are divided at random, by the seed")
    return split_by_class(table, config.val_share, config.test_share, config.seed)


def split_names(text: str) -> list[str]:
    """Return the names in a comma list of splits."""
    return [name.strip() for name in text.split(",") if name.strip()]
