"""The crop box, by mouse, touch, keys and numbers: what leaves is in pixels of the picture."""

from playwright.sync_api import expect

from tests.serving.page.asking import answer, drag, first_colour, near, pick, press, to_screen
from tests.serving.page.shop import side_by_side, upload


def sides(visit, **options):
    page = visit(**options)
    pick(page, upload(side_by_side("red", "blue")))
    return page


def test_by_mouse(visit, keep):
    page = sides(visit)
    found = answer(page, lambda: drag(page, (220, 40), (380, 260)))
    assert near(found["query"]["box"], 220, 40, 160, 220)
    assert first_colour(page) == "blue"
    expect(page.locator("#results-title")).to_have_text("Products like what is in the box")
    keep(page, "crop_box")
    # To the other side, and no further than the picture reaches.
    found = answer(page, lambda: drag(page, (300, 150), (-100, 150)))
    assert near(found["query"]["box"], 0, 40, 160, 220)
    assert first_colour(page) == "red"
    # By its corner, then by its right side.
    found = answer(page, lambda: drag(page, (160, 260), (120, 200)))
    assert near(found["query"]["box"], 0, 40, 120, 160)
    found = answer(page, lambda: drag(page, (120, 120), (90, 130)))
    assert near(found["query"]["box"], 0, 40, 90, 160)
    for name, number in zip("xywh", found["query"]["box"], strict=True):
        expect(page.locator(f"#crop-{name}")).to_have_value(str(number))
    # A corner that is drawn past the other one turns the box over.
    found = answer(page, lambda: drag(page, (90, 200), (40, 10)))
    assert near(found["query"]["box"], 0, 10, 40, 30)
    found = answer(page, page.get_by_role("button", name="Whole picture").click)
    assert found["query"]["box"] is None
    expect(page.locator("#crop")).to_be_hidden()
    expect(page.get_by_role("button", name="Draw a crop box")).to_be_focused()


def test_a_click_draws_no_box(visit):
    page = sides(visit)
    page.mouse.click(*to_screen(page, 100, 100))
    expect(page.locator("#crop")).to_be_hidden()
    found = answer(page, lambda: drag(page, (250, 50), (350, 250)))
    page.mouse.click(*to_screen(page, 50, 50))
    expect(page.locator("#crop-x")).to_have_value(str(found["query"]["box"][0]))


def test_by_touch(visit):
    page = sides(visit, has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    session = page.context.new_cdp_session(page)

    def swipe():
        for kind, at in (
            ("touchStart", (230, 30)),
            ("touchMove", (300, 200)),
            ("touchMove", (390, 280)),
            ("touchEnd", None),
        ):
            points = [] if at is None else [dict(zip("xy", to_screen(page, *at), strict=True))]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    found = answer(page, swipe)
    assert near(found["query"]["box"], 230, 30, 160, 250)
    assert first_colour(page) == "blue"
    assert page.evaluate("scrollY") == 0


def test_by_keyboard(visit):
    page = sides(visit)
    found = answer(page, lambda: page.get_by_role("button", name="Draw a crop box").press("Enter"))
    assert found["query"]["box"] == [80, 60, 240, 180]
    box = page.get_by_role("application")
    expect(box).to_be_focused()
    expect(box).to_have_accessible_name("Crop box: left 80, top 60, 240 wide and 180 high")
    expect(box).to_have_accessible_description(
        "Arrow keys move the box, Shift with an arrow key makes it larger or smaller, "
        "Delete takes it away."
    )

    # A step is a hundredth of the longer side: 4 pixels. Keys in a row are one search.
    press(page, "ArrowRight", "ArrowRight", "ArrowUp", box=[88, 56, 240, 180])
    smaller = ("Shift+ArrowLeft", "Shift+ArrowDown", "Shift+ArrowDown")
    press(page, *smaller, box=[88, 56, 236, 188])
    # Not past the border.
    press(page, *["ArrowUp"] * 20, box=[88, 0, 236, 188])
    press(page, *["Shift+ArrowRight"] * 30, box=[88, 0, 312, 188])
    press(page, "Delete", box=None)
    expect(page.get_by_role("button", name="Draw a crop box")).to_be_focused()


def test_by_numbers(visit):
    page = sides(visit)
    page.get_by_text("Box in pixels").click()
    found = answer(page, lambda: page.get_by_label("Width", exact=True).fill("200"))
    assert found["query"]["box"] == [0, 0, 200, 300]
    assert first_colour(page) == "red"
    found = answer(page, lambda: page.get_by_label("Left", exact=True).fill("150"))
    assert found["query"]["box"] == [150, 0, 200, 300]
    # What reaches past the border is cut.
    found = answer(page, lambda: page.get_by_label("Left", exact=True).fill("350"))
    assert found["query"]["box"] == [350, 0, 50, 300]
    found = answer(page, lambda: page.get_by_label("Top", exact=True).fill("999"))
    assert found["query"]["box"] == [350, 292, 50, 8]
    page.get_by_label("Top", exact=True).blur()
    expect(page.get_by_label("Top", exact=True)).to_have_value("292")
    # Half a number asks for nothing.
    page.get_by_label("Height", exact=True).fill("")
    page.get_by_label("Height", exact=True).blur()
    expect(page.get_by_label("Height", exact=True)).to_have_value("8")
