"""Logarithms of sums of exponentials over part of a matrix, which do not overflow."""

from __future__ import annotations

from typing import Any

from keras import ops


def log_sum_exp(values: Any, mask: Any, axis: int = 1) -> Any:
    """Return log(sum of exp(values) where `mask` holds) along `axis`, which stays, of size 1.

    Where it holds nowhere, the result is about -1e30, with a zero gradient.
    """
    # Not minus infinity, of which the sum over nothing at all would have no gradient.
    return ops.logsumexp(ops.where(mask, values, -1e30), axis=axis, keepdims=True)


def log_add_exp(left: Any, right: Any) -> Any:
    """Return log(exp(left) + exp(right)); of equal ones, either has half the gradient."""
    high = ops.stop_gradient(ops.maximum(left, right))
    return ops.log(ops.exp(left - high) + ops.exp(right - high)) + high


def log_one_plus_sum_exp(values: Any, mask: Any, axis: int = 1) -> Any:
    """Return log(1 + sum of exp(values) where `mask` holds) along `axis`, which stays, of size 1.

    Where it holds nowhere, the result is exactly 0, with a zero gradient.
    """
    # The maximum, or 0 if that is larger, is taken out, so that nothing overflows.
    shift = ops.stop_gradient(ops.max(ops.where(mask, values, 0.0), axis=axis, keepdims=True))
    shift = ops.maximum(shift, 0.0)
    terms = ops.exp(ops.where(mask, values - shift, -float("inf")))
    total = ops.sum(terms, axis=axis, keepdims=True) + ops.exp(-shift)
    return ops.log(total) + shift
