"""A picture comes to the page, and its neighbours are seen."""

import contextlib

from PIL import Image
from playwright.sync_api import Error, expect

from tests.serving.page.asking import answer, first_colour, labels, pick, settle, transfer
from tests.serving.page.shop import COLOURS, draw, side_by_side, upload


def test_the_page_begins_with_products(visit):
    page = visit()
    settle(page)
    expect(page).to_have_title("Search by picture · mildnet")
    expect(page.locator("h1")).to_have_text("Find products that look like your picture")
    expect(page.locator("#count")).to_have_text("41 products")
    expect(page.locator("#allowed")).to_have_text("JPEG, PNG, GIF, WEBP, BMP, up to 10 MB")
    assert len(labels(page)) == 12
    first = labels(page)
    answer(page, page.get_by_role("button", name="Show others").click, "/v1/products")
    assert len(labels(page)) == 12
    assert not set(first) & set(labels(page)[:1])
    expect(page.locator("#address")).to_be_hidden()


def test_pick(visit, keep):
    page = visit()
    found = pick(page, upload(draw(COLOURS["red"])))
    assert found["query"] == {"width": 96, "height": 96, "box": None}
    assert [hit["label"] for hit in found["neighbours"]] == labels(page)
    assert labels(page)[:5] == ["red shirts"] * 2 + labels(page)[2:5]
    assert all(label.startswith("red") for label in labels(page)[:5])
    card = page.locator("#grid .card").first
    expect(card.locator(".value")).to_have_text("1.000")
    expect(card.get_by_role("img", name="100 of 100")).to_be_visible()
    assert card.locator(".meter span").evaluate("bar => bar.style.width") == "100%"
    expect(card.locator(".place")).to_contain_text("shirts · ")
    image = card.locator("img").first
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 96
    status = page.locator("#status").inner_text()
    assert status.startswith("20 products of 41, found in ")
    expect(page.locator("#asked-name")).to_have_text("mine.png")
    assert page.locator("#picture").evaluate("image => image.naturalWidth") == 96
    expect(page.locator("#results-title")).to_have_text("Products like your picture")
    keep(page, "picked")


def test_drop_and_paste(visit):
    page = visit()
    file = upload(draw(COLOURS["green"]), "dropped.png")
    answer(page, lambda: transfer(page, "drop", file))
    assert first_colour(page) == "green"
    expect(page.locator("#asked-name")).to_have_text("dropped.png")
    expect(page.locator("#over")).to_be_hidden()
    file = upload(draw(COLOURS["blue"]), "image.png")
    answer(page, lambda: transfer(page, "paste", file))
    assert first_colour(page) == "blue"
    expect(page.locator("#asked-name")).to_have_text("Pasted picture")


def test_a_picture_is_seen_upright(visit):
    """EXIF turns it: what was above is at the right."""
    lying = side_by_side("red", "blue").transpose(Image.Transpose.ROTATE_90)
    assert lying.size == (300, 400)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise to see it upright
    page = visit()
    found = pick(page, upload(lying, "photo.jpg", "JPEG", exif=exif, quality=95))
    assert (found["query"]["width"], found["query"]["height"]) == (400, 300)
    expect(page.locator("#crop-w")).to_have_value("400")
    expect(page.locator("#crop-h")).to_have_value("300")
    page.get_by_text("Box in pixels").click()
    found = answer(page, lambda: page.locator("#crop-x").fill("200"))
    assert found["query"]["box"] == [200, 0, 200, 300]
    assert first_colour(page) == "blue"


def test_a_slow_answer_does_not_replace_a_newer_one(visit):
    page = visit()
    settle(page)
    held = []

    def hold_the_first(route):
        if not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/search", hold_the_first)
    page.locator("#file").set_input_files(upload(draw(COLOURS["purple"])))
    expect(page.locator("#status")).to_have_text("Searching…")
    expect(page.locator("#results")).to_have_attribute("aria-busy", "true")
    answer(page, lambda: page.locator("#file").set_input_files(upload(draw(COLOURS["yellow"]))))
    assert first_colour(page) == "yellow"
    # It was given up, so it may be too late to let it go on.
    with contextlib.suppress(Error):
        held[0].continue_()
    page.wait_for_timeout(300)
    assert first_colour(page) == "yellow"
    assert held[0].request.failure == "net::ERR_ABORTED"


def test_photos_are_for_phones(visit):
    page = visit()
    settle(page)
    expect(page.locator("#photo")).to_be_hidden()
    phone = visit(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    settle(phone)
    with phone.expect_file_chooser() as chooser:
        phone.get_by_role("button", name="Take a photo").tap()
    assert chooser.value.element.get_attribute("capture") == "environment"
    answer(phone, lambda: chooser.value.set_files(upload(draw(COLOURS["teal"]))))
    assert first_colour(phone) == "teal"
