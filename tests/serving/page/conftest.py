"""A shop, a browser, and visits of which nothing may go wrong unseen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

from tests.serving.page.shop import Shop, build_shop
from trainer.serving.live import LiveCatalogue

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


# Closed as soon as other tests come: while Playwright runs, nothing else can use asyncio.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=path)
        except Error as error:
            why = f"no browser for the search page: {str(error).splitlines()[0]}"
            if os.environ.get("CI"):
                pytest.fail(why)
            pytest.skip(f"{why} (install chromium, or `playwright install chromium`)")
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shop")


@pytest.fixture(scope="package")
def catalogue(folder: Path) -> LiveCatalogue:
    return LiveCatalogue(build_shop(folder), writable=False)


@pytest.fixture(scope="package")
def usual_shop(catalogue: LiveCatalogue) -> Iterator[Shop]:
    shop = Shop(catalogue)
    yield shop
    shop.stop()


@pytest.fixture
def open_shop(catalogue: LiveCatalogue) -> Iterator[Callable[..., Shop]]:
    """Open a shop with options of its own."""
    shops: list[Shop] = []

    def open_one(**options: Any) -> Shop:
        shops.append(Shop(catalogue, **options))
        return shops[-1]

    yield open_one
    for shop in shops:
        shop.stop()


class Visits:
    """Opens pages, and watches them: errors, breaches of the policy, requests to elsewhere.

    Attributes:
        refusals: whether requests may fail: the browser itself writes such on the console.
    """

    def __init__(self, browser: Browser, shop: Shop) -> None:
        self._browser, self._shop = browser, shop
        self._contexts: list[Any] = []
        self._wrong: list[str] = []
        self.refusals = False

    def __call__(self, path: str = "", *, shop: Shop | None = None, **options: Any) -> Page:
        shop = shop or self._shop
        options = {"viewport": {"width": 1280, "height": 860}} | options
        context = self._browser.new_context(**options)
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self._wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self._wrong.append(f"dialog: {dialog.message}"))
        # From now on no window of the system opens for files.
        page.on("filechooser", lambda chooser: None)
        page.on("request", lambda request: self._asked(request.url, shop.url))
        page.goto(shop.url + path)
        return page

    def _said(self, message: Any) -> None:
        if message.type not in ("error", "warning"):
            return
        if not (self.refusals and message.text.startswith("Failed to load resource")):
            self._wrong.append(f"{message.type}: {message.text}")

    def _asked(self, url: str, home: str) -> None:
        if not url.startswith((home, f"blob:{home}")):
            self._wrong.append(f"request to elsewhere: {url}")

    def end(self) -> None:
        for context in self._contexts:
            context.close()
        assert self._wrong == []


@pytest.fixture
def visit(browser: Browser, usual_shop: Shop, open_shop: Any) -> Iterator[Visits]:
    # `open_shop` is only named for its shops to close after the pages that are still loading.
    visits = Visits(browser, usual_shop)
    yield visits
    visits.end()


@pytest.fixture
def keep() -> Callable[[Page, str], None]:
    """Keep a picture of a page in the folder that MILDNET_SCREENSHOTS names, if it does."""
    folder = os.environ.get("MILDNET_SCREENSHOTS")

    def shoot(page: Page, name: str) -> None:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=Path(folder) / f"search_page_{name}.png")

    return shoot
