"""A product: silhouette, colours, pattern and print, all drawn from its number and a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from trainer.data.generated.silhouettes import CATEGORIES, Silhouette

#: Products that share category and colours, so that shape, pattern and print must tell them apart.
SIBLINGS = 4

#: Main, second and accent colour.
PALETTES = np.array(
    [
        [(38, 62, 118), (222, 226, 233), (196, 58, 52)],
        [(178, 44, 54), (244, 232, 214), (40, 44, 58)],
        [(58, 110, 84), (226, 208, 160), (150, 78, 44)],
        [(236, 184, 66), (62, 66, 82), (238, 238, 232)],
        [(48, 48, 54), (198, 198, 202), (226, 136, 52)],
        [(232, 152, 160), (112, 54, 86), (246, 236, 226)],
        [(92, 156, 190), (246, 244, 238), (28, 58, 92)],
        [(150, 108, 78), (240, 220, 192), (70, 92, 74)],
        [(226, 222, 212), (96, 116, 146), (188, 92, 74)],
        [(112, 84, 148), (230, 214, 240), (238, 196, 88)],
    ],
    np.float32,
)
DARK = (34, 32, 34)


@dataclass(frozen=True)
class Product:
    """What makes one class: `picture` is RGBA, the product alone, upright, in a square."""

    category: str
    palette: int
    picture: Image.Image


def product(number: int, seed: int, side: int) -> Product:
    """Draw product `number` of the catalogue with this seed.

    Args:
        number: 0 or more.
        seed: 0 or more; another seed gives other products.
        side: side of the picture in pixels.
    """
    family = np.random.default_rng([seed, 1, number // SIBLINGS])
    # Every category comes up once before any comes up twice.
    names = list(CATEGORIES)
    turn, place = divmod(number // SIBLINGS, len(names))
    order = np.random.default_rng([seed, 2, turn]).permutation(len(names))
    category = names[order[place]]
    palette = int(family.integers(len(PALETTES)))

    rng = np.random.default_rng([seed, 3, number])
    silhouette = CATEGORIES[category](rng)
    colours = PALETTES[palette]
    cloth = pattern(rng, colours, side)
    cloth = _with_print(cloth, rng, silhouette.logo, colours)
    return Product(category, palette, _assembled(silhouette, cloth, colours, rng))


def pattern(rng: np.random.Generator, colours: np.ndarray, side: int) -> Image.Image:
    """Draw a square of cloth: plain, stripes, dots, checks, zigzag, blocks or waves.

    Args:
        rng: decides everything.
        colours: (3, 3) main, second and accent colour, 0..255.
        side: pixels.
    """
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(axis, axis)
    angle = np.radians(rng.choice([0, 90, 45, -45, 0, 90]) + rng.uniform(-6, 6))
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    often, share, shift = rng.uniform(5, 15), rng.uniform(0.25, 0.65), rng.uniform()

    def wave(position: np.ndarray, frequency: float) -> np.ndarray:
        """A triangle wave in 0..1."""
        return np.abs((position * frequency + shift) % 1 - 0.5) * 2

    def sharp(value: np.ndarray, limit: float, slope: float) -> np.ndarray:
        """1 where `value` is below `limit`, else 0; the step is about a pixel wide."""
        return np.clip((limit - value) * side / (2 * slope) + 0.5, 0, 1)

    kind = rng.integers(8)
    second = np.zeros_like(x)
    accent = np.zeros_like(x)
    if kind == 1:
        second = sharp(wave(along, often), share, often)
    elif kind == 2:
        second = sharp(wave(along, often * 0.6), 0.55, often * 0.6)
        accent = sharp(wave(along + 0.3 / often, often * 0.6), share * 0.4, often * 0.6)
    elif kind == 3:
        radius = np.hypot((along * often + shift) % 1 - 0.5, (across * often) % 1 - 0.5)
        second = sharp(radius, share * 0.5, often / 2)
    elif kind == 4:
        one, other = (
            sharp(wave(along, often), share, often),
            sharp(wave(across, often), share, often),
        )
        second = (one + other) / 2
    elif kind == 5:
        zigzag = along + 0.4 * np.abs((across * often * 0.5) % 1 - 0.5) / often * 4
        second = sharp(wave(zigzag, often), share, often * 1.6)
    elif kind == 6:
        limits = np.sort(rng.uniform(0.25, 0.8, 2))
        second = sharp(limits[0] - y, 0.0, 0.5)
        accent = sharp(limits[1] - y, 0.0, 0.5)
    elif kind == 7:
        bend = along + 0.25 / often * np.sin(2 * np.pi * across * often * 0.7)
        second = sharp(wave(bend, often), share, often * 1.4)
    cloth = colours[0] + second[..., None] * (colours[1] - colours[0])
    cloth = cloth + accent[..., None] * (colours[2] - cloth)
    return Image.fromarray(cloth.astype(np.uint8))


def _with_print(
    cloth: Image.Image,
    rng: np.random.Generator,
    place: tuple[float, float, float],
    colours: np.ndarray,
) -> Image.Image:
    """Put a plain figure on the cloth, for two products in three."""
    side = cloth.width
    kind = rng.integers(9)
    x, y = place[:2] + rng.uniform(-0.02, 0.02, 2)
    radius = place[2] * rng.uniform(0.55, 1.0)
    turn = rng.uniform(0, 2 * np.pi)
    colour, ground = (2, 1) if rng.random() < 0.6 else (1, 2)
    if kind >= 6:
        return cloth

    mask = Image.new("L", (2 * side, 2 * side))
    draw = ImageDraw.Draw(mask)

    def figure(corners: int, size: float, inner: float = 1.0, fill: int = 255) -> None:
        angle = turn + np.arange(corners) * 2 * np.pi / corners
        reach = np.where(np.arange(corners) % 2, inner, 1.0) * size
        points = np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], axis=1)
        draw.polygon([tuple(p) for p in (points * 2 * side).tolist()], fill=fill)

    badge = rng.random() < 0.5
    if badge:
        figure(48, radius * 1.25)
        cloth = cloth.copy()
        cloth.paste(_rgb(colours[ground]), mask=mask.reduce(2))
        mask.paste(0, (0, 0, *mask.size))
    if kind == 0:
        figure(48, radius)
        figure(48, radius * rng.uniform(0.4, 0.75), fill=0)
    elif kind == 1:
        figure(2 * int(rng.integers(4, 8)), radius, inner=rng.uniform(0.35, 0.6))
    elif kind == 2:
        figure(int(rng.integers(3, 6)), radius)
    elif kind == 3:
        figure(8, radius, inner=0.25)
    elif kind == 4:
        bars = int(rng.integers(2, 5))
        for bar in np.linspace(-0.7, 0.7, bars):
            low = (y + bar * radius - radius * 0.45 / bars) * 2 * side
            high = (y + bar * radius + radius * 0.45 / bars) * 2 * side
            half = radius * np.sqrt(1 - bar**2)
            draw.rectangle(((x - half) * 2 * side, low, (x + half) * 2 * side, high), fill=255)
    else:
        figure(48, radius)
        x, y = x + radius * 0.45 * np.cos(turn), y + radius * 0.45 * np.sin(turn)
        figure(48, radius * 0.8, fill=0)
    cloth = cloth.copy()
    cloth.paste(_rgb(colours[colour]), mask=mask.reduce(2))
    return cloth


def _assembled(
    silhouette: Silhouette, cloth: Image.Image, colours: np.ndarray, rng: np.random.Generator
) -> Image.Image:
    """Cut the parts out, lay them over each other, and shade them."""
    side = cloth.width
    paints: dict[str, Image.Image | tuple[int, int, int]] = {
        "pattern": cloth,
        "main": _rgb(colours[0]),
        "second": _rgb(colours[1]),
        "accent": _rgb(colours[2]),
        "dark": DARK,
    }
    # The cloth goes on under the whole square, so that edges never mix with black.
    surface = cloth.copy()
    whole = Image.new("L", cloth.size)
    seams = Image.new("L", cloth.size)
    for part in silhouette.parts:
        large = Image.new("L", (2 * side, 2 * side))
        corners = [tuple(point) for point in (part.outline * 2 * side).tolist()]
        ImageDraw.Draw(large).polygon(corners, fill=255)
        mask = large.reduce(2)
        surface.paste(paints[part.paint], (0, 0, side, side), mask)
        whole.paste(255, mask=mask)
        edge = np.asarray(mask, np.int16) - np.asarray(
            mask.filter(ImageFilter.BoxBlur(side / 80)), np.int16
        )
        seams.paste(0, mask=mask)
        seams = Image.fromarray(
            np.maximum(np.asarray(seams), np.clip(edge, 0, 255)).astype(np.uint8)
        )

    solid = np.asarray(whole, np.float32) / 255
    light = 1 - 0.45 * np.asarray(seams, np.float32) / 255
    soft = np.asarray(whole.filter(ImageFilter.BoxBlur(side / 10)), np.float32) / 255
    light *= 0.78 + 0.22 * np.clip(2 * soft - 0.8, 0, 1)
    # A round body is brightest left of its middle; row by row, as its width changes.
    axis = np.arange(side, dtype=np.float32)
    weight = np.maximum(solid.sum(axis=1, keepdims=True), 1)
    middle = (solid * axis).sum(axis=1, keepdims=True) / weight
    turned = np.clip((axis - middle + 0.12 * weight) / (0.62 * weight), -1, 1)
    light *= 1 - silhouette.roundness * (1 - np.sqrt(1 - 0.8 * turned**2)) * 0.75
    folds = (1 - silhouette.roundness) * rng.uniform(0.02, 0.06)
    x, y = np.meshgrid(axis / side, axis / side)
    one, other, phase = rng.uniform(4, 9), rng.uniform(-4, 4), rng.uniform(0, 6)
    light *= 1 + folds * np.sin(2 * np.pi * (one * x + other * y**2) + phase)

    shaded = np.clip(np.asarray(surface, np.float32) * light[..., None], 0, 255)
    picture = Image.fromarray(shaded.astype(np.uint8))
    picture.putalpha(whole)
    return picture


def _rgb(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in colour)
    return red, green, blue
