"""What a person does on the page, and what they then see."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Error, Page, Response, expect


def answer(page: Page, do: Callable[[], Any], path: str = "/v1/search") -> dict[str, Any]:
    """Do something that leads to a search, wait until its answer is shown, and return it."""
    with page.expect_response(lambda response: path in response.url) as waiting:
        do()
    content: dict[str, Any] = waiting.value.json()
    settle(page)
    return content


def settle(page: Page) -> None:
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")


def press(page: Page, *keys: str, box: list[int] | None) -> None:
    """Press keys, and wait until the answer for a crop box has come: some may come before."""
    seen: list[Response] = []

    def see(response: Response) -> None:
        seen.append(response)

    page.on("response", see)
    for key in keys:
        page.keyboard.press(key)
    last = None
    for _ in range(100):
        page.wait_for_timeout(50)
        # The answer before the last key may have been given up half way.
        with contextlib.suppress(Error):
            last = seen[-1].json()["query"]["box"] if seen else last
        if seen and last == box:
            break
    page.remove_listener("response", see)
    assert last == box
    settle(page)


def pick(page: Page, file: Any) -> dict[str, Any]:
    """Choose a file with the button, and return the answer."""

    def choose() -> None:
        with page.expect_file_chooser() as chooser:
            page.locator("#pick").click()
        chooser.value.set_files(file)

    return answer(page, choose)


def pick_vainly(page: Page, file: Any, said: str) -> None:
    """Choose a file that cannot be searched with, and see what is said."""
    page.locator("#file").set_input_files(file)
    expect(page.locator("#problem")).to_contain_text(said)


def transfer(page: Page, kind: str, file: dict[str, Any]) -> None:
    """Drop a file on the page, or paste it."""
    content = base64.b64encode(file["buffer"]).decode()
    page.evaluate(
        """([kind, content, name, type]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, { type }));
            const how = { bubbles: true, cancelable: true };
            if (kind === "paste") {
                document.body.dispatchEvent(
                    new ClipboardEvent("paste", { ...how, clipboardData: data }));
                return;
            }
            for (const step of ["dragenter", "dragover", "drop"]) {
                document.body.dispatchEvent(new DragEvent(step, { ...how, dataTransfer: data }));
            }
        }""",
        [kind, content, file["name"], file["mimeType"]],
    )


def labels(page: Page) -> list[str]:
    return page.locator("#grid .label").all_inner_texts()


def first_colour(page: Page) -> str:
    """Return the colour of the nearest product: its shape does not count for much."""
    return labels(page)[0].split()[0]


def to_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """Return where a pixel of the picture is on the screen."""
    stage = page.locator("#stage").bounding_box()
    assert stage is not None
    width, height = page.evaluate(
        "[document.getElementById('picture').naturalWidth,"
        " document.getElementById('picture').naturalHeight]"
    )
    return stage["x"] + x / width * stage["width"], stage["y"] + y / height * stage["height"]


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag with the mouse from one pixel of the picture to another."""
    page.mouse.move(*to_screen(page, *start))
    page.mouse.down()
    page.mouse.move(*to_screen(page, *end), steps=3)
    page.mouse.up()


def near(box: list[int] | None, *numbers: int) -> bool:
    """Whether a box is what was drawn, but for the rounding of the screen's pixels."""
    assert box is not None
    return all(abs(one - other) <= 1 for one, other in zip(box, numbers, strict=True))
