"""Which items search and which are found, by the domains that they come from."""

from __future__ import annotations

import numpy as np

from trainer.data.table import ItemTable


def query_masks(
    table: ItemTable, query_domain: str, gallery_domain: str
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return which rows are queries and which are gallery; None where all rows are."""
    is_query = table.domain == query_domain if query_domain else None
    is_gallery = table.domain == gallery_domain if gallery_domain else None
    if is_gallery is not None and is_query is None:
        is_query = np.ones(len(table), bool)
    if is_query is not None and is_gallery is None:
        is_gallery = np.ones(len(table), bool)
    return is_query, is_gallery
