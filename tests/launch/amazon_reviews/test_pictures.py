"""Addresses of pictures at full size and reduced."""

from __future__ import annotations

import pytest

from trainer.launch.amazon_reviews.pictures import (
    PRODUCT_FIELDS,
    USER_FIELDS,
    full_size,
    pictures_of,
    reduced,
)

I = "https://images-na.ssl-images-amazon.com/images/I/"  # noqa: E741 as Amazon names it


@pytest.mark.parametrize(
    ("url", "full", "small"),
    [
        # Of a review, of metadata, cropped, several tags, none, characters of Amazon's names.
        (f"{I}71aBcDeFgHL._SY88.jpg", f"{I}71aBcDeFgHL.jpg", f"{I}71aBcDeFgHL._SL256_.jpg"),
        (f"{I}31b._SX38_SY50_CR,0,0,38,50_.jpg", f"{I}31b.jpg", f"{I}31b._SL256_.jpg"),
        (f"{I}31b._AC_._SY88_.jpg", f"{I}31b.jpg", f"{I}31b._SL256_.jpg"),
        (f"{I}31b.._SY88_.png", f"{I}31b.png", f"{I}31b._SL256_.png"),
        (f"{I}71+b-C_d%2BeL.jpg", f"{I}71+b-C_d%2BeL.jpg", f"{I}71+b-C_d%2BeL._SL256_.jpg"),
        (f"{I}31b._US40_.JPEG?v=1._x#top", f"{I}31b.JPEG?v=1._x#top", None),
        # The host and the folders have dots, too; what is no tag stays.
        (
            "http://a._SY88.example/v._1/b._SY88.jpg",
            "http://a._SY88.example/v._1/b.jpg",
            "http://a._SY88.example/v._1/b._SL256_.jpg",
        ),
        (f"{I}front.left.jpg", f"{I}front.left.jpg", f"{I}front.left.jpg"),
        (f"{I}", f"{I}", f"{I}"),
        ("https://shop.example/picture", "https://shop.example/picture", None),
        ("https://shop.example", "https://shop.example", "https://shop.example"),
        ("http://[broken/a._SY88.jpg", "http://[broken/a._SY88.jpg", None),
        ("", "", ""),
    ],
)
def test_the_size_tag_is_taken_away_or_replaced(url: str, full: str, small: str | None) -> None:
    assert full_size(url) == full
    assert full_size(full) == full
    if small is not None:
        assert reduced(url, 256) == reduced(full, 256) == small
    # What was reduced is the same picture.
    assert full_size(reduced(url, 80)) == full


def test_pictures_of_a_record_come_once_whatever_their_sizes_are() -> None:
    record = {
        "imageURL": [f"{I}b._SX38_.jpg", f"{I}a._SX38_.jpg"],
        "imageURLHighRes": [f"{I}a.jpg", f" {I}c.jpg\n"],
        "image": f"{I}d._SY88.jpg",
    }
    assert pictures_of(record, PRODUCT_FIELDS) == [f"{I}{name}.jpg" for name in "abcd"]
    assert pictures_of(record, USER_FIELDS) == [f"{I}d.jpg"]


@pytest.mark.parametrize("value", [None, [], "", 7, {"url": "http://a/b.jpg"}, [None, 3, "b.jpg"]])
def test_what_is_no_address_is_passed_over(value: object) -> None:
    assert pictures_of({"image": value}, USER_FIELDS) == []
    assert pictures_of({}, USER_FIELDS) == []
