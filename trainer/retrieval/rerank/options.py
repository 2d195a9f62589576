"""Which post-processing a ranking gets, and the ranking."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.config import UserError, nearest
from trainer.config.options import option, parameters_of, parse
from trainer.retrieval import vectors
from trainer.retrieval.rerank import expansion, k_reciprocal, neighbours, standardise


@dataclass(frozen=True, kw_only=True)
class PostProcessing:
    """What is done between embeddings and neighbours, in this order; by default nothing.

    Raises:
        ValueError: a value that is out of range.
    """

    standardise: bool = option(
        False, "whether dimensions are measured from their mean, in units of their deviation"
    )
    augment_gallery: int = option(
        0, "neighbours that each item is blended with, weights from 1 to 0.01; 0 = none", least=0
    )
    augment_queries: int = option(
        0, "neighbours that each query is blended with, weights from 1 to 0.01; 0 = none", least=0
    )
    expand: int = option(
        0, "neighbours that each query is blended with, weights s^alpha; 0 = none", least=0
    )
    alpha: float = option(3.0, "exponent of the similarity s in expand", least=0)
    reciprocal: bool = option(False, "whether k-reciprocal re-ranking makes the order")
    k1: int = option(20, "neighbours that relations are made of in reciprocal", least=1)
    k2: int = option(6, "neighbours whose relations are averaged in reciprocal", least=1)
    weight: float = option(
        0.3, "share of the plain distance in the result of reciprocal", least=0, most=1
    )

    def __post_init__(self) -> None:
        for name in parameters_of(PostProcessing):
            try:
                value = parse(PostProcessing, name, getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            object.__setattr__(self, name, value)


#: Post-processings by name.
METHODS: dict[str, PostProcessing] = {
    "none": PostProcessing(),
    "standardise": PostProcessing(standardise=True),
    "augment": PostProcessing(augment_gallery=5, augment_queries=5),
    "challenge": PostProcessing(standardise=True, augment_gallery=5, augment_queries=5),
    "alpha_expansion": PostProcessing(expand=5),
    "k_reciprocal": PostProcessing(reciprocal=True),
    "challenge_k_reciprocal": PostProcessing(
        standardise=True, augment_gallery=5, augment_queries=5, reciprocal=True
    ),
}


def method(name: str, changes: Mapping[str, str] | None = None) -> PostProcessing:
    """Return a post-processing by its name, with some of its values changed.

    Args:
        name: one of :data:`METHODS`.
        changes: name of a field -> its value as text.

    Raises:
        UserError: there is no such method or field, or a value does not fit.
    """
    if name not in METHODS:
        raise UserError(f"unknown post-processing {name!r}{nearest(name, METHODS)}")
    known = parameters_of(PostProcessing)
    values = {}
    for key, text in (changes or {}).items():
        if key not in known:
            raise UserError(f"post-processing has no option {key!r}{nearest(key, known)}")
        try:
            values[key] = parse(PostProcessing, key, text)
        except ValueError as error:
            raise UserError(f"{key}: {error}") from None
    return dataclasses.replace(METHODS[name], **values)


def read_changes(settings: Sequence[str]) -> dict[str, str]:
    """Return field -> value of texts like `k1=30`.

    Raises:
        UserError: a text that is not of this form.
    """
    changes = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not (equals and key.strip()):
            raise UserError(f"--set {text}: OPTION=VALUE is needed, such as k1=30")
        changes[key.strip()] = value.strip()
    return changes


def rank(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int = 1000,
    post: PostProcessing = METHODS["none"],
    *,
    own: np.ndarray | None = None,
    block_bytes: int = neighbours.BLOCK_BYTES,
    threads: int | None = None,
) -> neighbours.Neighbours:
    """Return the `k` best items of each query by cosine, after some post-processing.

    Only those items are sorted. The result does not depend on `block_bytes` and `threads`.

    Args:
        queries: (Q, D) float, finite; any length.
        gallery: (G, D) float, finite; any length.
        k: items for each query, at least 1; where the gallery has fewer, as many as there are.
        post: what is done to the embeddings, and what makes the order.
        own: (Q,) the query's own row in the gallery, which is not among its neighbours; -1 if it
            has none. Default: no query has.
        block_bytes: memory for a block of similarities, in bytes; 64 rows of the gallery's size
            are held at the least.
        threads: threads that select; default: the processors this process may use.

    Raises:
        UserError: values that are not finite, tables that do not fit each other, `k` below 1,
            nothing to find, or a library that is missing.
    """
    queries, gallery = (
        np.array(vectors.check_embeddings(table, name))
        for table, name in ((queries, "queries"), (gallery, "gallery"))
    )
    if queries.shape[1] != gallery.shape[1]:
        raise UserError(
            f"queries have {queries.shape[1]} dimensions, the gallery has {gallery.shape[1]}: both "
            "must come from one model"
        )
    own = _own(own, len(queries), len(gallery))
    costs: dict[str, Any] = {"block_bytes": block_bytes, "threads": threads}
    vectors.normalise(queries)
    vectors.normalise(gallery)
    if post.standardise:
        queries, gallery = standardise.standardise(queries, gallery, own=own)
    plain = gallery
    if post.augment_gallery:
        gallery = expansion.augment_gallery(plain, post.augment_gallery, **costs)
    if post.augment_queries:
        queries = expansion.augment_queries(queries, plain, post.augment_queries, own=own, **costs)
    if post.expand:
        queries = expansion.expand_queries(
            queries, gallery, post.expand, post.alpha, own=own, **costs
        )
    if post.reciprocal:
        return k_reciprocal.k_reciprocal(
            queries, gallery, k, k1=post.k1, k2=post.k2, weight=post.weight, own=own, **costs
        )
    return neighbours.nearest(queries, gallery, k, own=own, **costs)


def _own(own: np.ndarray | None, queries: int, gallery: int) -> np.ndarray:
    rows = neighbours.own_rows(own, queries)
    if rows.shape != (queries,) or (rows < -1).any() or (rows >= gallery).any():
        raise UserError(
            f"own is of shape {rows.shape}: a row of the gallery (0..{gallery - 1}), or -1, for "
            f"each of {queries} queries is needed"
        )
    return rows
