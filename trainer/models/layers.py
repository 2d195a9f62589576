"""Layers that embedding models are made of and Keras does not have."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

#: Channel means and deviations of ImageNet in RGB order, of values 0..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: The same of the pictures that CLIP was trained on.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
#: Channel means that the Caffe VGG weights were trained with: BGR order, values 0..255.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)

PREPROCESSING = ("rescale", "caffe", "torch", "clip", "tf", "lite", "none")


@keras.saving.register_keras_serializable(package="mildnet")
class Preprocess(keras.layers.Layer):
    """Turn RGB pixels 0..255 into what a trunk was trained on.

    Args:
        mode: `rescale` x / 255 (MILDNet); `caffe` BGR minus the channel means, values about
            -124..152; `torch` x / 255, minus mean, over deviation of ImageNet; `clip` the same
            with those of CLIP; `tf` -1..1; `lite` (x - 127) / 128 (EfficientNet-Lite); `none`.

    Computed in float32 whatever the dtype policy: bfloat16 has no room for 255 grey levels and a
    fraction.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, mode: str = "rescale", **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if mode not in PREPROCESSING:
            raise ValueError(f"preprocessing {mode!r} is not one of {', '.join(PREPROCESSING)}")
        self.mode = mode

    def call(self, images: Any) -> Any:
        images = ops.cast(images, "float32")
        if self.mode == "rescale":
            return images / 255.0
        if self.mode == "tf":
            return images / 127.5 - 1.0
        if self.mode == "lite":
            return (images - 127.0) / 128.0
        if self.mode in ("torch", "clip"):
            clip = self.mode == "clip"
            mean, deviation = (CLIP_MEAN, CLIP_STD) if clip else (IMAGENET_MEAN, IMAGENET_STD)
            scaled = images / 255.0 - ops.array(mean, "float32")
            return scaled / ops.array(deviation, "float32")
        if self.mode == "caffe":
            return ops.flip(images, axis=-1) - ops.array(CAFFE_MEAN_BGR, "float32")
        return images

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode}


@keras.saving.register_keras_serializable(package="mildnet")
class FitPixels(keras.layers.Layer):
    """Resize pictures, then scale and shift their pixels: what a net from elsewhere asks for.

    In float32 whatever the dtype policy. Keras' own `Resizing` would not do: called without a word
    on training, it takes that for granted, and the layers after it with it.

    Args:
        size: height and width in pixels; None: they stay as they are.
        scale: factor on pixels, one for all channels or one for each.
        offset: added after that, likewise.
        interpolation: as of `keras.ops.image.resize`, which see for the other arguments too.
        antialias: whether shrinking smooths.
        crop_to_aspect_ratio: whether another shape of picture is cut and not stretched.
        pad_to_aspect_ratio: whether it is padded and not stretched.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        scale: float | tuple[float, ...] = 1.0,
        offset: float | tuple[float, ...] = 0.0,
        interpolation: str = "bilinear",
        antialias: bool = False,
        crop_to_aspect_ratio: bool = False,
        pad_to_aspect_ratio: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.scale, self.offset = scale, offset
        self.resizing = {
            "interpolation": interpolation,
            "antialias": antialias,
            "crop_to_aspect_ratio": crop_to_aspect_ratio,
            "pad_to_aspect_ratio": pad_to_aspect_ratio,
        }

    def call(self, images: Any) -> Any:
        images = ops.cast(images, "float32")
        if self.size is not None and tuple(images.shape[1:3]) != self.size:
            images = ops.image.resize(
                images, self.size, data_format="channels_last", **self.resizing
            )
        return images * ops.array(self.scale, "float32") + ops.array(self.offset, "float32")

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], *(self.size or input_shape[1:3]), input_shape[3])

    def get_config(self) -> dict[str, Any]:
        config = {"size": self.size, "scale": self.scale, "offset": self.offset}
        return {**super().get_config(), **config, **self.resizing}


@keras.saving.register_keras_serializable(package="mildnet")
class GeM(keras.layers.Layer):
    """Generalised mean pooling over height and width: (mean of max(x, eps)^p)^(1/p).

    p = 1 is average pooling, large p approaches max pooling; p is learned, one scalar per layer.
    Maps (B, H, W, C) to float32 (B, C), at least `epsilon`.

    Args:
        p: initial exponent, above 0.
        epsilon: smallest activation that counts, above 0.

    Raises:
        ValueError: `p` or `epsilon` is not above 0.

    Radenovic, Tolias, Chum: Fine-tuning CNN image retrieval with no human annotation, 2018,
    arXiv 1711.02512.
    """

    def __init__(self, p: float = 3.0, epsilon: float = 1e-6, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if p <= 0 or epsilon <= 0:
            raise ValueError(f"GeM needs p and epsilon above 0, not {p} and {epsilon}")
        self.initial_p = float(p)
        self.epsilon = float(epsilon)

    def build(self, input_shape: Any) -> None:
        self.p = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(self.initial_p), name="p"
        )

    def call(self, features: Any) -> Any:
        features = ops.maximum(ops.cast(features, "float32"), self.epsilon)
        # The mean is homogeneous: dividing by the peak and multiplying by it again changes neither
        # value nor gradient, and keeps x^p finite where p has grown or activations are large.
        peak = ops.stop_gradient(ops.max(features, axis=(1, 2), keepdims=True))
        powers = ops.power(features / peak, self.p)
        means = ops.mean(powers, axis=(1, 2))
        return ops.power(means, 1.0 / self.p) * ops.squeeze(peak, axis=(1, 2))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "p": self.initial_p, "epsilon": self.epsilon}


def unit(vectors: Any, *, axis: int = -1, least: float = 1e-6, length: Any = 1.0) -> Any:
    """Return vectors of unit length in float32: x / max(|x|, least), times `length`.

    A zero vector stays zero and passes no gradient: 1 / least as the slope there would be infinite
    in float16, and infinite times the zero slope of a ReLU is NaN.

    Args:
        vectors: of any shape.
        axis: the axis along which they lie, the last by default.
        least: length below which a vector is not scaled up to 1.
        length: of what is returned; a tensor of one number a vector or fewer, of size 1 on `axis`.
    """
    vectors = ops.cast(vectors, "float32")
    squares = ops.sum(ops.square(vectors), axis=axis, keepdims=True)
    scale = ops.rsqrt(ops.maximum(squares, least**2))
    return vectors * (ops.where(squares > 0, scale, 0.0) * length)


@keras.saving.register_keras_serializable(package="mildnet")
def gelu(inputs: Any) -> Any:
    """Return x P(x), P being the normal distribution function: the exact GELU.

    The same as `keras.activations.gelu`, in half the passes over memory on TensorFlow, which has no
    kernel for it and keeps every part of what Keras composes it of for the gradient.

    Args:
        inputs: of any shape and float type.

    Hendrycks and Gimpel: Gaussian error linear units, 2016, arXiv 1606.08415.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.gelu(inputs, approximate=False)
    return _gelu(inputs)


@ops.custom_gradient
def _gelu(inputs: Any) -> Any:
    # The form that TensorFlow knows how to fuse with the matrix product before it.
    twice = 1.0 + ops.erf(inputs * math.sqrt(0.5))

    def gradient(upstream: Any) -> Any:
        density = ops.exp(ops.square(inputs) * -0.5) * (1 / math.sqrt(2 * math.pi))
        return upstream * (0.5 * twice + inputs * density)

    return (0.5 * inputs) * twice, gradient


@keras.saving.register_keras_serializable(package="mildnet")
class TokenDense(keras.layers.Dense):
    """A dense layer over the last axis of maps (B, ..., C), as one product of rows.

    Keras' own puts the axes back before it adds the bias, where TensorFlow no longer sees that
    bias and activation belong to the product and could be done with it.
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        rows = super().call(ops.reshape(inputs, (-1, inputs.shape[-1])), training=training)
        return ops.reshape(rows, (*ops.shape(inputs)[:-1], self.units))


@keras.saving.register_keras_serializable(package="mildnet")
class L2Normalize(keras.layers.Layer):
    """Scale vectors to unit length: x / max(|x|, 1e-6), in float32 whatever the dtype policy.

    A zero vector stays zero and passes no gradient. (`keras.layers.UnitNormalization` gives NaN
    gradients there, and a head that ends in ReLU and dropout does produce zero vectors.)

    Args:
        axis: the axis along which the vectors lie, the last by default.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.axis = axis

    def call(self, vectors: Any) -> Any:
        return unit(vectors, axis=self.axis)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable(package="mildnet")
class LRN2D(keras.layers.Layer):
    """Local response normalisation across channels: each value over what its neighbours say.

        y[c] = x[c] / (k + alpha * sum of x[j]^2 over |j - c| <= n // 2) ** beta

    The sum stops at the first and last channel. `alpha` is not divided by `n`: the paper and
    `tf.nn.local_response_normalization` have it so, and the layer that VisNet's code calls
    "LRN2D from Caffe" too, while Caffe itself divides. In float32 whatever the dtype policy.

    Args:
        n: width of the window in channels, odd.
        alpha: weight of the squares, at least 0.
        k: what the denominator starts from, above 0.
        beta: exponent of the denominator.

    Raises:
        ValueError: a value out of range.

    Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional neural networks,
    2012, section 3.3.
    """

    def __init__(
        self, n: int = 5, alpha: float = 1e-4, k: float = 2.0, beta: float = 0.75, **kwargs: Any
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if n < 1 or n % 2 == 0:
            raise ValueError(f"LRN2D needs an odd window of channels, not {n}")
        if alpha < 0 or k <= 0:
            raise ValueError(f"LRN2D needs alpha of 0 or more and k above 0, not {alpha} and {k}")
        self.n, self.alpha, self.k, self.beta = n, float(alpha), float(k), float(beta)

    def call(self, features: Any) -> Any:
        features = ops.cast(features, "float32")
        half, channels = self.n // 2, features.shape[-1]
        squares = ops.pad(ops.square(features), [(0, 0)] * (features.ndim - 1) + [(half, half)])
        total = squares[..., :channels]
        for shift in range(1, self.n):
            total = total + squares[..., shift : shift + channels]
        return features * ops.power(self.k + self.alpha * total, -self.beta)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"n": self.n, "alpha": self.alpha, "k": self.k, "beta": self.beta}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="mildnet")
class Residual(keras.layers.Layer):
    """Add two feature maps of the same shape.

    `keras.layers.Add` takes one of them for a bias where the maps are 1 x 1, and fails there for
    an empty batch (Keras 3.15 on TensorFlow).
    """

    def call(self, inputs: Any) -> Any:
        start, change = inputs
        return start + change

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0]


@keras.saving.register_keras_serializable(package="mildnet")
class Dropout(keras.layers.Layer):
    """Zero a share of the inputs while training, and scale up the others to make up for it.

    It differs from `keras.layers.Dropout` in two ways:

    - The noise is drawn for the global batch, of which each replica takes its rows: N replicas
      drop what one device drops. (In Keras all replicas share one pattern.)
    - The path of the random state depends on the layer's name alone. Keras numbers that state by
      how many were made before in the process, so that a checkpoint which goes by variable paths
      could not be read by another process.

    Args:
        rate: share of the inputs set to zero, at least 0, below 1.
        seed: start of the random state; drawn from Keras' global seed if None.

    Raises:
        ValueError: `rate` is out of range.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {rate}")
        self.rate = float(rate)
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        # Made here, not in the constructor, for the layer's name to be part of the path.
        self.random = keras.random.SeedGenerator(self.seed, name="random")

    def noise_shape(self, rows: Any, rest: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the shape of the noise for a global batch of `rows`, each of shape `rest`."""
        return (rows, *rest)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.rate == 0:
            return inputs
        replica, replicas = _replica()
        rows, *rest = ops.shape(inputs)
        shape = self.noise_shape(replicas * rows, tuple(rest))
        noise = keras.random.uniform(shape, seed=self.random)
        if replicas > 1:
            noise = noise[replica * rows : (replica + 1) * rows]
        keep = ops.cast(noise >= self.rate, inputs.dtype)
        return inputs * keep / (1.0 - self.rate)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable(package="mildnet")
class DropPath(Dropout):
    """Stochastic depth: a share of the rows of a batch pass a residual branch by.

    What is left is scaled up to make up for it. The rows are drawn as :class:`Dropout` draws its
    noise: N replicas drop what one device drops.

    Args:
        rate: share of the rows, at least 0, below 1.
        seed: start of the random state; drawn from Keras' global seed if None.

    Huang et al.: Deep networks with stochastic depth, 2016, arXiv 1603.09382.
    """

    def noise_shape(self, rows: Any, rest: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return one number a row."""
        return (rows, *(1 for _ in rest))


def _replica() -> tuple[Any, int]:
    """Return the number of the replica that runs this code, and how many there are."""
    if keras.backend.backend() != "tensorflow":
        return 0, 1
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return 0, 1
    return context.replica_id_in_sync_group, context.num_replicas_in_sync


@keras.saving.register_keras_serializable(package="mildnet")
class TokenPool(keras.layers.Layer):
    """Takes from tokens (B, N, C) of a transformer what is pooled, in float32.

    The last rows x columns tokens are those of the patches, row by row; before them come the class
    token and other ones.

    Args:
        kind: `cls`, the first token, (B, C); `mean` of the patches, (B, C); `map` of the patches,
            (B, rows, columns, C).
        rows: patches from top to bottom.
        columns: patches from left to right.

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(self, kind: str, rows: int, columns: int, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if kind not in ("cls", "mean", "map"):
            raise ValueError(f"kind {kind!r} is not one of cls, mean, map")
        self.kind, self.rows, self.columns = kind, rows, columns

    def call(self, tokens: Any) -> Any:
        tokens = ops.cast(tokens, "float32")
        if self.kind == "cls":
            return tokens[:, 0]
        patches = tokens[:, tokens.shape[1] - self.rows * self.columns :]
        if self.kind == "mean":
            return ops.mean(patches, axis=1)
        shape = (ops.shape(patches)[0], self.rows, self.columns, patches.shape[-1])
        return ops.reshape(patches, shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        map_ = (self.rows, self.columns) if self.kind == "map" else ()
        return (input_shape[0], *map_, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        config = {"kind": self.kind, "rows": self.rows, "columns": self.columns}
        return {**super().get_config(), **config}
