"""The page is for everyone: phones, keyboards, screen readers, day and night."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.serving.page.asking import answer, drag, first_colour, pick, press, settle
from tests.serving.page.shop import COLOURS, draw, side_by_side, upload

NEIGHBOURS = "/v1/neighbours/"


def check(page):
    """Let axe-core look at a page: WCAG 2.2 A and AA, and what is good practice."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


# 640 pixels of two dots each: what 200% zoom leaves of 1280.
@pytest.mark.parametrize(
    ("name", "width", "height", "touch"),
    [("smallest", 320, 640, True), ("phone", 390, 844, True), ("zoomed", 640, 430, False)],
)
def test_no_sideways_scrolling(visit, keep, name, width, height, touch):
    page = visit(
        viewport={"width": width, "height": height},
        has_touch=touch,
        is_mobile=touch,
        device_scale_factor=2,
    )
    settle(page)
    page.wait_for_load_state("networkidle")

    def check_width():
        assert page.evaluate("document.documentElement.scrollWidth") == width

    check_width()
    keep(page, f"{name}_start")
    pick(page, upload(side_by_side("red", "teal", (1600, 900)), "a" * 60 + ".png"))
    answer(page, lambda: drag(page, (900, 100), (1500, 800)))
    page.get_by_text("Box in pixels").click()
    check_width()
    keep(page, name)
    for _ in range(3):
        answer(page, page.locator("#grid .card").nth(1).click, NEIGHBOURS)
    answer(
        page,
        lambda: page.get_by_label("Category").select_option("odd </option><b>&amp;"),
        NEIGHBOURS,
    )
    check_width()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(visit, keep, scheme):
    visit.refusals = True
    page = visit(color_scheme=scheme)
    settle(page)
    check(page)
    keep(page, f"start_{scheme}")
    pick(page, upload(side_by_side("red", "teal")))
    answer(page, lambda: drag(page, (220, 20), (380, 280)))
    page.get_by_text("Box in pixels").click()
    page.locator("#file").set_input_files(
        {"name": "no.txt", "mimeType": "text/plain", "buffer": b"no"}
    )
    expect(page.get_by_role("alert")).to_contain_text("no.txt")
    check(page)
    answer(page, page.locator("#grid .card").first.click, NEIGHBOURS)
    check(page)
    keep(page, f"neighbours_{scheme}")


def test_the_key_dialog_is_accessible(visit, open_shop):
    visit.refusals = True
    page = visit(shop=open_shop(keys=("key",)))
    expect(page.get_by_role("dialog")).to_be_visible()
    check(page)


def test_all_by_keyboard(visit):
    page = visit()
    settle(page)

    def tab_to(selector, most=20):
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline == "solid"
                return
        raise AssertionError(f"no way to {selector}")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the results")).to_be_focused()
    tab_to("#pick")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    answer(page, lambda: chooser.value.set_files(upload(side_by_side("red", "blue"))))
    page.keyboard.press("Shift+Tab")  # from the button back to what came in before it
    expect(page.get_by_text("Box in pixels")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    answer(page, lambda: page.keyboard.press("Enter"))
    press(page, *["ArrowRight"] * 30, box=[160, 60, 240, 180])
    assert first_colour(page) == "blue"
    tab_to("#category")
    answer(page, lambda: page.keyboard.press("b"))
    expect(page.get_by_label("Category")).to_have_value("bags")
    tab_to("#grid .card")
    answer(page, lambda: page.keyboard.press("Enter"), NEIGHBOURS)
    expect(page.locator("#results")).to_be_focused()
    expect(page.locator("#results-title")).to_have_text("Products like “blue bags”")
    answer(page, page.go_back)
    expect(page.locator("#crop")).to_be_visible()


def test_what_happens_is_said(visit):
    """The status is a live region, problems are alerts, what is under way is busy."""
    page = visit()
    settle(page)
    status = page.get_by_role("status")
    expect(status).to_have_count(1)
    pick(page, upload(draw(COLOURS["red"])))
    expect(status).to_contain_text("20 products of 41, found in")
    shown = page.locator("#grid .card").first
    name = r"^red shirts shirts · (shop|street) Similarity 1\.000 100 of 100$"
    expect(shown).to_have_accessible_name(re.compile(name))


def test_still_for_those_who_want_it_so(visit):
    page = visit(reduced_motion="reduce")
    settle(page)
    card = page.locator("#grid .card").first
    card.hover()
    moves = "card => [getComputedStyle(card).transform, getComputedStyle(card).transitionDuration]"
    assert card.evaluate(moves) == ["none", "0s"]
