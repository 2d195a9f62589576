"""Losses over embeddings, by name: `get("triplet_semihard", margin=0.2)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.config import registry

if TYPE_CHECKING:
    import keras

    from trainer.losses.matrix import MatrixLoss
    from trainer.losses.memory import CrossBatchMemory
    from trainer.losses.miners.base import Miner


def get(name: str, **parameters: Any) -> keras.losses.Loss | keras.layers.Layer:
    """Build the loss registered as `name`.

    Args:
        name: one of `trainer.config.registry.components("loss")`.
        **parameters: the loss's keyword parameters; those not named keep their defaults.

    Returns:
        A `keras.losses.Loss`: `loss(labels, embeddings)` is a scalar. Losses marked
        `takes="labels"` want integer labels (B,) and embeddings (B, D); those marked
        `takes="pairs"` labels (P,) and embeddings (P, 2, D) in the order query, positive; those
        marked `takes="triplets"` want embeddings (T, 3, D) in the order anchor, positive, negative,
        and look at the labels not at all. Losses with weights of their own (`proxy_anchor`,
        `proxy_nca`, `soft_triple`, `arcface`, `subcenter_arcface`, `cosface`, `normalized_softmax`)
        are `keras.layers.Layer` with the same call, after `loss.prepare(classes, embedding_dim)`.

    Raises:
        UserError: no such loss, no such parameter, or a value of the wrong type.
        ValueError: a value out of its range.

    >>> get("triplet_semihard", margin=0.2).margin
    0.2
    """
    return registry.get("loss", name).build(**parameters)


def get_miner(name: str, seed: int = 0, **parameters: Any) -> Miner:
    """Build the miner registered as `name`, to go with a loss over triplets in `MinedTriplets`.

    Args:
        name: one of `trainer.config.registry.components("miner")`.
        seed: decides its draws, if it makes any.
        **parameters: the miner's keyword parameters; those not named keep their defaults.

    Returns:
        `miner(labels, embeddings)` gives anchor, positive, negative, int32 (T,) places in the
        batch, and valid (T,), which of them are triplets.

    Raises:
        UserError: no such miner, no such parameter, or a value of the wrong type.
        ValueError: a value out of its range.

    >>> get_miner("distance_weighted", cutoff=0.6).cutoff
    0.6
    """
    return registry.get("miner", name).build(seed, **parameters)


def get_memory(name: str, loss: MatrixLoss, **parameters: Any) -> CrossBatchMemory:
    """Build the memory registered as `name`, which the batches of a loss are held against as well.

    Args:
        name: one of `trainer.config.registry.components("memory")`.
        loss: one that `get` made, marked `memory="yes"`.
        **parameters: the memory's keyword parameters; those not named keep their defaults.

    Returns:
        A loss that is called as `loss` is, after `memory.prepare(embedding_dim)`.

    Raises:
        UserError: no such memory, no such parameter, or a value of the wrong type.
        ValueError: a value out of its range, or the loss is none of anchors against references.

    >>> get_memory("xbm", get("contrastive_similarity"), size=64).size
    64
    """
    return registry.get("memory", name).build(loss, **parameters)
