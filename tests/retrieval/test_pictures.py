"""Contact sheets, looked at pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from trainer.config import UserError
from trainer.retrieval.pictures import (
    PADDING,
    RIGHT,
    WRONG,
    Picture,
    SheetRow,
    contact_sheet,
    sheet_rows,
    side_by_side,
)
from trainer.retrieval.results import RetrievalResults


def paint(path, size, colour, mode="RGB", **options):
    Image.new(mode, size, colour).save(path, **options)
    return str(path)


def rgb(text):
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


def share(image, colour):
    """Share of pixels within a few steps of the colour."""
    near = np.abs(np.asarray(image.convert("RGB"), int) - rgb(colour)).max(-1) < 8
    return near.mean()


@pytest.fixture
def row(tmp_path):
    red = paint(tmp_path / "red.png", (40, 40), "#ff0000")
    blue = paint(tmp_path / "blue.png", (40, 40), "#0000ff")
    return SheetRow(Picture(red, "a"), [Picture(red, "a"), Picture(blue, "b")], [0.98765, 0.5])


def cells(sheet, columns, cell):
    """The pictures of the first row, query first."""
    bottom = sheet.height - PADDING
    lefts = [PADDING] + [
        PADDING + 2 * PADDING + n * (cell + PADDING) for n in range(1, columns + 1)
    ]
    # Rows start where the query's picture does: the first row of its colour below the header.
    pixels = np.asarray(sheet.convert("RGB"))
    top = int(np.flatnonzero((pixels[:bottom, PADDING + 20] == (255, 0, 0)).all(-1))[0])
    return [sheet.crop((x, top, x + cell, top + cell)) for x in lefts]


def test_right_and_wrong_are_framed(row):
    query, right, wrong = cells(contact_sheet([row], cell=100), 2, 100)
    for mark in (RIGHT, WRONG):
        assert share(query, mark) == 0
    assert share(right, RIGHT) > 0.1
    assert share(right, WRONG) == 0
    assert share(wrong, WRONG) > 0.1
    assert share(wrong, RIGHT) == 0


def test_the_mark_does_not_rely_on_colour(row, tmp_path):
    # In grey and without the frames, right and wrong still differ: tick against cross.
    same = SheetRow(row.query, [row.neighbours[0], Picture(row.neighbours[0].path, "b")], [1, 1])
    _, right, wrong = cells(contact_sheet([same], cell=100), 2, 100)
    white = [
        (np.asarray(image.crop((6, 6, 24, 24)), int) > 200).all(-1) for image in (right, wrong)
    ]
    assert all(mask.sum() > 10 for mask in white)
    assert (white[0] != white[1]).sum() > 10


def test_unknown_labels_are_not_judged(row):
    plain = SheetRow(Picture(row.query.path), row.neighbours, row.scores)
    sheet = contact_sheet([plain], cell=100)
    assert share(sheet, RIGHT) == share(sheet, WRONG) == 0


def test_aspect_ratio_is_kept(tmp_path):
    red = paint(tmp_path / "red.png", (50, 50), "#ff0000")
    wide = paint(tmp_path / "wide.png", (400, 100), "#0000ff")
    tall = paint(tmp_path / "tall.png", (3, 900), "#0000ff")
    row = SheetRow(Picture(red), [Picture(wide), Picture(tall)], [1, 1])
    _, wide_cell, tall_cell = cells(contact_sheet([row], cell=100), 2, 100)
    blue = [(np.asarray(c.convert("RGB")) == (0, 0, 255)).all(-1) for c in (wide_cell, tall_cell)]
    assert (blue[0].any(axis=1).sum(), blue[0].any(axis=0).sum()) == (25, 100)
    assert (blue[1].any(axis=1).sum(), blue[1].any(axis=0).sum()) == (100, 1)


def test_unreadable_pictures_have_a_placeholder(row, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    paint(tmp_path / "whole.jpg", (200, 200), "#0000ff")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    bad = [Picture(str(tmp_path / n)) for n in ("text.jpg", "empty.jpg", "half.jpg", "none.jpg")]
    sheet = contact_sheet([SheetRow(row.query, bad, [1.0] * 4)], cell=100)
    for image in cells(sheet, 4, 100)[1:]:
        values = np.asarray(image.convert("L"), int)
        assert (values > 230).mean() > 0.7  # the plate
        assert (values < 160).mean() > 0.01  # words on it


def test_a_picture_that_pillow_warns_of_is_shown(row, tmp_path, monkeypatch):
    path = paint(tmp_path / "large.png", (300, 300), "#0000ff")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**4)
    contact_sheet([SheetRow(row.query, [Picture(path)], [1.0])])


def test_rows_of_unequal_length_and_long_words(row, tmp_path):
    long = Picture(row.query.path, "an endless label " * 40 + "\nsecond line")
    rows = [row, SheetRow(long, [], []), SheetRow(row.query, [long] * 5, [0.0] * 5)]
    narrow = contact_sheet(rows, cell=60)
    assert narrow.width == contact_sheet(rows[2:], cell=60, title="T " * 500).width
    # Nothing is drawn beyond the last cell: captions are cut to their column.
    assert share(narrow.crop((narrow.width - PADDING, 0, *narrow.size)), "#ffffff") == 1


def test_the_file_is_the_sheet(row, tmp_path):
    sheet = contact_sheet([row], tmp_path / "out.png", title="Nearest products")
    with Image.open(tmp_path / "out.png") as read:
        assert read.format == "PNG"
        np.testing.assert_array_equal(np.asarray(read), np.asarray(sheet))
    with pytest.raises(UserError, match="cannot write"):
        contact_sheet([row], tmp_path / "none" / "out.png")
    with pytest.raises(UserError, match="no query"):
        contact_sheet([])


def test_rows_from_results():
    results = RetrievalResults(
        np.array([0, 1]),
        np.array([["b", "a", "c"], ["c", "a", "b"]]),
        np.array([[0.5, 0.25, 0], [1, 0.5, 0]], np.float32),
        np.array([3, 1]),
    )
    items = {name: Picture(f"{name}.jpg", name) for name in "abc"}
    queries = [Picture("q0.jpg"), Picture("q1.jpg")]
    rows = sheet_rows(results, queries, items, limit=2)
    assert [[p.path for p in row.neighbours] for row in rows] == [["b.jpg", "a.jpg"], ["c.jpg"]]
    assert [list(row.scores) for row in rows] == [[0.5, 0.25], [1.0]]
    assert [row.query for row in rows] == queries


def test_columns_can_be_named_and_words_stand_for_scores(row):
    plain = np.asarray(contact_sheet([row], cell=100))
    named = contact_sheet([row], cell=100, columns=("anchor", "positive", "negative"))
    words = SheetRow(row.query, row.neighbours, ["", "in-class"])
    told = contact_sheet([words], cell=100)
    assert named.size == told.size == plain.shape[1::-1]
    changed = np.flatnonzero((np.asarray(named) != plain).any(axis=(1, 2)))
    assert changed.max() < 30  # above the pictures
    changed = np.flatnonzero((np.asarray(told) != plain).any(axis=(1, 2)))
    assert changed.min() > 120  # below them


def test_marks_can_be_left_out(row):
    sheet = contact_sheet([row], cell=100, marks=False)
    assert share(sheet, RIGHT) == share(sheet, WRONG) == 0
    below = np.asarray(sheet)[-30:], np.asarray(contact_sheet([row], cell=100))[-30:]
    assert np.array_equal(*below)  # labels are still told


def test_sheets_side_by_side(row, tmp_path):
    one, two = contact_sheet([row], cell=100), contact_sheet([row, row], cell=60)
    whole = side_by_side([one, two], tmp_path / "both.png")
    assert whole.size == (one.width + two.width, max(one.height, two.height))
    read = np.asarray(Image.open(tmp_path / "both.png"))
    assert np.array_equal(read[: one.height, : one.width], np.asarray(one))
    assert np.array_equal(read[: two.height, one.width :], np.asarray(two))
