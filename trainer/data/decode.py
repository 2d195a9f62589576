"""From the bytes of a picture to S x S pixels: one path for training, evaluation and serving.

A picture is decoded, cut to its box, shrunk, and resized to a square:

- Decoding. TensorFlow decodes JPEG (also CMYK), PNG (16-bit values lose their low byte), GIF (the
  first frame), still WebP, and BMP without palette. Transparent parts of a PNG or WebP become
  white, as shops show them. Orientation tags are ignored: boxes count pixels as stored.
- Shrinking. While both sides hold 2 S pixels or more, they are halved, by averaging areas; a side
  of more than 3 S is then halved on its own. In a JPEG file the first happens inside the decoder,
  which has less to do for it. The bilinear resize is left with a factor below two on the shorter
  side and below three on the longer, so that large pictures hardly alias.
- Resizing. Bilinear, without keeping the aspect ratio, rounded to uint8: a quarter of float32 to
  copy, and models take both.
"""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf

from trainer.data.open_image import to_rgb

JPEG_RATIOS = (1, 2, 4, 8)

#: Pixels of the stored picture that are decoded around the window that is asked for: enough for the
#: neighbours that interpolation looks at, after the largest reduction.
MARGIN = 2 * JPEG_RATIOS[-1]


def decode(
    contents: tf.Tensor, image_size: int, box: tf.Tensor | None = None, *, pillow: bool = False
) -> tf.Tensor:
    """Return the picture as the model sees it, in plain TensorFlow operations.

    Args:
        contents: the bytes of one picture file, a scalar string.
        image_size: S, side of the result, pixels.
        box: float32 (4,): left, top, width, height in pixels of the stored picture; NaN for the
            whole picture, which is also the default. What lies outside the picture is cut off.
        pillow: as in :func:`load`.

    Returns:
        uint8 (S, S, 3), RGB.

    Raises:
        tf.errors.InvalidArgumentError: when run, if the bytes are no picture of a known kind.
    """
    return _resize(load(contents, image_size, box, pillow=pillow), image_size)


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
    return decode(tf.io.read_file(path), image_size, box, pillow=True)


def load(
    contents: tf.Tensor, image_size: int, box: tf.Tensor | None = None, *, pillow: bool = False
) -> tf.Tensor:
    """Decode a picture, cut it to its box and shrink it towards `image_size`.

    Args:
        contents: the bytes of one picture file, a scalar string.
        image_size: S, pixels: shrinking leaves each side this long, if it was.
        box: as in :func:`decode`.
        pillow: let Pillow decode what TensorFlow does not know; not possible in a SavedModel.

    Returns:
        uint8 (height, width, 3), RGB: the shorter side is below 2 S, the longer one below 3 S.
    """

    # Python bytes would be taken for a part of the program, compiled anew for every picture.
    contents = tf.convert_to_tensor(contents, tf.string)

    def anything() -> tf.Tensor:
        return _load(contents, image_size, box, None, pillow)[0]

    def jpeg() -> tf.Tensor:
        size = tf.image.extract_jpeg_shape(contents)[:2]
        usual = (tf.reduce_max(size) < 3 * image_size) & (tf.reduce_min(size) < 2 * image_size)
        return tf.cond(usual, lambda: tf.io.decode_jpeg(contents, channels=3), anything)

    if box is not None:
        return anything()
    # The usual case, a JPEG file of a usual size, takes few operations; each of them costs time.
    image = tf.cond(tf.io.is_jpeg(contents), jpeg, anything)
    return tf.ensure_shape(image, (None, None, 3))


def load_part(
    contents: tf.Tensor, image_size: int, box: tf.Tensor | None, window: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Do what :func:`load` does, with Pillow, for a part of the picture only.

    Args:
        contents: the bytes of one picture file, a scalar string.
        image_size: S, pixels, for the part.
        box: as in :func:`decode`.
        window: float32 (4,): left, top, right, bottom of the part, from 0 to 1 over the box.

    Returns:
        The part and a little more, uint8 (height, width, 3); and what this covers, float32 (4,):
        left, top, right, bottom from 0 to 1 over the box.
    """
    return _load(contents, image_size, box, window, True)


def _resize(image: tf.Tensor, image_size: int) -> tf.Tensor:
    return to_uint8(tf.image.resize(image, (image_size, image_size)))


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Return `image`, float32 within 0..255, rounded to uint8."""
    return tf.cast(image + 0.5, tf.uint8)


# Not inlined: inside a branch that is not taken, a call is passed over faster than all its parts.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _load(
    contents: tf.Tensor,
    image_size: int,
    box: tf.Tensor | None,
    window: tf.Tensor | None,
    pillow: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    def other() -> tuple[tf.Tensor, tf.Tensor]:
        image = _decode_other(contents, pillow)
        whole, part = _edges(tf.shape(image)[:2], box, window)
        return image[part[1] : part[3], part[0] : part[2]], _cover(whole, part)

    image, cover = tf.cond(
        tf.io.is_jpeg(contents), lambda: _load_jpeg(contents, image_size, box, window), other
    )
    image = tf.ensure_shape(image, (None, None, 3))
    size = tf.shape(image)[:2]
    smaller = size // _power_of_two(tf.reduce_min(size) // image_size)
    long = smaller >= 3 * image_size
    smaller = tf.where(long, smaller // _power_of_two(smaller // image_size), smaller)
    image = tf.cond(
        tf.reduce_any(smaller < size),
        lambda: to_uint8(tf.raw_ops.ResizeArea(images=image[tf.newaxis], size=smaller)[0]),
        lambda: image,
    )
    return image, cover


def _power_of_two(factor: tf.Tensor) -> tf.Tensor:
    """Return the largest powers of two that are at most `factor`, at least 1; int32."""
    powers = tf.constant([2**exponent for exponent in range(1, 31)])
    exponent = tf.reduce_sum(tf.cast(factor[..., tf.newaxis] >= powers, tf.int32), axis=-1)
    return tf.bitwise.left_shift(tf.ones_like(exponent), exponent)


def _edges(
    size: tf.Tensor, box: tf.Tensor | None, window: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return left, top, right, bottom in whole pixels, int32 (4,), of the box and of the part."""
    extent = tf.cast(tf.reverse(size, [0]), tf.float32)

    def inside(begin: tf.Tensor, end: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        begin = tf.clip_by_value(tf.floor(begin), low, high - 1.0)
        return tf.concat([begin, tf.clip_by_value(tf.math.ceil(end), begin + 1.0, high)], 0)

    whole = tf.concat([tf.zeros(2), extent], 0)
    if box is not None:
        cut = inside(box[:2], box[:2] + box[2:], tf.zeros(2), extent)
        whole = tf.where(tf.reduce_any(tf.math.is_nan(box)), whole, cut)
    part = whole
    if window is not None:
        low, high = whole[:2], whole[2:]
        begin, end = low + window[:2] * (high - low), low + window[2:] * (high - low)
        part = inside(begin - MARGIN, end + MARGIN, low, high)
    return tf.cast(whole, tf.int32), tf.cast(part, tf.int32)


def _cover(whole: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
    """Return where the edges of `part` lie, from 0 to 1 between those of `whole`, float32 (4,)."""
    begin, extent = whole[:2], whole[2:] - whole[:2]
    return tf.cast(part - tf.tile(begin, [2]), tf.float32) / tf.cast(
        tf.tile(extent, [2]), tf.float32
    )


def _load_jpeg(
    contents: tf.Tensor, image_size: int, box: tf.Tensor | None, window: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    whole, part = _edges(tf.image.extract_jpeg_shape(contents)[:2], box, window)
    factor = tf.reduce_min(part[2:] - part[:2]) // image_size

    def at(ratio: int) -> tuple[tf.Tensor, tf.Tensor]:
        if box is None and window is None:
            return tf.io.decode_jpeg(contents, channels=3, ratio=ratio), _cover(whole, part)
        # The decoder counts a crop in pixels of its reduced picture, whose sides it rounds up.
        begin, end = part[:2] // ratio, -(-part[2:] // ratio)
        crop = tf.concat([tf.reverse(begin, [0]), tf.reverse(end - begin, [0])], 0)
        image = tf.image.decode_and_crop_jpeg(contents, crop, channels=3, ratio=ratio)
        return image, _cover(whole, tf.concat([begin, end], 0) * ratio)

    branch = tf.reduce_sum(tf.cast(factor >= tf.constant(JPEG_RATIOS[1:]), tf.int32))
    return tf.switch_case(branch, [lambda ratio=ratio: at(ratio) for ratio in JPEG_RATIOS])


def _decode_other(contents: tf.Tensor, pillow: bool) -> tf.Tensor:
    """Return a picture that is not JPEG, uint8 (height, width, 3)."""
    header = tf.io.decode_raw(contents, tf.uint8, fixed_length=30)

    def with_pillow() -> tf.Tensor:
        return tf.numpy_function(_decode_with_pillow, [contents], tf.uint8, stateful=False)

    def png() -> tf.Tensor:
        # Where there is no transparency and less than 8 bits a pixel, TensorFlow takes the largest
        # value of so many bits for opaque.
        bits = tf.minimum(tf.cast(header[24], tf.int32), 8)
        opaque = tf.cast(tf.bitwise.left_shift(1, bits) - 1, tf.uint8)
        return _on_white(tf.io.decode_png(contents, channels=4), opaque)

    def webp() -> tf.Tensor:
        frame = tf.io.decode_webp(contents)[0]
        return tf.cond(
            tf.equal(tf.shape(frame)[-1], 4), lambda: _on_white(frame, 255), lambda: frame[..., :3]
        )

    def bmp() -> tf.Tensor:
        return tf.cond(
            tf.equal(header[28], 32),
            lambda: tf.io.decode_bmp(contents, channels=4)[..., :3],
            lambda: tf.io.decode_bmp(contents, channels=3),
        )

    def unknown() -> tf.Tensor:
        message = "not a JPEG, PNG, GIF, still WebP, or BMP picture without palette"
        with tf.control_dependencies([tf.debugging.Assert(tf.constant(False), [message])]):
            return tf.zeros((1, 1, 3), tf.uint8)

    def gif() -> tf.Tensor:
        return tf.io.decode_image(contents, channels=3, expand_animations=False)

    def says(place: int, text: bytes) -> tf.Tensor:
        return tf.reduce_all(header[place : place + len(text)] == tf.constant(list(text), tf.uint8))

    kinds = [(says(0, b"\x89PNG"), png), (says(0, b"GIF8"), gif)]
    if hasattr(tf.io, "decode_webp"):  # since TensorFlow 2.20
        # TensorFlow 2.21 writes past the end of its buffer when it decodes an animation, which
        # ends the process or worse.
        animated = says(12, b"VP8X") & (header[20] & 2 > 0)
        kinds.append((says(0, b"RIFF") & says(8, b"WEBP") & ~animated, webp))
    if not pillow:
        # TensorFlow would take the numbers of a palette for shades of grey.
        kinds.append((says(0, b"BM") & (header[28] >= 24), bmp))
    image = tf.case(kinds, default=with_pillow if pillow else unknown)
    return tf.ensure_shape(image, (None, None, 3))


def _on_white(image: tf.Tensor, opaque: tf.Tensor | int) -> tf.Tensor:
    """Return the RGBA picture uint8 (..., 4) laid on white, uint8 (..., 3).

    A picture with nothing but `opaque` in its last channel is taken as it is.
    """
    colour, alpha = image[..., :3], image[..., 3:]

    def blend() -> tf.Tensor:
        share = tf.cast(alpha, tf.float32) / 255.0
        return to_uint8(tf.cast(colour, tf.float32) * share + 255.0 * (1.0 - share))

    return tf.cond(tf.reduce_all(tf.equal(alpha, opaque)), lambda: colour, blend)


def _decode_with_pillow(contents: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(contents)) as picture:
        return np.asarray(to_rgb(picture))


def warp(
    pixels: tf.Tensor, size: tf.Tensor, source: tf.Tensor, affine: tf.Tensor, image_size: int
) -> tf.Tensor:
    """Return views of pictures, resized and moved in one bilinear interpolation.

    Equal to resizing to (S, S) where `affine` changes nothing. XLA compiles it, which makes it
    several times faster than `ImageProjectiveTransformV3`. Pictures of any size come one after
    another in one buffer, so that what is compiled depends on the length of the buffer only.

    Args:
        pixels: uint8 (P, 3): the rows of the first picture, then those of the second, and so on;
            at least one row more than they have, which is not looked at. P is below 2**31.
        size: int32 (f, 2): height and width of each picture.
        source: int32 (n,): which picture each view shows.
        affine: float32 (n, 2, 3): where each view takes its pixels from, see
            :class:`trainer.data.augment.Draws`.
        image_size: S, pixels.

    Returns:
        uint8 (n, S, S, 3).
    """
    begin = tf.gather(tf.cumsum(size[:, 0] * size[:, 1], exclusive=True), source)
    size = tf.gather(size, source)
    return _blend(pixels, size[:, 1], *_places(size, begin, affine, image_size))


# Two compiled programs, not one: fused, XLA would work out the places anew for every colour.
@tf.function(jit_compile=True, autograph=False)
def _places(
    size: tf.Tensor, begin: tf.Tensor, affine: tf.Tensor, image_size: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return where the pixels of each view (n, S, S) come from.

    Returns:
        Of the four pixels that each is interpolated from, the index of the upper left one, int32;
        and the shares of the right and of the lower ones, float32 from 0 to 1.
    """
    begin, height, width = (tf.reshape(v, (-1, 1, 1)) for v in (begin, size[:, 0], size[:, 1]))
    affine = affine[..., tf.newaxis, tf.newaxis]
    centre = (tf.range(image_size, dtype=tf.float32) + 0.5) / image_size
    across, down = centre[tf.newaxis, :], centre[:, tf.newaxis]

    def along(axis: int, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Pixel k covers k to k + 1, and its value stands in the middle: hence the half.
        place = affine[:, axis, 0] * across + affine[:, axis, 1] * down + affine[:, axis, 2]
        place = place * tf.cast(length, tf.float32) - 0.5
        place = tf.maximum(tf.minimum(place, tf.cast(length - 1, tf.float32)), 0.0)
        # The last pixel is taken as the second of a pair, so that there always is a pair.
        before = tf.minimum(tf.cast(place, tf.int32), tf.maximum(length - 2, 0))
        return before, place - tf.cast(before, tf.float32)

    column, rightness = along(0, width)
    row, lowness = along(1, height)
    return begin + row * width + column, rightness, lowness


@tf.function(jit_compile=True, autograph=False)
def _blend(
    pixels: tf.Tensor, width: tf.Tensor, first: tf.Tensor, rightness: tf.Tensor, lowness: tf.Tensor
) -> tf.Tensor:
    # Right and left in two copies that differ by one pixel (and are never made): one index, and
    # one check of it, serves both. In a picture one pixel wide or high the second of a pair is
    # some other pixel, with a share of 0.
    left, right = pixels[:-1], pixels[1:]
    second = first + tf.reshape(width, (-1, 1, 1))

    def at(side: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(side, index), tf.float32)

    rightness, lowness = rightness[..., tf.newaxis], lowness[..., tf.newaxis]
    upper, lower = at(left, first), at(left, second)
    upper += (at(right, first) - upper) * rightness
    lower += (at(right, second) - lower) * rightness
    return tf.cast(upper + (lower - upper) * lowness + 0.5, tf.uint8)
