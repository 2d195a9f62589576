"""What the API answers with."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from trainer.serving.changes import Item
    from trainer.serving.live import Neighbour as Hit


class Product(BaseModel):
    """An item of the catalogue."""

    id: str = Field(description="Its name in this catalogue; slashes may be in it.")
    label: str = Field(description="What the catalogue calls the product.")
    category: str = Field(description="Empty where the catalogue names none.")
    domain: str = Field(description="Where its picture is from; empty where none is named.")
    box: list[float] | None = Field(
        description="Part of the picture that shows it: x, y, width, height in pixels; null: all."
    )
    picture: str = Field(description="Path of its picture on this service.")


class Neighbour(BaseModel):
    """A product that was found."""

    rank: int = Field(ge=1, description="Place in the answer, from 1.")
    score: float = Field(description="Likeness: the higher the more alike; 1 is the same.")
    id: str
    label: str
    category: str
    domain: str
    picture: str = Field(description="Path of its picture on this service.")


class QueryPicture(BaseModel):
    """The picture that was searched with, turned upright."""

    width: int = Field(ge=1, description="Pixels.")
    height: int = Field(ge=1, description="Pixels.")
    box: list[int] | None = Field(
        description="Part that was looked at: x, y, width, height in pixels; null: all of it."
    )


class FoundLike(BaseModel):
    """The nearest products, the nearest first."""

    neighbours: list[Neighbour]
    seconds: float = Field(ge=0, description="Time it took on the service.")


class Found(FoundLike):
    """The nearest products of a picture, the nearest first."""

    query: QueryPicture


class Products(BaseModel):
    """Some products, in the order of the catalogue."""

    products: list[Product]
    offset: int = Field(ge=0, description="Number of the first, from 0.")
    more: bool = Field(description="Whether there are others behind the last.")


class Limits(BaseModel):
    """What this service takes."""

    k: int = Field(description="Neighbours where none are asked for.")
    most_k: int = Field(description="Most neighbours.")
    bytes: int = Field(description="Largest picture file.")
    pixels: int = Field(description="Most pixels of a picture.")
    formats: list[str] = Field(description="Kinds of pictures.")
    thumbnail: int = Field(description="Longest side of a product's picture.")


class Catalogue(BaseModel):
    """What can be searched, and how."""

    count: int = Field(ge=0, description="Products.")
    categories: list[str] = Field(description="All there are, sorted.")
    domains: list[str] = Field(description="All there are, sorted.")
    limits: Limits
    writable: bool = Field(description="Whether products may be added and removed.")
    url_search: bool = Field(description="Whether one may search by URL.")
    api_key_needed: bool


class State(BaseModel):
    """How the service is."""

    status: str


def product(item: Item) -> Product:
    """Return an item of the catalogue as clients see it."""
    box = None if item.box is None else [float(value) for value in item.box]
    return Product(
        id=item.id,
        label=item.label,
        category=item.category,
        domain=item.domain,
        box=box,
        picture=picture_path(item.id),
    )


def neighbour(hit: Hit) -> Neighbour:
    """Return something found as clients see it."""
    item = hit.item
    return Neighbour(
        rank=hit.rank,
        score=float(hit.score),
        id=item.id,
        label=item.label,
        category=item.category,
        domain=item.domain,
        picture=picture_path(item.id),
    )


def picture_path(name: str) -> str:
    """Return the path of the picture of a product."""
    return f"/v1/pictures/{quote(name, safe='/')}"
