"""Pictures of clients: what is refused before it is decoded, and what is turned upright."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageOps

from tests.serving.api.catalogue import COLOURS, picture
from trainer.serving.api.errors import Refusal
from trainer.serving.api.gif import first_frame
from trainer.serving.api.pictures import (
    MOST_SCANS,
    box_of,
    decode_plainly,
    look,
    pixels_of,
    upright_file,
)

MOST = 1_000_000
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


def oriented(orientation: int) -> bytes:
    """Return a PNG file of random pixels, so that each turn is another picture."""
    pixels = np.random.default_rng(1).integers(0, 256, (5, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    return stream.getvalue()


def refused(content: bytes, most: int = MOST) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        look(content, most)
    return caught.value.status, caught.value.detail


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file of a few bytes that says that it is large."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(b"\0" * 100), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tagged_picture_is_seen_upright_and_boxes_count_its_pixels(orientation: int) -> None:
    content = oriented(orientation)
    with Image.open(io.BytesIO(content)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    looked = look(content, MOST)
    assert looked.upright_size == upright.shape[1::-1]
    assert (pixels_of([(looked, None)], decode_plainly)[0] == upright).all()
    box = box_of("0,2,3,2", looked.upright_size)
    assert (pixels_of([(looked, box)], decode_plainly)[0] == upright[2:4, 0:3]).all()


def test_a_tagged_picture_is_stored_upright() -> None:
    content = picture(COLOURS["red"], size=(60, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.save(stream, "JPEG", exif=exif)
    stored = upright_file(look(stream.getvalue(), MOST))
    with Image.open(io.BytesIO(stored)) as image:
        assert image.size == (20, 60)
        assert 0x0112 not in image.getexif()
        # The lighter left half is above now.
        rows = np.asarray(image, float).mean(axis=(1, 2))
    assert rows[:25].mean() > rows[35:].mean() + 15
    assert upright_file(look(content, MOST)) == content


def test_too_many_pixels_are_refused_by_the_header() -> None:
    assert refused(png_header(40_000, 40_000)) == (
        422,
        "the picture has more than the 1,000,000 pixels allowed",
    )
    assert refused(picture(COLOURS["red"], size=(50, 50)), most=2499)[0] == 422
    assert look(picture(COLOURS["red"], size=(50, 50)), 2500).width == 50


@pytest.mark.parametrize("content", [b"", b"text", b"<svg/>", b"RIFFxxxxWAVEfmt ", b"\0" * 100])
def test_what_is_no_picture_is_refused_by_its_content(content: bytes) -> None:
    assert refused(content)[0] == 415


def test_kinds_that_need_programs_are_refused() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"
    assert refused(postscript)[0] == 415
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "TIFF")
    assert refused(stream.getvalue())[0] == 415


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_is_cut_off_is_refused_in_one_line(client: TestClient, kind: str) -> None:
    content = picture(COLOURS["green"], size=(64, 64), kind=kind)
    for length in (5, 12, 30, len(content) // 2, len(content) - 20):
        answer = client.post("/v1/search", files={"picture": content[:length]})
        assert answer.status_code in (415, 422), (length, answer.text)
        assert "\n" not in answer.json()["detail"]


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    content = picture(COLOURS["red"], kind="JPEG", progressive=True)
    assert look(content, MOST).width == 40
    scan = content.rindex(b"\xff\xda")
    endless = content[:scan] + content[scan:-2] * (MOST_SCANS + 1) + b"\xff\xd9"
    assert refused(endless) == (422, "the picture has more scans than any camera writes")


def test_scans_of_a_large_jpeg_are_few() -> None:
    header = b"\xff\xd8\xff\xc2\0\x0b\x08\x1b\x58\x1b\x58\1\1\x11\0"  # 7000 x 7000, progressive
    scan = b"\xff\xda\0\x08\1\1\0\0\0\0"
    assert look(header + 12 * scan + b"\xff\xd9", 50_000_000).width == 7000
    assert refused(header + 13 * scan + b"\xff\xd9", 50_000_000)[0] == 422


def test_a_picture_too_long_for_a_file_that_is_upright_is_refused(serve: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("L", (70_000, 16)).save(stream, "PNG", exif=exif)
    files = {"picture": stream.getvalue()}
    answer = serve(writable=True).put("/v1/products/long", files=files, data={"label": "x"})
    assert answer.status_code == 422, answer.text


def test_a_product_is_found_exactly_by_the_file_that_it_came_with(serve: Any) -> None:
    """Also where it is kept as another file: turned upright, and so written anew."""
    client = serve(writable=True)
    files = {"picture": oriented(6)}
    assert client.put("/v1/products/new", files=files, data={"label": "x"}).status_code == 201
    found = client.post("/v1/search", files=files).json()["neighbours"][0]
    assert (found["id"], found["score"]) == ("new", pytest.approx(1, abs=1e-6))


def test_of_a_gif_only_the_first_frame_is_left() -> None:
    frames = [Image.new("P", (9, 7), colour) for colour in (1, 2, 3)]
    for frame in frames:
        frame.putpalette([n for colour in range(256) for n in (colour, 9 * colour % 256, 77)])
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], comment=b"hello")
    content = stream.getvalue()
    with (
        Image.open(io.BytesIO(content)) as moving,
        Image.open(io.BytesIO(first_frame(content))) as still,
    ):
        assert moving.n_frames == 3
        assert still.n_frames == 1
        assert np.array_equal(np.asarray(moving.convert("RGB")), np.asarray(still.convert("RGB")))
    for length in range(6, len(content) - 100, 7):
        with pytest.raises(Refusal):
            first_frame(content[: min(length, len(first_frame(content)) - 3)])


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("", None),
        ("1,2,3,4", (1, 2, 4, 6)),
        ("-5,-5,8,9", (0, 0, 3, 4)),
        ("30,20,100,100", (30, 20, 40, 30)),
        ("1.5,2.5,1,1", (1, 2, 3, 4)),
    ],
)
def test_a_box_is_cut_to_the_picture(text: str, box: tuple[int, ...] | None) -> None:
    assert box_of(text, (40, 30)) == box


@pytest.mark.parametrize(
    "text",
    ["40,0,5,5", "0,30,5,5", "1,1,0,5", "1,1,5,-1", "-9,0,9,9"],
)
def test_a_box_that_shows_nothing_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="box: ") as caught:
        box_of(text, (40, 30))
    assert caught.value.status == 422


def test_a_box_decides_what_is_searched_for(client: TestClient) -> None:
    left, right = (Image.open(io.BytesIO(picture(COLOURS[name]))) for name in ("red", "blue"))
    both = Image.new("RGB", (80, 30))
    both.paste(left, (0, 0))
    both.paste(right, (40, 0))
    stream = io.BytesIO()
    both.save(stream, "PNG")
    for box, label in (("0,0,40,30", "red"), ("40,0,40,30", "blue"), ("40,-9,500,500", "blue")):
        answer = client.post(
            "/v1/search", files={"picture": stream.getvalue()}, data={"box": box, "k": 1}
        ).json()
        assert answer["neighbours"][0]["label"] == label
    assert answer["query"] == {"width": 80, "height": 30, "box": [40, 0, 40, 30]}
