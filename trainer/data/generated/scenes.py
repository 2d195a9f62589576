"""One photograph of a product: in a shop's studio, or somewhere on the street."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


@dataclass(frozen=True)
class Photo:
    """A JPEG file, and the box of the product in it: left, top, width, height in pixels."""

    jpeg: bytes
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Manner:
    """How far a domain's photographs may stray; each value is the end of a range.

    Args:
        turn: degrees to either side.
        scale: smallest and largest side of the product, in sides of the picture.
        shift: way of its middle from that of the picture, in sides of the picture.
        tilt: way of each corner under perspective, in sides of the product.
        exposure: darkest and brightest factor.
        cast: change of each colour channel, as a factor to either side of 1.
        gradient: difference of light across the picture, as a factor.
        blur: radius, in 128ths of the side of the picture.
        noise: standard deviation, of 255.
        hidden: chance that something stands before the product.
        quality: lowest and highest JPEG quality.
    """

    turn: float
    scale: tuple[float, float]
    shift: float
    tilt: float
    exposure: tuple[float, float]
    cast: float
    gradient: float
    blur: float
    noise: float
    hidden: float
    quality: tuple[int, int]


MANNERS = {
    "shop": Manner(14, (0.62, 0.95), 0.05, 0.07, (0.88, 1.08), 0.03, 0.1, 0.4, 3, 0.0, (80, 95)),
    "street": Manner(25, (0.6, 0.92), 0.08, 0.11, (0.7, 1.2), 0.1, 0.4, 0.8, 7, 0.4, (50, 90)),
}


def photograph(picture: Image.Image, domain: str, rng: np.random.Generator, side: int) -> Photo:
    """Take one photograph.

    Args:
        picture: RGBA, the product alone in a square, as :func:`products.product` draws it.
        domain: a key of MANNERS.
        rng: decides everything.
        side: side of the photograph in pixels.
    """
    manner = MANNERS[domain]
    scene = _street(rng, side) if domain == "street" else _studio(rng, side)
    placed = _placed(picture, manner, rng, side)
    alpha = placed.getchannel("A")
    if domain == "shop" or rng.random() < 0.5:
        _cast_shadow(scene, alpha, rng)
    scene.paste(placed, mask=alpha)
    left, top, right, bottom = alpha.point(lambda value: 255 * (value > 127)).getbbox() or (
        0, 0, side, side
    )  # fmt: skip
    if rng.random() < manner.hidden:
        _hide_a_corner(scene, (left, top, right, bottom), rng)
    radius = manner.blur * rng.uniform() ** 2 * side / 128
    if radius > 0.2:
        scene = scene.filter(ImageFilter.BoxBlur(1.5 * radius))
    stream = io.BytesIO()
    low, high = manner.quality
    _lit(scene, manner, rng).save(stream, "JPEG", quality=int(rng.integers(low, high + 1)))
    return Photo(stream.getvalue(), (left, top, right - left, bottom - top))


def _placed(
    picture: Image.Image, manner: Manner, rng: np.random.Generator, side: int
) -> Image.Image:
    """Turn, scale, shift, tilt and perhaps flip the product into an empty frame."""
    scale = rng.uniform(*manner.scale)
    angle = np.radians(rng.uniform(-manner.turn, manner.turn))
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    to = corners + rng.uniform(-manner.tilt, manner.tilt, (4, 2))
    to = to @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    to = (to * scale + 0.5 + rng.uniform(-manner.shift, manner.shift, 2)) * side
    if rng.random() < 0.3:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Pillow samples single points: shrink first, else stripes turn into moire.
    shrink = max(1, int(picture.width / (scale * side)))
    if shrink > 1:
        picture = picture.reduce(shrink)
    source = (corners + 0.5) * picture.width
    return picture.transform(
        (side, side),
        Image.Transform.PERSPECTIVE,
        _perspective(to, source),
        Image.Resampling.BILINEAR,
    )


def _perspective(output: np.ndarray, source: np.ndarray) -> list[float]:
    """Return Pillow's eight coefficients for the map of four output corners to source corners."""
    system = np.zeros((8, 8))
    for row, ((x, y), (u, v)) in enumerate(zip(output, source, strict=True)):
        system[2 * row] = [x, y, 1, 0, 0, 0, -u * x, -u * y]
        system[2 * row + 1] = [0, 0, 0, x, y, 1, -v * x, -v * y]
    return np.linalg.solve(system, source.reshape(8)).tolist()


def _lit(scene: Image.Image, manner: Manner, rng: np.random.Generator) -> Image.Image:
    """Change exposure, colour of the light and its fall-off, and add the sensor's noise."""
    side = scene.width
    gain = rng.uniform(*manner.exposure) * rng.uniform(1 - manner.cast, 1 + manner.cast, 3)
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, manner.gradient)
    axis = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    fall = 1 + depth * (
        axis * np.float32(np.cos(angle)) + axis[:, None] * np.float32(np.sin(angle))
    )
    values = np.asarray(scene, np.float32) * fall[..., None] * gain.astype(np.float32)
    spread = np.float32(manner.noise * rng.uniform())
    values += spread * rng.standard_normal((side, side, 1), np.float32)
    np.clip(values, 0, 255, out=values)
    return Image.fromarray(values.astype(np.uint8))


def _studio(rng: np.random.Generator, side: int) -> Image.Image:
    """White or light grey paper, sometimes darker towards one end."""
    level = rng.uniform(236, 255)
    tint = rng.uniform(-4, 4, 3)
    fall = np.linspace(0, rng.choice([0, 0, 14]), 16)[:, None, None]
    paper = np.clip(level + tint - fall, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(paper, 16, axis=1)).resize((side, side))


def _street(rng: np.random.Generator, side: int) -> Image.Image:
    """A wall, floor or blurred view, with things standing about."""
    kind = rng.integers(4)
    base = _tone(rng, 40)
    if kind == 0:
        cells = int(rng.integers(3, 9))
        values = (
            base + rng.uniform(-45, 45, (cells, cells, 1)) + rng.uniform(-25, 25, (cells, cells, 3))
        )
    elif kind == 1:
        # Planks: bands of nearly one colour, with grain along them.
        count = int(rng.integers(4, 9))
        tone = np.repeat(rng.uniform(-28, 28, count), 8)
        values = base + tone[:, None, None] + rng.uniform(-9, 9, (count * 8, 6, 1))
        values[::8] -= 40
        if rng.random() < 0.5:
            values = values.transpose(1, 0, 2)
    elif kind == 2:
        # Tiles, every other row moved by half a tile as in a wall of bricks.
        rows = int(rng.integers(4, 9))
        tone = rng.uniform(-25, 25, (rows, 2 * rows))
        values = np.kron(tone, np.ones((8, 4)))[..., None] + base
        values[::8] += 30
        for row in range(rows):
            values[8 * row : 8 * row + 8, 4 * (row % 2) :: 8] += 30
    else:
        top, bottom = base, _tone(rng, 40)
        mix = np.linspace(0, 1, 24)[:, None, None] ** rng.uniform(0.5, 2)
        values = top * (1 - mix) + bottom * mix + rng.uniform(-12, 12, (24, 24, 1))
    small = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    how = Image.Resampling.BICUBIC if kind in (0, 3) else Image.Resampling.BILINEAR
    scene = small.resize((side, side), how)

    draw = ImageDraw.Draw(scene)
    for _ in range(int(rng.integers(0, 6))):
        x, y = rng.uniform(-0.1, 1.1, 2) * side
        w, h = rng.uniform(0.06, 0.3, 2) * side
        colour = _whole(_tone(rng, 70))
        shape = rng.integers(3)
        if shape == 0:
            draw.ellipse((x - w, y - h, x + w, y + h), fill=colour)
        elif shape == 1:
            points = rng.uniform(-1, 1, (4, 2)) * [w, h] + [x, y]
            draw.polygon([tuple(point) for point in points.tolist()], fill=colour)
        else:
            draw.line((x, y, *(rng.uniform(0, 1, 2) * side)), fill=colour, width=side // 24)
    return scene.filter(ImageFilter.BoxBlur(rng.uniform(0, 2.5) * side / 128))


def _cast_shadow(scene: Image.Image, alpha: Image.Image, rng: np.random.Generator) -> None:
    side = scene.width
    shadow = alpha.reduce(4).filter(ImageFilter.GaussianBlur(side / 128 * rng.uniform(0.5, 1.6)))
    strength = rng.uniform(0.15, 0.45)
    shadow = shadow.point(lambda value: int(value * strength)).resize((side, side))
    moved = rng.uniform([-0.03, 0.0], [0.03, 0.04]) * side
    scene.paste((25, 25, 30), (int(moved[0]), int(moved[1])), shadow)


def _hide_a_corner(
    scene: Image.Image, box: tuple[int, int, int, int], rng: np.random.Generator
) -> None:
    """Put something over one side of the product, up to a quarter of its width."""
    left, top, right, bottom = box
    w, h = right - left, bottom - top
    reach = rng.uniform(0.05, 0.25)
    colour = _whole(_tone(rng, 60))
    edge = rng.integers(4)
    x = [left + reach * w, right - reach * w, rng.uniform(left, right), rng.uniform(left, right)]
    y = [rng.uniform(top, bottom), rng.uniform(top, bottom), top + reach * h, bottom - reach * h]
    out = [(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)][edge]
    size = rng.uniform(0.2, 0.5) * max(w, h)
    middle = (x[edge] + out[0] * size, y[edge] + out[1] * size)
    ends = (middle[0] - size, middle[1] - size, middle[0] + size, middle[1] + size)
    draw = ImageDraw.Draw(scene)
    if rng.random() < 0.5:
        draw.ellipse(ends, fill=colour)
    else:
        draw.rounded_rectangle(ends, radius=size * 0.3, fill=colour)


def _tone(rng: np.random.Generator, strength: float) -> np.ndarray:
    """A grey from dark to light, its channels moved by up to `strength`: walls are not neon."""
    return rng.uniform(60, 205) + rng.uniform(-strength, strength, 3)


def _whole(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in np.clip(colour, 0, 255))
    return red, green, blue
