"""Swin Transformer V2: windows of tokens that attend to each other, shifted from block to block."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.models.layers import DropPath, Residual, TokenDense, gelu, unit

EPSILON = 1e-5
#: Length up to which queries and keys are scaled to 1, as published.
LEAST = 1e-12
#: Logarithm of the largest factor on a cosine.
LOG_MOST = math.log(100.0)
#: Added to the scores of tokens that only the shift has brought into one window.
APART = -100.0


@keras.saving.register_keras_serializable(package="mildnet")
class WindowAttention(keras.layers.Layer):
    """Scaled cosine attention among the tokens of each window, with a continuous position bias.

    softmax(s cos(q, k) + 16 sigmoid(b)) v; s is learned for each head and at most 100, b comes from
    a two-layer net on the log-spaced distance of two tokens, in units of the window (or of the
    window that the weights were trained with). Keys have no bias.

    Args:
        heads: number of heads; divides the channels.
        window: height and width of a window, in tokens.
        shift: by how many tokens the windows are moved down and to the right, 0 for none.
        pretrained_window: side of the windows that the weights were trained with, 0 for `window`.

    Maps (B, H, W, C) to (B, H, W, C). A map that is no multiple of the window is padded with zeros
    below and on the right.

    Raises:
        ValueError: a window or a number of heads below 1, or channels that the heads cannot share.

    Liu et al.: Swin Transformer V2, 2022, arXiv 2111.09883.
    """

    def __init__(
        self,
        heads: int,
        window: tuple[int, int],
        shift: tuple[int, int] = (0, 0),
        pretrained_window: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.window = (int(window[0]), int(window[1]))
        self.shift = (int(shift[0]), int(shift[1]))
        self.pretrained_window = pretrained_window
        if min(self.window) < 1 or heads < 1:
            raise ValueError(f"a window of {window} and {heads} heads: both must be above 0")

    def build(self, input_shape: Any) -> None:
        channels = int(input_shape[-1])
        if channels % self.heads:
            raise ValueError(f"{channels} channels cannot be shared by {self.heads} heads")
        policy = self.dtype_policy

        def dense(width: int, name: str, *, bias: bool = True, source: int = channels) -> Any:
            layer = TokenDense(width, use_bias=bias, name=name, dtype=policy)
            layer.build((None, source))
            return layer

        self.query = dense(channels, "query")
        self.key = dense(channels, "key", bias=False)
        self.value = dense(channels, "value")
        self.project = dense(channels, "project")
        self.position_hidden = keras.layers.Dense(
            512, activation="relu", name="position_hidden", dtype="float32"
        )
        self.position_hidden.build((None, 2))
        self.position_bias = keras.layers.Dense(
            self.heads, use_bias=False, name="position_bias", dtype="float32"
        )
        self.position_bias.build((None, 512))
        self.logit_scale = self.add_weight(
            shape=(self.heads, 1, 1),
            initializer=keras.initializers.Constant(math.log(10.0)),
            name="logit_scale",
            dtype="float32",
        )
        self.coordinates, self.pairs = relative_positions(self.window, self.pretrained_window)

    def call(self, tokens: Any) -> Any:
        _, height, width, _ = tokens.shape
        down, right = -height % self.window[0], -width % self.window[1]
        if down or right:
            tokens = ops.pad(tokens, ((0, 0), (0, down), (0, right), (0, 0)))
        if any(self.shift):
            tokens = ops.roll(tokens, (-self.shift[0], -self.shift[1]), axis=(1, 2))
        tokens = self._attend(tokens)
        if any(self.shift):
            tokens = ops.roll(tokens, self.shift, axis=(1, 2))
        if down or right:
            tokens = tokens[:, :height, :width]
        return tokens

    def _attend(self, tokens: Any) -> Any:
        _, height, width, channels = tokens.shape
        # By name, as -1 cannot be worked out for an empty batch.
        batch = ops.shape(tokens)[0]
        (high, wide), size = self.window, channels // self.heads
        rows, columns, place = height // high, width // wide, high * wide
        # Cut into windows once, and not queries, keys and values each.
        tokens = ops.reshape(tokens, (batch, rows, high, columns, wide, channels))
        tokens = ops.transpose(tokens, (0, 1, 3, 2, 4, 5))
        tokens = ops.reshape(tokens, (batch * rows * columns, place, channels))

        def split(values: Any) -> Any:
            """(windows, tokens, C) -> (windows, tokens, heads, C / heads)."""
            return ops.reshape(values, (batch * rows * columns, place, self.heads, size))

        # Cosines and their softmax in float32: up to 100 times a cosine is more than half holds.
        # The factor is given to the queries, as there are fewer of them than of scores.
        factor = ops.exp(ops.minimum(ops.cast(self.logit_scale, "float32"), LOG_MOST))
        query = unit(split(self.query(tokens)), least=LEAST, length=factor[:, 0])
        # Keys of the padding are zero, as keys have no bias.
        key = unit(split(self.key(tokens)), least=LEAST)
        scores = ops.matmul(ops.transpose(query, (0, 2, 1, 3)), ops.transpose(key, (0, 2, 3, 1)))
        bias = self.position_bias(self.position_hidden(ops.convert_to_tensor(self.coordinates)))
        bias = ops.take(bias, ops.convert_to_tensor(self.pairs.reshape(-1)), axis=0)
        bias = ops.transpose(ops.reshape(bias, (place, place, self.heads)), (2, 0, 1))
        bias = 16.0 * ops.sigmoid(bias)
        if any(self.shift):
            # Added to the bias, which is one for the batch, and with it to the scores.
            mask = shift_mask(height, width, self.window, self.shift)
            bias = bias + ops.convert_to_tensor(mask)[:, None]
            scores = ops.reshape(scores, (batch, rows * columns, self.heads, place, place))
        weights = ops.cast(ops.softmax(scores + bias, axis=-1), self.compute_dtype)
        weights = ops.reshape(weights, (batch * rows * columns, self.heads, place, place))
        values = ops.transpose(split(self.value(tokens)), (0, 2, 1, 3))
        values = ops.matmul(weights, values)
        values = ops.transpose(values, (0, 2, 1, 3))
        values = ops.reshape(values, (batch * rows * columns, place, channels))
        values = self.project(values)
        values = ops.reshape(values, (batch, rows, columns, high, wide, channels))
        values = ops.transpose(values, (0, 1, 3, 2, 4, 5))
        return ops.reshape(values, (batch, height, width, channels))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "heads": self.heads,
            "window": self.window,
            "shift": self.shift,
            "pretrained_window": self.pretrained_window,
        }


def relative_positions(
    window: tuple[int, int], pretrained_window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return log-spaced distances of two tokens of a window, and which distance each pair has.

    Args:
        window: height and width, in tokens.
        pretrained_window: side that counts as the unit; 0 for `window` itself.

    Returns:
        float32 ((2h - 1)(2w - 1), 2), from -8..8 log-spaced to -1.06..1.06 (beyond if the window
        has grown since), and int32 (h w, h w) into it.
    """
    h, w = window
    grid = np.meshgrid(np.arange(1 - h, h), np.arange(1 - w, w), indexing="ij")
    whole = np.array([pretrained_window - 1] * 2 if pretrained_window else [h - 1, w - 1])
    table = 8 * np.stack(grid, axis=-1).reshape(-1, 2) / np.maximum(whole, 1)
    table = np.sign(table) * np.log2(np.abs(table) + 1) / np.log2(8)
    y, x = (axis.reshape(-1) for axis in np.meshgrid(np.arange(h), np.arange(w), indexing="ij"))
    down, right = y[:, None] - y[None] + h - 1, x[:, None] - x[None] + w - 1
    return table.astype(np.float32), (down * (2 * w - 1) + right).astype(np.int32)


def shift_mask(
    height: int, width: int, window: tuple[int, int], shift: tuple[int, int]
) -> np.ndarray:
    """Return what is added to the scores: APART where the shift has joined two far ends of a map.

    Returns:
        float32 (windows, tokens, tokens).
    """

    def region(side: int, part: int, moved: int) -> np.ndarray:
        place = np.arange(side)
        return (place >= side - part).astype(int) + ((place >= side - moved) & (moved > 0))

    areas = 3 * region(height, window[0], shift[0])[:, None] + region(width, window[1], shift[1])
    areas = areas.reshape(height // window[0], window[0], width // window[1], window[1])
    areas = areas.transpose(0, 2, 1, 3).reshape(-1, window[0] * window[1])
    return np.where(areas[:, :, None] == areas[:, None], 0.0, APART).astype(np.float32)


@keras.saving.register_keras_serializable(package="mildnet")
class PatchMerging(keras.layers.Layer):
    """Join each 2 x 2 tokens to one of twice the channels: linear, then layer normalisation.

    Maps (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2 C).
    """

    def build(self, input_shape: Any) -> None:
        channels = int(input_shape[-1])
        self.reduction = TokenDense(
            2 * channels, use_bias=False, name="reduction", dtype=self.dtype_policy
        )
        self.reduction.build((None, 4 * channels))
        self.norm = keras.layers.LayerNormalization(
            epsilon=EPSILON, name="norm", dtype=self.dtype_policy
        )
        self.norm.build((None, 2 * channels))

    def call(self, tokens: Any) -> Any:
        _, height, width, _ = tokens.shape
        if height % 2 or width % 2:
            tokens = ops.pad(tokens, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        _, height, width, channels = tokens.shape
        size = (ops.shape(tokens)[0], height // 2, width // 2)
        # As published: down the first column of the square, then down the second.
        tokens = ops.reshape(tokens, (size[0], size[1], 2, size[2], 2, channels))
        corners = ops.reshape(ops.transpose(tokens, (0, 1, 3, 4, 2, 5)), (*size, 4 * channels))
        return self.norm(self.reduction(corners))

    def compute_output_shape(self, input_shape: Any) -> Any:
        rows, height, width, channels = input_shape
        return (rows, -(-height // 2), -(-width // 2), 2 * channels)


def build_swinv2(
    images: Any,
    *,
    embed_dim: int,
    depths: tuple[int, ...],
    heads: tuple[int, ...],
    window: int,
    pretrained_windows: tuple[int, ...] = (),
    patch: int = 4,
    mlp_ratio: float = 4.0,
    drop_path: float = 0.1,
    inputs: Any = None,
) -> keras.Model:
    """Build a Swin V2 trunk on preprocessed pictures.

    Args:
        images: Keras tensor (B, H, W, 3), of any size.
        embed_dim: channels of the first stage; each later one has twice those before.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        window: side of a window, in tokens; a smaller map is one window.
        pretrained_windows: for each stage the side that the weights were trained with, 0 for the
            same; default: the same everywhere.
        patch: side of the patches that the first convolution makes tokens of, in pixels.
        mlp_ratio: width of the hidden layer of a block over its channels.
        drop_path: share of rows that pass the last block by, at least 0, below 1; less in the
            blocks before, none in the first.
        inputs: what the model takes in, if `images` were made of it; default: `images`.

    Returns:
        A model from pictures to normalised tokens (B, h, w, C); its layers `stageN_out` are what
        the stages give, at 1/4, 1/8, 1/16 and 1/32 size.

    Liu et al.: Swin Transformer V2, 2022, arXiv 2111.09883.
    """
    size = tuple(int(side) for side in images.shape[1:3])
    down, right = -size[0] % patch, -size[1] % patch
    x = images
    if down or right:
        x = keras.layers.ZeroPadding2D(((0, down), (0, right)), name="pad")(x)
    x = keras.layers.Conv2D(embed_dim, patch, strides=patch, name="patches")(x)
    x = keras.layers.LayerNormalization(epsilon=EPSILON, name="patches_norm")(x)
    rates = np.linspace(0, drop_path, sum(depths)).tolist()
    number = 0
    for stage, (depth, heads_here) in enumerate(zip(depths, heads, strict=True)):
        # By the size that patches and merging leave if nothing is padded, as published.
        grid = tuple(side // patch // 2**stage for side in size)
        sides = (max(min(grid[0], window), 1), max(min(grid[1], window), 1))
        pretrained = pretrained_windows[stage] if pretrained_windows else 0
        for block in range(depth):
            shift = window // 2 if block % 2 else 0
            moved = (shift if grid[0] > sides[0] else 0, shift if grid[1] > sides[1] else 0)
            name = f"stage{stage + 1}_block{block + 1}"
            branch = WindowAttention(
                heads_here, sides, moved, pretrained, name=f"{name}_attention"
            )(x)
            x = _add(x, branch, rates[number], f"{name}_attention")
            channels = int(x.shape[-1])
            branch = TokenDense(int(mlp_ratio * channels), activation=gelu, name=f"{name}_mlp_1")(x)
            branch = TokenDense(channels, name=f"{name}_mlp_2")(branch)
            out = f"stage{stage + 1}_out" if block + 1 == depth else ""
            x = _add(x, branch, rates[number], f"{name}_mlp", out)
            number += 1
        if stage + 1 < len(depths):
            x = PatchMerging(name=f"stage{stage + 1}_merging")(x)
    x = keras.layers.LayerNormalization(epsilon=EPSILON, name="norm")(x)
    return keras.Model(images if inputs is None else inputs, x, name="swinv2")


def _add(shortcut: Any, branch: Any, rate: float, name: str, out: str = "") -> Any:
    """Normalise a branch and add it: in V2 the norm comes last, within the residual."""
    branch = keras.layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_norm")(branch)
    if rate:
        branch = DropPath(rate, name=f"{name}_drop")(branch)
    return Residual(name=out or f"{name}_add")([shortcut, branch])
