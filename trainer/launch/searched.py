"""Embeddings to search in: those of a run's data, or of a file."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.launch.run_folder import RunFolder
from trainer.retrieval.embeddings_file import read_embeddings
from trainer.retrieval.metrics import chosen_rows


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What several ways to search were measured on.

    Attributes:
        source: run folder or file that the embeddings are from.
        items: items that were searched.
        dimensions: of an embedding.
        queries: queries that were asked.
        k: neighbours for each.
        inside: whether queries are items themselves, each of which leaves itself out.
        machine: processor, cores and versions.
        notes: what was left out, and why.
    """

    source: str
    items: int
    dimensions: int
    queries: int
    k: int
    inside: bool
    machine: dict[str, Any]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; times are in seconds."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Searched:
    """Embeddings, and which of them search which.

    Attributes:
        source: run folder or file that they are from.
        embeddings: (N, D) float32.
        labels: (N,) int64 or str.
        queries: (Q,) rows that search, ascending.
        gallery: (G,) rows that are found, ascending.
    """

    source: str
    embeddings: np.ndarray
    labels: np.ndarray
    queries: np.ndarray
    gallery: np.ndarray

    @classmethod
    def of_run(cls, run: RunFolder, split: str | None = None) -> Searched:
        """Embed data of a run; its query and gallery domains say what searches what.

        Args:
            run: a finished run.
            split: comma list of splits; default: the one that the run was tested on.

        Raises:
            UserError: no exported model, or data that is not there.
        """
        from trainer.data.domains import query_masks
        from trainer.launch.evaluating import embed_split

        config = run.config()
        table, embeddings = embed_split(run, split)
        masks = query_masks(table, config.query_domain, config.gallery_domain)
        return cls(run.path, embeddings, table.label, *chosen_rows(*masks, len(table)))

    @classmethod
    def of_file(cls, path: str | os.PathLike[str]) -> Searched:
        """Return what is in an .npz file.

        Raises:
            UserError: no such file, or arrays that do not fit.
        """
        content = read_embeddings(path)
        rows = chosen_rows(content.is_query, content.is_gallery, len(content.embeddings))
        return cls(os.fspath(path), content.embeddings, content.labels, *rows)
