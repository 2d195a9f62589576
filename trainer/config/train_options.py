"""How a job is trained: the `train.X` keys of a config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.config.options import option


@dataclass(frozen=True)
class TrainOptions:
    """The training options of a job. `mildnet describe train` prints them."""

    strategy: Literal["auto", "one", "mirrored", "multiworker", "tpu"] = option(
        "auto",
        "which devices share a batch; auto takes several workers if TF_CONFIG names them, "
        "else a TPU, else all GPUs, else one device",
    )
    devices: int | None = option(None, "how many devices to use; none = all there are", least=1)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = option(
        "float32", "number format of the computation; weights stay float32"
    )
    xla: bool = option(False, "compile the training step with XLA")
    accumulate: int = option(1, "batches whose gradients are added up for one update", least=1)
    clip_value: float | None = option(None, "largest absolute value of a gradient entry", above=0)
    clip_range: tuple[float, float] | None = option(
        None, "least and largest value of a gradient entry, instead of clip_value"
    )
    clip_norm: float | None = option(None, "largest norm of all gradients together", above=0)
    decay_exclude: str = option(
        "bias|gamma|beta|norm", "regular expression of weights that do not decay", regex=True
    )
    decay_vectors: bool = option(
        True, "whether weights with one axis or none (biases, norms, scales) may decay at all"
    )
    decay_only: str | None = option(
        None, "regular expression of weights that alone decay; none = all", regex=True
    )
    decay_function: str = option(
        "", "function package.module.name of a weight: whether it decays; joins the two before"
    )
    l2_penalty: float = option(
        0.0,
        "factor of half the squared norm of the weights that decay, as a part of the loss; the "
        "other form of weight decay, optimizer.weight_decay, is not one",
        least=0,
    )
    trainable: str | None = option(
        None, "regular expression of the model's weights to train; none = all it offers", regex=True
    )
    trainable_function: str = option(
        "", "function package.module.name of a weight of the model: whether it is trained"
    )
    trunk_lr_scale: float = option(1.0, "learning rate of the trunk over lr; 0 freezes it", least=0)
    head_lr_scale: float = option(
        1.0, "learning rate of the model's other weights over lr; 0 freezes them", least=0
    )
    loss_lr_scale: float = option(
        1.0, "learning rate of the loss's own weights (proxies) over lr; 0 freezes them", least=0
    )
    trunk_decay_scale: float = option(
        1.0, "weight decay of the trunk over that of the optimizer", least=0
    )
    layer_lr_decay: float = option(
        1.0,
        "factor on the learning rate from each block of the trunk to the one before it",
        above=0,
        most=1,
    )
    layer_blocks: str = option(
        r"((stage|stack|group|conv|layer|block)s?_?((dw|pw)_)?\d+[a-z]?)(_block_?\d+)?",
        "regular expression that finds the name of a block in the path of a weight, for "
        "layer_lr_decay; a weight without one belongs to the block before it",
        regex=True,
    )
    ema: float | None = option(
        None, "momentum of an exponential moving average of the weights", above=0, below=1
    )
    deterministic: bool = option(True, "bit-identical results for the same seed and machine")
    validate_every: int | None = option(
        None, "steps between validations; none = every epoch", least=1
    )
    checkpoint_every: int | None = option(
        None, "steps between checkpoints; none = every epoch", least=1
    )
    keep: int = option(3, "how many checkpoints to keep, beside the best", least=1)
    log_every: int = option(50, "steps between two lines of the log", least=1)
    summary_every: int | None = option(
        None,
        "steps between summaries of a training batch: similarities, shares of violations, its "
        "hardest triplets as a picture; none = with every validation",
        least=1,
    )
    summary_margin: float = option(
        0.1, "margin of cosine similarity that summaries count violations of", least=0
    )
    monitor: Literal["recall_at_1", "map_at_r", "val_loss", "triplet_accuracy"] | None = option(
        None, "what makes a checkpoint the best; none = chosen by what the data allows"
    )
    hold_mb: int = option(
        256,
        "memory for decoded training pictures, megabytes: if all fit, each file is read once and "
        "not at every step; batches are the same",
        least=0,
    )
    verify: Literal["full", "header", "none"] = option(
        "full", "check of the image files before training: decode each, read its header, none"
    )

    @property
    def gradient_range(self) -> tuple[float, float] | None:
        """Least and largest value of a gradient entry, from `clip_range` or `clip_value`."""
        if self.clip_value is not None:
            return -self.clip_value, self.clip_value
        return self.clip_range
