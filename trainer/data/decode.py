"""From the bytes of a picture to S x S pixels: one path for training, evaluation and serving.

A picture is decoded, cut to its box, shrunk, and resized to a square:

- Decoding. JPEG (also CMYK), PNG (16-bit values lose their low byte), GIF and animated WebP (the
  first frame), BMP and WebP are decoded by TensorFlow. A transparent picture is laid on white, as
  shops show it. Orientation tags are ignored: boxes count pixels as they are stored.
- Shrinking. Each side is divided by the largest power of two that leaves it S pixels or more, by
  averaging areas. In a JPEG file most of that happens inside the decoder, which then has less to
  do. What is left to the bilinear resize is a factor below two, where it skips no pixel, so that
  large pictures do not alias.
- Resizing. Bilinear, without keeping the aspect ratio, rounded to uint8: four times less to copy
  than float32, and the model takes both.
"""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf

JPEG_RATIOS = (1, 2, 4, 8)


def decode(contents: tf.Tensor, image_size: int, box: tf.Tensor | None = None) -> tf.Tensor:
    """Return the picture as the model sees it, in plain TensorFlow operations.

    Args:
        contents: the bytes of one picture file, a scalar string.
        image_size: S, side of the result, pixels.
        box: float32 (4,): left, top, width, height in pixels of the stored picture; NaN for the
            whole picture, which is also the default.

    Returns:
        uint8 (S, S, 3), RGB.

    Raises:
        tf.errors.InvalidArgumentError: when run, if the bytes are no picture of a known kind.
    """
    return to_uint8(resize(load(contents, image_size, box), image_size))


def decode_file(path: tf.Tensor, image_size: int, box: tf.Tensor | None = None) -> tf.Tensor:
    """Return :func:`decode` of a file, with Pillow at hand for kinds TensorFlow does not know.

    Args:
        path: a path or URL that `tf.io.gfile` reads, a scalar string.
        image_size: S, side of the result, pixels.
        box: as in :func:`decode`.

    Returns:
        uint8 (S, S, 3), RGB.

    Raises:
        tf.errors.NotFoundError: when run, if there is no such file; the message names it.
        tf.errors.InvalidArgumentError: when run, if it is no picture.
    """
    contents = tf.io.read_file(path)
    return to_uint8(resize(load(contents, image_size, box, pillow=True), image_size))


def load(
    contents: tf.Tensor, image_size: int, box: tf.Tensor | None = None, *, pillow: bool = False
) -> tf.Tensor:
    """Decode a picture, cut it to its box and shrink it towards `image_size`.

    Args:
        contents: the bytes of one picture file, a scalar string.
        image_size: S, pixels: no side becomes smaller than S by shrinking.
        box: as in :func:`decode`.
        pillow: let Pillow decode what TensorFlow does not know; not possible in a SavedModel.

    Returns:
        uint8 (height, width, 3), RGB, both sides below 2 S.
    """
    magic = tf.strings.substr(contents, 0, 4)
    image = tf.cond(
        tf.equal(tf.strings.substr(magic, 0, 3), b"\xff\xd8\xff"),
        lambda: _load_jpeg(contents, image_size, box),
        lambda: _crop(_decode_other(contents, magic, pillow), box),
    )
    image.set_shape((None, None, 3))
    return shrink(image, image_size)


def shrink(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Return `image`, uint8 (height, width, 3), each side halved as often as leaves it S or more."""
    size = tf.shape(image)[:2]
    return tf.cond(
        tf.reduce_any(size >= 2 * image_size),
        lambda: _average(image, size // _power_of_two(size // image_size)),
        lambda: image,
    )


def resize(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Return `image` (height, width, 3) as float32 (S, S, 3), bilinear."""
    return tf.image.resize(image, (image_size, image_size))


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Return `image` rounded to uint8, values outside 0..255 cut off."""
    return tf.saturate_cast(tf.round(image), tf.uint8)


def _power_of_two(factor: tf.Tensor) -> tf.Tensor:
    """Return the largest powers of two that are at most `factor`, at least 1; int32."""
    # int32 values below 2**24 are exact in float32, and so is the logarithm of a power of two
    # after the half that keeps it from falling just short.
    exponent = tf.math.log(tf.cast(tf.maximum(factor, 1), tf.float32) + 0.5) / np.log(2.0)
    return tf.bitwise.left_shift(1, tf.cast(tf.floor(exponent), tf.int32))


def _average(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return to_uint8(tf.raw_ops.ResizeArea(images=image[tf.newaxis], size=size)[0])


def _window(box: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Return left, top, right, bottom of `box` in whole pixels inside the picture, int32."""
    size = tf.cast(tf.stack([width, height]), tf.float32)
    box = tf.where(tf.reduce_any(tf.math.is_nan(box)), tf.concat([[0.0, 0.0], size], 0), box)
    begin = tf.clip_by_value(tf.floor(box[:2]), 0.0, size - 1.0)
    end = tf.clip_by_value(tf.math.ceil(box[:2] + box[2:]), begin + 1.0, size)
    left, top = tf.unstack(tf.cast(begin, tf.int32))
    right, bottom = tf.unstack(tf.cast(end, tf.int32))
    return left, top, right, bottom


def _crop(image: tf.Tensor, box: tf.Tensor | None) -> tf.Tensor:
    if box is None:
        return image
    shape = tf.shape(image)
    left, top, right, bottom = _window(box, shape[0], shape[1])
    return image[top:bottom, left:right]


def _load_jpeg(contents: tf.Tensor, image_size: int, box: tf.Tensor | None) -> tf.Tensor:
    shape = tf.image.extract_jpeg_shape(contents)
    height, width = shape[0], shape[1]
    if box is None:
        left, top, right, bottom = tf.constant(0), tf.constant(0), width, height
    else:
        left, top, right, bottom = _window(box, height, width)
    factor = tf.minimum(right - left, bottom - top) // image_size

    def at(ratio: int) -> tf.Tensor:
        if box is None:
            return tf.io.decode_jpeg(contents, channels=3, ratio=ratio)
        # The decoder counts a crop in pixels of its reduced picture, whose sides it rounds up.
        x, y = left // ratio, top // ratio
        window = tf.stack([y, x, -(-bottom // ratio) - y, -(-right // ratio) - x])
        return tf.image.decode_and_crop_jpeg(contents, window, channels=3, ratio=ratio)

    branch = tf.reduce_sum(tf.cast(factor >= tf.constant(JPEG_RATIOS[1:]), tf.int32))
    return tf.switch_case(branch, [lambda r=ratio: at(r) for ratio in JPEG_RATIOS])


def _decode_other(contents: tf.Tensor, magic: tf.Tensor, pillow: bool) -> tf.Tensor:
    def plain() -> tf.Tensor:
        image = tf.io.decode_image(contents, expand_animations=False)
        # A grey BMP has one channel, one with alpha four.
        return tf.broadcast_to(image[..., :3], tf.concat([tf.shape(image)[:2], [3]], 0))

    def png() -> tf.Tensor:
        return _on_white(tf.io.decode_png(contents, channels=4))

    def rest() -> tf.Tensor:
        if pillow:
            image = tf.numpy_function(_decode_with_pillow, [contents], tf.uint8, stateful=False)
            return tf.ensure_shape(image, (None, None, 3))
        return plain()

    cases = [
        (tf.equal(magic, b"\x89PNG"), png),
        (tf.equal(magic, b"GIF8"), plain),
        (tf.equal(tf.strings.substr(magic, 0, 2), b"BM"), plain),
    ]
    return tf.case(cases, default=rest, exclusive=False)


def _on_white(image: tf.Tensor) -> tf.Tensor:
    """Return the RGBA picture uint8 (..., 4) laid on white, uint8 (..., 3)."""
    colour, alpha = image[..., :3], image[..., 3:]

    def blend() -> tf.Tensor:
        share = tf.cast(alpha, tf.float32) / 255.0
        return to_uint8(tf.cast(colour, tf.float32) * share + 255.0 * (1.0 - share))

    return tf.cond(tf.reduce_all(tf.equal(alpha, 255)), lambda: colour, blend)


def _decode_with_pillow(contents: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(contents)) as picture:
        if picture.mode.startswith("I;16"):
            values = np.asarray(picture, np.uint16) >> 8
            return np.repeat(values.astype(np.uint8)[..., np.newaxis], 3, axis=-1)
        if picture.has_transparency_data:
            front = picture.convert("RGBA")
            back = Image.new("RGBA", front.size, (255, 255, 255, 255))
            return np.asarray(Image.alpha_composite(back, front).convert("RGB"))
        return np.asarray(picture.convert("RGB"))


def warp(image: tf.Tensor, affine: tf.Tensor, image_size: int) -> tf.Tensor:
    """Return views of a picture, resized and moved in one bilinear interpolation.

    Args:
        image: uint8 (height, width, 3).
        affine: float32 (n, 2, 3), see :class:`trainer.data.augment.Draws`.
        image_size: S, pixels.

    Returns:
        float32 (n, S, S, 3) in 0..255.
    """
    shape = tf.cast(tf.shape(image), tf.float32)
    height, width = shape[0], shape[1]
    step = affine[:, :, :2] / image_size
    shift = affine[:, :, 2] + tf.reduce_sum(step, axis=2) * 0.5
    rows = (
        tf.concat([step, shift[..., tf.newaxis]], axis=2) * tf.stack([width, height])[:, tf.newaxis]
    )
    rows -= tf.constant([0.0, 0.0, 0.5])
    flat = tf.reshape(rows, (-1, 6))
    transforms = tf.concat([flat, tf.zeros((tf.shape(flat)[0], 2))], axis=1)
    copies = tf.shape(affine)[0]
    images = tf.tile(tf.cast(image, tf.float32)[tf.newaxis], (copies, 1, 1, 1))
    result = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=(image_size, image_size),
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    )
    return tf.ensure_shape(result, (None, image_size, image_size, 3))
