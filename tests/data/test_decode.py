import io

import numpy as np
import pytest
import tensorflow as tf
from matplotlib import cbook
from PIL import Image, ImageFilter

from trainer.data.decode import decode, decode_file, load, load_part, warp

NO_BOX = tf.constant([np.nan] * 4, tf.float32)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A real photograph, 512 x 600."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB")


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(picture: Image.Image, size=None) -> bytes:
    return encoded(picture.resize(size) if size else picture, "JPEG", quality=95)


def bilinear(picture: np.ndarray, size: int) -> np.ndarray:
    """Resize by plain float64 interpolation between pixel centres."""
    result = picture.astype(np.float64)
    for axis in (0, 1):
        length = result.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        before = np.floor(place).astype(int)
        share = (place - before).reshape([-1 if a == axis else 1 for a in range(3)])
        after = np.minimum(before + 1, length - 1)
        result = result.take(before, axis) * (1 - share) + result.take(after, axis) * share
    return result


def difference(a, b) -> np.ndarray:
    return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))


@pytest.mark.parametrize("size", [(300, 200), (100, 90), (40, 40), (223, 111)])
def test_the_resize_is_bilinear_between_pixel_centres(photo, size):
    picture = photo.resize(size)
    result = decode(encoded(picture, "PNG"), 112)
    assert result.dtype == tf.uint8
    assert difference(result, bilinear(np.asarray(picture), 112)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("size", "most"),
    # A reduced JPEG has a fraction of a pixel too much where its side is no multiple of 8.
    [((512, 600), 1), ((1600, 1200), 1), ((1704, 304), 1), ((500, 470), 4), ((60, 2000), 4)],
)
def test_jpeg_and_png_of_a_picture_agree_at_any_size(photo, size, most):
    picture = photo.resize(size)
    result = difference(decode(jpeg(picture), 112), decode(encoded(picture, "PNG"), 112))
    assert result.mean() < most


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(1023, 1100), (2000, 1700), (4000, 330), (450, 331)])
def test_large_pictures_are_averaged_not_skipped(kind, size):
    # Stripes one pixel wide: a resize that skips pixels shows them, an average is even grey.
    stripes = np.zeros((size[1], size[0], 3), np.uint8)
    stripes[:, ::2] = 255
    picture = Image.fromarray(stripes)
    contents = encoded(picture, kind, **({"quality": 95} if kind == "JPEG" else {}))
    loaded = load(tf.constant(contents), 112, pillow=True)
    height, width = loaded.shape[:2]
    assert 112 <= min(height, width) < 224
    assert max(height, width) < 336
    if size != (450, 331):
        inner = decode(contents, 112)[:-1, :-1]
        assert difference(inner, 127.5).max() < 3


def test_loading_never_makes_a_side_smaller_than_wanted(photo):
    for width, height in ((10, 10), (112, 111), (224, 223), (223, 5000), (447, 448), (448, 448)):
        for contents in (
            jpeg(photo, (width, height)),
            encoded(photo.resize((width, height)), "PNG"),
        ):
            loaded = load(tf.constant(contents), 112).shape
            assert loaded[0] >= min(height, 112)
            assert loaded[1] >= min(width, 112)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    "box", [(20, 30, 100, 150), (300, 0, 212, 600), (0, 0, 512, 600), (17.4, 8.6, 33.3, 12.1)]
)
def test_a_box_cuts_the_stored_picture(photo, kind, box):
    contents = jpeg(photo) if kind == "JPEG" else encoded(photo, "PNG")
    stored = Image.open(io.BytesIO(contents)).convert("RGB")
    left, top = int(np.floor(box[0])), int(np.floor(box[1]))
    right, bottom = int(np.ceil(box[0] + box[2])), int(np.ceil(box[1] + box[3]))
    cut = encoded(stored.crop((left, top, right, bottom)), "PNG")
    result = decode(contents, 64, tf.constant(box, tf.float32))
    # A JPEG is reduced in steps of its own blocks, whose borders are not those of the cut.
    assert difference(result, decode(cut, 64)).mean() < (2.5 if kind == "JPEG" else 1e-9)


def test_a_box_reaching_outside_is_cut_off_and_none_means_all(photo):
    contents = encoded(photo, "PNG")
    outside = decode(contents, 64, tf.constant([-50, -10, 5000, 5000], tf.float32))
    np.testing.assert_array_equal(outside, decode(contents, 64))
    np.testing.assert_array_equal(decode(contents, 64, NO_BOX), decode(contents, 64))
    np.testing.assert_array_equal(decode(jpeg(photo), 64, NO_BOX), decode(jpeg(photo), 64))
    beside = decode(contents, 8, tf.constant([9000, 9000, 5, 5], tf.float32))
    corner = np.asarray(photo)[-1, -1]
    assert (beside.numpy() == corner).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("box", [None, (40, 20, 400, 500)])
@pytest.mark.parametrize("window", [(0.2, 0.3, 0.7, 0.9), (0, 0, 1, 1), (0.5, 0, 0.6, 0.1)])
def test_a_part_covers_the_window_and_says_so(photo, kind, box, window):
    # So blurred that it looks the same at any resolution.
    photo = photo.filter(ImageFilter.GaussianBlur(12))
    contents = jpeg(photo) if kind == "JPEG" else encoded(photo, "PNG")
    box = None if box is None else tf.constant(box, tf.float32)
    part, cover = load_part(tf.constant(contents), 64, box, tf.constant(window, tf.float32))
    cover = cover.numpy()
    assert (cover[:2] <= window[:2]).all()
    assert (cover[2:] >= window[2:]).all()
    whole = load(tf.constant(contents), 10**4, box)
    window = np.array(window)
    of_whole = np.zeros((2, 3))
    of_whole[[0, 1], [0, 1]] = window[2:] - window[:2]
    of_whole[:, 2] = window[:2]
    of_part = of_whole.copy()
    of_part[:, 2] -= cover[:2]
    of_part /= (cover[2:] - cover[:2])[:, None]
    assert difference(view(part, of_part, 32), view(whole, of_whole, 32)).mean() < 1.5
    assert len(part) < len(whole) or window[3] == 1


def view(image, affine, size):
    flat = tf.pad(tf.reshape(image, (-1, 3)), ((0, 1), (0, 0)))
    return warp(
        flat,
        tf.constant([image.shape[:2]]),
        tf.constant([0]),
        tf.constant(affine[None], tf.float32),
        size,
    )[0]


def test_grey_palette_16_bit_and_transparent_png(photo):
    small = photo.resize((70, 60))
    grey = small.convert("L")
    as_rgb = np.repeat(np.asarray(grey)[..., None], 3, -1)
    np.testing.assert_array_equal(load(tf.constant(encoded(grey, "PNG")), 64), as_rgb)
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + 77)
    np.testing.assert_array_equal(load(tf.constant(encoded(wide, "PNG")), 64), as_rgb)
    for plain in (small.quantize(4), small.quantize(16), small.quantize(256), small.convert("1")):
        np.testing.assert_array_equal(
            load(tf.constant(encoded(plain, "PNG")), 64), np.asarray(plain.convert("RGB"))
        )
    holed = encoded(small.quantize(16), "PNG", transparency=bytes([0, 128, 255] * 5))
    on_white = Image.new("RGBA", small.size, "white")
    on_white.alpha_composite(Image.open(io.BytesIO(holed)).convert("RGBA"))
    assert difference(load(tf.constant(holed), 64), np.asarray(on_white)[..., :3]).max() <= 1
    clear = small.convert("RGBA")
    clear.putalpha(grey)
    on_white = Image.new("RGBA", small.size, "white")
    on_white.alpha_composite(clear)
    result = load(tf.constant(encoded(clear, "PNG")), 64)
    assert difference(result, np.asarray(on_white.convert("RGB"))).max() <= 1


@pytest.mark.parametrize("kind", ["BMP", "WEBP", "GIF", "TIFF", "PPM"])
def test_other_kinds_from_files(photo, kind, tmp_path):
    small = photo.resize((70, 60))
    path = tmp_path / "picture"
    path.write_bytes(encoded(small, kind, **({"lossless": True} if kind == "WEBP" else {})))
    expected = decode(encoded(Image.open(path).convert("RGB"), "PNG"), 48)
    np.testing.assert_array_equal(decode_file(str(path), 48), expected)


def test_cmyk_jpeg_has_the_colours_that_pillow_sees(photo):
    contents = encoded(photo.convert("CMYK"), "JPEG", quality=95)
    seen = Image.open(io.BytesIO(contents)).convert("RGB")
    assert difference(decode(contents, 64), decode(encoded(seen, "PNG"), 64)).mean() < 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_animation_gives_its_first_frame(photo, mode):
    frames = [photo.resize((70, 60)).rotate(angle).convert(mode) for angle in (0, 90)]
    for kind in ("WEBP", "GIF"):
        contents = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        result = decode_through_a_file(contents)
        assert difference(result, decode(encoded(frames[0].convert("RGB"), "PNG"), 48)).mean() < 12


def decode_through_a_file(contents: bytes):
    tf.io.gfile.makedirs("ram://decode")
    with tf.io.gfile.GFile("ram://decode/picture", "wb") as file:
        file.write(contents)
    return decode_file("ram://decode/picture", 48)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_bmp_without_pillow(photo, mode):
    small = photo.resize((70, 60))
    result = decode(encoded(small.convert(mode), "BMP"), 48)
    np.testing.assert_array_equal(result, decode(encoded(small, "PNG"), 48))


@pytest.mark.parametrize(
    "contents", [b"", b"no picture", b"\xff\xd8\xff\xe0cut", b"\x89PNG\r\n\x1a\n", b"GIF89a"]
)
def test_what_is_no_picture_is_an_error(contents):
    with pytest.raises(tf.errors.OpError):
        decode(contents, 32)


def test_kinds_that_only_pillow_reads_are_an_error_in_plain_tensorflow(photo):
    small = photo.resize((70, 60))
    moving = encoded(small, "WEBP", save_all=True, append_images=[small.rotate(9)])
    for contents in (encoded(small, "TIFF"), encoded(small.quantize(8), "BMP"), moving):
        with pytest.raises(tf.errors.InvalidArgumentError, match="not a JPEG, PNG, GIF"):
            decode(contents, 32)


def test_a_missing_file_is_named():
    with pytest.raises(tf.errors.NotFoundError, match=r"nowhere/lost\.jpg"):
        decode_file("/nowhere/lost.jpg", 32)


def test_decoding_is_plain_tensorflow(photo, tmp_path):
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
        def __call__(self, contents):
            return decode(contents, 32)

    tf.saved_model.save(Module(), str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    for contents in (jpeg(photo), encoded(photo, "PNG"), jpeg(photo, (2000, 2000))):
        np.testing.assert_array_equal(loaded(contents), decode(contents, 32))
