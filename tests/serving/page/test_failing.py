"""What goes wrong is said in one line, and nothing is lost."""

from playwright.sync_api import expect

from tests.serving.page.asking import answer, first_colour, labels, pick, pick_vainly, settle
from tests.serving.page.shop import COLOURS, EVIL, EVIL_CATEGORY, as_file, draw, upload


def test_wrong_files(visit):
    page = visit()
    visit.refusals = True
    found = pick(page, upload(draw(COLOURS["red"])))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    text = {"name": "list.txt", "mimeType": "text/plain", "buffer": b"not a picture"}
    pick_vainly(page, text, "list.txt is not a picture that can be opened.")
    disguised = {"name": "x.png", "mimeType": "image/png", "buffer": b"<script>alert(1)</script>"}
    pick_vainly(page, disguised, "x.png is not a picture that can be opened.")
    nothing = {"name": "empty.png", "mimeType": "image/png", "buffer": b""}
    pick_vainly(page, nothing, "empty.png is not a picture that can be opened.")
    assert not [url for url in asked if not url.startswith("blob:")]
    # What was there stays.
    assert labels(page) == [hit["label"] for hit in found["neighbours"]]
    expect(page.locator("#asked-name")).to_have_text("mine.png")
    # The browser shows this kind, the service does not take it.
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>'
    drawing = {"name": "a.svg", "mimeType": "image/svg+xml", "buffer": drawing}
    pick_vainly(page, drawing, "Not a picture that can be searched with: send JPEG, PNG")
    assert labels(page) == []
    page.locator("#file").set_input_files(upload(draw(COLOURS["red"])))
    expect(page.locator("#problem")).to_be_empty()


def test_a_picture_that_is_cut_off(visit):
    visit.refusals = True
    page = visit()
    content = as_file(draw(COLOURS["red"], size=(300, 300)), "JPEG")[:-500]
    cut = {"name": "cut.jpg", "mimeType": "image/jpeg", "buffer": content}
    pick_vainly(page, cut, "The picture is cut off: the mark of its end is missing.")


def test_too_large(visit, open_shop):
    page = visit(shop=open_shop(most_bytes=30_000, most_pixels=200_000))
    settle(page)
    asked = []
    page.on("request", lambda request: asked.append(request.method))
    heavy = {"name": "heavy.png", "mimeType": "image/png", "buffer": bytes(1_234_567)}
    said = "heavy.png is too large: 1.23 MB, and this service takes pictures of up to 0.03 MB."
    pick_vainly(page, heavy, said)
    said = "wide.png is too large: 1000 x 300 pixels, and this service takes pictures of up to "
    pick_vainly(page, upload(draw((9, 9, 9), size=(1000, 300)), "wide.png"), f"{said}0.2 million.")
    assert "POST" not in asked


def test_a_stopped_service(visit, open_shop, keep):
    visit.refusals = True
    shop = open_shop()
    page = visit(shop=shop)
    pick(page, upload(draw(COLOURS["green"])))
    shop.stop()
    page.get_by_label("Category").select_option("shoes")
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("The search service does not answer. Nothing is lost")
    expect(page.locator("#picture")).to_be_visible()
    assert labels(page) == []
    keep(page, "service_stopped")
    again = page.get_by_role("button", name="Try again")
    again.click()
    expect(problem).to_contain_text("does not answer")
    shop.start()
    found = answer(page, again.click)
    assert found["neighbours"][0]["label"] == labels(page)[0] == "green shoes"
    expect(problem).to_be_empty()


def test_a_service_that_is_away_when_the_picture_comes(visit, open_shop):
    visit.refusals = True
    shop = open_shop()
    page = visit(shop=shop)
    settle(page)
    page.route("**/v1/catalogue", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.locator("#file").set_input_files(upload(draw(COLOURS["teal"])))
    expect(page.locator("#picture")).to_be_visible()
    page.unroute("**/v1/catalogue")
    answer(page, page.get_by_role("button", name="Try again").click)
    assert first_colour(page) == "teal"
    expect(page.locator("#picture")).to_be_visible()


def test_a_picture_that_comes_before_the_service_answers(visit):
    page = visit()
    settle(page)
    held = []
    page.route("**/v1/catalogue", lambda route: held.append(route))
    page.reload()
    page.locator("#file").set_input_files(upload(draw(COLOURS["teal"])))
    expect(page.locator("#picture")).to_be_visible()
    page.wait_for_timeout(200)
    with page.expect_response("**/v1/search"):
        for route in held:
            route.continue_()
    expect(page.locator("#asked-name")).to_have_text("mine.png")
    settle(page)
    assert first_colour(page) == "teal"
    options = page.locator("#k option").all_inner_texts()
    assert len(held) == 1
    assert len(options) == len(set(options))


def test_too_many_searches(visit):
    """The service says when to come again, and the page does, unless that is far away."""
    visit.refusals = True
    page = visit()
    settle(page)

    def refuse(wait):
        def handle(route):
            route.fulfill(status=429, headers={"Retry-After": wait}, json={"detail": "too many"})

        page.route("**/v1/search", handle, times=1)

    refuse("1")
    pick_vainly(page, upload(draw(COLOURS["pink"])), "Too many searches at once. Trying again in 1")
    expect(page.locator("#grid .score").first).to_be_visible()
    expect(page.get_by_role("alert")).to_be_empty()
    assert first_colour(page) == "pink"
    refuse("3600")
    pick_vainly(page, upload(draw(COLOURS["teal"])), "Too many searches at once. Try again in 3600")
    answer(page, page.get_by_role("button", name="Try again").click)
    assert first_colour(page) == "teal"


def test_a_key_is_asked_for(visit, open_shop, keep):
    visit.refusals = True
    page = visit(shop=open_shop(keys=("open sesame",)))
    dialog = page.get_by_role("dialog", name="API key")
    expect(dialog).to_be_visible()
    field = page.get_by_label("Key", exact=True)
    expect(field).to_be_focused()
    keep(page, "key")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Enter the key").click()
    field.fill("wrong")
    field.press("Enter")
    expect(dialog).to_contain_text("The service does not accept this key.")
    field.fill("open sesame")
    page.get_by_role("button", name="Continue").click()
    expect(dialog).to_be_hidden()
    pick(page, upload(draw(COLOURS["blue"])))
    assert first_colour(page) == "blue"
    # Pictures are not for everyone either.
    image = page.locator("#grid img").first
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 96
    page.reload()
    settle(page)
    expect(page.locator("#count")).to_have_text("41 products")
    expect(dialog).to_be_hidden()
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert "sesame" not in page.url


def test_what_the_catalogue_says_is_only_text(visit):
    page = visit()
    pick(page, upload(draw((160, 160, 160))))
    assert labels(page)[0] == EVIL
    expect(page.locator("#grid .place").first).to_have_text(f"{EVIL_CATEGORY} · shop")
    answer(page, page.locator("#grid .card").first.click, "/v1/neighbours/")
    expect(page.locator("#results-title")).to_have_text(f"Products like “{EVIL}”")
    expect(page.locator("#asked-name")).to_have_text(EVIL)
    assert page.title() == f"Products like “{EVIL}” · mildnet"
    answer(page, page.locator("#grid .card").first.click, "/v1/neighbours/")
    expect(page.locator("#trail li").nth(1)).to_have_text(EVIL)
    category = page.get_by_label("Category")
    answer(page, lambda: category.select_option(EVIL_CATEGORY), "/v1/neighbours/")
    assert labels(page) == [EVIL]
    page.reload()
    settle(page)
    expect(category).to_have_value(EVIL_CATEGORY)
    assert labels(page) == [EVIL]
    assert page.locator("script:not([src]), img[src='x']").count() == 0


def test_a_product_without_a_picture(visit, open_shop, folder):
    visit.refusals = True
    picture = folder / "pictures" / "red bags shop.png"
    aside = picture.rename(picture.with_suffix(".aside"))
    try:
        page = visit("?id=red+shoes+shop.png&category=bags", shop=open_shop())
        settle(page)
        card = page.locator("#grid .card", has_text="red bags")
        expect(card.locator(".missing")).to_have_text("No picture")
        answer(page, card.click, "/v1/neighbours/")
        expect(page.locator("#results-title")).to_have_text("Products like “red bags”")
        expect(page.locator("#picture")).to_be_hidden()
        answer(page, page.locator("#grid .card").first.click, "/v1/neighbours/")
        expect(page.locator("#picture")).to_be_visible()
        expect(page.locator("#trail li").nth(1)).to_have_text("red bags")
        expect(page.locator("#trail li").nth(1).locator("img")).to_have_count(0)
    finally:
        aside.rename(picture)


def test_a_link_to_no_product(visit):
    visit.refusals = True
    page = visit("?id=nowhere.png")
    expect(page.get_by_role("alert")).not_to_be_empty()
    settle(page)
    assert labels(page) == []
    page.get_by_role("link", name="mildnet").click()
    settle(page)
    assert len(labels(page)) == 12
    expect(page.get_by_role("alert")).to_be_empty()
