import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer.config import UserError
from trainer.data.decode import decode_file
from trainer.data.table import ItemTable
from trainer.data.verify import require_split, usable, verify_images


def picture(width=90, height=60, seed=0):
    values = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height))


def png_of_size(width, height):
    """A PNG of a hundred bytes that says it is that large."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    )


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A folder with good and bad files of many kinds."""
    folder = tmp_path_factory.mktemp("gallery")
    rgb = picture()
    other = rgb.transpose(Image.Transpose.ROTATE_180)
    rgb.save(folder / "good.jpg", quality=92)
    rgb.save(folder / "progressive.jpg", progressive=True)
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("L").save(folder / "grey.jpg")
    rgb.save(folder / "good.png")
    rgb.convert("LA").save(folder / "grey_alpha.png")
    rgb.convert("P").save(folder / "palette.png")
    rgb.convert("1").save(folder / "bits.png")
    wide = np.random.default_rng(0).integers(0, 65535, (20, 30), dtype=np.uint16)
    Image.fromarray(wide).save(folder / "sixteen.png")
    rgb.save(folder / "good.webp")
    rgb.save(folder / "animated.webp", save_all=True, append_images=[other])
    rgb.convert("P").save(
        folder / "animated.gif", save_all=True, append_images=[other.convert("P")]
    )
    rgb.save(folder / "good.bmp")
    rgb.save(folder / "good.tif")

    jpeg, png = (folder / "good.jpg").read_bytes(), (folder / "good.png").read_bytes()
    (folder / "trailing.jpg").write_bytes(jpeg + b"sent from my camera")
    (folder / "half.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "last_bytes.jpg").write_bytes(jpeg[:-2])
    slow = (folder / "progressive.jpg").read_bytes()
    (folder / "half_progressive.jpg").write_bytes(slow[: len(slow) // 2])
    (folder / "header_only.jpg").write_bytes(jpeg[:12])
    (folder / "empty.jpg").touch()
    (folder / "page.jpg").write_bytes(b"<html>404 not found</html>")
    (folder / "half.png").write_bytes(png[: len(png) // 2])
    damaged = bytearray(png)
    damaged[len(png) // 2] ^= 255
    (folder / "damaged.png").write_bytes(damaged)
    webp = (folder / "good.webp").read_bytes()
    (folder / "half.webp").write_bytes(webp[: len(webp) // 2])
    gif = (folder / "animated.gif").read_bytes()
    (folder / "quarter.gif").write_bytes(gif[: len(gif) // 4])
    (folder / "bomb.png").write_bytes(png_of_size(60_000, 60_000))
    (folder / "large.png").write_bytes(png_of_size(12_000, 9_000))
    (folder / "folder.jpg").mkdir()
    return folder


GOOD = [
    "good.jpg", "progressive.jpg", "cmyk.jpg", "grey.jpg", "trailing.jpg", "good.png",
    "grey_alpha.png", "palette.png", "bits.png", "sixteen.png", "good.webp", "animated.webp",
    "animated.gif", "good.bmp", "good.tif",
]  # fmt: skip
BAD = {
    "half.jpg": "JPEG that cannot be decoded",
    "last_bytes.jpg": "JPEG that cannot be decoded",
    "half_progressive.jpg": "JPEG that cannot be decoded",
    "header_only.jpg": "not a picture",
    "empty.jpg": "the file is empty",
    "page.jpg": "not a picture",
    "half.png": "PNG that cannot be decoded",
    "damaged.png": "PNG that cannot be decoded",
    "half.webp": "its header is damaged",
    "quarter.gif": "GIF that cannot be decoded",
    "bomb.png": "far more pixels than the 100,000,000 allowed",
    "large.png": "12000 x 9000 pixels, more than the 100,000,000 allowed",
    "folder.jpg": "is a directory",
    "missing.jpg": "no such file",
}
#: What the header alone gives away.
BAD_HEADERS = {
    "header_only.jpg", "empty.jpg", "page.jpg", "half.webp", "bomb.png", "large.png",
    "folder.jpg", "missing.jpg",
}  # fmt: skip


def table_of(folder, names, **columns):
    return ItemTable.from_columns([str(folder / name) for name in names], names, **columns)


def read_log(path):
    return dict(line.split(": ", 1) for line in path.read_text().splitlines())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["full", "header"])
def test_bad_files_are_named_with_their_reason_and_left_out(gallery, tmp_path, mode):
    names = sorted([*GOOD, *BAD])
    before = {path: path.stat().st_mtime_ns for path in gallery.iterdir()}
    log_file = tmp_path / "bad.log"
    table = table_of(gallery, names)
    kept = verify_images(table, mode=mode, max_bad_share=1.0, log_file=log_file)
    bad = set(BAD) if mode == "full" else BAD_HEADERS
    assert [os.path.basename(p) for p in kept.path] == [name for name in names if name not in bad]
    reasons = read_log(log_file)
    assert list(reasons) == [str(gallery / name) for name in names if name in bad]
    for name in bad:
        assert BAD[name] in reasons[str(gallery / name)]
    assert {path: path.stat().st_mtime_ns for path in gallery.iterdir()} == before


@pytest.mark.parametrize("image_size", [16, 224])
def test_what_is_kept_decodes_in_the_pipeline_and_what_is_left_out_does_not(gallery, image_size):
    for name in GOOD:
        decoded = decode_file(tf.constant(str(gallery / name)), image_size)
        assert decoded.shape == (image_size, image_size, 3)
    for name in set(BAD) - {"bomb.png", "large.png"}:
        with pytest.raises((tf.errors.OpError, OSError, ValueError)):
            decode_file(tf.constant(str(gallery / name)), image_size)


@pytest.mark.parametrize("source", ["good.jpg", "good.png", "good.webp", "animated.gif"])
def test_damage_anywhere_is_judged_as_the_decoder_judges_it(gallery, tmp_path, source):
    whole = (gallery / source).read_bytes()
    rng = np.random.default_rng(5)
    names = [f"{number}.jpg" for number in range(60)]
    for name in names:
        data = bytearray(whole)
        if rng.random() < 0.5:
            del data[rng.integers(200, len(data)) :]
        else:
            for at in rng.integers(20, len(data), 3):
                data[at] = rng.integers(256)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "whole.jpg").write_bytes(whole)
    names.append("whole.jpg")
    kept = set(verify_images(table_of(tmp_path, names), max_bad_share=1.0).path)
    assert 1 <= len(kept) < 56
    for name in names:
        try:
            decode_file(tf.constant(str(tmp_path / name)), 64)
            accepted = True
        except tf.errors.OpError:
            accepted = False
        assert accepted == (str(tmp_path / name) in kept), name


def test_a_small_file_of_many_pixels_is_not_decoded(gallery, monkeypatch):
    monkeypatch.setattr("trainer.data.decode.load", lambda *_, **__: pytest.fail("decoded"))
    table = table_of(gallery, ["good.jpg", "bomb.png", "large.png"])
    assert len(verify_images(table, max_bad_share=1.0)) == 1
    assert len(verify_images(table_of(gallery, ["good.jpg"]), max_pixels=90 * 60)) == 1
    with pytest.raises(UserError, match="90 x 60 pixels, more than the 5,399 allowed"):
        verify_images(table_of(gallery, ["good.jpg"]), max_pixels=90 * 60 - 1)


def test_more_than_the_share_stops_with_one_line(gallery, tmp_path):
    table = table_of(gallery, ["good.jpg", "good.png", "good.webp", "half.jpg"])
    log_file = tmp_path / "bad.log"
    assert len(verify_images(table, max_bad_share=0.25, log_file=log_file)) == 3
    with pytest.raises(UserError) as caught:
        verify_images(table, max_bad_share=0.24, log_file=log_file)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("1 pictures and rows", "25.00%", "24.00%", "half.jpg: JPEG", str(log_file)):
        assert part in message
    assert "half.jpg" in log_file.read_text()
    with pytest.raises(UserError, match="no picture can be used"):
        verify_images(table.select([3]), max_bad_share=1.0)


def test_problems_of_the_reader_count(gallery, tmp_path):
    names = ["good.jpg", "good.png", "good.webp"]
    table = table_of(gallery, names, problems=["items.csv:7: no label"])
    log_file = tmp_path / "bad.log"
    for mode in ("full", "none"):
        assert len(verify_images(table, mode=mode, max_bad_share=0.25, log_file=log_file)) == 3
        assert log_file.read_text() == "items.csv:7: no label\n"
        with pytest.raises(UserError, match=r"25.00%.*items.csv:7: no label"):
            verify_images(table, mode=mode, max_bad_share=0.2)
    # One row of a list of triplets is measured against the triplets.
    triplets = table_of(gallery, names, triplets=[[0, 1, 2]] * 99, problems=["t.csv:7: 2 fields"])
    assert len(verify_images(triplets)) == 3


def test_triplets_that_lost_a_picture_are_gone(gallery):
    table = table_of(
        gallery, ["half.jpg", "good.jpg", "good.png", "good.bmp"], triplets=[[0, 1, 2], [1, 2, 3]]
    )
    kept = verify_images(table, max_bad_share=0.5)
    assert kept.triplets.tolist() == [[0, 1, 2]]
    assert kept.path[0].endswith("good.jpg")


@pytest.mark.parametrize(
    ("box", "good"),
    [
        ([0, 0, 90, 60], True),
        ([-1, -1, 92, 62], True),
        ([80, 50, 10, 10], True),
        ([80, 50, 12, 10], False),
        ([80, 50, 10, 12], False),
        ([-2, 0, 10, 10], False),
        ([0, -2, 10, 10], False),
        ([500, 500, 10, 10], False),
    ],
)
@pytest.mark.parametrize("mode", ["full", "header"])
def test_boxes_must_lie_in_their_picture(gallery, tmp_path, box, good, mode):
    none = [np.nan] * 4
    names = ["good.jpg", "good.jpg", "good.png"]
    table = table_of(gallery, names, box=[none, box, none])
    log_file = tmp_path / "bad.log"
    kept = verify_images(table, mode=mode, max_bad_share=0.5, log_file=log_file)
    assert len(kept) == (3 if good else 2)
    if not good:
        assert "reaches out of the picture of 90 x 60 pixels" in log_file.read_text()


def test_mode_none_looks_at_nothing(gallery):
    table = table_of(gallery, ["half.jpg", "missing.jpg"])
    assert verify_images(table, mode="none") is table


def test_rows_that_are_trusted_are_not_looked_at_but_count(gallery, tmp_path):
    table = table_of(gallery, ["half.jpg", "good.jpg", "missing.jpg", "good.png"])
    trusted = np.array([True, True, False, False])
    log_file = tmp_path / "bad.log"
    good = usable(table, trusted=trusted, max_bad_share=0.25, log_file=log_file)
    assert good.tolist() == [True, True, False, True]
    assert "missing.jpg" in log_file.read_text()
    with pytest.raises(UserError, match=r"25\.00%"):
        usable(table, trusted=trusted, max_bad_share=0.24)
    assert usable(table, trusted=np.ones(4, bool)).all()


def test_a_log_of_an_earlier_time_does_not_stay(gallery, tmp_path):
    log_file = tmp_path / "bad.log"
    verify_images(table_of(gallery, ["good.jpg"]), log_file=log_file)
    assert not log_file.exists()
    log_file.write_text("old news\n")
    verify_images(table_of(gallery, ["good.jpg"]), log_file=log_file)
    assert log_file.read_text() == ""


def test_a_log_that_cannot_be_written(gallery, tmp_path):
    table = table_of(gallery, ["good.jpg", "half.jpg"])
    with pytest.raises(UserError, match=r"cannot write .*no such file or directory"):
        verify_images(table, max_bad_share=1.0, log_file=tmp_path / "no" / "bad.log")


def test_order_over_many_files(tmp_path):
    names = [f"{number:03d}.jpg" for number in range(100)]
    for number, name in enumerate(names):
        picture(16, 16, number).save(tmp_path / name)
    for name in names[::10]:
        (tmp_path / name).write_bytes(b"")
    kept = verify_images(table_of(tmp_path, names), max_bad_share=0.1)
    assert [os.path.basename(path) for path in kept.path] == [
        name for number, name in enumerate(names) if number % 10
    ]


def test_require_split_names_what_there_is():
    table = ItemTable.from_columns(["a", "b"], ["x", "y"], split=["train", "test"])
    assert require_split(table, "test").path.tolist() == ["b"]
    with pytest.raises(UserError, match=r"val_split='val' has no pictures; .* splits test, train"):
        require_split(table, "val", "val_split")
    with pytest.raises(UserError, match="the data set has no splits"):
        require_split(ItemTable.from_columns(["a"], ["x"]), "train")
    with pytest.raises(UserError, match="holds no pictures"):
        require_split(table.select([]), "train")
