"""Distances and similarities between embeddings, each of which knows its own direction.

Losses compare pairs through :meth:`Distance.away`, which grows as two embeddings part, whether the
measure itself is a distance or a similarity; so no loss flips a sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras import ops


@dataclass(frozen=True)
class Distance:
    """A measure of how far apart, or how alike, two embeddings are.

    `unit` measures compare directions only: embeddings are divided by their lengths first.
    """

    name: str
    larger_is_closer: bool = False
    unit: bool = False

    def away(self, values: Any) -> Any:
        """Turn values of this measure into numbers that are larger the farther apart a pair is."""
        return -values if self.larger_is_closer else values

    def between(self, left: Any, right: Any) -> Any:
        """Measure row by row: (..., D) and (..., D) give (...)."""
        if self.unit:
            return self._from_cosine(ops.sum(unit(left) * unit(right), axis=-1))
        squared = ops.sum(ops.square(left - right), axis=-1)
        return squared if self.name == "squared_euclidean" else safe_sqrt(squared)

    def pairwise(self, embeddings: Any) -> Any:
        """Measure all pairs: (B, D) gives (B, B)."""
        if self.unit:
            return self._from_cosine(gram(unit(embeddings)))
        if self.name == "squared_euclidean":
            return squared_distances(embeddings)
        return euclidean_distances(embeddings)

    def pairwise_away(self, embeddings: Any) -> Any:
        """Return how far apart all pairs are: (B, D) gives (B, B)."""
        return self.away(self.pairwise(embeddings))

    def across(self, left: Any, right: Any) -> Any:
        """Measure each of one set against each of another: (B, D) and (M, D) give (B, M).

        Euclidean distances are formed from inner products, as those of all pairs are.
        """
        beyond = ops.sum(ops.square(right), axis=1)[None, :]
        if self.unit:
            # Of many references, less work than dividing each by its length first.
            products = ops.matmul(unit(left), ops.transpose(right))
            return self._from_cosine(products * _inverse_root(beyond))
        lengths = ops.sum(ops.square(left), axis=1)[:, None]
        products = ops.matmul(left, ops.transpose(right))
        squared = ops.maximum((lengths + beyond) - 2.0 * products, 0.0)
        return squared if self.name == "squared_euclidean" else safe_sqrt(squared)

    def _from_cosine(self, cosine: Any) -> Any:
        return cosine if self.larger_is_closer else ops.maximum(1.0 - cosine, 0.0)


#: The measures by name: `euclidean` |x - y|, `squared_euclidean` |x - y|^2, `angular` 1 - cos(x, y)
#: in 0..2, and `cosine` cos(x, y) in -1..1, a similarity.
DISTANCES: dict[str, Distance] = {
    distance.name: distance
    for distance in (
        Distance("euclidean"),
        Distance("squared_euclidean"),
        Distance("angular", unit=True),
        Distance("cosine", unit=True, larger_is_closer=True),
    )
}


def get(name: str) -> Distance:
    """Return the measure `name`.

    Raises:
        ValueError: there is none; the message lists what there is.
    """
    if name not in DISTANCES:
        raise ValueError(f"distance {name!r} is not one of {', '.join(DISTANCES)}")
    return DISTANCES[name]


def unit(embeddings: Any) -> Any:
    """Scale each row to length 1; a row of zeros stays zero, with a zero gradient."""
    squared = ops.sum(ops.square(embeddings), axis=-1, keepdims=True)
    return embeddings * _inverse_root(squared)


def _inverse_root(squared: Any) -> Any:
    """Return 1 / sqrt(squared); of 0, 0 with a zero gradient."""
    zero = squared <= 0.0
    return ops.where(zero, 0.0, ops.rsqrt(ops.where(zero, 1.0, squared)))


def safe_sqrt(squared: Any) -> Any:
    """Square root whose gradient at 0 is 0, where the true one is infinite."""
    # Writing the condition as `<= 0` lets NaN through to the root, so that a model that has blown
    # up shows in the loss.
    zero = squared <= 0.0
    return ops.where(zero, ops.zeros_like(squared), ops.sqrt(ops.where(zero, 1.0, squared)))


@ops.custom_gradient
def gram(embeddings: Any) -> Any:
    """Inner products of all pairs of rows: (B, D) gives (B, B).

    Both factors are the same matrix, so the gradient needs one matrix product, where the general
    rule takes two.
    """

    def backward(*arguments: Any, upstream: Any = None) -> Any:
        (pull,) = arguments if upstream is None else (upstream,)
        return ops.matmul(pull + ops.transpose(pull), embeddings)

    return ops.matmul(embeddings, ops.transpose(embeddings)), backward


@ops.custom_gradient
def squared_distances(embeddings: Any) -> Any:
    """Squared Euclidean distances of all pairs of rows: (B, D) gives (B, B), with a zero diagonal.

    Formed as |x|^2 + |y|^2 - 2xy, hence with an error of some 1e-7 of the squared lengths, which is
    kept from going below zero.
    """

    def backward(*arguments: Any, upstream: Any = None) -> Any:
        (pull,) = arguments if upstream is None else (upstream,)
        return _pull_together(pull, embeddings) * 2.0

    return _squared_distances(embeddings), backward


@ops.custom_gradient
def euclidean_distances(embeddings: Any) -> Any:
    """Euclidean distances of all pairs of rows: (B, D) gives (B, B), with a zero diagonal.

    The gradient of a distance of 0 is taken as 0.
    """
    distances = ops.sqrt(_squared_distances(embeddings))

    def backward(*arguments: Any, upstream: Any = None) -> Any:
        (pull,) = arguments if upstream is None else (upstream,)
        return _pull_together(ops.divide_no_nan(pull, distances), embeddings)

    return distances, backward


def _squared_distances(embeddings: Any) -> Any:
    products = ops.matmul(embeddings, ops.transpose(embeddings))
    # Lengths are read off the diagonal, not summed anew: an item is at distance 0 from itself.
    lengths = ops.diagonal(products)
    return ops.maximum((lengths[:, None] + lengths[None, :]) - 2.0 * products, 0.0)


def _pull_together(pull: Any, embeddings: Any) -> Any:
    """Sum pull_ij (x_i - x_j) over all pairs in which each row of `embeddings` takes part."""
    both = pull + ops.transpose(pull)
    return ops.sum(both, axis=1, keepdims=True) * embeddings - ops.matmul(both, embeddings)
