"""`mildnet benchmark-rerank`: what each post-processing gains on one's own data, and costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.config import UserError
from trainer.launch.environment import describe_machine
from trainer.launch.searched import Comparison, Searched
from trainer.retrieval.rerank.cost import measure
from trainer.retrieval.rerank.options import METHODS, PostProcessing
from trainer.retrieval.rerank.quality import Quality, quality


@dataclass(frozen=True)
class MethodResult:
    """A post-processing, how well it ranks, and what it takes.

    Attributes:
        method: its name.
        options: what it does.
        quality: of the ranking.
        seconds: for all queries, once.
        cpu_seconds: of all threads together.
        peak_bytes: by how much a process of its own grew at the most; None where the system does
            not tell.
    """

    method: str
    options: PostProcessing
    quality: Quality
    seconds: float
    cpu_seconds: float
    peak_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class RerankComparison(Comparison):
    """What was measured, and on what.

    Attributes:
        rows: each method.
    """

    rows: tuple[MethodResult, ...]


def compare_methods(
    searched: Searched,
    methods: Sequence[tuple[str, PostProcessing]] = tuple(METHODS.items()),
    k: int = 1000,
    *,
    tell: Callable[[str], None] = lambda words: None,
) -> RerankComparison:
    """Rank with each post-processing, one after the other.

    Args:
        searched: embeddings, and which search which.
        methods: what is compared, with names.
        k: items ranked for each query.
        tell: called with what is being done.

    Raises:
        UserError: no method that can be run, or no query with an item of its label.
    """
    position = np.full(len(searched.embeddings), -1, np.int64)
    position[searched.gallery] = np.arange(len(searched.gallery))
    own = position[searched.queries]
    queries, gallery = searched.queries, searched.gallery
    rows, notes = [], []
    for name, post in methods:
        tell(f"measuring {name}")
        try:
            cost = measure(searched.embeddings[queries], searched.embeddings[gallery], k, post, own)
        except UserError as error:
            notes.append(f"{name} left out: {error}")
            continue
        found = quality(cost.rows, searched.labels[queries], searched.labels[gallery], own=own)
        rows.append(
            MethodResult(name, post, found, cost.seconds, cost.cpu_seconds, cost.peak_bytes)
        )
    if not rows:
        raise UserError(f"nothing could be measured; {'; '.join(notes)}")
    return RerankComparison(
        source=searched.source,
        items=len(gallery),
        dimensions=searched.embeddings.shape[1],
        queries=len(queries),
        k=min(k, len(gallery) - bool((own >= 0).any())),
        inside=bool((own >= 0).any()),
        machine=describe_machine(),
        rows=tuple(rows),
        notes=tuple(notes),
    )
