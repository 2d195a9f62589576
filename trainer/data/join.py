"""Several tables as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.table import ItemTable


def join(tables: Sequence[ItemTable], names: Sequence[str] | None = None) -> ItemTable:
    """Return the rows of tables one after another, with all that they say of them.

    Label codes are those of one table, in the alphabetical order of the labels' text.

    Args:
        tables: one or more.
        names: one for each table, all different and without a colon, that goes before its labels
            (`name:label`), so that labels of two tables are never the same. Default none: labels
            of equal text are one label.
    """
    fronts = [""] * len(tables) if names is None else [f"{name}:" for name in names]
    # Only labels that occur: a part of a table keeps the names of the whole.
    texts = [
        {code: front + table.label_names[code] for code in table.classes.tolist()}
        for table, front in zip(tables, fronts, strict=True)
    ]
    label_names = tuple(sorted({text for found in texts for text in found.values()}))
    code_of = {text: code for code, text in enumerate(label_names)}
    labels, triplets, start = [], [], 0
    for table, found in zip(tables, texts, strict=True):
        renamed = np.zeros(len(table.label_names), np.int64)
        for code, text in found.items():
            renamed[code] = code_of[text]
        labels.append(renamed[table.label])
        triplets.append(table.triplets + start)
        start += len(table)

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(table, name) for table in tables])

    return ItemTable(
        path=column("path"),
        label=np.concatenate(labels),
        label_names=label_names,
        split=column("split"),
        domain=column("domain"),
        category=column("category"),
        box=column("box"),
        triplets=np.concatenate(triplets),
        problems=tuple(dict.fromkeys(note for table in tables for note in table.problems)),
    )
