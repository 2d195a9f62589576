"""From neighbour to neighbour, and back; filters; links."""

from playwright.sync_api import expect

from tests.serving.page.asking import answer, drag, first_colour, labels, pick, settle
from tests.serving.page.shop import COLOURS, as_file, draw, side_by_side, upload
from trainer.data.fetch import Fetched

NEIGHBOURS = "/v1/neighbours/"
PRODUCTS = "/v1/products"


def test_search_on_and_back(visit, keep):
    page = visit()
    pick(page, upload(side_by_side("red", "blue")))
    boxed = answer(page, lambda: drag(page, (220, 20), (390, 280)))
    first = page.locator("#grid .card", has_text="blue shirts").first
    answer(page, first.click, NEIGHBOURS)
    expect(page.locator("#results")).to_be_focused()
    expect(page.locator("#results-title")).to_have_text("Products like “blue shirts”")
    expect(page).to_have_title("Products like “blue shirts” · mildnet")
    expect(page.locator("#cropping")).to_be_hidden()
    assert "?id=blue+shirts+" in page.url
    second = page.locator("#grid .card", has_text="blue shoes").first
    answer(page, second.click, NEIGHBOURS)
    trail = page.get_by_role("navigation", name="How you came here").get_by_role("listitem")
    assert trail.all_inner_texts() == ["Your picture", "blue shirts", "blue shoes"]
    expect(trail.last).to_have_attribute("aria-current", "page")
    keep(page, "trail")
    answer(page, page.go_back, NEIGHBOURS)
    expect(page.locator("#results-title")).to_have_text("Products like “blue shirts”")
    # The picture comes back with its box.
    again = answer(page, page.go_back)
    assert again["query"] == boxed["query"]
    assert again["neighbours"] == boxed["neighbours"]
    expect(page.locator("#crop")).to_be_visible()
    expect(page.locator("#trail")).to_be_hidden()
    answer(page, page.go_forward, NEIGHBOURS)
    expect(page.locator("#results-title")).to_have_text("Products like “blue shirts”")
    answer(page, page.get_by_role("button", name="Your picture").click)
    expect(page.locator("#crop")).to_be_visible()
    expect(page.locator("#trail")).to_be_hidden()


def test_links_lead_here(visit):
    page = visit("?id=green+shoes+shop.png&category=bags&k=10")
    settle(page)
    expect(page.locator("#results-title")).to_have_text("Products like “green shoes”")
    assert labels(page)[0] == "green bags"
    assert len(labels(page)) == len(COLOURS)
    expect(page.get_by_label("Category")).to_have_value("bags")
    expect(page.get_by_label("Results")).to_have_value("10")
    # A card is a link that can be opened elsewhere.
    card = page.locator("#grid .card").first
    with page.context.expect_page() as other:
        card.click(modifiers=["Control"])
    settle(other.value)
    expect(other.value.locator("#results-title")).to_have_text("Products like “green bags”")
    expect(page.locator("#results-title")).to_have_text("Products like “green shoes”")


def test_filters(visit):
    page = visit()
    pick(page, upload(draw(COLOURS["red"])))

    def choose(name, value):
        return answer(page, lambda: page.get_by_label(name).select_option(value))

    found = choose("Category", "shoes")
    assert {hit["category"] for hit in found["neighbours"]} == {"shoes"}
    assert labels(page)[0] == "red shoes"
    found = choose("Domain", "street")
    assert {hit["domain"] for hit in found["neighbours"]} == {"street"}
    assert len(labels(page)) == len(COLOURS)
    assert "category=shoes&domain=street" in page.url
    # There are no bags in the street.
    choose("Category", "bags")
    expect(page.locator("#status")).to_have_text("Nothing found with these filters.")
    answer(page, page.get_by_role("button", name="Show all categories and domains").click)
    expect(page.get_by_label("Category")).to_have_value("")
    assert len(labels(page)) == 20
    choose("Results", "50")
    assert len(labels(page)) == 41
    assert page.url.endswith("?k=50")
    page.go_back()
    expect(page.get_by_label("Results")).to_have_value("20")
    settle(page)
    assert len(labels(page)) == 20


def test_no_field_without_a_choice(visit, open_shop, monkeypatch, catalogue):
    monkeypatch.setattr(type(catalogue), "domains", ())
    page = visit(shop=open_shop())
    settle(page)
    expect(page.get_by_label("Category")).to_be_visible()
    expect(page.locator("#domain-field")).to_be_hidden()


def test_a_reloaded_page_has_lost_the_picture(visit):
    page = visit()
    pick(page, upload(draw(COLOURS["red"])))
    page.reload()
    expect(page.locator("#problem")).to_contain_text("choose it again")
    settle(page)
    assert len(labels(page)) == 12
    pick(page, upload(draw(COLOURS["blue"])))
    expect(page.locator("#problem")).to_be_empty()


def test_a_picture_of_an_earlier_load_is_not_another_one(visit):
    page = visit()
    settle(page)
    pick(page, upload(draw(COLOURS["red"]), "red.png"))
    page.reload()
    expect(page.locator("#problem")).to_contain_text("choose it again")
    settle(page)
    pick(page, upload(draw(COLOURS["blue"]), "blue.png"))
    page.go_back()
    expect(page.locator("#problem")).to_contain_text("choose it again")
    expect(page.locator("#asked")).to_be_hidden()
    page.go_forward()
    expect(page.locator("#asked-name")).to_have_text("blue.png")


def test_by_address(visit, open_shop):
    asked = []

    def fetch(url):
        asked.append(url)
        return Fetched(url, url, as_file(draw(COLOURS["orange"])), "PNG", 96, 96, 1)

    page = visit(shop=open_shop(fetch=fetch, url_hosts=("shop.example",)))
    page.get_by_label("Or the address of a picture on the web").fill("https://shop.example/1.png")
    answer(page, page.get_by_role("button", name="Search", exact=True).click)
    assert asked == ["https://shop.example/1.png"]
    assert first_colour(page) == "orange"
    expect(page.locator("#asked-name")).to_have_text("https://shop.example/1.png")
    expect(page.locator("#picture")).to_be_hidden()


def test_a_filter_that_comes_back_shows_its_first_products(visit):
    page = visit()
    settle(page)
    filtered = answer(page, lambda: page.get_by_label("Category").select_option("bags"), PRODUCTS)
    assert len(filtered["products"]) == 8
    answer(page, page.go_back, PRODUCTS)
    answer(page, page.get_by_role("button", name="Show others").click, PRODUCTS)
    assert answer(page, page.go_forward, PRODUCTS) == filtered
